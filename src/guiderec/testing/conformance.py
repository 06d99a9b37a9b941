"""What every model must do, as one class of tests.

Subclass it under pytest and say how to make the model; nothing else is needed:

    from guiderec.testing.conformance import ModelConformance

    class TestMine(ModelConformance):
        def make_model(self) -> Recommender:
            return Mine(MineConfig(dim=16), self.n_items)

The attributes are claims about the model, and every claim is tested in both directions: a model that says that its
scores are without noise must give the same scores under another seed, one that says the opposite must not.
This module imports no test framework: the methods are plain assertions.
"""

from __future__ import annotations

import dataclasses
import json
import unittest
from typing import ClassVar

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from guiderec.data.batch import Batch, Query
from guiderec.evaluation.ranking import top_k
from guiderec.models.base import EmbeddingRecommender, Recommender, Routed, ranks_by_vectors
from guiderec.rng import Noise, seed_everything
from guiderec.testing.oracles import (
    Row,
    batch_of,
    chance_recall,
    planted_rows,
    recall_by_loop,
    ruleless_rows,
    sequences_of,
)


class ModelConformance:
    """Tests of the contract in `guiderec.models.base`, on a catalogue of `n_items` items."""

    n_items: ClassVar[int] = 30
    """I. Models are made for this number of items."""
    longest: ClassVar[int] = 6
    """Longest history of the planted data."""
    steps: ClassVar[int] = 150
    """Optimizer steps that are enough to find the planted rule."""
    learning_rate: ClassVar[float] = 3e-3
    """AdamW's step size in those steps."""
    batch_size: ClassVar[int] = 64
    """Rows per step."""
    planted_recall: ClassVar[float] = 0.9
    """Least recall@`planted_at` on held-out rows of the planted rule, where chance is `planted_at` / 30."""
    planted_at: ClassVar[int] = 1
    """More than 1 for a model that cannot hold a rule about what comes before what, as one whose scores are e_i . e_j:
    an item's predecessor scores like its successor."""
    personal: ClassVar[bool] = True
    """False: everybody gets the same list, so that no rule about histories can be learnt."""
    noise_in_loss: ClassVar[bool] = False
    """True: the loss draws from `Noise`."""
    noise_in_scores: ClassVar[bool] = False
    """True: the scores draw from `Noise`."""
    without_gradient: ClassVar[frozenset[str]] = frozenset()
    """Names of the parameters that the loss does not reach."""

    def make_model(self) -> Recommender:
        """A new, untrained model for `n_items` items."""
        raise NotImplementedError(f"{type(self).__name__} must say how to make its model.")

    # ------------------------------------------------------------------------------------------------ the wishes

    def test_strength_zero_is_the_unsteered_answer(self) -> None:
        """Whatever is liked and disliked."""
        model, query = self._briefly_trained(), self._query()
        plain = dataclasses.replace(query, guidance_scale=0.0)
        _assert_equal(_scores(model, self._wishing(plain)), _scores(model, plain))

    def test_wishes_change_what_they_are_said_to_change(self) -> None:
        """`steers` and `steers_by_likes` in both directions, at strength 1."""
        model, query = self._briefly_trained(), self._query()
        query = dataclasses.replace(query, guidance_scale=1.0 if model.steers or model.steers_by_likes else None)
        plain, wishing = _scores(model, query), self._wishing(query)
        for name, heard in (("likes", model.steers_by_likes), ("dislikes", model.steers)):
            changed = _scores(model, dataclasses.replace(query, **{name: getattr(wishing, name)}))
            assert torch.equal(changed, plain) is not heard, f"steers says {heard} of {name}, the scores do not"

    def test_parts_sum_to_the_answer(self) -> None:
        """`explains` in both directions; padding among the wishes gives nothing."""
        model = self._briefly_trained().double()
        wishing = self._wishing(dataclasses.replace(self._query(), guidance_scale=0.7 if model.steers else None))
        if not isinstance(model, EmbeddingRecommender):
            assert not model.explains
            return
        with torch.inference_mode():
            if not model.explains:
                return  # nothing is said about a sum
            parts = model.parts(wishing, Noise(0))
            total = torch.cat(parts, dim=1).sum(dim=1)
            _assert_close(total, model.user_vectors(wishing, Noise(0))[:, 0])
            assert wishing.dislikes is not None
            assert not parts.dislikes[wishing.dislikes == 0].any()

    def _wishing(self, query: Query) -> Query:
        """The query with likes and dislikes in every row but the first, which has padding alone."""
        rows = torch.arange(len(query))[:, None]
        likes = 1 + (3 * rows + torch.tensor([[0, 5]])) % self.n_items
        dislikes = 1 + (3 * rows + torch.tensor([[1, 2, 7]])) % self.n_items
        dislikes[1::2, 2] = 0
        likes[0], dislikes[0] = 0, 0
        return dataclasses.replace(query, likes=likes, dislikes=dislikes)

    # ------------------------------------------------------------------------------------------------ the answer

    def test_scores_have_one_column_per_item(self) -> None:
        """(B, I + 1), floating, finite, and the same again: asking leaves no trace."""
        model, query = self._briefly_trained(), self._query()
        scores = _scores(model, query)
        assert scores.shape == (len(query), self.n_items + 1)
        assert scores.is_floating_point()
        assert scores[:, 1:].isfinite().all()
        _assert_equal(scores, _scores(model, query))

    def test_row_alone_is_row_in_batch(self) -> None:
        """An answer does not depend on who else is in the batch, nor on the order of rows."""
        model, query = self._briefly_trained().double(), self._query()
        together = _scores(model, query)
        alone = torch.cat([_scores(model, query.rows(slice(row, row + 1))) for row in range(len(query))])
        backwards = torch.arange(len(query)).flip(0)
        _assert_close(alone, together)
        _assert_close(_scores(model, query.rows(backwards)), together[backwards])

    def test_more_padding_changes_nothing(self) -> None:
        """Neither the scores nor, without dropout, the loss."""
        model, rows = self._briefly_trained().double(), self._rows()
        for width in (self.longest + 1, 3 * self.longest):
            narrow, wide = batch_of(rows), batch_of(rows, width=width)
            _assert_close(_scores(model, wide), _scores(model, narrow))
            if model.trains:
                _assert_close(_loss(model, wide), _loss(model, narrow))

    def test_empty_history_has_an_answer(self) -> None:
        """Finite scores, the same in any company; a finite loss and finite gradients."""
        model = self._briefly_trained().double()
        some = self._rows()
        none: list[Row] = [([], target) for _, target in some]
        empty = batch_of(none)
        scores = _scores(model, empty)
        assert scores[:, 1:].isfinite().all()
        mixed = batch_of(some + none)
        _assert_close(_scores(model, dataclasses.replace(mixed, key=empty.key.repeat(2)))[len(some) :], scores)
        if model.trains:
            for batch in (empty, mixed):
                model.zero_grad()
                loss = model.train().loss(batch, Noise(0))["loss"]
                assert loss.isfinite()
                loss.backward()  # type: ignore[no-untyped-call]
                gradients = [p.grad for p in model.parameters() if p.grad is not None]
                assert gradients
                assert all(gradient.isfinite().all() for gradient in gradients)

    def test_long_history_has_an_answer(self) -> None:
        """A history longer than the model reads is no error at request time."""
        model = self._briefly_trained()
        long = batch_of([([1 + (7 * step) % self.n_items for step in range(300)], 1)])
        assert _scores(model, long)[:, 1:].isfinite().all()

    def test_padding_is_never_recommended(self) -> None:
        """A list as long as the catalogue holds every item once; a longer one is filled up with score -inf."""
        model, query = self._briefly_trained(), self._query()
        scores, items = top_k(model, query, self.n_items + 3, Noise(0))
        _assert_equal(
            items[:, : self.n_items].sort(dim=1).values, torch.arange(1, self.n_items + 1).expand(len(query), -1)
        )
        assert (scores[:, self.n_items :] == -torch.inf).all()

    def test_says_how_many_interests_it_has(self) -> None:
        """`n_interests` user vectors for each row, where it ranks by vectors; one column of routing for each interest.

        Routing is at least 0, and 0 at padding.
        """
        model, query = self._briefly_trained(), self._query()
        with torch.no_grad():
            if ranks_by_vectors(model):
                assert model.user_vectors(query, Noise(0)).shape[:2] == (len(query), model.n_interests)
            if isinstance(model, Routed):
                weights = model.routing(query)
                assert weights.shape[:2] == query.history.shape
                assert (weights >= 0).all()
                assert not weights[~query.mask].any()
                assert (weights.sum(dim=(1, 2))[query.length > 0] > 0).all()

    # ------------------------------------------------------------------------------------------------ seeds and weights

    def test_same_seed_same_result(self) -> None:
        """Bit for bit: weights, loss and scores after the same steps."""
        first, second = self._briefly_trained(seed=3), self._briefly_trained(seed=3)
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, second.state_dict()[name]), name
        _assert_equal(_scores(first, self._query()), _scores(second, self._query()))
        if first.trains:
            _assert_equal(_loss(first, self._batch()), _loss(second, self._batch()))

    def test_other_seed_other_result(self) -> None:
        """Another seed gives other weights; another noise moves what is said to be noisy, and nothing else."""
        model, query, batch = self._briefly_trained(seed=3), self._query(), self._batch()
        moved = not torch.equal(_scores(model, query), _scores(model, query, Noise(1)))
        assert moved == self.noise_in_scores
        if model.trains:
            moved = not torch.equal(_loss(model, batch), _loss(model, batch, Noise(1)))
            assert moved == self.noise_in_loss
            other_step = not torch.equal(_loss(model, batch), _loss(model, batch, Noise(0).at(1)))
            assert other_step == self.noise_in_loss
            assert not torch.equal(_scores(model, query), _scores(self._briefly_trained(seed=4), query))

    def test_weights_survive_storage(self) -> None:
        """The state through safetensors into a fresh model gives the same scores, bit for bit."""
        model = self._briefly_trained(seed=3)
        stored = save_tensors({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
        seed_everything(99)
        fresh = self.make_model()
        fresh.load_state_dict(load_tensors(stored))
        _assert_equal(_scores(fresh, self._query()), _scores(model, self._query()))

    def test_config_survives_storage(self) -> None:
        """The config through JSON is an equal config, and makes a model of the same class and shapes."""
        model = self.make_model()
        config = type(model).Config.from_plain(json.loads(json.dumps(model.config.to_plain())))
        assert config == model.config
        again = type(model)(config, self.n_items)
        assert _shapes(again) == _shapes(model)

    def test_double_precision(self) -> None:
        """In float64 the scores are float64 and those of float32 to its rounding."""
        model, query = self._briefly_trained(), self._query()
        single = _scores(model, query)[:, 1:].double()
        double = _scores(model.double(), query)[:, 1:]
        assert double.dtype == torch.float64
        torch.testing.assert_close(double, single, rtol=1e-3, atol=1e-3 * float(single.abs().max()))

    def test_mixed_precision(self) -> None:
        """Under bfloat16 autocast the loss is finite, and near the loss in float32."""
        model, batch = self._briefly_trained(), self._batch()
        if not model.trains:
            return
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = _loss(model, batch)
        torch.testing.assert_close(mixed.float(), _loss(model, batch), rtol=0.1, atol=0.1)

    def test_cuda(self) -> None:
        """On a GPU, all tensors follow the model, and the scores are those of the CPU."""
        if not torch.cuda.is_available():
            raise unittest.SkipTest("no CUDA device here")
        model, query, batch = self._briefly_trained().double(), self._query(), self._batch()
        scores = _scores(model, query)
        loss = _loss(model, batch) if model.trains else torch.zeros(())
        model.cuda()
        torch.testing.assert_close(_scores(model, query.to("cuda")).cpu(), scores, rtol=1e-5, atol=1e-5)
        if model.trains:
            torch.testing.assert_close(_loss(model, batch.to("cuda")).cpu(), loss, rtol=1e-5, atol=1e-5)

    # ------------------------------------------------------------------------------------------------ learning

    def test_loss_falls_and_reaches_every_parameter(self) -> None:
        """A few steps on one batch lower its loss; exactly the parameters said to be out of reach get no gradient."""
        model = self._prepared(seed=0)
        if not model.trains:
            assert not [p for p in model.parameters() if p.requires_grad]
            return
        batch = self._batch()
        before = self._mean_loss(model, batch)
        reached: set[str] = set()
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.learning_rate, weight_decay=0.0)
        model.train()
        for step in range(30):
            optimizer.zero_grad()
            parts = model.loss(batch, Noise(0).at(step))
            assert all(part.shape == () for part in parts.values()), {name: part.shape for name, part in parts.items()}
            parts["loss"].backward()  # type: ignore[no-untyped-call]
            reached |= {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
            optimizer.step()
        assert {name for name, _ in model.named_parameters()} - reached == set(self.without_gradient)
        assert self._mean_loss(model, batch) < before

    def test_planted_rule_is_learnt(self) -> None:
        """Recall on held-out rows of a rule; a model that is the same for everybody stays the same for everybody."""
        train, held_out = planted_rows(self.n_items, self.longest)
        model = self._trained(train, seed=0, steps=self.steps)
        batch = batch_of(held_out, first_key=10_000)
        scores = _scores(model, batch)
        if not self.personal:
            _assert_equal(scores, scores[:1].expand_as(scores))
            return
        assert recall_by_loop(scores, batch.target, self.planted_at) >= self.planted_recall

    def test_without_a_rule_it_stays_at_chance(self) -> None:
        """Recall@3 on fresh random rows, after training on random rows: better than chance would be a leak."""
        model = self._trained(ruleless_rows(self.n_items, self.longest, 300), seed=0, steps=min(self.steps, 60))
        batch = batch_of(ruleless_rows(self.n_items, self.longest, 1500, seed=1), first_key=10_000)
        low, high = chance_recall(self.n_items, 3, len(batch))
        assert low < recall_by_loop(_scores(model, batch), batch.target, 3) < high

    # ------------------------------------------------------------------------------------------------ steering

    def test_dislikes(self) -> None:
        """`steers` says whether dislikes move the scores; no dislikes, and strength 0, are exactly no steering."""
        model, query = self._briefly_trained(), self._query()
        width = 3
        dislikes = 1 + torch.arange(len(query) * width).view(-1, width) % self.n_items
        dislikes[0] = 0  # the first row dislikes nothing
        plain = _scores(model, query)
        disliking = _scores(model, dataclasses.replace(query, dislikes=dislikes))
        _assert_equal(disliking[0], plain[0])
        _assert_equal(_scores(model, dataclasses.replace(query, dislikes=torch.zeros_like(dislikes))), plain)
        if not model.steers:
            _assert_equal(disliking, plain)
            return
        assert (disliking[1:] != plain[1:]).any(dim=1).all()
        off = dataclasses.replace(query, guidance_scale=0.0)
        _assert_equal(_scores(model, dataclasses.replace(off, dislikes=dislikes)), _scores(model, off))

    # ------------------------------------------------------------------------------------------------ preparations

    def _rows(self) -> list[Row]:
        return ruleless_rows(self.n_items, self.longest, 9, seed=2)

    def _batch(self) -> Batch:
        return batch_of(planted_rows(self.n_items, self.longest)[0][: self.batch_size])

    def _query(self) -> Query:
        batch = batch_of(self._rows())
        return Query(history=batch.history, key=batch.key)

    def _prepared(self, *, seed: int, rows: list[Row] | None = None) -> Recommender:
        seed_everything(seed)
        model = self.make_model()
        model.prepare(sequences_of(rows or planted_rows(self.n_items, self.longest)[0]))
        return model

    def _briefly_trained(self, *, seed: int = 0) -> Recommender:
        """A few steps away from initial values that are equal or zero, which would hide differences."""
        return self._trained(planted_rows(self.n_items, self.longest)[0], seed=seed, steps=5)

    def _trained(self, rows: list[Row], *, seed: int, steps: int) -> Recommender:
        model = self._prepared(seed=seed, rows=rows)
        if not model.trains:
            return model.eval()
        batch, noise = batch_of(rows), Noise(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.learning_rate, weight_decay=0.0)
        model.train()
        for step in range(steps):
            index = noise.at(step).integers(torch.arange(self.batch_size), 1, len(rows), "conformance/rows")[:, 0]
            optimizer.zero_grad()
            model.loss(batch.rows(index), noise.at(step))["loss"].backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return model.eval()

    def _mean_loss(self, model: Recommender, batch: Batch) -> float:
        """Without dropout, over 20 noises that training did not see: one draw of a diffusion step tells little."""
        return sum(float(_loss(model, batch, Noise(1).at(step))) for step in range(20)) / 20


def _scores(model: Recommender, query: Query, noise: Noise | None = None) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model.scores(query, noise or Noise(0))


def _loss(model: Recommender, batch: Batch, noise: Noise | None = None) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model.loss(batch, noise or Noise(0))["loss"]


def _shapes(model: Recommender) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def _assert_close(actual: Tensor, expected: Tensor) -> None:
    """Equal up to the rounding of float64 sums in another order."""
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)

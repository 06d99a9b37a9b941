"""SVAE against a slow reading: one row, one position and one item at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from guiderec.data.batch import PADDING, Batch
from guiderec.errors import ConfigError
from guiderec.models.svae import SVAE, SVAEConfig, divergence, next_items_of, position_keys
from guiderec.rng import Noise, seed_everything
from guiderec.testing.oracles import Row, batch_of

ITEMS, D, L = 9, 3, 5
WIDTHS = {"dim": D, "item_dim": 4, "state_dim": 6, "hidden_dim": 5, "max_length": L}
ROWS: list[Row] = [([3, 1, 4], 1), ([5], 9), ([], 2), ([6, 5, 3, 5, 8, 2, 1], 9), ([4, 1], 1)]
NOISE = Noise(7)


def make(n_items: int = ITEMS, **options: Any) -> SVAE:
    seed_everything(0)
    return SVAE(SVAEConfig.from_plain({"name": "svae", **WIDTHS, **options}), n_items).double().eval()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


class Slow:
    """The model in NumPy, from its weights."""

    def __init__(self, model: SVAE) -> None:
        self.w = {name: p.detach().numpy() for name, p in model.named_parameters()}

    def state(self, items: list[int]) -> np.ndarray:
        """After the last of the items; 0 without any."""
        w, u, b, c = (self.w[f"gru.cells.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        d = u.shape[1]
        h = np.zeros(d)
        for item in items:
            given, kept = w @ self.w["items.weight"][item] + b, u @ h + c
            r, z = sigmoid(given[:d] + kept[:d]), sigmoid(given[d : 2 * d] + kept[d : 2 * d])
            h = (1 - z) * np.tanh(given[2 * d :] + r * kept[2 * d :]) + z * h
        return h

    def layer(self, name: str, x: np.ndarray) -> np.ndarray:
        return self.w[f"{name}.weight"] @ x + self.w[f"{name}.bias"]

    def gaussian(self, items: list[int]) -> tuple[np.ndarray, np.ndarray]:
        both = self.layer("gaussian", np.tanh(self.layer("hidden", self.state(items))))
        return both[:D], both[D:]

    def scores(self, latent: np.ndarray) -> list[float]:
        """Of the items 1..I."""
        hidden = np.tanh(self.layer("decoder", latent))
        table = self.w["output.weight"]
        return [float(table[j][:-1] @ hidden + table[j][-1]) for j in range(1, len(table))]

    def log_share(self, latent: np.ndarray, item: int) -> float:
        scores = self.scores(latent)
        return scores[item - 1] - math.log(sum(math.exp(s) for s in scores))


def positions_of(row: Row, k: int) -> list[tuple[list[int], list[int]]]:
    """For every learnt position: the items up to it, and the different ones among the next k."""
    history, target = row[0][-L:], row[1]
    if not history:
        return [([], [target])]
    items = [*history, target]
    return [(items[: t + 1], list(dict.fromkeys(items[t + 1 : t + 1 + k]))) for t in range(len(history))]


def kl_by_hand(mean: np.ndarray, variance: np.ndarray) -> float:
    return sum(0.5 * (m * m + v - 1 - math.log(v)) for m, v in zip(mean, variance, strict=True))


# ------------------------------------------------------------------------------------------------------------ answer


@torch.no_grad()
def test_scores_are_those_of_the_slow_reading():
    """Of the mean of the Gaussian; a history without items has that of the state 0."""
    model, batch = make(), batch_of(ROWS)
    slow, scores = Slow(model), model.scores(batch, NOISE)
    for row, (history, _) in enumerate(ROWS):
        mean, _ = slow.gaussian(history[-L:])
        assert scores[row, 1:].tolist() == pytest.approx(slow.scores(mean), rel=1e-9)


@torch.no_grad()
def test_inference_may_draw():
    """A draw lies sigma times the row's noise from the mean; other rows and widths change nothing about it."""
    model, batch = make(inference="sample"), batch_of(ROWS)
    slow, scores = Slow(model), model.scores(batch, NOISE)
    eps = NOISE.normal(batch.key, D, "latent", torch.float64).numpy()
    for row, (history, _) in enumerate(ROWS):
        mean, log_sigma = slow.gaussian(history[-L:])
        assert scores[row, 1:].tolist() == pytest.approx(slow.scores(mean + np.exp(log_sigma) * eps[row]), rel=1e-9)
    assert (scores != model.scores(batch, Noise(8))).any()
    torch.testing.assert_close(model.scores(batch.rows(slice(1, 3)), NOISE), scores[1:3])


@torch.no_grad()
def test_rows_of_all_lengths_have_the_states_that_they_have_alone():
    model = make(max_length=16)
    rows = [([1 + (row + p) % 9 for p in range(row % 20)], 1) for row in range(60)]  # 8 rows and more of each bucket
    history = batch_of(rows).history
    together, newest = model.states(history), model.newest_state(history)
    for row, (items, _) in enumerate(rows):
        alone = model.states(torch.tensor([items or [PADDING]]))[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone)
        torch.testing.assert_close(newest[row], alone[-1])
    assert model.scores(batch_of(ROWS).rows(slice(0, 0)), NOISE).shape == (0, ITEMS + 1)


# -------------------------------------------------------------------------------------------------------------- loss


def test_next_items_are_those_of_the_docstring():
    batch = batch_of([([4, 7, 9], 2), ([], 5)], width=5)
    items, weights = next_items_of(batch, 2, 10)
    assert items.tolist() == [[[0, 0], [0, 0], [7, 9], [9, 2], [2, 0]], [[0, 0]] * 4 + [[5, 0]]]
    assert weights.tolist() == [[[0, 0], [0, 0], [0.5, 0.5], [0.5, 0.5], [0.5, 0]], [[0, 0]] * 4 + [[1, 0]]]


@pytest.mark.parametrize("k", [1, 2, 4, 20])
def test_next_items_are_those_of_the_slow_reading(k: int):
    """More items than follow, repeated ones, and rows that are longer than the model reads."""
    items, weights = next_items_of(batch_of(ROWS), k, L)
    assert items.shape == weights.shape == (len(ROWS), L, k)
    for row, pair in enumerate(ROWS):
        expected = positions_of(pair, k)
        first = len(expected[0][1])
        for place, (_, wanted) in enumerate(expected, start=L - len(expected)):
            counted = weights[row, place] > 0
            assert items[row, place][counted].tolist() == wanted
            assert weights[row, place][counted].tolist() == pytest.approx([1 / first] * len(wanted))
        assert not items[row, : L - len(expected)].any()
        assert not weights[row, : L - len(expected)].any()


@pytest.mark.parametrize("average", ["positions", "public_code"])
@pytest.mark.parametrize("log_scale", ["deviation", "public_code"])
@torch.no_grad()
def test_loss_is_that_of_the_slow_reading(average: str, log_scale: str):
    model, batch = (
        make(average=average, log_scale=log_scale, kl_anneal_steps=10, kl_weight=0.3, next_k=2),
        batch_of(ROWS),
    )
    slow, noise = Slow(model), NOISE.at(4)
    keys = position_keys(batch.key, L)
    rows = []
    for row, pair in enumerate(ROWS):
        learnt = positions_of(pair, 2)
        first, likelihood, apart = len(learnt[0][1]), [], []
        for back, (items, wanted) in enumerate(reversed(learnt)):
            mean, log_sigma = slow.gaussian(items)
            eps = noise.normal(keys[row, L - 1 - back][None], D, "latent", torch.float64)[0].numpy()
            latent = mean + np.exp(log_sigma) * eps
            likelihood.append(-sum(slow.log_share(latent, item) for item in wanted) / first)
            apart.append(kl_by_hand(mean, np.exp(2 * log_sigma if log_scale == "deviation" else log_sigma)))
        rows.append((likelihood, apart))
    if average == "positions":
        likelihood = np.mean([x for row, _ in rows for x in row])
        apart = np.mean([x for _, row in rows for x in row])
    else:
        likelihood = np.mean([sum(row) for row, _ in rows])
        apart = np.mean([np.mean(row) for _, row in rows])
    parts = model.loss(batch, noise)
    assert float(parts["likelihood"]) == pytest.approx(likelihood, rel=1e-9)
    assert float(parts["divergence"]) == pytest.approx(apart, rel=1e-9)
    assert float(parts["loss"]) == pytest.approx(likelihood + 0.3 * 0.4 * apart, rel=1e-9)


def test_divergence_is_that_of_torch():
    torch.manual_seed(0)
    mean, log_sigma = torch.randn(2, 50, 7, dtype=torch.float64)
    gaussian = Independent(Normal(mean, log_sigma.exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    torch.testing.assert_close(divergence(mean, log_sigma), kl_divergence(gaussian, prior))
    assert not divergence(torch.zeros(3, 7), torch.zeros(3, 7)).any()


def test_beta_rises_evenly_and_stops():
    model = make(kl_anneal_steps=10, kl_weight=0.2)
    assert [model.weight_of_kl(step) for step in (0, 5, 10, 99)] == pytest.approx([0, 0.1, 0.2, 0.2])
    assert make(kl_anneal_steps=0).weight_of_kl(0) == 0.2


def test_padding_and_unread_items_get_no_gradient():
    """Item 7 is a target and in no history; item 6 is beyond the newest five."""
    model = make(kl_anneal_steps=0)
    model.loss(batch_of([([3], 7), ([], 2), ([6, 5, 3, 5, 8, 2], 9)]), NOISE)["loss"].backward()
    read, scored = model.items.weight.grad, model.output.weight.grad
    assert read is not None
    assert scored is not None
    assert read.any(dim=1).nonzero().flatten().tolist() == [2, 3, 5, 8]
    assert not scored[0].any()
    assert scored[1:].any(dim=1).all()


def test_gradients_are_right():
    """Central differences in float64, through the recurrence, the draw and the decoder."""
    model, batch = make(next_k=2, kl_anneal_steps=0), batch_of([([1, 2, 3], 3), ([], 4), ([5], 1)])
    named = dict(model.named_parameters())

    def loss(*values: Tensor) -> Tensor:
        replaced = dict(zip((f"m.{n}" for n in named), values, strict=True))
        return torch.func.functional_call(_Loss(model), replaced, batch)

    assert torch.autograd.gradcheck(loss, tuple(named.values()), fast_mode=True)


class _Loss(torch.nn.Module):
    def __init__(self, m: SVAE) -> None:
        super().__init__()
        self.m = m

    def forward(self, batch: Batch) -> Tensor:
        return self.m.loss(batch, NOISE)["loss"]


# ----------------------------------------------------------------------------------------------------------- options


def test_initialisation():
    """Xavier-normal maps, N(0, 1) items; a fresh model says nearly the same of 500 items."""
    seed_everything(0)
    model = SVAE(SVAEConfig(), 500)
    for weight in (model.hidden.weight, model.gaussian.weight, model.decoder.weight):
        assert weight.std().item() == pytest.approx((2 / sum(weight.shape)) ** 0.5, rel=0.05)
    assert model.items.weight.detach()[1:].std().item() == pytest.approx(1, rel=0.05)
    assert model.output.weight.detach()[1:, :-1].std().item() == pytest.approx((2 / 650) ** 0.5, rel=0.05)
    assert model.output.weight[1:, -1].abs().max() <= 150**-0.5
    assert not model.output.weight[0].any()
    assert not model.items.weight[0].any()
    loss = model.eval().loss(batch_of([([1 + row], 3 + row) for row in range(100)]), NOISE)["likelihood"]
    assert loss.item() == pytest.approx(math.log(500), abs=0.7)


def test_defaults_are_those_of_the_authors():
    config = SVAEConfig()
    assert (config.item_dim, config.state_dim, config.hidden_dim, config.dim) == (256, 200, 150, 64)
    assert (config.next_k, config.kl_weight) == (4, 0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"next_k": 0}, "'next_k' = 0"),
        ({"kl_weight": -1}, "'kl_weight' = -1"),
        ({"inference": "mode"}, "inference"),
        ({"hidden": 3}, "hidden"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        SVAEConfig.from_plain({"name": "svae", **options})

"""BERT4Rec against a slow reading, one window, head and key at a time; masks by what they must and must not do."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guiderec.data.batch import PADDING, Batch
from guiderec.errors import ConfigError
from guiderec.models.bert4rec import BERT4Rec, BERT4RecConfig, Mixed
from guiderec.rng import Noise, seed_everything
from guiderec.testing.oracles import Row, batch_of, ruleless_rows

ITEMS, MASK, L = 9, 10, 5
ROWS: list[Row] = [([3, 1, 4], 1), ([5], 9), ([], 2), ([6, 5, 3, 5, 8], 9), ([7, 1, 6, 2, 3, 9, 4], 2)]
MIXED = {"name": "mixed", "mask": 0.5, "random": 0.3}


def make(n_items: int = ITEMS, **options: Any) -> BERT4Rec:
    seed_everything(0)
    plain = {"dim": 8, "dropout": 0.0, "attention_dropout": 0.0, "max_length": L, **options}
    built = BERT4Rec(BERT4RecConfig.from_plain({"name": "bert4rec", **plain}), n_items).double()
    with torch.no_grad():  # away from the small start, where biases are zero and everything is nearly linear
        for p in built.parameters():
            p.add_(torch.randn_like(p) * 0.3)
        built.items.weight[PADDING].zero_()
    return built.eval()


def windows(rows: list[Row] = ROWS) -> list[list[int]]:
    return [[*history[-L:], target] for history, target in rows]


def logits_by_loop(built: BERT4Rec, tokens: list[int], position: int) -> np.ndarray:
    """(I,) logits of the items at one position of an unpadded window, in NumPy."""
    config = built.config
    weights = {name: p.detach().numpy() for name, p in built.named_parameters()}
    d, h = config.dim, config.heads

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean()
        return weights[f"{name}.weight"] * centred / np.sqrt((centred**2).mean() + 1e-5) + weights[f"{name}.bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])

    places = range(len(tokens)) if config.counting == "from_start" else range(len(tokens) - 1, -1, -1)
    table, bias = weights["items.weight"], weights["bias"]
    xs = [
        norm(table[t] + weights["positions.table.weight"][p], "encoder.entry")
        for t, p in zip(tokens, places, strict=True)
    ]
    for layer in range(config.layers):
        block = f"encoder.blocks.{layer}"
        projected = [linear(x, f"{block}.attention.query_key_value") for x in xs]
        after = []
        for i, x in enumerate(xs):
            heads = []
            for head in range(h):
                cut = slice(head * d // h, (head + 1) * d // h)
                logits = [projected[i][:d][cut] @ key[d : 2 * d][cut] / math.sqrt(d / h) for key in projected]
                share = np.exp(np.array(logits) - max(logits))
                heads.append(sum(s * v[2 * d :][cut] for s, v in zip(share / share.sum(), projected, strict=True)))
            attended = linear(np.concatenate(heads), f"{block}.attention.output")
            y = norm(x + attended, f"{block}.attention_norm")
            fed = linear(gelu(linear(y, f"{block}.feedforward.expand")), f"{block}.feedforward.contract")
            after.append(norm(y + fed, f"{block}.feedforward_norm"))
        xs = after
    read = norm(gelu(linear(xs[position], "transform")), "transform_norm")
    return np.array([read @ table[item] + bias[item] for item in range(1, ITEMS + 1)])


# ------------------------------------------------------------------------------------------------ the answer


@pytest.mark.parametrize(
    "options", [{}, {"counting": "from_end"}, {"layers": 1, "heads": 4, "expansion": 2}, {"layers": 3, "heads": 1}]
)
def test_scores_are_those_of_a_slow_loop_with_the_mask_after_the_newest_item(options: dict[str, Any]):
    built = make(**options)
    scores = built.scores(batch_of(ROWS), Noise(0))
    for row, (history, _) in enumerate(ROWS):
        tokens = [*history[-L:], MASK]
        expected = logits_by_loop(built, tokens, len(tokens) - 1)
        np.testing.assert_allclose(scores[row, 1:].detach().numpy(), expected, rtol=1e-9)


def test_a_history_of_full_length_still_has_a_position_for_the_mask():
    """The position after L items is used and is no other's: moving its vector moves that answer alone."""
    built = make()
    batch = batch_of([([1, 2, 3, 4], 5), ([1, 2, 3, 4, 5], 6)])
    before = built.scores(batch, Noise(0))
    with torch.no_grad():
        built.positions.table.weight[L] += torch.randn(8)
    moved = (built.scores(batch, Noise(0)) != before)[:, 1:]
    assert moved.any(dim=1).tolist() == [False, True]


def test_the_bias_of_an_item_is_added_to_its_score():
    built = make()
    before = built.scores(batch_of(ROWS), Noise(0))
    with torch.no_grad():
        built.bias[4] += 2.5
    risen = built.scores(batch_of(ROWS), Noise(0)) - before
    expected = torch.zeros_like(risen)
    expected[:, 4] = 2.5
    torch.testing.assert_close(risen, expected)


def test_the_mask_token_is_no_candidate():
    built = make()
    assert built.item_vectors().shape == (ITEMS + 1, 9)
    assert built.scores(batch_of(ROWS), Noise(0)).shape == (len(ROWS), ITEMS + 1)
    assert built.items.weight.shape == (ITEMS + 2, 8)


def test_both_sides_of_a_gap_are_seen():
    built = make()
    base = built.states(torch.tensor([[3, 1, MASK, 4, 5]]))[0, 2]
    for tokens in ([7, 1, MASK, 4, 5], [3, 1, MASK, 4, 7]):
        assert (built.states(torch.tensor([tokens]))[0, 2] != base).any()


@pytest.mark.parametrize("layers", [1, 2])
def test_rows_of_all_lengths_have_the_states_that_they_have_alone(layers: int):
    built = make(max_length=16, layers=layers)
    rows: list[Row] = [([1 + (row + p) % 9 for p in range(row % 20)], 1) for row in range(60)]
    together = built.scores(batch_of(rows), Noise(0))
    for row, pair in enumerate(rows):
        torch.testing.assert_close(together[row], built.scores(batch_of([pair]), Noise(0))[0])


def test_no_rows_have_no_scores():
    assert make().scores(batch_of(ROWS).rows(slice(0, 0)), Noise(0)).shape == (0, ITEMS + 1)


# ------------------------------------------------------------------------------------------------ the loss


@pytest.mark.parametrize("options", [{}, {"replacement": MIXED, "masked": 0.9}, {"masked": 1.0, "newest_only": 0.0}])
def test_loss_is_the_formula(options: dict[str, Any]):
    """Over the gaps of the batch and the items 1..I: neither padding nor the mask token is in the denominator."""
    built = make(**options)
    batch, noise = batch_of(ROWS), Noise(3)
    padded = built.window(batch)
    gaps, newest_only = built.gaps(padded != PADDING, batch.key, noise)
    inserted = built.config.replacement(padded, batch.key, noise, ITEMS)
    terms = []
    for row, window in enumerate(windows()):
        first = padded.shape[1] - len(window)
        assert padded[row, first:].tolist() == window
        hidden = [p for p in range(len(window)) if gaps[row, first + p]]
        tokens = list(window)
        for p in hidden:
            tokens[p] = MASK if newest_only[row] else int(inserted[row, first + p])
        for p in hidden:
            logits = logits_by_loop(built, tokens, p)
            terms.append(math.log(sum(math.exp(x) for x in logits)) - logits[window[p] - 1])
    assert len(terms) == int(gaps.sum())
    assert built.loss(batch, noise)["loss"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)


@pytest.mark.parametrize("replacement", [{"name": "mask"}, MIXED])
def test_a_row_with_its_newest_item_masked_is_a_request(replacement: dict[str, Any]):
    """Whatever stands in the gaps of other rows: -log softmax of the scores that the history gets."""
    built = make(newest_only=1.0, replacement=replacement)
    scores = built.scores(batch_of(ROWS), Noise(0))[:, 1:].tolist()
    terms = [
        math.log(sum(math.exp(x) for x in row)) - row[target - 1] for row, (_, target) in zip(scores, ROWS, strict=True)
    ]
    assert built.loss(batch_of(ROWS), Noise(0))["loss"].item() == pytest.approx(sum(terms) / len(ROWS))


def test_what_is_masked_is_not_seen():
    """All of a window masked: every position has the logits of a window of masks, and its bias and place decide."""
    built = make(masked=1.0, newest_only=0.0)
    one, other = batch_of([([3, 1, 4], 1)]), batch_of([([7, 7, 7], 1)])
    seen: list[Tensor] = []
    states = built.states
    built.states = lambda tokens: seen.append(tokens) or states(tokens)  # type: ignore[method-assign,func-returns-value]
    built.loss(one, Noise(0))
    built.loss(other, Noise(0))
    assert [tokens.tolist() for tokens in seen] == [[[MASK] * 4]] * 2


def test_gradients_are_right():
    """Central differences in float64, through masks, tied table and biases."""
    built = make(n_items=5, layers=1, dim=4, heads=1, max_length=3)
    batch = batch_of([([1, 2], 3), ([], 4), ([5, 1, 2], 3)])
    named = dict(built.named_parameters())

    def loss(*values: Tensor) -> Tensor:
        weights = dict(zip((f"m.{name}" for name in named), values, strict=True))
        return torch.func.functional_call(_Loss(built), weights, batch)

    assert torch.autograd.gradcheck(loss, tuple(named.values()), fast_mode=True)


class _Loss(torch.nn.Module):
    def __init__(self, m: BERT4Rec) -> None:
        super().__init__()
        self.m = m

    def forward(self, batch: Batch) -> Tensor:
        return self.m.loss(batch, Noise(0))["loss"]


def test_the_answer_to_an_empty_history_is_learnt():
    """A window of one item is [mask] alone, in training as at a request."""
    built = make()
    batch = batch_of([([], 4)] * 3 + [([], 7)])
    optimizer = torch.optim.AdamW(built.parameters(), lr=1e-2)
    for step in range(40):
        optimizer.zero_grad()
        built.loss(batch, Noise(0).at(step))["loss"].backward()
        optimizer.step()
    assert built.scores(batch_of([([], 1)]), Noise(0))[0, 1:].topk(2).indices.tolist() == [3, 6]


# ------------------------------------------------------------------------------------------------ masks


def mask_of(lengths: list[int], width: int) -> Tensor:
    return torch.arange(width) >= width - torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("ratio", [0.01, 0.2, 0.6, 1.0])
def test_gaps_are_so_many_and_at_least_one_and_never_padding(ratio: float):
    lengths = list(range(1, 12)) * 30
    mask = mask_of(lengths, 11)
    gaps, newest_only = make(masked=ratio, newest_only=0.0).gaps(mask, torch.arange(len(lengths)), Noise(0))
    assert not newest_only.any()
    assert not (gaps & ~mask).any()
    assert gaps.sum(dim=1).tolist() == [max(1, round(ratio * length)) for length in lengths]


def test_every_set_of_gaps_is_as_likely():
    """Two of five: ten sets, each a tenth of the rows to within five standard deviations."""
    rows = 5000
    gaps, _ = make(masked=0.4, newest_only=0.0).gaps(mask_of([5] * rows, 7), torch.arange(rows), Noise(0))
    found = Counter(tuple(row.nonzero()[:, 0].tolist()) for row in gaps)
    assert len(found) == 10
    assert all(abs(count - rows / 10) < 5 * math.sqrt(rows * 0.09) for count in found.values())


def test_a_share_of_the_rows_has_its_newest_item_masked_alone():
    rows = 4000
    gaps, newest_only = make(masked=0.6, newest_only=0.25).gaps(mask_of([6] * rows, 8), torch.arange(rows), Noise(0))
    assert abs(int(newest_only.sum()) - rows / 4) < 5 * math.sqrt(rows * 3 / 16)
    assert (gaps[newest_only] == (torch.arange(8) == 7)).all()
    assert set(gaps[~newest_only].sum(dim=1).tolist()) == {4}


def test_draws_are_named_by_row_and_step_and_place_from_the_newest():
    """Neither padding nor company moves a draw; another step moves many."""
    built = make(replacement=MIXED)
    batch, noise = batch_of(ROWS), Noise(5)
    narrow, wide = built.window(batch), torch.nn.functional.pad(built.window(batch), (4, 0))
    for masks, tokens in ((wide != PADDING, wide), (narrow != PADDING, narrow)):
        gaps, _ = built.gaps(masks, batch.key, noise)
        inserted = built.config.replacement(tokens, batch.key, noise, ITEMS)
        for row in range(len(ROWS)):
            one = slice(row, row + 1)
            alone, _ = built.gaps(narrow[one] != PADDING, batch.key[one], noise)
            assert gaps[row, -narrow.shape[1] :].tolist() == alone[0].tolist()
            assert not gaps[row, : -narrow.shape[1]].any()
            put = built.config.replacement(narrow[one], batch.key[one], noise, ITEMS)[0]
            where = narrow[row] != PADDING
            assert inserted[row, -narrow.shape[1] :][where].tolist() == put[where].tolist()
    mask, keys = mask_of([9] * 50, 9), torch.arange(50)
    assert (built.gaps(mask, keys, noise)[0] != built.gaps(mask, keys, noise.at(1))[0]).any(dim=1).sum() > 25


def test_replacements_have_their_shares_and_are_never_the_item_itself():
    rows, items = 3000, 4
    there = torch.full((rows, 1), 2)
    found = Counter(Mixed(mask=0.5, random=0.3)(there, torch.arange(rows), Noise(0), items)[:, 0].tolist())
    assert found.keys() == {1, 2, 3, 4, items + 1}
    shares = {items + 1: 0.5, 2: 0.2, 1: 0.1, 3: 0.1, 4: 0.1}
    for token, share in shares.items():
        assert abs(found[token] - rows * share) < 5 * math.sqrt(rows * share * (1 - share)), token
    always = Mixed(mask=0.0, random=1.0)(there, torch.arange(rows), Noise(0), items)
    assert set(always.flatten().tolist()) == {1, 3, 4}
    assert set(Mixed(mask=0.0, random=0.0)(there, torch.arange(rows), Noise(0), items).flatten().tolist()) == {2}


def test_a_catalogue_of_one_item_has_no_other_and_masks_it():
    one = torch.ones(20, 1, dtype=torch.int64)
    assert set(Mixed(mask=0.0, random=1.0)(one, torch.arange(20), Noise(0), 1).flatten().tolist()) == {2}
    built = make(n_items=1, replacement=MIXED)
    assert built.loss(batch_of([([1, 1, 1], 1)]), Noise(0))["loss"].item() == pytest.approx(0.0, abs=1e-12)


# ------------------------------------------------------------------------------------------------ start and options


@pytest.mark.parametrize("option", ["dropout", "attention_dropout"])
def test_each_dropout_is_active_in_training_only(option: str):
    built = make(**{option: 0.5})
    batch = batch_of(ruleless_rows(ITEMS, 5, 20))
    built.train()
    assert built.loss(batch, Noise(0))["loss"] != built.loss(batch, Noise(0))["loss"]
    built.eval()
    assert built.loss(batch, Noise(0))["loss"] == built.loss(batch, Noise(0))["loss"]


def test_start_is_a_cut_normal_law_and_a_uniform_guess():
    """A normal law cut at two deviations has 0.880 of its deviation; the first loss is log I to a few hundredths."""
    seed_everything(0)
    built = BERT4Rec(BERT4RecConfig(), 1000)
    cut = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))
    for name, p in built.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        elif "norm" in name or name == "encoder.entry.weight":
            assert (p == 1).all(), name
        else:
            assert p.abs().max() <= 0.04, name
            assert p.std().item() == pytest.approx(0.02 * cut, rel=0.05), name
    assert not built.items.weight[PADDING].any()
    batch = batch_of(ruleless_rows(1000, 10, 200))
    assert built.eval().loss(batch, Noise(0))["loss"].item() == pytest.approx(math.log(1000), abs=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 10, "heads": 4}, "heads = 4 does not divide dim = 10"),
        ({"masked": 0.0}, "'masked' = 0.0"),
        ({"newest_only": 1.5}, "'newest_only' = 1.5"),
        ({"masekd": 0.2}, "Did you mean 'masked'"),
        ({"replacement": {"name": "mixed", "mask": 0.8, "random": 0.3}}, r"mask \+ random = 1.1"),
        ({"replacement": {"name": "mask", "random": 0.1}}, "'replacement.random' is not an option"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        BERT4RecConfig.from_plain({"name": "bert4rec", **options})

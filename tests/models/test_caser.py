"""Caser against a slow reading: one window, one filter, one place and one pair of window and target at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from guiderec.data.batch import Query
from guiderec.errors import ConfigError
from guiderec.models.caser import Caser, CaserConfig
from guiderec.nn.next_item import BinaryCrossEntropy
from guiderec.rng import Noise, seed_everything
from guiderec.testing.oracles import Row, batch_of, ruleless_rows

ITEMS, DIM, L, T = 13, 5, 4, 3
ROWS: list[Row] = [([1, 2, 3], 4), ([5, 6, 7, 2, 9, 11], 8), ([8], 2), ([], 4), ([10, 1, 12, 3, 13], 10)]
NOISE = Noise(7)
CROSS_ENTROPY = {"objective": {"name": "cross_entropy"}}
FILTERS: list[dict[str, Any]] = [{}, {"horizontal": 0}, {"vertical": 0}, {"window": 1}, {"window": 9, "vertical": 1}]


def make(n_items: int = ITEMS, **options: Any) -> Caser:
    seed_everything(0)
    small = {"dim": DIM, "window": L, "targets": T, "horizontal": 3, "vertical": 2, "dropout": 0.0}
    model = Caser(CaserConfig.from_plain({"name": "caser", **small, **options}), n_items).double().eval()
    with torch.no_grad():  # away from the small start, and from biases of zero, which would hide mistakes
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
        model.items.weight[0].zero_()
        model.outputs.weight[0].zero_()
    return model


def slow_z(model: Caser, history: list[int]) -> np.ndarray:
    """z of the newest window of one history."""
    config = model.config
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    padded = [0] * config.window + history
    image = [weights["items.weight"][item] if item else np.zeros(config.dim) for item in padded[-config.window :]]
    found: list[float] = []
    for height in range(1, config.window + 1) if config.horizontal else ():
        kernel = weights[f"horizontal.heights.{height - 1}.weight"]  # (n, D, h)
        bias = weights[f"horizontal.heights.{height - 1}.bias"]
        for k in range(config.horizontal):
            places = []
            for top in range(config.window - height + 1):
                total = bias[k]
                for below in range(height):
                    total += sum(kernel[k, d, below] * image[top + below][d] for d in range(config.dim))
                places.append(max(0.0, total))
            found.append(max(places))
    for k in range(config.vertical):
        kernel, bias = weights["vertical.weights.weight"][k], weights["vertical.weights.bias"][k]
        found += [sum(kernel[row] * image[row][d] for row in range(config.window)) + bias for d in range(config.dim)]
    z = weights["fully_connected.weight"] @ np.array(found) + weights["fully_connected.bias"]
    return np.maximum(z, 0)


def slow_scores(model: Caser, history: list[int]) -> np.ndarray:
    """(I + 1,) z W' + b'."""
    table = model.outputs.weight.detach().numpy()
    return table[:, :-1] @ slow_z(model, history) + table[:, -1]


def slow_pairs(history: list[int], target: int, size: int, *, only_last: bool) -> list[tuple[list[int], int]]:
    """(history up to a window's end, target) of every pair that a row has, or of those with its last item."""
    items = [*history, target]
    pairs = []
    for end in range(min(1, len(history)), len(items)):
        for place in range(end, min(end + size, len(items))):
            if place == len(history) or not only_last:
                pairs.append((items[:end], items[place]))
    return pairs


@pytest.mark.parametrize("options", FILTERS)
@torch.no_grad()
def test_scores_are_those_of_the_slow_reading(options: dict[str, Any]):
    model = make(**options)
    scores = model.scores(batch_of(ROWS), NOISE)
    for row, (history, _) in enumerate(ROWS):
        np.testing.assert_allclose(scores[row, 1:], slow_scores(model, history)[1:], rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_horizontal_filter_finds_its_items_wherever_they_stand():
    """A filter that is the pair 5, 6 gives the same for 5 6 anywhere in the window, half of it for one of them."""
    model = make(horizontal=1, vertical=0, dim=ITEMS)
    model.items.weight.copy_(torch.eye(ITEMS + 1, dtype=torch.float64)[:, 1:])  # an item is its own direction
    convolution = model.get_submodule("horizontal.heights.1")
    convolution.weight.zero_()
    convolution.bias.zero_()
    convolution.weight[0, 4, 0] = convolution.weight[0, 5, 1] = 1.0
    histories = torch.tensor([[5, 6, 1, 2], [1, 5, 6, 2], [1, 2, 5, 6], [6, 5, 1, 2], [0, 0, 0, 5]])
    assert model.found(histories)[:, 0, 1].tolist() == [2, 2, 2, 1, 0]


@torch.no_grad()
def test_windows_of_a_row_are_what_they_are_alone():
    """Filters pass over a row once; 36 rows of all lengths make several groups of like length."""
    model = make()
    rows = [([1 + (3 * row + p) % ITEMS for p in range(row % 12)], 1) for row in range(36)]
    together = model._found_at_every_position(batch_of(rows).history)
    for row, (history, _) in enumerate(rows):
        for before in range(len(history)):
            window = ([0] * L + history[: len(history) - before])[-L:]
            torch.testing.assert_close(together[row, -1 - before], model.found(torch.tensor([window]))[0, 0])


@torch.no_grad()
def test_only_the_window_counts():
    model = make()
    long = model.scores(batch_of([([7, 8, 9, 1, 2, 3, 4], 5)]), NOISE)
    torch.testing.assert_close(long, model.scores(batch_of([([1, 2, 3, 4], 5)]), NOISE), rtol=0, atol=0)
    assert (long != model.scores(batch_of([([2, 3, 4], 5)]), NOISE)).any()


# ---------------------------------------------------------------------------------------------------------- targets


def test_windows_want_the_items_after_them():
    model = make(targets=2)
    history, target = torch.tensor([[0, 0, 4, 7, 9], [0, 0, 0, 0, 0]]), torch.tensor([2, 3])
    wanted = model.wanted(history, target)
    assert wanted[..., 0].tolist() == [[0, 0, 7, 9, 2], [0, 0, 0, 0, 3]]
    assert wanted[..., 1].tolist() == [[0, 0, 9, 2, 0], [0, 0, 0, 0, 0]]
    wanted = make(targets=2, predict="last_position").wanted(history, target)
    assert wanted[..., 0].tolist() == [[0, 0, 0, 0, 2], [0, 0, 0, 0, 3]]
    assert wanted[..., 1].tolist() == [[0, 0, 0, 2, 0], [0, 0, 0, 0, 0]]


@torch.no_grad()
@pytest.mark.parametrize("targets", [1, 3, 8])
@pytest.mark.parametrize("predict", ["every_position", "last_position"])
def test_cross_entropy_is_the_formula(targets: int, predict: str):
    """Over all pairs of the batch, and items 1..I: padding is neither a target nor in the denominator."""
    model = make(targets=targets, predict=predict, **CROSS_ENTROPY)
    terms = []
    for history, target in ROWS:
        for before, wanted in slow_pairs(history, target, targets, only_last=predict == "last_position"):
            logits = slow_scores(model, before)[1:]
            terms.append(math.log(np.exp(logits).sum()) - logits[wanted - 1])
    assert float(model.loss(batch_of(ROWS), NOISE)["loss"]) == pytest.approx(sum(terms) / len(terms), rel=1e-10)


@torch.no_grad()
def test_every_prefix_with_its_last_target_is_the_whole_sequence():
    """`last_position` over all prefixes has the pairs of `every_position` over the sequence, each once."""
    items = [5, 6, 7, 2, 9, 11, 8]
    prefixes: list[Row] = [(items[:end], items[end]) for end in range(1, len(items))]
    whole = make(**CROSS_ENTROPY).loss(batch_of([(items[:-1], items[-1])]), NOISE)["loss"]
    parts = make(predict="last_position", **CROSS_ENTROPY).loss(batch_of(prefixes), NOISE)["loss"]
    torch.testing.assert_close(parts, whole)


@torch.no_grad()
@pytest.mark.parametrize("predict", ["every_position", "last_position"])
def test_binary_cross_entropy_is_the_formula(predict: str):
    """For a row that lacks a single item, so that all its negatives are that one."""
    model = make(n_items=4, objective={"name": "binary_cross_entropy", "negatives": 2}, predict=predict)
    total, pairs = 0.0, [([3], 1), ([3], 4), ([3, 1], 4)]
    pairs = pairs if predict == "every_position" else pairs[1:]
    for before, wanted in pairs:
        scores = slow_scores(model, before)
        total += -math.log(1 / (1 + math.exp(-scores[wanted]))) - math.log(1 - 1 / (1 + math.exp(-scores[2])))
    assert float(model.loss(batch_of([([3, 1], 4)]), NOISE)["loss"]) == pytest.approx(total / len(pairs))


@torch.no_grad()
def test_negatives_are_never_items_of_the_row():
    """Not even items that the windows do not reach; every other item is drawn, and another step draws others."""
    model = make()
    batch = batch_of(ROWS)
    drawn = model._negatives(batch, 2, 40, NOISE)
    assert drawn.shape == (len(ROWS), 2, T, 40)
    for row, (history, target) in enumerate(ROWS):
        assert set(drawn[row].flatten().tolist()) == set(range(1, ITEMS + 1)) - {*history, target}
    assert (drawn != model._negatives(batch, 2, 40, NOISE.at(1))).any()


@torch.no_grad()
def test_a_row_with_every_item_has_no_negatives_and_a_finite_loss():
    loss = make(n_items=3).loss(batch_of([([1, 2], 3)]), NOISE)["loss"]
    assert loss.isfinite()


@torch.no_grad()
@pytest.mark.parametrize("predict", ["every_position", "last_position"])
def test_padding_moves_no_negative(predict: str):
    model = make(predict=predict)
    torch.testing.assert_close(model.loss(batch_of(ROWS, width=20), NOISE), model.loss(batch_of(ROWS), NOISE))


# ------------------------------------------------------------------------------------------------- padding and start


@pytest.mark.parametrize("objective", ["binary_cross_entropy", "cross_entropy"])
def test_padding_is_zero_and_stays_zero(objective: str):
    """Also where padding is in the windows, after targets and, in the first row, drawn as a negative."""
    model = make(n_items=6, objective={"name": objective}).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    batch = batch_of([([1, 2, 3, 4, 5], 6), ([2], 3), ([], 1)])
    before = model.outputs.weight.detach().clone()
    for step in range(3):
        optimizer.zero_grad()
        model.loss(batch, NOISE.at(step))["loss"].backward()
        optimizer.step()
    assert not model.items.weight[0].any()
    assert not model.outputs.weight[0].any()
    assert (model.outputs.weight[1:] != before[1:]).all()


def test_an_empty_history_learns():
    """Its window has no item; the biases and the output table answer."""
    model = make().train()
    model.loss(batch_of([([], 4)]), NOISE)["loss"].backward()
    assert model.fully_connected.bias.grad is not None
    assert model.fully_connected.bias.grad.any()
    assert model.outputs.weight.grad is not None
    assert model.outputs.weight.grad[4, -1] != 0  # the bias
    assert model.items.weight.grad is not None
    assert not model.items.weight.grad.any()


def test_initialisation():
    """Items and outputs of deviation 1 / D, biases of items and padding 0; filters within 1 / sqrt(what they read)."""
    seed_everything(0)
    model = Caser(CaserConfig(), 2000)
    assert (model.items.weight.shape, model.outputs.weight.shape) == ((2001, 50), (2001, 51))
    assert model.items.weight[1:].std().item() == pytest.approx(1 / 50, rel=0.02)
    assert model.outputs.weight[1:, :-1].std().item() == pytest.approx(1 / 50, rel=0.02)
    assert not model.outputs.weight[:, -1].any()
    assert not model.outputs.weight[0].any()
    assert not model.items.weight[0].any()
    for name, read in (("horizontal.heights.2", 3 * 50), ("vertical.weights", 5), ("fully_connected", 5 * 16 + 4 * 50)):
        for kind in ("weight", "bias"):
            largest = float(model.get_parameter(f"{name}.{kind}").detach().abs().max())
            assert 0.5 / math.sqrt(read) < largest <= 1 / math.sqrt(read), (name, kind)
    binary = BinaryCrossEntropy(negatives=3)
    assert model.config.objective == binary
    loss = model.loss(batch_of(ruleless_rows(2000, 9, 200)), NOISE)["loss"].item()
    assert loss == pytest.approx(2 * math.log(2), abs=0.01)  # every item is as likely as not
    longer = Caser(CaserConfig(init_std=0.5), 2000)
    assert longer.items.weight[1:].std().item() == pytest.approx(0.5, rel=0.02)
    assert longer.outputs.weight[1:, :-1].std().item() == pytest.approx(1 / 50, rel=0.02)


def test_dropout_is_active_in_training_only():
    model, batch = make(dropout=0.5), batch_of(ROWS)
    assert model.loss(batch, NOISE)["loss"] == model.loss(batch, NOISE)["loss"]
    model.train()
    assert model.loss(batch, NOISE)["loss"] != model.loss(batch, NOISE)["loss"]


@torch.no_grad()
def test_no_rows_have_no_scores():
    model = make()
    none = Query(history=torch.zeros(0, 7, dtype=torch.int64), key=torch.zeros(0, dtype=torch.int64))
    assert model.scores(none, NOISE).shape == (0, ITEMS + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizontal": 0, "vertical": 0}, "leave no filter"),
        ({"window": 0}, "'window' = 0"),
        ({"targets": 0}, "'targets' = 0"),
        ({"dropout": 1.0}, "'dropout' = 1.0"),
        ({"init_std": 0}, "'init_std' = 0"),
        ({"windw": 3}, "Did you mean 'window'"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        CaserConfig.from_plain({"name": "caser", **options})


def test_defaults_are_those_of_the_authors():
    config = CaserConfig()
    assert (config.dim, config.window, config.targets) == (50, 5, 3)
    assert (config.horizontal, config.vertical, config.dropout, config.init_std) == (16, 4, 0.5, None)
    assert config.objective == BinaryCrossEntropy(negatives=3)

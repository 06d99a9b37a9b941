"""GRU4Rec against a slow reading: one row, one position, one column of the batch and one negative at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guiderec.data.batch import PADDING, Batch
from guiderec.errors import ConfigError
from guiderec.models.gru4rec import (
    BPR,
    TOP1,
    BPRMax,
    GRU4Rec,
    GRU4RecConfig,
    SampledCrossEntropy,
    Separate,
    SharedNegatives,
    Tied,
    TOP1Max,
)
from guiderec.nn.next_item import CrossEntropy
from guiderec.rng import Noise, seed_everything
from guiderec.testing.conformance import ModelConformance
from guiderec.testing.oracles import Row, batch_of, ruleless_rows, sequences_of

ITEMS, DIM, L = 9, 4, 5
ROWS: list[Row] = [([3, 1, 4], 1), ([5], 9), ([], 2), ([6, 5, 3, 5, 8, 2, 1], 9), ([4, 1], 1)]
COUNTED = ROWS
NOISE = Noise(7)
SMALL = {"samples": 6}


def make(n_items: int = ITEMS, **options: Any) -> GRU4Rec:
    seed_everything(0)
    plain = {"dim": DIM, "max_length": L, "dropout": 0.0, **options}
    model = GRU4Rec(GRU4RecConfig.from_plain({"name": "gru4rec", **plain}), n_items).double().eval()
    model.prepare(sequences_of(COUNTED))
    with torch.no_grad():  # biases and states that are small would hide mistakes
        for table in model.parameters():
            table.add_(torch.randn_like(table) * 0.5)
        model.output.weight[0].zero_()
        if model.input is not None:
            model.input.weight[0].zero_()
    return model


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))


def cell(weights: dict[str, np.ndarray], layer: int, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """One step of one GRU, one gate at a time."""
    d = len(h)

    def gate(side: str, block: int, v: np.ndarray) -> np.ndarray:
        rows = slice(block * d, (block + 1) * d)
        return (
            weights[f"layers.{layer}.cell.weight_{side}"][rows] @ v + weights[f"layers.{layer}.cell.bias_{side}"][rows]
        )

    r = sigmoid(gate("ih", 0, x) + gate("hh", 0, h))
    z = sigmoid(gate("ih", 1, x) + gate("hh", 1, h))
    n = np.tanh(gate("ih", 2, x) + r * gate("hh", 2, h))
    return (1 - z) * n + z * h


def numbers(model: GRU4Rec) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy() for name, p in model.named_parameters()}


def states_by_loop(model: GRU4Rec, history: list[int]) -> np.ndarray:
    """(n, D) the states of one unpadded history that is not longer than the model reads."""
    weights = numbers(model)
    table = weights["output.weight"][:, :DIM] if isinstance(model.config.embedding, Tied) else weights["input.weight"]
    h = [np.zeros(DIM) for _ in range(model.config.layers)]
    states = []
    for item in history:
        x = table[item]
        for layer in range(model.config.layers):
            x = h[layer] = cell(weights, layer, x, h[layer])
        states.append(x)
    return np.array(states).reshape(-1, DIM)


def score(model: GRU4Rec, state: np.ndarray, item: int) -> float:
    row = numbers(model)["output.weight"][item]
    return float(sum(w * s for w, s in zip(row[:DIM], state, strict=True)) + row[DIM])


# ------------------------------------------------------------------------------------------------------------ states


@pytest.mark.parametrize("options", [{}, {"layers": 2}, {"embedding": {"name": "separate", "dim": 3}, "layers": 2}])
@torch.no_grad()
def test_states_and_scores_are_those_of_the_slow_reading(options: dict[str, Any]):
    model, batch = make(**options), batch_of(ROWS)
    states, scores = model.states(batch.history), model.scores(batch, NOISE)
    assert states.shape == (len(ROWS), L, DIM)
    for row, (history, _) in enumerate(ROWS):
        expected = states_by_loop(model, history[-L:])
        np.testing.assert_allclose(states[row, L - len(expected) :], expected, rtol=1e-9)
        assert not states[row, : L - len(expected)].any()  # padding moves no state
        newest = expected[-1] if history else np.zeros(DIM)
        np.testing.assert_allclose(model.newest_state(batch.history)[row], newest, rtol=1e-9, atol=0)
        assert scores[row, 1:].tolist() == pytest.approx([score(model, newest, j) for j in range(1, ITEMS + 1)])


@torch.no_grad()
def test_rows_of_all_lengths_have_the_states_that_they_have_alone():
    model = make(max_length=16)
    rows = [([1 + (row + p) % 9 for p in range(row % 20)], 1) for row in range(60)]  # 8 rows and more of each bucket
    together = model.states(batch_of(rows).history)
    for row, (items, _) in enumerate(rows):
        alone = model.states(torch.tensor([items or [PADDING]]))[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone)


@torch.no_grad()
def test_no_rows_have_no_scores():
    model = make()
    none = batch_of(ROWS).rows(slice(0, 0))
    assert model.scores(none, NOISE).shape == (0, ITEMS + 1)
    assert model.states(none.history).shape == (0, L, DIM)


def test_an_empty_history_is_answered_by_the_biases_and_they_learn_from_it():
    model = make(objective={"name": "cross_entropy"})
    batch = batch_of([([], 4), ([], 4)])
    torch.testing.assert_close(model.scores(batch, NOISE), model.output.weight[:, DIM].expand(2, -1))
    model.loss(batch, NOISE)["loss"].backward()
    gradient = model.output.weight.grad
    assert gradient is not None
    share = model.output.weight[1:, DIM].detach().softmax(dim=0)
    share[3] -= 1
    torch.testing.assert_close(gradient[1:, DIM], share)
    assert not gradient[0].any()


def test_dropout_is_part_of_the_recurrence():
    """In training a state is dropped, scaled, and read so by the next step and the next layer."""
    model = make(dropout=0.5, layers=2, max_length=40).train()
    history = [1 + (5 * place) % ITEMS for place in range(40)]
    seen: dict[int, Tensor] = {}
    for layer, part in enumerate(model.layers):
        part.register_forward_hook(lambda module, given, states, layer=layer: seen.__setitem__(layer, states[0]))
    model.states(torch.tensor([history]))
    weights = numbers(model)
    below = [weights["output.weight"][item][:DIM] for item in history]
    dropped = 0
    for layer in range(2):
        h = np.zeros(DIM)
        states = seen[layer].detach().numpy()
        for place, state in enumerate(states):
            full = cell(weights, layer, below[place], h)
            gone = state == 0
            np.testing.assert_allclose(state[~gone], 2 * full[~gone], rtol=1e-9)
            dropped += int(gone.sum())
            h = state
        below = list(states)
    assert dropped / (2 * 40 * DIM) == pytest.approx(0.5, abs=0.15)


def test_dropout_of_what_is_read_is_active_in_training_only():
    model = make(embedding_dropout=0.5, objective={"name": "cross_entropy"})
    batch = batch_of(ROWS)
    assert model.loss(batch, NOISE)["loss"] == model.loss(batch, NOISE)["loss"]
    model.train()
    assert model.loss(batch, NOISE)["loss"] != model.loss(batch, NOISE)["loss"]


# ------------------------------------------------------------------------------------------------------------ losses

SCORES = [[1.0, -0.5, 2.0, 0.25], [0.5, -1.0, 0.1, -2.0]]
"""M = 2 rows, two targets and two drawn items."""
LOG_Q = [math.log(q) for q in (0.5, 0.25, 0.1, 0.2)]


def elu(x: float, alpha: float) -> float:
    return x if x > 0 or alpha == 0 else alpha * (math.exp(x) - 1)


def by_hand(loss: str, row: int, scores: list[float], **option: float) -> float:
    others = [r for j, r in enumerate(scores) if j != row]
    own = scores[row]
    share = [math.exp(r) / sum(math.exp(s) for s in others) for r in others]
    if loss == "bpr":
        return sum(-math.log(sigmoid(own - r)) for r in others) / len(others)
    if loss == "top1":
        return sum(sigmoid(r - own) + sigmoid(r * r) for r in others) / len(others)
    if loss == "top1_max":
        return sum(s * (sigmoid(r - own) + sigmoid(r * r)) for s, r in zip(share, others, strict=True))
    if loss == "bpr_max":
        won = sum(s * sigmoid(own - r) for s, r in zip(share, others, strict=True))
        return -math.log(won) + option["bpreg"] * sum(s * r * r for s, r in zip(share, others, strict=True))
    weights = [math.exp(r) / math.exp(q) ** option["logq"] for r, q in zip(scores, LOG_Q, strict=True)]
    return -math.log(weights[row] / sum(weights))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (SampledCrossEntropy(logq=0.0), lambda row, r: by_hand("xe", row, r, logq=0)),
        (SampledCrossEntropy(logq=0.7), lambda row, r: by_hand("xe", row, r, logq=0.7)),
        (BPRMax(bpreg=0.0, elu=0.0), lambda row, r: by_hand("bpr_max", row, r, bpreg=0)),
        (BPRMax(bpreg=0.9, elu=0.5), lambda row, r: by_hand("bpr_max", row, [elu(x, 0.5) for x in r], bpreg=0.9)),
        (TOP1Max(), lambda row, r: by_hand("top1_max", row, r)),
        (BPR(), lambda row, r: by_hand("bpr", row, r)),
        (TOP1(), lambda row, r: by_hand("top1", row, r)),
    ],
)
def test_losses_are_their_formulas(loss: Any, expected: Callable[[int, list[float]], float]):
    """On eight numbers; gradients by central differences."""
    scores = torch.tensor(SCORES, dtype=torch.float64, requires_grad=True)
    log_q = torch.tensor(LOG_Q, dtype=torch.float64)
    found = loss(scores, log_q)
    assert found.tolist() == pytest.approx([expected(row, SCORES[row]) for row in range(2)], rel=1e-9)
    assert torch.autograd.gradcheck(lambda r: loss(r, log_q), (scores,))


@pytest.mark.parametrize("loss", [SampledCrossEntropy(), BPRMax(), TOP1Max(), BPR(), TOP1()])
def test_losses_are_finite_where_scores_are_large(loss: Any):
    scores = torch.tensor([[-300.0, 300.0, 0.0], [300.0, -300.0, 0.0]], requires_grad=True)
    found = loss(scores, torch.zeros(3)).sum()
    found.backward()
    assert found.isfinite()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def steps_of(predict: str) -> list[list[tuple[int, int, int]]]:
    """The mini-batches that a batch consists of: (row, place of the state in the history, target), newest first."""
    steps: list[list[tuple[int, int, int]]] = [[] for _ in range(L)]
    for row, (history, target) in enumerate(ROWS):
        read = history[-L:]
        following = [*read[1:], target] if read else [target]
        for back, item in enumerate(reversed(following)):
            if predict == "every_position" or back == 0:
                steps[back].append((row, len(read) - 1 - back, item))
    return steps


@pytest.mark.parametrize("predict", ["every_position", "last_position"])
@pytest.mark.parametrize("name", ["sampled_cross_entropy", "bpr_max", "top1_max", "bpr", "top1"])
@torch.no_grad()
def test_a_column_is_a_mini_batch(predict: str, name: str):
    """Each target against the targets of its column in other rows and against all drawn items, hits included."""
    model, batch = make(predict=predict, objective={"name": name, **SMALL}), batch_of(ROWS)
    objective = model.config.objective
    drawn = model.draw(6, NOISE).tolist()
    counts = [sum([*history, target].count(j) for history, target in COUNTED) for j in range(ITEMS + 1)]
    log_count = [math.log(max(count, 1)) for count in counts]
    total, positions, hits = 0.0, 0, 0
    for step in steps_of(predict):
        targets = [item for _, _, item in step]
        hits += sum(targets.count(j) - 1 + drawn.count(j) for j in targets)
        for own, (row, place, _) in enumerate(step):
            states = states_by_loop(model, ROWS[row][0][-L:])
            state = states[place] if place >= 0 else np.zeros(DIM)
            r = [score(model, state, j) for j in [*targets, *drawn]]
            if name == "sampled_cross_entropy":
                log_q = [log_count[j] for j in targets] + [objective.alpha * log_count[j] for j in drawn]
                weights = [math.exp(a - b) for a, b in zip(r, log_q, strict=True)]
                total += -math.log(weights[own] / sum(weights))
            elif name == "bpr_max":
                total += by_hand(name, own, [elu(x, objective.elu) for x in r], bpreg=objective.bpreg)
            else:
                total += by_hand(name, own, r)
            positions += 1
    assert hits
    assert positions == (12 if predict == "every_position" else 5)
    assert float(model.loss(batch, NOISE)["loss"]) == pytest.approx(total / positions, rel=1e-6)


@pytest.mark.parametrize(("predict", "positions"), [("every_position", 12), ("last_position", 5)])
@torch.no_grad()
def test_cross_entropy_is_over_all_items_and_has_the_biases(predict: str, positions: int):
    model = make(predict=predict, objective={"name": "cross_entropy"})
    total = 0.0
    for step in steps_of(predict):
        for row, place, target in step:
            states = states_by_loop(model, ROWS[row][0][-L:])
            state = states[place] if place >= 0 else np.zeros(DIM)
            r = [score(model, state, j) for j in range(1, ITEMS + 1)]
            total += math.log(sum(math.exp(x) for x in r)) - r[target - 1]
    assert float(model.loss(batch_of(ROWS), NOISE)["loss"]) == pytest.approx(total / positions, rel=1e-9)


@pytest.mark.parametrize("name", ["sampled_cross_entropy", "bpr_max", "top1_max", "bpr", "top1"])
def test_without_drawn_items_a_row_alone_has_nothing_to_learn_from(name: str):
    model = make(objective={"name": name, "samples": 0})
    alone, pair = batch_of([([3, 1], 4)]), batch_of([([3, 1], 4), ([5, 2], 6)])
    loss = model.loss(alone, NOISE)["loss"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    model.loss(pair, NOISE)["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_both_sides_of_the_product_learn_and_padding_does_not():
    """Item 7 is a target and in no history: its gradient can only come from the output side."""
    for objective in ({"name": "cross_entropy"}, {"name": "sampled_cross_entropy", **SMALL}):
        model = make(embedding={"name": "separate", "dim": 3}, objective=objective)
        model.loss(batch_of([([3], 7), ([], 2)]), NOISE)["loss"].backward()
        assert model.input is not None
        read, scored = model.input.weight.grad, model.output.weight.grad
        assert read is not None
        assert scored is not None
        assert read.any(dim=1).nonzero().flatten().tolist() == [3]
        assert scored[7].any()
        assert not scored[0].any()


def test_gradients_are_right():
    """Central differences in float64, through the recurrence, two layers, columns and the tied table."""
    model = make(layers=2, objective={"name": "bpr_max", "samples": 3})
    batch = batch_of([([1, 2, 3], 3), ([], 4), ([5], 1)])
    named = dict(model.named_parameters())

    def loss(*values: Tensor) -> Tensor:
        replaced = dict(zip((f"m.{n}" for n in named), values, strict=True))
        return torch.func.functional_call(_Loss(model), replaced, batch)

    assert torch.autograd.gradcheck(loss, tuple(named.values()), fast_mode=True)


class _Loss(torch.nn.Module):
    def __init__(self, m: GRU4Rec) -> None:
        super().__init__()
        self.m = m

    def forward(self, batch: Batch) -> Tensor:
        return self.m.loss(batch, NOISE)["loss"]


# ------------------------------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@torch.no_grad()
def test_items_are_drawn_by_popularity_to_the_power_alpha(alpha: float):
    """Shares of many draws within five deviations; items 7 and 10 are not in training, and never drawn."""
    model = make(n_items=10, objective={"name": "bpr", "alpha": alpha})
    counts = np.array([sum([*history, target].count(j) for history, target in COUNTED) for j in range(1, 11)])
    assert (counts[[6, 9]] == 0).all()
    weights = np.where(counts > 0, counts**alpha, 0)
    expected = weights / weights.sum()
    draws = np.concatenate([model.draw(5000, NOISE.at(step)).numpy() for step in range(8)])
    assert draws.min() >= 1
    assert draws.max() <= 10
    found = np.bincount(draws, minlength=11)[1:] / len(draws)
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / len(draws))).all()


def test_draws_change_with_the_step_and_not_with_rows_or_precision():
    model = make(objective={"name": "sampled_cross_entropy"})
    first = model.draw(50, NOISE)
    assert (first != model.draw(50, NOISE.at(1))).any()
    assert torch.equal(first, model.float().draw(50, NOISE))
    assert torch.equal(first, model.bfloat16().draw(50, NOISE))


# ------------------------------------------------------------------------------------------------------------ options


def test_initialisation():
    """Uniform within sqrt(6 / (rows + columns)), the gates each by itself; biases and padding 0."""
    seed_everything(0)
    config = GRU4RecConfig(dim=100, layers=2, embedding=Separate(dim=50))
    model = GRU4Rec(config, 1000)
    assert model.input is not None

    def is_uniform(weight: Tensor, bound: float) -> bool:
        weight = weight.detach()
        return float(weight.abs().max()) <= bound and weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)

    assert is_uniform(model.input.weight[1:], (6 / 1050) ** 0.5)
    assert is_uniform(model.output.weight[1:, :100], (6 / 1100) ** 0.5)
    assert not model.output.weight[:, 100].any()
    assert not model.output.weight[0].any()
    assert not model.input.weight[0].any()
    for layer, width in zip(model.layers, (50, 100), strict=True):
        for block in range(3):
            rows = slice(100 * block, 100 * block + 100)
            assert is_uniform(layer.cell.weight_ih[rows], (6 / (width + 100)) ** 0.5)
            assert is_uniform(layer.cell.weight_hh[rows], (6 / 200) ** 0.5)
        assert not layer.cell.bias_ih.any()
        assert not layer.cell.bias_hh.any()
    batch = batch_of(ruleless_rows(1000, 10, 100))
    loss = GRU4Rec(GRU4RecConfig(objective=CrossEntropy()), 1000).loss(batch, NOISE)["loss"]
    assert loss.item() == pytest.approx(math.log(1000), abs=0.1)


def test_a_separate_table_frees_the_output_from_the_input():
    names = {name for name, _ in make(embedding={"name": "separate", "dim": 3}).named_parameters()}
    assert names - {name for name, _ in make().named_parameters()} == {"input.weight"}


def test_defaults_are_those_of_the_authors():
    config = GRU4RecConfig()
    assert (config.dim, config.layers, config.embedding) == (100, 1, Tied())
    assert (config.embedding_dropout, config.dropout) == (0.0, 0.4)
    assert config.objective == SampledCrossEntropy(samples=2048, alpha=0.5, logq=1.0)
    assert (BPRMax().bpreg, BPRMax().elu) == (1.0, 0.5)
    assert all(issubclass(loss, SharedNegatives) for loss in (SampledCrossEntropy, BPRMax, TOP1Max, BPR, TOP1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "'layers' = 0"),
        ({"dropout": 1.0}, "'dropout' = 1.0"),
        ({"objective": {"name": "bprmax"}}, "Did you mean 'bpr_max'"),
        ({"objective": {"name": "cross_entropy", "samples": 3}}, "samples' is not an option"),
        ({"objective": {"name": "top1", "alpha": -1}}, "objective.alpha' = -1"),
        ({"embedding": {"name": "tied", "dim": 3}}, "embedding.dim' is not an option"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        GRU4RecConfig.from_plain({"name": "gru4rec", **options})


# ---------------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("name", ["bpr_max", "top1_max", "bpr", "top1"])
def test_every_sampled_loss_finds_the_planted_rule(name: str):
    """Cross-entropy is in test_conformance.py."""

    class Ranking(ModelConformance):
        noise_in_loss, learning_rate, steps = True, 1e-2, 50

        def make_model(self) -> GRU4Rec:
            plain = {"name": "gru4rec", "dim": 32, "dropout": 0.1, "objective": {"name": name, "samples": 60}}
            return GRU4Rec(GRU4RecConfig.from_plain(plain), self.n_items)

    Ranking().test_planted_rule_is_learnt()
    Ranking().test_mixed_precision()

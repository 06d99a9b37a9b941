"""STOSA against covariance matrices, a slow forward pass, and losses in plain arithmetic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from guiderec.data.batch import PADDING, Batch
from guiderec.errors import ConfigError
from guiderec.evaluation.ranking import target_ranks, top_k
from guiderec.models.base import ranks_by_vectors
from guiderec.models.stosa import STOSA, Ranking, STOSAConfig, distance, point, positive
from guiderec.rng import Noise, seed_everything
from guiderec.testing.oracles import Row, batch_of, ranks_by_loop, ruleless_rows

ITEMS = 9
ROWS: list[Row] = [([3, 1, 4], 1), ([5], 9), ([], 2), ([6, 5, 3, 5, 8], 9)]
CROSS_ENTROPY = {"objective": {"name": "cross_entropy"}}


def make(n_items: int = ITEMS, **options: Any) -> STOSA:
    seed_everything(0)
    small = {"name": "stosa", "dim": 8, "layers": 2, "heads": 2, "dropout": 0.0, "max_length": 6}
    model = STOSA(STOSAConfig.from_plain({**small, **options}), n_items).double().eval()
    with torch.no_grad():  # away from the small start, where covariances are all 1, norms the identity and biases 0
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.4)
        model.items.weight[0].zero_()
    return model


# ------------------------------------------------------------------------------------------------------- distances


def elu_plus_1(x: float) -> float:
    return x + 1 if x > 0 else math.exp(x)


def test_distance_is_that_of_the_optimal_transport_of_gaussians():
    """|m - n|^2 + tr(A + B - 2 (B^1/2 A B^1/2)^1/2) with full covariance matrices; diagonal ones are a special case."""
    generator = np.random.default_rng(0)
    for _ in range(5):
        m, n, a, b = generator.normal(size=(4, 3)) * 2
        found = distance(point(torch.tensor(m), torch.tensor(a)), point(torch.tensor(n), torch.tensor(b)))
        one, other = (np.diag([elu_plus_1(x) for x in raw]) for raw in (a, b))
        root = sqrtm(other)
        expected = ((m - n) ** 2).sum() + np.trace(one + other - 2 * sqrtm(root @ one @ root)).real
        assert found.item() == pytest.approx(expected, rel=1e-9)


def test_distance_is_the_cost_of_the_best_coupling_of_samples():
    """In one dimension the best coupling joins equal quantiles."""
    levels = (np.arange(20_000) + 0.5) / 20_000
    quantiles = torch.special.ndtri(torch.tensor(levels))
    m, n, a, b = 0.3, -1.2, 1.5, -0.7
    samples = [mean + math.sqrt(elu_plus_1(raw)) * quantiles for mean, raw in ((m, a), (n, b))]
    expected = (samples[0] - samples[1]).square().mean().item()
    places = [point(torch.tensor([mean]), torch.tensor([raw])) for mean, raw in ((m, a), (n, b))]
    assert distance(*places).item() == pytest.approx(expected, rel=1e-3)


def test_covariances_are_positive_and_have_gradients_however_small():
    """Of ELU(x) + 1, float32 leaves nothing below x = -17, and the root of nothing has no gradient."""
    raw = torch.tensor([-40.0, -20.0, -1.0, 0.0, 2.0, 1e4], requires_grad=True)
    found = positive(raw)
    torch.testing.assert_close(found, torch.tensor([elu_plus_1(x) for x in raw.tolist()]))
    assert (found > 0).all()
    (slope,) = torch.autograd.grad(found.sum(), raw)
    torch.testing.assert_close(slope, torch.tensor([math.exp(min(x, 0)) for x in raw.tolist()]))
    deviation = point(torch.zeros(6), raw)[6:] + 1
    torch.testing.assert_close(deviation, torch.tensor([math.sqrt(elu_plus_1(x)) for x in raw.tolist()]))
    (slope,) = torch.autograd.grad(deviation.sum(), raw)
    expected = [math.exp(x / 2) / 2 if x <= 0 else 0.5 / math.sqrt(1 + x) for x in raw.tolist()]
    torch.testing.assert_close(slope, torch.tensor(expected))


# --------------------------------------------------------------------------------------------------------- network


def slow_states(model: STOSA, history: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and covariance after each position of one unpadded history: one position, head and key at a time."""
    config = model.config
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    d, e = config.dim, config.dim // config.heads

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean()
        return weights[f"{name}.weight"] * centred / np.sqrt((centred**2).mean() + 1e-5) + weights[f"{name}.bias"]

    def elu(x: np.ndarray) -> np.ndarray:
        return np.array([v if v > 0 else math.expm1(v) for v in x])

    def feed(x: np.ndarray, name: str) -> np.ndarray:
        return linear(elu(linear(x, f"{name}.0")), f"{name}.2")

    length = len(history)
    means, covariances = [], []
    for place, item in enumerate(history):
        position = place if config.counting == "from_start" else length - 1 - place
        read = weights["items.weight"][item] + weights["positions.table.weight"][position]
        means.append(elu(norm(read[:d], "norm")))
        covariances.append(elu(norm(read[d:], "norm")) + 1)
    given = means
    for layer in range(config.layers):
        block = f"blocks.{layer}"
        attention = f"{block}.attention"

        def mapped(x: np.ndarray, stream: str, attention: str = attention) -> tuple[np.ndarray, ...]:
            """Query, key and value."""
            query, both = linear(x, f"{attention}.{stream}_query"), linear(x, f"{attention}.{stream}_key_value")
            found = (query, both[:d], both[d:])
            return found if stream == "mean" else tuple(elu(part) + 1 for part in found)

        of_mean = [mapped(x, "mean") for x in means]
        of_covariance = [mapped(x, "covariance") for x in covariances]
        new_means, new_covariances = [], []
        for i in range(length):
            mean_heads, covariance_heads = [], []
            for head in range(config.heads):
                cut = slice(head * e, (head + 1) * e)
                logits = []
                for j in range(i + 1):
                    apart = ((of_mean[i][0][cut] - of_mean[j][1][cut]) ** 2).sum()
                    apart += ((np.sqrt(of_covariance[i][0][cut]) - np.sqrt(of_covariance[j][1][cut])) ** 2).sum()
                    logits.append(-apart / math.sqrt(e))
                share = np.exp(np.array(logits) - max(logits))
                share /= share.sum()
                mean_heads.append(sum(share[j] * of_mean[j][2][cut] for j in range(i + 1)))
                covariance_heads.append(sum(share[j] ** 2 * of_covariance[j][2][cut] for j in range(i + 1)))
            mean = linear(np.concatenate(mean_heads), f"{attention}.mean_output")
            covariance = linear(np.concatenate(covariance_heads), f"{attention}.covariance_output")
            mean = norm(means[i] + mean, f"{block}.attention_norm")
            covariance = norm(covariances[i] + covariance, f"{block}.attention_norm")
            new_means.append(norm(mean + feed(mean, f"{block}.mean_feedforward"), f"{block}.mean_norm"))
            covariance = covariance + feed(covariance, f"{block}.covariance_feedforward")
            new_covariances.append(elu(norm(covariance, f"{block}.covariance_norm")) + 1)
        means = new_means if config.means == "attended" else given
        covariances = new_covariances
    return list(zip(means, covariances, strict=True))


@pytest.mark.parametrize(
    "options",
    [{}, {"counting": "from_start"}, {"means": "input"}, {"layers": 1, "heads": 1}, {"layers": 1, "means": "input"}],
    ids=str,
)
def test_states_are_those_of_a_slow_loop(options: dict[str, Any]):
    model = make(**options)
    history = batch_of(ROWS).history
    states, newest = model.states(history), model.newest_state(history)
    for row, (items, _) in enumerate(ROWS):
        if items:
            expected = [np.concatenate([m, np.sqrt(c) - 1]) for m, c in slow_states(model, items)]
            torch.testing.assert_close(states[row, -len(items) :], torch.tensor(np.array(expected)))
            torch.testing.assert_close(newest[row], torch.tensor(expected[-1]))


def test_rows_of_all_lengths_have_the_states_that_they_have_alone():
    model = make(max_length=16)
    rows = [([1 + (row + p) % 9 for p in range(row % 20)], 1) for row in range(60)]  # 8 rows and more of each bucket
    history = batch_of(rows).history
    together, newest = model.states(history), model.newest_state(history)
    for row, (items, _) in enumerate(rows):
        alone = model.states(torch.tensor([items or [PADDING]]))[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone)
        torch.testing.assert_close(newest[row], alone[-1])


def test_the_future_is_not_seen():
    model = make(counting="from_start")
    before, after = model.states(torch.tensor([[0, 3, 1, 4]])), model.states(torch.tensor([[0, 3, 1, 9]]))
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=0)
    assert (before[:, 3] != after[:, 3]).any()


def test_only_the_newest_items_of_a_long_history_count():
    model = make(max_length=4)
    long, cut = batch_of([([7, 8, 1, 2, 3, 4], 5)]), batch_of([([1, 2, 3, 4], 5)])
    torch.testing.assert_close(model.scores(long, Noise(0)), model.scores(cut, Noise(0)), rtol=0, atol=0)


def test_the_public_code_answers_with_the_mean_of_the_newest_item():
    """Its means never see the rest of the history; its covariances do, and the means of a repaired model do."""
    histories = torch.tensor([[1, 2, 3], [7, 8, 3]])
    for means in ("input", "attended"):
        first, second = make(means=means).newest_state(histories)
        assert torch.equal(first[:8], second[:8]) is (means == "input")
        assert not torch.equal(first[8:], second[8:])


def test_an_empty_history_has_one_answer_and_learns_it():
    model = make()
    batch = batch_of([([], 2), ([], 7), ([3], 4)])
    states = model.newest_state(batch.history)
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    before = model.loss(batch.rows(slice(0, 1)), Noise(0))["loss"]
    (slope,) = torch.autograd.grad(before, model.norm.bias)
    assert slope.any()
    with torch.no_grad():
        model.norm.bias -= 1e-3 * slope
    assert model.loss(batch.rows(slice(0, 1)), Noise(0))["loss"] < before


# --------------------------------------------------------------------------------------------------------- ranking


def test_scores_are_minus_the_distances_item_by_item():
    """From covariances, (B, I, D) at a time; row 0 alone has an empty history."""
    model = make()
    query = batch_of([([], 1), *ROWS])
    means, raw = model.items.weight[1:].chunk(2, dim=1)
    deviations = (torch.nn.functional.elu(raw) + 1).sqrt()
    state = model.newest_state(query.history)
    mean, deviation = state[:, None, :8], state[:, None, 8:] + 1
    expected = -((mean - means) ** 2).sum(dim=2) - ((deviation - deviations) ** 2).sum(dim=2)
    found = model.scores(query, Noise(0))
    assert found.shape == (5, ITEMS + 1)
    torch.testing.assert_close(found[:, 1:], expected, rtol=1e-12, atol=1e-12)


def test_scores_in_single_precision_rank_as_in_double():
    """|s|^2 - 2 s j + |j|^2 cancels; at the width of the paper and its start, it costs some 1e-6 of a distance."""
    seed_everything(0)
    model = STOSA(STOSAConfig(), 500).eval()
    query = batch_of(ruleless_rows(500, 10, 50))
    with torch.no_grad():
        single = model.scores(query, Noise(0)).double()
        double = model.double().scores(query, Noise(0))
    torch.testing.assert_close(single, double, rtol=3e-6, atol=0)


def test_scores_take_no_more_than_themselves_and_the_items():
    """Never B x I x D: the largest tensor on the way is the table of items, or the scores."""

    class Largest(torch.overrides.TorchFunctionMode):
        seen = 0

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **(kwargs or {}))
            if isinstance(found, Tensor):
                self.seen = max(self.seen, found.numel())
            return found

    model = make(n_items=200, max_length=3)
    query = batch_of(ruleless_rows(200, 3, 40))
    with torch.no_grad(), Largest() as largest:
        model.scores(query, Noise(0))
    assert largest.seen == max(40 * 201, 201 * 16)


def test_it_is_ranked_and_listed_without_vectors():
    model = make()
    batch = batch_of(ROWS)
    assert not ranks_by_vectors(model)
    with torch.no_grad():
        scores = model.scores(batch, Noise(0))
    assert target_ranks(model, batch, batch.target, Noise(0), block_items=4).tolist() == ranks_by_loop(
        scores, batch.target
    )
    _, listed = top_k(model, batch, 3, Noise(0))
    for row, items in enumerate(listed.tolist()):
        assert items == sorted(range(1, ITEMS + 1), key=lambda item: -float(scores[row, item]))[:3]


def test_no_rows_have_no_scores():
    none = batch_of(ROWS).rows(slice(0, 0))
    assert make().scores(none, Noise(0)).shape == (0, ITEMS + 1)


# ---------------------------------------------------------------------------------------------------------- losses


def test_ranking_is_the_formula():
    """D = 1, points (m, sqrt(c) - 1), two positions of which the second has one negative."""
    state = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    wanted = torch.tensor([[1.0, 1.0], [0.5, 0.0]])
    unwanted = torch.tensor([[[1.0, -1.0], [4.0, 0.0]], [[0.0, 0.0], [9.0, 9.0]]])
    real = torch.tensor([[True, True], [True, False]])
    found = Ranking(dissimilarity=0.1, negatives=2)(state, wanted, unwanted, real)

    def logistic(near: float, far: float) -> float:
        return -math.log(1 / (1 + math.exp(-(far - near))))

    first = (logistic(1, 1) + logistic(1, 9)) / 2  # W(s, i) = 1, W(s, n) = 1 and 9
    second = logistic(4.25, 4)
    hinge_1 = (max(0, 1 - 4) + max(0, 1 - 10)) / 2  # W(i, n) = 4 and 10
    hinge_2 = max(0, 4.25 - 0.25)
    assert found["ranking"].item() == pytest.approx((first + second) / 2)
    assert found["dissimilarity"].item() == pytest.approx((hinge_1 + hinge_2) / 2)
    assert found["loss"].item() == pytest.approx((first + second) / 2 + 0.1 * (hinge_1 + hinge_2) / 2)


def slow_distance(model: STOSA, state: list[float], item: int) -> float:
    means, raw = model.items.weight[item].tolist()[:8], model.items.weight[item].tolist()[8:]
    near = sum((s - m) ** 2 for s, m in zip(state[:8], means, strict=True))
    return near + sum((s + 1 - math.sqrt(elu_plus_1(c))) ** 2 for s, c in zip(state[8:], raw, strict=True))


def learnt(model: STOSA, predict: str) -> list[tuple[int, list[float], int, int]]:
    """(row, state, target, places before the newest) of every learnt position, by the rows' own lists."""
    states = model.states(batch_of(ROWS).history)
    found = []
    for row, (history, target) in enumerate(ROWS):
        items = [*history, target]
        places = range(len(history)) if predict == "every_position" and history else [len(history) - 1]
        for p in places:
            back = len(history) - 1 - p
            found.append((row, states[row, states.shape[1] - 1 - back].tolist(), items[p + 1], back))
    return found


@pytest.mark.parametrize(("predict", "positions"), [("every_position", 10), ("last_position", 4)])
def test_loss_is_that_of_every_learnt_position(predict: str, positions: int):
    model = make(predict=predict, objective={"name": "ranking", "dissimilarity": 0.2, "negatives": 2})
    batch = batch_of(ROWS)
    width = 5 if predict == "every_position" else 1
    negatives = model._negatives(batch, width, 2, Noise(0)).tolist()
    terms = []
    for row, state, target, back in learnt(model, predict):
        near, mean = slow_distance(model, state, target), model.items.weight[target].tolist()
        place = [*mean[:8], *(math.sqrt(elu_plus_1(c)) - 1 for c in mean[8:])]
        for negative in negatives[row][width - 1 - back]:
            far, apart = slow_distance(model, state, negative), slow_distance(model, place, negative)
            terms.append(math.log1p(math.exp(near - far)) + 0.2 * max(0.0, near - apart))
    assert len(terms) == 2 * positions
    assert model.loss(batch, Noise(0))["loss"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-10)


@pytest.mark.parametrize("predict", ["every_position", "last_position"])
def test_cross_entropy_is_over_minus_the_distances_to_all_items(predict: str):
    """Padding is neither a target nor in the denominator."""
    model = make(predict=predict, **CROSS_ENTROPY)
    terms = []
    for _, state, target, _ in learnt(model, predict):
        scores = [-slow_distance(model, state, item) for item in range(1, ITEMS + 1)]
        terms.append(math.log(sum(math.exp(score) for score in scores)) - scores[target - 1])
    assert model.loss(batch_of(ROWS), Noise(0))["loss"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-10)


def test_dissimilarity_draws_the_target_to_the_state_and_from_the_negative():
    """Alone, where the target is nearer to the negative than to the state; nothing, where it is not."""
    wanted = torch.tensor([[0.5, 0.0]], requires_grad=True)
    state, unwanted = torch.tensor([[2.0, 0.0]]), torch.tensor([[[0.0, 0.0]]])
    real = torch.ones(1, 1, dtype=torch.bool)
    (slope,) = torch.autograd.grad(Ranking()(state, wanted, unwanted, real)["dissimilarity"], wanted)
    assert slope[0, 0] < 0
    assert Ranking()(state, torch.tensor([[1.5, 0.0]]), unwanted, real)["dissimilarity"] == 0


def test_negatives_are_never_items_of_the_row_and_change_with_the_step():
    model, batch = make(n_items=12), batch_of(ROWS)
    drawn = model._negatives(batch, 5, 40, Noise(0))
    for row, (history, target) in enumerate(ROWS):
        assert set(drawn[row].flatten().tolist()) == set(range(1, 13)) - {*history, target}
    assert (drawn != model._negatives(batch, 5, 40, Noise(0, step=1))).any()


def test_a_row_that_has_every_item_has_no_negative():
    model = make(n_items=3)
    found = model.loss(batch_of([([1, 2], 3)]), Noise(0))
    assert found["loss"] == 0
    assert model.loss(batch_of([([1, 2], 2)]), Noise(0))["loss"] > 0


@pytest.mark.parametrize("options", [{}, CROSS_ENTROPY], ids=["ranking", "cross_entropy"])
def test_items_learn_as_input_and_as_target_and_padding_does_not(options: dict[str, Any]):
    model = make(**options)
    model.loss(batch_of([([3], 7)]), Noise(0))["loss"].backward()
    gradient = model.items.weight.grad
    assert gradient is not None
    assert gradient[3, :8].any()
    assert gradient[3, 8:].any()
    assert gradient[7, :8].any()
    assert gradient[7, 8:].any()
    assert not gradient[0].any()


@pytest.mark.parametrize("options", [{}, CROSS_ENTROPY], ids=["ranking", "cross_entropy"])
def test_gradients_are_right(options: dict[str, Any]):
    """Central differences in float64."""
    model = make(n_items=5, layers=1, dim=4, max_length=3, **options)
    batch = batch_of([([1, 2], 3), ([], 4)])
    named = dict(model.named_parameters())

    def loss(*values: Tensor) -> Tensor:
        names = (f"m.{name}" for name in named)
        return torch.func.functional_call(_Loss(model), dict(zip(names, values, strict=True)), batch)

    assert torch.autograd.gradcheck(loss, tuple(named.values()), fast_mode=True)


class _Loss(torch.nn.Module):
    def __init__(self, m: STOSA) -> None:
        super().__init__()
        self.m = m

    def forward(self, batch: Batch) -> Tensor:
        return self.m.loss(batch, Noise(0))["loss"]


# ------------------------------------------------------------------------------------------------ start and options


def test_start_is_the_authors():
    """N(0.01, 0.02^2) tables and maps, so that all items are near the same Gaussian with covariance near 1."""
    seed_everything(0)
    model = STOSA(STOSAConfig(), 1000)
    assert not model.items.weight[0].any()
    maps = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(maps) == 6 + 4
    for weight in (model.items.weight[1:], model.positions.table.weight, *maps):
        assert weight.mean().item() == pytest.approx(0.01, abs=1e-3)
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    biases = [m.bias for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert not any(bias.any() for bias in biases)
    found = model.eval().loss(batch_of(ruleless_rows(1000, 10, 100)), Noise(0))
    assert found["ranking"].item() == pytest.approx(math.log(2), abs=0.1)


@pytest.mark.parametrize("option", ["dropout", "attention_dropout"])
def test_dropout_is_active_in_training_only(option: str):
    model = make(**{option: 0.5})
    batch = batch_of(ruleless_rows(9, 5, 20))
    model.train()
    assert model.loss(batch, Noise(0))["loss"] != model.loss(batch, Noise(0))["loss"]
    model.eval()
    assert model.loss(batch, Noise(0))["loss"] == model.loss(batch, Noise(0))["loss"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 10, "heads": 4}, "heads = 4 does not divide dim = 10"),
        ({"dropout": 1.0}, "'dropout' = 1.0"),
        ({"means": "inputs"}, "'means' = 'inputs'"),
        ({"objective": {"name": "ranking", "dissimilarity": -1.0}}, "dissimilarity' = -1.0"),
        ({"objective": {"name": "cross_entropy", "negatives": 3}}, "negatives' is not an option"),
    ],
)
def test_impossible_options(options: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        STOSAConfig.from_plain({"name": "stosa", **options})

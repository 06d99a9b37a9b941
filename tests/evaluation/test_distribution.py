from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from ranked_models import MeanOfHistory, Table, Vectors, make_rows
from torch import Tensor

from guiderec.data.batch import Query
from guiderec.data.sequences import Rows, Sequences
from guiderec.errors import ConfigError, DataError, ScoreError
from guiderec.evaluation import distribution
from guiderec.evaluation.distribution import generated, kernel, median_distance, mmd, mmd2, swapped_sums
from guiderec.evaluation.ranking import target_ranks
from guiderec.rng import Noise


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_kernel(u: list[float], v: list[float], median: float) -> float:
    squared = sum((a - b) ** 2 for a, b in zip(u, v, strict=True))
    return sum(math.exp(-squared / (2 * (c * median) ** 2)) for c in (0.25, 0.5, 1, 2, 4)) / 5


def slow_mmd2(x: list[list[float]], y: list[list[float]], median: float, users: list[int]) -> float:
    """The four sums of the definition, over pairs of rows of different users."""
    pairs = [(r, s) for r, s in product(range(len(x)), repeat=2) if users[r] != users[s]]
    k = lambda u, v: slow_kernel(u, v, median)  # noqa: E731
    generated_ = sum(k(x[r], x[s]) for r, s in pairs) / len(pairs)
    true = sum(k(y[r], y[s]) for r, s in pairs) / len(pairs)
    across = sum(k(x[r], y[s]) for r, s in pairs) / len(pairs)
    return generated_ + true - 2 * across


def unit(vectors: Tensor) -> list[list[float]]:
    return [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in vectors.tolist()]


# --- the estimate -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [2, 5, 256])
@pytest.mark.parametrize("users", [None, [0, 0, 1, 2, 2, 2, 3, 4, 5, 0, 6]])
def test_agrees_with_the_slow_double_loop(block: int, users: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "BLOCK_ROWS", block)
    x, y = normal(11, 3), 0.5 * normal(11, 3, seed=1) + 1
    found = mmd(x.float(), y.float(), users=None if users is None else np.array(users))
    pooled = unit(x) + unit(y)
    distances = [math.dist(u, v) for i, u in enumerate(pooled) for v in pooled[:i]]
    assert found.median_distance == pytest.approx(sorted(distances)[(len(distances) - 1) // 2], rel=1e-6)
    expected = slow_mmd2(unit(x), unit(y), found.median_distance, users or list(range(11)))
    assert found.mmd2 == pytest.approx(expected, rel=1e-5)
    assert (found.n_rows, found.unit) == (11, "row" if users is None else "user")
    plain = found.to_plain()
    assert plain["bandwidths"] == pytest.approx([found.median_distance * c for c in (4, 2, 1, 0.5, 0.25)])


def test_kernel_is_the_mixture() -> None:
    a, b = normal(4, 3), normal(5, 3, seed=1)
    expected = [[slow_kernel(u, v, 0.7) for v in b.tolist()] for u in a.tolist()]
    torch.testing.assert_close(kernel(a, b, 0.7), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(kernel(a, a, 0.7).diagonal(), torch.ones(4, dtype=torch.float64))


def test_agrees_with_the_closed_form_for_normal_distributions() -> None:
    """E k over N(m_1, s_1^2 I), N(m_2, s_2^2 I) under exp(-|u-v|^2 / 2b^2): v = b^2 + s_1^2 + s_2^2,
    (b^2/v)^(D/2) exp(-|m_1-m_2|^2 / 2v)."""
    n, width, median = 3_000, 4, 1.3
    shift, s_x, s_y = 0.3, 0.8, 1.1

    def expected_kernel(distance: float, variance: float) -> float:
        terms = [(c * median) ** 2 for c in (0.25, 0.5, 1, 2, 4)]
        return sum(
            (b / (b + variance)) ** (width / 2) * math.exp(-(distance**2) / (2 * (b + variance))) for b in terms
        ) / len(terms)

    truth = (
        expected_kernel(0, 2 * s_x**2)
        + expected_kernel(0, 2 * s_y**2)
        - 2 * expected_kernel(math.sqrt(width) * shift, s_x**2 + s_y**2)
    )
    found = [
        mmd2(s_x * normal(n, width, seed=2 * i), s_y * normal(n, width, seed=2 * i + 1) + shift, median)
        for i in range(4)
    ]
    error = np.std(found, ddof=1) / 2
    assert abs(np.mean(found) - truth) < 4 * error
    assert error < 0.05 * truth


def test_agrees_with_the_closed_form_for_three_points() -> None:
    """Three directions, all as far apart: MMD^2 = (1 - k) sum_i (p_i - q_i)^2, whatever the lengths were."""
    n, p, q = 4_000, np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
    random = np.random.default_rng(0)
    angles = 2 * math.pi * np.arange(3) / 3
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    x, y = (points[random.choice(3, size=n, p=shares)] * (0.1 + random.random((n, 1))) for shares in (p, q))
    found = mmd(torch.tensor(x), torch.tensor(y), permutations=19)
    assert found.median_distance == pytest.approx(math.sqrt(3))
    k = slow_kernel(points[0].tolist(), points[1].tolist(), math.sqrt(3))
    assert found.mmd2 == pytest.approx((1 - k) * ((p - q) ** 2).sum(), rel=0.15)
    assert found.p == 1 / 20


def test_dependence_inside_rows_does_not_bias_the_estimate() -> None:
    """x and y of a row are nearly equal, and have one distribution. With the cross terms of a row with itself, as for
    two independent samples, the same draws give a mean far below 0."""
    draws, n = 400, 8
    ours, usual = [], []
    for i in range(draws):
        y = normal(n, 2, seed=2 * i)
        x = (0.99 * y + math.sqrt(1 - 0.99**2) * normal(n, 2, seed=2 * i + 1)).double()
        ours.append(mmd2(x, y, 1.5))
        same = kernel(x, y, 1.5)
        usual.append(ours[-1] + 2 * (same.sum() - same.trace()).item() / (n * (n - 1)) - 2 * same.mean().item())
    error = np.std(ours, ddof=1) / math.sqrt(draws)
    assert abs(np.mean(ours)) < 4 * error
    assert np.mean(usual) < -10 * error


def test_equal_vectors_have_no_discrepancy_and_unequal_ones_have() -> None:
    x = normal(300, 5)
    same = mmd(x, x.clone())
    assert same.mmd2 == pytest.approx(0, abs=1e-15)
    assert same.p == 1  # what is left is rounding, and is not tested
    shuffled = mmd(x, x[torch.randperm(300, generator=torch.Generator().manual_seed(0))])
    assert abs(shuffled.mmd2) < 2 / 299  # the pairing counts for no more than R of the R^2 cross terms
    apart = mmd(x, x + 2)
    assert apart.mmd2 > 0.1
    assert apart.p == 1 / 1000


def test_only_directions_count() -> None:
    x, y = normal(50, 4), normal(50, 4, seed=1)
    assert mmd(7 * x, 0.01 * y).mmd2 == pytest.approx(mmd(x, y).mmd2, rel=1e-9)


def test_small_differences_survive_when_vectors_are_close_together() -> None:
    """Collapsed embeddings: in float32 the distances would be rounding."""
    centre = normal(1, 16)
    x, y = centre + 1e-5 * normal(40, 16), centre + 1e-5 * normal(40, 16, seed=1)
    found = mmd(x, y, permutations=9)
    assert found.mmd2 == pytest.approx(slow_mmd2(unit(x), unit(y), found.median_distance, list(range(40))), rel=1e-3)


def test_the_median_of_a_sample_is_near_the_median_of_all() -> None:
    x, y = normal(500, 3), normal(500, 3, seed=1)
    exact, all_rows = median_distance(x, y)
    sampled, rows = median_distance(x, y, rows=200)
    assert (all_rows, rows) == (500, 200)
    assert sampled != exact
    assert sampled == pytest.approx(exact, rel=0.05)
    assert median_distance(x, y, rows=200) == (sampled, rows)


# --- the test -----------------------------------------------------------------------------------------------------


def test_a_sign_is_a_swap() -> None:
    """Every pattern of signs against swapping the vectors and computing the estimate again."""
    x, y, users = normal(6, 2), 0.3 * normal(6, 2, seed=1), np.array([0, 0, 1, 2, 3, 3])
    patterns = np.array(list(product([1, -1], repeat=4)), dtype=np.int8)
    signs = torch.from_numpy(patterns[:, users].T.copy())
    mean, sums = swapped_sums(x, y, 0.9, users, signs)
    n_pairs = 36 - (4 + 1 + 1 + 4)
    assert sums[0].item() / n_pairs == pytest.approx(mean, rel=1e-5)
    for column, found in zip(signs.T, sums, strict=True):
        swap = (column < 0)[:, None]
        expected = slow_mmd2(torch.where(swap, y, x).tolist(), torch.where(swap, x, y).tolist(), 0.9, users.tolist())
        assert found.item() / n_pairs == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_p_is_uniform_where_there_is_nothing_to_find() -> None:
    p = np.array([mmd(normal(30, 2, seed=2 * i), normal(30, 2, seed=2 * i + 1), permutations=99).p for i in range(300)])
    for level in (0.05, 0.2, 0.5):
        assert abs((p <= level).mean() - level) < 4 * math.sqrt(level * (1 - level) / 300)


def test_rows_of_one_user_are_one_observation() -> None:
    """Ten copies of every row: taken for independent rows, chance looks like a finding."""
    users = np.repeat(np.arange(12), 10)
    clustered, naive = [], []
    for i in range(60):
        x, y = (normal(12, 2, seed=2 * i + j).repeat_interleave(10, dim=0) for j in (0, 1))
        clustered.append(mmd(x, y, users=users, permutations=99).p)
        naive.append(mmd(x, y, permutations=99).p)
    assert np.mean(np.array(clustered) <= 0.05) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 60)
    assert np.mean(np.array(naive) <= 0.05) > 0.5


def test_the_same_call_gives_the_same_answer() -> None:
    x, y = normal(100, 3), normal(100, 3, seed=1)
    assert mmd(x, y) == mmd(x, y)
    assert mmd(x, y, seed=1).mmd2 == mmd(x, y).mmd2


def test_what_cannot_be_measured_says_why() -> None:
    with pytest.raises(DataError, match=r"one shape, got \(3, 2\) and \(4, 2\)"):
        mmd(normal(3, 2), normal(4, 2))
    with pytest.raises(DataError, match="rows of at least two users"):
        mmd(normal(3, 2), normal(3, 2, seed=1), users=np.array([5, 5, 5]))
    with pytest.raises(DataError, match="rows of at least two users; found 0"):
        mmd(normal(0, 2), normal(0, 2))
    with pytest.raises(DataError, match=r"Most of the vectors are equal.*Hint: the embeddings have collapsed"):
        mmd(torch.ones(5, 2), torch.ones(5, 2))
    broken = normal(3, 2)
    broken[1, 0] = math.nan
    with pytest.raises(DataError, match="true vector of row 1 is not finite"):
        mmd(normal(3, 2), broken)


# --- what is generated --------------------------------------------------------------------------------------------


@pytest.fixture
def rows() -> Rows:
    return make_rows()


def test_the_vectors_are_those_that_the_rows_are_ranked_with(rows: Rows) -> None:
    """One row at a time, straight from the model; and scoring the table with them gives the ranks."""
    model = MeanOfHistory(50).train()
    found = generated(model, rows, max_length=4, noise=Noise(7), batch_size=17)
    assert model.training
    assert found.interests == 1
    expected = []
    for r in range(len(rows)):
        history, target = rows.windows(np.array([r]), 4)
        query = Query(torch.tensor(history), torch.tensor(rows.keys()[r : r + 1]))
        expected.append(model.eval().user_vectors(query, Noise(7))[0, 0].detach())
        assert found.targets[r] == target[0]
        rank = target_ranks(model, query, torch.tensor(target), Noise(7))
        scores = found.vectors[r] @ found.items.T
        assert int((scores[1:] >= scores[target[0]] - 1e-6).sum()) == int(rank)
    torch.testing.assert_close(found.vectors, torch.stack(expected), rtol=0, atol=1e-6)
    assert found.items.equal(model.items.detach())
    assert found.true.equal(model.items.detach()[torch.from_numpy(rows.targets())])
    assert (found.users.tolist(), found.keys.tolist()) == (rows.users().tolist(), rows.keys().tolist())
    assert not found.vectors.requires_grad
    assert not found.items.requires_grad
    other = generated(model, rows, max_length=4, noise=Noise(8))
    assert not other.vectors.equal(found.vectors)


def test_of_several_interests_the_one_that_scores_the_target_is_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    lists = Rows.last_items(Sequences.from_lists([[1, j] for j in range(2, 12)], users=np.arange(10)))

    class ByUser(Vectors):
        def user_vectors(self, query: Query, noise: Noise) -> Tensor:
            return self.users[query.key >> 20]

    model = ByUser(torch.randn(10, 3, 4, generator=generator), torch.randn(12, 4, generator=generator))
    found = generated(model, lists, max_length=2, batch_size=3)
    assert found.interests == 3
    scores = (found.vectors * found.true).sum(dim=1)
    for r in range(10):
        each = [float(model.users[r, k] @ model.items[r + 2]) for k in range(3)]
        assert float(scores[r]) == pytest.approx(max(each))
        assert any(found.vectors[r].equal(model.users[r, k]) for k in range(3))


def test_shards_add_up(rows: Rows) -> None:
    model = MeanOfHistory(50)
    with pytest.raises(DataError, match="not evaluated exactly once"):
        generated(model, rows, max_length=4, batch_size=10, shard=(0, 2))
    handed: list[list[Tensor]] = [[], []]
    for rank in (0, 1):
        with pytest.raises(DataError, match="exactly once"):
            generated(
                model, rows, max_length=4, batch_size=10, shard=(rank, 2),
                sum_over=lambda t, to=handed[rank]: to.append(t) or t,
            )  # fmt: skip
    totals = iter([a + b for a, b in zip(*handed, strict=True)])
    joined = generated(model, rows, max_length=4, batch_size=10, shard=(1, 2), sum_over=lambda _: next(totals))
    assert joined.vectors.equal(generated(model, rows, max_length=4, batch_size=10).vectors)


def test_models_without_vectors_and_broken_ones_are_named(rows: Rows) -> None:
    class Distances(MeanOfHistory):
        def scores(self, query: Query, noise: Noise) -> Tensor:
            return -torch.cdist(self.user_vectors(query, noise)[:, 0], self.items)

    for model in (Table(torch.zeros(101, 51)), Distances(50)):
        with pytest.raises(ConfigError, match=f"{type(model).__name__} does not rank by vectors"):
            generated(model, rows, max_length=4)

    class Breaks(MeanOfHistory):
        def user_vectors(self, query: Query, noise: Noise) -> Tensor:
            vectors = super().user_vectors(query, noise)
            vectors[query.key == int(rows.keys()[37])] = torch.nan
            return vectors

    with pytest.raises(ScoreError, match=rf"Evaluation row 37 \(user {rows.users()[37]}\): .* 1 of 101 rows"):
        generated(Breaks(50), rows, max_length=4, batch_size=10)
    with pytest.raises(DataError, match="no rows to generate for"):
        generated(MeanOfHistory(50), Rows(rows.sequences, rows.sequence[:0], rows.position[:0]), max_length=4)

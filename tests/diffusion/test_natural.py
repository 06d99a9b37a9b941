"""Natural-gradient guidance against its own promise: the constraints, the least change, and a general solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from guiderec.diffusion.natural import NaturalGuidance, solve_damped
from guiderec.errors import ConfigError

ITEMS, DIM = 40, 6
EXACT = {"ridge": 0.0, "damping": 1e-9, "temperature": 1.0, "nearest": ITEMS}


@pytest.fixture
def table() -> Tensor:
    rows = torch.randn(ITEMS + 1, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows[0] = 0
    return rows


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def added(x: Tensor, table: Tensor, items: list[list[int]], signs: list[list[int]], scale: float, **options) -> Tensor:
    wished = torch.tensor(items)
    akin = options.pop("akin", torch.zeros(*wished.shape, 2, dtype=torch.int64))
    shares = options.pop("shares", torch.ones_like(akin, dtype=x.dtype))
    return NaturalGuidance(**options)(x, table, wished, akin, shares, torch.tensor(signs, dtype=x.dtype), scale)


def p_of(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    logits = table[1:] @ x
    weight = np.exp(logits - logits.max())
    return weight / weight.sum()


@pytest.mark.parametrize("kinship", [0.0, 0.2])
def test_each_wish_moves_by_what_was_asked(x: Tensor, table: Tensor, kinship: float):
    """The score of the wished item, over the mean: down to the 10th, up to the first, or by `least` deviations."""
    akin = torch.full((3, 2, 2), 11)
    options = {"kinship": kinship, "place": 10, "least": 0.25, "akin": akin, **EXACT}
    steps = added(x, table, [[3, 8], [5, 0], [1, 2]], [[-1, 1], [-1, -1], [1, 1]], 0.7, **options)
    for row, asked in enumerate([{3: -1, 8: 1}, {5: -1}, {1: 1, 2: 1}]):
        scores = x[row] @ table[1:].T
        order = scores.sort(descending=True).values
        mean = scores.softmax(0) @ table[1:]
        moved = steps[row].sum(dim=0)
        for item, sign in asked.items():
            own = scores[item - 1]
            far = max(order[0] - own if sign > 0 else own - order[9], 0.25 * scores.std())
            assert float((table[item] - mean) @ moved) == pytest.approx(sign * 0.7 * float(far), rel=1e-6)
    assert not steps[1, 1].any()


def test_no_step_with_the_same_effect_changes_the_list_less(x: Tensor, table: Tensor):
    """The KKT system in NumPy gives the same step; and the divergence, measured, is least there for small steps."""
    options = {"kinship": 0.0, "least": 99.0, **EXACT}
    step = added(x[:1], table, [[3, 8]], [[-1, 1]], 0.01 / 99, **options)[0].sum(dim=0).numpy()
    rows, point = table.numpy(), x[0].numpy()
    p = p_of(point, rows)
    mean = p @ rows[1:]
    fisher = (rows[1:] - mean).T @ np.diag(p) @ (rows[1:] - mean)
    G = rows[[3, 8]] - mean
    b = np.array([-0.01, 0.01]) * (rows[1:] @ point).std(ddof=1)
    system = np.block([[fisher, G.T], [G, np.zeros((2, 2))]])
    np.testing.assert_allclose(step, np.linalg.solve(system, np.concatenate([np.zeros(DIM), b]))[:DIM], rtol=1e-5)

    def divergence(change: np.ndarray) -> float:
        q = p_of(point + change, rows)
        return float((q * np.log(q / p)).sum())

    free = np.linalg.svd(G)[2][2:]  # directions that no wish sees
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert divergence(step) < divergence(step + 0.3 * np.linalg.norm(step) * rng.normal(size=len(free)) @ free)


def test_neighbours_are_taken_along(x: Tensor, table: Tensor):
    """The step is a multiple of F^-1 (c + kinship sum c_n), by hand; padding among the neighbours counts nothing."""
    akin = torch.tensor([[[4, 0]]])
    step = added(x[:1], table, [[3]], [[-1]], 0.5, kinship=0.25, akin=akin, **EXACT)[0, 0].numpy()
    p = p_of(x[0].numpy(), table.numpy())
    rows = table[1:].numpy() - p @ table[1:].numpy()
    fisher = rows.T @ np.diag(p) @ rows
    direction = np.linalg.solve(fisher, rows[2] + 0.25 * rows[3])
    np.testing.assert_allclose(step / np.linalg.norm(step), -direction / np.linalg.norm(direction), atol=1e-6)


def test_neighbours_that_hold_an_item_back_are_left(x: Tensor, table: Tensor):
    """Its opposite as the only neighbour: the item still moves as far as it was asked."""
    table[4] = -3 * table[3]
    akin = torch.tensor([[[4, 0]]])
    step = added(x[:1], table, [[3]], [[-1]], 1.0, kinship=0.9, akin=akin, **EXACT)[0, 0]
    alone = added(x[:1], table, [[3]], [[-1]], 1.0, kinship=0.0, **EXACT)[0, 0]
    torch.testing.assert_close(step, alone)


def test_what_is_said_twice_counts_once(x: Tensor, table: Tensor):
    once = added(x[:1], table, [[3]], [[-1]], 1.0).sum(dim=1)
    twice = added(x[:1], table, [[3, 3]], [[-1, -1]], 1.0).sum(dim=1)
    torch.testing.assert_close(once, twice, rtol=0.02, atol=0)  # but for the ridge


def test_contradictions_stay_small(x: Tensor, table: Tensor):
    """To like and dislike what is nearly the same does not tear the vector apart."""
    table[9] = table[8] + 1e-6
    steps = added(x[:1], table, [[8, 9]], [[-1, 1]], 1.0)
    one = added(x[:1], table, [[8]], [[-1]], 1.0)
    assert float(steps.sum(dim=1).norm()) < float(one.norm())


def test_the_list_far_down_is_not_looked_at(x: Tensor, table: Tensor):
    """With M nearest items, changing the vector of any other changes neither direction nor kept surroundings."""
    scores = x[:1] @ table[1:].T
    far = int(scores.argmin()) + 1
    near = int(scores.argmax()) + 1
    options = {"nearest": 20, "place": 20, "least": 0.0}
    before = added(x[:1], table, [[near]], [[-1]], 1.0, **options)
    table[far] = table[far] * 1.01
    torch.testing.assert_close(added(x[:1], table, [[near]], [[-1]], 1.0, **options), before)


@pytest.mark.parametrize("M", [3, 6, 20])
def test_both_sides_of_the_inverse_agree(M: int):
    X, G = torch.randn(2, M, 6, dtype=torch.float64), torch.randn(2, 3, 6, dtype=torch.float64)
    found = solve_damped(X, 0.2, G)
    for row in range(2):
        F = X[row].T @ X[row]
        expected = torch.linalg.solve(F + 0.2 * F.trace() / 6 * torch.eye(6, dtype=torch.float64), G[row].T).T
        torch.testing.assert_close(found[row], expected)


def test_blocks_of_rows_change_nothing(x: Tensor, table: Tensor, monkeypatch: pytest.MonkeyPatch):
    whole = added(x, table, [[3], [0], [5]], [[-1], [1], [1]], 1.0)
    monkeypatch.setattr("guiderec.diffusion.natural.BLOCK_NUMBERS", 1)
    torch.testing.assert_close(added(x, table, [[3], [0], [5]], [[-1], [1], [1]], 1.0), whole)
    assert not whole[1].any()


def test_items_that_are_all_alike_are_refused(x: Tensor):
    with pytest.raises(ConfigError, match="all vectors around a user are equal"):
        added(x[:1], torch.ones(11, DIM, dtype=torch.float64), [[3]], [[-1]], 1.0)

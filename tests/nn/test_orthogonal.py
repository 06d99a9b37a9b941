"""Orthogonal by construction, whatever an optimizer does; the newest state against the whole attention, read slowly."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import orthogonal

from guiderec.nn.orthogonal import LevelAttention, OrthogonalMatrix

DIM, LONGEST, HEADS = 12, 5, 3
HISTORIES = [[1, 2, 3, 4, 5], [6], [], [7, 8, 7], [2, 2, 2, 2]]


def turned(dim: int = DIM, *, scale: float = 0.5, seed: int = 0) -> OrthogonalMatrix:
    """A matrix away from its start."""
    torch.manual_seed(seed)
    matrix = OrthogonalMatrix(dim)
    matrix.weight.data.normal_(std=scale)
    return matrix


def make(*, average_heads: bool = False) -> LevelAttention:
    """In float64, with no weight at a value that would hide a mistake."""
    torch.manual_seed(0)
    attention = LevelAttention(DIM, LONGEST, heads=HEADS, average_heads=average_heads).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return attention.eval()


def table() -> Tensor:
    vectors = torch.randn(9, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    vectors[0] = 0
    return vectors


def padded(histories: list[list[int]], width: int = LONGEST) -> Tensor:
    return torch.tensor([[0] * (width - len(items)) + items for items in histories])


def states(attention: LevelAttention, histories: list[list[int]], *, width: int = LONGEST) -> Tensor:
    ids = padded(histories, width)
    return attention(table()[ids], ids != 0)


def distance_from_orthogonal(q: Tensor) -> float:
    return float((q.T @ q - torch.eye(len(q), dtype=q.dtype)).abs().max())


# ------------------------------------------------------------------------------------------------ the matrix


def test_starts_from_its_base():
    matrix = OrthogonalMatrix(DIM)
    assert torch.equal(matrix(), matrix.base)
    assert distance_from_orthogonal(matrix.base) < 1e-6


def test_two_dimensions_by_hand():
    """A = [[0, -a], [a, 0]] gives the rotation by -2 atan(a)."""
    matrix = OrthogonalMatrix(2).double()
    matrix.weight.data.fill_(0.7)
    angle = -2 * math.atan(0.7)
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    torch.testing.assert_close(matrix(), matrix.base @ rotation, rtol=0, atol=1e-7)


@torch.no_grad()
def test_is_the_cayley_map_of_torch():
    """Which has half of A where we have A, and the other sign."""
    matrix = turned().double()
    row, column = torch.tril_indices(DIM, DIM, offset=-1)
    linear = orthogonal(nn.Linear(DIM, DIM, bias=False).double(), orthogonal_map="cayley", use_trivialization=False)
    lower = torch.zeros(DIM, DIM, dtype=torch.float64)
    lower[row, column] = -2 * matrix.weight
    linear.parametrizations.weight.original.copy_(lower)
    torch.testing.assert_close(matrix(), matrix.base @ linear.weight, rtol=0, atol=1e-10)


def test_gradient_is_the_numerical_one():
    matrix = turned(5).double()
    weight = matrix.weight.detach().clone().requires_grad_()

    def of(values: Tensor) -> Tensor:
        return torch.func.functional_call(matrix, {"weight": values})

    assert torch.autograd.gradcheck(of, weight)


def test_stays_orthogonal_under_wild_steps():
    """Adam with a step of 1, far more than any training; and the blocks of columns are orthogonal to each other."""
    matrix = turned()
    optimizer = torch.optim.Adam(matrix.parameters(), lr=1.0)
    wanted = torch.randn(DIM, DIM)
    start = matrix().detach()
    for _ in range(100):
        optimizer.zero_grad()
        (matrix() - wanted).square().sum().backward()
        optimizer.step()
    q = matrix().detach()
    assert (q - start).norm() > 1  # it went somewhere
    assert distance_from_orthogonal(q) < 1e-5
    blocks = q.split(DIM // HEADS, dim=1)
    for i, one in enumerate(blocks):
        for j, other in enumerate(blocks):
            expected = torch.eye(DIM // HEADS) if i == j else torch.zeros(DIM // HEADS, DIM // HEADS)
            torch.testing.assert_close(one.T @ other, expected, rtol=0, atol=1e-5)


def test_finds_an_orthogonal_target():
    """All rotations of the base but a null set can be reached: gradient descent finds one."""
    torch.manual_seed(3)
    matrix = OrthogonalMatrix(6)
    skew = torch.randn(6, 6).tril(-1)
    wanted = matrix.base @ torch.linalg.matrix_exp(0.5 * (skew - skew.T))
    optimizer = torch.optim.Adam(matrix.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (matrix() - wanted).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(matrix(), wanted, rtol=0, atol=1e-3)


def test_base_is_uniform_over_the_group():
    """Rotations and reflections alike, no entry preferred: the sign of R's diagonal is accounted for."""
    torch.manual_seed(0)
    bases = torch.stack([OrthogonalMatrix(2).base for _ in range(2000)])
    assert abs(float((torch.linalg.det(bases) > 0).float().mean()) - 0.5) < 5 * 0.5 / math.sqrt(2000)
    deviation = bases.std(dim=0) / math.sqrt(2000)
    assert (bases.mean(dim=0).abs() < 5 * deviation).all()


def test_survives_storage_and_double():
    matrix = turned()
    fresh = OrthogonalMatrix(DIM)
    assert not torch.equal(fresh(), matrix())
    fresh.load_state_dict(load(save({name: tensor.contiguous() for name, tensor in matrix.state_dict().items()})))
    assert torch.equal(fresh(), matrix())
    double = fresh.double()()
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), matrix(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stays_orthogonal_under_autocast(dtype: torch.dtype):
    matrix = turned()
    with torch.autocast("cpu", dtype=dtype):
        q = matrix()
    assert q.dtype == torch.float32
    assert torch.equal(q, matrix())


# ------------------------------------------------------------------------------------------------ the attention


def norm(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    centred = x - sum(x.tolist()) / len(x)
    variance = sum(value * value for value in centred.tolist()) / len(x)
    return layer.weight * centred / math.sqrt(variance + layer.eps) + layer.bias


def all_states(attention: LevelAttention, items: list[int], *, average: bool) -> list[Tensor]:
    """H at every position of one history, oldest first: causal, level by level, pair by pair, nothing folded."""
    n, width = len(items), DIM // HEADS
    places = attention.positions.table.weight
    x = [table()[item] + places[n - 1 - i] for i, item in enumerate(items)]
    u, v = attention.query_levels(), attention.key_levels()
    found = []
    for i in range(n):
        out = torch.zeros(DIM, dtype=torch.float64)
        for level in range(HEADS):
            block = slice(level * width, (level + 1) * width)
            query = (attention.query.weight @ x[i]) @ u[:, block]
            keys = [(attention.key.weight @ x[j]) @ v[:, block] for j in range(i + 1)]
            odds = [math.exp(float(query @ key) / math.sqrt(width)) for key in keys]
            for j, odd in enumerate(odds):
                out = out + odd / sum(odds) * (attention.value.weight @ x[j])
        y = x[i] + (out / HEADS if average else out)
        inner = attention.inner.weight @ y + attention.inner.bias
        positive = torch.stack([value if value > 0 else 0 * value for value in inner])
        found.append(norm(y + attention.outer.weight @ positive + attention.outer.bias, attention.norm))
    return found


@pytest.mark.parametrize("average", [False, True])
@torch.no_grad()
def test_newest_state_is_that_of_the_whole_attention(average: bool):
    attention = make(average_heads=average)
    found = states(attention, HISTORIES)
    for row, items in enumerate(HISTORIES):
        if items:
            expected = all_states(attention, items, average=average)[-1]
            torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_empty_history_is_the_same_constant_in_any_company():
    attention = make()
    alone, among = states(attention, [[]]), states(attention, HISTORIES)
    torch.testing.assert_close(alone[0], among[2], rtol=0, atol=1e-14)
    y = attention.positions.table.weight[0]  # no item, nothing attended to
    expected = attention.norm(y + attention.outer(F.relu(attention.inner(y))))
    torch.testing.assert_close(alone[0], expected, rtol=0, atol=1e-14)


@torch.no_grad()
def test_more_padding_changes_nothing_and_what_stands_there_is_never_seen():
    attention, ids = make(), padded(HISTORIES, 5)
    narrow = states(attention, [[6], [7, 8, 7]], width=3)
    torch.testing.assert_close(states(attention, [[6], [7, 8, 7]], width=5), narrow, rtol=0, atol=1e-13)
    vectors = table()[ids]
    some = [0, 1, 3, 4]  # the newest position of the empty history is padding itself
    spoilt = torch.where((ids == 0)[:, :, None], 1e3, vectors)
    found = attention(spoilt, ids != 0)[some]
    torch.testing.assert_close(found, attention(vectors, ids != 0)[some], rtol=0, atol=0)


@torch.no_grad()
def test_order_matters_through_positions():
    found = states(make(), [[1, 2, 3], [2, 1, 3]])
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_shared_matrices_are_those_it_would_compute():
    attention, ids = make(), padded(HISTORIES)
    folded = attention.folded()
    assert torch.equal(attention(table()[ids], ids != 0, folded), attention(table()[ids], ids != 0))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="a width of 12 cannot be split into 5 heads"):
        LevelAttention(12, 3, heads=5)

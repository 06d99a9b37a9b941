from __future__ import annotations

import math

import pytest
import torch

from guiderec.nn.contrastive import info_nce


def by_loop(first: torch.Tensor, second: torch.Tensor, temperature: float, similarity: str) -> float:
    """One state, one other state at a time."""
    states = [*first.tolist(), *second.tolist()]
    n = len(first)

    def alike(x: list[float], y: list[float]) -> float:
        product = sum(a * b for a, b in zip(x, y, strict=True))
        return product if similarity == "dot" else product / (math.hypot(*x) * math.hypot(*y))

    terms = []
    for i, state in enumerate(states):
        others = [math.exp(alike(state, other) / temperature) for j, other in enumerate(states) if j != i]
        partner = states[i + n if i < n else i - n]
        terms.append(math.log(sum(others)) - alike(state, partner) / temperature)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("similarity", ["dot", "cos"])
@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_is_the_formula(rows: int, temperature: float, similarity: str):
    generator = torch.Generator().manual_seed(rows)
    first, second = torch.randn(2, rows, 3, dtype=torch.float64, generator=generator)
    found = info_nce(first, second, temperature=temperature, similarity=similarity)
    assert float(found) == pytest.approx(by_loop(first, second, temperature, similarity), rel=1e-12, abs=1e-12)


def test_orthogonal_pairs_in_numbers():
    """Two rows whose views agree: each state has its partner at e^1 and two strangers at e^0."""
    views = torch.eye(2, dtype=torch.float64)
    assert float(info_nce(views, views)) == pytest.approx(math.log(1 + 2 / math.e))


def test_states_that_are_all_alike_are_told_apart_by_chance():
    """Log of the 2B - 1 others."""
    same = torch.ones(4, 3)
    assert float(info_nce(same, same)) == pytest.approx(math.log(7), rel=1e-6)


def test_neither_views_nor_rows_have_an_order():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 6, 4, dtype=torch.float64, generator=generator)
    order = torch.randperm(6, generator=generator)
    torch.testing.assert_close(info_nce(first, second), info_nce(second[order], first[order]))


@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_to_be_told_from(rows: int):
    first = torch.randn(rows, 3, requires_grad=True)
    loss = info_nce(first, torch.randn(rows, 3))
    loss.backward()
    assert loss == 0
    assert first.grad is not None
    assert not first.grad.any()


def test_gradients_are_right():
    first, second = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for similarity in ("dot", "cos"):
        assert torch.autograd.gradcheck(
            lambda x, y, s=similarity: info_nce(x, y, temperature=0.5, similarity=s),
            (first.clone().requires_grad_(), second.clone().requires_grad_()),
        )


def test_rows_that_are_alike_are_not_told_from_each_other():
    """One state at a time, over its partner and the states of rows with another number."""
    generator = torch.Generator().manual_seed(2)
    first, second = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator)
    alike = [7, 3, 7, 7, 1]
    states, n = [*first.tolist(), *second.tolist()], 5
    terms = []
    for i, state in enumerate(states):
        partner = (i + n) % (2 * n)
        logits = {j: sum(a * b for a, b in zip(state, other, strict=True)) for j, other in enumerate(states)}
        counted = [partner, *(j for j in range(2 * n) if alike[j % n] != alike[i % n])]
        terms.append(math.log(sum(math.exp(logits[j]) for j in counted)) - logits[partner])
    found = info_nce(first, second, alike=torch.tensor(alike))
    assert float(found) == pytest.approx(sum(terms) / len(terms), rel=1e-12)
    torch.testing.assert_close(info_nce(first, second, alike=torch.arange(n)), info_nce(first, second))
    assert info_nce(first, second, alike=torch.ones(n)) == 0

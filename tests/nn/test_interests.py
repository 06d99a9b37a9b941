"""Interests against loops over single rows, positions and interests, without padding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from guiderec.nn.interests import (
    DynamicRouting,
    SelfAttentiveInterests,
    best_interest,
    covariance_penalty,
    masked_softmax,
    squash,
    with_start,
)

DIM, K = 4, 3
LENGTHS = [3, 1, 5, 2]


def histories(width: int = 5) -> tuple[Tensor, Tensor]:
    """Item vectors (B, L, D), with rubbish at padding, and mask (B, L)."""
    generator = torch.Generator().manual_seed(0)
    items = torch.full((len(LENGTHS), width, DIM), 99.0, dtype=torch.float64)
    mask = torch.zeros(len(LENGTHS), width, dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        items[row, -length:] = torch.randn(5, DIM, generator=generator, dtype=torch.float64)[:length]
        mask[row, -length:] = True
    return items, mask


# --------------------------------------------------------------------------------------------------- self-attention


def test_self_attention_is_the_loop():
    torch.manual_seed(0)
    layer = SelfAttentiveInterests(DIM, K, 7).double()
    torch.nn.init.normal_(layer.expand.bias)
    items, mask = histories()
    places = torch.randn(5, DIM, dtype=torch.float64)
    interests, weights = layer(items, items + places, mask)
    assert interests.shape == (4, K, DIM)
    w1, b1, w2 = (p.detach().numpy() for p in (layer.expand.weight, layer.expand.bias, layer.route.weight))
    for row, length in enumerate(LENGTHS):
        own = items[row, -length:].numpy()
        seen = own + places[-length:].numpy()
        logits = [w2 @ np.array([math.tanh(v) for v in w1 @ x + b1]) for x in seen]
        for k in range(K):
            share = [math.exp(logit[k]) for logit in logits]
            share = [s / sum(share) for s in share]
            assert weights[row, -length:, k].tolist() == pytest.approx(share)
            expected = sum(s * e for s, e in zip(share, own, strict=True))
            assert interests[row, k].tolist() == pytest.approx(expected.tolist())
    assert not weights[~mask].any()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4, K, dtype=torch.float64))


def test_hidden_width_is_four_times_the_width_by_default():
    assert SelfAttentiveInterests(DIM, K).expand.out_features == 4 * DIM


@pytest.mark.parametrize("counting", ["from_start", "from_end", None])
def test_an_empty_history_has_interests_of_zero_and_gradients(counting: str | None):
    torch.manual_seed(0)
    items, mask = histories()
    mask[1] = False
    if counting is None:
        layer = SelfAttentiveInterests(DIM, K).double()
        interests, weights = layer(items, items, mask)
    else:
        layer = DynamicRouting(DIM, K, 5, counting=counting).double()
        interests, weights = layer(items, mask)
    assert not interests[1].any()
    assert not weights[1].any()
    assert interests.isfinite().all()
    (interests.square().sum() + covariance_penalty(weights, mask)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("dynamic", [False, True])
def test_padding_changes_nothing(dynamic: bool):
    torch.manual_seed(0)
    layer = DynamicRouting(DIM, K, 9).double() if dynamic else SelfAttentiveInterests(DIM, K).double()
    found = []
    for width in (5, 9):
        items, mask = histories(width)
        interests, weights = layer(items, mask) if dynamic else layer(items, items, mask)
        found.append((interests, weights[:, -5:]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_masked_softmax_is_softmax_of_what_is_left():
    logits, mask = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), torch.tensor([[1, 0, 1], [0, 0, 0]]).bool()
    found = masked_softmax(logits, mask, dim=1)
    assert found[0].tolist() == pytest.approx([1 / (1 + math.e**2), 0, math.e**2 / (1 + math.e**2)])
    assert found[1].tolist() == [0, 0, 0]


# ----------------------------------------------------------------------------------------------------------- routing


def routing_by_loop(maps: np.ndarray, own: np.ndarray, counting: str, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """One history: capsule by capsule, item by item."""
    n = len(own)
    places = range(n) if counting == "from_start" else [n - 1 - i for i in range(n)]
    votes = [[own[i] @ maps[p][:, k * DIM : (k + 1) * DIM] for k in range(K)] for i, p in enumerate(places)]
    logits = [[0.0] * K for _ in range(n)]
    for iteration in range(iterations):
        shares = [[math.exp(b) / sum(math.exp(c) for c in row) for b in row] for row in logits]
        capsules = []
        for k in range(K):
            total = sum(shares[i][k] * votes[i][k] for i in range(n))
            length = math.sqrt(sum(v * v for v in total))
            capsules.append(length**2 / (1 + length**2) * total / math.sqrt(length**2 + 1e-9))
        if iteration < iterations - 1:
            logits = [[logits[i][k] + float(votes[i][k] @ capsules[k]) for k in range(K)] for i in range(n)]
    return np.array(capsules), np.array(shares)


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("counting", ["from_start", "from_end"])
def test_dynamic_routing_is_the_loop(counting: str, iterations: int):
    torch.manual_seed(0)
    layer = DynamicRouting(DIM, K, 6, iterations=iterations, counting=counting).double()
    items, mask = histories()
    interests, weights = layer(items, mask)
    for row, length in enumerate(LENGTHS):
        own = items[row, -length:].numpy()
        capsules, shares = routing_by_loop(layer.maps.detach().numpy(), own, counting, iterations)
        np.testing.assert_allclose(interests[row].detach().numpy(), capsules, rtol=1e-7)
        np.testing.assert_allclose(weights[row, -length:].detach().numpy(), shares, rtol=1e-7)
    assert not weights[~mask].any()
    assert (interests.norm(dim=2) < 1).all()


def test_gradient_passes_through_the_last_iteration_alone():
    """With the weights that the routing found held fixed, the gradient of the maps is the same."""
    torch.manual_seed(0)
    layer = DynamicRouting(DIM, K, 5).double()
    items, mask = histories()
    items.requires_grad_()
    interests, weights = layer(items, mask)
    assert not weights.requires_grad
    found = torch.autograd.grad(interests.sin().sum(), (layer.maps, items))
    total = 0
    for row, length in enumerate(LENGTHS):
        votes = torch.einsum("ld,lde->le", items[row, -length:], layer.maps[:length]).view(length, K, DIM)
        total = total + squash(torch.einsum("lk,lke->ke", weights[row, -length:], votes)).sin().sum()
    for one, other in zip(found, torch.autograd.grad(total, (layer.maps, items)), strict=True):
        torch.testing.assert_close(one, other)


def test_squash_keeps_directions():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    short = squash(x)
    assert short[0].tolist() == pytest.approx([25 / 26 * 0.6, 25 / 26 * 0.8])
    short.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_routing_that_cannot_be():
    items, mask = histories()
    with pytest.raises(ValueError, match="5 positions, but there are maps for 4"):
        DynamicRouting(DIM, K, 4).double()(items, mask)
    with pytest.raises(ValueError, match="at least 1 iteration, got 0"):
        DynamicRouting(DIM, K, 4, iterations=0)


# ------------------------------------------------------------------------------------------- choice and regulariser


def test_best_interest_is_that_of_the_largest_product():
    interests = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[2.0, 2.0], [2.0, 2.0]]], requires_grad=True)
    target = torch.tensor([[0.5, 0.6], [1.0, -1.0]])
    best = best_interest(interests, target)
    assert best.tolist() == [[0.0, 1.0], [2.0, 2.0]]
    (best * target).sum().backward()
    assert interests.grad is not None
    assert interests.grad.tolist() == [[[0.0, 0.0], [0.5, pytest.approx(0.6)]], [[1.0, -1.0], [0.0, 0.0]]]


def test_covariance_penalty_is_the_loop():
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(4, 5, K, generator=generator, dtype=torch.float64)  # also what stands at padding
    _, mask = histories()
    rows = []
    for row, length in enumerate(LENGTHS):
        own = weights[row, -length:].tolist()
        mean = [sum(w[k] for w in own) / length for k in range(K)]
        c = [[sum((w[i] - mean[i]) * (w[j] - mean[j]) for w in own) / length for j in range(K)] for i in range(K)]
        rows.append(sum(math.sqrt(sum(v * v for v in line)) for line in c))
    assert float(covariance_penalty(weights, mask)) == pytest.approx(sum(rows) / 4)


def test_covariance_of_one_interest_is_its_variance():
    weights = torch.tensor([[0.0, 0.2, 0.8]], dtype=torch.float64)[..., None]
    mask = torch.tensor([[False, True, True]])
    assert float(covariance_penalty(weights, mask)) == pytest.approx(0.3**2)


def test_uniform_routing_has_no_penalty_and_a_gradient():
    _, mask = histories()
    weights = (mask / mask.sum(dim=1, keepdim=True))[..., None].expand(-1, -1, K).double().clone().requires_grad_()
    penalty = covariance_penalty(weights, mask)
    penalty.backward()
    assert penalty.item() == pytest.approx(0, abs=1e-15)
    assert weights.grad is not None
    assert weights.grad.isfinite().all()


def test_start_stands_for_an_empty_history_alone():
    items, mask = histories()
    mask[2] = False
    start = torch.arange(DIM, dtype=torch.float64)
    filled, seen = with_start(items, mask, start)
    assert filled[2, -1].equal(start)
    assert seen[2].tolist() == [False] * 4 + [True]
    others = [0, 1, 3]
    assert filled[others].equal(items[others])
    assert seen[others].equal(mask[others])

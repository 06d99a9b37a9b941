"""The last state against the whole block, written out position by position in the layout of the public code."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from guiderec.errors import ConfigError
from guiderec.nn.history import LastStateEncoder

DIM, LONGEST, HEADS = 12, 5, 3
HISTORIES = [[1, 2, 3, 4, 5], [6], [], [7, 8, 7], [2, 2, 2, 2]]


def make(residual: str, *, dim: int = DIM, heads: int = HEADS, dropout: float = 0.0) -> LastStateEncoder:
    """An encoder in float64 in which no weight has a value that would hide a mistake, such as a norm's 1 or bias 0."""
    torch.manual_seed(0)
    encoder = LastStateEncoder(dim, LONGEST, heads=heads, dropout=dropout, residual=residual).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return encoder.eval()


def table(dim: int = DIM) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(9, dim, dtype=torch.float64, generator=generator)
    vectors[0] = 0
    return vectors


def padded(histories: list[list[int]], width: int = LONGEST) -> Tensor:
    return torch.tensor([[0] * (width - len(items)) + items for items in histories])


def encode(encoder: LastStateEncoder, histories: list[list[int]], *, width: int = LONGEST) -> Tensor:
    ids = padded(histories, width)
    return encoder(table(encoder.positions.shape[1])[ids], ids != 0)


# ------------------------------------------------------------------------------------------------ the slow block


def norm(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    centred = x - sum(x.tolist()) / len(x)
    variance = sum(value * value for value in centred.tolist()) / len(x)
    return layer.weight * centred / math.sqrt(variance + layer.eps) + layer.bias


def feed_forward(x: Tensor, encoder: LastStateEncoder) -> Tensor:
    network = encoder.feed_forward
    inner = network.inner.weight @ x + network.inner.bias
    inner = torch.stack([value if value > 0 else 0 * value for value in inner])
    return norm(x + network.outer.weight @ inner + network.outer.bias, network.norm)


def whole_block(encoder: LastStateEncoder, items: list[int]) -> list[Tensor]:
    """States of all positions of one history, padded after its end, causal, heads one by one, keys with a bias."""
    n, dim = len(items), encoder.positions.shape[1]
    width = dim // encoder.attention.heads
    vectors = table(dim)
    x = [vectors[items[i]] + encoder.positions[i] if i < n else torch.zeros(dim).double() for i in range(LONGEST)]
    normed = [norm(state, encoder.query_norm) for state in x]
    key_bias = torch.linspace(-3, 3, dim, dtype=torch.float64)  # must make no difference
    attention = encoder.attention
    query = [attention.query.weight @ state + attention.query.bias for state in normed]
    key = [attention.key.weight @ state + key_bias for state in x]
    value = [attention.value.weight @ state + attention.value.bias for state in x]
    states = []
    for i in range(LONGEST):
        mixed = torch.zeros(dim, dtype=torch.float64)
        for head in range(attention.heads):
            part = slice(head * width, (head + 1) * width)
            seen = [j for j in range(i + 1) if j < n]
            odds = [math.exp(float(query[i][part] @ key[j][part]) / math.sqrt(dim)) for j in seen]
            for j, odd in zip(seen, odds, strict=True):
                mixed[part] += odd / sum(odds) * value[j][part]
        attended = normed[i] + mixed
        if encoder.residual == "inner":
            after = feed_forward(norm(attended, encoder.feed_forward_norm), encoder)
        else:
            joined = x[i] + attended
            after = joined + feed_forward(norm(joined, encoder.feed_forward_norm), encoder)
        states.append(norm(after, encoder.final_norm))
    return states


@pytest.mark.parametrize("residual", ["inner", "double"])
@pytest.mark.parametrize("heads", [1, 3])
@torch.no_grad()
def test_state_of_the_newest_item_is_that_of_the_whole_block(residual: str, heads: int):
    encoder = make(residual, heads=heads)
    slow = torch.stack([whole_block(encoder, items)[max(len(items), 1) - 1] for items in HISTORIES])
    torch.testing.assert_close(encode(encoder, HISTORIES), slow, rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_two_residual_layouts_differ():
    assert (encode(make("inner"), HISTORIES) - encode(make("double"), HISTORIES)).abs().min() > 1e-6


@pytest.mark.parametrize("residual", ["inner", "double"])
@torch.no_grad()
def test_more_padding_changes_nothing(residual: str):
    encoder = make(residual)
    narrow = encode(encoder, HISTORIES)
    for width in (LONGEST + 1, 3 * LONGEST):
        torch.testing.assert_close(encode(encoder, HISTORIES, width=width), narrow, rtol=0, atol=1e-14)


@torch.no_grad()
def test_what_stands_in_the_padding_is_never_seen():
    encoder, ids = make("double"), padded(HISTORIES)
    vectors = table()[ids]
    spoilt = torch.where((ids == 0)[:, :, None], 1e6, vectors)
    torch.testing.assert_close(encoder(spoilt, ids != 0), encoder(vectors, ids != 0), rtol=0, atol=0)


@pytest.mark.parametrize("residual", ["inner", "double"])
def test_empty_history_is_one_finite_constant(residual: str):
    encoder = make(residual, dropout=0.5).train()
    vectors = torch.zeros(3, 4, DIM, dtype=torch.float64, requires_grad=True)
    states = encoder(vectors, torch.zeros(3, 4, dtype=torch.bool))
    states.square().sum().backward()
    assert vectors.grad is not None
    assert not vectors.grad.any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())
    quiet = encoder.eval()(vectors, torch.zeros(3, 4, dtype=torch.bool))
    assert all(torch.equal(a, b) for a, b in pairwise(quiet))
    assert quiet.isfinite().all()


@torch.no_grad()
def test_order_of_the_history_matters():
    encoder = make("double")
    assert not torch.allclose(encode(encoder, [[1, 2, 3]]), encode(encoder, [[2, 1, 3]]))


@pytest.mark.parametrize("residual", ["inner", "double"])
def test_gradients_reach_every_weight_and_every_item(residual: str):
    encoder, ids = make(residual), padded(HISTORIES)
    vectors = table()[ids].requires_grad_()
    target = torch.randn(len(HISTORIES), DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (encoder(vectors, ids != 0) * target).sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert vectors.grad is not None
    torch.testing.assert_close(vectors.grad.abs().sum(dim=2) > 0, ids != 0)
    assert (encoder.positions.grad.abs().sum(dim=1) > 0).all()  # the first history is as long as can be


def test_gradients_are_those_of_finite_differences():
    encoder, ids = make("double", dim=4, heads=2), padded([[1, 2], [3]], 3)
    vectors = table(4)[ids].requires_grad_()
    assert torch.autograd.gradcheck(lambda v: encoder(v, ids != 0), vectors)


def test_dropout_is_for_training_alone():
    encoder = make("double", dropout=0.5)
    assert torch.equal(encode(encoder, HISTORIES), encode(encoder, HISTORIES))
    encoder.train()
    assert not torch.equal(encode(encoder, HISTORIES), encode(encoder, HISTORIES))


@pytest.mark.parametrize("dim", [64, 256])
def test_initial_values(dim: int):
    """Positions N(0, 1), linear weights uniform within Xavier's bound, norms the identity."""
    torch.manual_seed(3)
    encoder = LastStateEncoder(dim, 50, heads=2, dropout=0.1, residual="double")
    assert encoder.positions.std().item() == pytest.approx(1, abs=0.05)
    bound = math.sqrt(6 / (dim + dim))
    layers = [module for module in encoder.modules() if isinstance(module, nn.Linear)]
    assert len(layers) == 5
    for layer in layers:
        assert layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="heads must divide dim, got heads = 5 and dim = 12"):
        LastStateEncoder(12, 5, heads=5, dropout=0.0, residual="double")

from __future__ import annotations

import math

import torch

from guiderec.nn.insertion import ConditionInsertion

B, C, M, W, D = 3, 2, 4, 10, 5


def make() -> tuple[ConditionInsertion, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    guidance, x = torch.randn(B, M, W, dtype=torch.float64), torch.randn(B, C, D, dtype=torch.float64)
    return ConditionInsertion(D, W).double(), guidance, x, torch.randn(B, C, D, dtype=torch.float64)


@torch.no_grad()
def test_folded_maps_are_the_formula():
    """Row by row and state by state: softmax(x W_Q (G W_K)^T / sqrt(D)) G W_V, through the outer map."""
    layer, guidance, x, added = make()
    found = layer.on(guidance)(x, added)
    for b in range(B):
        for c in range(C):
            query = layer.query.weight @ x[b, c]
            keys = [layer.key.weight @ row for row in guidance[b]]
            shares = torch.stack([query @ key / math.sqrt(D) for key in keys]).softmax(0)
            a = sum(share * (layer.value.weight @ row) for share, row in zip(shares, guidance[b], strict=True))
            torch.testing.assert_close(found[b, c], added[b, c] + layer.outer.weight @ a, rtol=1e-10, atol=1e-10)


def test_every_map_is_learnt():
    layer, guidance, x, added = make()
    layer.on(guidance)(x, added).square().sum().backward()
    assert all(parameter.grad.abs().max() > 1e-6 for parameter in layer.parameters())


@torch.no_grad()
def test_one_row_of_guidance_is_inserted_whatever_the_state():
    layer, guidance, x, added = make()
    inserted = layer.on(guidance[:, :1])
    torch.testing.assert_close(inserted(x, added), inserted(2 * x, added))
    assert not torch.allclose(layer.on(guidance)(x, added), layer.on(guidance)(2 * x, added))


@torch.no_grad()
def test_the_order_of_rows_does_not_matter():
    layer, guidance, x, added = make()
    torch.testing.assert_close(layer.on(guidance.flip(1))(x, added), layer.on(guidance)(x, added))

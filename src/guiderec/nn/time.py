"""Embeddings of the diffusion step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def sinusoid(t: Tensor, dim: int, *, longest_period: float = 10_000.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, dim) sines then cosines of t (B,) at geometrically spaced frequencies (Vaswani et al. 2017, Sec. 3.5).

    `dim` must be even. Frequency i of dim/2 is longest_period^(-i / (dim/2 - 1)). Computed in `dtype`, which must be
    float32 or float64: half precision cannot hold the angle of a late step.
    """
    if dim % 2:
        raise ValueError(f"sinusoid needs an even dim, got {dim}.")
    half = dim // 2
    exponent = torch.arange(half, device=t.device, dtype=dtype) / max(half - 1, 1)
    angle = t.to(dtype)[:, None] * torch.exp(-math.log(longest_period) * exponent)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class TimeEmbedding(nn.Module):
    """sinusoid(d) -> Linear(d, expansion d) -> activation -> Linear(expansion d, d): steps t (B,) -> (B, d)."""

    def __init__(
        self, dim: int, *, expansion: int = 2, activation: Callable[[Tensor], Tensor] = nn.functional.gelu
    ) -> None:
        super().__init__()
        self.dim = dim
        self.activation = activation
        self.up = nn.Linear(dim, expansion * dim)
        self.down = nn.Linear(expansion * dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        """(B,) steps, whole or scaled -> (B, d)."""
        dtype = self.up.weight.dtype
        wave = sinusoid(t, self.dim, dtype=torch.promote_types(dtype, torch.float32)).to(dtype)
        return self.down(self.activation(self.up(wave)))

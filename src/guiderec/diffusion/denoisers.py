"""Small networks D(x_t, t, c) -> x0_hat over vectors.

Shapes   x_t, x0_hat (B, D); t (B,) int64 in {0..T-1}; c (B, C).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from guiderec.nn.dropout import Dropout
from guiderec.nn.time import TimeEmbedding, sinusoid


class LinearDenoiser(nn.Module):
    """F(x_t, c, t) = W_x x_t + W_c c + W_t time(t) + b: one linear layer on [x_t ; c ; time(t)], kept as three blocks.

    The blocks are apart so that whatever does not change along a sampling chain is computed once, and so that the
    chain can be composed in closed form (`affine.py`). Affine in x_t by construction.

    Initialisation: that of one Linear(2D + C -> D), uniform in +-1/sqrt(2D + C).
    """

    def __init__(self, dim: int, condition_dim: int | None = None) -> None:
        super().__init__()
        condition_dim = condition_dim or dim
        self.time = TimeEmbedding(dim)
        self.from_state = nn.Linear(dim, dim, bias=False)
        self.from_condition = nn.Linear(condition_dim, dim, bias=False)
        self.from_time = nn.Linear(dim, dim)
        bound = 1 / math.sqrt(2 * dim + condition_dim)
        for layer in (self.from_state, self.from_condition, self.from_time):
            nn.init.uniform_(layer.weight, -bound, bound)
        nn.init.uniform_(self.from_time.bias, -bound, bound)

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """x_t (B, D), t (B,), condition (B, C) -> x0_hat (B, D)."""
        return self.from_state(x_t) + self.time_term(t) + self.from_condition(condition)

    def under_each(self, x_t: Tensor, t: Tensor, conditions: list[Tensor]) -> list[Tensor]:
        """The predictions for the same x_t and t under several conditions (B, C); the shared part computed once."""
        shared = self.from_state(x_t) + self.time_term(t)
        return [shared + term for term in self.from_condition(torch.cat(conditions)).chunk(len(conditions))]

    def time_term(self, t: Tensor) -> Tensor:
        """W_t time(t) + b, (B, D): all that depends on the step.

        Computed once per distinct step: of 256 rows at T = 1200, some 25 share their step with an earlier one.
        """
        distinct, place = torch.unique(t, return_inverse=True)
        return self.from_time(self.time(distinct)).index_select(0, place)


class MLPDenoiser(nn.Module):
    """Linear(2D + C -> 2D), GELU, Linear(2D -> D) on [x_t ; c ; time(t)]. Not affine: chains are stepped."""

    def __init__(self, dim: int, condition_dim: int | None = None) -> None:
        super().__init__()
        self.time = TimeEmbedding(dim)
        self.inner = nn.Linear(2 * dim + (condition_dim or dim), 2 * dim)
        self.outer = nn.Linear(2 * dim, dim)

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """x_t (B, D), t (B,), condition (B, C) -> x0_hat (B, D)."""
        joined = torch.cat([x_t, condition, self.time(t)], dim=-1)
        return self.outer(nn.functional.gelu(self.inner(joined)))

    def under_each(self, x_t: Tensor, t: Tensor, conditions: list[Tensor]) -> list[Tensor]:
        """The predictions for the same x_t and t under several conditions (B, C)."""
        n = len(conditions)
        return list(self(x_t.repeat(n, 1), t.repeat(n), torch.cat(conditions)).chunk(n))


class AutoencoderDenoiser(nn.Module):
    """D(x_t, t) without a condition (DiffRec): dropout on x_t, then layers with tanh between, on [x_t ; W time(t)].

    The first layer is kept as two blocks, so that [x_t ; time] is never built: x_t may be as wide as a catalogue.

    Initialisation: weights of each whole layer N(0, 2 / (in + out)), biases N(0, 0.001^2).
    """

    def __init__(self, dim: int, hidden: tuple[int, ...], *, time_dim: int, dropout: float) -> None:
        super().__init__()
        self.time_dim = time_dim
        self.dropout = Dropout(dropout)
        self.time = nn.Linear(time_dim, time_dim)
        self.from_state = nn.Linear(dim, hidden[0], bias=False)
        self.from_time = nn.Linear(time_dim, hidden[0])
        self.layers = nn.ModuleList(nn.Linear(*sizes) for sizes in pairwise([*hidden, dim]))
        for layer in (self.time, *self.layers):
            _xavier_normal(layer.weight, layer.in_features, layer.out_features)
        for part in (self.from_state, self.from_time):
            _xavier_normal(part.weight, dim + time_dim, hidden[0])
        for layer in (self.time, self.from_time, *self.layers):
            nn.init.normal_(layer.bias, 0.0, 0.001)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t (B, D), t (B,) -> x0_hat (B, D)."""
        dtype = self.time.weight.dtype
        wave = sinusoid(t, self.time_dim, dtype=torch.promote_types(dtype, torch.float32)).to(dtype)
        state = self.from_state(self.dropout(x_t)) + self.from_time(self.time(wave))
        for layer in self.layers:
            state = layer(torch.tanh(state))
        return state


def _xavier_normal(weight: Tensor, fan_in: int, fan_out: int) -> None:
    nn.init.normal_(weight, 0.0, math.sqrt(2 / (fan_in + fan_out)))


DenoiserName = Literal["linear", "mlp"]
DENOISERS: dict[DenoiserName, type[LinearDenoiser] | type[MLPDenoiser]] = {
    "linear": LinearDenoiser,
    "mlp": MLPDenoiser,
}

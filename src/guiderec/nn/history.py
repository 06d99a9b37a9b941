"""The one-block attention encoder that DreamRec, PreferDiff and SteerRec condition on, for its last state alone.

Shapes   B batch, L history length, D width, H heads, E = D / H.

With one block, the states before the last serve only as keys and values, and both can be folded into the query side:

    logit_hl = (q W_Q^h) . (x_l W_K^h)      = x_l . (W_K^h (q W_Q^h))     one D-vector per head, then L dot products
    out_h    = sum_l a_hl (x_l W_V^h + b_V) = (sum_l a_hl x_l) W_V^h + b_V sum_l a_hl

so the block costs 5 B D^2 multiply-adds (query, folded keys, folded values, two feed-forward layers) instead of
(3 L + 2 L) B D^2. The key bias adds the same number to all logits of a head and drops out of the softmax.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.errors import ConfigError
from guiderec.nn.dropout import Dropout


class LastPositionAttention(nn.Module):
    """Attention of the last position over the history: query (B, D), states (B, L, D), mask (B, L) -> (B, D).

    Logits are scaled by 1/sqrt(D), as in the public code of PreferDiff and DreamRec, not by 1/sqrt(E). There is no
    output projection. A row without any item gives zero.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"heads must divide dim, got heads = {heads} and dim = {dim}.")
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)

    def forward(self, query: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Returns (B, D); head h fills columns h E to (h + 1) E."""
        batch, dim = query.shape
        width = dim // self.heads
        q = self.query(query).view(batch, self.heads, width).transpose(0, 1)  # (H, B, E)
        folded = q @ self.key.weight.view(self.heads, width, dim)  # (H, B, D)
        logits = folded.transpose(0, 1) @ states.transpose(1, 2) / math.sqrt(dim)  # (B, H, L)
        logits = logits.masked_fill(~mask[:, None, :], torch.finfo(logits.dtype).min)
        weights = logits.softmax(dim=-1) * mask[:, None, :]  # all zero for an empty history
        weights = F.dropout(weights, self.dropout, self.training)
        mixed = (weights @ states).transpose(0, 1)  # (H, B, D)
        values = mixed @ self.value.weight.view(self.heads, width, dim).transpose(1, 2)  # (H, B, E)
        bias = self.value.bias.view(self.heads, 1, width) * weights.sum(dim=-1).T[:, :, None]
        return (values + bias).transpose(0, 1).reshape(batch, dim)


class PointwiseFeedForward(nn.Module):
    """LayerNorm(x + Dropout(W_2 ReLU(W_1 x))): (B, D) -> (B, D)."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, dim)
        self.outer = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return self.norm(x + self.dropout(self.outer(F.relu(self.inner(x)))))


class LastStateEncoder(nn.Module):
    """History vectors (B, L, D), newest last, and mask (B, L) -> the state of the newest position (B, D).

        x = Dropout(e + p), zero at padding
        a = LN1(x_L) + Attention(LN1(x_L), x)
        residual "inner"   y = a;        z = FFN(LN2(y))          (DreamRec's code)
        residual "double"  y = x_L + a;  z = y + FFN(LN2(y))      (PreferDiff's code)
        c = LN3(z)

    Positions p (L, D) count from the oldest item of the history, as code that pads after the history does. A row
    without any item has x_L = 0 and no attention: its state is a learned constant.

    Initialisation: positions N(0, 1), Linear weights Xavier-uniform, the rest as torch does.
    """

    def __init__(
        self, dim: int, max_length: int, *, heads: int, dropout: float, residual: Literal["inner", "double"]
    ) -> None:
        super().__init__()
        self.residual = residual
        self.positions = nn.Parameter(torch.randn(max_length, dim))
        self.dropout = Dropout(dropout)
        self.query_norm = nn.LayerNorm(dim)
        self.attention = LastPositionAttention(dim, heads, dropout)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = PointwiseFeedForward(dim, dropout)
        self.final_norm = nn.LayerNorm(dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D), (B, L) -> (B, D)."""
        place = (mask.cumsum(dim=1) - 1).clamp(min=0)  # 0 for the oldest item, whatever the padding
        states = self.dropout(items + F.embedding(place, self.positions)) * mask[:, :, None]
        last = states[:, -1]
        query = self.query_norm(last)
        attended = query + self.attention(query, states, mask)
        if self.residual == "inner":
            return self.final_norm(self.feed_forward(self.feed_forward_norm(attended)))
        joined = last + attended
        return self.final_norm(joined + self.feed_forward(self.feed_forward_norm(joined)))

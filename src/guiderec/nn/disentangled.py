"""Disentangled attention: content and relative position look at each other (He et al. 2021, DeBERTa, Sec. 3.1).

    A_ij = q_i . k_j  +  q_i . kr_delta(i,j)  +  k_j . qr_delta(j,i),        softmax(A / sqrt(3 E)) V        (Eq. 4)

q, k, V come from the states; kr and qr from one table of relative positions that all layers share, each layer with its
own maps. There are no absolute positions, so a history that is shifted has the same states.

Shapes   B batch, L history length, D width, H heads, E = D / H, k span.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guiderec.nn.dropout import Dropout
from guiderec.nn.feedforward import FeedForward


def relative_positions(length: int, span: int, device: torch.device | None = None) -> Tensor:
    """(2L - 1,) delta of the offsets i - j = -(L-1), ..., L-1: offset + k, cut off to {0, ..., 2k - 1} (Eq. 3)."""
    return (torch.arange(1 - length, length, device=device) + span).clamp(0, 2 * span - 1)


def at(x: Tensor, where: Tensor | None) -> Tensor:
    """`x` (B, L, ...) at the True positions of `where` (B, L), as (P, ...); all of it for None."""
    return x if where is None else x[where]


class DisentangledSelfAttention(nn.Module):
    """Eq. 4 with H heads, projected back to D. The maps to k and kr have no bias, as in DeBERTa's code."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"a width of {dim} cannot be split into {heads} heads.")
        self.heads = heads
        self.dropout = dropout
        self.query_value = nn.Linear(dim, 2 * dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.position_query = nn.Linear(dim, dim)
        self.position_key = nn.Linear(dim, dim, bias=False)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor, visible: Tensor, relative: Tensor, where: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D), or (P, D) at the positions `where`, for `visible` (B, 1, L, L) as in `attention.py`.

        `relative` (2L - 1, D) holds the vectors of the offsets -(L-1), ..., L-1.
        """
        batch, length, dim = x.shape
        query, value = (self._split(part) for part in self.query_value(x).chunk(2, dim=-1))  # (B, H, L, E)
        key = self._split(self.key(x))
        position_query = self._split(self.position_query(relative))  # (H, 2L - 1, E)
        position_key = self._split(self.position_key(relative))
        place = torch.arange(length, device=x.device)
        offset = (place[:, None] - place + length - 1).expand(batch, self.heads, -1, -1)  # row of i - j in `relative`
        from_content = (query @ position_key.transpose(1, 2)).gather(-1, offset)  # i, j
        from_position = (key @ position_query.transpose(1, 2)).gather(-1, offset)  # j, i
        scale = 1 / math.sqrt(3 * dim / self.heads)
        added = (from_content + from_position.transpose(-1, -2)) * scale
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=added.masked_fill(~visible, -torch.inf),
            dropout_p=self.dropout if self.training else 0.0,
            scale=scale,
        )
        return self.output(at(mixed.transpose(1, 2), where).flatten(-2))

    def _split(self, x: Tensor) -> Tensor:
        """(..., N, D) -> (..., H, N, E)."""
        return x.view(*x.shape[:-1], self.heads, -1).transpose(-2, -3)


class DisentangledBlock(nn.Module):
    """`norm(x + attention(x))`, then `norm(x + feedforward(x))`, as in BERT."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = DisentangledSelfAttention(dim, heads, dropout)
        self.feedforward = FeedForward(dim, hidden)
        self.attention_norm = nn.LayerNorm(dim)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, visible: Tensor, relative: Tensor, where: Tensor | None = None) -> Tensor:
        """As the attention's; `relative` is dropped out anew in every block."""
        attended = self.attention(x, visible, self.dropout(relative), where)
        x = self.attention_norm(at(x, where) + self.dropout(attended))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x)))


class DisentangledEncoder(nn.Module):
    """A stack of blocks over one table of 2k relative positions; offsets of k and more are all alike.

    Weights of all linear maps and the table are drawn from N(0, std^2), biases are 0, norms are the identity.
    """

    def __init__(
        self, dim: int, *, layers: int, heads: int, hidden: int, dropout: float, span: int, std: float = 0.02
    ) -> None:
        super().__init__()
        self.span = span
        self.relative = nn.Parameter(torch.randn(2 * span, dim) * std)
        self.blocks = nn.ModuleList(DisentangledBlock(dim, heads, hidden, dropout) for _ in range(layers))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, visible: Tensor, where: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D), for `visible` (B, 1, L, L), True where a query may look at a key.

        With `where` (B, L), True at P positions: their states alone, (P, D). The last block computes little else.
        """
        relative = F.embedding(relative_positions(x.shape[1], self.span, x.device), self.relative)
        for block in self.blocks[:-1]:
            x = block(x, visible, relative)
        return self.blocks[-1](x, visible, relative, where)

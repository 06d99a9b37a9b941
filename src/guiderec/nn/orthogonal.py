"""Attention of the newest item over the history at several levels, one per head, kept apart by orthogonal matrices.

    A_h   = softmax_l((x_newest W_Q U_h) . (x_l W_K V_h) / sqrt(E))       l over the items of the history
    y     = x_newest + (sum_h A_h) X W_V
    state = LN(y + W_2 relu(W_1 y + b_1) + b_2)                          (AlignDiff, Eq. 3 and 4)

U and V are orthogonal D x D matrices; U_h and V_h are their blocks of E columns, so that U_i^T U_j is the identity for
i = j and zero otherwise. The values are not split: every level weighs the same D-vectors, and the levels are summed.

Only the newest state is asked for, so the others are folded into the query side, as in `history.py`:

    logit_hl = x_l . (W_K V_h)(x_newest W_Q U_h)^T        out = ((sum_h A_h) X) W_V

which costs 5 B D^2 multiply-adds and (H + 1) L B D for the dot products, instead of 7 L B D^2.

Shapes   B batch, L history length, D width, H heads (levels), E = D / H.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.nn.dropout import Dropout
from guiderec.nn.embedding import PositionEmbedding


class OrthogonalMatrix(nn.Module):
    """A trainable orthogonal matrix Q (D, D): `base (I + A)^-1 (I - A)` with A skew-symmetric (Cayley).

    Orthogonal for every value of the D (D - 1) / 2 weights, as many as the orthogonal group has dimensions, so that no
    step of any optimizer leads away from it. The weights start from 0, where Q is `base`: a random orthogonal matrix
    (uniform over the group), stored with the weights. What Cayley's map cannot reach from there is a set of measure 0.

    Computed in float32 or better, also under autocast: solving in half precision would lose the orthogonality.
    """

    base: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim * (dim - 1) // 2))
        self.register_buffer("base", _random_orthogonal(dim))

    def forward(self) -> Tensor:
        """Q (D, D)."""
        dim = len(self.base)
        precise = torch.promote_types(self.weight.dtype, torch.float32)
        with torch.autocast(self.weight.device.type, enabled=False):
            row, column = torch.tril_indices(dim, dim, offset=-1, device=self.weight.device)
            lower = torch.zeros(dim, dim, dtype=precise, device=self.weight.device)
            lower = lower.index_put((row, column), self.weight.to(precise))
            skew = lower - lower.T
            identity = torch.eye(dim, dtype=precise, device=skew.device)
            turned = torch.linalg.solve(identity + skew, identity - skew)  # regular: A's eigenvalues are imaginary
            return (self.base.to(precise) @ turned).to(self.weight.dtype)


class Folded(NamedTuple):
    """What the attention needs besides the rows. Computed once for all rows of a batch, whatever their lengths."""

    query: Tensor
    """W_Q U (D, D)."""
    key: Tensor
    """W_K V (D, D)."""


class LevelAttention(nn.Module):
    """History vectors (B, L, D), newest last, and mask (B, L) -> the state of the newest position (B, D).

    A row without items attends to nothing: its state is a learned constant. Positions count from the newest item.

    Initialisation: positions N(0, std^2), which should be the deviation of the items: beside shorter ones, the state
    would be that of the positions, and the same for everybody. U and V uniform over the orthogonal group; W
    Xavier-uniform, biases 0.
    """

    def __init__(
        self,
        dim: int,
        max_length: int,
        *,
        heads: int,
        dropout: float = 0.0,
        average_heads: bool = False,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"a width of {dim} cannot be split into {heads} heads.")
        self.heads = heads
        self.average_heads = average_heads
        self.positions = PositionEmbedding(max_length, dim, "from_end", std=std)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.query_levels = OrthogonalMatrix(dim)
        self.key_levels = OrthogonalMatrix(dim)
        self.inner = nn.Linear(dim, dim)
        self.outer = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        for layer in (self.query, self.key, self.value, self.inner, self.outer):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(self.inner.bias)
        nn.init.zeros_(self.outer.bias)

    def folded(self) -> Folded:
        """The matrices that all rows share."""
        return Folded(self.query.weight.T @ self.query_levels(), self.key.weight.T @ self.key_levels())

    def forward(self, items: Tensor, mask: Tensor, folded: Folded | None = None) -> Tensor:
        """(B, L, D), (B, L) -> (B, D); `folded` as this module gives it, for callers that ask more than once."""
        folded = folded or self.folded()
        x = items + self.positions(mask)
        newest = x[:, -1]
        weights = self.dropout(self._weights(newest, x, mask, folded)).sum(dim=1)  # (B, L)
        mixed = self.value((weights[:, None] @ x)[:, 0])
        y = newest + (mixed / self.heads if self.average_heads else mixed)
        state: Tensor = self.norm(y + self.dropout(self.outer(F.relu(self.inner(y)))))
        return state

    def _weights(self, newest: Tensor, x: Tensor, mask: Tensor, folded: Folded) -> Tensor:
        """(B, H, L), each row of a level summing to 1, or all zero for a history without items."""
        batch, dim = newest.shape
        width = dim // self.heads
        query = (newest @ folded.query).view(batch, self.heads, width).transpose(0, 1)  # (H, B, E)
        keys = folded.key.T.reshape(self.heads, width, dim)  # level h: the E columns of its block
        logits = (query @ keys).transpose(0, 1) @ x.transpose(1, 2) / math.sqrt(width)
        logits = logits.masked_fill(~mask[:, None], torch.finfo(logits.dtype).min)
        return logits.softmax(dim=-1) * mask[:, None]


def _random_orthogonal(dim: int) -> Tensor:
    """(D, D) uniform over the orthogonal group: Q of a Gaussian matrix, signs as R's diagonal (Mezzadri 2007)."""
    q, r = torch.linalg.qr(torch.randn(dim, dim))
    return q * r.diagonal().sign()

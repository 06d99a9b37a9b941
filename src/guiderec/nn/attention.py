"""Self-attention over padded histories. Shapes: B batch, L history length, D width, H heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def causal_mask(mask: Tensor) -> Tensor:
    """(B, 1, L, L) bool, True where query i may look at key j, for a mask (B, L) that is True at items.

    An item sees itself and the items before it, never padding. Padding sees itself alone: a softmax over nothing is
    not a number, and its gradient would spoil the batch.

    mask   0 1 1     1 0 0
                     0 1 0
                     0 1 1
    """
    length = mask.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=mask.device)
    return ((earlier & mask[:, None, :]) | itself)[:, None]


def two_sided_mask(mask: Tensor) -> Tensor:
    """(B, 1, L, L) as `causal_mask`, but an item sees all items."""
    itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return (mask[:, None, :] | itself)[:, None]


class SelfAttention(nn.Module):
    """`softmax(Q K^T / sqrt(D / H)) V` with H heads (Vaswani et al. 2017, Eq. 1), projected back to D."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"a width of {dim} cannot be split into {heads} heads.")
        self.heads = heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D), for `visible` (B, 1, L, L): True where a query may look at a key.

        Or numbers instead of truths, which are added to the logits.
        """
        batch, length, dim = x.shape
        split = self.query_key_value(x).view(batch, length, 3, self.heads, dim // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (B, H, L, D / H)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
        return self.output(mixed.transpose(1, 2).reshape(batch, length, dim))

    def last(self, x: Tensor, visible: Tensor) -> Tensor:
        """The newest position of `forward` alone, (B, D): one query, and no more than keys and values of the others."""
        batch, length, dim = x.shape
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        heads = (self.heads, dim // self.heads)
        query = F.linear(x[:, -1:], weight[:dim], bias[:dim]).view(batch, 1, *heads).transpose(1, 2)
        split = F.linear(x, weight[dim:], bias[dim:]).view(batch, length, 2, *heads)
        key, value = split.permute(2, 0, 3, 1, 4)  # each (B, H, L, D / H)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible[:, :, -1:], dropout_p=dropout)
        return self.output(mixed.transpose(1, 2).reshape(batch, dim))

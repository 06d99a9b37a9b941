"""Tables of items and positions. Shapes: B batch, L history length, D width, I items."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Counting = Literal["from_start", "from_end"]
"""Which item is position 0: the oldest of the history, or the newest."""


def item_embedding(n_items: int, dim: int, std: float = 0.02) -> nn.Embedding:
    """A table (I + 1, D) drawn from N(0, std^2). Row 0 is padding: zero, and never given a gradient by a look-up."""
    table = nn.Embedding(n_items + 1, dim, padding_idx=0)
    nn.init.normal_(table.weight, std=std)
    with torch.no_grad():
        table.weight[0].zero_()
    return table


def positions(mask: Tensor, counting: Counting) -> Tensor:
    """(B, L) position of every item, for a mask (B, L) that is True at items; 0 at padding.

    mask          0 0 1 1 1
    from_start    0 0 0 1 2     how code that pads on the right counts
    from_end      0 0 2 1 0     the newest item has the same position in every history
    """
    if counting == "from_start":
        return (mask.cumsum(dim=1) - 1) * mask
    return torch.arange(mask.shape[1] - 1, -1, -1, device=mask.device) * mask


class PositionEmbedding(nn.Module):
    """One learned vector for each of `max_length` positions, drawn from N(0, std^2)."""

    def __init__(self, max_length: int, dim: int, counting: Counting = "from_start", std: float = 0.02) -> None:
        super().__init__()
        self.counting: Counting = counting
        self.table = nn.Embedding(max_length, dim)
        nn.init.normal_(self.table.weight, std=std)

    def forward(self, mask: Tensor) -> Tensor:
        """(B, L, D) for a mask (B, L) that is True at items, L at most `max_length`."""
        if mask.shape[1] > self.table.num_embeddings:
            raise ValueError(f"{mask.shape[1]} positions, but the table has {self.table.num_embeddings}.")
        vectors: Tensor = self.table(positions(mask, self.counting))
        return vectors

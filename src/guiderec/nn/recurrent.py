"""A recurrent layer over histories that are padded on the left. Shapes: B batch, L history length, W input, D state."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GRU(nn.Module):
    """torch's GRU of one layer: vectors (B, L, W), mask (B, L), True at items -> states (B, L, D).

    The state before the first item is 0, and so is what is given at padding. All steps are one call of torch, which
    reads from the left: rows are moved there, and what follows their newest item reaches no state that is kept.

    Initialisation: torch's, uniform within 1 / sqrt(D).

    >>> import torch
    >>> x, mask = torch.ones(1, 3, 4), torch.tensor([[False, True, True]])
    >>> gru = GRU(4, 2)
    >>> bool(torch.equal(gru(x, mask)[:, 1:], gru(x[:, 1:], mask[:, 1:])))
    True
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.cells = nn.GRU(width, dim, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, L, W), (B, L) -> (B, L, D); padding is on the left alone."""
        if not len(x):
            return x.new_zeros(*mask.shape, self.cells.hidden_size)
        place = torch.arange(mask.shape[1], device=mask.device)
        padding = (~mask).sum(dim=1, keepdim=True)
        moved = _take(x, (place + padding) % mask.shape[1])
        states, _ = self.cells(moved)
        return _take(states, (place - padding) % mask.shape[1]) * mask[..., None]


def _take(x: Tensor, place: Tensor) -> Tensor:
    """(B, L, W) with `place` (B, L) along the second axis."""
    return x.gather(1, place[..., None].expand(-1, -1, x.shape[2]))

"""What a model sees: `Query`, `Batch`, and the shape legend of the package.

Shapes   B batch, L history length, D width, I items, K dislikes or interests, N negatives, H heads, S sampling steps,
         T diffusion steps.
Ids      items are 1..I, 0 is padding; column number of a score matrix equals the item id.
Layout   histories are oldest first and padded on the LEFT, so the newest item is always `history[:, -1]`. Models that
         count positions from the oldest item, as post-padding code does, derive them from `mask`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

PADDING = 0
"""The id that is no item."""


@dataclass(frozen=True)
class Query:
    """A request for recommendations for B histories."""

    history: Tensor
    """(B, L) int64, oldest first, padded on the left with 0. A row may be empty (all padding)."""
    key: Tensor
    """(B,) int64. Names the row for keyed noise: the answer to a row depends on (seed, key) and on no other row."""
    likes: Tensor | None = None
    """(B, K) int64, padded with 0: items to pull towards."""
    like_groups: Tensor | None = None
    """(B, K) int64 beside `likes`: equal numbers above 0 in a row are items of one category, liked as a whole; 0 is an
    item of its own. None: all are."""
    dislikes: Tensor | None = None
    """(B, K) int64, padded with 0: items to push away from."""
    candidates: Tensor | None = None
    """(B, C) int64, padded with 0: rank only these. None ranks the whole catalogue."""
    guidance_scale: float | None = None
    """Strength of guidance for this request; 0 is off. None takes the model's own."""

    def __len__(self) -> int:
        return self.history.shape[0]

    @property
    def mask(self) -> Tensor:
        """(B, L) bool, True where there is an item."""
        return self.history != PADDING

    @property
    def length(self) -> Tensor:
        """(B,) int64, number of items in each history."""
        return self.mask.sum(dim=1)

    def to(self, device: torch.device | str) -> Self:
        """The same request on another device."""
        moved: dict[str, Any] = {
            f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def rows(self, index: Tensor | slice) -> Self:
        """The same request for some of its rows."""
        picked: dict[str, Any] = {
            f.name: v[index] for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)
        }
        return replace(self, **picked)


@dataclass(frozen=True, kw_only=True)
class Batch(Query):
    """A query with its answer: B training or evaluation rows."""

    target: Tensor
    """(B,) int64 in 1..I, the item that followed the history."""
    negatives: Tensor | None = None
    """(B, N) int64, padded with 0: in training, what was shown together with the target and passed over."""

    @property
    def next_items(self) -> Tensor:
        """(B, L) the item that followed each position of the history; 0 at padding, but for the newest position.

        history  0 0 4 7 9   target 2        0 0 0 0 0   target 5
        result   0 0 7 9 2                   0 0 0 0 5
        """
        following = self.history[:, 1:] * self.mask[:, :-1]
        return torch.cat([following, self.target[:, None]], dim=1)

    @property
    def own_items(self) -> Tensor:
        """(B, L + 1) the items of the history and the target: what a drawn negative must not be."""
        return torch.cat([self.history, self.target[:, None]], dim=1)

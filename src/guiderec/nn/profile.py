"""Profiles: a history as one vector over the catalogue, as autoencoders of users want it.

Shapes   items (B, L) ids 1..I, 0 for padding, the newest last; profiles (B, I), column j - 1 for item j.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from guiderec.config import Part


class MultiHot(Part):
    """1 for every item of the history."""

    name: Literal["multi_hot"] = "multi_hot"

    def __call__(self, items: Tensor, n_items: int, dtype: torch.dtype) -> Tensor:
        """(B, I). An item counts once, however often it occurs; padding nowhere."""
        return _scattered(items, (items != 0).to(dtype), n_items)


class TimeWeighted(Part):
    """Weights that rise evenly from the oldest to the newest item (T-DiffRec).

        items 0 0 4 7 9        weights  oldest, (oldest + newest) / 2, newest  for items 4, 7, 9

    An item that occurs again has the weight of its last occurrence; a single item is the newest.
    """

    name: Literal["time_weighted"] = "time_weighted"
    oldest: float = Field(0.1, gt=0)
    """Weight of the oldest item."""
    newest: float = Field(1.0, gt=0)
    """Weight of the newest item."""

    @model_validator(mode="after")
    def _rises(self) -> TimeWeighted:
        if self.oldest > self.newest:
            raise ValueError(f"oldest = {self.oldest} must not be above newest = {self.newest}")
        return self

    def __call__(self, items: Tensor, n_items: int, dtype: torch.dtype) -> Tensor:
        """(B, I). Positions count from the newest item, so that padding changes nothing."""
        mask = items != 0
        newer = mask.flip(1).cumsum(dim=1).flip(1) - 1  # 0 for the newest item
        last = (mask.sum(dim=1, keepdim=True) - 1).clamp(min=1)
        weights = self.newest - (self.newest - self.oldest) * newer.to(dtype) / last.to(dtype)
        return _scattered(items, weights * mask, n_items)


ProfileConfig = Annotated[MultiHot | TimeWeighted, Field(discriminator="name")]

Answer = Literal["profile", "next_item", "target"]
"""What a model of profiles is shown in training, and what it shall answer.

    profile      the whole row, target included  ->  the same
    next_item    the history                     ->  the whole row
    target       the history                     ->  the target alone
"""


def shown_and_wanted(
    answer: Answer, profile: MultiHot | TimeWeighted, history: Tensor, target: Tensor, n_items: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """What is shown and what is wanted, (B, I) each, for histories (B, L) and targets (B,)."""
    if answer == "target":
        return profile(history, n_items, dtype), F.one_hot(target - 1, n_items).to(dtype)
    whole = profile(torch.cat([history, target[:, None]], dim=1), n_items, dtype)
    return (whole if answer == "profile" else profile(history, n_items, dtype)), whole


def _scattered(items: Tensor, weights: Tensor, n_items: int) -> Tensor:
    table = weights.new_zeros(len(items), n_items + 1)
    return table.scatter_reduce_(1, items, weights, "amax")[:, 1:]

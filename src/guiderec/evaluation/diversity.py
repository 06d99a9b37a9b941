"""Diversity of lists: ComiRec's controllable re-ranking, and how different the items of a list are.

    Q(S) = sum_{i in S} score(i) + lambda sum_{i in S} sum_{j in S} [category(i) != category(j)]

Greedy as in the paper (Cen et al., KDD 2020): the next item is the one with the largest score plus lambda times the
number of items already chosen whose category differs.
An item without a category differs from none: what is unknown is no evidence of variety.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from guiderec.errors import ConfigError, DataError

UNKNOWN = -1
"""The category of an item whose category is not known."""


def diversify(scores: Tensor, categories: Tensor, k: int, weight: float) -> Tensor:
    """(B, k) int64 places of the chosen candidates, in the order of choice; -1 where no candidate was left.

    Scores (B, C) of the candidates, best first, -inf where there is none; categories (B, C), `UNKNOWN` allowed. Of
    equal candidates the earlier one is taken, so that `weight` 0 gives the first k back.

    Raises ConfigError for a weight that is negative or not finite, and for k below 1.
    """
    require_weight(weight)
    if k < 1:
        raise ConfigError(f"k = {k}: a list has at least 1 item.")
    value = scores.double()
    known = categories != UNKNOWN
    chosen = torch.full((len(scores), k), -1, dtype=torch.int64, device=scores.device)
    for place in range(min(k, scores.shape[1])):
        best, column = value.max(dim=1)
        chosen[:, place] = torch.where(best > -torch.inf, column, -1)
        taken = categories.gather(1, column[:, None])
        differs = known & (categories != taken) & (taken != UNKNOWN)
        value = (value + weight * differs).scatter(1, column[:, None], -torch.inf)
    return chosen


def require_weight(weight: float) -> None:
    """ConfigError for what is no lambda."""
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
        raise ConfigError(f"diversity must be a number from 0 on, got {weight!r}.")


def category_codes(values: Sequence[Any]) -> Tensor:
    """(I + 1,) int64 codes of the categories of items 1..I, equal for equal ones; `UNKNOWN` for None, and for item 0.

    Raises DataError where no item has a category, or for categories that are neither text nor whole numbers.
    """
    odd = [(row, value) for row, value in enumerate(values, start=1) if not isinstance(value, str | int | None)]
    if odd:
        raise DataError(
            f"Categories are text or whole numbers; {len(odd):,} of {len(values):,} items have something else "
            f"(first: item {odd[0][0]}, {odd[0][1]!r})."
        )
    names = {value: code for code, value in enumerate(dict.fromkeys(v for v in values if v is not None))}
    if not names:
        raise DataError(f"None of {len(values):,} items has a category.")
    return torch.tensor([UNKNOWN, *(UNKNOWN if value is None else names[value] for value in values)])


def list_diversity(items: Tensor, item_vectors: Tensor) -> Tensor:
    """(B,) mean of 1 - cosine over the pairs of items of each list (B, k), padded with 0; nan below two items.

    In [0, 2], 0 where all vectors point the same way. Lists (B, k), vectors (I + 1, D).
    """
    units = F.normalize(item_vectors[items].double(), dim=2) * (items > 0)[..., None]
    count = (items > 0).sum(dim=1)
    total = units.sum(dim=1).square().sum(dim=1) - units.square().sum(dim=(1, 2))  # twice the sum of cosines over pairs
    pairs = (count * (count - 1)).double()
    return torch.where(pairs > 0, 1 - total / pairs, torch.nan)


def category_diversity(items: Tensor, categories: Tensor) -> Tensor:
    """(B,) share of pairs of known categories that differ, in lists (B, k) padded with 0; nan without such a pair.

    Categories (I + 1,) as of `category_codes`.
    """
    found = categories[items]
    known = (items > 0) & (found != UNKNOWN)
    pair = known[:, :, None] & known[:, None, :]
    pair &= ~torch.eye(items.shape[1], dtype=torch.bool, device=items.device)
    differs = pair & (found[:, :, None] != found[:, None, :])
    pairs = pair.sum(dim=(1, 2)).double()
    return torch.where(pairs > 0, differs.sum(dim=(1, 2)) / pairs, torch.nan)

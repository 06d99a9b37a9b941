"""Rows of like length together, so that short histories are not computed as long ones.

A network without recurrence over padded histories does the same work for padding as for items. On Amazon Beauty half
of the histories have no more than 6 items where 50 are allowed. Cut into buckets, each only as wide as its longest row,
the same rows cost less than twice their items; the results differ by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_FEWEST_ROWS = 8
"""Rows for which a processor makes a pass of their own: any more of padding costs more than the pass."""
_FEWEST_ROWS_ON_ACCELERATORS = 256
"""An accelerator computes padding while it starts a pass."""


class Bucket(NamedTuple):
    """Some rows of a batch, and how wide they are."""

    rows: Tensor
    """(n,) int64, ascending."""
    length: int
    """Longest history among them, at least 1: of a history (B, L), `history[rows, -length:]` holds all their items."""


def by_length(mask: Tensor, *, shortest: int = 4, fewest: int = _FEWEST_ROWS) -> list[Bucket]:
    """All rows of a mask (B, L), True at items, in buckets of lengths 0..s, s+1..2s, 2s+1..4s, ... for s = `shortest`.

    A bucket of fewer than `fewest` rows joins the next wider one that has rows: what a pass of the network costs
    besides its arithmetic is more than a few rows of padding. Histories are padded on the left.

    >>> import torch
    >>> mask = torch.arange(9) >= 9 - torch.tensor([2, 9, 0, 3])[:, None]
    >>> [(bucket.rows.tolist(), bucket.length) for bucket in by_length(mask, fewest=1)]
    [([0, 2, 3], 3), ([1], 9)]
    >>> [(bucket.rows.tolist(), bucket.length) for bucket in by_length(mask, fewest=4)]
    [([0, 1, 2, 3], 9)]
    """
    lengths = mask.sum(dim=1).tolist()
    members: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        members.setdefault(max(0, (length - 1) // shortest).bit_length(), []).append(row)
    groups: list[list[int]] = []
    waiting: list[int] = []
    for _, rows in sorted(members.items()):
        waiting = sorted(waiting + rows)
        if len(waiting) >= fewest:
            groups.append(waiting)
            waiting = []
    if waiting:
        groups.append(waiting)
    return [
        Bucket(mask.new_tensor(rows, dtype=torch.int64), max(1, *(lengths[row] for row in rows))) for rows in groups
    ]


def in_buckets(buckets: list[Bucket], function: Callable[[Bucket], Tensor]) -> Tensor:
    """`function` of every bucket, (n, ...) each, with the rows back in their places: (B, ...)."""
    place = torch.cat([bucket.rows for bucket in buckets]).argsort()
    return torch.cat([function(bucket) for bucket in buckets])[place]


def by_history(history: Tensor, mask: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`function` of histories (n, L') and their rows (n,) in the batch, for rows of like length at a time: (B, ...).

    `history` (B, L) and its mask, True at items; L' is the longest history of each group.
    """
    fewest = _FEWEST_ROWS if mask.device.type == "cpu" else _FEWEST_ROWS_ON_ACCELERATORS
    buckets = by_length(mask, fewest=fewest)
    if not buckets:  # no rows are one group without any
        return function(history, torch.arange(0, device=history.device))
    return in_buckets(buckets, lambda bucket: function(history[bucket.rows, -bucket.length :], bucket.rows))

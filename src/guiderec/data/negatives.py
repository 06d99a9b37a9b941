"""Sampled negatives that are never a positive of that user, uniform over everything else, in one draw.

No rejection loop: with the E excluded ids of a row sorted, e_1 < e_2 < ..., there are e_i - i allowed items below e_i,
so the allowed item with r allowed items below it is found by one binary search:

    I = 7, excluded        2 3 6             allowed          1 4 5 7
    e_i - i                1 1 3             r                0 1 2 3
    #{i: e_i - i <= r}     0 2 2 3  (by r)   r + 1 + #        1 4 5 7

The cost is the same for a row with one allowed item and a row with ten million, and every number is keyed by the
row, so a row gets the same negatives alone and in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guiderec.data.batch import PADDING
from guiderec.data.sequences import Ids, Sequences
from guiderec.errors import DataError
from guiderec.rng import Noise


@dataclass(frozen=True)
class Positives:
    """All distinct items of every user, in all of the user's sequences: what must not become a negative.

    >>> sequences = Sequences.from_lists([[3, 1, 3], [2], [5, 1]], users=np.array([8, 9, 8]))
    >>> Positives.of(sequences).padded(np.array([8, 9, 4])).tolist()
    [[1, 3, 5], [2, 0, 0], [0, 0, 0]]
    """

    users: Ids
    """(U,) the users, ascending."""
    offsets: Ids
    """(U + 1,) the items of user number u are `items[offsets[u]:offsets[u + 1]]`."""
    items: Ids
    """Ascending within each user."""

    @classmethod
    def of(cls, *parts: Sequences) -> Positives:
        """The positives in all of `parts`. To keep test items out of training negatives, give test sequences too."""
        users = np.concatenate([np.repeat(part.users, part.lengths) for part in parts])
        items = np.concatenate([part.items for part in parts])
        order = np.lexsort((items, users))
        users, items = users[order], items[order]
        new = np.ones(len(items), dtype=bool)
        new[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
        distinct, counts = np.unique(users[new], return_counts=True)
        return cls(distinct, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), items[new])

    def padded(self, users: Ids) -> Tensor:
        """(B, E) int64 items of the given users, padded on the right with 0; no items for an unknown user."""
        known = np.isin(users, self.users)
        place = np.searchsorted(self.users, users[known])
        start, count = np.zeros((2, len(users)), dtype=np.int64)
        start[known], count[known] = self.offsets[place], np.diff(self.offsets)[place]
        column = np.arange(count.max(initial=0))
        filled = column < count[:, None]
        result = np.full(filled.shape, PADDING, dtype=np.int64)
        result[filled] = self.items[(start[:, None] + column)[filled]]
        return torch.from_numpy(result)


def sample_negatives(
    noise: Noise,
    keys: Tensor,
    exclude: Tensor,
    n: int,
    *,
    n_items: int,
    distinct: bool = False,
    purpose: str = "negatives",
) -> Tensor:
    """(B, N) int64 items, uniform over 1..I without the row's `exclude` (B, E).

    Parameters
    ----------
    keys
        (B,) int64 names of the rows, as in `Query.key`. Equal keys with equal exclusions give equal negatives.
    exclude
        (B, E) int64 ids in 1..I in any order, padded with 0 anywhere; repeats count once.
    n
        N, the number of negatives per row.
    distinct
        True draws without replacement: every set of N allowed items is equally likely (the order within a row is not
        random). False draws each one independently.

    Raises
    ------
    DataError
        When a row has no item left (with `distinct`: fewer than N), or an excluded id is outside 0..I.
    """
    outside = exclude[(exclude < 0) | (exclude > n_items)]
    if outside.numel():
        raise DataError(f"Excluded ids must lie in 0..{n_items:,} (0 is padding); found {int(outside[0]):,}.")
    excluded, count = _distinct_ascending(exclude, n_items)
    allowed = n_items - count
    needed = n if distinct else min(n, 1)
    if bool((allowed < needed).any()):
        row = int((allowed < needed).nonzero()[0, 0])
        raise DataError(
            f"Row {row} needs {needed} negatives but {int(count[row]):,} of {n_items:,} items are excluded, "
            f"which leaves {int(allowed[row]):,} ({int((allowed < needed).sum())} such rows).",
            hint="sample fewer negatives, or leave users out who have seen nearly everything",
        )
    rank = _subsets(noise, keys, allowed, n, purpose) if distinct else _ranks(noise, keys, allowed, n, purpose)
    below = excluded - torch.arange(1, excluded.shape[1] + 1, device=excluded.device)  # allowed items below each
    return rank + 1 + torch.searchsorted(below.contiguous(), rank, right=True)


def _distinct_ascending(exclude: Tensor, n_items: int) -> tuple[Tensor, Tensor]:
    """(B, E) the distinct ids of each row, ascending, then fill beyond every item; and (B,) how many there are."""
    fill = 2 * n_items + exclude.shape[1] + 1  # so large that fill - E still lies above every rank
    ids = exclude.sort(dim=1).values
    again = torch.zeros_like(ids, dtype=torch.bool)
    again[:, 1:] = ids[:, 1:] == ids[:, :-1]
    ids = ids.masked_fill(again | (ids == PADDING), fill).sort(dim=1).values
    return ids, (ids < fill).sum(dim=1)


def _ranks(noise: Noise, keys: Tensor, allowed: Tensor, n: int, purpose: str) -> Tensor:
    """(B, N) independent uniform numbers in {0, ..., allowed - 1}. The bias of the modulus is below I / 2^63."""
    return noise.bits(keys, n, purpose) % allowed[:, None]


def _subsets(noise: Noise, keys: Tensor, allowed: Tensor, n: int, purpose: str) -> Tensor:
    """(B, N) a uniform N-subset of {0, ..., allowed - 1} per row: Floyd's algorithm (Bentley and Floyd 1987)."""
    bits = noise.bits(keys, n, purpose)
    chosen = torch.full_like(bits, -1)
    for i in range(n):
        top = allowed - n + i
        pick = bits[:, i] % (top + 1)
        taken = (chosen[:, :i] == pick[:, None]).any(dim=1)
        chosen[:, i] = torch.where(taken, top, pick)
    return chosen

"""Sequences as one flat array with offsets, and the rows that a protocol cuts from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from guiderec.data.batch import PADDING
from guiderec.rng import subkeys

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Sequences:
    """S sequences of items in one flat array.

    Sequence s is `items[offsets[s]:offsets[s + 1]]`, oldest first. `users[s]` names its user; several sequences may
    share a user. `times`, where known, is parallel to `items` (seconds since 1970, int64).
    """

    items: Ids
    offsets: Ids
    users: Ids
    times: Ids | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, s: int) -> Ids:
        return self.items[self.offsets[s] : self.offsets[s + 1]]

    def __repr__(self) -> str:
        times = "" if self.times is None else ", with times"
        return f"Sequences({len(self):,} sequences, {len(self.items):,} events{times})"

    @property
    def lengths(self) -> Ids:
        """(S,) number of items in each sequence."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Ids:
        """(N,) the sequence of every event, 0..S - 1, parallel to `items`."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    def take(self, index: Ids) -> Sequences:
        """The sequences `index`, in that order."""
        return self._slices(index, self.offsets[index], self.offsets[index + 1])

    def oldest(self, counts: Ids) -> Sequences:
        """The first `counts` (S,) items of each sequence; sequences with none are dropped."""
        index = np.flatnonzero(counts > 0)
        start = self.offsets[index]
        return self._slices(index, start, start + counts[index])

    def newest(self, count: int) -> Sequences:
        """The last `count` items of each sequence."""
        end = self.offsets[1:]
        return self._slices(np.arange(len(self)), np.maximum(self.offsets[:-1], end - count), end)

    def _slices(self, index: Ids, start: Ids, end: Ids) -> Sequences:
        """Sequences made of `items[start:end]` for users `users[index]`."""
        lengths = end - start
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], lengths)
        times = None if self.times is None else self.times[places]
        return Sequences(self.items[places], offsets, self.users[index], times)

    @classmethod
    def concatenated(cls, parts: list[Sequences]) -> Sequences:
        """All sequences of `parts`, one after the other. Times are kept when every part has them."""
        lengths = np.concatenate([part.lengths for part in parts])
        times = [part.times for part in parts if part.times is not None]
        return cls(
            np.concatenate([part.items for part in parts]),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.concatenate([part.users for part in parts]),
            np.concatenate(times) if len(times) == len(parts) else None,
        )

    @classmethod
    def from_lists(cls, lists: list[list[int]] | list[Ids], users: Ids | None = None) -> Sequences:
        """Sequences from a list of lists of item ids."""
        lengths = np.array([len(items) for items in lists], dtype=np.int64)
        flat = np.concatenate([np.asarray(items, dtype=np.int64) for items in lists]) if len(lists) else np.empty(0)
        users = np.arange(len(lists), dtype=np.int64) if users is None else users
        return cls(flat.astype(np.int64), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), users)


@dataclass(frozen=True)
class ItemLists:
    """S lists of items in one flat array, any of them empty: list s is `items[offsets[s]:offsets[s + 1]]`."""

    items: Ids
    offsets: Ids

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, s: int) -> Ids:
        return self.items[self.offsets[s] : self.offsets[s + 1]]

    def __repr__(self) -> str:
        return f"ItemLists({len(self):,} lists, {len(self.items):,} items)"

    @classmethod
    def from_lists(cls, lists: list[list[int]] | list[Ids]) -> ItemLists:
        """The lists as one array."""
        flat = Sequences.from_lists(lists)
        return cls(flat.items, flat.offsets)

    def padded(self, index: Ids) -> Ids:
        """(B, N) the lists `index` (B,), padded on the right with 0; N is the length of the longest, at least 1."""
        lengths = self.offsets[index + 1] - self.offsets[index]
        place = np.arange(max(1, int(lengths.max(initial=0))))
        inside = place < lengths[:, None]
        result = np.full(inside.shape, PADDING, dtype=np.int64)
        result[inside] = self.items[(self.offsets[index][:, None] + place)[inside]]
        return result


@dataclass(frozen=True)
class Rows:
    """R training or evaluation rows: pairs of a sequence and the position of the target in it.

    The history of row r is everything before the target, cut to the newest L items when it is read:

        sequence      3 1 4 5       rows (sequence, position): (0, 3) and (0, 1)
        windows(L=2)  1 4 -> 5      and   0 3 -> 1
    """

    sequences: Sequences
    sequence: Ids
    position: Ids

    def __len__(self) -> int:
        return len(self.sequence)

    def __repr__(self) -> str:
        return f"Rows({len(self):,} rows of {self.sequences!r})"

    @classmethod
    def last_items(cls, sequences: Sequences) -> Rows:
        """One row per sequence that has an item: its last item."""
        sequence = np.flatnonzero(sequences.lengths > 0)
        return cls(sequences, sequence, sequences.lengths[sequence] - 1)

    @classmethod
    def every_prefix(cls, sequences: Sequences, shortest_history: int = 1) -> Rows:
        """One row per item that has at least `shortest_history` items before it (0: also the first)."""
        return cls.starting_at(sequences, np.full(len(sequences), shortest_history, dtype=np.int64))

    @classmethod
    def starting_at(cls, sequences: Sequences, begin: Ids) -> Rows:
        """One row per position from `begin` (S,) to the end of each sequence.

        sequences  3 1 4 | 5 9        begin  2 0        rows (sequence, position)  (0, 2)  (1, 0)  (1, 1)
        """
        counts = np.maximum(sequences.lengths - begin, 0)
        sequence = np.repeat(np.arange(len(sequences), dtype=np.int64), counts)
        first_row = np.repeat(np.cumsum(counts) - counts, counts)
        return cls(sequences, sequence, np.arange(len(sequence), dtype=np.int64) - first_row + begin[sequence])

    @classmethod
    def last_of_windows(cls, sequences: Sequences, length: int) -> Rows:
        """Rows from the end of each sequence backwards, `length` apart, the last one not before the second item.

        For models that learn the item after every position of a row: each item but the first is learnt exactly once,
        under a history of at most `length` items.

            sequence  3 1 4 5 9 2        length 2        rows  5 9 -> 2;  1 4 -> 5;  3 -> 1
        """
        counts = -(-np.maximum(sequences.lengths - 1, 0) // length)
        sequence = np.repeat(np.arange(len(sequences), dtype=np.int64), counts)
        place = np.arange(len(sequence), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
        return cls(sequences, sequence, sequences.lengths[sequence] - 1 - length * place)

    def take(self, index: Ids) -> Rows:
        """The rows `index`, in that order."""
        return Rows(self.sequences, self.sequence[index], self.position[index])

    def targets(self) -> Ids:
        """(R,) the target of every row."""
        return self.sequences.items[self.sequences.offsets[self.sequence] + self.position]

    def history_lengths(self) -> Ids:
        """(R,) number of items before the target, uncut."""
        return self.position

    def users(self) -> Ids:
        """(R,) the user of every row."""
        return self.sequences.users[self.sequence]

    def keys(self) -> Ids:
        """(R,) int64 names of the rows for keyed noise: from user and position, so they survive any reordering.

        Of a user with several sequences, those after the first are told apart by their order among themselves.
        """
        keys = (self.users() << 20) ^ self.position
        earlier = _earlier_of_user(self.sequences.users)[self.sequence]
        if earlier.any():
            mixed = subkeys(torch.from_numpy(keys), torch.from_numpy(earlier)).numpy()
            keys = np.where(earlier > 0, mixed, keys)
        return keys

    def events(self) -> tuple[Ids, Ids]:
        """Sequence and item of every event up to the last target of its sequence, in order; each event once.

        What follows it is not looked at: of training rows under leave-one-out, it is the answers.
        """
        last = np.full(len(self.sequences), -1, dtype=np.int64)
        np.maximum.at(last, self.sequence, self.position)
        sequence = self.sequences.owners
        kept = np.arange(len(sequence)) - self.sequences.offsets[sequence] <= last[sequence]
        return sequence[kept], self.sequences.items[kept]

    def histories(self, index: Ids) -> Ids:
        """(B, E) the whole histories of the rows `index`, padded on the left with 0; E is at least 1."""
        return self.windows(index, max(1, int(self.history_lengths()[index].max(initial=0))))[0]

    def windows(self, index: Ids, length: int) -> tuple[Ids, Ids]:
        """Histories (B, L), padded on the left with 0, and targets (B,) of the rows `index`."""
        start = self.sequences.offsets[self.sequence[index]]
        end = start + self.position[index]
        places = end[:, None] + np.arange(-length, 0)
        inside = places >= start[:, None]
        history = np.where(inside, self.sequences.items[np.where(inside, places, 0)], PADDING)
        return history, self.sequences.items[end]


def _earlier_of_user(users: Ids) -> Ids:
    """(S,) how many sequences before each one have its user: 0 for the first.

    users  7 3 7 7 3        result  0 0 1 2 1
    """
    order = np.argsort(users, kind="stable")
    begins = np.ones(len(users), dtype=bool)
    begins[1:] = np.diff(users[order]) != 0
    place = np.arange(len(users), dtype=np.int64)
    earlier = np.empty_like(place)
    earlier[order] = place - np.maximum.accumulate(np.where(begins, place, 0))
    return earlier

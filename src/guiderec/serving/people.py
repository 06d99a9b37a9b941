"""Histories that are known from a prepared split, by user, in raw ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from guiderec.data.dataset import Dataset, RawId
from guiderec.data.sequences import Ids, Sequences

_PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class People:
    """The users of a split. Those of the test part come first: no model was trained on their last items.

    Ids stay in arrays, as the split holds them: a million users cost one dictionary of names.
    """

    raw: tuple[RawId, ...]
    """Raw ids of the split's own catalogue: item j is `raw[j - 1]`."""
    parts: tuple[Sequences, ...]
    """Distinct sets of sequences, oldest part first."""
    places: dict[str, list[tuple[int, int]]]
    """User -> (part, sequence) of all their sequences, oldest part first."""

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """All users of a split, with everything that is known of them."""
        distinct = {id(s): s for s in (dataset.part(name).sequences for name in _PARTS)}
        parts = tuple(distinct.values())
        names = None if dataset.users is None else dataset.users.to_list()
        found: dict[str, list[tuple[int, int]]] = {}
        for user, place in _newest_first(parts):
            found.setdefault(str(user if names is None else names[user]), []).append(place)
        return cls(dataset.vocabulary.raw, parts, {user: sorted(places) for user, places in found.items()})

    @classmethod
    def nobody(cls) -> Self:
        """No users."""
        return cls((), (), {})

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def history(self, user: str) -> list[RawId]:
        """All items of a user, oldest first; empty for a user who is not known."""
        places = self.places.get(user, [])
        return [self.raw[j - 1] for part, s in places for j in self.parts[part][s].tolist()]

    def items(self) -> set[RawId]:
        """Raw ids of the split's catalogue."""
        return set(self.raw)


def _newest_first(parts: tuple[Sequences, ...]) -> Iterator[tuple[int, tuple[int, int]]]:
    """`(user, (part, sequence))`, the test part first."""
    for part in reversed(range(len(parts))):
        users: Ids = parts[part].users
        for s in np.arange(len(users)).tolist():
            yield int(users[s]), (part, s)

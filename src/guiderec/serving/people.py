"""Histories that are known from a prepared split, by user, in raw ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Self

import polars as pl

from guiderec.data.dataset import PARTS, Dataset, RawId
from guiderec.data.protocols import SessionSplit, protocol_from_plain
from guiderec.data.sequences import Sequences


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
    """User -> (part, sequence) of the sequences that make up their history, oldest first."""

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """All users of a split, with everything that is known of them."""
        parts = tuple({id(s): s for s in (dataset.part(name).sequences for name in PARTS)}.values())
        names = None if dataset.users is None else dataset.users.to_list()
        found: dict[str, list[tuple[int, int]]] = {}
        for user, place in _newest_first(parts):
            found.setdefault(str(user if names is None else names[user]), []).append(place)
        if isinstance(protocol_from_plain(dataset.protocol), SessionSplit):
            places = {user: sorted(sessions) for user, sessions in found.items()}
        else:  # one sequence per user, of which earlier parts hold beginnings
            places = {user: sequences[:1] for user, sequences in found.items()}
        return cls(dataset.vocabulary.raw, parts, places)

    @classmethod
    def nobody(cls) -> Self:
        """No users."""
        return cls((), (), {})

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def search(self, words: str, limit: int) -> tuple[list[str], int]:
        """The first `limit` users whose names contain a text in any case, and how many do.

        The name itself comes first, then beginnings, then the rest; within each, and without a text, those of the test
        part first.
        """
        sought = words.strip().lower()
        if not sought:
            return list(islice(self.places, limit)), len(self)
        names = self._names.filter(self._lower.str.contains(sought, literal=True))
        near = pl.when(pl.col("lower") == sought).then(0).when(pl.col("lower").str.starts_with(sought)).then(1)
        found = pl.DataFrame({"name": names}).with_columns(lower=pl.col("name").str.to_lowercase())
        best = found.sort(near.otherwise(2), maintain_order=True).head(limit)
        return best["name"].to_list(), len(names)

    @cached_property
    def _names(self) -> pl.Series:
        return pl.Series("name", list(self.places), dtype=pl.String)

    @cached_property
    def _lower(self) -> pl.Series:
        return self._names.str.to_lowercase()

    def history(self, user: str) -> list[RawId]:
        """All items of a user, oldest first; empty for a user who is not known."""
        places = self.places.get(user, [])
        return [self.raw[j - 1] for part, s in places for j in self.parts[part][s].tolist()]


def _newest_first(parts: tuple[Sequences, ...]) -> Iterator[tuple[int, tuple[int, int]]]:
    """`(user, (part, sequence))`, the test part first."""
    for part in reversed(range(len(parts))):
        for s, user in enumerate(parts[part].users.tolist()):
            yield user, (part, s)

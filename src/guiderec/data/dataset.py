"""`Dataset`: a split with its vocabulary, protocol and fingerprint. What training and evaluation are given."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl

from guiderec.data.sequences import Ids, ItemLists, Rows
from guiderec.errors import DataError, nearest

RawId = str | int

EVALUATED = ("valid", "test")
"""The parts of a split that are predicted."""
PARTS = ("train", *EVALUATED)
"""All parts of a split."""

_SHOWN = 3
"""Ids in the text of a vocabulary."""


@dataclass(frozen=True)
class Vocabulary:
    """Raw item ids, in the order of the internal ids: `raw[j - 1]` is item j. Ids are all text or all integers.

    `table`, where known, has one row per item in the same order, with a column `item` (the raw id) and any of
    `name`, `category`, ... for people to read.
    """

    raw: tuple[RawId, ...]
    table: pl.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        first = ", ".join(map(repr, self.raw[:_SHOWN])) + (", ..." if len(self) > _SHOWN else "")
        columns = "" if self.table is None else f"; table: {', '.join(self.table.columns)}"
        return f"Vocabulary({len(self):,} items: {first}{columns})"

    @cached_property
    def _ids(self) -> dict[RawId, int]:
        return {raw: j for j, raw in enumerate(self.raw, start=1)}

    def encode(self, raw: Sequence[RawId]) -> list[int]:
        """Internal ids 1..I. Raises DataError for an unknown id, with the nearest known one."""
        return [self._encode(item) for item in raw]

    def find(self, item: RawId) -> int | None:
        """Internal id of a raw id, None for an unknown one. An integer may be given as text, as typed by a person."""
        if item in self._ids:
            return self._ids[item]
        if isinstance(item, str) and re.fullmatch(r"-?[0-9]{1,20}", item):
            return self._ids.get(int(item))
        return None

    def _encode(self, item: RawId) -> int:
        if (known := self.find(item)) is not None:
            return known
        near = nearest(str(item), map(str, self.raw)) if len(self) <= 200_000 else ""
        raise DataError(f"Item {item!r} is not in the catalogue of {len(self):,} items.{near}")

    def decode(self, items: Sequence[int]) -> list[RawId]:
        """Raw ids of internal ids 1..I."""
        return [self.raw[j - 1] for j in items]

    def names(self, items: Sequence[int]) -> list[str]:
        """What to call items when talking to a person: their `name`, or else the raw id."""
        if self.table is None or "name" not in self.table.columns:
            return [str(raw) for raw in self.decode(items)]
        column = self.table["name"]
        return [str(column[int(j) - 1]) for j in items]  # polars takes no NumPy integer as an index


@dataclass(frozen=True)
class Fingerprint:
    """What data this is: counts and the SHA-256 of the canonical log."""

    users: int
    items: int
    interactions: int
    sha256: str

    @classmethod
    def of(cls, parts: Sequence[Rows], raw: Sequence[RawId]) -> Fingerprint:
        """Fingerprint of all sequences of `parts`, each distinct set of sequences counted once.

        The canonical log is one line per sequence, `raw item ids joined by tabs`, sorted: it depends neither on
        the numbering of items nor on the order of users.
        """
        seen = {id(part.sequences): part.sequences for part in parts}
        names = np.array(["", *map(str, raw)], dtype=object)
        lines = sorted("\t".join(names[sequences[s]]) for sequences in seen.values() for s in range(len(sequences)))
        users = np.unique(np.concatenate([sequences.users for sequences in seen.values()]))
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return cls(len(users), len(raw), sum(len(sequences.items) for sequences in seen.values()), digest)


@dataclass(frozen=True)
class Dataset:
    """A split, ready for training and evaluation."""

    name: str
    """For people: `amazon-beauty/user-split`."""
    protocol: dict[str, Any]
    """The protocol as plain data (`Protocol.to_plain()`): it goes into every record and caption."""
    train: Rows
    valid: Rows
    test: Rows
    vocabulary: Vocabulary
    fingerprint: Fingerprint
    seen: Literal["keep", "mask"] = "keep"
    """Whether items of the history may be recommended (`keep`) or are masked when ranking."""
    candidates: dict[str, Ids] | None = None
    """Per part (`valid`, `test`): (R, C) candidate items of each row, padded with 0; None is the whole catalogue."""
    dislikes: dict[str, Ids] | None = None
    """Per part (`valid`, `test`): (R, K) items that the user of each row really disliked, padded with 0; see
    `guiderec.data.dislikes`. None: the data do not tell."""
    shown: dict[str, ItemLists] | None = None
    """Per part: all that was shown when the last item of each sequence was taken, it included; see
    `guiderec.data.impressions`. None: the data do not tell."""
    unclicked: dict[str, ItemLists] | None = None
    """Per part: what of it was passed over. Of an evaluation row this knows the answer."""
    filters: tuple[dict[str, Any], ...] = ()
    """Plain data of the filters that the log went through before it was split, in order."""
    users: pl.Series | None = None
    """Raw user ids where they are text: `Sequences.users` counts into it. None: the users are the raw integers."""

    def __repr__(self) -> str:
        rows = ", ".join(f"{len(self.part(name)):,} {name}" for name in PARTS)
        optional = ("candidates", "dislikes", "unclicked", "shown", "filters")
        known = [name for name in optional if getattr(self, name)]
        return (
            f"Dataset({self.name!r}, protocol {str(self.protocol.get('name'))!r}: {self.fingerprint.users:,} users, "
            f"{self.n_items:,} items, {self.fingerprint.interactions:,} interactions; rows: {rows}; seen items are "
            f"{'masked' if self.seen == 'mask' else 'kept'}{'; with ' + ', '.join(known) if known else ''})"
        )

    @cached_property
    def split_sha256(self) -> str:
        """SHA-256 of which rows are in which part. Two splits of one log share the fingerprint but not this.

        Per part, one line per sequence with a target: the raw ids up to its last target, joined by tabs, then the
        positions of its targets; lines sorted, so that neither the numbering of items nor the order of users counts.
        Where the data tell what was shown with a target, the line goes on with what of it was passed over.
        """
        names = np.array(["", *map(str, self.vocabulary.raw)], dtype=object)
        digest = hashlib.sha256()
        for name in PARTS:
            rows = self.part(name)
            order = np.lexsort((rows.position, rows.sequence))
            ends = np.flatnonzero(np.diff(rows.sequence[order])) + 1
            lines = [
                "\t".join(names[rows.sequences[s][: positions[-1] + 1]])
                + "|"
                + ",".join(map(str, positions))
                + ("" if self.unclicked is None else "|" + "\t".join(sorted(names[self.unclicked[name][s]])))
                for s, positions in zip(np.unique(rows.sequence), np.split(rows.position[order], ends), strict=True)
            ]
            digest.update("\n".join([name, *sorted(lines), ""]).encode())
        return digest.hexdigest()

    @property
    def n_items(self) -> int:
        """I, the number of items, without padding."""
        return len(self.vocabulary)

    def part(self, name: str) -> Rows:
        """`train`, `valid` or `test`."""
        if name not in PARTS:
            raise DataError(f"A split has the parts train, valid and test, not {name!r}.")
        return getattr(self, name)

"""Filters of logs, as values: k-core, rating threshold, minimum length, duplicates.

A filter is called with `Interactions` and gives `Interactions`; what was applied travels with the log into the record
of the split. Filters do not commute: `KCore` after `MinimumRating` counts the events that were rated high enough.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from guiderec.config import Part
from guiderec.data.interactions import Interactions, encode
from guiderec.errors import DataError


class KCore(Part):
    """Users and items with enough events each, applied until nothing changes.

        events  u1: a b c   u2: a b   u3: c a      KCore(users=2, items=2)  keeps all
                u1: a b c   u2: a b   u3: c d      d goes, then u3 (one event left), then c: u1: a b   u2: a b

    Events are counted, not distinct pairs. The result does not depend on the order of removal: it is the largest part
    of the log that satisfies both limits.
    """

    name: Literal["k-core"] = "k-core"
    users: int = Field(default=5, ge=1)
    """Events a user must have."""
    items: int = Field(default=5, ge=1)
    """Events an item must have."""

    def __call__(self, interactions: Interactions) -> Interactions:
        """The core. Memory: 8 bytes per event."""
        users, items, pairs = _codes(interactions)
        kept_users, kept_items = _core(pairs, len(users), len(items), self.users, self.items)
        if not kept_users.any():
            raise DataError(
                f"{interactions.source}: no event is left in the core of {self.users} events per user and"
                f" {self.items} per item.",
                hint="lower the limits.",
            )
        inside = pl.col("user").is_in(users.filter(pl.Series(kept_users)).implode())
        inside &= pl.col("item").is_in(items.filter(pl.Series(kept_items)).implode())
        return interactions.keep(inside, self.to_plain())


class MinimumRating(Part):
    """Events rated at least so high."""

    name: Literal["minimum-rating"] = "minimum-rating"
    at_least: float
    """On the scale of the log."""

    def __call__(self, interactions: Interactions) -> Interactions:
        """The events with a high rating. Raises DataError for a log without ratings, or with some unreadable."""
        interactions.check_ratings()
        return interactions.keep(pl.col("rating") >= self.at_least, self.to_plain())


class MinimumLength(Part):
    """Users with so many events; items are not looked at and nothing is iterated."""

    name: Literal["minimum-length"] = "minimum-length"
    events: int = Field(default=3, ge=1)
    """Events a user must have."""

    def __call__(self, interactions: Interactions) -> Interactions:
        """The events of the users that have enough."""
        counts = interactions.frame.group_by("user").len().filter(pl.col("len") >= self.events)
        users = counts.select("user").collect(engine="streaming")["user"]
        return interactions.keep(pl.col("user").is_in(users.implode()), self.to_plain())


class DropDuplicates(Part):
    """Only the first of the events that agree in user, item and, where known, time."""

    name: Literal["drop-duplicates"] = "drop-duplicates"

    def __call__(self, interactions: Interactions) -> Interactions:
        """The log without repeated events."""
        keys = [column for column in ("user", "item", "time") if column in interactions.columns]
        first = interactions.frame.group_by(keys).agg(pl.col("row").min())
        rows = first.select("row").collect(engine="streaming")["row"]
        return interactions.keep(pl.col("row").is_in(rows.implode()), self.to_plain())


Pairs = tuple[NDArray[np.int32], NDArray[np.int32]]


def _codes(interactions: Interactions) -> tuple[pl.Series, pl.Series, Pairs]:
    """Distinct users and items, ascending, and every event as a pair of positions in them."""
    distinct = [
        interactions.frame.select(pl.col(column).unique().sort()).collect(engine="streaming")[column]
        for column in ("user", "item")
    ]
    codes: list[list[NDArray[np.int32]]] = [[], []]
    for batch in interactions.batches("user", "item"):
        for column, known, parts in zip(("user", "item"), distinct, codes, strict=True):
            parts.append((encode(batch[column], known) - 1).astype(np.int32))
    empty = [np.empty(0, dtype=np.int32)]
    return distinct[0], distinct[1], (np.concatenate(codes[0] or empty), np.concatenate(codes[1] or empty))


def _core(
    pairs: Pairs, n_users: int, n_items: int, per_user: int, per_item: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which users and items survive, by removing all that fall short, round after round."""
    user, item = pairs
    while True:
        of_user, of_item = np.bincount(user, minlength=n_users), np.bincount(item, minlength=n_items)
        inside = (of_user >= per_user)[user] & (of_item >= per_item)[item]
        if inside.all():
            return of_user > 0, of_item > 0
        user, item = user[inside], item[inside]

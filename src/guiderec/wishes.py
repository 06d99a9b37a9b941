"""Likes and dislikes as a person names them, and what becomes of them.

    raw ids and categories -> what the model is told (item ids), and what a list must leave out

A model knows items alone. A category is told to it by its members: all of them, or `TOLD` that are drawn once and for
all by its name, so that the same wish is always the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch

from guiderec.data.dataset import RawId, Vocabulary
from guiderec.errors import ConfigError, DataError, nearest
from guiderec.rng import Noise, key_of
from guiderec.steering.groups import Groups, groups_of

TOLD = 20
"""Members of a category that a model is told of, at most."""

COLUMN = "category"
"""Column of the items table that names the category of an item, or several with `|` between them."""


@dataclass(frozen=True)
class Category:
    """All items that the items table puts into a category.

    >>> model.recommend([["B001"]], dislikes=[[Category("Comedy"), "B002"]])           # doctest: +SKIP
    """

    name: str


Wish = RawId | Category
"""An item by its raw id, or a category."""


class Honours(NamedTuple):
    """How a model honours wishes."""

    likes: Literal["steered", "history"]
    """steered: they change what is generated. history: it cannot be pulled, so they are appended to the history."""
    dislikes: Literal["steered", "filtered"]
    """steered: they change what is generated. filtered: they are left out of the list, as always, and no more."""


@dataclass(frozen=True)
class Heard:
    """One wish in internal ids."""

    wish: Wish
    """In raw ids, as the catalogue spells them."""
    told: tuple[int, ...]
    """What the model is told of."""
    items: tuple[int, ...]
    """All items that are meant."""


class Hearing:
    """Turns what people name into what a model understands."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    @cached_property
    def groups(self) -> Groups:
        """The categories. DataError where the items table names none."""
        try:
            return groups_of(self.vocabulary, COLUMN)
        except ConfigError as error:
            raise DataError(
                f"No category is known. {error}",
                hint="prepare the data with an items table that has a column 'category', and train again",
            ) from None

    @cached_property
    def _members(self) -> dict[str, Heard]:
        return {}

    def lists(self, what: str, wishes: Sequence[Sequence[Wish]] | None, rows: int) -> list[list[Heard]]:
        """One list of heard wishes per row. ConfigError for another number of lists, DataError for what is no wish."""
        if wishes is None:
            return [[] for _ in range(rows)]
        wishes = rows_of(what, wishes)
        if len(wishes) != rows:
            raise ConfigError(f"{what}: expected one list per history ({rows}), got {len(wishes)}.")
        return [self.hear(row, f"{what} {i}") for i, row in enumerate(wishes)]

    def hear(self, wishes: Sequence[Wish], where: str) -> list[Heard]:
        """The wishes of one row, each once, in their order."""
        require_list(wishes, where)
        heard: dict[Wish, Heard] = {}
        for wish in wishes:
            found = self._category(wish, where) if isinstance(wish, Category) else self._item(wish, where)
            heard.setdefault(found.wish, found)
        return list(heard.values())

    def _item(self, wish: RawId, where: str) -> Heard:
        (item,) = encode(self.vocabulary, [wish], where)
        return Heard(self.vocabulary.raw[item - 1], (item,), (item,))

    def _category(self, wish: Category, where: str) -> Heard:
        if wish.name not in self._members:
            names = self.groups.names
            if wish.name not in names:
                raise DataError(
                    f"{where}: there is no category {wish.name!r} among the {len(names):,} of the catalogue."
                    f"{nearest(str(wish.name), names)}"
                )
            items = tuple(self.groups.items(names.index(wish.name)).tolist())
            self._members[wish.name] = Heard(wish, _drawn(wish.name, items), items)
        return self._members[wish.name]


def refuse_contradictions(likes: Sequence[Sequence[Heard]], dislikes: Sequence[Sequence[Heard]]) -> None:
    """DataError where a row likes and dislikes the same item or category."""
    for row, (liked, disliked) in enumerate(zip(likes, dislikes, strict=True)):
        both = {heard.wish for heard in liked} & {heard.wish for heard in disliked}
        if both:
            what = sorted(str(wish.name if isinstance(wish, Category) else wish) for wish in both)
            raise DataError(
                f"History {row}: {what[0]!r} is both liked and disliked ({len(what)} such in all).",
                hint="keep the wish that came last",
            )


def encode(vocabulary: Vocabulary, items: Sequence[RawId], where: str) -> list[int]:
    """Internal ids of one list of raw ids. DataError that says where an item is not what it should be."""
    require_list(items, where)
    try:
        return vocabulary.encode(list(items))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except TypeError:  # a list or a dictionary cannot be looked up
        raise DataError(f"{where}: item ids are text or whole numbers, got {items!r}.") from None


def rows_of(what: str, lists: Sequence[Sequence[Wish]]) -> list[Sequence[Wish]]:
    """The lists, one per row. DataError for what is no list of lists."""
    if isinstance(lists, str | bytes) or not isinstance(lists, Iterable):
        raise DataError(f"{what}: expected a list of lists of item ids, got {lists!r}.", hint='for example [["B001"]]')
    return list(lists)


def require_list(items: object, where: str) -> None:
    """DataError for what is no list of ids."""
    if isinstance(items, str | bytes) or not isinstance(items, Iterable):
        raise DataError(
            f"{where}: expected a list of item ids, got {items!r}.", hint="give one list per history: [[...], [...]]"
        )


def _drawn(name: str, items: tuple[int, ...]) -> tuple[int, ...]:
    """At most `TOLD` of the items, by a lottery that the name of the category seeds."""
    lottery = Noise(0).uniform(torch.tensor([key_of(COLUMN, name)]), len(items), "members")[0]
    return tuple(items[place] for place in lottery.argsort(stable=True)[:TOLD].sort().values.tolist())

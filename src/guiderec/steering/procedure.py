"""What is wished in each evaluation row, by a fixed rule with a seed: the same for every model, but for its own list.

    unsteered list -> one item (the anchor) -> what the user names, what steering is told, what should give way

                     named                      condition                  group
    Item             the anchor                 the anchor                 its n nearest neighbours
    Neighbourhood    the anchor                 the anchor and these n     its n nearest neighbours
    Category         m members, drawn           these m                    the whole category of the anchor

`named` is all that a filter may remove. `condition` is what a steering method is given. The exposure of `group` in the
list is what tells whether steering reaches beyond the named. Neighbours come from the data, never from the model.

Dislikes     The anchor is the first item of the unsteered list that is not the target (for a category: and has one).
             With `given_by = "data"` it is the first of those that the user really disliked.
Likes        The anchor is drawn from some places of the unsteered list, by default 11 to 100: neither the target nor an
             item of the history (for a category: and has one).

The target decides nothing else: it may be among the group, and then to honour the wish is to lose the target. Such rows
are marked. Rows without an anchor are left out, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from guiderec.config import Part
from guiderec.data.batch import PADDING, Batch
from guiderec.data.cooccurrence import Neighbours
from guiderec.data.dataset import Vocabulary
from guiderec.data.sequences import Ids, Rows
from guiderec.errors import ConfigError, nearest
from guiderec.rng import Noise
from guiderec.steering.groups import Groups, groups_of
from guiderec.steering.neighbours import CoOccurrence, NeighboursOf

DEPTH = 100
"""Places of the unsteered list among which the anchor of a dislike is looked for."""


WHOLE = 2**62
"""As a depth: the whole catalogue."""


class Item(Part):
    """One item; its neighbours, which nobody names, are watched."""

    name: Literal["item"] = "item"
    neighbours: int = Field(5, ge=1)
    """n."""


class Neighbourhood(Part):
    """One item; steering is told of its neighbours too, and filters are not: the user named one item."""

    name: Literal["neighbourhood"] = "neighbourhood"
    neighbours: int = Field(5, ge=1)
    """n."""


class Category(Part):
    """A category of the item table, of which some members are named."""

    name: Literal["category"] = "category"
    column: str = "category"
    """Column of the item table: a list per item, or text with `|` between the names."""
    members: int = Field(5, ge=1)
    """m, drawn from the category without replacement; all of them where it has fewer."""


What = Annotated[Item | Neighbourhood | Category, Field(discriminator="name")]


class Dislikes(Part):
    """Users push something away that the model recommends to them."""

    name: Literal["dislikes"] = "dislikes"
    what: What = Neighbourhood()
    """What a user dislikes."""
    given_by: Literal["rule", "data"] = "rule"
    """rule: the first item of the list. data: the best placed of what the user really disliked, wherever it stands."""
    neighbours: NeighboursOf = CoOccurrence()
    """Which items are like an item."""
    k: int = Field(10, ge=1)
    """Length of the lists that are looked at."""
    seed: int = Field(0, ge=0)
    """Of the drawn categories and members."""

    @property
    def depth(self) -> int:
        """Places of the unsteered list that are needed."""
        return max(self.k, DEPTH) if self.given_by == "rule" else WHOLE

    def anchors(self, listed: Tensor, allowed: Tensor, keys: Tensor) -> Tensor:
        """(B,) the first allowed item of each list (B, depth); 0 where there is none."""
        return _nth(listed, allowed, torch.zeros_like(keys))


class Likes(Part):
    """Users pull something up that the model ranks lower."""

    name: Literal["likes"] = "likes"
    what: What = Neighbourhood()
    """What a user likes."""
    neighbours: NeighboursOf = CoOccurrence()
    """Which items are like an item."""
    places: tuple[int, int] = (11, 100)
    """First and last place of the unsteered list, from 1, among which the anchor is drawn."""
    k: int = Field(10, ge=1)
    """Length of the lists that are looked at."""
    seed: int = Field(0, ge=0)
    """Of the drawn anchors, categories and members."""

    @field_validator("places")
    @classmethod
    def _a_range(cls, places: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= places[0] <= places[1]:
            raise ValueError("needs 1 <= first <= last")
        return places

    @property
    def depth(self) -> int:
        """Places of the unsteered list that are needed."""
        return max(self.k, self.places[1])

    def anchors(self, listed: Tensor, allowed: Tensor, keys: Tensor) -> Tensor:
        """(B,) one of the allowed items at the places of each list (B, depth), drawn uniformly; 0 where none is."""
        place = torch.arange(1, listed.shape[1] + 1, device=listed.device)
        allowed = allowed & (place >= self.places[0]) & (place <= self.places[1])
        uniform = Noise(self.seed).uniform(keys, 1, "steering/anchor")[:, 0]
        return _nth(listed, allowed, (uniform * allowed.sum(dim=1)).long())


_KINDS: dict[str, Dislikes | Likes] = {
    "dislikes": Dislikes(),
    "likes": Likes(),
    "real-dislikes": Dislikes(given_by="data"),
}
_WHATS: dict[str, type[Item] | type[Neighbourhood] | type[Category]] = {
    "item": Item,
    "neighbourhood": Neighbourhood,
    "category": Category,
}


def standard(vocabulary: Vocabulary) -> tuple[Dislikes | Likes, ...]:
    """Where nobody chooses: dislikes of items, neighbourhoods and, if there are any, categories; likes of items."""
    table = vocabulary.table
    categories = [Dislikes(what=Category())] if table is not None and "category" in table.columns else []
    return (Dislikes(what=Item()), Dislikes(what=Neighbourhood()), *categories, Likes(what=Item()))


def parse_procedure(text: str) -> Dislikes | Likes:
    """`dislikes:item`, `likes:neighbourhood`, `dislikes:category:COLUMN` as a procedure; else ConfigError."""
    kind, _, rest = text.partition(":")
    what, _, column = rest.partition(":")
    if kind not in _KINDS or what not in _WHATS or (column and what != "category"):
        known = [f"{kind}:{what}" for kind in _KINDS for what in _WHATS]
        raise ConfigError(f"'{text}' is no procedure.{nearest(text, known)}", hint=f"one of {', '.join(known)}")
    return _KINDS[kind].replace(what=Category(column=column) if column else _WHATS[what]())


def name_of(procedure: Dislikes | Likes) -> str:
    """`dislikes neighbourhood`, or `real-dislikes neighbourhood`."""
    real = isinstance(procedure, Dislikes) and procedure.given_by == "data"
    return f"{'real-' if real else ''}{procedure.name} {procedure.what.name}"


@dataclass(frozen=True)
class Wishes:
    """The wishes of B rows."""

    anchor: Tensor
    """(B,) the item that must leave the list (dislikes) or enter it (likes); 0 where the row has no wish."""
    named: Tensor
    """(B, N) what the user names, padded with 0."""
    condition: Tensor
    """(B, C) what steering is told, padded with 0."""
    followed: Tensor
    """(B, F) unnamed or sampled items of the group whose ranks are followed, padded with 0."""
    group: Tensor
    """(B, I + 1) bool, what is exposed; column 0 is False."""

    @property
    def concerned(self) -> Tensor:
        """(B, I + 1) bool: the group, what is named and the anchor: all whose places steering may change."""
        concerned = self.group.clone()
        for items in (self.named, self.anchor[:, None]):
            concerned.scatter_(1, items, True)
        concerned[:, PADDING] = False
        return concerned

    def rows(self, index: Tensor) -> Wishes:
        """The wishes of some rows."""
        return Wishes(*(part[index] for part in (self.anchor, self.named, self.condition, self.followed, self.group)))


@dataclass(frozen=True)
class Rule:
    """A procedure with what it must know of the data."""

    procedure: Dislikes | Likes
    neighbours: Neighbours
    groups: Groups | None
    """Of the items, where the procedure is about categories."""

    @classmethod
    def of(cls, procedure: Dislikes | Likes, train: Rows, vocabulary: Vocabulary) -> Self:
        """Raises ConfigError where the item table lacks the column that the procedure names."""
        what = procedure.what
        groups = groups_of(vocabulary, what.column) if isinstance(what, Category) else None
        return cls(procedure, procedure.neighbours(train, vocabulary), groups)

    def wishes(self, batch: Batch, listed: Tensor, seen: Tensor, told: Tensor | None = None) -> Wishes:
        """The wishes of a batch for its unsteered lists (B, depth) and its whole histories `seen` (B, E).

        `told` (B, T) is what the users really disliked, padded with 0; needed where the data give the dislikes.
        """
        allowed = self._allowed(batch, listed, seen)
        if isinstance(self.procedure, Dislikes) and self.procedure.given_by == "data":
            if told is None:
                raise ConfigError(
                    f"'{name_of(self.procedure)}' needs what users really disliked, and the split does not tell.",
                    hint="`guiderec data prepare LOG SPLIT --dislike-at-most RATING` keeps the low ratings of a log",
                )
            real = torch.zeros(len(told), len(self.neighbours.offsets) - 1, dtype=torch.bool, device=told.device)
            allowed &= real.scatter_(1, told, True).gather(1, listed)  # padding is in no list
        anchor = self.procedure.anchors(listed, allowed, batch.key)
        if isinstance(self.procedure.what, Category):
            named, group = self._categories(anchor.cpu().numpy(), batch.key, self.procedure.what.members)
            return Wishes(anchor, named, named, named, group)
        near = self.neighbours.nearest(anchor.cpu().numpy(), self.procedure.what.neighbours)
        near[anchor.cpu().numpy() == PADDING] = PADDING
        followed = torch.from_numpy(near).to(anchor.device)
        named = anchor[:, None]
        condition = torch.cat([named, followed], dim=1) if isinstance(self.procedure.what, Neighbourhood) else named
        group = torch.zeros(len(anchor), len(self.neighbours.offsets) - 1, dtype=torch.bool, device=anchor.device)
        group.scatter_(1, followed, True)
        group[:, PADDING] = False
        return Wishes(anchor, named, condition, followed, group)

    def _allowed(self, batch: Batch, listed: Tensor, seen: Tensor) -> Tensor:
        allowed = (listed != PADDING) & (listed != batch.target[:, None])
        if isinstance(self.procedure, Likes):
            known = torch.zeros(len(seen), len(self.neighbours.offsets) - 1, dtype=torch.bool, device=seen.device)
            allowed &= ~known.scatter_(1, seen, True).gather(1, listed)
        if self.groups is not None:
            grouped = torch.from_numpy(np.diff(self.groups.members.indptr) > 0).to(listed.device)
            allowed &= grouped[listed]
        return allowed

    def _categories(self, anchors: Ids, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Members (B, count) and indicator (B, I + 1) of a category of each anchor: of several, one that is drawn."""
        assert self.groups is not None
        noise = Noise(self.procedure.seed)
        uniform = noise.uniform(keys, 1, "steering/category")[:, 0].cpu().numpy()
        chosen = np.full(len(anchors), -1, dtype=np.int64)
        for row in np.flatnonzero(anchors):
            own = self.groups.of(int(anchors[row]))
            chosen[row] = own[int(uniform[row] * len(own))]
        named = torch.zeros(len(anchors), count, dtype=torch.int64, device=keys.device)
        group = torch.zeros(len(anchors), self.groups.members.shape[0], dtype=torch.bool, device=keys.device)
        for category in np.unique(chosen[chosen >= 0]):
            rows = torch.from_numpy(np.flatnonzero(chosen == category)).to(keys.device)
            members = torch.from_numpy(self.groups.items(int(category))).to(keys.device)
            order = noise.bits(keys[rows], len(members), "steering/members").argsort(dim=1, stable=True)
            picked = members[order[:, :count]]
            named[rows, : picked.shape[1]] = picked
            group[rows[:, None], members] = True
        return named, group


def _nth(listed: Tensor, allowed: Tensor, n: Tensor) -> Tensor:
    """(B,) the n-th (from 0) allowed item of each list (B, depth); 0 where there are not so many."""
    wanted = allowed & (allowed.cumsum(dim=1) == n[:, None] + 1)
    return (listed * wanted).sum(dim=1)

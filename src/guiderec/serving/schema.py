"""What goes into the service and what comes out, as typed values with limits. Knows no web framework.

The limits keep one request from costing what a thousand should: lengths of texts and lists, k, the strength of
guidance. Names of fields are those of the HTTP interface; the docstrings below are its reference, and the examples of
all types tell one story.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StrictInt, StrictStr, Tag, model_validator

from guiderec.data.dataset import RawId
from guiderec.limits import MAX_GUIDANCE_SCALE
from guiderec.serving.feedback import Kind

MAX_TEXT = 256
"""Characters of an id, a name or a search."""
MAX_HISTORY = 1000
"""Items of a history."""
MAX_LISTED_WISHES = 100
"""Likes, and dislikes, of one request."""
MAX_K = 1000
"""Recommendations of one request."""
MAX_CONTRIBUTIONS = 10_000
"""Contributions of one reply, where `explain` was asked: k times the wishes that act (a category is one), the history
and `base`."""
MAX_PAGE = 1000
"""Items or people of one listing."""

_PRINTABLE = r"^[^\x00-\x1f\x7f]+$"

Text = Annotated[StrictStr, Field(min_length=1, max_length=MAX_TEXT, pattern=_PRINTABLE)]
"""Without control characters, which PostgreSQL refuses and nobody means."""


def _id_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    return "<number>" if isinstance(value, int) and not isinstance(value, bool) else None


_Number = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
ItemId = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[_Number, Tag("<number>")],
    Discriminator(_id_kind, custom_error_type="item_id", custom_error_message="an item id is text or a whole number"),
]
"""Raw id of an item. Tags begin with '<', so that no message mistakes them for fields."""
User = Text
"""Any name for a user."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


def _example(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [example]})


_TEA: dict[str, Any] = {"item_id": 17, "name": "Amber Oolong, vol. 2", "category": "Tea"}
_JAZZ: dict[str, Any] = {"item_id": 404, "name": "Late Trains, vol. 1", "category": "Jazz"}
_BREW: dict[str, Any] = {"item_id": 18, "name": "Amber Oolong, vol. 3", "category": "Tea"}
_MODEL: dict[str, Any] = {"name": "steerrec", "steers": True, "explains": False, "version": "5f1d7c20ab94",
                          "candidates": "all"}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- requests


class ItemWish(_Value):
    """A liked or disliked item."""

    item: ItemId
    """Its id in the catalogue."""


class CategoryWish(_Value):
    """A liked or disliked category."""

    category: Text
    """Its name, as `GET /categories` lists it."""


def _wish_kind(value: Any) -> str | None:
    if isinstance(value, _Value):
        return "<item>" if isinstance(value, ItemWish) else "<category>"
    kinds = [kind for kind in ("item", "category") if isinstance(value, dict) and kind in value]
    return f"<{kinds[0]}>" if len(kinds) == 1 else None


Wish = Annotated[
    Annotated[ItemWish, Tag("<item>")] | Annotated[CategoryWish, Tag("<category>")],
    Discriminator(
        _wish_kind,
        custom_error_type="wish",
        custom_error_message='a wish is {"item": id} or {"category": name}, one of the two',
    ),
]
Wishes = Annotated[tuple[Wish, ...], Field(max_length=MAX_LISTED_WISHES)]


class RecommendRequest(_Value):
    """Who asks, and what they wish. At least one of `user` and `history`."""

    model_config = _example({"user": "ada", "likes": [{"category": "Tea"}], "dislikes": [{"item": 404}], "k": 1})

    user: User | None = None
    """Stored feedback of this user acts too, and without `history` also the history that is known for them. A user
    that nothing is known about gets what the model recommends to a newcomer."""
    history: Annotated[tuple[ItemId, ...], Field(max_length=MAX_HISTORY)] | None = None
    """Items, oldest first, used instead of what is known."""
    likes: Wishes = ()
    """To pull towards, for this request alone; they outrank what is stored about the same item or category."""
    dislikes: Wishes = ()
    """To push away from, for this request alone. A disliked item is never in the list."""
    k: int = Field(10, ge=1, le=MAX_K, strict=True)
    """Length of the list, at most the number of items of the catalogue."""
    guidance_scale: float | None = Field(None, ge=0, le=MAX_GUIDANCE_SCALE, allow_inf_nan=False, strict=True)
    """Strength of guidance; 0 is off, null takes the model's own."""
    explain: bool = Field(False, strict=True)
    """Whether each item comes with the contributions that its score is the sum of. Not every model can say. Refused
    where k times the number of acting wishes + 2 exceeds 10,000."""
    exclude_seen: bool = Field(False, strict=True)
    """Whether items of the history stay out of the list."""

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if self.user is None and self.history is None:
            raise ValueError("give 'user', 'history' or both")
        return self


class FeedbackRequest(_Value):
    """Something that a user says about an item or a category: exactly one of the two."""

    model_config = _example({"user": "ada", "kind": "dislike", "item": 404})

    user: User
    """Any name for a user; they need not be known."""
    kind: Kind
    """`like` and `dislike` replace each other; `clear` takes either back; `seen` adds an item to the history, and
    `unseen` takes every `seen` of it back."""
    item: ItemId | None = None
    """Id in the catalogue."""
    category: Text | None = None
    """Name of a category."""

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        if (self.item is None) == (self.category is None):
            raise ValueError("give one of 'item' and 'category'")
        if self.kind in ("seen", "unseen") and self.item is None:
            raise ValueError(f"'{self.kind}' is said of an item, not of a category")
        return self


class SwapRequest(_Value):
    """Which model to serve from now on."""

    model_config = _example({"path": "next-week"})

    path: Annotated[StrictStr, Field(min_length=1, max_length=1024, pattern=_PRINTABLE)]
    """Directory of a run or saved model, below the directory that the server takes models from."""


# -------------------------------------------------------------------------------------------------------------- replies


class Item(_Value):
    """An item of the catalogue."""

    item_id: RawId
    """Raw id."""
    name: str
    """What to call it; its id where it has no name."""
    category: str | None
    """Its category, where known."""


class Contribution(_Value):
    """One summand of a score."""

    source: Literal["history", "like", "dislike", "base"]
    """`base` is what would be there without a history and wishes."""
    item_id: RawId | None
    """The item of the history or wish; null for a category and for `base`."""
    name: str | None
    """Name of that item."""
    category: str | None
    """The category of the wish, or that of the item."""
    amount: float
    """In units of the score."""


class RankedItem(Item):
    """A recommendation."""

    rank: int
    """From 1."""
    score: float
    """Of the model; comparable within one reply."""
    contributions: list[Contribution] | None = None
    """They add up to the score. null unless `explain` was asked."""


class Honoured(_Value):
    """How wishes acted; null where none did."""

    likes: Literal["steered", "history"] | None
    """`history`: liked items were appended to the history, since this model cannot be pulled. At strength 0 likes do
    nothing."""
    dislikes: Literal["steered", "filtered"] | None
    """`filtered`: disliked items were left out, and nothing else changed; so at strength 0."""


class ActingWishes(_Value):
    """Likes and dislikes together: of the request and stored."""

    likes: list[Wish]
    """Oldest first, those of the request last."""
    dislikes: list[Wish]
    """Oldest first, those of the request last."""
    items: list[Item]
    """What the items among them are called."""


class ModelLabel(_Value):
    """Which model answered."""

    name: str
    """For example `steerrec`."""
    steers: bool
    """Whether dislikes change the scores and not only the list."""
    explains: bool
    """Whether it can say what a score is made of."""
    version: str
    """Digest of the model's files, with the index where one is used: equal for equal answers."""
    candidates: Literal["all", "index"]
    """`all`: a list has the best of all items. `index`: the best of those that an index finds, by their exact scores;
    now and then one of the best is missed."""


class RecommendReply(_Value):
    """A list, and what it was made from."""

    model_config = _example(
        {
            "user": "ada",
            "history": [_TEA],
            "items": [{**_BREW, "rank": 1, "score": 7.25, "contributions": None}],
            "honoured": {"likes": "history", "dislikes": "steered"},
            "wishes": {"likes": [{"category": "Tea"}], "dislikes": [{"item": 404}], "items": [_JAZZ]},
            "guidance_scale": 1.0,
            "model": _MODEL,
        }
    )

    user: str | None
    """As in the request."""
    history: list[Item]
    """Oldest first; the newest ones, where there are very many."""
    items: list[RankedItem]
    """Best first; fewer than k where fewer are left."""
    honoured: Honoured
    """How the wishes acted."""
    wishes: ActingWishes
    """What acted."""
    guidance_scale: float | None
    """Strength that acted; null for a model without guidance."""
    model: ModelLabel
    """Which model answered."""


class FeedbackReply(_Value):
    """Feedback that is stored for good."""

    model_config = _example({"id": 12, "user": "ada", "kind": "dislike", "item": 404, "time": "2026-03-01T09:30:00Z"})

    id: int
    """Larger than that of all feedback acknowledged before."""
    user: str
    """As in the request."""
    kind: Kind
    """As in the request."""
    item: RawId | None = None
    """Id as the catalogue writes it; absent for a category."""
    category: str | None = None
    """Absent for an item."""
    time: datetime
    """UTC, by the clock of the server."""


class StoredReply(_Value):
    """What the feedback of a user amounts to now."""

    model_config = _example({"user": "ada", "likes": [{"category": "Tea"}], "dislikes": [{"item": 404}], "seen": [17]})

    user: str
    """As asked."""
    likes: list[Wish]
    """Oldest first."""
    dislikes: list[Wish]
    """Oldest first."""
    seen: list[RawId]
    """Oldest first; appended to the history that is known otherwise."""


class ItemsReply(_Value):
    """Items found."""

    model_config = _example({"items": [_TEA, _BREW]})

    items: list[Item]
    """Best match first."""


class Category(_Value):
    """A category that can be liked and disliked."""

    name: str
    """Its name."""
    n_items: int
    """How many items have it."""


class CategoriesReply(_Value):
    """All categories."""

    model_config = _example({"categories": [{"name": "Tea", "n_items": 96}]})

    categories: list[Category]
    """Largest first; empty for a catalogue without categories."""


class Person(_Value):
    """A user whose history is known."""

    user: str
    """What to ask for."""
    length: int
    """Items in the history."""
    preview: list[str]
    """Names of the newest items, newest first."""


class PeopleReply(_Value):
    """Users whose histories are known."""

    model_config = _example(
        {"people": [{"user": "2811", "length": 9, "preview": [_JAZZ["name"], _TEA["name"]]}], "total": 1}
    )

    people: list[Person]
    """Best match first; empty for a server without data."""
    total: int
    """How many match, listed or not."""


class Honours(_Value):
    """What a model does with wishes."""

    likes: Literal["steered", "history"]
    """As in `honoured` of a recommendation."""
    dislikes: Literal["steered", "filtered"]
    """As in `honoured` of a recommendation."""


class IndexReply(_Value):
    """An index of the items, and what was measured when it was built."""

    lists: int
    """Into how many lists the items are put."""
    probes: int
    """How many of them a request reads."""
    refine: int
    """How many candidates are scored exactly for each wanted item."""
    k: int | None
    """Length of the lists that recall was measured on; null where it was not measured."""
    recall: float | None
    """Mean share of the k best items that were found, by people that the index was not tuned on."""
    recall_steered: float | None
    """The same for requests with dislikes."""


class ModelReply(ModelLabel):
    """The model that is served."""

    model_config = _example(
        {
            **_MODEL,
            "n_items": 1000,
            "default_guidance_scale": 1.0,
            "honours": {"likes": "history", "dislikes": "steered"},
            "has_people": True,
            "has_categories": True,
            "index": None,
        }
    )

    n_items: int
    """Items of its catalogue."""
    default_guidance_scale: float | None
    """Its own strength of guidance; null for a model without."""
    honours: Honours
    """What it does with wishes."""
    has_people: bool
    """Whether histories are known (`GET /people`)."""
    has_categories: bool
    """Whether categories are known (`GET /categories`)."""
    index: IndexReply | None = None
    """What finds the candidates; null where all items are scored."""


class StatusReply(_Value):
    """How the server is."""

    model_config = _example({"status": "ready"})

    status: Literal["ok", "ready"]
    """`ok`: the process lives. `ready`: requests can be answered."""


class Problem(_Value):
    """Why there is no answer."""

    model_config = _example({"detail": "Item 18000 is not in the catalogue of 1,000 items.", "hint": None})

    detail: str
    """One sentence."""
    hint: str | None = None
    """What to do about it, where that is known."""

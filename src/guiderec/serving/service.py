"""The service: who asks, what is known of them, what the model says. Knows no HTTP and no SQL.

A request is checked against the catalogue and put into the queue of `batching.py`. The thread behind it looks up the
stored feedback of all users of a batch with one query, groups the requests that one call of the model can answer, and
asks `Model.recommend`: the function that was evaluated. Feedback goes through a queue of its own, so that many users
share one commit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from guiderec.data.dataset import RawId
from guiderec.errors import ConfigError, GuideRecError, ServingError
from guiderec.serving.batching import Batcher
from guiderec.serving.feedback import Event, FeedbackStore, Recorded, Stored
from guiderec.serving.loaded import Loaded, open_model
from guiderec.serving.people import People
from guiderec.serving.schema import (
    MAX_CONTRIBUTIONS,
    MAX_HISTORY,
    ActingWishes,
    CategoriesReply,
    Category,
    CategoryWish,
    Contribution,
    FeedbackReply,
    FeedbackRequest,
    Honoured,
    Honours,
    IndexReply,
    Item,
    ItemsReply,
    ItemWish,
    ModelLabel,
    ModelReply,
    PeopleReply,
    Person,
    RankedItem,
    RecommendReply,
    RecommendRequest,
    StoredReply,
)
from guiderec.wishes import Category as CategoryName

AnyWish = ItemWish | CategoryWish

_PREVIEW = 3
"""Names that a listing shows of a person's history."""


class Watch(Protocol):
    """What a service tells about its work, from its own threads."""

    def batch(self, jobs: int, seconds: float) -> None:
        """A batch of requests was answered, look-ups included."""

    def model(self, rows: int, seconds: float) -> None:
        """One call of the model."""

    def written(self, events: int, seconds: float) -> None:
        """One commit of feedback."""


class Unwatched:
    """Tells nobody."""

    def batch(self, jobs: int, seconds: float) -> None:
        """Nothing."""

    def model(self, rows: int, seconds: float) -> None:
        """Nothing."""

    def written(self, events: int, seconds: float) -> None:
        """Nothing."""


@dataclass(frozen=True)
class _Asked:
    """A request with the model that answers it: the one that was served when it came."""

    request: RecommendRequest
    by: Loaded


@dataclass(frozen=True)
class _Question:
    """All that acts on one answer."""

    asked: _Asked
    history: list[RawId]
    likes: list[AnyWish] = field(default_factory=list)
    dislikes: list[AnyWish] = field(default_factory=list)

    @property
    def group(self) -> tuple[object, ...]:
        """Equal for questions that one call of the model can answer."""
        request = self.asked.request
        return (self.asked.by, request.k, request.guidance_scale, request.exclude_seen, request.explain)


class Service:
    """Recommendations of one model at a time, with the feedback and the histories of its users.

    Parameters
    ----------
    model
        As `open_model` gives it.
    feedback
        Where feedback is kept.
    people
        Histories that are known beforehand.
    models
        Directory below which `swap` takes models; None forbids it.
    max_queue, max_batch
        Of `Batcher`, for requests and for feedback alike.

    Raises
    ------
    ConfigError
        For people whose items the catalogue does not know at all.
    """

    def __init__(
        self,
        model: Loaded,
        feedback: FeedbackStore,
        people: People | None = None,
        *,
        models: Path | None = None,
        max_queue: int = 256,
        max_batch: int = 64,
        watch: Watch | None = None,
    ) -> None:
        self.people = people or People.nobody()
        if len(self.people) and not any(model.catalogue.vocabulary.find(item) for item in self.people.raw):
            raise ConfigError(
                "The split and the model share no item.", hint="--data is the split that the model was trained on"
            )
        self.feedback = feedback
        self.models = models
        self._served = model
        self._swapping = threading.Lock()
        self._watch = watch or Unwatched()
        self._questions: Batcher[_Asked, RecommendReply] = Batcher(
            self._answer, max_queue=max_queue, max_batch=max_batch, name="recommend", observe=self._watch.batch
        )
        self._events: Batcher[Event, Recorded] = Batcher(
            feedback.append, max_queue=max_queue, max_batch=max_batch, name="feedback", observe=self._watch.written
        )

    def close(self) -> None:
        """Answer what waits, then stop."""
        self._questions.close()
        self._events.close()

    @property
    def waiting(self) -> int:
        """Requests for recommendations that have not begun."""
        return self._questions.waiting

    def check(self) -> None:
        """Raise ServingError unless requests can be answered now."""
        if not (self._questions.alive and self._events.alive):
            raise ServingError("The server is shutting down.")
        self.feedback.check()

    # ------------------------------------------------------------------------------------------------ recommendations

    def recommend(self, request: RecommendRequest) -> RecommendReply:
        """The list for a request. Raises as `ask`, and what the model says against the request."""
        return self.ask(request).result()

    def ask(self, request: RecommendRequest) -> Future[RecommendReply]:
        """The list to come. Cancel it when nobody waits for it any more.

        Raises
        ------
        DataError
            For an item or category that is not in the catalogue.
        ConfigError
            For an option that the model cannot honour.
        QueueFull
            When too many requests wait.
        """
        served = self._served
        checked = request.model_copy(
            update={
                "history": None if request.history is None else tuple(map(served.catalogue.known, request.history)),
                "likes": tuple(dict.fromkeys(map(served.catalogue.wish, request.likes))),
                "dislikes": tuple(dict.fromkeys(map(served.catalogue.wish, request.dislikes))),
            }
        )
        if both := set(checked.likes) & set(checked.dislikes):
            raise ConfigError(f"{_said(next(iter(both)))} is both liked and disliked.")
        if request.k > len(served.catalogue):
            raise ConfigError(f"k = {request.k:,}, but the catalogue has {len(served.catalogue):,} items.")
        if request.explain and not served.model.explains:
            raise ConfigError(f"'{served.model.name}' cannot explain its scores.", hint="leave 'explain' out")
        _refuse_long(served, checked, checked.likes, checked.dislikes)
        return self._questions.submit(_Asked(checked, served))

    def _answer(self, batch: Sequence[_Asked]) -> list[RecommendReply | Exception]:
        """Replies to a batch, in its order; problems in the places of those that they concern."""
        replies: dict[int, RecommendReply | Exception] = {}
        groups: dict[tuple[object, ...], dict[int, _Question]] = {}
        stored, trouble = self._look_up(batch)
        for place, asked in enumerate(batch):
            if trouble is not None and asked.request.user is not None:
                replies[place] = trouble
                continue
            question = self._question(asked, stored.get(asked.request.user or "", Stored()))
            try:
                _refuse_long(asked.by, asked.request, question.likes, question.dislikes)
            except ConfigError as error:
                replies[place] = error
                continue
            groups.setdefault(question.group, {})[place] = question
        for questions in groups.values():
            replies.update(zip(questions, self._answer_group(list(questions.values())), strict=True))
        return [replies[place] for place in range(len(batch))]

    def _look_up(self, batch: Sequence[_Asked]) -> tuple[dict[str, Stored], ServingError | None]:
        """The stored feedback of all users of a batch, or why there is none to be had."""
        try:
            return self.feedback.stored(list({a.request.user for a in batch if a.request.user is not None})), None
        except ServingError as error:
            return {}, error

    def _question(self, asked: _Asked, stored: Stored) -> _Question:
        """A request with what is known of its user; what the request says outranks what is stored."""
        request, catalogue = asked.request, asked.by.catalogue
        if request.history is not None:
            history = list(request.history)
        else:
            assert request.user is not None  # or the request would not be valid
            earlier = self.people.history(request.user)
            known = (catalogue.vocabulary.find(item) for item in (*earlier, *stored.seen))
            history = catalogue.vocabulary.decode([j for j in known if j is not None])[-MAX_HISTORY:]
        said = {*request.likes, *request.dislikes}
        before = [
            [wish for wish in map(catalogue.stored_wish, events) if wish is not None and wish not in said]
            for events in (stored.likes, stored.dislikes)
        ]
        return _Question(asked, history, [*before[0], *request.likes], [*before[1], *request.dislikes])

    def _answer_group(self, questions: Sequence[_Question]) -> Sequence[RecommendReply | Exception]:
        """Replies to questions of one group. If the model refuses them together, each is asked alone."""
        try:
            return self._ask_model(questions)
        except GuideRecError as error:
            if len(questions) == 1:
                return [error]
            return [reply for question in questions for reply in self._answer_group([question])]

    def _ask_model(self, questions: Sequence[_Question]) -> list[RecommendReply]:
        by, request = questions[0].asked.by, questions[0].asked.request
        begun = time.perf_counter()
        frame = by.model.recommend(
            [q.history for q in questions],
            k=request.k,
            likes=[_wishes(q.likes) for q in questions] if any(q.likes for q in questions) else None,
            dislikes=[_wishes(q.dislikes) for q in questions] if any(q.dislikes for q in questions) else None,
            guidance_scale=request.guidance_scale,
            exclude_seen=request.exclude_seen,
            explain=request.explain,
        )
        self._watch.model(len(questions), time.perf_counter() - begun)
        rows: list[list[dict[str, Any]]] = [[] for _ in questions]
        for row in frame.iter_rows(named=True):
            rows[row["query"]].append(row)
        return [_reply(question, listed) for question, listed in zip(questions, rows, strict=True)]

    # ------------------------------------------------------------------------------------------------------- feedback

    def record(self, request: FeedbackRequest) -> Future[FeedbackReply]:
        """Store feedback; the result is there once it is committed.

        Raises
        ------
        DataError
            For an item or category that is not in the catalogue.
        QueueFull
            When too much feedback waits.
        """
        catalogue = self._served.catalogue
        item = None if request.item is None else catalogue.known(request.item)
        category = None if request.category is None else catalogue.known_category(request.category)
        event = Event(request.user, request.kind, None if item is None else str(item), category)
        stored: Future[FeedbackReply] = Future()
        stored.set_running_or_notify_cancel()  # it will be stored, whether or not somebody waits for the answer

        def tell(written: Future[Recorded]) -> None:
            if (error := written.exception()) is not None:
                stored.set_exception(error)
                return
            done = written.result()
            stored.set_result(
                FeedbackReply(
                    id=done.id, user=request.user, kind=request.kind, item=item, category=category, time=done.time
                )
            )

        self._events.submit(event).add_done_callback(tell)
        return stored

    def stored(self, user: str) -> StoredReply:
        """What the feedback of a user amounts to now, as far as it concerns the present catalogue."""
        catalogue, found = self._served.catalogue, self.feedback.stored([user])[user]
        likes, dislikes = (
            [wish for wish in map(catalogue.stored_wish, events) if wish is not None]
            for events in (found.likes, found.dislikes)
        )
        seen = [item for item in map(catalogue.stored_item, found.seen) if item is not None]
        return StoredReply(user=user, likes=likes, dislikes=dislikes, seen=seen)

    # ------------------------------------------------------------------------------------------------------ catalogue

    def items(self, search: str, limit: int) -> ItemsReply:
        """Items whose name or id contains a text."""
        return ItemsReply(items=self._served.catalogue.search(search, limit))

    def categories(self) -> CategoriesReply:
        """All categories, the largest first."""
        found = self._served.catalogue.categories
        return CategoriesReply(categories=[Category(name=name, n_items=size) for name, size in found.items()])

    def known_people(self, search: str, limit: int) -> PeopleReply:
        """The first people whose histories are known and whose names contain a text."""
        catalogue, listed = self._served.catalogue, []
        found, total = self.people.search(search, limit)
        for user in found:
            items = self.people.history(user)
            known = [j for item in items if (j := catalogue.vocabulary.find(item)) is not None]
            preview = catalogue.vocabulary.names(known[: -_PREVIEW - 1 : -1])
            listed.append(Person(user=user, length=len(known), preview=preview))
        return PeopleReply(people=listed, total=total)

    # ---------------------------------------------------------------------------------------------------------- model

    def describe(self) -> ModelReply:
        """The model that is served."""
        served = self._served
        return ModelReply(
            **_label(served).model_dump(),
            n_items=len(served.catalogue),
            default_guidance_scale=served.guidance_scale,
            honours=Honours(likes=served.model.honours.likes, dislikes=served.model.honours.dislikes),
            has_people=len(self.people) > 0,
            has_categories=bool(served.catalogue.categories),
            index=_index(served),
        )

    def swap(self, path: str) -> ModelReply:
        """Serve another model from now on; requests that came before are answered by the one they came to.

        Takes as long as loading takes, on the thread of the caller. The present model stays if anything is wrong. If it
        uses an index, so does the other, whose directory must have one.

        Raises
        ------
        CheckpointError
            For a directory that is damaged, or lies outside `models`.
        ConfigError
            Where swapping is forbidden.
        """
        if self.models is None:
            raise ConfigError("This server takes no other models.")
        with self._swapping:
            self._served = open_model(self.models / path, below=self.models, index=self._served.model.index is not None)
            return self.describe()


def _refuse_long(by: Loaded, request: RecommendRequest, likes: Sequence[AnyWish], dislikes: Sequence[AnyWish]) -> None:
    """ConfigError where the reply would explain more than can be read, or written while others wait."""
    if not request.explain:
        return
    wishes = len(dislikes) + (len(likes) if by.model.honours.likes == "steered" else 0)
    told = request.k * (wishes + 2)
    if told > MAX_CONTRIBUTIONS:
        raise ConfigError(
            f"'explain' would tell {told:,} contributions: k = {request.k:,} times {wishes:,} + 2, for the wishes that "
            f"act, the history and what everybody is given. {MAX_CONTRIBUTIONS:,} is the most.",
            hint="ask for a shorter list (k), fewer wishes, or leave 'explain' out",
        )


def _said(wish: AnyWish) -> str:
    return f"Item {wish.item!r}" if isinstance(wish, ItemWish) else f"Category {wish.category!r}"


def _wishes(wishes: Sequence[AnyWish]) -> list[RawId | CategoryName]:
    """Wishes as the model takes them."""
    return [wish.item if isinstance(wish, ItemWish) else CategoryName(wish.category) for wish in wishes]


def _label(served: Loaded) -> ModelLabel:
    model = served.model
    candidates: Literal["all", "index"] = "all" if model.index is None else "index"
    return ModelLabel(
        name=model.name, steers=model.steers, explains=model.explains, version=served.version, candidates=candidates
    )


def _index(served: Loaded) -> IndexReply | None:
    index = served.model.index
    if index is None:
        return None
    measured = dict(index.measured or {})
    return IndexReply(
        lists=index.n_lists,
        probes=index.probes,
        refine=index.refine,
        k=measured.get("k"),
        recall=measured.get("recall"),
        recall_steered=measured.get("recall_steered"),
    )


def _reply(question: _Question, rows: Sequence[dict[str, Any]]) -> RecommendReply:
    request, by = question.asked.request, question.asked.by
    listed = by.catalogue.items([row["item_id"] for row in rows])
    about = _abouts(rows, by)
    return RecommendReply(
        user=request.user,
        history=by.catalogue.items(question.history),
        items=[_ranked(item, row, about) for item, row in zip(listed, rows, strict=True)],
        honoured=_honoured(question),
        wishes=_acting(question),
        guidance_scale=_strength(question),
        model=_label(by),
    )


def _acting(question: _Question) -> ActingWishes:
    said = (*question.likes, *question.dislikes)
    items = [wish.item for wish in said if isinstance(wish, ItemWish)]
    named = question.asked.by.catalogue.items(items)
    return ActingWishes(likes=question.likes, dislikes=question.dislikes, items=named)


def _strength(question: _Question) -> float | None:
    """The strength that acts: that of the request, or else the model's own."""
    asked = question.asked.request.guidance_scale
    return question.asked.by.guidance_scale if asked is None else asked


def _honoured(question: _Question) -> Honoured:
    """How the wishes acted on this answer: at strength 0 likes do nothing, and dislikes are filtered."""
    likes, dislikes = question.asked.by.model.honours
    off = _strength(question) == 0
    return Honoured(
        likes=likes if question.likes and not off else None,
        dislikes=("filtered" if off else dislikes) if question.dislikes else None,
    )


def _abouts(rows: Sequence[dict[str, Any]], by: Loaded) -> dict[RawId, Item]:
    """What the items are called that contributions speak of. These are the same for all places of a list."""
    spoken = [summand["item_id"] for summand in (rows[0].get("contributions") or () if rows else ())]
    raw = [item for item in spoken if item is not None]
    return dict(zip(raw, by.catalogue.items(raw), strict=True))


def _ranked(item: Item, row: dict[str, Any], about: dict[RawId, Item]) -> RankedItem:
    summands = row.get("contributions")
    return RankedItem(
        item_id=item.item_id,
        name=item.name,
        category=item.category,
        rank=row["rank"],
        score=row["score"],
        contributions=None if summands is None else [_contribution(summand, about) for summand in summands],
    )


def _contribution(summand: dict[str, Any], about: dict[RawId, Item]) -> Contribution:
    raw = summand["item_id"]
    item = None if raw is None else about[raw]
    return Contribution(
        source=summand["source"],
        item_id=raw,
        name=None if item is None else item.name,
        category=summand["category"] if item is None else item.category,
        amount=summand["amount"],
    )

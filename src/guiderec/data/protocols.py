"""Protocols as named values: which event trains, which is predicted, and from what history.

A protocol is called with a log and gives a `Dataset`; `split` does the same to sequences that are already in order.
Its plain data (`to_plain`) goes into every record, so that two numbers are only compared when it is equal.

                 divides   training rows            test row             histories may contain
UserSplit        users     last item of a user      last item of a user  that user's earlier items
LeaveOneOut      events    every prefix             last item            all earlier items, validation item included
SessionSplit     sessions  every position           every position       earlier items of the same session
GlobalTime       events    every prefix before the  events of the test   all the user's events before the target
                           first cut                period
ImpressionSplit  impres-   every click before the   every click of the   what the impression says was clicked before it
                 sions     first cut                test period
DrawnImpressions impres-   every click of a drawn   every click of a     the same
                 sions     impression               drawn impression

All but the last two rank the whole catalogue (`candidates`). Items of the history stay in it unless `seen` is "mask".
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import polars as pl
from pydantic import AfterValidator, Field, field_validator, model_validator

from guiderec.config import Part
from guiderec.data.dataset import Dataset, Fingerprint, Vocabulary
from guiderec.data.sequences import Ids, Rows, Sequences
from guiderec.errors import ConfigError, DataError, nearest
from guiderec.rng import numpy_generator

if TYPE_CHECKING:
    from guiderec.data.interactions import Interactions

TrainingRows = Literal["last", "every_prefix"]


def _shares_of_one(shares: tuple[float, float, float]) -> tuple[float, float, float]:
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError("three shares, none negative, must sum to 1")
    return shares


Shares = Annotated[tuple[float, float, float], AfterValidator(_shares_of_one)]
"""Of training, validation and test."""


class Parts(NamedTuple):
    """The rows of a split."""

    train: Rows
    valid: Rows
    test: Rows


class Protocol(Part):
    """How a log becomes training, validation and test rows."""

    divides: ClassVar[Literal["users", "sessions", "events", "impressions"]]
    """What belongs to exactly one part."""
    needs_time: ClassVar[bool] = False
    """Whether the times themselves are needed, and not only the order they give."""

    name: str
    training_rows: TrainingRows
    """`last`: one row per sequence, its last item. `every_prefix`: one row per item."""
    shortest_history: int = Field(default=1, ge=0)
    """Items a row must have before its target; 0 admits the first item of a sequence, with an empty history."""
    seen: Literal["keep", "mask"] = "keep"
    """Whether items of the history may be recommended."""
    candidates: Literal["catalogue", "impression"] = "catalogue"
    """What is ranked: every item of the catalogue, never padding; or what the impression showed."""

    @field_validator("candidates")
    @classmethod
    def _are_known(cls, candidates: str) -> str:
        if candidates == "impression" and cls.divides != "impressions":
            raise ValueError("only protocols of impressions know what was shown")
        return candidates

    @abstractmethod
    def split(self, sequences: Sequences) -> Parts:
        """Training, validation and test rows of `sequences`, one sequence per user, oldest first."""

    def __call__(self, interactions: Interactions, *, name: str | None = None) -> Dataset:
        """The split of a log. Events with equal times keep the order of the log.

        Raises
        ------
        DataError
            For a log without times, and for a part that would be empty.
        """
        log = interactions.sequences(needed_by=self.name)
        name = name or f"{interactions.name}/{self.name}"
        dataset = self.dataset(log.sequences, log.vocabulary, name=name, users=log.users)
        return replace(dataset, filters=interactions.filters)

    def dataset(
        self, sequences: Sequences, vocabulary: Vocabulary, *, name: str, users: pl.Series | None = None
    ) -> Dataset:
        """`split` with all that a `Dataset` carries."""
        return self.assemble(self.split(sequences), vocabulary, full=sequences, name=name, users=users)

    def assemble(
        self, parts: Parts, vocabulary: Vocabulary, *, full: Sequences, name: str, users: pl.Series | None = None
    ) -> Dataset:
        """The dataset of `parts`. Where events are divided, `full` holds every event once: it is the fingerprint's."""
        for part, rows in parts._asdict().items():
            if len(rows) == 0:
                raise DataError(
                    f"{name}: {self.name} leaves no row for '{part}'.",
                    hint="use more data, other fractions or cuts, or a smaller shortest_history.",
                )
        log = [Rows.last_items(full)] if self.divides == "events" else parts
        return Dataset(
            name=name,
            protocol=self.to_plain(),
            train=parts.train,
            valid=parts.valid,
            test=parts.test,
            vocabulary=vocabulary,
            fingerprint=Fingerprint.of(log, vocabulary.raw),
            seen=self.seen,
            users=users,
        )

    def rows_for_training(self, sequences: Sequences) -> Rows:
        """Training rows of the training sequences."""
        return _rows(sequences, self.training_rows, self.shortest_history)


class UserSplit(Protocol):
    """Users are divided; the newest `max_items` items of a user make one row, whose target is the last.

        user   newest 4 items   part    row            (max_items=4)
        a      3 1 4 5          train   3 1 4 -> 5
        b      2 6 1            valid     2 6 -> 1
        c      5 3 2 1          test    5 3 2 -> 1

    Of n users, floor(f n) are drawn for training and validation each, by `seed` and the sorted user ids; the rest
    test. A user with no item before the last gives no row. `seed=None` names a split drawn by somebody else.
    """

    divides = "users"
    name: Literal["user-split"] = "user-split"
    training_rows: TrainingRows = "last"
    seed: int | None = 0
    """Seed of the draw of users; None for a split that was read, not drawn."""
    fractions: Shares = (0.8, 0.1, 0.1)
    """Shares of users that train, validate and test."""
    max_items: int | None = Field(default=11, ge=2)
    """Newest items kept of each user, target included; None keeps all."""

    def split(self, sequences: Sequences) -> Parts:
        """Draw the users. Raises ConfigError when there is no seed, DataError when a user has two sequences."""
        if self.seed is None:
            raise ConfigError("UserSplit(seed=None) names a released split.", hint="give a seed to draw a new one.")
        by_user = np.argsort(sequences.users, kind="stable")
        if (np.diff(sequences.users[by_user]) == 0).any():
            raise DataError("user-split needs one sequence per user, and some users have several.")
        drawn = by_user[numpy_generator(self.seed, self.name).permutation(len(sequences))]
        n_train, n_valid = (int(share * len(drawn) + 1e-9) for share in self.fractions[:2])
        newest = sequences if self.max_items is None else sequences.newest(self.max_items)
        groups = (drawn[:n_train], drawn[n_train : n_train + n_valid], drawn[n_train + n_valid :])
        return self.parts(*(newest.take(np.sort(group)) for group in groups))

    def parts(self, train: Sequences, valid: Sequences, test: Sequences) -> Parts:
        """Rows of users that are already divided."""
        last = [_rows(part, "last", self.shortest_history) for part in (valid, test)]
        return Parts(self.rows_for_training(train), *last)


class LeaveOneOut(Protocol):
    """The last item of every user tests, the one before it validates, the rest trains.

        log     3 1 4 5 9
        train   3 -> 1;  3 1 -> 4          (every prefix; "last": only 3 1 -> 4)
        valid   3 1 4 -> 5
        test    3 1 4 5 -> 9               the validation item is in the history

    Users with fewer than three items only train. A row with fewer than `shortest_history` items before its target is
    left out in all parts. Training contains events that happened after test events of other users; use `GlobalTime`
    where that matters.
    """

    divides = "events"
    name: Literal["leave-one-out"] = "leave-one-out"
    training_rows: TrainingRows = "every_prefix"

    def split(self, sequences: Sequences) -> Parts:
        """Cut two items from every sequence that has three."""
        lengths = sequences.lengths
        long = np.flatnonzero(lengths >= 3)
        train = sequences.oldest(np.where(lengths >= 3, lengths - 2, lengths))
        return Parts(
            self.rows_for_training(train),
            self._targets(sequences, long, lengths[long] - 2),
            self._targets(sequences, long, lengths[long] - 1),
        )

    def _targets(self, sequences: Sequences, index: Ids, position: Ids) -> Rows:
        """The events at `position` (N,) of the sequences `index` (N,), those with a history that is long enough."""
        enough = position >= self.shortest_history
        return Rows(sequences, index[enough], position[enough])


class SessionSplit(Protocol):
    """Sessions, in the order in which they begin, are divided; every position is a row, in training and evaluation.

        session begins  items    part    rows                              (fractions 1/3, 1/3, 1/3)
        09:00           4 2 7    train   () -> 4;  4 -> 2;  4 2 -> 7
        09:10           1 4      valid   () -> 1;  1 -> 4
        11:00           2 3      test    () -> 2;  2 -> 3

    Of n sessions the first floor(f n) train and those up to floor((f + g) n) validate. A session that begins before
    a cut may end after it. `shortest_history=1` leaves out the rows with an empty history.
    """

    divides = "sessions"
    name: Literal["session-split"] = "session-split"
    training_rows: TrainingRows = "every_prefix"
    shortest_history: int = Field(default=0, ge=0)
    fractions: Shares = (0.8, 0.1, 0.1)
    """Shares of sessions that train, validate and test."""
    gap_seconds: float | None = Field(default=None, gt=0)
    """A pause longer than this begins a new session; None: the log of a user is one session."""
    shortest_session: int = Field(default=1, ge=1)
    """Shorter sessions are left out, before the others are divided."""

    def split(self, sequences: Sequences) -> Parts:
        """Divide by the time of the first event, or by the given order where times are not known."""
        if self.gap_seconds is not None:
            sequences = at_pauses(sequences, self.gap_seconds)
        if self.shortest_session > 1:
            sequences = sequences.take(np.flatnonzero(sequences.lengths >= self.shortest_session))
        order = np.arange(len(sequences))
        if sequences.times is not None:
            order = np.argsort(sequences.times[sequences.offsets[:-1]], kind="stable")
        first = int(self.fractions[0] * len(order) + 1e-9)
        second = int((self.fractions[0] + self.fractions[1]) * len(order) + 1e-9)
        groups = (order[:first], order[first:second], order[second:])
        return self.parts(*(sequences.take(group) for group in groups))

    def parts(self, train: Sequences, valid: Sequences, test: Sequences) -> Parts:
        """Rows of sessions that are already divided."""
        every = [_rows(part, "every_prefix", self.shortest_history) for part in (valid, test)]
        return Parts(self.rows_for_training(train), *every)


class TimeCuts(Protocol):
    """Two points in time divide everything: before the first trains, from the second on tests."""

    needs_time = True
    valid_from: float | str | None = None
    """Where validation begins: seconds since 1970, or an ISO date or time (UTC unless it says otherwise)."""
    test_from: float | str | None = None
    """Where testing begins, in the same form."""
    fractions: Shares | None = (0.8, 0.1, 0.1)
    """Shares of events, in order of time, where `valid_from` and `test_from` are not given."""

    @field_validator("valid_from", "test_from")
    @classmethod
    def _is_a_time(cls, time: float | str | None) -> float | str | None:
        if time is not None:
            to_seconds(time)
        return time

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if (self.valid_from is None) != (self.test_from is None):
            raise ValueError("valid_from and test_from belong together")
        if self.valid_from is None and self.fractions is None:
            raise ValueError("give valid_from and test_from, or fractions")
        begin, end = self.valid_from, self.test_from
        if begin is not None and end is not None and to_seconds(begin) >= to_seconds(end):
            raise ValueError("valid_from must be before test_from")
        return self

    def cuts(self, times: Ids) -> tuple[float, float]:
        """(valid_from, test_from) in seconds since 1970, for the times of all events."""
        if self.valid_from is not None and self.test_from is not None:
            return to_seconds(self.valid_from), to_seconds(self.test_from)
        assert self.fractions is not None
        ordered = np.sort(times)
        first, second = self.fractions[0], self.fractions[0] + self.fractions[1]
        at = [min(int(share * len(ordered) + 1e-9), len(ordered) - 1) for share in (first, second)]
        return float(ordered[at[0]]), float(ordered[at[1]])


class GlobalTime(TimeCuts):
    """Two points in time divide the log of everybody; nothing that trains is as late as anything that is predicted.

        time     1 2 3 4 5 6 7 8          valid_from=5, test_from=7, targets="all"
        user a   3 1 . . 4 5 9 .    train 3 -> 1           valid 3 1 -> 4;  3 1 4 -> 5     test 3 1 4 5 -> 9
        user b   . 2 . 6 . . 1 8    train 2 -> 6           valid (none)                    test 2 6 -> 1;  2 6 1 -> 8

    An event exactly at a cut belongs to the later part. With `fractions` the cuts are the times of the events at these
    shares of the log. `targets="last"` keeps the last event of each user in each period. The first event of a
    user has nothing before it and is a row only with `shortest_history=0`.
    """

    divides = "events"
    name: Literal["global-time"] = "global-time"
    training_rows: TrainingRows = "every_prefix"
    targets: Literal["all", "last"] = "all"
    """Which events of a period are predicted."""

    def split(self, sequences: Sequences) -> Parts:
        """Cut every sequence at the two times. Raises DataError when times are not known."""
        if sequences.times is None:
            raise DataError("global-time needs the time of every event, and the sequences have none.")
        valid_from, test_from = self.cuts(sequences.times)
        begin = _count_before(sequences, valid_from)
        middle = _count_before(sequences, test_from)
        before_test = sequences.oldest(middle)
        return Parts(
            self.rows_for_training(sequences.oldest(begin)),
            self._period(before_test, begin[middle > 0]),
            self._period(sequences, middle),
        )

    def _period(self, sequences: Sequences, begin: Ids) -> Rows:
        """Rows for the events from position `begin` (S,) to the end of each sequence."""
        begin = np.maximum(begin, self.shortest_history)
        if self.targets == "last":
            begin = np.maximum(begin, sequences.lengths - 1)
        return Rows.starting_at(sequences, begin)


class Impressions(Protocol):
    """What divides impressions, each a list that was shown to a user; every click of one is a row.

    A row is a sequence of its own: the history of the impression, uncut, and the click. The clicks of one impression
    compete with each other. Tables of impressions are read and divided in `guiderec.data.impressions`.
    """

    divides = "impressions"
    training_rows: TrainingRows = "last"
    shortest_history: int = Field(default=0, ge=0)
    candidates: Literal["catalogue", "impression"] = "impression"

    @abstractmethod
    def part_of(self, times: Ids) -> Ids:
        """(M,) the part of each of M impressions at these times, which ascend: 0 trains, 1 validates, 2 tests."""

    def split(self, sequences: Sequences) -> Parts:
        """Always a DataError: sequences of events do not say what was shown."""
        raise DataError(
            f"The protocol '{self.name}' divides a table of impressions; a log of events does not say what was shown.",
            hint="a table has the columns user, time, history, clicked and unclicked; see guiderec.data.impressions",
        )

    def parts(self, train: Sequences, valid: Sequences, test: Sequences) -> Parts:
        """Rows of clicks that are already divided: the last item of each sequence."""
        return Parts(*(_rows(part, "last", self.shortest_history) for part in (train, valid, test)))


class ImpressionSplit(Impressions, TimeCuts):
    """Impressions are divided by time.

        time  history  clicked  unclicked      part    rows              candidates   passed over
        1     3 1      4        5 9            train   3 1 -> 4                       5 9
        2     3 1      2 6      9              valid   3 1 -> 2          2 6 9        9
                                                       3 1 -> 6          2 6 9        9
        3     1        9        2              test    1 -> 9            2 9          2

    An impression exactly at a cut belongs to the later part. `fractions` are of impressions.
    """

    name: Literal["impressions"] = "impressions"
    training_rows: TrainingRows = "last"

    def part_of(self, times: Ids) -> Ids:
        """By the two cuts."""
        return np.digitize(times, self.cuts(times)).astype(np.int64)


class DrawnImpressions(Impressions):
    """Impressions are drawn into the parts, whatever their time. It leaks: later impressions train.

    What `ImpressionSplit` cannot measure where items live for a day: there most targets of a later day are new, and
    here training has seen them. Of n impressions floor(f n) are drawn for training and validation each.
    """

    name: Literal["drawn-impressions"] = "drawn-impressions"
    seed: int = 0
    """Seed of the draw."""
    fractions: Shares = (0.8, 0.1, 0.1)
    """Shares of impressions that train, validate and test."""

    def part_of(self, times: Ids) -> Ids:
        """By the seed and the order of time."""
        place = np.empty(len(times), dtype=np.int64)
        place[numpy_generator(self.seed, self.name).permutation(len(times))] = np.arange(len(times))
        first, second = (int(share * len(times) + 1e-9) for share in self.fractions[:2])
        return np.digitize(place, [first, first + second]).astype(np.int64)


AnyProtocol = UserSplit | LeaveOneOut | SessionSplit | GlobalTime | ImpressionSplit | DrawnImpressions
PROTOCOLS: dict[str, type[AnyProtocol]] = {
    "user-split": UserSplit,
    "leave-one-out": LeaveOneOut,
    "session-split": SessionSplit,
    "global-time": GlobalTime,
    "impressions": ImpressionSplit,
    "drawn-impressions": DrawnImpressions,
}


def protocol_from_plain(data: Mapping[str, Any]) -> AnyProtocol:
    """The protocol that `to_plain` described. Raises ConfigError for an unknown name, with the nearest."""
    name = str(data.get("name"))
    if name not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise ConfigError(f"'{name}' is not a protocol.{nearest(name, PROTOCOLS)}", hint=f"one of {known}.")
    return PROTOCOLS[name].from_plain(data)


def at_pauses(sequences: Sequences, gap_seconds: float) -> Sequences:
    """Sequences cut wherever the next event comes more than `gap_seconds` later. Needs times.

    items  4 2 7 1        times  0 60 4000 4100        gap_seconds=1800        result  4 2 | 7 1
    """
    if sequences.times is None:
        raise DataError("Sessions by gap_seconds need the time of every event, and the sequences have none.")
    begins = np.concatenate([[True], np.diff(sequences.times) > gap_seconds])
    begins[sequences.offsets[:-1]] = True
    starts = np.flatnonzero(begins)
    owner = np.searchsorted(sequences.offsets, starts, side="right") - 1
    offsets = np.append(starts, len(sequences.items)).astype(np.int64)
    return Sequences(sequences.items, offsets, sequences.users[owner], sequences.times)


def to_seconds(time: float | str) -> float:
    """Seconds since 1970 of a number or an ISO text; a time without a zone is UTC. Raises ValueError."""
    if not isinstance(time, str):
        return float(time)
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        raise ValueError(f"{time!r} is not an ISO date or time, such as 2014-07-01 or 2014-07-01T12:00:00") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _rows(sequences: Sequences, which: TrainingRows, shortest_history: int) -> Rows:
    begin = np.full(len(sequences), shortest_history, dtype=np.int64)
    return Rows.starting_at(sequences, np.maximum(begin, sequences.lengths - 1) if which == "last" else begin)


def _count_before(sequences: Sequences, time: float) -> Ids:
    """(S,) number of events of each sequence before `time`; times rise inside a sequence."""
    assert sequences.times is not None
    before = np.concatenate([[0], np.cumsum(sequences.times < time)])
    return (before[sequences.offsets[1:]] - before[sequences.offsets[:-1]]).astype(np.int64)

"""`examine`: is a prepared split sound? Every check says how many, of how many, and where the first one is.

check                 failure                                                  warning
target-in-history     more often than repeats are natural in this data         repeats at the natural rate
event-in-two-parts    any
future-in-train       the protocol promises order in time and breaks it        the protocol promises none
special-ids           padding or another special id counts as an item
empty-histories                                                                any
cold-targets                                                                   any

Warnings are properties of data that bound what a model can reach; failures make the numbers wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from guiderec.data.batch import PADDING
from guiderec.data.dataset import EVALUATED, PARTS, Dataset
from guiderec.data.interactions import MISSING_IDS, SPECIAL_IDS
from guiderec.data.protocols import protocol_from_plain
from guiderec.data.sequences import Ids, Rows, Sequences

Status = Literal["ok", "warning", "failure", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What one check found in one part, or in all (`part` empty)."""

    check: str
    part: str
    status: Status
    count: int
    """How many rows, events, users or ids."""
    of: int
    """Of how many."""
    message: str


def examine(dataset: Dataset) -> list[Finding]:
    """All findings about a split, in the order of `CHECKS`; ids that are no items leave the other checks no sense."""
    if any(_no_item(dataset, rows).any() for rows in _distinct(dataset)):
        return list(special_ids(dataset))
    return [finding for check in CHECKS for finding in check(dataset)]


def healthy(findings: Iterable[Finding], *, strict: bool = False) -> bool:
    """Whether nothing failed; with `strict`, whether nothing was warned about either."""
    bad = {"failure", "warning"} if strict else {"failure"}
    return not any(finding.status in bad for finding in findings)


def special_ids(dataset: Dataset) -> Iterable[Finding]:
    """Padding as an item: id 0 in a sequence, a name such as [PAD], or an id that does nothing but fill up sequences.

    The last is how padding that was stored looks: the smallest or largest id, only ever in runs that touch the same
    end of a sequence, in two sequences or more.
    """
    n_items = dataset.n_items
    outside = sum(int(_no_item(dataset, rows).sum()) for rows in _distinct(dataset))
    total = sum(len(rows.sequences.items) for rows in _distinct(dataset))
    if outside:
        yield Finding("special-ids", "", "failure", outside, total, f"ids outside 1..{n_items:,} in the sequences.")
    named = [raw for raw in dataset.vocabulary.raw if str(raw).strip().lower() in SPECIAL_IDS | MISSING_IDS]
    if named:
        text = f"the catalogue lists {named[0]!r}, a name for padding or for a missing value."
        yield Finding("special-ids", "", "failure", len(named), n_items, text)
    fillers = [j for j in {1, n_items} if _only_fills(j, [part.sequences for part in _distinct(dataset)])]
    for j in fillers:
        text = f"item {dataset.vocabulary.raw[j - 1]!r} occurs only in runs at one end of sequences, as padding does."
        yield Finding("special-ids", "", "failure", 1, n_items, text)
    if not (outside or named or fillers):
        yield Finding("special-ids", "", "ok", 0, n_items, "no id of the catalogue stands for padding.")


def target_in_history(dataset: Dataset) -> Iterable[Finding]:
    """Targets that their own history contains.

    Where people do the same thing twice, as in listening or browsing, this is natural and training shows how often. An
    evaluation part fails when it does so clearly more often than training would with histories as long (four standard
    deviations), so that any is too many where training has none; and always when seen items are masked, as such a
    target can never be found. Training fails when it does so clearly more often than evaluation, of which nothing
    below 3 / rows can be known.
    """
    repeats = {name: _is_repeat(dataset.part(name)) for name in PARTS}
    evaluated = np.concatenate([repeats["valid"], repeats["test"]])
    trained = repeats["train"].mean()
    per_item = _chance_per_item(repeats["train"], dataset.train.history_lengths())
    for name, repeat in repeats.items():
        count, of = int(repeat.sum()), len(repeat)
        if name == "train":
            usual = max(evaluated.mean(), 3 / len(evaluated))
        else:  # leave-one-out tests on whole histories and trains on their beginnings, which have less to repeat
            usual = max(trained, np.mean(1 - (1 - per_item) ** dataset.part(name).history_lengths()))
        excess = repeat.mean() - usual > 4 * sqrt(max(usual * (1 - usual), 0.0) / of)
        if not count:
            yield Finding("target-in-history", name, "ok", 0, of, "no target is in its own history.")
        elif dataset.seen == "mask" and name != "train":
            text = "targets are in their own history, and seen items are masked: they can never be found."
            yield Finding("target-in-history", name, "failure", count, of, text)
        elif excess:
            where = "in evaluation" if name == "train" else "in training, with histories as long"
            text = f"targets are in their own history; {where}, {usual:.2%} are. {_first(dataset, name, repeat)}"
            yield Finding("target-in-history", name, "failure", count, of, text)
        else:
            text = "targets repeat an item of their history, no more often than is usual in this data."
            yield Finding("target-in-history", name, "warning", count, of, text)


def event_in_two_parts(dataset: Dataset) -> Iterable[Finding]:
    """Users, sessions or events that two parts share, according to what the protocol divides."""
    divides = protocol_from_plain(dataset.protocol).divides
    checks: dict[str, Callable[[Dataset], Iterable[Finding]]] = {
        "users": _shared_users,
        "sessions": _shared_sessions,
        "events": _shared_events,
        "impressions": _shared_sessions,  # a row is a sequence of its own
    }
    check = checks[divides]
    findings = list(check(dataset))
    yield from findings
    if not findings:
        yield Finding("event-in-two-parts", "", "ok", 0, 0, f"no {divides} in two parts.")


def future_in_train(dataset: Dataset) -> Iterable[Finding]:
    """Training events at or after the first target that is predicted."""
    protocol = protocol_from_plain(dataset.protocol)
    train = dataset.train.sequences
    if train.times is None or dataset.valid.sequences.times is None or dataset.test.sequences.times is None:
        yield Finding("future-in-train", "", "skipped", 0, 0, "the split stores no times.")
        return
    first = min(int(_target_times(rows).min()) for rows in (dataset.valid, dataset.test))
    late = int((train.times >= first).sum())
    of = len(train.times)
    if protocol.name == "session-split":
        begins = train.times[train.offsets[:-1]]
        begun = int((begins > first).sum())
        if begun:
            text = "training sessions begin after the first validation session."
            yield Finding("future-in-train", "train", "failure", begun, len(begins), text)
            return
    if not late:
        yield Finding("future-in-train", "train", "ok", 0, of, "every training event is before every target.")
    elif protocol.needs_time:
        text = f"training events at or after the first target ({first} s)."
        yield Finding("future-in-train", "train", "failure", late, of, text)
    else:
        text = f"training events at or after the first target; {protocol.name} does not promise otherwise."
        yield Finding("future-in-train", "train", "warning", late, of, text)


def empty_histories(dataset: Dataset) -> Iterable[Finding]:
    """Evaluation rows without any item before the target."""
    for name in EVALUATED:
        lengths = dataset.part(name).history_lengths()
        count = int((lengths == 0).sum())
        text = "rows have an empty history." if count else "every row has a history."
        yield Finding("empty-histories", name, "warning" if count else "ok", count, len(lengths), text)


def cold_targets(dataset: Dataset) -> Iterable[Finding]:
    """Targets that no training sequence contains: a model of item ids alone cannot learn them."""
    for name in EVALUATED:
        count, of = int(is_cold(dataset, name).sum()), len(dataset.part(name))
        text = "targets never occur in training." if count else "every target occurs in training."
        yield Finding("cold-targets", name, "warning" if count else "ok", count, of, text)


CHECKS: tuple[Callable[[Dataset], Iterable[Finding]], ...] = (
    target_in_history,
    event_in_two_parts,
    future_in_train,
    special_ids,
    empty_histories,
    cold_targets,
)


def is_cold(dataset: Dataset, part: str) -> NDArray[np.bool_]:
    """(R,) whether the target of each row of `part` occurs nowhere in the training sequences."""
    trained = np.zeros(dataset.n_items + 1, dtype=bool)
    trained[dataset.train.sequences.items] = True
    return ~trained[dataset.part(part).targets()]


def repeats_earlier(sequences: Sequences) -> NDArray[np.bool_]:
    """(N,) whether each event repeats an item from earlier in its sequence.

    items   3 1 3 | 3 1      result   0 0 1 | 0 0
    """
    owner = sequences.owners
    order = np.lexsort((sequences.items, owner))  # stable: equal items stay in order of position
    again = np.zeros(len(order), dtype=bool)
    again[1:] = (np.diff(owner[order]) == 0) & (np.diff(sequences.items[order]) == 0)
    result = np.zeros(len(order), dtype=bool)
    result[order] = again
    return result


def _chance_per_item(repeat: NDArray[np.bool_], lengths: Ids) -> float:
    """q, if each item of a history were the next one with chance q: sum of 1 - (1 - q)^length is sum of `repeat`."""
    low, high = 0.0, 1.0
    for _ in range(50 if repeat.any() else 0):
        middle = (low + high) / 2
        too_many = np.sum(1 - (1 - middle) ** lengths) > repeat.sum()
        low, high = (low, middle) if too_many else (middle, high)
    return low


def _is_repeat(rows: Rows) -> NDArray[np.bool_]:
    return repeats_earlier(rows.sequences)[rows.sequences.offsets[rows.sequence] + rows.position]


def _target_times(rows: Rows) -> Ids:
    assert rows.sequences.times is not None
    return rows.sequences.times[rows.sequences.offsets[rows.sequence] + rows.position]


def _first(dataset: Dataset, part: str, bad: NDArray[np.bool_]) -> str:
    """The first bad row, in raw ids."""
    rows, row = dataset.part(part), int(np.argmax(bad))
    user = int(rows.users()[row])
    return (
        f"First: row {row}, user {user if dataset.users is None else dataset.users[user]!r},"
        f" item {dataset.vocabulary.raw[int(rows.targets()[row]) - 1]!r}."
    )


def _distinct(dataset: Dataset) -> list[Rows]:
    """The parts, each set of sequences once."""
    return list({id(rows.sequences): rows for rows in map(dataset.part, PARTS)}.values())


def _no_item(dataset: Dataset, rows: Rows) -> NDArray[np.bool_]:
    """(N,) whether each event of the sequences has an id outside 1..I."""
    return (rows.sequences.items <= PADDING) | (rows.sequences.items > dataset.n_items)


def _only_fills(item: int, parts: list[Sequences]) -> bool:
    """Whether `item` occurs only in runs at the start (or only at the end) of sequences, one of them longer than 1."""
    sides = [[_filling(item, sequences, side) for sequences in parts] for side in ("start", "end")]
    return any(
        all(rest == 0 for _, _, rest in side) and sum(n for n, _, _ in side) >= 2 and max(m for _, m, _ in side) >= 2
        for side in sides
    )


def _filling(item: int, sequences: Sequences, side: str) -> tuple[int, int, int]:
    """(sequences with a run of `item` at that side, the longest such run, occurrences elsewhere)."""
    same = sequences.items == item
    if not same.any():
        return 0, 0, 0
    other = np.flatnonzero(~same)
    start, end = sequences.offsets[:-1], sequences.offsets[1:]
    bounds = np.append(other, len(same))
    if side == "start":
        runs = np.minimum(bounds[np.searchsorted(other, start)], end) - start
    else:
        before = np.concatenate([[-1], other])[np.searchsorted(other, end)]
        runs = end - 1 - np.maximum(before, start - 1)
    return int((runs > 0).sum()), int(runs.max()), int(same.sum() - runs.sum())


def _pairs(dataset: Dataset) -> Iterable[tuple[str, Rows, str, Rows]]:
    for one, other in combinations(PARTS, 2):
        yield one, dataset.part(one), other, dataset.part(other)


def _shared_users(dataset: Dataset) -> Iterable[Finding]:
    for one, a, other, b in _pairs(dataset):
        shared = np.intersect1d(a.sequences.users, b.sequences.users)
        if shared.size:
            user = int(shared[0]) if dataset.users is None else dataset.users[int(shared[0])]
            text = f"users are in {one} and in {other} (first: user {user!r})."
            of = len(np.unique(b.sequences.users))
            yield Finding("event-in-two-parts", other, "failure", shared.size, of, text)


def _shared_sessions(dataset: Dataset) -> Iterable[Finding]:
    for one, a, other, b in _pairs(dataset):
        shared = _session_names(a.sequences) & _session_names(b.sequences)
        if shared:
            what = protocol_from_plain(dataset.protocol).divides
            text = f"{what} are in {one} and in {other}, of the same user and with the same items and times."
            yield Finding("event-in-two-parts", other, "failure", len(shared), len(b.sequences), text)


def _session_names(sequences: Sequences) -> set[tuple[int, bytes, bytes]]:
    """What makes a session that session: its user, items and, where known, times."""
    times = sequences.times
    return {
        (
            int(sequences.users[s]),
            sequences[s].tobytes(),
            b"" if times is None else times[sequences.offsets[s] : sequences.offsets[s + 1]].tobytes(),
        )
        for s in range(len(sequences))
    }


def _shared_events(dataset: Dataset) -> Iterable[Finding]:
    """An event is (user, position): all parts must tell the same story of a user from its beginning."""
    train = dataset.train.sequences
    valid = _events(dataset.valid)
    for name, rows in (("valid", dataset.valid), ("test", dataset.test)):
        owner = _sequence_of(train, rows.users())
        trained = np.where(owner >= 0, train.lengths[owner], 0)
        twice = int((rows.position < trained).sum())
        if twice:
            text = f"targets are also training events. {_first(dataset, name, rows.position < trained)}"
            yield Finding("event-in-two-parts", name, "failure", twice, len(rows), text)
        differ = _not_a_continuation(train, rows.sequences)
        if differ:
            text = "sequences do not continue the training sequence of their user."
            yield Finding("event-in-two-parts", name, "failure", differ, len(rows.sequences), text)
    both = np.isin(_events(dataset.test), valid)
    if both.any():
        text = f"test targets are also validation targets. {_first(dataset, 'test', both)}"
        yield Finding("event-in-two-parts", "test", "failure", int(both.sum()), len(both), text)


def _events(rows: Rows) -> Ids:
    """(R,) one number per (user, position)."""
    return rows.keys()


def _sequence_of(sequences: Sequences, users: Ids) -> Ids:
    """(R,) the sequence of each of `users`, or -1."""
    order = np.argsort(sequences.users, kind="stable")
    place = np.minimum(np.searchsorted(sequences.users, users, sorter=order), len(order) - 1)
    return np.where(sequences.users[order[place]] == users, order[place], -1)


def _not_a_continuation(train: Sequences, later: Sequences) -> int:
    """Number of sequences of `later` that do not begin with what the training sequence of their user holds."""
    owner = _sequence_of(train, later.users)
    known = np.flatnonzero(owner >= 0)
    common = np.minimum(train.lengths[owner[known]], later.lengths[known])
    ends = np.cumsum(common)
    step = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - common, common)
    a = train.items[np.repeat(train.offsets[owner[known]], common) + step]
    b = later.items[np.repeat(later.offsets[known], common) + step]
    return len(np.unique(np.repeat(known, common)[a != b]))

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guiderec.data.dataset import Dataset, Vocabulary
from guiderec.data.describe import describe, describe_log, popularity, quantiles
from guiderec.data.doctor import examine, healthy, repeats_earlier
from guiderec.data.interactions import Interactions
from guiderec.data.protocols import GlobalTime, LeaveOneOut, SessionSplit, UserSplit
from guiderec.data.sequences import Rows, Sequences

LISTS = [[3, 1, 4, 5], [2, 6, 1, 3], [5, 3, 2, 1], [6, 4, 2, 5], [1, 2, 3, 4], [4, 6, 5, 2]]
VOCABULARY = Vocabulary(tuple(range(10, 70, 10)))


def sequences(lists=LISTS, users=None, times: bool = True) -> Sequences:
    """Event k of every user happens at time 10 k + user."""
    plain = Sequences.from_lists(lists, None if users is None else np.array(users))
    clock = np.concatenate([10 * np.arange(len(items)) + n for n, items in enumerate(lists)]).astype(np.int64)
    return Sequences(plain.items, plain.offsets, plain.users, clock if times else None)


def split(rule, lists=LISTS, *, times: bool = True, users=None) -> Dataset:
    return rule.dataset(sequences(lists, users, times), VOCABULARY, name="planted")


def found(dataset: Dataset, check: str, status: str = "failure") -> list[tuple[str, int, int]]:
    """(part, count, of) of every such finding."""
    return [(f.part, f.count, f.of) for f in examine(dataset) if f.check == check and f.status == status]


def with_sequences(dataset: Dataset, part: str, lists, users=None) -> Dataset:
    """The part replaced by last items of `lists`."""
    users = dataset.part(part).sequences.users[: len(lists)] if users is None else np.array(users)
    return replace(
        dataset, **{part: Rows.last_items(sequences(lists, users, dataset.train.sequences.times is not None))}
    )


CLEAN = [
    UserSplit(fractions=(0.4, 0.3, 0.3)),
    LeaveOneOut(),
    SessionSplit(fractions=(0.4, 0.3, 0.3)),
    GlobalTime(valid_from=20, test_from=30),
]


@pytest.mark.parametrize("rule", CLEAN, ids=lambda rule: rule.name)
@pytest.mark.parametrize("times", [True, False])
def test_clean_splits_are_healthy(rule, times):
    if rule.needs_time and not times:
        return
    findings = examine(split(rule, times=times))
    assert healthy(findings), findings
    assert {finding.check for finding in findings} == {
        "target-in-history",
        "event-in-two-parts",
        "future-in-train",
        "special-ids",
        "empty-histories",
        "cold-targets",
    }


def test_target_in_history():
    clean = split(UserSplit(fractions=(0.4, 0.3, 0.3)))
    assert found(clean, "target-in-history") == []
    planted = with_sequences(clean, "test", [[3, 1, 4], [5, 2, 5]])
    assert found(planted, "target-in-history") == [("test", 1, 2)]
    message = next(f.message for f in examine(planted) if f.check == "target-in-history" and f.part == "test")
    user = clean.test.sequences.users[1]
    assert message == (
        "targets are in their own history; in training, with histories as long, 0.00% are. "
        f"First: row 1, user {user}, item 50."
    )
    assert not healthy(examine(planted))


def test_natural_repeats_are_a_warning_unless_seen_items_are_masked():
    """People listen to the same song again: as often in the test part as in training."""
    rng = np.random.default_rng(0)
    lists = [rng.integers(1, 7, 6).tolist() for _ in range(300)]
    dataset = split(UserSplit(max_items=None), lists)
    assert found(dataset, "target-in-history") == []
    assert [part for part, _, _ in found(dataset, "target-in-history", "warning")] == ["train", "valid", "test"]
    masked = split(UserSplit(max_items=None, seen="mask"), lists)
    assert [part for part, _, _ in found(masked, "target-in-history")] == ["valid", "test"]


def test_histories_of_leave_one_out_are_longer_than_those_of_training_and_repeat_more():
    """Every event is one of six songs by chance: 44% of the prefixes repeat one, and 77% of the whole histories."""
    rng = np.random.default_rng(0)
    lists = [rng.integers(1, 7, 9).tolist() for _ in range(3000)]
    dataset = split(LeaveOneOut(), lists)
    assert found(dataset, "target-in-history") == []
    assert [part for part, _, _ in found(dataset, "target-in-history", "warning")] == ["train", "valid", "test"]
    leaked = [[*items[:-1], items[0]] for items in lists]
    sequences = dataset.test.sequences
    planted = replace(dataset, test=replace(dataset.test, sequences=replace(sequences, items=np.concatenate(leaked))))
    assert found(planted, "target-in-history") == [("test", 3000, 3000)]


def test_far_more_repeats_than_in_training_are_a_failure():
    rng = np.random.default_rng(0)
    lists = [rng.permutation(6)[:5].tolist() for _ in range(300)]
    lists = [[item + 1 for item in items] for items in lists]
    lists[0][-1] = lists[0][0]
    dataset = split(UserSplit(max_items=None), lists)
    off_by_one = with_sequences(dataset, "test", [[1, 2, 2]] * len(dataset.test))
    assert found(off_by_one, "target-in-history") == [("test", 30, 30)]
    in_train = with_sequences(dataset, "train", [[1, 2, 3, 3]] * len(dataset.train))
    assert found(in_train, "target-in-history") == [("train", 240, 240)]


def test_user_in_two_parts():
    clean = split(UserSplit(fractions=(0.4, 0.3, 0.3)))
    shared = int(clean.train.sequences.users[0])
    planted = with_sequences(clean, "test", [[3, 1, 4]], [shared])
    assert found(planted, "event-in-two-parts") == [("test", 1, 1)]


def test_session_in_two_parts():
    clean = split(SessionSplit(fractions=(0.4, 0.3, 0.3)), times=False)
    twin = clean.train.sequences
    planted = replace(clean, test=Rows.last_items(twin))
    assert found(planted, "event-in-two-parts") == [("test", len(twin), len(twin))]


def test_held_out_event_in_training():
    """The classic leak: training on whole sequences, with the items that are to be predicted."""
    clean = split(LeaveOneOut())
    planted = replace(clean, train=Rows.every_prefix(clean.test.sequences))
    assert found(planted, "event-in-two-parts") == [("valid", 6, 6), ("test", 6, 6)]


def test_same_target_in_validation_and_test():
    clean = split(LeaveOneOut())
    planted = replace(clean, valid=clean.test)
    assert found(planted, "event-in-two-parts") == [("test", 6, 6)]


def test_parts_that_tell_different_stories():
    """An order changed between two files: positions no longer name the same events."""
    clean = split(LeaveOneOut(), times=False)
    swapped = [[1, 3, 4, 5], *LISTS[1:]]
    planted = replace(clean, test=Rows.last_items(sequences(swapped, times=False)))
    assert found(planted, "event-in-two-parts") == [("test", 1, 6)]


def test_future_in_train():
    clean = split(GlobalTime(valid_from=20, test_from=30))
    assert found(clean, "future-in-train") == []
    late = split(GlobalTime(valid_from=25, test_from=30)).train
    assert found(replace(clean, train=late), "future-in-train") == [("train", 5, 17)]
    # leave-one-out leaks the future of others by its nature: said, but not called a fault
    assert found(split(LeaveOneOut()), "future-in-train") == []
    assert len(found(split(LeaveOneOut()), "future-in-train", "warning")) == 0  # here all users act in step
    shifted = sequences()
    delay = np.repeat(1000 * np.arange(6), 4)
    apart = replace(shifted, times=shifted.times + delay)
    dataset = LeaveOneOut().dataset(apart, VOCABULARY, name="apart")
    assert found(dataset, "future-in-train", "warning") == [("train", 10, 12)]


def test_training_sessions_after_validation():
    clean = split(SessionSplit(fractions=(0.4, 0.3, 0.3)))
    assert found(clean, "future-in-train") == []
    assert found(replace(clean, train=clean.test, test=clean.train), "future-in-train") == [("train", 2, 2)]


def test_times_that_are_not_stored():
    assert found(split(LeaveOneOut(), times=False), "future-in-train", "skipped") == [("", 0, 0)]


def test_special_ids():
    clean = split(UserSplit(fractions=(0.4, 0.3, 0.3)))
    assert found(clean, "special-ids") == []
    zero = with_sequences(clean, "train", [[0, 2, 3], [1, 2, 7]])
    total = sum(len(part.sequences.items) for part in (zero.train, zero.valid, zero.test))
    assert [(f.check, f.count, f.of) for f in examine(zero)] == [("special-ids", 2, total)]
    named = replace(clean, vocabulary=Vocabulary(("[PAD]", "a", "b", "c", "d", "e")))
    assert found(named, "special-ids") == [("", 1, 6)]


@pytest.mark.parametrize(
    ("lists", "item"),
    [
        ([[1, 1, 3, 4], [1, 2, 5], [3, 5, 2]], 10),  # the smallest id, in front
        ([[3, 4, 6, 6], [2, 5, 6], [3, 5, 2]], 60),  # the largest id, behind
    ],
)
def test_stored_padding(lists, item):
    clean = split(UserSplit(fractions=(0.4, 0.3, 0.3)))
    dataset = clean
    for part in ("train", "valid", "test"):
        dataset = with_sequences(
            dataset, part, lists if part == "train" else [[2, 3, 4]], [50] if part != "train" else [51, 52, 53]
        )
    messages = [f.message for f in examine(dataset) if f.check == "special-ids" and f.status == "failure"]
    assert messages == [f"item {item} occurs only in runs at one end of sequences, as padding does."]


def test_empty_histories_and_cold_targets_are_warnings():
    dataset = split(UserSplit(fractions=(0.4, 0.3, 0.3)), [[1, 2], [1, 2], [1, 2], [1, 3], [1, 4], [2, 5]])
    dataset = replace(dataset, test=Rows(dataset.test.sequences, np.array([0, 1]), np.array([0, 1])))
    trained = set(dataset.train.sequences.items.tolist())
    cold = [sum(int(target) not in trained for target in dataset.part(part).targets()) for part in ("valid", "test")]
    assert sum(cold) > 0
    assert [count for _, count, _ in found(dataset, "cold-targets", "warning")] == [n for n in cold if n]
    assert found(dataset, "empty-histories", "warning") == [("test", 1, 2)]
    findings = [f for f in examine(dataset) if f.check in ("cold-targets", "empty-histories")]
    assert healthy(findings)
    assert not healthy(findings, strict=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=7), min_size=1, max_size=6))
def test_repeats_earlier_is_a_slow_loop(lists):
    expected = [item in items[:p] for items in lists for p, item in enumerate(items)]
    assert repeats_earlier(Sequences.from_lists(lists)).tolist() == expected


# --- descriptions -------------------------------------------------------------------------------------------------


def test_popularity_by_hand():
    even = popularity(np.array([1, 2, 3, 4]), 4)
    assert even == {"gini": 0.0, "top_1%": 0.25, "top_10%": 0.25, "most_popular": 1, "never": 0}
    # one of four items has everything: Gini is 1 - 1/4
    assert popularity(np.array([2, 2, 2]), 4) == {
        "gini": 0.75, "top_1%": 1.0, "top_10%": 1.0, "most_popular": 3, "never": 3
    }  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=40))
def test_gini_is_half_the_relative_mean_difference(items):
    counts = [items.count(j) for j in range(1, 13)]
    difference = sum(abs(a - b) for a in counts for b in counts) / 144
    expected = difference / (2 * sum(counts) / 12)
    assert popularity(np.array(items), 12)["gini"] == pytest.approx(expected)


def test_quantiles_by_hand():
    assert quantiles(np.array([1, 2, 3, 4, 10])) == {
        "min": 1, "25%": 2.0, "median": 3.0, "75%": 4.0, "max": 10, "mean": 4.0
    }  # fmt: skip


def test_describe_a_split():
    facts = describe(split(LeaveOneOut()))
    assert facts["fingerprint"]["interactions"] == 24
    assert facts["density"] == 24 / (6 * 6)
    assert facts["known_as"] is None
    assert facts["train"]["rows"] == 6
    assert facts["train"]["lengths"]["max"] == 2
    assert facts["test"] == {
        "rows": 6,
        "users": 6,
        "history_lengths": quantiles(np.full(6, 3)),
        "empty_histories": 0,
        "cold_targets": 0,
        "cold_share": 0.0,
    }


def test_describe_a_log():
    frame = pl.DataFrame({"user": [1, 1, 2], "item": [5, 5, 6], "time": [0, 0, 86400]})
    facts = describe_log(Interactions.read(frame, name="tiny"))
    assert (facts["users"], facts["items"], facts["interactions"], facts["duplicates"]) == (2, 2, 3, 1)
    assert facts["repeated"] == pytest.approx(1 / 3)
    assert facts["time"] == {"first": "1970-01-01T00:00:00+00:00", "last": "1970-01-02T00:00:00+00:00"}
    assert describe_log(Interactions.read(frame.drop("time")))["time"] is None

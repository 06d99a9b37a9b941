from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from guiderec.data.interactions import Interactions
from guiderec.data.protocols import (
    PROTOCOLS,
    GlobalTime,
    LeaveOneOut,
    SessionSplit,
    UserSplit,
    at_pauses,
    protocol_from_plain,
)
from guiderec.data.sequences import Rows, Sequences
from guiderec.errors import ConfigError, DataError


def pairs(rows: Rows) -> list[tuple[tuple[int, ...], int]]:
    """(history, target) of every row."""
    return [
        (tuple(rows.sequences[s][:p].tolist()), int(rows.sequences[s][p]))
        for s, p in zip(rows.sequence, rows.position, strict=True)
    ]


def timed(lists: list[list[tuple[int, int]]]) -> Sequences:
    """Sequences of (time, item)."""
    plain = Sequences.from_lists([[item for _, item in events] for events in lists])
    times = np.array([time for events in lists for time, _ in events], dtype=np.int64)
    return Sequences(plain.items, plain.offsets, plain.users, times)


# --- the matrices of the docstrings -------------------------------------------------------------------------------


def test_user_split_matrix():
    users = Sequences.from_lists([[8, 3, 1, 4, 5], [2, 6, 1], [5, 3, 2, 1]])
    rows = {((3, 1, 4), 5), ((2, 6), 1), ((5, 3, 2), 1)}
    drawn = UserSplit(seed=0, fractions=(1 / 3, 1 / 3, 1 / 3), max_items=4).split(users)
    assert [len(part) for part in drawn] == [1, 1, 1]
    assert {pair for part in drawn for pair in pairs(part)} == rows


def test_leave_one_out_matrix():
    train, valid, test = LeaveOneOut().split(Sequences.from_lists([[3, 1, 4, 5, 9]]))
    assert pairs(train) == [((3,), 1), ((3, 1), 4)]
    assert pairs(valid) == [((3, 1, 4), 5)]
    assert pairs(test) == [((3, 1, 4, 5), 9)]
    assert pairs(LeaveOneOut(training_rows="last").split(valid.sequences).train) == [((3, 1), 4)]
    assert train.sequences.items.tolist() == [3, 1, 4]  # nothing held out can be seen in preparation


def test_short_users_only_train():
    train, valid, test = LeaveOneOut().split(Sequences.from_lists([[3, 1], [7], [5, 6, 8]]))
    assert pairs(train) == [((3,), 1)]
    assert train.sequences.items.tolist() == [3, 1, 7, 5]
    assert pairs(valid) == [((5,), 6)]
    assert pairs(test) == [((5, 6), 8)]


def test_leave_one_out_has_no_history_shorter_than_asked_for():
    train, valid, test = LeaveOneOut(shortest_history=2).split(Sequences.from_lists([[3, 1, 4, 5, 9], [5, 6, 8], [7]]))
    assert pairs(train) == [((3, 1), 4)]
    assert pairs(valid) == [((3, 1, 4), 5)]
    assert pairs(test) == [((3, 1, 4, 5), 9), ((5, 6), 8)]


def test_session_split_matrix():
    sessions = timed([[(910, 1), (911, 4)], [(900, 4), (930, 2), (931, 7)], [(1100, 2), (1101, 3)]])
    train, valid, test = SessionSplit(fractions=(1 / 3, 1 / 3, 1 / 3)).split(sessions)
    assert pairs(train) == [((), 4), ((4,), 2), ((4, 2), 7)]
    assert pairs(valid) == [((), 1), ((1,), 4)]
    assert pairs(test) == [((), 2), ((2,), 3)]
    without_empty = SessionSplit(fractions=(1 / 3, 1 / 3, 1 / 3), shortest_history=1).split(sessions)
    assert pairs(without_empty.valid) == [((1,), 4)]


def test_global_time_matrix():
    log = timed([[(1, 3), (2, 1), (5, 4), (6, 5), (7, 9)], [(2, 2), (4, 6), (7, 1), (8, 8)]])
    train, valid, test = GlobalTime(valid_from=5, test_from=7).split(log)
    assert pairs(train) == [((3,), 1), ((2,), 6)]
    assert pairs(valid) == [((3, 1), 4), ((3, 1, 4), 5)]
    assert pairs(test) == [((3, 1, 4, 5), 9), ((2, 6), 1), ((2, 6, 1), 8)]
    last = GlobalTime(valid_from=5, test_from=7, targets="last").split(log)
    assert pairs(last.valid) == [((3, 1, 4), 5)]
    assert pairs(last.test) == [((3, 1, 4, 5), 9), ((2, 6, 1), 8)]


def test_pauses_matrix():
    cut = at_pauses(timed([[(0, 4), (60, 2), (4000, 7), (4100, 1)], [(9000, 5)]]), 1800)
    assert [cut[s].tolist() for s in range(len(cut))] == [[4, 2], [7, 1], [5]]
    assert cut.users.tolist() == [0, 0, 1]


def test_new_user_in_the_test_period():
    """The first event of a user has no history: it is a row only when asked for."""
    log = timed([[(1, 3), (2, 1), (5, 4), (7, 2)], [(7, 6), (8, 5)]])
    assert pairs(GlobalTime(valid_from=5, test_from=7).split(log).test) == [((3, 1, 4), 2), ((6,), 5)]
    from_first = GlobalTime(valid_from=5, test_from=7, shortest_history=0).split(log)
    assert pairs(from_first.test) == [((3, 1, 4), 2), ((), 6), ((6,), 5)]


# --- properties ---------------------------------------------------------------------------------------------------

logs = st.lists(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=9), min_size=1, max_size=9
)


def events(rows: Rows) -> list[tuple[int, int]]:
    """(user, position) of the targets."""
    return list(zip(rows.users().tolist(), rows.position.tolist(), strict=True))


def held(sequences: Sequences) -> list[tuple[int, int]]:
    """(user, position) of all events."""
    return [(int(u), p) for u, n in zip(sequences.users, sequences.lengths, strict=True) for p in range(n)]


@settings(max_examples=100, deadline=None)
@given(logs)
def test_leave_one_out_parts_sum_to_the_whole(log):
    sequences = timed([sorted(user) for user in log])
    train, valid, test = LeaveOneOut().split(sequences)
    parts = held(train.sequences) + events(valid) + events(test)
    assert sorted(parts) == held(sequences)  # every event once


@settings(max_examples=100, deadline=None)
@given(logs, st.integers(0, 40), st.integers(1, 20))
def test_global_time_parts_sum_to_the_whole_and_have_an_order(log, begin, span):
    sequences = timed([sorted(user) for user in log])
    train, valid, test = GlobalTime(valid_from=begin, test_from=begin + span, shortest_history=0).split(sequences)
    assert sorted(held(train.sequences) + events(valid) + events(test)) == held(sequences)
    times = dict(zip(held(sequences), sequences.times.tolist(), strict=True))
    assert all(time < begin for time in train.sequences.times)
    assert all(begin <= times[event] < begin + span for event in events(valid))
    assert all(times[event] >= begin + span for event in events(test))
    for rows in (valid, test):  # histories are what the user did before, from the beginning
        for (user, position), (history, _) in zip(events(rows), pairs(rows), strict=True):
            assert list(history) == sequences[user][:position].tolist()


@settings(max_examples=100, deadline=None)
@given(logs, st.integers(0, 2**31), st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.0, 0.5, 0.5)]))
def test_user_split_divides_users(log, seed, fractions):
    sequences = timed([sorted(user) for user in log])
    n = len(sequences)
    parts = UserSplit(seed=seed, fractions=fractions, max_items=4, shortest_history=0).split(sequences)
    assert sorted(user for part in parts for user in part.sequences.users.tolist()) == list(range(n))
    assert [len(part) for part in parts[:2]] == [int(fractions[0] * n), int(fractions[1] * n)]
    for part in parts:
        for user, (history, target) in zip(part.users(), pairs(part), strict=True):
            assert [*history, target] == sequences[int(user)][-4:].tolist()


def test_short_sessions_are_left_out_before_the_others_are_divided():
    sessions = timed([[(0, 1)], [(10, 4), (11, 2)], [(20, 3), (21, 5), (900, 6)], [(30, 7)], [(40, 8), (41, 9)]])
    parts = SessionSplit(gap_seconds=60, shortest_session=2, fractions=(1 / 3, 1 / 3, 1 / 3)).split(sessions)
    found = [[rows.sequences[s].tolist() for s in range(len(rows.sequences))] for rows in parts]
    assert found == [[[4, 2]], [[3, 5]], [[8, 9]]]


@settings(max_examples=100, deadline=None)
@given(logs)
def test_sessions_are_divided_in_order_of_their_beginning(log):
    sequences = timed([sorted(user) for user in log])
    train, valid, test = SessionSplit(fractions=(0.4, 0.3, 0.3)).split(sequences)
    starts = [part.sequences.times[part.sequences.offsets[:-1]].tolist() for part in (train, valid, test)]
    assert [time for part in starts for time in part] == sorted(sequences.times[sequences.offsets[:-1]].tolist())
    assert sum(len(part) for part in (train, valid, test)) == len(sequences.items)  # every position is a row


def test_user_split_depends_on_users_and_seed_alone():
    lists = [[n + 1, n + 2, n + 3] for n in range(50)]
    users = np.arange(50) * 3
    one = UserSplit(seed=5).split(Sequences.from_lists(lists, users))
    order = np.random.default_rng(1).permutation(50)
    other = UserSplit(seed=5).split(Sequences.from_lists([lists[k] for k in order], users[order]))
    third = UserSplit(seed=6).split(Sequences.from_lists(lists, users))
    for part in range(3):
        assert sorted(one[part].users()) == sorted(other[part].users())
    assert sorted(one.test.users()) != sorted(third.test.users())


def test_equal_times_at_a_cut_fall_on_one_side():
    log = timed([[(1, 1), (5, 2), (5, 3), (5, 4), (9, 5), (9, 6)]])
    train, valid, test = GlobalTime(fractions=(0.4, 0.4, 0.2)).split(log)
    assert train.sequences.items.tolist() == [1]
    assert valid.targets().tolist() == [2, 3, 4]
    assert test.targets().tolist() == [5, 6]


def test_iso_cuts_are_utc():
    rule = GlobalTime(valid_from="1970-01-02", test_from="1970-01-03T02:00:00+02:00")
    assert rule.cuts(np.array([0])) == (86400.0, 172800.0)


def test_from_log_to_dataset():
    frame = pl.DataFrame(
        {"user": list("aaaabbbb"), "item": [10, 20, 30, 40, 40, 30, 20, 10], "time": [1, 2, 3, 4, 4, 3, 2, 1]}
    )
    data = LeaveOneOut()(Interactions.read(frame, name="mine"))
    assert data.name == "mine/leave-one-out"
    assert data.vocabulary.raw == (10, 20, 30, 40)
    assert pairs(data.test) == [((1, 2, 3), 4)] * 2
    assert data.users is not None
    assert data.users.to_list() == ["a", "b"]
    assert (data.fingerprint.users, data.fingerprint.items, data.fingerprint.interactions) == (2, 4, 8)
    assert protocol_from_plain(data.protocol) == LeaveOneOut()


@pytest.mark.parametrize(
    "rule", [UserSplit(seed=3), LeaveOneOut(seen="mask"), SessionSplit(gap_seconds=9), GlobalTime()]
)
def test_plain_data_and_back(rule):
    assert protocol_from_plain(rule.to_plain()) == rule
    assert PROTOCOLS[rule.name] is type(rule)


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: UserSplit(sed=1), "UserSplit: 1 problem. 'sed' is not an option. Did you mean 'seed'?"),
        (lambda: UserSplit(fractions=(0.5, 0.5, 0.5)), "three shares, none negative, must sum to 1"),
        (lambda: UserSplit(max_items=1), "greater than or equal to 2"),
        (lambda: GlobalTime(valid_from=5), "valid_from and test_from belong together"),
        (lambda: GlobalTime(valid_from=5, test_from=5), "valid_from must be before test_from"),
        (lambda: GlobalTime(fractions=None), "give valid_from and test_from, or fractions"),
        (lambda: GlobalTime(valid_from="May", test_from=5), "'May' is not an ISO date or time"),
        (
            lambda: protocol_from_plain({"name": "user_split"}),
            "'user_split' is not a protocol. Did you mean 'user-split'?"
            " Hint: one of user-split, leave-one-out, session-split, global-time, impressions, drawn-impressions.",
        ),
    ],
)
def test_impossible_protocols(make, expected):
    with pytest.raises(ConfigError) as caught:
        make()
    assert expected in str(caught.value)


def test_what_protocols_refuse():
    plain = Sequences.from_lists([[1, 2, 3], [2, 3]])
    with pytest.raises(DataError, match="global-time needs the time of every event, and the sequences have none"):
        GlobalTime().split(plain)
    with pytest.raises(DataError, match="Sessions by gap_seconds need the time of every event"):
        SessionSplit(gap_seconds=5).split(plain)
    with pytest.raises(ConfigError, match=r"names a released split\. Hint: give a seed to draw a new one"):
        UserSplit(seed=None).split(plain)
    with pytest.raises(DataError, match="user-split needs one sequence per user, and some users have several"):
        UserSplit().split(Sequences.from_lists([[1, 2], [3, 4]], np.array([7, 7])))


def test_an_empty_part_is_an_error():
    frame = pl.DataFrame({"user": [1, 1], "item": [1, 2], "time": [1, 2]})
    with pytest.raises(DataError) as caught:
        LeaveOneOut()(Interactions.read(frame))
    assert str(caught.value) == (
        "log/leave-one-out: leave-one-out leaves no row for 'valid'."
        " Hint: use more data, other fractions or cuts, or a smaller shortest_history."
    )


@settings(max_examples=20, deadline=None)
@given(logs, st.integers(0, 5))
def test_an_own_protocol_never_loses_a_user_silently(log, seed):
    """Users without a row are those whose history is shorter than asked for."""
    sequences = timed([sorted(user) for user in log])
    assume(len(sequences) >= 3)
    parts = UserSplit(seed=seed, max_items=None).split(sequences)
    with_row = {int(user) for part in parts for user in part.users()}
    assert with_row == {int(u) for u, n in zip(sequences.users, sequences.lengths, strict=True) if n >= 2}

"""Sequences, rows and windows: the matrices of the docstrings, and slow loops over lists."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guiderec.data.batch import Batch
from guiderec.data.sequences import Rows, Sequences

lists_of_items = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), min_size=1, max_size=6)


def window(items: list[int], position: int, length: int) -> list[int]:
    """The newest `length` items before `position`, padded on the left."""
    history = items[:position][-length:]
    return [0] * (length - len(history)) + history


def test_the_matrix_of_the_docstring():
    rows = Rows(Sequences.from_lists([[3, 1, 4, 5]]), np.array([0, 0]), np.array([3, 1]))
    history, target = rows.windows(np.array([0, 1]), 2)
    assert history.tolist() == [[1, 4], [0, 3]]
    assert target.tolist() == rows.targets().tolist() == [5, 1]
    assert rows.history_lengths().tolist() == [3, 1]


@settings(max_examples=100, deadline=None)
@given(lists_of_items, st.integers(1, 9), st.integers(0, 3), st.randoms(use_true_random=False))
def test_windows_of_every_prefix_are_slices_of_lists(lists, length, shortest, random):
    rows = Rows.every_prefix(Sequences.from_lists(lists), shortest)
    expected = [(s, p) for s, items in enumerate(lists) for p in range(shortest, len(items))]
    assert list(zip(rows.sequence.tolist(), rows.position.tolist(), strict=True)) == expected
    index = list(range(len(rows)))
    random.shuffle(index)  # rows are read in any order, as a loader reads them
    history, target = rows.windows(np.array(index, dtype=np.int64), length)
    assert history.shape == (len(index), length)
    assert history.tolist() == [window(lists[expected[r][0]], expected[r][1], length) for r in index]
    assert target.tolist() == [lists[expected[r][0]][expected[r][1]] for r in index]


@settings(max_examples=50, deadline=None)
@given(lists_of_items)
def test_last_items_are_last(lists):
    sequences = Sequences.from_lists(lists, users=np.arange(len(lists)) * 10)
    rows = Rows.last_items(sequences)
    assert rows.targets().tolist() == [items[-1] for items in lists]
    assert rows.history_lengths().tolist() == [len(items) - 1 for items in lists]
    assert rows.users().tolist() == [10 * s for s in range(len(lists))]
    assert [sequences[s].tolist() for s in range(len(sequences))] == lists
    assert sequences.lengths.tolist() == [len(items) for items in lists]


def test_no_item_of_another_sequence_enters_a_window():
    """A window longer than its history must be padded, and not filled from the sequence stored before it."""
    rows = Rows.every_prefix(Sequences.from_lists([[7, 8, 9], [1, 2]]), 0)
    history, _ = rows.windows(np.array([3, 4]), 4)
    assert history.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]


def test_keys_name_rows_whatever_their_order():
    rows = Rows.every_prefix(Sequences.from_lists([[1, 2, 3]] * 400, users=np.arange(400) * 7))
    assert len(set(rows.keys().tolist())) == len(rows)
    order = np.random.default_rng(0).permutation(len(rows))
    reordered = Rows(rows.sequences, rows.sequence[order], rows.position[order])
    np.testing.assert_array_equal(reordered.keys(), rows.keys()[order])


def test_sessions_of_one_user_have_keys_of_their_own_and_other_keys_stay():
    """Equal positions in two sessions of one user once shared their noise.

    The first keeps (user << 20) ^ position, on which the noise of recorded evaluations depends.
    """
    users = np.array([7, 3, 7, 7, 3])
    rows = Rows.every_prefix(Sequences.from_lists([[1, 2, 3]] * 5, users=users), 0)
    keys = rows.keys()
    assert len(set(keys.tolist())) == 15
    first = np.isin(rows.sequence, [0, 1])
    np.testing.assert_array_equal(keys[first], (rows.users()[first] << 20) ^ rows.position[first])
    order = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_array_equal(rows.take(order).keys(), keys[order])


def test_no_sequences():
    empty = Sequences.from_lists([])
    assert len(empty) == 0
    assert len(Rows.every_prefix(empty)) == len(Rows.last_items(empty)) == 0


@given(st.lists(st.lists(st.integers(1, 9), max_size=20), min_size=1, max_size=6), st.integers(1, 7))
def test_windows_learn_every_item_but_the_first_once(lists, length):
    rows = Rows.last_of_windows(Sequences.from_lists(lists), length)
    learnt = [
        (sequence, place)
        for sequence, position in zip(rows.sequence.tolist(), rows.position.tolist(), strict=True)
        for place in range(max(1, position - length + 1), position + 1)
    ]
    assert sorted(learnt) == [(s, place) for s, items in enumerate(lists) for place in range(1, len(items))]


def test_rows_can_be_taken():
    rows = Rows.every_prefix(Sequences.from_lists([[3, 1, 4], [1, 5]]))
    assert rows.take(np.array([2, 0])).targets().tolist() == [5, 1]


def test_next_items_end_in_the_target_also_after_an_empty_history():
    history, target = torch.tensor([[0, 0, 4, 7, 9], [0, 0, 0, 0, 0], [1, 2, 3, 4, 5]]), torch.tensor([2, 5, 6])
    batch = Batch(history=history, key=torch.arange(3), target=target)
    assert batch.next_items.tolist() == [[0, 0, 7, 9, 2], [0, 0, 0, 0, 5], [2, 3, 4, 5, 6]]
    assert batch.own_items.tolist() == [[0, 0, 4, 7, 9, 2], [0, 0, 0, 0, 0, 5], [1, 2, 3, 4, 5, 6]]


@settings(max_examples=100, deadline=None)
@given(lists_of_items, st.data())
def test_events_end_at_the_last_target_of_their_sequence(lists, data):
    places = [(s, p) for s, items in enumerate(lists) for p in range(len(items))]
    chosen = data.draw(st.lists(st.sampled_from(places), unique=True))
    sequence, position = np.array(chosen, dtype=np.int64).reshape(-1, 2).T
    rows = Rows(Sequences.from_lists(lists), sequence, position)
    last = {s: max(p for of, p in chosen if of == s) for s in {of for of, _ in chosen}}
    expected = [(s, lists[s][p]) for s, p in places if p <= last.get(s, -1)]
    assert list(zip(*(column.tolist() for column in rows.events()), strict=True)) == expected
    if chosen:
        longest = max(1, max(p for _, p in chosen))
        assert rows.histories(np.arange(len(rows))).tolist() == [window(lists[s], p, longest) for s, p in chosen]

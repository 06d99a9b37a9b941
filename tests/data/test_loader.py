from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from guiderec.data.loader import Loader
from guiderec.data.sequences import Rows, Sequences
from guiderec.errors import ConfigError, DataError

LISTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5], [8, 9, 7], [2, 3]]


@pytest.fixture
def rows() -> Rows:
    return Rows.every_prefix(Sequences.from_lists(LISTS))


def pairs(batches) -> list[tuple[tuple[int, ...], int, int]]:
    """(history, target, key) of every row, in order."""
    return [
        (tuple(history), target, key)
        for batch in batches
        for history, target, key in zip(batch.history.tolist(), batch.target.tolist(), batch.key.tolist(), strict=True)
    ]


def by_hand(length: int) -> list[tuple[tuple[int, ...], int, int]]:
    """The rows of LISTS by a slow loop."""
    result = []
    for user, items in enumerate(LISTS):
        for position in range(1, len(items)):
            history = items[:position][-length:]
            padded = (0,) * (length - len(history)) + tuple(history)
            result.append((padded, items[position], (user << 20) ^ position))
    return result


@pytest.mark.parametrize("length", [1, 3, 7])
def test_in_order_equals_a_slow_loop(rows, length):
    assert pairs(Loader(rows, batch_size=4, max_length=length, shuffle=False).batches(0)) == by_hand(length)


def test_the_last_batch_may_be_smaller_and_no_row_is_lost(rows):
    loader = Loader(rows, batch_size=4, max_length=3, seed=1)
    assert len(rows) == 11
    assert len(loader) == 3
    assert [len(batch) for batch in loader.batches(0)] == [4, 4, 3]
    assert sorted(pairs(loader.batches(0))) == sorted(by_hand(3))


def test_an_exact_multiple_has_no_empty_last_batch(rows):
    loader = Loader(rows, batch_size=11, max_length=3, seed=1)
    assert [len(batch) for batch in loader.batches(0)] == [11]


def test_order_is_a_function_of_seed_and_epoch(rows):
    def order(seed: int, epoch: int):
        return pairs(Loader(rows, batch_size=4, max_length=3, seed=seed).batches(epoch))

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_an_epoch_of_fewer_rows_is_the_beginning_of_its_permutation(rows):
    whole = Loader(rows, batch_size=4, max_length=3, seed=1)
    few = Loader(rows, batch_size=4, max_length=3, seed=1, rows_per_epoch=6)
    assert len(few) == 2
    for epoch in range(3):
        assert [len(batch) for batch in few.batches(epoch)] == [4, 2]
        assert pairs(few.batches(epoch)) == pairs(whole.batches(epoch))[:6]
    assert {row for epoch in range(40) for row in pairs(few.batches(epoch))} == set(by_hand(3))  # over epochs, all
    assert few.shard(0, 2).weight(1) + few.shard(1, 2).weight(1) == pytest.approx(2)
    assert len(Loader(rows, batch_size=4, max_length=3, rows_per_epoch=100)) == len(whole)


@pytest.mark.parametrize("options", [{"rows_per_epoch": 0}, {"rows_per_epoch": 5, "shuffle": False}])
def test_an_epoch_of_no_rows_or_of_always_the_same_is_refused(rows, options):
    with pytest.raises(ConfigError, match="rows_per_epoch"):
        Loader(rows, batch_size=4, max_length=3, **options)


def test_order_does_not_depend_on_global_generators(rows):
    loader = Loader(rows, batch_size=4, max_length=3, seed=1)
    torch.manual_seed(0)
    before = pairs(loader.batches(0))
    torch.manual_seed(1)
    assert pairs(loader.batches(0)) == before


def test_first_rows_are_uniform_over_epochs():
    """Each of 5 rows comes first in about a fifth of 2,000 epochs: four standard deviations are 72."""
    rows = Rows.last_items(Sequences.from_lists([[1, j] for j in range(1, 6)]))
    loader = Loader(rows, batch_size=1, max_length=1, seed=0)
    first = [int(next(loader.batches(epoch)).target) for epoch in range(2000)]
    assert np.abs(np.bincount(first, minlength=6)[1:] - 400).max() < 72


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_starting_late_gives_the_rest(rows, start):
    loader = Loader(rows, batch_size=4, max_length=3, seed=1)
    assert pairs(loader.batches(5, start)) == pairs(list(loader.batches(5))[start:])


@settings(deadline=None)
@given(batch_size=st.integers(2, 13), world=st.integers(1, 4))
def test_ranks_share_every_global_batch(batch_size, world):
    assume(batch_size >= world)
    rows = Rows.every_prefix(Sequences.from_lists(LISTS))
    whole = Loader(rows, batch_size=batch_size, max_length=3, seed=1)
    ranks = [whole.shard(rank, world) for rank in range(world)]
    for step, batches in enumerate(zip(whole.batches(0), *(rank.batches(0) for rank in ranks), strict=True)):
        expected = pairs(batches[:1])
        weights = [rank.weight(step) for rank in ranks]
        shares = [pairs([batch]) if weight else [] for batch, weight in zip(batches[1:], weights, strict=True)]
        for rank, share in enumerate(shares):
            assert share == expected[rank::world]
        assert all(len(batch) for batch in batches)  # a rank without rows gets a stand-in, of weight 0
        # the mean over ranks of weight times mean target is the mean target
        means = [batch.target.double().mean() * weight for batch, weight in zip(batches[1:], weights, strict=True)]
        torch.testing.assert_close(torch.stack(means).mean(), batches[0].target.double().mean())


def test_types(rows):
    batch = next(Loader(rows, batch_size=4, max_length=3, seed=1).batches(0))
    assert (batch.history.dtype, batch.target.dtype, batch.key.dtype) == (torch.int64,) * 3
    assert batch.history.shape == (4, 3)


def test_impossible_options(rows):
    with pytest.raises(ConfigError, match=r"Loader: 'batch_size' = 0: must be at least 1\."):
        Loader(rows, batch_size=0, max_length=3)
    with pytest.raises(ConfigError, match=r"'rank' = 2: must be in 0\.\.1\."):
        Loader(rows, batch_size=4, max_length=3, rank=2, world=2)
    with pytest.raises(ConfigError, match="a batch of 2 rows cannot be shared by 3 processes"):
        Loader(rows, batch_size=2, max_length=3, world=3)
    with pytest.raises(DataError, match="there are no rows"):
        Loader(Rows.every_prefix(Sequences.from_lists([[1], [2]])), batch_size=2, max_length=3)

"""Sampled negatives against brute force: the allowed set, its uniformity, and independence of the batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from guiderec.data.negatives import Positives, sample_negatives
from guiderec.data.sequences import Sequences
from guiderec.errors import DataError
from guiderec.rng import Noise


def allowed_items(exclude: torch.Tensor, n_items: int) -> list[int]:
    return [j for j in range(1, n_items + 1) if j not in set(exclude.tolist())]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_negatives_are_exactly_the_items_that_are_not_excluded(data):
    n_items = data.draw(st.integers(2, 12))
    width = data.draw(st.integers(0, 8))
    ids = st.lists(st.integers(0, n_items), min_size=width, max_size=width)
    exclude = torch.tensor(data.draw(st.lists(ids, min_size=1, max_size=4)), dtype=torch.int64)
    keys = torch.arange(len(exclude))
    if not all(allowed_items(row, n_items) for row in exclude):
        with pytest.raises(DataError, match="leaves 0"):
            sample_negatives(Noise(0), keys, exclude, 5, n_items=n_items)
        return
    drawn = sample_negatives(Noise(data.draw(st.integers(0, 9))), keys, exclude, 400, n_items=n_items)
    for row, negatives in zip(exclude, drawn, strict=True):
        # an allowed item is missed by 400 draws with probability below 12 (11/12)^400 < 1e-14
        assert sorted(set(negatives.tolist())) == allowed_items(row, n_items)


def test_every_allowed_item_is_equally_likely():
    exclude = torch.tensor([[4, 0, 1, 9, 4]])
    drawn = sample_negatives(Noise(3), torch.tensor([17]), exclude, 90_000, n_items=12)[0]
    observed = np.bincount(drawn, minlength=13)[allowed_items(exclude[0], 12)]
    assert observed.sum() == 90_000
    assert stats.chisquare(observed).pvalue > 1e-3


def test_draws_across_rows_are_uniform_and_independent():
    """One draw for each of many keys: what a training step sees."""
    keys = torch.arange(40_000)
    drawn = sample_negatives(Noise(1), keys, torch.full((40_000, 1), 2), 2, n_items=4)
    pairs = (drawn[:, 0] * 5 + drawn[:, 1]).numpy()
    observed = [int((pairs == a * 5 + b).sum()) for a, b in itertools.product((1, 3, 4), repeat=2)]
    assert stats.chisquare(observed).pvalue > 1e-3


def test_every_subset_is_equally_likely_when_distinct():
    exclude = torch.tensor([[2, 5]]).expand(30_000, 2)
    drawn = sample_negatives(Noise(5), torch.arange(30_000), exclude, 3, n_items=7, distinct=True)
    subsets = list(itertools.combinations((1, 3, 4, 6, 7), 3))
    seen = [tuple(sorted(row)) for row in drawn.tolist()]
    observed = [seen.count(subset) for subset in subsets]
    assert sum(observed) == 30_000
    assert stats.chisquare(observed).pvalue > 1e-3


def test_distinct_can_take_all_that_is_left():
    drawn = sample_negatives(
        Noise(0), torch.arange(50), torch.tensor([[3, 0, 6]]).expand(50, 3), 5, n_items=7, distinct=True
    )
    assert (drawn.sort(dim=1).values == torch.tensor([1, 2, 4, 5, 7])).all()


@pytest.mark.parametrize("distinct", [False, True])
def test_a_row_alone_is_the_row_in_a_batch_whatever_its_padding(distinct):
    exclude = torch.tensor([[0, 0, 7, 3], [5, 0, 0, 0], [1, 2, 3, 4]])
    keys = torch.tensor([10, 11, 12])
    together = sample_negatives(Noise(2), keys, exclude, 6, n_items=50, distinct=distinct)
    alone = sample_negatives(Noise(2), keys[:1], torch.tensor([[3, 7, 7, 0, 0, 0]]), 6, n_items=50, distinct=distinct)
    assert together[0].tolist() == alone[0].tolist()
    assert together[0].tolist() != together[1].tolist()
    other_step = sample_negatives(Noise(2, step=1), keys, exclude, 6, n_items=50, distinct=distinct)
    assert together.tolist() != other_step.tolist()


def test_ten_million_items_cost_no_memory_per_item():
    n_items = 10_000_000
    exclude = torch.tensor([[1, n_items, n_items - 1], [2, 0, 0]])
    drawn = sample_negatives(Noise(0), torch.tensor([0, 1]), exclude, 50_000, n_items=n_items)
    assert drawn.min() >= 1
    assert drawn.max() <= n_items
    assert not torch.isin(drawn[0], exclude[0]).any()
    assert abs(drawn.double().mean().item() / (n_items / 2) - 1) < 0.01


def test_one_item_left_is_found_at_once():
    exclude = torch.arange(1, 100_001)[None]
    exclude[0, 70_000 - 1] = 0
    assert sample_negatives(Noise(0), torch.tensor([0]), exclude, 3, n_items=100_000).tolist() == [[70_000] * 3]


def test_errors_name_the_row_and_the_count():
    exclude = torch.tensor([[1, 0, 0], [2, 1, 3]])
    with pytest.raises(DataError, match=r"Row 1 needs 1 negatives but 3 of 3 items are excluded, which leaves 0 \(1 "):
        sample_negatives(Noise(0), torch.arange(2), exclude, 4, n_items=3)
    with pytest.raises(DataError, match="Row 0 needs 3 negatives but 1 of 3"):
        sample_negatives(Noise(0), torch.arange(2), exclude, 3, n_items=3, distinct=True)
    with pytest.raises(DataError, match=r"must lie in 0\.\.2 .*found 3"):
        sample_negatives(Noise(0), torch.arange(2), exclude, 1, n_items=2)
    with pytest.raises(DataError, match="found -1"):
        sample_negatives(Noise(0), torch.arange(1), torch.tensor([[-1]]), 1, n_items=2)


def test_no_exclusions_and_no_negatives():
    assert sample_negatives(Noise(0), torch.arange(2), torch.zeros(2, 0, dtype=torch.int64), 0, n_items=3).shape == (
        2,
        0,
    )
    drawn = sample_negatives(Noise(0), torch.arange(2), torch.zeros(2, 0, dtype=torch.int64), 200, n_items=3)
    assert set(drawn.flatten().tolist()) == {1, 2, 3}


def test_positives_gather_all_sequences_of_a_user_in_all_parts():
    """
    train  user 8: 3 1 3, 5 1   user 9: 2         positives  8: 1 3 4 5
    test   user 8: 4            user 2: 6                    9: 2        2: 6       4 (unknown): none
    """
    train = Sequences.from_lists([[3, 1, 3], [2], [5, 1]], users=np.array([8, 9, 8]))
    test = Sequences.from_lists([[4], [6]], users=np.array([8, 2]))
    padded = Positives.of(train, test).padded(np.array([9, 8, 4, 2]))
    assert padded.tolist() == [[2, 0, 0, 0], [1, 3, 4, 5], [0, 0, 0, 0], [6, 0, 0, 0]]
    assert Positives.of(train).padded(np.array([4])).shape == (1, 0)


def test_negatives_of_users_are_never_their_positives():
    rng = np.random.default_rng(0)
    lists = [rng.integers(1, 31, rng.integers(1, 25)).tolist() for _ in range(200)]
    sequences = Sequences.from_lists(lists, users=rng.integers(0, 120, 200))
    users = np.unique(sequences.users)
    exclude = Positives.of(sequences).padded(users)
    drawn = sample_negatives(Noise(0), torch.from_numpy(users), exclude, 200, n_items=40)
    for user, negatives in zip(users, drawn.tolist(), strict=True):
        positives = {item for s, items in enumerate(lists) if sequences.users[s] == user for item in items}
        assert not positives & set(negatives)

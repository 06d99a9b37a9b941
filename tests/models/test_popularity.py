from __future__ import annotations

from collections import Counter

import pytest
import torch

from guiderec.data.batch import Query
from guiderec.data.sequences import Sequences
from guiderec.errors import NotFittedError
from guiderec.models.popularity import Popularity, PopularityConfig
from guiderec.rng import Noise, numpy_generator

LISTS = [[1, 2, 2, 5], [2, 5], [5, 2, 1]]


def fitted(lists: list[list[int]], n_items: int) -> Popularity:
    model = Popularity(PopularityConfig(), n_items)
    model.prepare(Sequences.from_lists(lists))
    return model


def query(rows: int = 1) -> Query:
    return Query(history=torch.zeros(rows, 3, dtype=torch.int64), key=torch.arange(rows))


def test_whole_part_of_a_score_is_the_count():
    scores = fitted(LISTS, 6).scores(query(), Noise(0))[0]
    counted = Counter(item for items in LISTS for item in items)
    assert scores[1:].floor().tolist() == [counted[item] for item in range(1, 7)]


def test_equal_counts_are_neither_tied_nor_in_the_order_of_ids():
    """A long tail of equal counts would otherwise sit at its pessimistic end, or leak the order of the file."""
    scores = fitted([list(range(1, 1001))], 1000).scores(query(), Noise(0))[0, 1:]
    assert len(scores.unique()) > 990
    order = scores.argsort().double()
    correlation = torch.corrcoef(torch.stack([order, torch.arange(1000).double()]))[0, 1]
    assert abs(correlation) < 5 / 1000**0.5  # five standard deviations of independent permutations


def test_ties_do_not_disturb_counts_beyond_single_precision():
    model = fitted([[1, 2]], 2)
    model.counts = torch.tensor([0, 2**24, 2**24 + 1])
    for ties in ([0, 2**20 - 1, 0], [0, 0, 2**20 - 1]):
        model.ties = torch.tensor(ties)
        scores = model.float().scores(query(), Noise(0))[0]
        assert scores[2] > scores[1]


def test_a_million_items_cost_one_row_for_everybody():
    items = numpy_generator(0, "test").integers(1, 1_000_001, size=1000)
    scores = fitted([items.tolist()], 1_000_000).scores(query(512), Noise(0))
    assert scores.shape == (512, 1_000_001)
    assert scores.untyped_storage().nbytes() == 8 * 1_000_001


def test_unfitted_model_says_so():
    with pytest.raises(NotFittedError, match=r"counted no interactions.*Hint: call prepare"):
        Popularity(PopularityConfig(), 3).scores(query(), Noise(0))

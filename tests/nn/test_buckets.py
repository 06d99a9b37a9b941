"""Buckets hold every row once, and are as wide as they need to be."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from guiderec.nn.buckets import by_length, in_buckets


def mask_of(lengths: list[int], width: int) -> torch.Tensor:
    return torch.arange(width) >= width - torch.tensor(lengths)[:, None]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 8))
def test_every_row_is_in_one_bucket_that_fits(lengths: list[int], shortest: int):
    buckets = by_length(mask_of(lengths, 50), shortest=shortest, fewest=1)
    assert sorted(row for bucket in buckets for row in bucket.rows.tolist()) == list(range(len(lengths)))
    for bucket in buckets:
        own = [lengths[row] for row in bucket.rows.tolist()]
        assert bucket.length == max(1, *own)
        assert max(own) <= shortest or max(own) < 2 * min(own)  # nobody is padded to twice its length
        assert bucket.rows.tolist() == sorted(bucket.rows.tolist())


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 12))
def test_small_buckets_join_wider_ones(lengths: list[int], fewest: int):
    alone, joined = (by_length(mask_of(lengths, 50), fewest=n) for n in (1, fewest))
    assert sorted(row for bucket in joined for row in bucket.rows.tolist()) == list(range(len(lengths)))
    assert all(len(bucket.rows) >= fewest for bucket in joined[:-1])
    for bucket in alone:  # nobody is split, and nobody's items are cut off
        (home,) = [other for other in joined if set(bucket.rows.tolist()) <= set(other.rows.tolist())]
        assert home.length >= bucket.length


def test_no_rows_have_no_buckets():
    assert by_length(mask_of([], 7)) == []


def test_results_come_back_in_the_order_of_the_rows():
    lengths = [9, 1, 30, 0, 2, 17, 30, 5]
    got = in_buckets(
        by_length(mask_of(lengths, 30), fewest=2), lambda bucket: 10 * bucket.rows[:, None] + torch.arange(2)
    )
    assert got.tolist() == [[10 * row, 10 * row + 1] for row in range(len(lengths))]

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
    buckets = by_length(mask_of(lengths, 50), shortest=shortest)
    assert sorted(row for bucket in buckets for row in bucket.rows.tolist()) == list(range(len(lengths)))
    for bucket in buckets:
        own = [lengths[row] for row in bucket.rows.tolist()]
        assert bucket.length == max(1, *own)
        assert max(own) <= shortest or max(own) < 2 * min(own)  # nobody is padded to twice its length
        assert bucket.rows.tolist() == sorted(bucket.rows.tolist())


def test_results_come_back_in_the_order_of_the_rows():
    lengths = [9, 1, 30, 0, 2, 17, 30, 5]
    got = in_buckets(by_length(mask_of(lengths, 30)), lambda bucket: 10 * bucket.rows[:, None] + torch.arange(2))
    assert got.tolist() == [[10 * row, 10 * row + 1] for row in range(len(lengths))]

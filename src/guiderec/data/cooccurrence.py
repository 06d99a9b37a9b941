"""Which items the same people take: how often two items meet in the sequences, and the strongest neighbours of each.

With n_i the sequences that hold item i, n_ij those that hold i and j (at most `window` places apart), S all of them:

    cosine   n_ij / (sqrt(n_i n_j) + shrinkage)
    pmi      max(0, log(n_ij S / (n_i n_j))) n_ij / (n_ij + shrinkage)                  positive PMI, shrunk

A sequence counts a pair once. Equally similar neighbours stand in the order of how many sequences hold them, then of
their ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from guiderec.data.sequences import Ids

Floats = NDArray[np.float64]
Similarity = Literal["cosine", "pmi"]

BLOCK_PAIRS = 2**22
"""Pairs of items that are looked at together: some 200 MiB while they are sorted."""


@dataclass(frozen=True)
class Neighbours:
    """The strongest neighbours of every item, strongest first: row i of a sparse (I + 1, I + 1) matrix."""

    offsets: Ids
    """(I + 2,) where the neighbours of each item begin."""
    items: Ids
    """The neighbours of item 1, then those of item 2, ..."""
    similarity: Floats
    """Above 0, parallel to `items`."""

    def nearest(self, items: Ids, n: int) -> Ids:
        """(B, n) the n strongest neighbours of `items` (B,), padded on the right with 0."""
        places = self.offsets[items][:, None] + np.arange(n)
        there = places < self.offsets[items + 1][:, None]
        if not len(self.items):
            return np.zeros(places.shape, dtype=np.int64)
        return np.where(there, self.items[np.where(there, places, 0)], 0)

    def similarities(self, items: Ids) -> Floats:
        """(B, I + 1) mean similarity of every item to `items` (B, K), padded with 0; 0 where they are no neighbours."""
        rows, columns = np.nonzero(items)
        counts = np.maximum((items != 0).sum(axis=1), 1)
        size = len(self.offsets) - 1
        weights = csr_array((1 / counts[rows], (rows, items[rows, columns])), shape=(len(items), size))
        dense: Floats = (weights @ csr_array((self.similarity, self.items, self.offsets), shape=(size, size))).toarray()
        return dense


def neighbours_by_meetings(
    sequence: Ids,
    items: Ids,
    n_items: int,
    *,
    similarity: Similarity = "cosine",
    window: int | None = None,
    shrinkage: float = 5.0,
    keep: int = 200,
) -> Neighbours:
    """The `keep` strongest neighbours of every item, for events (N,) of items in 1..I, in the order of their sequences.

    Two items meet in a sequence that holds both, `window` places apart at most; None: anywhere in it.
    """
    held = incidence(sequence, items, n_items)
    counts = np.asarray(held.sum(axis=0), dtype=np.float64).ravel()
    found = []
    for first, stop in blocks(_pairs_per_item(sequence, items, n_items, window)):
        meetings = (
            (held[:, first:stop].T @ held).tocsr()
            if window is None
            else _near(sequence, items, window, first, stop, n_items + 1)
        )
        meetings.data = _similarity(meetings, first, counts, held.shape[0], similarity, shrinkage)
        found.append(strongest(meetings, first, counts, keep))
    return joined(found)


def incidence(sequence: Ids, items: Ids, n_items: int) -> csr_array:
    """(S, I + 1) of 0 and 1: which sequence holds which item; S counts the sequences with an event."""
    _, row = np.unique(sequence, return_inverse=True)
    shape = (int(row.max(initial=-1)) + 1, n_items + 1)
    held = csr_array((np.ones(len(items)), (row, items)), shape=shape)
    held.sum_duplicates()
    held.data[:] = 1.0
    return held


def _pairs_per_item(sequence: Ids, items: Ids, n_items: int, window: int | None) -> Ids:
    _, which, lengths = np.unique(sequence, return_inverse=True, return_counts=True)
    reach = lengths if window is None else np.minimum(lengths, 2 * window)
    return np.bincount(items, weights=reach[which], minlength=n_items + 1).astype(np.int64)


def _similarity(
    meetings: csr_array, first: int, counts: Floats, n_sequences: int, similarity: Similarity, shrinkage: float
) -> Floats:
    rows = np.repeat(np.arange(meetings.shape[0]), np.diff(meetings.indptr)) + first
    product, together = counts[rows] * counts[meetings.indices], meetings.data.astype(np.float64)
    if similarity == "cosine":
        cosine: Floats = together / (np.sqrt(product) + shrinkage)
        return cosine
    pmi: Floats = np.maximum(np.log(together * n_sequences / product), 0) * together / (together + shrinkage)
    return pmi


def _near(sequence: Ids, items: Ids, window: int, first: int, stop: int, size: int) -> csr_array:
    """(stop - first, size) sequences in which two items stand at most `window` places apart, for a block of items."""
    n_sequences = int(sequence.max(initial=0)) + 1
    codes = []
    for distance in range(1, window + 1):
        together = sequence[:-distance] == sequence[distance:]
        for a, b in ((items[:-distance], items[distance:]), (items[distance:], items[:-distance])):
            inside = together & (a >= first) & (a < stop)
            codes.append(((a[inside] - first) * n_sequences + sequence[:-distance][inside]) * size + b[inside])
    code = np.unique(np.concatenate(codes))  # a sequence counts a pair once
    row, column = code // (n_sequences * size), code % size
    meetings = csr_array((np.ones(len(code)), (row, column)), shape=(stop - first, size))
    meetings.sum_duplicates()
    return meetings


def blocks(pairs: Ids) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) item of blocks of about `BLOCK_PAIRS` pairs, for the pairs (I + 1,) of each item."""
    block = np.cumsum(pairs) // BLOCK_PAIRS
    edges = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(pairs)]
    yield from pairwise(edges)


def strongest(similarity: csr_array, first: int, counts: Floats, keep: int) -> csr_array:
    """The rows with at most `keep` entries each, the strongest first, without those of an item with itself."""
    row = np.repeat(np.arange(similarity.shape[0]), np.diff(similarity.indptr))
    column, value = similarity.indices, similarity.data
    real = (column != row + first) & (value >= np.repeat(_floors(similarity, keep + 1), np.diff(similarity.indptr)))
    row, column, value = row[real], column[real], value[real]
    order = np.lexsort((column, -counts[column], -value, row))
    row, column, value = row[order], column[order], value[order]
    begins = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=similarity.shape[0]))])
    near = np.arange(len(row)) - begins[row] < keep
    kept = np.bincount(row[near], minlength=similarity.shape[0])
    offsets = np.concatenate([[0], np.cumsum(kept)])
    return csr_array((value[near], column[near], offsets), shape=similarity.shape)


def _floors(similarity: csr_array, n: int) -> Floats:
    """The n-th largest value of each row: what lies below it need not be sorted. At least the smallest above 0."""
    floors = np.full(similarity.shape[0], np.finfo(np.float64).tiny)
    for row in np.flatnonzero(np.diff(similarity.indptr) > n):
        values = similarity.data[similarity.indptr[row] : similarity.indptr[row + 1]]
        floors[row] = max(floors[row], np.partition(values, len(values) - n)[len(values) - n])
    return floors


def joined(blocks: list[csr_array]) -> Neighbours:
    """Neighbours from the rows of consecutive blocks of items."""
    whole = vstack(blocks, format="csr")
    return Neighbours(whole.indptr.astype(np.int64), whole.indices.astype(np.int64), whole.data)

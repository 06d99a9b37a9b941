"""Sessions from tables of padded rows, the format in which DreamRec and papers after it release their data.

    seq                 len_seq  next        N = 9, two sessions: 4 2 7 and 1 5
    9 9 9 9             1        4
    4 9 9 9             1        2
    4 2 9 9             2        7
    9 9 9 9             1        1
    1 9 9 9             1        5

One row per event: the newest items before it, oldest first, padded after them with N, and the item itself. A row
without items before it, whose length is given as 1, begins a session. DreamRec's files are pickled data frames: reading
one runs whatever is in it, so that GuideRec does not. Whoever trusts a file gives `pandas.read_pickle(file)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from guiderec.data.dataset import Dataset, Vocabulary
from guiderec.data.protocols import SessionSplit
from guiderec.data.sequences import Ids, Sequences
from guiderec.errors import DataError


def load(train: Any, valid: Any, test: Any, *, n_items: int, name: str) -> Dataset:
    """The session split of three tables with columns `seq` and `next`, as Polars or pandas frames.

    Items are 0..n_items - 1 and padding is n_items, as in the files; the catalogue is all of them. Sessions are
    numbered through the three parts.

    Raises
    ------
    DataError
        For a table without these columns, an id outside 0..n_items, and a row whose history is not what the rows before
        it say. The first such row is named.
    """
    vocabulary = Vocabulary(tuple(range(n_items)))
    parts, first_user = [], 0
    for part, table in (("train", train), ("valid", valid), ("test", test)):
        parts.append(_sessions(_frame(table, part), n_items, part, first_user))
        first_user += len(parts[-1])
    protocol = SessionSplit()
    return protocol.assemble(protocol.parts(*parts), vocabulary, full=parts[-1], name=name)


def _frame(table: Any, part: str) -> pl.DataFrame:
    frame = table if isinstance(table, pl.DataFrame) else pl.from_pandas(table)
    missing = [column for column in ("seq", "next") if column not in frame.columns]
    if missing:
        raise DataError(
            f"{part}: no column {', '.join(map(repr, missing))} (columns: {', '.join(frame.columns)}).",
            hint="padded rows have the history in 'seq' and the item after it in 'next'",
        )
    if not len(frame):
        raise DataError(f"{part}: no rows.")
    return frame


def _sessions(frame: pl.DataFrame, n_items: int, part: str, first_user: int) -> Sequences:
    """The sessions of one table, its every row checked."""
    lengths = frame["seq"].list.len().to_numpy()
    window = int(lengths[0])
    _require(lengths == window, part, f"has another number of places in 'seq' than the {window} of the first")
    history = frame["seq"].explode().cast(pl.Int64).to_numpy().reshape(-1, window)
    items = frame["next"].cast(pl.Int64).to_numpy()
    outside = ((history < 0) | (history > n_items)).any(axis=1) | (items < 0) | (items >= n_items)
    _require(~outside, part, f"holds an id outside 0..{n_items - 1}, of which {n_items} alone is padding in 'seq'")

    begins = (history == n_items).all(axis=1)
    _require(begins[:1], part, "has a history, and no row before it to have it from")
    starts = np.flatnonzero(begins)
    position = np.arange(len(items)) - starts[np.cumsum(begins) - 1]
    _require(
        (history == _windows(items, position, window, n_items)).all(axis=1), part, "does not continue the row before"
    )
    offsets = np.append(starts, len(items)).astype(np.int64)
    users = np.arange(first_user, first_user + len(starts), dtype=np.int64)
    return Sequences(items + 1, offsets, users)


def _windows(items: Ids, position: Ids, window: int, padding: int) -> Ids:
    """(R, L) the newest L items before each row, padded after them."""
    first = np.maximum(position - window, 0)
    place = np.arange(window)
    source = (np.arange(len(items)) - position + first)[:, None] + place
    inside = place < (position - first)[:, None]
    return np.where(inside, items[np.where(inside, source, 0)], padding)


def _require(right: NDArray[np.bool_], part: str, fault: str) -> None:
    wrong = np.flatnonzero(~right)
    if len(wrong):
        raise DataError(f"{part}: row {wrong[0]:,} {fault} ({len(wrong):,} such rows of {len(right):,}).")

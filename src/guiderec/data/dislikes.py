"""What people really disliked: the low ratings of a log, for the evaluation rows of a split of its high ones.

    log -> MinimumRating(3.5) -> split            histories and targets: what people took to
    log -> rated 2 or less, after the history     dislikes: what the same people wish they had not

Training never sees them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import polars as pl

from guiderec.data.dataset import EVALUATED, Dataset
from guiderec.data.interactions import Interactions
from guiderec.data.sequences import Ids, ItemLists, Rows
from guiderec.errors import DataError


def with_dislikes(dataset: Dataset, log: Interactions, *, at_most: float) -> Dataset:
    """The split with `dislikes`: for each evaluation row the items that its user rated `at_most`, after the history.

    After means later than the newest event of the history, by the clock. Items that no training sequence holds are in
    no catalogue and are left out, and so are items of the row's own history and its target.

    Raises
    ------
    DataError
        For an `at_most` that is not finite; when the log has no ratings or times, the split no times, or no row has a
        dislike.
    """
    if not math.isfinite(at_most):
        raise DataError(f"{log.source}: dislikes need a rating that is a finite number, got {at_most}.")
    log.check_ratings()
    if not log.has_time:
        raise DataError(f"{log.source}: dislikes need ratings with their times, and there is no time.")
    low = log.frame.filter(pl.col("rating") <= at_most).select("user", "item", "time").collect()
    known = pl.DataFrame(
        {"item": list(dataset.vocabulary.raw), "id": np.arange(1, dataset.n_items + 1)},
        schema_overrides={"item": low.schema["item"]},
    )
    low = low.join(known, on="item", how="inner").with_columns(second=pl.col("time") // log.ticks)
    found = {part: _per_row(dataset, dataset.part(part), low) for part in EVALUATED}
    if not any(rows.any() for rows in found.values()):
        raise DataError(
            f"{log.source}: no user of an evaluation row rated an item {at_most:g} or less after the history "
            f"({len(low):,} such ratings of the catalogue's items in all).",
            hint="choose a higher rating, or a protocol that leaves more of the log after the histories",
        )
    return replace(dataset, dislikes=found)


def _per_row(dataset: Dataset, rows: Rows, low: pl.DataFrame) -> Ids:
    """(R, K) internal ids of the dislikes of every row, ascending, padded on the right with 0."""
    sequences = rows.sequences
    if sequences.times is None:
        raise DataError(f"{dataset.name}: the split has no times.", hint="prepare it from a log with times")
    users = rows.users()
    begun = sequences.offsets[rows.sequence]
    asked = pl.DataFrame(
        {
            "row": np.arange(len(rows)),
            "user": users if dataset.users is None else dataset.users.gather(users),
            "newest": sequences.times[begun + np.maximum(rows.position - 1, 0)],
        },
        schema_overrides={"user": low.schema["user"]},
    )
    pairs = asked.join(low, on="user", how="inner").filter(pl.col("second") > pl.col("newest"))
    lists: list[list[int]] = [[] for _ in range(len(rows))]
    for row, item in pairs.sort("row", "id").select("row", "id").unique(maintain_order=True).iter_rows():
        if item not in sequences[int(rows.sequence[row])][: int(rows.position[row]) + 1]:
            lists[row].append(item)
    return ItemLists.from_lists(lists).padded(np.arange(len(lists)))

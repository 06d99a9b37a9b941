from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from guiderec.data import prepared
from guiderec.data.dataset import Dataset
from guiderec.data.dislikes import with_dislikes
from guiderec.data.filters import MinimumRating
from guiderec.data.interactions import Interactions
from guiderec.data.protocols import LeaveOneOut
from guiderec.errors import DataError


def log(n_users: int = 12, seed: int = 0, **columns: object) -> Interactions:
    """Ratings from 0.5 to 5 in halves, a few per second, of 15 items."""
    random = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "user": [f"u{user}" for user in range(n_users) for _ in range(14)],
            "item": np.concatenate([random.permutation(15)[:14] for _ in range(n_users)]),
            "time": random.integers(1000, 1030, size=14 * n_users),
            "rating": random.integers(1, 11, size=14 * n_users) / 2,
        }
    )
    return Interactions.read(frame.with_columns(**columns))


def split(ratings: Interactions) -> Dataset:
    return LeaveOneOut()(MinimumRating(at_least=3.5)(ratings))


def test_dislikes_are_the_low_ratings_after_the_history() -> None:
    ratings = log()
    dataset = with_dislikes(split(ratings), ratings, at_most=2.0)
    events = ratings.frame.collect()
    assert dataset.dislikes is not None
    found = 0
    for part in ("valid", "test"):
        rows = dataset.part(part)
        assert len(dataset.dislikes[part]) == len(rows)
        for row in range(len(rows)):
            start = rows.sequences.offsets[rows.sequence[row]]
            newest = rows.sequences.times[start + rows.position[row] - 1]
            user = dataset.users[int(rows.users()[row])]
            low = events.filter((pl.col("user") == user) & (pl.col("rating") <= 2) & (pl.col("time") > newest))
            known = {item for item in low["item"] if dataset.vocabulary.find(item) is not None}
            items = [item for item in dataset.dislikes[part][row].tolist() if item]
            assert set(dataset.vocabulary.decode(items)) == known
            assert items == sorted(items)
            found += len(items)
    assert found > 5


def test_a_saved_split_keeps_them(tmp_path: Path) -> None:
    ratings = log()
    dataset = with_dislikes(split(ratings), ratings, at_most=2.0)
    prepared.save(dataset, tmp_path / "split")
    again = prepared.load(tmp_path / "split")
    for part in ("valid", "test"):
        np.testing.assert_array_equal(again.dislikes[part], dataset.dislikes[part])
    pl.DataFrame({"part": ["test"], "row": [99], "item": [3]}).write_parquet(tmp_path / "split" / "dislikes.parquet")
    with pytest.raises(DataError, match=r"test row 99, item 3: not in the split"):
        prepared.load(tmp_path / "split")
    pl.DataFrame({"part": [1], "row": ["x"], "item": [3]}).write_parquet(tmp_path / "split" / "dislikes.parquet")
    with pytest.raises(DataError, match=r"part, row and item hold Int64, String and Int64, expected text, whole"):
        prepared.load(tmp_path / "split")


def test_what_is_missing_is_said() -> None:
    ratings = log()
    with pytest.raises(DataError, match=r"no user of an evaluation row rated an item 0\.1 or less"):
        with_dislikes(split(ratings), ratings, at_most=0.1)
    with pytest.raises(DataError, match="a rating that is a finite number, got nan"):  # all are at most that, to polars
        with_dislikes(split(ratings), ratings, at_most=float("nan"))
    unrated = Interactions.read(ratings.frame.collect().select("user", "item", "time"))
    with pytest.raises(DataError, match="no rating column"):
        with_dislikes(split(ratings), unrated, at_most=2)

"""The session protocol on a released split: the record says what empty histories and cold targets do to a number."""

from __future__ import annotations

from pathlib import Path

import pytest

from guiderec.data import prepared
from guiderec.data.doctor import is_cold
from guiderec.evaluation.evaluate import count_items, evaluate
from guiderec.models.popularity import Popularity, PopularityConfig

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not at {DATA}")
def test_zhihu_with_and_without_empty_histories_and_cold_targets():
    """7,911 test rows, 1,172 of them without a history and 569 with a cold target, by the README of the data."""
    data = prepared.load(DATA / "zhihu" / "time-split")
    model = Popularity(PopularityConfig(), data.n_items)
    model.prepare(data.train.sequences)
    counts = count_items(data.train, data.n_items)
    result = evaluate(model, data.test, max_length=10, metrics=("recall@20",), training_counts=counts)
    groups = result.summary(resamples=50)["groups"]
    cold, empty = is_cold(data, "test"), data.test.history_lengths() == 0
    assert {name: group["n_rows"] for name, group in groups.items()} == {
        "history>0": 7_911 - 1_172,
        "warm target": 7_911 - 569,
        "history>0, warm target": int((~cold & ~empty).sum()),
    }
    recall = result.means()["recall@20"]
    assert recall > 0
    # Popularity never lists an item without events, so all its hits are among the warm targets.
    assert groups["warm target"]["metrics"]["recall@20"] * (7_911 - 569) == pytest.approx(recall * 7_911)

from __future__ import annotations

import json
import math
from pathlib import Path

import ir_measures
import numpy as np
import polars as pl
import pytest
import torch
from ranked_models import MeanOfHistory, Table, make_rows
from torch import Tensor

from guiderec.data.batch import Query
from guiderec.data.sequences import Rows, Sequences
from guiderec.errors import CheckpointError, ConfigError, DataError, ScoreError
from guiderec.evaluation.evaluate import (
    Evaluation,
    beyond_accuracy,
    count_items,
    evaluate,
    read_rows,
    validation_metrics,
)
from guiderec.rng import Noise

METRICS = ("recall@5", "ndcg@5", "mrr@5", "recall@20", "ndcg@20", "mrr@20")


@pytest.fixture
def rows() -> Rows:
    """101 rows of 60 users over 50 items, some with an empty history."""
    return make_rows()


@pytest.fixture
def model() -> MeanOfHistory:
    return MeanOfHistory(50)


def scores_of(model: MeanOfHistory, rows: Rows, max_length: int, noise: Noise) -> np.ndarray:
    """(R, I + 1), one row at a time, straight from the model."""
    found = []
    with torch.no_grad():
        for r in range(len(rows)):
            history, _ = rows.windows(np.array([r]), max_length)
            query = Query(torch.tensor(history), torch.tensor(rows.keys()[r : r + 1]))
            found.append(model.eval().scores(query, noise)[0].numpy())
    return np.array(found)


def test_agrees_with_ir_measures_on_the_scores_of_the_model(model: MeanOfHistory, rows: Rows) -> None:
    """From histories to means: trec_eval ranks the same scores, row by row."""
    scores = scores_of(model, rows, 4, Noise(7))
    qrels = [ir_measures.Qrel(str(r), str(target), 1) for r, target in enumerate(rows.targets())]
    run = [ir_measures.ScoredDoc(str(r), str(j), float(scores[r, j])) for r in range(len(rows)) for j in range(1, 51)]
    measures = [m @ k for k in (5, 20) for m in (ir_measures.R, ir_measures.nDCG, ir_measures.RR)]
    expected = ir_measures.calc_aggregate(measures, qrels, run)
    result = evaluate(model, rows, max_length=4, metrics=METRICS, noise=Noise(7), batch_size=17)
    assert list(result.means().values()) == pytest.approx([expected[m] for m in measures], abs=1e-6)
    assert validation_metrics(model, rows, max_length=4, metrics=METRICS, noise=Noise(7)) == result.means()


@pytest.mark.parametrize("seen", ["keep", "mask"])
@pytest.mark.parametrize("with_candidates", [False, True])
def test_ranks_agree_with_a_slow_loop(model: MeanOfHistory, rows: Rows, seen, with_candidates: bool) -> None:
    """Masking covers the whole history, also what is older than the window; the target always competes."""
    candidates = np.random.default_rng(1).integers(0, 51, size=(101, 12)) if with_candidates else None
    scores = scores_of(model, rows, 3, Noise(0))
    result = evaluate(model, rows, max_length=3, seen=seen, candidates=candidates, batch_size=10)
    repeats = 0
    for r in range(len(rows)):
        s = rows.sequence[r]
        history = set(rows.sequences[s][: rows.position[r]].tolist())
        target = int(rows.targets()[r])
        competing = set(range(1, 51)) if candidates is None else set(candidates[r].tolist()) - {0}
        competing -= history if seen == "mask" else set()
        repeats += target in history
        rank = 1 + sum(scores[r, j] >= scores[r, target] for j in competing - {target})
        assert result.rows["rank"][r] == rank
        assert result.rows["history_length"][r] == rows.position[r]
    assert repeats > 0
    assert result.rows["user"].to_list() == rows.users().tolist()
    assert result.catalogue == ("candidates" if with_candidates else "all")


@pytest.mark.parametrize(("seen", "other"), [("keep", "mask"), ("mask", "keep")])
def test_both_treatments_of_seen_items_come_from_one_pass(model: MeanOfHistory, rows: Rows, seen, other) -> None:
    counts = count_items(rows, 50)
    counts[rows.targets()[:9]] = 0
    found = {
        way: evaluate(model, rows, max_length=3, seen=way, batch_size=10, training_counts=counts)
        for way in (seen, other)
    }
    assert len(model.queries) == 2 * 11  # each evaluation asks for every batch once
    otherwise = found[seen].otherwise()
    assert otherwise is not None
    assert not otherwise.rows["rank"].equals(found[seen].rows["rank"])
    assert otherwise.rows.equals(found[other].rows.drop(f"rank_if_{'kept' if seen == 'keep' else 'masked'}"))
    one, two = found[seen].summary(), found[other].summary()
    assert one["otherwise"] == {name: two[name] for name in ("seen", "metrics", "groups")}
    assert one["otherwise"]["seen"] == other
    assert otherwise.beyond == {}
    assert otherwise.otherwise() is None  # a record of before has one treatment, and says so by having no other
    assert "otherwise" not in otherwise.summary()


def test_nothing_depends_on_the_size_of_batches_or_blocks(model: MeanOfHistory, rows: Rows) -> None:
    """Noise is keyed by row, and the last, partial batch is evaluated too."""
    counts = count_items(rows, 50)
    results = [
        evaluate(model, rows, max_length=4, batch_size=size, block_items=block, training_counts=counts, seen="mask")
        for size, block in ((1, None), (7, 9), (100, 50), (512, 3))
    ]
    for result in results[1:]:
        assert result.rows.equals(results[0].rows)
        assert result.beyond == results[0].beyond
    other = evaluate(model, rows, max_length=4, seen="mask", noise=Noise(1))
    assert not other.rows["rank"].equals(results[0].rows["rank"])


def test_the_model_sees_the_window_and_leaves_in_its_mode(model: MeanOfHistory, rows: Rows) -> None:
    model.train()
    model.frozen.eval()
    evaluate(model, rows, max_length=4, batch_size=64)
    assert [tuple(q.history.shape) for q in model.queries] == [(64, 4), (37, 4)]
    assert torch.cat([q.key for q in model.queries]).tolist() == rows.keys().tolist()
    assert model.training
    assert model.dropout.training
    assert not model.frozen.training


def test_a_shard_alone_is_not_an_evaluation(model: MeanOfHistory, rows: Rows) -> None:
    """Lost rows are an error, not a slightly different mean."""
    with pytest.raises(DataError, match=r"50 of 101 rows were not evaluated exactly once \(first: row 10, 0 times\)"):
        evaluate(model, rows, max_length=4, batch_size=10, shard=(0, 2))
    with pytest.raises(DataError, match=r"101 of 101 rows .* \(first: row 0, 2 times\)"):
        validation_metrics(model, rows, max_length=4, sum_over=lambda tensor: 2 * tensor)


def test_shards_add_up(model: MeanOfHistory, rows: Rows) -> None:
    """The tensors that three shards hand to the sum, added here, give the table of one process."""
    parts: list[list[torch.Tensor]] = []
    for rank in range(3):
        handed: list[torch.Tensor] = []
        with pytest.raises(DataError, match="exactly once"):
            evaluate(
                model, rows, max_length=4, batch_size=10, shard=(rank, 3), sum_over=lambda t, h=handed: h.append(t) or t
            )
        parts.append(handed)
    totals = iter([sum(tensors[1:], start=tensors[0]) for tensors in zip(*parts, strict=True)])
    joined = evaluate(model, rows, max_length=4, batch_size=10, shard=(1, 3), sum_over=lambda _: next(totals))
    alone = evaluate(model, rows, max_length=4, batch_size=10)
    assert joined.rows.equals(alone.rows)
    assert joined.beyond == alone.beyond


def test_summary(model: MeanOfHistory, rows: Rows) -> None:
    counts = count_items(rows, 50)
    counts[rows.targets()[:9]] = 0
    result = evaluate(model, rows, max_length=4, metrics=METRICS, training_counts=counts)
    summary = result.summary()
    assert summary["n_rows"] == 101
    assert summary["cutoffs"] == [5, 20]
    assert summary["interval"] == {
        "level": 0.95,
        "method": "percentile bootstrap",
        "resamples": 2000,
        "unit": "user",
    }
    for name in METRICS:
        values = result.rows[name].to_numpy()
        interval = summary["metrics"][name]
        assert interval["mean"] == pytest.approx(values.mean())
        assert interval["low"] < interval["mean"] < interval["high"]
        assert interval["high"] - interval["low"] == pytest.approx(4 * values.std() / math.sqrt(101), rel=0.4)
    warm, filled = counts[rows.targets()] > 0, rows.position > 0
    assert 0 < filled.sum() < 101
    assert summary["groups"]["history>0"]["n_rows"] == filled.sum()
    assert summary["groups"]["warm target"]["n_rows"] == warm.sum()
    recall = result.rows["rank"].to_numpy() <= 5
    assert summary["groups"]["history>0"]["metrics"]["recall@5"] == pytest.approx(recall[filled].mean())
    assert summary["groups"]["warm target"]["metrics"]["recall@5"] == pytest.approx(recall[warm].mean())
    both = summary["groups"]["history>0, warm target"]
    assert 0 < both["n_rows"] == (warm & filled).sum() < min(warm.sum(), filled.sum())
    assert both["metrics"]["recall@5"] == pytest.approx(recall[warm & filled].mean())
    json.dumps(summary, allow_nan=False)


def test_one_row_per_user_is_resampled_by_row_and_groups_that_leave_nothing_out_are_left_out() -> None:
    lists = [[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 3, 2]]
    result = evaluate(MeanOfHistory(3), Rows.last_items(Sequences.from_lists(lists)), max_length=2, metrics=["hr@1"])
    summary = result.summary()
    assert summary["interval"]["unit"] == "row"
    assert summary["groups"] == {}
    assert list(summary["metrics"]) == ["recall@1"]


def test_written_and_read_back(model: MeanOfHistory, rows: Rows, tmp_path: Path) -> None:
    result = evaluate(model, rows, max_length=4, training_counts=count_items(rows, 50))
    result.write(tmp_path, "test")
    record = json.loads((tmp_path / "evaluation" / "test.json").read_text())
    assert record == {"part": "test", **result.summary()}
    table = pl.read_parquet(tmp_path / "evaluation" / "test.parquet")
    assert table.columns[:5] == ["user", "target", "history_length", "rank", "recall@5"]
    assert table.columns[-2:] == ["rank_if_masked", "target_count"]
    assert table.schema["rank"] == pl.Int64
    back = Evaluation.read(tmp_path, "test")
    assert back.rows.equals(result.rows)
    assert back.means() == result.means()
    assert back.beyond == result.beyond


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no evaluation of part 'test'"):
        read_rows(tmp_path, "test")
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "test.parquet").write_bytes(b"not parquet")
    with pytest.raises(CheckpointError, match=r"test\.parquet cannot be read"):
        read_rows(tmp_path, "test")
    pl.DataFrame({"rank": [1]}).write_parquet(folder / "test.parquet")
    with pytest.raises(CheckpointError, match=r"test\.json cannot be read"):
        Evaluation.read(tmp_path, "test")


def test_beyond_accuracy_by_hand() -> None:
    listed = np.array([0, 6, 2, 0, 0])  # items 1..4
    counts = np.array([0, 8, 4, 4, 0])
    beyond = beyond_accuracy(listed, 2, counts)
    assert beyond["coverage@2"] == 0.5
    assert beyond["novelty@2"] == pytest.approx((6 * 1 + 2 * 2) / 8)  # p = 1/2 and 1/4
    assert beyond["popularity@2"] == pytest.approx((6 * 3.5 / 4 + 2 * 2.0 / 4) / 8)  # places 4, {2, 3}, {2, 3}, 1
    assert beyond_accuracy(listed, 2) == {"coverage@2": 0.5}


def test_beyond_accuracy_of_even_lists() -> None:
    even = beyond_accuracy(np.ones(101, dtype=np.int64), 10, np.random.default_rng(0).integers(0, 9, size=101))
    assert even["coverage@10"] == 1
    assert even["popularity@10"] == pytest.approx(0.5)
    flat = beyond_accuracy(np.arange(101), 10, np.full(101, 3))
    assert flat["novelty@10"] == pytest.approx(math.log2(100))
    never = beyond_accuracy(np.array([0, 1, 0]), 1, np.array([0, 0, 7]))
    assert never["novelty@1"] == pytest.approx(math.log2(7))  # as an item with a single event


def test_coverage_counts_items_in_lists() -> None:
    """A model with one list for all covers exactly k items; places that nothing can fill do not count."""

    class Same(Table):
        def scores(self, query: Query, noise: Noise) -> Tensor:
            return self.table.expand(len(query), -1)

    model = Same(torch.arange(51.0)[None])
    rows = Rows.last_items(Sequences.from_lists([[1, 2], [2, 3], [3, 4]]))
    assert evaluate(model, rows, max_length=2, metrics=["recall@10"]).beyond == {"coverage@10": 10 / 50}
    candidates = np.array([[7, 0], [7, 0], [9, 0]])
    few = evaluate(model, rows, max_length=2, metrics=["recall@10"], candidates=candidates)
    assert few.beyond == {"coverage@10": 2 / 50}


def test_training_counts_are_events_not_rows() -> None:
    sequences = Sequences.from_lists([[1, 2, 2, 3], [3, 4], [5, 5]])
    rows = Rows(sequences, np.array([0, 0, 1]), np.array([1, 2, 1]))  # the last item of sequence 0 is held out
    assert count_items(rows, 6).tolist() == [0, 1, 2, 1, 1, 0, 0]


def test_errors_name_the_place(model: MeanOfHistory, rows: Rows) -> None:
    nothing = Rows(rows.sequences, rows.sequence[:0], rows.position[:0])
    with pytest.raises(DataError, match="no rows to evaluate"):
        evaluate(model, nothing, max_length=4)
    with pytest.raises(ConfigError, match="Did you mean 'recall'"):
        evaluate(model, rows, max_length=4, metrics=["recal@5"])
    with pytest.raises(DataError, match=r"candidates must have shape \(101, C\).*found \(3, 2\)"):
        evaluate(model, rows, max_length=4, candidates=np.ones((3, 2), dtype=np.int64))
    with pytest.raises(DataError, match=r"training_counts must have shape \(51,\); found \(50,\)"):
        evaluate(model, rows, max_length=4, training_counts=np.ones(50, dtype=np.int64))
    small = Rows.last_items(Sequences.from_lists([[1, 2], [3, 21]]))
    with pytest.raises(DataError, match=r"target of row 1 is item 21; items are 1\.\.20"):
        evaluate(MeanOfHistory(20), small, max_length=1)


def test_a_bad_score_names_the_row_of_the_split(rows: Rows) -> None:
    class BreaksAtRow37(MeanOfHistory):
        def user_vectors(self, query: Query, noise: Noise) -> Tensor:
            vectors = super().user_vectors(query, noise)
            vectors[query.key == int(rows.keys()[37])] = torch.nan
            return vectors

    message = rf"Evaluation row 37 \(user {rows.users()[37]}\): Row 7 of the query .* scores item 1 with nan"
    with pytest.raises(ScoreError, match=message):
        evaluate(BreaksAtRow37(50), rows, max_length=4, batch_size=10)

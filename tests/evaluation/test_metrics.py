from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest

from guiderec.errors import ConfigError
from guiderec.evaluation.metrics import Metric, parse_metric, parse_metrics

CUTOFFS = (1, 3, 5, 10, 37)


def test_values_by_hand() -> None:
    ranks = np.array([1, 2, 3, 5, 6])
    assert Metric("recall", 5)(ranks).tolist() == [1, 1, 1, 1, 0]
    assert Metric("ndcg", 5)(ranks).tolist() == pytest.approx([1, 1 / math.log2(3), 0.5, 1 / math.log2(6), 0])
    assert Metric("mrr", 5)(ranks).tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 5, 0])


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("recall", ir_measures.R), ("hr", ir_measures.Success), ("ndcg", ir_measures.nDCG), ("mrr", ir_measures.RR)],
)
def test_agrees_with_ir_measures(name: str, theirs: ir_measures.measures.Measure) -> None:
    """Against trec_eval: its numbers come from scored lists with the relevant document at a known rank."""
    n_items = 50
    ranks = np.random.default_rng(0).integers(1, n_items + 1, size=40)
    qrels = [ir_measures.Qrel(str(q), "target", 1) for q in range(len(ranks))]
    run = []
    for q, rank in enumerate(ranks):
        documents = [f"d{i}" for i in range(n_items - 1)]
        documents.insert(rank - 1, "target")
        run += [ir_measures.ScoredDoc(str(q), document, -float(place)) for place, document in enumerate(documents)]
    for k in CUTOFFS:
        expected = {m.query_id: m.value for m in ir_measures.iter_calc([theirs @ k], qrels, run)}
        found = parse_metric(f"{name}@{k}")(ranks)
        assert found.tolist() == pytest.approx([expected[str(q)] for q in range(len(ranks))], abs=1e-6)


def test_hr_is_recall_and_names_are_read_loosely() -> None:
    assert [m.name for m in parse_metrics(["HR@5", "recall@5", " NDCG@10 "])] == ["recall@5", "ndcg@10"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recal@5", "'recal@5' is not a metric. Did you mean 'recall'?"),
        ("recall", "needs a cutoff of at least 1"),
        ("recall@0", "needs a cutoff of at least 1"),
        ("recall@-1", "needs a cutoff of at least 1"),
        ("ndcg@ten", "needs a cutoff of at least 1"),
        ("ndcg@²", "needs a cutoff of at least 1"),
        ("recall@10001", "has a cutoff beyond 10,000"),
        ("recall@" + "9" * 5_000, "has a cutoff beyond 10,000"),
    ],
)
def test_bad_names(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        parse_metrics([text])


def test_no_metric_at_all() -> None:
    with pytest.raises(ConfigError, match="no metric"):
        parse_metrics([])

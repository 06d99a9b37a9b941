"""The table of kinds of rows: what a reader of the session protocol needs beside the mean over all rows."""

from __future__ import annotations

import json
from pathlib import Path

from guiderec.report import runs, tables

from .conftest import MakeRun


def with_groups(path: Path, groups: dict[str, dict[str, object]]) -> Path:
    file = path / "evaluation" / "test.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "groups": groups}))
    return path


def test_rows_with_a_history_and_a_known_target_stand_beside_all_rows(make_run: MakeRun) -> None:
    metrics = {"recall@5": 0.125, "ndcg@5": 0.0625}
    groups = {
        "history>0": {"n_rows": 300, "metrics": metrics},
        "warm target": {"n_rows": 133, "metrics": {"recall@5": 0.25}},
        "history>0, warm target": {"n_rows": 100, "metrics": {"recall@5": 0.5}},
    }
    run = runs.read(with_groups(make_run("a"), groups))
    (table,) = tables.groups([run])
    assert table.columns[:5] == ("Run", "Rows", "Number", "Recall@5", "NDCG@5")
    whole = run.evaluations["test"].metrics["recall@5"]["mean"]
    shown = [(row[1].text, row[2].text, row[2].detail, row[3].text, row[4].text) for row in table.rows]
    assert shown == [
        ("all", "400", "100.0%", f"{whole:.4f}", f"{run.evaluations['test'].metrics['ndcg@5']['mean']:.4f}"),
        ("with a history", "300", "75.0%", "0.1250", "0.0625"),
        ("target in training", "133", "33.2%", "0.2500", "–"),
        ("with both", "100", "25.0%", "0.5000", "–"),
    ]
    assert table.note.startswith("Training shows the targets of 33.2% of the rows.")


def test_among_candidates_the_share_of_known_targets_is_no_bound(make_run: MakeRun) -> None:
    """Of two candidates, chance finds half: a recall far above the share of known targets was called impossible."""
    path = make_run("a")
    file = path / "evaluation" / "test.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "catalogue": "candidates"}))
    run = with_groups(path, {"warm target": {"n_rows": 40, "metrics": {"recall@5": 0.25}}})
    (table,) = tables.groups([runs.read(run)])
    assert table.note.startswith("Training shows the targets of 10.0% of the rows. This is no bound on recall here")
    assert "cannot be much above" not in table.note


def test_without_cold_targets_nothing_is_said_about_a_bound(make_run: MakeRun) -> None:
    run = with_groups(make_run("a"), {"history>0": {"n_rows": 10, "metrics": {"recall@5": 0.1}}})
    (table,) = tables.groups([runs.read(run)])
    assert [row[1].text for row in table.rows] == ["all", "with a history"]
    assert table.note == ""


def test_where_every_row_has_both_there_is_no_table(make_run: MakeRun) -> None:
    assert tables.groups([runs.read(with_groups(make_run("a"), {}))]) == []

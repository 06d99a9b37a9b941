from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from guiderec.errors import CheckpointError
from guiderec.report.runs import labels, read

from .conftest import MakeRun


def test_a_run_reads_as_it_was_written(make_run: MakeRun) -> None:
    path = make_run(seed=3, epochs=4)
    run = read(path)
    assert (run.name, run.seed, run.metric) == ("steerrec:demo", 3, "recall@5")
    assert [event["epoch"] for event in run.events("validation")] == [1, 2, 3, 4]
    on_disk = json.loads((path / "evaluation" / "test.json").read_text())
    assert run.evaluations["test"].metrics == on_disk["metrics"]
    assert run.evaluations["test"].ranks.tolist() == pl.read_parquet(path / "evaluation/test.parquet")["rank"].to_list()


def test_a_line_cut_off_by_a_kill_is_left_out_but_other_damage_is_named(make_run: MakeRun) -> None:
    log = make_run(epochs=2) / "log.jsonl"
    whole = read(log.parent).log
    log.write_text(log.read_text() + '{"event": "ste')
    assert read(log.parent).log == whole

    lines = log.read_text().split("\n")
    log.write_text("\n".join([lines[0], "{broken", *lines[2:]]))
    with pytest.raises(CheckpointError, match=r"log\.jsonl: line 2 is not readable as JSON"):
        read(log.parent)


def test_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent is not a run directory: the directory does not exist"):
        read(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"there is no experiment\.json in it. Hint: .*guiderec train"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("data.json", None, r"data\.json is missing"),
        ("experiment.json", "{", r"experiment\.json: not readable as JSON"),
        ("environment.json", "[1]", "expected a JSON object, found list"),
        ("evaluation/test.json", '{"metrics": {"recall@5": {"mean": 1}}}', "its mean, low and high"),
        ("experiment.json", "[" * 100_000, r"experiment\.json: not readable as JSON"),
        ("experiment.json", '{"model": 5}', r"experiment\.json: 'model' must be an object, found int"),
        ("data.json", '{"protocol": "x"}', r"data\.json: 'protocol' must be an object, found str"),
        ("evaluation/test.json", '{"metrics": {}}', "'metrics' names no metric"),
        ("log.jsonl", "5\n", r"log\.jsonl: line 1 is not an event, but int"),
        ("evaluation/test.json", '{"metrics": {"recall@5": 1}}', "its mean, low and high"),
        ("evaluation/test.json", '{"metrics": {"recall@5": {"mean": "x", "low": 0, "high": 1}}}', "its mean, low and"),
        ("distribution/test.json", '{"n_rows": 1, "mmd2": "x", "p": 1, "median_distance": 1}', "'mmd2' must be a"),
        ("evaluation/test.json", '{"metrics": {}, "otherwise": {"seen": "mask"}}', r"'otherwise\.metrics' must map"),
    ],
)
def test_damaged_records_are_named(make_run: MakeRun, file: str, content: str | None, message: str) -> None:
    run = make_run()
    (run / file).parent.mkdir(exist_ok=True)
    (run / file).unlink() if content is None else (run / file).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read(run)


def test_vectors_read_as_they_were_written(make_run: MakeRun) -> None:
    run = make_run(mmd2=0.25, n_rows=12)
    found = read(run).distributions["test"]
    assert found.record["mmd2"] == 0.25
    assert {name: value.shape for name, value in found.vectors.items()} == {
        "generated": (12, 6),
        "items": (31, 6),
        "target": (12,),
        "user": (12,),
        "key": (12,),
    }
    assert found.vectors["target"].dtype.kind == "i"
    assert read(make_run("without")).distributions == {}


def test_damaged_vectors_are_named(make_run: MakeRun) -> None:
    folder = make_run(mmd2=0.25, n_rows=12) / "distribution"
    save_file({"generated": np.zeros((2, 2), dtype=np.float32)}, folder / "test.safetensors")
    with pytest.raises(CheckpointError, match=r"test\.safetensors: has no items, target, user, key"):
        _ = read(folder.parent).distributions["test"].vectors
    (folder / "test.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=r"test\.safetensors: not readable as safetensors"):
        _ = read(folder.parent).distributions["test"].vectors
    (folder / "test.safetensors").unlink()  # removed to save room: the record stays
    assert read(folder.parent).distributions["test"].vectors == {}
    (folder / "test.json").write_text('{"mmd2": 1}')
    with pytest.raises(CheckpointError, match=r"distribution.test\.json: has no n_rows, p, median_distance"):
        read(folder.parent)


def test_rows_that_are_not_parquet_are_an_error_and_not_a_crash(make_run: MakeRun) -> None:
    run = make_run()
    (run / "evaluation/test.parquet").write_bytes(b"no parquet")
    with pytest.raises(CheckpointError, match=r"test\.parquet: not readable as Parquet"):
        _ = read(run).evaluations["test"].ranks


def test_labels_add_only_what_tells_runs_apart(make_run: MakeRun) -> None:
    runs = [read(make_run("a", model="sasrec")), read(make_run("b", seed=0)), read(make_run("c", seed=1))]
    assert labels(runs) == ["sasrec:demo", "steerrec:demo (seed 0)", "steerrec:demo (seed 1)"]
    twin = read(make_run("d", seed=1))
    names = labels([*runs, twin])
    assert len(set(names)) == 4
    assert names[3] == f"steerrec:demo (seed 1) ({twin.path})"

"""`guiderec tune`: what it prints, and that what it prints can be typed."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import polars as pl
import pytest

from guiderec.tuning import search as searches

from .conftest import Cli

SMALL = ["--set", "model.dim=8", "--set", "training.epochs=1", "--set", "training.batch_size=32"]
GRID = ["--search", "model.dropout=0,0.3", "--search", "model.layers=1,2", "--method", "grid"]


def test_a_recipe_is_searched_and_the_best_is_tested(cli: Cli, split: Path, tmp_path: Path) -> None:
    command = ["tune", "sasrec:demo", "--data", split, *SMALL, *GRID, "--out", tmp_path / "search"]
    done = cli(*command)
    assert done.status == 0, done.err
    trials = pl.read_csv(tmp_path / "search" / "trials.csv")
    best = int(trials["value"].arg_max() or 0)
    lines = [line for line in done.err.splitlines() if line.startswith("Trial ")]
    assert lines[3] == f"Trial 3: model.dropout=0.3, model.layers=2: {trials['value'][3]:.4f}"
    assert len(lines) == 4
    dropout, layers = trials["model.dropout"][best], trials["model.layers"][best]
    assert f"Best: trial {best}, --set model.dropout={dropout:g} --set model.layers={layers}" in done.out
    assert "dropout" in done.out
    assert "model.dropout  " not in done.out  # the head of the column is short

    (evaluate,) = (line for line in done.out.splitlines() if line.startswith("  guiderec evaluate"))
    tested = cli(*shlex.split(evaluate)[1:], "--json")
    assert tested.status == 0, tested.err
    assert tested.json["part"] == "test"

    again = cli(*command)
    assert again.status == 2
    assert "already holds a search" in again.err
    resumed = cli(*command, "--resume", "--json")
    assert resumed.json["best"]["number"] == best
    assert [trial["value"] for trial in resumed.json["trials"]] == trials["value"].to_list()
    assert resumed.err == ""


def test_the_guidance_of_a_run_is_searched_and_the_run_is_left_alone(
    cli: Cli, split: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["steerrec"], run)
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    done = cli("tune", run, "--data", split, "--search", "model.guidance.scale=0:4", "--trials", 3,
               "--set", "model.guidance.name=cfg", "--method", "random", "--metric", "hr@5",
               "--out", tmp_path / "search")  # fmt: skip
    assert done.status == 0, done.err
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before
    assert "Validation Recall@5" in done.out
    (evaluate,) = (line for line in done.out.splitlines() if line.startswith("  guiderec evaluate"))
    tested = cli(*shlex.split(evaluate)[1:], "--json")
    assert tested.status == 0, tested.err
    best = max((json.loads(path.read_text()) for path in (tmp_path / "search" / "trials").iterdir()),
               key=lambda trial: (trial["value"], -trial["number"]))  # fmt: skip
    assert tested.json["overrides"]["model.guidance.name"] == "cfg"
    assert float(tested.json["overrides"]["model.guidance.scale"]) == best["options"]["model.guidance.scale"]
    assert tested.json["part"] == "test"


def test_repeated_and_failed_trials_are_counted(cli: Cli, split: Path, tmp_path: Path) -> None:
    done = cli("tune", "sasrec:demo", "--data", split, *SMALL, "--search", "training.learning_rate=0.001,1e30",
               "--trials", 5, "--method", "random", "--out", tmp_path / "search")  # fmt: skip
    assert done.status == 0, done.err
    assert "5 trials, 3 of them the same again, 1 failed." in " ".join(done.out.split())
    assert "as trial " in done.err
    assert "failed: " in done.err


def test_a_search_that_is_interrupted_says_how_to_go_on(
    cli: Cli, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(searches, "train", interrupted)
    done = cli("tune", "sasrec:demo", "--data", split, *GRID, "--out", tmp_path / "search")
    assert done.status == 130
    assert f"--resume --out {tmp_path / 'search'} goes on" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sasrec:dmeo", *GRID], "Did you mean 'sasrec:demo'"),
        (["sasrec:demo", "--search", "model.dropout=0.1"], "Fewer than two values"),
        (["sasrec:demo", *GRID, "--trials", 9], "The grid has 4 combinations"),
        (["sasrec:demo", *GRID, "--metric", "recal@5"], "recal"),
    ],
)
def test_what_cannot_be_searched_is_said_on_one_line(
    cli: Cli, split: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = cli("tune", *arguments, "--data", split, "--out", tmp_path / "search")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert message in done.err
    assert not (tmp_path / "search").exists()

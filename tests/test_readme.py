"""The README is true: its Python runs, and its commands are run one after the other on a small log."""

from __future__ import annotations

from pathlib import Path

import pytest

from documents import ROOT, commands, run_python
from guiderec.cli.main import main
from guiderec.data import synthetic

README = ROOT / "README.md"


def test_python_blocks(capsys: pytest.CaptureFixture[str]):
    names = run_python(README)
    best, other = names["best"], names["other"]
    assert len(best) == len(other) == 5  # type: ignore[arg-type]
    assert best["item_id"][0] not in other["item_id"].to_list()  # type: ignore[index]
    assert "item_id" in capsys.readouterr().out


@pytest.mark.parametrize("page", [README, ROOT / "docs/tutorial.md"], ids=lambda page: page.name)
def test_commands(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """In the order of the page; `make` is what continuous integration runs."""
    monkeypatch.chdir(tmp_path)
    shop = synthetic.make(n_items=300, n_users=500, seed=0)
    shop.log.write_csv("log.csv")
    shop.dataset.vocabulary.table.write_parquet("items.parquet")  # type: ignore[union-attr]
    run = [command for command in commands(page) if command[0] == "guiderec" and command[1] != "serve"]  # never returns
    assert {command[1] for command in run} == {"data", "doctor", "train", "evaluate", "compare", "recommend", "report"}
    for command in run:
        assert main(command[1:]) == 0, f"{' '.join(command)}: {capfd.readouterr().err}"
        if command[1] == "recommend":
            assert "steered" in capfd.readouterr().out
    assert (tmp_path / "runs/mine/report/index.html").is_file()


def test_the_commands_of_make_are_those_of_continuous_integration():
    wanted = {command[1] for command in commands(README) if command[0] == "make"}
    assert wanted == {"demo", "test"}
    integration = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert {f"make {target}" for target in wanted} <= set(integration)

"""The flags of `guiderec serve`, and the demo that it trains once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from guiderec import api
from guiderec.cli import serve as command
from guiderec.cli.main import app
from guiderec.data import prepared, synthetic
from guiderec.data.dataset import Vocabulary
from guiderec.errors import CheckpointError
from guiderec.recipes import run as runs
from guiderec.serving.loaded import open_model
from guiderec.serving.people import People

FLAGS = {
    "run",
    "--data",
    "--host",
    "--port",
    "--database",
    "--models",
    "--max-queue",
    "--max-batch",
    "--index",
    "--demo",
}
"""Everything that scripts may rely on; a change here is a change for users and belongs in the changelog."""


def test_the_flags_are_these():
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    found = {
        next((flag for flag in parameter.opts if flag.startswith("--")), parameter.name) for parameter in serve.params
    }
    assert found - {"--help"} == FLAGS
    assert all(parameter.help for parameter in serve.params if parameter.name != "help")


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller shop and one epoch."""
    shop, real = synthetic.make(n_items=200, n_users=200, seed=0), api.configure

    def configure(recipe: str, overrides: dict[str, Any] | None = None, seed: int | None = None) -> Any:
        return real(recipe, {**(overrides or {}), "training.epochs": 1}, seed)

    monkeypatch.setattr(synthetic, "make", lambda **_: shop)
    monkeypatch.setattr(api, "configure", configure)


def test_the_demo_is_trained_once_and_has_people(tmp_path: Path, short_training: None, monkeypatch: pytest.MonkeyPatch):
    run, data = command.prepare_demo(tmp_path / "demo")
    assert len(People.of(prepared.load(data))) == 200
    assert open_model(run).model.honours.dislikes == "steered"

    def train(*_: Any, **__: Any) -> Any:
        raise AssertionError("trained twice")

    monkeypatch.setattr(runs, "train", train)
    assert command.prepare_demo(tmp_path / "demo") == (run, data)


def test_an_interrupted_demo_is_taken_up_and_a_foreign_one_refused(tmp_path: Path, short_training: None):
    run, _ = command.prepare_demo(tmp_path / "demo")
    for file in (run / "model").iterdir():
        file.unlink()
    (run / "model").rmdir()
    assert command.prepare_demo(tmp_path / "demo")[0] == run
    assert (run / "model" / "model.json").exists()
    (run / "model" / "model.json").unlink()
    (run / "experiment.json").write_text((run / "experiment.json").read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(CheckpointError, match=f"The demo cannot go on: .* Hint: remove {tmp_path / 'demo'}"):
        command.prepare_demo(tmp_path / "demo")


def test_histories_of_another_split_are_remarked_on(
    tmp_path: Path, short_training: None, capsys: pytest.CaptureFixture[str]
):
    run, data = command.prepare_demo(tmp_path / "demo")
    known = open_model(run).catalogue.vocabulary
    capsys.readouterr()
    assert len(command._people(data, run, known)) == 200
    assert capsys.readouterr().err == ""
    other = prepared.resplit_users(prepared.load(data), seed=5, max_items=None)
    prepared.save(other, tmp_path / "other")
    command._people(tmp_path / "other", run, known)
    assert capsys.readouterr().err == (
        f"note: {run} was trained on another split than {other.name}. The model does not know 0 of its 200 items.\n"
    )
    fewer = Vocabulary(other.vocabulary.raw[:150])
    assert "does not know 50 of its 200 items, such as" in str(command._difference(run, other, fewer))
    assert f"{run / 'model'} does not name its split" in str(command._difference(run / "model", other, fewer))
    assert command._difference(run / "model", other, known) is None

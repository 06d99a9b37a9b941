"""A tiny prepared split in which item j + 1 follows item j, and two evaluated runs on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

from guiderec.cli.main import main
from guiderec.data import prepared
from guiderec.data.dataset import Vocabulary
from guiderec.data.protocols import UserSplit
from guiderec.data.sequences import Sequences

ITEMS = 30


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        (line,) = self.out.splitlines()
        found = json.loads(line)
        assert isinstance(found, dict)
        return found


Cli = Callable[..., Done]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run `guiderec` with these arguments through `main`, as the installed command does."""

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        return Done(status, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    lists = [[(start + step) % ITEMS + 1 for step in range(6)] for start in random.integers(0, ITEMS, 120)]
    raw = tuple(f"i{j:02d}" for j in range(1, ITEMS + 1))
    table = pl.DataFrame({"item": raw, "name": [f"Thing {j}" for j in range(1, ITEMS + 1)]})
    sequences = Sequences.from_lists(lists)
    dataset = UserSplit(seed=0).dataset(sequences, Vocabulary(raw, table), name="cycle/user-split")
    folder = tmp_path_factory.mktemp("data") / "cycle"
    prepared.save(dataset, folder)
    return folder


@pytest.fixture(scope="session")
def runs(split: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trained and evaluated: popularity, and SteerRec with its own guidance."""
    folder = tmp_path_factory.mktemp("runs")
    small = ["--set", "model.dim=16", "--set", "training.epochs=2", "--set", "training.batch_size=32"]
    found = {}
    for recipe, options in (("popularity:default", []), ("steerrec:demo", small)):
        run = folder / recipe.partition(":")[0]
        assert main(["train", recipe, "--data", str(split), "--out", str(run), "--json", *options]) == 0
        assert main(["evaluate", str(run), "--data", str(split), "--json"]) == 0
        found[run.name] = run
    return found

"""`configure`, `fit` and `load`: a model from two lines, and misuse that ends in an error of this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from polars.testing import assert_frame_equal

import guiderec
from guiderec import CheckpointError, ConfigError, DataError, Dataset, Experiment, GuideRecError, UserSplit, Vocabulary
from guiderec.data.sequences import Sequences
from guiderec.recipes import run as runs
from guiderec.training.record import collect

ITEMS = 12
SMALL: dict[str, Any] = {
    "model.dim": 8,
    "model.schedule.steps": 20,
    "model.generation.steps": 4,
    "training.epochs": 1,
    "training.batch_size": 16,
}


def make(step: int = 1) -> Dataset:
    """60 walks around a cycle of items: item j is followed by j + step."""
    lists = [[(start + step * place) % ITEMS + 1 for place in range(5)] for start in range(60)]
    raw = tuple(f"i{j:02d}" for j in range(1, ITEMS + 1))
    return UserSplit(seed=0).dataset(Sequences.from_lists(lists), Vocabulary(raw), name="cycle")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return make()


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    guiderec.fit("steerrec:demo", dataset, overrides=SMALL, seed=3, out=folder, progress=False)
    return folder


def test_a_kept_run_and_a_forgotten_one_give_one_model(dataset: Dataset, run: Path):
    forgotten = guiderec.fit("steerrec:demo", dataset, overrides=SMALL, seed=3, progress=False)
    kept = guiderec.Model.from_pretrained(run)
    histories, dislikes = [["i01", "i02"], ["i07"]], [["i05"], []]
    expected = kept.recommend(histories, k=5, dislikes=dislikes)
    assert_frame_equal(forgotten.recommend(histories, k=5, dislikes=dislikes), expected, check_exact=True)
    other = guiderec.fit("steerrec:demo", dataset, overrides=SMALL, seed=4, progress=False)
    assert other.recommend(histories, k=5)["score"].to_list() != kept.recommend(histories, k=5)["score"].to_list()


def test_the_run_says_what_was_carried_out(run: Path):
    stored = Experiment.from_plain(json.loads((run / "experiment.json").read_text()))
    assert stored == guiderec.configure("steerrec:demo", SMALL, seed=3)
    assert (stored.recipe, stored.seed, stored.model.dim) == ("steerrec:demo", 3, 8)


def test_an_experiment_stands_for_its_recipe():
    experiment = guiderec.recipe("steerrec:demo")
    assert guiderec.configure(experiment) == experiment
    assert guiderec.configure(experiment, {"seed": 5}) == guiderec.configure("steerrec:demo", seed=5)


def test_a_run_is_not_overwritten(dataset: Dataset, run: Path):
    before = (run / "experiment.json").read_bytes()
    with pytest.raises(CheckpointError, match="already holds a run"):
        guiderec.fit("steerrec:demo", dataset, overrides=SMALL, out=run, progress=False)
    assert (run / "experiment.json").read_bytes() == before


def test_a_run_goes_on_with_its_own_data_and_options_alone(dataset: Dataset, run: Path):
    experiment = guiderec.configure("steerrec:demo", SMALL, seed=3)
    with pytest.raises(CheckpointError, match=r"was trained on the split \w+, got cycle, split \w+"):
        runs.train(experiment, make(step=5), run, resume=True, progress=False)
    with pytest.raises(CheckpointError, match="was trained on the split"):
        runs.evaluate(run, make(step=5))
    with pytest.raises(CheckpointError, match="holds another experiment"):
        runs.train(experiment.replace(seed=4), dataset, run, resume=True, progress=False)
    assert runs.train(experiment, dataset, run, resume=True, progress=False).epochs == 1


def test_fit_goes_on_with_a_run(dataset: Dataset, tmp_path: Path):
    run = tmp_path / "run"
    for steps in (2, 4):
        options = {**SMALL, "training.max_steps": steps}
        guiderec.fit("steerrec:demo", dataset, overrides=options, out=run, resume=True, progress=False)
    assert collect(run)["training"]["steps"] == 4
    with pytest.raises(ConfigError, match="resume=True needs the directory of a run"):
        guiderec.fit("steerrec:demo", dataset, resume=True)


def test_options_that_do_not_fit_leave_no_run_behind(dataset: Dataset, tmp_path: Path):
    with pytest.raises(ConfigError, match="heads must divide dim, got heads = 3 and dim = 8"):
        guiderec.fit("steerrec:demo", dataset, overrides={**SMALL, "model.heads": 3}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["{", '{"fingerprint": 5}', "{}", "[]"])
def test_a_run_whose_data_is_unknown(damage: str, dataset: Dataset, tmp_path: Path, run: Path):
    (tmp_path / "experiment.json").write_bytes((run / "experiment.json").read_bytes())
    (tmp_path / "data.json").write_text(damage)
    with pytest.raises(CheckpointError, match=r"data\.json"):
        runs.evaluate(tmp_path, dataset)


MISUSE: dict[str, tuple[dict[str, Any], type[GuideRecError], str]] = {
    "recipe": ({"recipe": "steerrec:beuty"}, ConfigError, "Did you mean 'steerrec:beauty'"),
    "no recipe": ({"recipe": None}, ConfigError, "Expected a recipe's name or an Experiment, got None"),
    "model": ({"recipe": {"model": "steerrec"}}, ConfigError, "Expected a recipe's name or an Experiment"),
    "option": ({"overrides": {"model.dimm": 8}}, ConfigError, "'model': .*'dimm' is not an option. Did you mean 'dim'"),
    "value": ({"overrides": {"model.dim": "wide"}}, ConfigError, "'model': .*'dim' = 'wide'"),
    "range": ({"overrides": {"model.dim": -2}}, ConfigError, "'model': .*'dim' = -2"),
    "list": ({"overrides": ["model.dim=8"]}, ConfigError, "Expected overrides as a mapping"),
    "two problems": (
        {"overrides": {"model.dim": -2, "training.epochs": 0}},
        ConfigError,
        "2 problems.*'training.epochs'",
    ),
    "seed": ({"seed": -1}, ConfigError, "'seed' = -1"),
    "data": ({"data": [["a", "b"]]}, DataError, "Expected a Dataset or the folder of a prepared split, got list"),
    "no data": ({"data": None}, DataError, "got NoneType"),
    "nowhere": ({"data": "no/such/folder"}, DataError, "no/such/folder"),
}


@pytest.mark.parametrize("case", MISUSE.values(), ids=MISUSE)
def test_misuse_is_an_error_of_this_package(
    case: tuple[dict[str, Any], type[GuideRecError], str], dataset: Dataset, tmp_path: Path
):
    options, error, message = case
    with pytest.raises(error, match=message):
        guiderec.fit(**{"recipe": "steerrec:demo", "data": dataset, "out": tmp_path / "run", **options})
    assert not (tmp_path / "run").exists()

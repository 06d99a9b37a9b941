"""Searches over small trainings: what is kept, what is repeated, and what is never looked at."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from guiderec.api import configure, fit, tune
from guiderec.data import synthetic
from guiderec.errors import CheckpointError, ConfigError
from guiderec.files import held
from guiderec.recipes import run as runs
from guiderec.tuning import search as searches
from guiderec.tuning.space import Choice, Space

SMALL = {"model.dim": 8, "training.epochs": 2, "training.batch_size": 64, "training.log_every_steps": 1}
SEARCH = {"model.dropout": "0:0.5", "training.learning_rate": "1e-5:1e-1:log", "model.layers": [1, 2]}


@pytest.fixture(scope="module")
def data():
    return synthetic.make(n_items=300, n_users=600, seed=2).dataset


def tuned(out, data, search=None, **options):
    return tune("sasrec:demo", data, search or SEARCH, out=out, overrides=SMALL, progress=False, **options)


def without_seconds(trials):
    return [trial.replace(seconds=0.0) for trial in trials]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A search of seven trials, two of which came near the same options only by chance."""
    return tuned(tmp_path_factory.mktemp("search") / "whole", data, trials=7, method="random")


def test_each_trial_is_the_training_that_train_makes(whole, data, tmp_path):
    trial = whole.trials[3]
    outcome = runs.train(configure("sasrec:demo", {**SMALL, **trial.options}), data, tmp_path / "run", progress=False)
    assert trial.metrics == outcome.best_metrics
    assert trial.value == outcome.best_metrics["recall@10"]
    assert (trial.epochs, trial.curve["epochs"]) == (2, [1, 2])
    assert max(trial.curve["values"]) == trial.value


def test_the_best_is_the_greatest_and_its_run_can_be_evaluated(whole, data):
    assert whole.best.value == max(trial.value for trial in whole.trials)
    assert len({trial.value for trial in whole.trials}) > 2  # the options matter here
    assert whole.experiment == configure("sasrec:demo", {**SMALL, **whole.best.options})
    run = whole.out / "runs" / f"{whole.best.number:04d}"
    assert runs.evaluate(run, data, "valid")["metrics"]["recall@10"]["mean"] == pytest.approx(
        whole.best.value, abs=1e-12
    )


def test_weights_are_kept_of_the_best_alone(whole):
    kept = {path.parent.name for path in (whole.out / "runs").glob("*/model")}
    assert (
        kept == {f"{whole.best.number:04d}"} == {path.parent.name for path in (whole.out / "runs").glob("*/checkpoint")}
    )
    assert len(list((whole.out / "runs").glob("*/log.jsonl"))) == 7


def test_the_table_has_every_trial(whole):
    table = pl.read_csv(whole.out / "trials.csv")
    assert table["value"].to_list() == [trial.value for trial in whole.trials]
    assert table["model.layers"].to_list() == [trial.options["model.layers"] for trial in whole.trials]


def test_the_part_to_test_is_never_looked_at(whole, data, tmp_path):
    other = replace(data, test=data.valid.take(np.arange(5)))
    assert other.split_sha256 != data.split_sha256
    searched = tuned(tmp_path / "search", other, trials=2, method="random")
    assert without_seconds(searched.trials) == without_seconds(whole.trials[:2])


# ------------------------------------------------------------------------------------------------ stopping and going on


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not(whole, data, tmp_path, monkeypatch):
    trained = runs.fit

    def stop_after(count):
        def told(trial):
            if trial.number == count:
                raise KeyboardInterrupt

        return told

    with pytest.raises(KeyboardInterrupt):  # between two trials
        tuned(tmp_path / "search", data, trials=7, method="random", tell=stop_after(1))

    def die_in_training(model, loader, validate, training, run, **options):
        def validate_and_die(model):
            if run.name == "0003":
                raise KeyboardInterrupt
            return validate(model)

        return trained(model, loader, validate_and_die, training, run, **options)

    monkeypatch.setattr(runs, "fit", die_in_training)
    with pytest.raises(KeyboardInterrupt):  # and within one
        tuned(tmp_path / "search", data, trials=7, method="random", resume=True)
    monkeypatch.setattr(runs, "fit", trained)
    assert len(list((tmp_path / "search" / "trials").iterdir())) == 3

    resumed = tuned(tmp_path / "search", data, trials=7, method="random", resume=True)
    assert without_seconds(resumed.trials) == without_seconds(whole.trials)


def test_trials_can_be_added_and_nothing_else_changed(whole, data, tmp_path):
    shutil.copytree(whole.out, tmp_path / "search")
    more = tuned(tmp_path / "search", data, trials=8, method="random", resume=True)
    assert more.trials[:7] == whole.trials
    assert len(more.trials) == 8
    for changed in ({"method": "tpe"}, {"seed": 1}, {"metric": "ndcg@10"}, {"prune": True}):
        with pytest.raises(CheckpointError, match="is of another search"):
            tuned(tmp_path / "search", data, **{"trials": 8, "method": "random", "resume": True, **changed})
    with pytest.raises(CheckpointError, match=r"another search; plan differs"):
        tuned(tmp_path / "search", data, {"model.dropout": "0:0.5"}, trials=8, method="random", resume=True)
    other = synthetic.make(n_items=300, n_users=600, seed=3).dataset
    with pytest.raises(CheckpointError, match=r"another search; split_sha256 differs"):
        tuned(tmp_path / "search", other, trials=8, method="random", resume=True)


def test_a_search_is_not_overwritten(whole, data, tmp_path):
    with pytest.raises(CheckpointError, match="already holds a search"):
        tuned(whole.out, data, trials=7, method="random")
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(CheckpointError, match="is not empty, and holds no search"):
        tuned(tmp_path, data, trials=7, method="random", resume=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda trials: (trials / "0002.json").write_text("{"), "not valid JSON"),
        (lambda trials: (trials / "0002.json").write_text('{"number": 2}'), "is no trial"),
        (lambda trials: (trials / "0002.json").unlink(), "expected trial 2, found 3"),
        (lambda trials: shutil.copy(trials / "0001.json", trials / "0002.json"), "expected trial 2, found 1"),
        (
            lambda trials: (trials / "0002.json").write_text(
                json.dumps({**json.loads((trials / "0002.json").read_text()), "options": {"model.dropout": 0.1}})
            ),
            "other options than the search",
        ),
        (
            lambda trials: (trials / "0002.json").write_text(
                json.dumps({**json.loads((trials / "0002.json").read_text()), "curve": {"epochs": [1], "values": []}})
            ),
            "is no trial",
        ),
    ],
)
def test_a_damaged_trial_is_named(whole, data, tmp_path, damage, message):
    shutil.copytree(whole.out, tmp_path / "search")
    damage(tmp_path / "search" / "trials")
    with pytest.raises(CheckpointError, match=message):
        tuned(tmp_path / "search", data, trials=9, method="random", resume=True)


# ------------------------------------------------------------------------------------------------ kinds of trials


def test_the_same_options_are_computed_once(data, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(
        searches,
        "train",
        lambda experiment, *rest, **options: trained.append(experiment) or runs.train(experiment, *rest, **options),
    )
    searched = tuned(tmp_path / "search", data, {"model.layers": [1, 2]}, trials=6, method="random")
    assert len(trained) == 2
    for trial in searched.trials:
        first = next(each for each in searched.trials if each.options == trial.options)
        assert (trial.value, trial.metrics) == (first.value, first.metrics)
        assert trial.same_as == (None if trial is first else first.number)
    assert searched.best.same_as is None
    assert (searched.out / "runs" / f"{searched.best.number:04d}" / "model").is_dir()


def test_a_trial_that_cannot_be_trained_fails_alone(data, tmp_path):
    space = {"model.dim": [8, 9], "model.heads": [1, 2], "training.learning_rate": [1e-3, 1e30]}
    searched = tuned(tmp_path / "search", data, space, trials=None, method="grid")
    assert len(searched.trials) == 8
    failed = {tuple(trial.options.values()): trial.message for trial in searched.trials if trial.state == "failed"}
    assert set(failed) >= {(9, 2, 1e-3), (9, 2, 1e30), (8, 1, 1e30)}
    assert "heads = 2 does not divide dim = 9" in failed[9, 2, 1e-3]
    assert "finite" in failed[8, 1, 1e30]
    assert searched.best.options["training.learning_rate"] == 1e-3


def test_where_all_fail_the_first_reason_is_said(data, tmp_path):
    with pytest.raises(ConfigError, match=r"All 2 trials failed\. The first: .*finite"):
        tuned(tmp_path / "search", data, {"training.learning_rate": [1e30, 1e35]}, trials=None, method="grid")


def test_a_training_that_falls_behind_is_given_up(data, tmp_path):
    rates = [1e-2, 9e-3, 8e-3, 7e-3, 6e-3, 1e-9, 1.1e-2]
    space = {"training.learning_rate": rates}
    searched = tuned(tmp_path / "pruned", data, space, trials=None, method="grid", prune=True)
    whole = tuned(tmp_path / "whole", data, space, trials=None, method="grid")
    assert [trial.state for trial in searched.trials[:6]] == ["finished"] * 5 + ["given_up"]
    assert (searched.trials[5].epochs, whole.trials[5].epochs) == (1, 2)
    assert searched.trials[5].value == whole.trials[5].curve["values"][0]
    assert without_seconds(searched.trials[:5]) == without_seconds(whole.trials[:5])
    stop = json.loads((searched.out / "runs" / "0005" / "log.jsonl").read_text().splitlines()[-1])
    assert (stop["event"], stop["reason"]) == ("stop", "given_up")


# ------------------------------------------------------------------------------------------------ options of a run


@pytest.fixture(scope="module")
def steered(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "steerrec"
    fit("steerrec:demo", data, overrides={**SMALL, "training.metric": "recall@10"}, out=run, progress=False)
    return run


def test_options_of_a_run_are_measured_on_its_weights(steered, data, tmp_path):
    before = {path: path.read_bytes() for path in steered.rglob("*") if path.is_file()}
    space = {"model.guidance.scale": [0.0, 1.0, 8.0]}
    fixed = {"model.guidance.name": "cfg"}
    options = {"method": "grid", "trials": None, "metric": "ndcg@5", "overrides": fixed}
    searched = tune(steered, data, space, out=tmp_path / "search", **options)
    assert {path: path.read_bytes() for path in steered.rglob("*") if path.is_file()} == before
    assert (searched.metric, len(searched.trials)) == ("ndcg@5", 3)
    assert not (tmp_path / "search" / "runs").exists()
    for trial in searched.trials:
        options, label = {**fixed, **trial.options}, f"trial-{trial.number}"
        evaluated = runs.evaluate(
            steered, data, "valid", overrides=options, label=label, metrics=("ndcg@5", "recall@10")
        )["metrics"]
        assert trial.value == pytest.approx(evaluated["ndcg@5"]["mean"], abs=1e-12)
        assert trial.metrics["recall@10"] == pytest.approx(evaluated["recall@10"]["mean"], abs=1e-12)
    assert len({trial.value for trial in searched.trials}) > 1
    assert searched.experiment.model.guidance.name == "cfg"
    assert searched.experiment.model.guidance.scale == searched.best.options["model.guidance.scale"]


def test_what_a_run_cannot_change_is_refused(steered, data, tmp_path):
    with pytest.raises(ConfigError, match="the weights are trained"):
        tune(steered, data, {"training.learning_rate": [1e-3, 1e-2]}, out=tmp_path / "a", method="grid", trials=None)
    with pytest.raises(ConfigError, match="weights of a run are trained"):
        tune(steered, data, {"model.guidance.scale": [0.0, 1.0]}, out=tmp_path / "b", prune=True)
    with pytest.raises(ConfigError, match="the weights are trained"):
        tune(steered, data, {"model.guidance.scale": [0.0, 1.0]}, out=tmp_path / "c", overrides={"training.epochs": 9})
    other = synthetic.make(n_items=300, n_users=600, seed=3).dataset
    with pytest.raises(CheckpointError, match="was trained on the split"):
        tune(steered, other, {"model.guidance.scale": [0.0, 1.0]}, out=tmp_path / "d")
    assert not any((tmp_path / name).exists() for name in "abcd")


# ------------------------------------------------------------------------------------------------ what is refused


def test_nothing_is_written_where_the_search_cannot_be(data, tmp_path, monkeypatch):
    out = tmp_path / "search"
    with pytest.raises(ConfigError, match=r"Did you mean 'dropout'"):
        tuned(out, data, {"model.dropuot": [0.1, 0.2]})
    with pytest.raises(ConfigError, match="The grid has 4 combinations, and 20 trials were asked for"):
        tuned(out, data, {"model.layers": [1, 2], "model.dropout": [0.1, 0.2]}, method="grid")
    with pytest.raises(ConfigError, match="needs a number of trials"):
        tuned(out, data, trials=None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="carried out by one process"):
        tuned(out, data)
    assert not out.exists()


def test_the_space_may_be_made_of_parts(data, tmp_path):
    space = Space(options={"model.layers": Choice(values=(1, 2))})
    assert len(tuned(tmp_path / "search", data, space, trials=None, method="grid").trials) == 2


def test_two_searches_do_not_share_a_folder(whole, data, tmp_path):
    shutil.copytree(whole.out, tmp_path / "search")
    with held(tmp_path / "search"), pytest.raises(CheckpointError, match="another process is at work here"):
        tuned(tmp_path / "search", data, trials=8, method="random", resume=True)

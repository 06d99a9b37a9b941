"""Training and evaluating from recipes, on one process and on two."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from guiderec.api import Model, configure
from guiderec.data import prepared, synthetic
from guiderec.data.batch import Query
from guiderec.data.prepared import resplit_users
from guiderec.errors import CheckpointError, ConfigError
from guiderec.evaluation.distribution import mmd
from guiderec.files import held, read_json
from guiderec.recipes import run as runs
from guiderec.rng import Noise
from guiderec.steering.procedure import parse_procedure
from guiderec.training.checkpoint import load_tensors
from guiderec.training.record import collect, read_log

SMALL = {"model.dim": 8, "model.dropout": 0.0, "training.epochs": 1, "training.max_steps": 5}


@pytest.fixture(scope="module")
def data():
    return synthetic.make(n_items=400, n_users=203, seed=1).dataset


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "steerrec"
    runs.train(configure("steerrec:demo", SMALL, 0), data, run, progress=False)
    return run


def test_a_run_refuses_another_split_of_the_same_log(trained, data):
    other = resplit_users(data, seed=5, max_items=None)
    with pytest.raises(CheckpointError, match="was trained on the split"):
        runs.evaluate(trained, other)


def test_a_run_is_not_overwritten(trained, data):
    with pytest.raises(CheckpointError, match="already holds a run"):
        runs.train(configure("steerrec:demo", SMALL, 0), data, trained, progress=False)


def test_evaluation_under_other_options_keeps_the_plain_one(trained, data):
    plain = runs.evaluate(trained, data)
    off = {"model.guidance.scale": 0.0}
    with pytest.raises(ConfigError, match="needs a label"):
        runs.evaluate(trained, data, overrides=off)
    with pytest.raises(ConfigError, match="made of letters"):
        runs.evaluate(trained, data, overrides=off, label="../../elsewhere")
    unguided = runs.evaluate(trained, data, overrides=off, label="unguided")
    assert unguided["overrides"] == off
    assert json.loads((trained / "evaluation/test.json").read_text())["metrics"] == plain["metrics"]
    ranks = [pl.read_parquet(trained / f"evaluation/{name}.parquet")["rank"] for name in ("test", "test-unguided")]
    assert (ranks[0] != ranks[1]).any()


def test_options_that_change_the_weights_are_refused(trained, data):
    with pytest.raises(CheckpointError, match="do not fit"):
        runs.evaluate(trained, data, overrides={"model.dim": 16}, label="wide")
    late = {"training.epochs": 9, "seed": 1, "model.guidance.scale": 0.0}
    with pytest.raises(
        ConfigError, match=r"^seed, training.epochs: the weights are trained, so this can change nothing"
    ):
        runs.evaluate(trained, data, overrides=late, label="longer")


def test_generated_vectors_are_measured_and_kept(trained, data):
    record = runs.distribution(trained, data)
    folder = trained / "distribution"
    assert json.loads((folder / "test.json").read_text()) == record
    tensors = load_tensors(folder / "test.safetensors")
    model = Model.from_pretrained(trained).recommender
    length = runs.read_experiment(trained).max_length
    history, target = data.test.windows(np.arange(len(data.test)), length)
    query = Query(torch.tensor(history), torch.tensor(data.test.keys()))
    with torch.no_grad():
        torch.testing.assert_close(tensors["generated"], model.user_vectors(query, Noise(0))[:, 0])
        assert tensors["items"].equal(model.item_vectors())
    assert tensors["target"].tolist() == target.tolist()
    assert tensors["user"].tolist() == data.test.users().tolist()
    expected = mmd(tensors["generated"], tensors["items"][tensors["target"]], users=data.test.users())
    assert record["mmd2"] == pytest.approx(expected.mmd2)
    assert (record["p"], record["permutations"]) == (expected.p, 999)
    assert (record["n_rows"], record["dim"], record["interests"]) == (len(data.test), 8, 1)
    assert collect(trained)["distribution"]["test"] == record
    assert "test" in runs.evaluate(trained, data)["part"]  # the two kinds of records do not meet


def test_generation_under_other_options_keeps_the_plain_one(measured, data):
    plain = runs.distribution(measured, data, permutations=9)
    off = {"model.guidance.scale": 0.0}
    with pytest.raises(ConfigError, match="needs a label"):
        runs.distribution(measured, data, overrides=off)
    unguided = runs.distribution(measured, data, overrides=off, label="unguided", permutations=9)
    assert unguided["overrides"] == off
    assert unguided["mmd2"] != plain["mmd2"]
    assert json.loads((measured / "distribution/test.json").read_text()) == plain
    assert (measured / "distribution/test-unguided.safetensors").is_file()
    other = resplit_users(data, seed=5, max_items=None)
    with pytest.raises(CheckpointError, match="was trained on the split"):
        runs.distribution(measured, other, permutations=9)


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(data, tmp_path: Path):
    """Under torchrun, `guiderec train` makes the losses of one process, and `guiderec evaluate` its very ranks."""
    prepared.save(data, tmp_path / "split")
    options = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    where = ["--data", str(tmp_path / "split")]

    def guiderec(world: int, *arguments: str) -> None:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
        program = str(Path(sys.executable).parent / "guiderec")
        done = subprocess.run(
            [*launch, "--no-python", program, *arguments, *where], capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr

    losses, ranks, vectors = [], [], []
    for world in (1, 2):
        run = tmp_path / f"run-{world}"
        guiderec(world, "train", "sasrec:demo", *options, "--out", str(run))
        events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        losses.append([event["loss"] for event in events if event["event"] == "step"])
        guiderec(world, "evaluate", str(tmp_path / "run-1"))
        ranks.append(pl.read_parquet(tmp_path / "run-1/evaluation/test.parquet")["rank"].to_list())
        guiderec(world, "distribution", str(tmp_path / "run-1"))
        vectors.append(load_tensors(tmp_path / "run-1/distribution/test.safetensors")["generated"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(ranks[0]) == len(data.test)
    assert ranks[0] == ranks[1]
    assert vectors[0].equal(vectors[1])


def test_windows_train_a_causal_model_on_every_item(data):
    experiment = configure("sasrec:demo", {"training_rows": "windows", "max_length": 3, "model.max_length": 3}, 0)
    rows = runs.training_rows(experiment, data)
    targets = sum(min(3, position) for position in rows.position.tolist())
    assert targets == (data.train.sequences.lengths - 1).sum()
    assert len(rows) > len(data.train.sequences)  # some are longer than a window


def test_a_sample_of_validation_rows_is_the_same_for_every_seed(data):
    whole, *_ = runs.validation_rows(configure("sasrec:demo", {"validation_rows": 10_000}, 0), data)
    assert whole is data.valid
    candidates = {"valid": np.arange(2 * len(data.valid)).reshape(-1, 2)}
    few = [
        runs.validation_rows(
            configure("sasrec:demo", {"validation_rows": 7}, seed), replace(data, candidates=candidates)
        )
        for seed in (0, 1)
    ]
    assert few[0][0].sequence.tolist() == few[1][0].sequence.tolist() == sorted(set(few[0][0].sequence.tolist()))
    place = {sequence: row for row, sequence in enumerate(data.valid.sequence.tolist())}
    assert len(few[0][0]) == 7
    assert (few[0][1][:, 0] // 2).tolist() == [place[sequence] for sequence in few[0][0].sequence.tolist()]


def test_weights_can_be_chosen_under_options_that_cost_less(data, tmp_path):
    """Only what is measured changes: not a step of the training, and not what is stored."""
    metrics, steps, models = [], [], []
    for name, validated in (("whole", {}), ("cheap", {"generation.steps": 1})):
        experiment = configure("steerrec:demo", {**SMALL, "validation_options": validated}, 0)
        metrics.append(runs.train(experiment, data, tmp_path / name, progress=False).best_metrics)
        steps.append([event["loss"] for event in read_log(tmp_path / name / "log.jsonl") if event["event"] == "step"])
        models.append(read_json(tmp_path / name / "model/model.json"))
    assert steps[0] == steps[1]
    assert models[0] == models[1]
    assert metrics[0] != metrics[1]
    for name in ("whole", "cheap"):
        assert runs.revalidated(tmp_path / name, data) == metrics[0]
        assert runs.revalidated(tmp_path / name, data, {"model.generation.steps": 1}) == metrics[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_options": {"generation.stepz": 1}}, "validation_options: .*stepz"),
        ({"validation_options": {"dim": 32}}, "the weights would be others"),
    ],
)
def test_options_of_the_validation_leave_the_weights_alone(data, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        runs.train(configure("steerrec:demo", options, 0), data, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "experiment.json").exists()


def test_a_run_from_before_an_option_existed_can_be_continued(trained, data, tmp_path: Path):
    older = tmp_path / "older"
    shutil.copytree(trained, older)
    plain = json.loads((older / "experiment.json").read_text())
    del plain["validation_rows"]
    (older / "experiment.json").write_text(json.dumps(plain))
    assert runs.train(configure("steerrec:demo", SMALL, 0), data, older, resume=True, progress=False).steps == 5
    with pytest.raises(CheckpointError, match="another experiment"):
        runs.train(configure("steerrec:demo", SMALL, 1), data, older, resume=True, progress=False)


FAST = {"model.dim": 8, "training.batch_size": 64, "training.patience": None}


def test_a_run_with_a_larger_budget_goes_on_as_if_it_had_begun_so(data, tmp_path: Path):
    short, long = ({**FAST, "training.epochs": epochs} for epochs in (1, 3))
    for name, budgets in {"extended": (short, long), "whole": (long,)}.items():
        for options in budgets:
            experiment = configure("sasrec:demo", options, 0)
            outcome = runs.train(experiment, data, tmp_path / name, resume=True, progress=False)
        assert outcome.epochs == 3
        assert runs.read_experiment(tmp_path / name) == experiment
    extended, whole = (
        load_tensors(tmp_path / name / "model" / "weights.safetensors") for name in ("extended", "whole")
    )
    assert all(torch.equal(extended[name], whole[name]) for name in whole)
    curves = [collect(tmp_path / name)["training"]["curve"] for name in ("extended", "whole")]
    assert curves[0] == curves[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model.dim": 16}, "model.dim was 8, is 16"),
        ({"training.learning_rate": 0.1}, "training.learning_rate was 0.003, is 0.1"),
        ({"training.schedule": "cosine"}, "training.schedule was 'constant', is 'cosine'"),
    ],
)
def test_a_run_goes_on_with_its_own_options(data, tmp_path: Path, options, message):
    run, short = tmp_path / "run", {**FAST, "training.epochs": 1}
    runs.train(configure("sasrec:demo", short, 0), data, run, progress=False)
    before = read_json(run / "experiment.json")
    with pytest.raises(CheckpointError, match=message):
        runs.train(configure("sasrec:demo", {**short, **options}, 0), data, run, resume=True, progress=False)
    assert read_json(run / "experiment.json") == before


def test_a_falling_learning_rate_has_the_budget_that_it_falls_over(data, tmp_path: Path):
    falling = {**FAST, "training.schedule": "cosine", "training.epochs": 1}
    runs.train(configure("sasrec:demo", falling, 0), data, tmp_path / "run", progress=False)
    longer = configure("sasrec:demo", {**falling, "training.epochs": 2}, 0)
    with pytest.raises(CheckpointError, match=r"training\.epochs was 1, is 2.*where the learning rate is constant"):
        runs.train(longer, data, tmp_path / "run", resume=True, progress=False)


def test_weights_that_were_measured_are_not_trained_further(data, tmp_path: Path):
    run, short = tmp_path / "run", {**FAST, "training.epochs": 1}
    runs.train(configure("sasrec:demo", short, 0), data, run, progress=False)
    runs.evaluate(run, data)
    longer = configure("sasrec:demo", {**short, "training.epochs": 2}, 0)
    with pytest.raises(CheckpointError, match=r"have been measured \(evaluation\).* move .*evaluation elsewhere"):
        runs.train(longer, data, run, resume=True, progress=False)
    (run / "evaluation").rename(tmp_path / "of-one-epoch")
    assert runs.train(longer, data, run, resume=True, progress=False).epochs == 2


@pytest.fixture
def measured(trained, tmp_path: Path) -> Path:
    run = tmp_path / "measured"
    shutil.copytree(trained, run)
    for kind in runs.MEASUREMENTS:
        shutil.rmtree(run / kind, ignore_errors=True)
    return run


def test_measuring_again_adds_metrics_and_keeps_interests(measured: Path, data):
    first = runs.evaluate(measured, data, metrics=("recall@7", "mrr@3"), interests=True)
    again = runs.evaluate(measured, data, metrics=("ndcg@2",))
    assert again["cutoffs"] == [2, 3, 7]
    assert {name: again["metrics"][name] for name in first["metrics"]} == first["metrics"]
    assert (again["beyond"], again["interests"]) == (first["beyond"], first["interests"])
    assert runs.evaluate(measured, data, metrics=("ndcg@2",), overwrite=True)["cutoffs"] == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seen": "mask"}, "seen was 'keep', is 'mask'"),
        ({"noise_seed": 3}, "noise_seed was 0, is 3"),
    ],
)
def test_what_was_measured_otherwise_is_not_replaced(measured: Path, data, options, message):
    runs.evaluate(measured, data)
    before = read_json(measured / "evaluation" / "test.json")
    with pytest.raises(CheckpointError, match=f"under other conditions: {message}"):
        runs.evaluate(measured, data, **options)
    assert read_json(measured / "evaluation" / "test.json") == before
    runs.evaluate(measured, data, **options, label="other")
    assert runs.evaluate(measured, data, **options, overwrite=True)["noise_seed"] == options.get("noise_seed", 0)


def test_text_and_number_are_one_override(measured: Path, data):
    written = runs.evaluate(measured, data, overrides={"model.guidance.scale": "0"}, label="off")
    assert written["overrides"] == {"model.guidance.scale": 0}
    runs.evaluate(measured, data, overrides={"model.guidance.scale": 0.0}, label="off")
    with pytest.raises(CheckpointError, match="overrides was"):
        runs.evaluate(measured, data, overrides={"model.guidance.scale": 1}, label="off")
    runs.distribution(measured, data, overrides={"model.guidance.scale": 0.0}, label="off", permutations=9)
    with pytest.raises(CheckpointError, match="permutations was 9, is 19"):
        runs.distribution(measured, data, overrides={"model.guidance.scale": 0.0}, label="off", permutations=19)


def test_steering_measured_again_keeps_the_other_procedures(measured: Path, data):
    strengths = [0, 1]
    wishes = [parse_procedure(wish) for wish in ("dislikes:item", "likes:item")]
    both = runs.steering(measured, data, procedures=wishes, strengths=strengths)
    rows = pl.read_parquet(measured / "steering" / "test.parquet")
    path, reasons = measured / "steering" / "test.json", {"likes item": "no row", "dislikes category": "no category"}
    path.write_text(json.dumps({**both, "not_measured": reasons}))
    again = runs.steering(measured, data, procedures=wishes[1:], strengths=strengths)
    assert [each["name"] for each in again["procedures"]] == [each["name"] for each in reversed(both["procedures"])]
    assert again["not_measured"] == {"dislikes category": "no category"}
    points = [{each["name"]: each["points"] for each in record["procedures"]} for record in (both, again)]
    assert points[0] == points[1]
    assert_frame_equal(pl.read_parquet(measured / "steering" / "test.parquet"), rows, check_row_order=False)
    with pytest.raises(CheckpointError, match=r"strengths was \[0, 1\], is \[0, 2\]"):
        runs.steering(measured, data, procedures=wishes, strengths=[0, 2])


def test_a_run_that_is_being_trained_is_not_touched(data, tmp_path):
    run = tmp_path / "run"
    runs.train(configure("steerrec:demo", SMALL, 0), data, run, progress=False)
    before = (run / "log.jsonl").read_bytes()
    again = configure("steerrec:demo", SMALL, 0)
    with held(run), pytest.raises(CheckpointError, match="another process is at work here"):
        runs.train(again, data, run, resume=True, progress=False)
    assert (run / "log.jsonl").read_bytes() == before
    runs.train(again, data, run, resume=True, progress=False)

"""Carry out an experiment: train into a run directory, evaluate from one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from guiderec.data.dataset import Dataset
from guiderec.data.loader import Loader
from guiderec.data.sequences import Ids, Rows
from guiderec.errors import CheckpointError
from guiderec.evaluation.evaluate import count_items, validation_metrics
from guiderec.evaluation.evaluate import evaluate as evaluate_model
from guiderec.model import Model
from guiderec.models.base import Recommender
from guiderec.recipes.experiment import Experiment
from guiderec.recipes.registry import build
from guiderec.rng import Noise, seed_everything
from guiderec.training.loop import Outcome, fit
from guiderec.training.record import environment, read_json, write_json


def training_rows(experiment: Experiment, dataset: Dataset) -> Rows:
    """The rows that the experiment trains on."""
    if experiment.training_rows == "last":
        return Rows.last_items(dataset.train.sequences)
    if experiment.training_rows == "every_prefix":
        return Rows.every_prefix(dataset.train.sequences)
    return dataset.train


def train(
    experiment: Experiment, dataset: Dataset, run: Path, *, resume: bool = False, progress: bool = True
) -> Outcome:
    """Train into the directory `run` and store the best model there as `run/model`.

    Raises
    ------
    CheckpointError
        If `run` already holds a run and `resume` is False, or `resume` is True and the stored experiment differs.
    """
    _claim(run, experiment, dataset, resume)
    seed_everything(experiment.seed)
    model = build(experiment.model, dataset.n_items)
    rows = training_rows(experiment, dataset)
    loader = Loader(
        rows, batch_size=experiment.training.batch_size, max_length=experiment.max_length, seed=experiment.seed
    )

    def validate(model: Recommender) -> Mapping[str, float]:
        return validation_metrics(
            model,
            dataset.valid,
            max_length=experiment.max_length,
            metrics=tuple(dict.fromkeys((experiment.training.metric, *experiment.metrics))),
            seen=dataset.seen,
            candidates=_candidates(dataset, "valid"),
            noise=Noise(experiment.seed),
        )

    outcome = fit(
        model, loader, validate, experiment.training, run, seed=experiment.seed, resume=resume, progress=progress
    )
    Model(model, dataset.vocabulary, experiment.max_length).save_pretrained(run / "model")
    return outcome


def evaluate(
    run: Path,
    dataset: Dataset,
    part: Literal["valid", "test"] = "test",
    *,
    seen: Literal["keep", "mask"] | None = None,
    noise_seed: int = 0,
    metrics: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """Evaluate the best model of a run on a part of the split; write and return `run/evaluation/<part>.json`.

    `seen` overrides the protocol's policy on items of the history. Raises CheckpointError if the run was trained on
    other data.
    """
    experiment = read_experiment(run)
    trained_on = read_json(run / "data.json")["fingerprint"]["sha256"]
    if trained_on != dataset.fingerprint.sha256:
        raise CheckpointError(
            f"{run}: was trained on data with fingerprint {trained_on[:12]}, got {dataset.name} with "
            f"{dataset.fingerprint.sha256[:12]}.",
            hint="evaluate on the split that the run was trained on",
        )
    model = Model.from_pretrained(run / "model").recommender
    evaluation = evaluate_model(
        model,
        dataset.part(part),
        max_length=experiment.max_length,
        metrics=metrics or experiment.metrics,
        seen=seen or dataset.seen,
        candidates=_candidates(dataset, part),
        noise=Noise(noise_seed),
        training_counts=count_items(dataset.train, dataset.n_items),
    )
    evaluation.write(run, part)
    return read_json(run / "evaluation" / f"{part}.json")


def read_experiment(run: Path) -> Experiment:
    """The experiment of a run directory."""
    return Experiment.from_plain(read_json(run / "experiment.json"))


def _claim(run: Path, experiment: Experiment, dataset: Dataset, resume: bool) -> None:
    """Write what the run is, or check on resuming that it is still the same."""
    plain = experiment.to_plain()
    stored = run / "experiment.json"
    if resume and stored.exists():
        if read_json(stored) != plain:
            raise CheckpointError(f"{run}: holds another experiment.", hint="resume with the options it was begun with")
        return
    if stored.exists():
        raise CheckpointError(f"{run}: already holds a run.", hint="choose another --out, or continue it with --resume")
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "data.json", describe(dataset, training_rows(experiment, dataset)))
    write_json(run / "environment.json", environment())
    write_json(stored, plain)


def describe(dataset: Dataset, train: Rows) -> dict[str, Any]:
    """What goes into `data.json`."""
    return {
        "name": dataset.name,
        "protocol": dataset.protocol,
        "seen": dataset.seen,
        "fingerprint": vars(dataset.fingerprint),
        "rows": {"train": len(train), "valid": len(dataset.valid), "test": len(dataset.test)},
    }


def _candidates(dataset: Dataset, part: str) -> Ids | None:
    return None if dataset.candidates is None else dataset.candidates.get(part)

"""Carry out an experiment: train into a run directory, evaluate from one."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from guiderec.config import flat, override, parse
from guiderec.data import parquet
from guiderec.data.dataset import Dataset
from guiderec.data.loader import Loader
from guiderec.data.sequences import Ids, Rows
from guiderec.errors import CheckpointError, ConfigError
from guiderec.evaluation.distribution import PERMUTATIONS, generated, mmd
from guiderec.evaluation.diversity import category_codes
from guiderec.evaluation.evaluate import count_items, validation_metrics
from guiderec.evaluation.evaluate import evaluate as evaluate_model
from guiderec.evaluation.interests import interests as measure_interests
from guiderec.evaluation.interests import rows_path as interest_rows
from guiderec.evaluation.metrics import parse_metrics
from guiderec.files import held, read_json, write_json
from guiderec.model import Model
from guiderec.models.base import Recommender
from guiderec.recipes.experiment import Experiment
from guiderec.recipes.registry import build
from guiderec.rng import Noise, numpy_generator, seed_everything, undisturbed
from guiderec.steering.evaluate import STRENGTHS, evaluate_standard
from guiderec.steering.evaluate import evaluate as evaluate_steering
from guiderec.steering.procedure import Dislikes, Likes
from guiderec.training.checkpoint import load_into, save_tensors
from guiderec.training.distributed import from_first, join, sum_over_processes
from guiderec.training.loop import GiveUp, Outcome, Validate, fit
from guiderec.training.memory import keep_freed_memory
from guiderec.training.record import environment

MEASUREMENTS = ("evaluation", "distribution", "steering")
"""Folders of a run that hold what was measured of its weights."""
_TRAINS = {"recipe", "training", "training_rows", "rows_per_epoch", "validation_rows", "validation_options", "seed"}
_ALWAYS = {"training.accelerator"}
"""Options of an experiment that act in training alone, and one of `training` that evaluation reads too."""


def training_rows(experiment: Experiment, dataset: Dataset) -> Rows:
    """The rows that the experiment trains on."""
    if experiment.training_rows == "last":
        return Rows.last_items(dataset.train.sequences)
    if experiment.training_rows == "every_prefix":
        return Rows.every_prefix(dataset.train.sequences)
    if experiment.training_rows == "windows":
        return Rows.last_of_windows(dataset.train.sequences, experiment.max_length)
    return dataset.train


def validation_rows(experiment: Experiment, dataset: Dataset) -> tuple[Rows, Ids | None, Ids | None]:
    """The rows that choose the best weights, with their candidates and dislikes: all, or a sample.

    The seed does not change the sample.
    """
    candidates, dislikes = _candidates(dataset, "valid"), told(experiment, dataset, "valid")
    count = experiment.validation_rows
    if count is None or count >= len(dataset.valid):
        return dataset.valid, candidates, dislikes
    index = np.sort(numpy_generator(0, "validation rows").permutation(len(dataset.valid))[:count])
    candidates, dislikes = (None if lists is None else lists[index] for lists in (candidates, dislikes))
    return dataset.valid.take(index), candidates, dislikes


def validation(experiment: Experiment, dataset: Dataset) -> Validate:
    """What measures a model on the validation rows of an experiment: the metrics that choose its best weights.

    Raises
    ------
    ConfigError
        Where `validation_options` change the weights.
    """
    rows, candidates, dislikes = validation_rows(experiment, dataset)
    twin = _twin(experiment, dataset.n_items) if experiment.validation_options else None

    def validate(model: Recommender) -> Mapping[str, float]:
        if twin is not None:
            load_into(twin.to(model.device), model.state_dict(), "the model in training")
        return validation_metrics(
            model if twin is None else twin,
            rows,
            max_length=experiment.max_length,
            metrics=tuple(dict.fromkeys((experiment.training.metric, *experiment.metrics))),
            seen=dataset.seen,
            candidates=candidates,
            dislikes=dislikes,
            noise=Noise(experiment.seed),
        )

    return validate


def _twin(experiment: Experiment, n_items: int) -> Recommender:
    """A model of the same weights under `validation_options`; those that it begins with are its own."""
    with undisturbed():
        model, twin = (build(config, n_items) for config in (experiment.model, experiment.validated_model()))
    try:
        load_into(twin, model.state_dict(), "the model")
    except CheckpointError:
        raise ConfigError(
            f"validation_options = {experiment.validation_options}: the weights would be others.",
            hint="only options that leave them alone, such as the steps of a sampler, can be other ones in validation",
        ) from None
    return twin.eval()


def told(experiment: Experiment, dataset: Dataset, part: str) -> Ids | None:
    """(R, K) what the model is told that the users of the rows of `part` dislike; None where it is told nothing.

    Raises
    ------
    ConfigError
        Where the experiment wants dislikes that the data do not have.
    """
    if experiment.dislikes == "none":
        return None
    if experiment.dislikes == "earlier":
        known = None if dataset.dislikes is None or dataset.shown is None else dataset.dislikes.get(part)
    else:
        lists = dataset.shown if experiment.dislikes == "shown" else dataset.unclicked
        known = None if lists is None else lists[part].padded(dataset.part(part).sequence)
    if known is None:
        raise ConfigError(
            f"dislikes = '{experiment.dislikes}' needs a split of impressions, and {dataset.name} is none.",
            hint="see guiderec.data.impressions",
        )
    return known


def train(
    experiment: Experiment,
    dataset: Dataset,
    run: Path,
    *,
    give_up: GiveUp | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Outcome:
    """Train into the directory `run` and store the best model there as `run/model`.

    Under torchrun all processes call this; the first one writes. `give_up` is asked after every validation, and ends
    the run with True. With `resume` an interrupted run goes on, and a finished one does if it is given a larger budget.

    Raises
    ------
    CheckpointError
        If `run` already holds a run and `resume` is False, or `resume` is True and the data are others, or the
        experiment is in more than its budget; for another budget where the weights have been measured already; and
        while another process trains there.
    """
    keep_freed_memory()
    seed_everything(experiment.seed)
    model = build(experiment.model, dataset.n_items)  # before anything is written: options may not fit each other
    validate = validation(experiment, dataset)
    fabric = join(accelerator=experiment.training.accelerator, precision=experiment.training.precision)
    run.mkdir(parents=True, exist_ok=True)
    with held(run) if fabric.global_rank == 0 else nullcontext():
        from_first(fabric, lambda: _claim(run, experiment, dataset, resume))
        rows = training_rows(experiment, dataset)
        loader = Loader(
            rows,
            batch_size=experiment.training.batch_size,
            max_length=experiment.max_length,
            seed=experiment.seed,
            rows_per_epoch=experiment.rows_per_epoch,
            negatives=None if dataset.unclicked is None else dataset.unclicked["train"],
        )

        outcome = fit(
            model,
            loader,
            validate,
            experiment.training,
            run,
            seed=experiment.seed,
            give_up=give_up,
            resume=resume,
            progress=progress,
        )
        trained = Model(model, dataset.vocabulary, experiment.max_length)
        from_first(fabric, lambda: trained.save_pretrained(run / "model"))
        return outcome


def evaluate(
    run: Path,
    dataset: Dataset,
    part: Literal["valid", "test"] = "test",
    *,
    seen: Literal["keep", "mask"] | None = None,
    noise_seed: int = 0,
    metrics: tuple[str, ...] | None = None,
    overrides: Mapping[str, Any] | None = None,
    label: str | None = None,
    interests: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Evaluate the best model of a run on a part of the split; write and return `run/evaluation/<part>.json`.

    Under torchrun the processes share the rows, and the result is that of one process. What an earlier call measured
    under the same conditions, other metrics or the interests, is in the new record too.

    Parameters
    ----------
    seen
        Overrides the protocol's policy on items of the history.
    overrides
        Dotted options of the experiment that leave the weights alone, such as `model.guidance.scale` or
        `model.generation.steps`: the trained weights are evaluated under them.
    label
        Appended to the file name, `<part>-<label>.json`; needed with `overrides`, to keep the plain evaluation.
    interests
        Also measure the interests behind the lists of the largest cutoff (`evaluation/interests.py`): `interests` in
        the record, and one line per row in `<part>.interests.parquet`.
    overwrite
        Replace a record of this name, whatever it was measured under.

    Raises
    ------
    CheckpointError
        If the run was trained on other data, or an override changes the shape of the weights; where there is a record
        of this name that was measured under other conditions (`seen`, `noise_seed`, `overrides`).
    ConfigError
        With `interests`, for a model that does not rank by vectors.
    """
    name = _named(part, label, overrides)
    path = run / "evaluation" / f"{name}.json"
    conditions = {"seen": seen or dataset.seen, "noise_seed": noise_seed, "overrides": _parsed(overrides)}
    earlier = _earlier(path, conditions, overwrite)
    changed, model = _reopened(run, dataset, overrides)
    fabric = join(accelerator=changed.training.accelerator, precision="fp32")
    shared: dict[str, Any] = {
        "max_length": changed.max_length,
        "seen": conditions["seen"],
        "candidates": _candidates(dataset, part),
        "noise": Noise(noise_seed),
        "shard": (fabric.global_rank, fabric.world_size),
        "sum_over": partial(sum_over_processes, fabric),
    }
    rows, chosen = dataset.part(part), parse_metrics([*(metrics or changed.metrics), *earlier.get("metrics", {})])
    model = model.to(fabric.device)
    found = None
    if interests:  # before the long part: a model may have none
        longest = max(metric.k for metric in chosen)
        found = measure_interests(model, rows, k=longest, categories=_categories(dataset), **shared)
    evaluation = evaluate_model(
        model,
        rows,
        dislikes=told(changed, dataset, part),
        metrics=[metric.name for metric in chosen],
        training_counts=count_items(dataset.train, dataset.n_items),
        **shared,
    )

    def write() -> dict[str, Any]:
        evaluation.write(run, name)
        record = {**read_json(path), "part": part, "overrides": conditions["overrides"]}
        if found is not None:
            parquet.write(found.rows, interest_rows(run, name))
            record["interests"] = found.summary()
        elif "interests" in earlier:
            record["interests"] = earlier["interests"]
        write_json(path, record)
        return record

    return from_first(fabric, write)


def distribution(
    run: Path,
    dataset: Dataset,
    part: Literal["valid", "test"] = "test",
    *,
    noise_seed: int = 0,
    permutations: int = PERMUTATIONS,
    overrides: Mapping[str, Any] | None = None,
    label: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Compare what the best model of a run generates with the true embeddings; write and return the record.

    `run/distribution/<part>.json` has MMD^2 with its p value (`evaluation/distribution.py`), `<part>.safetensors` the
    vectors `generated` (R, D) and `items` (I + 1, D), and the `target`, `user` and `key` of each row (R,).
    `overrides`, `label` and `overwrite` are those of `evaluate`. Under torchrun the processes share the rows.

    Raises
    ------
    CheckpointError
        If the run was trained on other data, or an override changes the shape of the weights; where there is a record
        of this name that was measured under other conditions (`noise_seed`, `permutations`, `overrides`).
    ConfigError
        For a model that does not rank by vectors.
    DataError
        When most vectors are equal.
    """
    name = _named(part, label, overrides)
    path = run / "distribution" / f"{name}.json"
    conditions = {"noise_seed": noise_seed, "permutations": permutations, "overrides": _parsed(overrides)}
    _earlier(path, conditions, overwrite)
    changed, model = _reopened(run, dataset, overrides)
    fabric = join(accelerator=changed.training.accelerator, precision="fp32")
    started = time.perf_counter()
    found = generated(
        model.to(fabric.device),
        dataset.part(part),
        max_length=changed.max_length,
        noise=Noise(noise_seed),
        shard=(fabric.global_rank, fabric.world_size),
        sum_over=partial(sum_over_processes, fabric),
    )

    def write() -> dict[str, Any]:
        vectors, true = found.vectors.to(fabric.device), found.true.to(fabric.device)
        discrepancy = mmd(vectors, true, users=found.users, permutations=permutations)
        record = {
            "part": part,
            **discrepancy.to_plain(),
            "dim": vectors.shape[1],
            "interests": found.interests,
            **conditions,
            "seconds": round(time.perf_counter() - started, 3),
        }
        path.parent.mkdir(exist_ok=True)
        save_tensors(path.with_suffix(".safetensors"), found.tensors())
        write_json(path, record)
        return record

    return from_first(fabric, write)


def steering(
    run: Path,
    dataset: Dataset,
    part: Literal["valid", "test"] = "test",
    *,
    procedures: Sequence[Dislikes | Likes] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    seen: Literal["keep", "mask"] | None = None,
    noise_seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    label: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measure how the best model of a run and its rivals honour dislikes and likes; write and return the record.

    `run/steering/<part>.json` has the curves (`steering/evaluate.py`), `<part>.parquet` the measures of every row.
    `procedures` are the `standard` ones where None, of which those that these rows do not allow are named with the
    reason (`not_measured`). Others that an earlier call measured under the same conditions stay in the record. `seen`,
    `overrides`, `label` and `overwrite` are those of `evaluate`. Under torchrun the first process measures and the
    others wait.

    Raises
    ------
    CheckpointError
        If the run was trained on other data, or an override changes the shape of the weights; where there is a record
        of this name that was measured under other conditions (`strengths`, `seen`, `noise_seed`, `overrides`).
    ConfigError
        For strengths that are negative or repeated, and categories of a column that the item table lacks.
    """
    name = _named(part, label, overrides)
    path = run / "steering" / f"{name}.json"
    treatment = seen or dataset.seen
    conditions = {
        "strengths": list(strengths),
        "seen": treatment,
        "noise_seed": noise_seed,
        "overrides": _parsed(overrides),
    }
    earlier = _earlier(path, conditions, overwrite)
    changed, model = _reopened(run, dataset, overrides)
    unconditional = _classifier_free(run, dataset, overrides)
    fabric = join(accelerator=changed.training.accelerator, precision="fp32")

    def measure() -> dict[str, Any]:
        started = time.perf_counter()
        options: dict[str, Any] = {
            "part": part,
            "max_length": changed.max_length,
            "strengths": strengths,
            "seen": treatment,
            "noise": Noise(noise_seed),
            "classifier_free": None if unconditional is None else unconditional.to(fabric.device),
        }
        measured = model.to(fabric.device)
        if procedures is None:
            found, reasons = evaluate_standard(measured, dataset, **options)
        else:
            found, reasons = [evaluate_steering(measured, dataset, each, **options) for each in procedures], {}
        names = [each.name for each in found]
        rows = pl.concat([each.rows.select(pl.lit(each.name).alias("procedure"), pl.all()) for each in found])
        others = [each for each in earlier.get("procedures", []) if each["name"] not in names]
        unmeasured = {**earlier.get("not_measured", {}), **reasons}
        if others:
            rows = pl.concat([rows, _steered_rows(path).filter(~pl.col("procedure").is_in(names))])
        record = {
            "part": part,
            **conditions,
            "steers": model.steers,
            "procedures": [*(each.summary() for each in found), *others],
            "not_measured": {each: why for each, why in unmeasured.items() if each not in names},
            "seconds": round(time.perf_counter() - started + sum(each["seconds"] for each in others), 3),
        }
        path.parent.mkdir(exist_ok=True)
        parquet.write(rows, path.with_suffix(".parquet"))
        write_json(path, record)
        return record

    return from_first(fabric, measure)


def revalidated(run: Path, dataset: Dataset, overrides: Mapping[str, Any] | None = None) -> dict[str, float]:
    """The metrics of the best weights of a run on its validation rows, under other options that keep the weights.

    They are under the model's own options, whatever `validation_options` chose the weights by. Nothing is written.
    Raises what `evaluate` raises for overrides and data that do not fit the run.
    """
    changed, model = _reopened(run, dataset, overrides)
    fabric = join(accelerator=changed.training.accelerator, precision="fp32")
    with torch.no_grad():
        return dict(validation(changed.replace(validation_options={}), dataset)(model.to(fabric.device).eval()))


def read_experiment(run: Path) -> Experiment:
    """The experiment of a run directory. CheckpointError where it is none."""
    if not (run / "experiment.json").exists():
        what = "not a run: it holds no experiment.json" if run.is_dir() else "there is no such directory"
        raise CheckpointError(f"{run}: {what}.", hint="`guiderec train ... --out RUN` makes a run")
    return Experiment.from_plain(read_json(run / "experiment.json"))


def _named(part: str, label: str | None, overrides: Mapping[str, Any] | None) -> str:
    """`part` or `part-label`: the name of a record of the run."""
    if overrides and not label:
        raise ConfigError("An evaluation under other options needs a label.", hint="name it, for example --label cfg")
    if label is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", label):
        raise ConfigError(f"A label is made of letters, digits, '-' and '_', got {label!r}.")
    return f"{part}-{label}" if label else part


def _parsed(overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """Overrides as values, so that `"0"` from a command line and 0 are one."""
    return {path: parse(value) for path, value in (overrides or {}).items()}


def _earlier(path: Path, conditions: Mapping[str, Any], overwrite: bool) -> dict[str, Any]:
    """The record that is to be replaced by one measured under the same conditions; nothing where there is none.

    CheckpointError for a record of other conditions, unless it may be overwritten.
    """
    if overwrite or not path.exists():
        return {}
    record = read_json(path)
    changed = [name for name, value in conditions.items() if name in record and record[name] != value]
    if changed:
        changes = "; ".join(f"{name} was {record[name]!r}, is {conditions[name]!r}" for name in changed)
        raise CheckpointError(
            f"{path}: holds what was measured under other conditions: {changes}.",
            hint="give this one a label of its own (--label), or replace the other (--overwrite)",
        )
    return record


def _steered_rows(record: Path) -> pl.DataFrame:
    """The measures of every row beside a record of steering."""
    path = record.with_suffix(".parquet")
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}.", hint="measure anew with --overwrite") from None


def _reopened(run: Path, dataset: Dataset, overrides: Mapping[str, Any] | None) -> tuple[Experiment, Recommender]:
    """The experiment of a run under other options, and its best weights under them."""
    experiment = read_experiment(run)
    require_same_data(run, dataset)
    require_after_training(overrides or {})
    changed = override(experiment, overrides or {})
    assert isinstance(changed, Experiment)
    return changed, Model.from_pretrained(run / "model").reconfigured(changed.model).recommender


def _classifier_free(run: Path, dataset: Dataset, overrides: Mapping[str, Any] | None) -> Recommender | None:
    """The same weights with classifier-free guidance; None for a model that has no such option."""
    if "guidance" not in type(read_experiment(run).model).model_fields:
        return None
    try:
        return _reopened(run, dataset, {**(overrides or {}), "model.guidance.name": "cfg"})[1]
    except ConfigError:  # its guidance is of other kinds alone
        return None


def _claim(run: Path, experiment: Experiment, dataset: Dataset, resume: bool) -> None:
    """Write what the run is, or check on resuming that it is still the same."""
    stored = run / "experiment.json"
    if resume and stored.exists():
        require_same_data(run, dataset)
        before = read_experiment(run)
        if before != experiment:
            _require_other_budget_alone(run, before, experiment)
            write_json(stored, experiment.to_plain())
        return
    if stored.exists():
        raise CheckpointError(
            f"{run}: already holds a run.", hint="choose another directory (out), or go on with it (resume)"
        )
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "data.json", describe(dataset, training_rows(experiment, dataset)))
    write_json(run / "environment.json", environment())
    write_json(stored, experiment.to_plain())


def _require_other_budget_alone(run: Path, before: Experiment, now: Experiment) -> None:
    """CheckpointError where a run cannot go on under `now`, or what was measured of it would no longer be its own."""
    was, becomes = (flat({**each.to_plain(), "training": each.training.lasting()}) for each in (before, now))
    changed = [name for name in {**was, **becomes} if was.get(name) != becomes.get(name)]
    if changed:
        changes = "; ".join(f"{name} was {was.get(name)!r}, is {becomes.get(name)!r}" for name in changed)
        raise CheckpointError(
            f"{run}: holds another experiment: {changes}.",
            hint="resume with the options it was begun with; epochs, max_steps and patience may differ where the "
            "learning rate is constant",
        )
    if found := [kind for kind in MEASUREMENTS if (run / kind).exists()]:
        raise CheckpointError(
            f"{run}: the weights of this run have been measured ({', '.join(found)}), and training it further "
            "may replace them.",
            hint=f"move {', '.join(str(run / kind) for kind in found)} elsewhere, or train another run",
        )


def require_same_data(run: Path, dataset: Dataset) -> None:
    """CheckpointError unless a run was trained on this split."""
    trained_on = read_json(run / "data.json").get("split_sha256")
    if not isinstance(trained_on, str):
        raise CheckpointError(f"{run / 'data.json'}: names no split.", hint="the file is damaged")
    if trained_on != dataset.split_sha256:
        raise CheckpointError(
            f"{run}: was trained on the split {trained_on[:12]}, got {dataset.name}, split "
            f"{dataset.split_sha256[:12]}.",
            hint="use the split that the run was trained on",
        )


def require_after_training(overrides: Iterable[str]) -> None:
    """ConfigError for options that act in training alone."""
    if late := sorted(path for path in overrides if path.partition(".")[0] in _TRAINS and path not in _ALWAYS):
        raise ConfigError(
            f"{', '.join(late)}: the weights are trained, so this can change nothing.",
            hint="give it to `guiderec train`, and evaluate that run",
        )


def describe(dataset: Dataset, train: Rows) -> dict[str, Any]:
    """What goes into `data.json`."""
    return {
        "name": dataset.name,
        "protocol": dataset.protocol,
        "seen": dataset.seen,
        "fingerprint": asdict(dataset.fingerprint),
        "split_sha256": dataset.split_sha256,
        "rows": {"train": len(train), "valid": len(dataset.valid), "test": len(dataset.test)},
    }


def _categories(dataset: Dataset) -> Tensor | None:
    """(I + 1,) codes of the column `category` of the items table, where it has text or whole numbers."""
    table = dataset.vocabulary.table
    if table is None or "category" not in table.columns:
        return None
    column = table["category"]
    if not (column.dtype == pl.String or column.dtype.is_integer()) or column.null_count() == len(column):
        return None
    return category_codes(column.to_list())


def _candidates(dataset: Dataset, part: str) -> Ids | None:
    return None if dataset.candidates is None else dataset.candidates.get(part)

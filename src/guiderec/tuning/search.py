"""A search on disk: one trial after the other, each with a record, so that it can be stopped and continued.

    OUT/tuning.json         what is searched, on which data, by which metric and method
    OUT/trials/0007.json    the options of a trial and what came of them
    OUT/runs/0007/          its run, where each trial is a training; weights are kept of the best trial alone
    OUT/trials.csv          all trials, made anew after each

Only the validation part of a split is ever looked at.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch
from pydantic import Field, ValidationError, model_validator

from guiderec.config import Part, override
from guiderec.data.dataset import Dataset
from guiderec.errors import CheckpointError, ConfigError, ScoreError, TrainingError
from guiderec.evaluation.metrics import parse_metrics
from guiderec.files import held, read_json, replacing, write_json
from guiderec.recipes.experiment import Experiment
from guiderec.recipes.run import read_experiment, require_after_training, require_same_data, revalidated, train
from guiderec.training.distributed import processes
from guiderec.training.record import environment, read_log, validation_curve
from guiderec.tuning.space import Space
from guiderec.tuning.suggest import Method, Seen, falls_behind, require_optuna, suggester


class Plan(Part):
    """How to search."""

    space: Space
    """The options and their values."""
    method: Method = "tpe"
    """How the next trial is chosen."""
    trials: int | None = Field(20, ge=1)
    """How many. None: all of a grid."""
    seed: int = Field(0, ge=0)
    """Seeds the choice of trials. What a trial trains with is the experiment's seed, the same for all."""
    prune: bool = False
    """Give trials up that fall behind the median of those before; only where a trial is a training."""


class Trial(Part):
    """One set of options and what came of it."""

    number: int = Field(ge=0)
    """From 0, in the order of the search."""
    options: dict[str, Any]
    """Dotted options, as plain data."""
    state: Literal["finished", "given_up", "failed"]
    """`given_up`: it fell behind; `failed`: the options cannot be, or training broke off."""
    value: float | None = None
    """The metric on the validation rows, after the best epoch; None where it failed."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """All metrics then."""
    curve: dict[str, list[Any]] = Field(default_factory=dict)
    """`epochs` that were validated, and the `values` of the metric."""
    epochs: int = 0
    """Epochs trained."""
    seconds: float = 0.0
    """Time in training and validation."""
    message: str = ""
    """Why it failed."""
    same_as: int | None = None
    """The earlier trial of the same options, whose values these are: nothing was computed again."""

    @model_validator(mode="after")
    def _curve_is_whole(self) -> Trial:
        if len(self.curve.get("epochs", [])) != len(self.curve.get("values", [])):
            raise ValueError("the curve has not one value for each epoch")
        return self

    @property
    def seen(self) -> Seen:
        """What it teaches the search."""
        curve = dict(zip(self.curve.get("epochs", []), self.curve.get("values", []), strict=True))
        return Seen(self.options, self.value, curve, given_up=self.state == "given_up")


@dataclass(frozen=True)
class Tuned:
    """A finished search."""

    out: Path
    """Its folder."""
    metric: str
    """The metric, the higher the better."""
    trials: tuple[Trial, ...]
    """All trials, in their order."""
    experiment: Experiment
    """The experiment under the best options. Its validation metric is the greatest of many, and so flatters it."""

    @property
    def best(self) -> Trial:
        """The trial with the greatest value; of equal ones the first."""
        return best_of(self.trials)


Attempt = Callable[[int, dict[str, Any], Sequence[Trial]], Trial]
"""A trial carried out: its number, its options and the trials before it."""
Tell = Callable[[Trial], None]
"""Called with each trial when it is done."""


def tune_training(
    experiment: Experiment,
    dataset: Dataset,
    plan: Plan,
    out: Path,
    *,
    resume: bool = False,
    progress: bool = True,
    tell: Tell | None = None,
) -> Tuned:
    """Search the options of an experiment; each trial is a training of it.

    The value of a trial is `training.metric` on the validation rows after its best epoch. Trials with the same options
    are computed once. A search that was stopped and continued with `resume` makes the same trials; then `plan.trials`
    may be greater.

    Raises
    ------
    ConfigError
        For options that do not exist, or cannot have a value; where Optuna is needed and not installed; under torchrun;
        and where every trial failed.
    CheckpointError
        If `out` already holds a search and `resume` is False, or `resume` is True and it is of something else.
    """
    plan = plan.replace(space=plan.space.of(experiment))
    metric = experiment.training.metric

    def attempt(number: int, options: dict[str, Any], before: Sequence[Trial]) -> Trial:
        run = _run_folder(out, number)
        seen = [trial.seen for trial in before]

        def give_up(epoch: int, metrics: Mapping[str, float]) -> bool:
            return falls_behind(seen, _curve_of(run, metric))

        outcome = train(
            _under(experiment, options),
            dataset,
            run,
            give_up=give_up if plan.prune else None,
            resume=True,
            progress=progress,
        )
        return Trial(
            number=number,
            options=options,
            state="given_up" if outcome.reason == "given_up" else "finished",
            value=outcome.best_metrics[metric],
            metrics=outcome.best_metrics,
            curve=validation_curve(read_log(run / "log.jsonl"), metric),
            epochs=outcome.epochs,
            seconds=round(outcome.seconds, 3),
        )

    what = {"experiment": experiment.to_plain()}
    trials = _search(what, metric, dataset, plan, out, attempt, resume=resume, tell=tell)
    return Tuned(out, metric, trials, _under(experiment, best_of(trials).options))


def tune_run(
    run: Path,
    dataset: Dataset,
    plan: Plan,
    out: Path,
    *,
    metric: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    tell: Tell | None = None,
) -> Tuned:
    """Search options of a trained run that leave its weights alone, such as the strength of guidance.

    The value of a trial is `metric`, or the run's own, of its best weights on its validation rows, under `overrides`
    and the options of the trial. Everything else is as with `tune_training`.

    Raises
    ------
    ConfigError
        As `tune_training`, for options that act in training, and with `plan.prune`: nothing is trained.
    CheckpointError
        As `tune_training`, and if the run was trained on other data.
    """
    if plan.prune:
        raise ConfigError("--prune ends trainings early, and the weights of a run are trained.")
    require_after_training([*(overrides or {}), *plan.space.options])
    require_same_data(run, dataset)
    experiment = _under(read_experiment(run), overrides or {})
    (chosen,) = parse_metrics((metric or experiment.training.metric,))
    measured = experiment.replace(metrics=tuple(dict.fromkeys((chosen.name, *experiment.metrics))))
    plan = plan.replace(space=plan.space.of(measured))
    fixed = {**(overrides or {}), "metrics": list(measured.metrics)}

    def attempt(number: int, options: dict[str, Any], before: Sequence[Trial]) -> Trial:
        started = time.perf_counter()
        metrics = revalidated(run, dataset, {**fixed, **options})
        seconds = round(time.perf_counter() - started, 3)
        return Trial(
            number=number,
            options=options,
            state="finished",
            value=metrics[chosen.name],
            metrics=metrics,
            seconds=seconds,
        )

    weights = run / "model" / "weights.safetensors"
    with weights.open("rb") as file:
        what = {"experiment": measured.to_plain(), "weights_sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    trials = _search(what, chosen.name, dataset, plan, out, attempt, resume=resume, tell=tell)
    return Tuned(out, chosen.name, trials, _under(experiment, best_of(trials).options))


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial with the greatest value; of equal ones the first. ConfigError where all failed."""
    best = _leader(trials)
    if best is None:
        first = trials[0]
        raise ConfigError(
            f"All {len(trials)} trials failed. The first: {json.dumps(first.options)}: {first.message}",
            hint="search values that can be trained",
        )
    return best


def _leader(trials: Sequence[Trial]) -> Trial | None:
    best = None
    for trial in trials:
        if trial.value is not None and (best is None or best.value is None or trial.value > best.value):
            best = trial
    return best


# ------------------------------------------------------------------------------------------------ the loop


def _search(
    what: Mapping[str, Any],
    metric: str,
    dataset: Dataset,
    plan: Plan,
    out: Path,
    attempt: Attempt,
    *,
    resume: bool,
    tell: Tell | None,
) -> tuple[Trial, ...]:
    """The trials of a plan: those on disk, and the others carried out."""
    suggest = suggester(plan.space, plan.method, plan.seed)
    count = _count(plan)
    _require_one_process()
    if plan.prune:
        require_optuna()
    _claim(out, {**what, "metric": metric, "split_sha256": dataset.split_sha256}, plan, resume=resume)
    with held(out):
        trials = _read_trials(out, plan.space)
        for number in range(len(trials), count):
            options = suggest([trial.seen for trial in trials])
            trial = _repeated(number, options, trials) or _attempted(attempt, number, options, trials)
            write_json(_trial_file(out, number), trial.to_plain())
            trials.append(trial)
            _write_table(out, trials)
            _drop_weights(out, trials)
            if tell is not None:
                tell(trial)
    return tuple(trials)


def _attempted(attempt: Attempt, number: int, options: dict[str, Any], before: Sequence[Trial]) -> Trial:
    """The trial; a failed one where the options cannot be, or what they make cannot be trained."""
    try:
        return attempt(number, options, before)
    except (ConfigError, TrainingError, ScoreError) as error:
        message = str(error)
    except torch.OutOfMemoryError as error:
        message = f"The GPU has too little memory: {str(error).splitlines()[0]}"
    return Trial(number=number, options=options, state="failed", message=message)


def _repeated(number: int, options: dict[str, Any], before: Sequence[Trial]) -> Trial | None:
    """The same options again have the same outcome: a training is a function of its options and its seed."""
    same = next((trial for trial in before if trial.options == options), None)
    if same is None:
        return None
    first = same.number if same.same_as is None else same.same_as
    return same.replace(number=number, same_as=first, seconds=0.0, epochs=0)


def _count(plan: Plan) -> int:
    if plan.method != "grid":
        if plan.trials is None:
            raise ConfigError(f"A search by {plan.method} needs a number of trials.")
        return plan.trials
    combinations = len(plan.space.grid)
    if plan.trials is not None and plan.trials != combinations:
        raise ConfigError(
            f"The grid has {combinations} combinations, and {plan.trials} trials were asked for.",
            hint="leave --trials out, or search by random",
        )
    return combinations


def _require_one_process() -> None:
    if processes() > 1:
        raise ConfigError("A search is carried out by one process.", hint="start it without torchrun")


def _under(experiment: Experiment, options: Mapping[str, Any]) -> Experiment:
    changed = override(experiment, options)
    assert isinstance(changed, Experiment)
    return changed


# ------------------------------------------------------------------------------------------------ on disk


def _claim(out: Path, what: Mapping[str, Any], plan: Plan, *, resume: bool) -> None:
    """Write what the search is, or check on resuming that it is still the same."""
    stored, now = out / "tuning.json", {**what, "plan": plan.to_plain()}
    if not stored.exists():
        if out.exists() and any(out.iterdir()):
            raise CheckpointError(f"{out}: is not empty, and holds no search.", hint="choose another --out")
        (out / "trials").mkdir(parents=True, exist_ok=True)
        write_json(stored, {**now, "environment": environment()})
        return
    if not resume:
        raise CheckpointError(f"{out}: already holds a search.", hint="choose another --out, or continue with --resume")
    before = read_json(stored)
    if changed := [name for name in now if not _same(_without_count(before.get(name)), _without_count(now[name]))]:
        raise CheckpointError(
            f"{stored}: is of another search; {', '.join(changed)} differs.",
            hint="continue with the options it was begun with; --trials alone may change",
        )


def _without_count(value: Any) -> Any:
    """A plan without its number of trials, everything else as it is."""
    return {name: part for name, part in value.items() if name != "trials"} if isinstance(value, dict) else value


def _same(first: Any, second: Any) -> bool:
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def _read_trials(out: Path, space: Space) -> list[Trial]:
    """The trials on disk, in order. CheckpointError for a gap and for a damaged one."""
    trials = []
    for number, path in enumerate(sorted((out / "trials").glob("*.json"))):
        try:
            trial = Trial.model_validate(read_json(path))
        except ValidationError as error:
            raise CheckpointError(f"{path}: is no trial: {error.errors()[0]['msg']}.", hint="it is damaged") from None
        if path != _trial_file(out, number) or trial.number != number:
            raise CheckpointError(f"{path}: expected trial {number}, found {trial.number}.", hint="one is missing")
        if set(trial.options) != set(space.options):
            raise CheckpointError(f"{path}: has other options than the search.", hint="it is damaged")
        trials.append(trial)
    return trials


def _trial_file(out: Path, number: int) -> Path:
    return out / "trials" / f"{number:04d}.json"


def _run_folder(out: Path, number: int) -> Path:
    return out / "runs" / f"{number:04d}"


def _curve_of(run: Path, metric: str) -> dict[int, float]:
    curve = validation_curve(read_log(run / "log.jsonl"), metric)
    return dict(zip(curve["epochs"], curve["values"], strict=True))


def _write_table(out: Path, trials: Sequence[Trial]) -> None:
    """One line per trial, for other programs."""
    rows = [
        {
            "trial": trial.number,
            "state": trial.state,
            "value": trial.value,
            **{path: json.dumps(value) for path, value in trial.options.items()},
            "epochs": trial.epochs,
            "seconds": trial.seconds,
        }
        for trial in trials
    ]
    with replacing(out / "trials.csv") as temporary:
        pl.DataFrame(rows, infer_schema_length=None).write_csv(temporary)


def _drop_weights(out: Path, trials: Sequence[Trial]) -> None:
    """Remove the weights of all trials but the best: a search over large catalogues would fill the disk."""
    best = _leader(trials)
    for trial in trials:
        if trial is not best:
            for folder in ("checkpoint", "model"):
                shutil.rmtree(_run_folder(out, trial.number) / folder, ignore_errors=True)

"""Calls for people: `load` data, `tune` options, `fit` a model, and what `fit` returns can `recommend`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from guiderec.config import override
from guiderec.data.dataset import Dataset
from guiderec.data.prepared import load
from guiderec.errors import ConfigError, DataError
from guiderec.model import Model
from guiderec.recipes import run as runs
from guiderec.recipes.experiment import Experiment
from guiderec.recipes.registry import recipe as find_recipe
from guiderec.tuning.search import Plan, Tell, Tuned, tune_run, tune_training
from guiderec.tuning.space import Choice, Range, Space
from guiderec.tuning.suggest import Method

__all__ = ["DEFAULT_RECIPE", "Model", "configure", "fit", "load", "tune"]

DEFAULT_RECIPE = "guided_sasrec:default"
"""What is trained where nobody chooses: the model of this library that steers best without losing accuracy."""


def configure(
    recipe: str | Experiment, overrides: Mapping[str, Any] | None = None, seed: int | None = None
) -> Experiment:
    """An experiment from a recipe's name (or an experiment), with dotted overrides and a seed.

    Raises ConfigError for a recipe or option that does not exist, or a value that is impossible.
    """
    experiment = find_recipe(recipe) if isinstance(recipe, str) else recipe
    if not isinstance(experiment, Experiment):
        raise ConfigError(
            f"Expected a recipe's name or an Experiment, got {recipe!r}.", hint="`guiderec recipes` lists the names"
        )
    if not isinstance(overrides or {}, Mapping):
        raise ConfigError(f"Expected overrides as a mapping, got {overrides!r}.", hint='for example {"model.dim": 256}')
    changed = override(experiment, overrides or {})
    assert isinstance(changed, Experiment)
    return changed if seed is None else changed.replace(seed=seed)


def fit(
    recipe: str | Experiment = DEFAULT_RECIPE,
    data: Dataset | str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Model:
    """Train a recipe on a split and return the best model by its validation metric.

    Parameters
    ----------
    recipe
        A recipe's name (`"steerrec:beauty"`) or an `Experiment`; by default `DEFAULT_RECIPE`: `fit(data=split)`.
    data
        A `Dataset`, or the folder of a prepared split. Needed.
    overrides
        Dotted options to replace, for example `{"model.dim": 512}`.
    seed
        Replaces the recipe's seed.
    out
        Run directory to keep (configuration, log, checkpoint, model). None keeps nothing but the returned model.
    resume
        Go on with the run in `out`, interrupted or given a larger budget; a run that is not there is begun.

    Raises
    ------
    ConfigError
        For a recipe or option that does not exist, a value that is impossible, and `resume` without `out`.
    DataError
        For no data, and a folder that holds no prepared split.
    CheckpointError
        If `out` already holds a run and `resume` is False, or it is another run.
    TrainingError
        When the loss is not finite.
    """
    if not isinstance(data, Dataset | str | Path):
        raise DataError(
            f"Expected a Dataset or the folder of a prepared split, got {type(data).__name__}.",
            hint="split a log with a protocol, for example guiderec.UserSplit, or load a folder with guiderec.load",
        )
    dataset = data if isinstance(data, Dataset) else load(data)
    experiment = configure(recipe, overrides, seed)
    if resume and out is None:
        raise ConfigError("resume=True needs the directory of a run.", hint="name it with out=")
    if out is not None:
        runs.train(experiment, dataset, Path(out), resume=resume, progress=progress)
        return Model.from_pretrained(out)
    with tempfile.TemporaryDirectory() as scratch:
        runs.train(experiment, dataset, Path(scratch) / "run", progress=progress)
        return Model.from_pretrained(Path(scratch) / "run")


def tune(
    what: str | Path | Experiment,
    data: Dataset | str | Path,
    search: Space | Mapping[str, str | Sequence[Any] | Choice | Range],
    *,
    out: str | Path,
    trials: int | None = 20,
    method: Method = "tpe",
    metric: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    prune: bool = False,
    resume: bool = False,
    progress: bool = True,
    tell: Tell | None = None,
) -> Tuned:
    """Search options by the validation part; the part to test is never looked at.

    Parameters
    ----------
    what
        A recipe's name or an `Experiment`, to train for every trial; or the directory of a run, whose weights are kept.
    search
        The values of each option: a list of them, or text as on the command line (`"0.1:0.5"`, `"1e-4:1e-2:log"`).
    out
        Folder of the search, `tuning/search.py` says what it holds. Continued with `resume`.
    trials
        How many, those of an earlier call included. None: all of a grid.
    method
        `tpe` learns from the trials before, `random` does not, `grid` takes every combination.
    metric
        What is maximised, and chooses the best epoch. None: the experiment's own `training.metric`.
    overrides, seed
        Of the experiment, the same for all trials; the seed also chooses the trials. Of a run, overrides that keep its
        weights, and the seed chooses the trials alone.
    prune
        Give trainings up that fall behind the median of those before.
    tell
        Called with each `Trial` when it is done.

    Raises
    ------
    ConfigError
        For options or values that do not exist, and where every trial failed.
    CheckpointError
        If `out` already holds a search and `resume` is False, or it is another search.
    """
    dataset = data if isinstance(data, Dataset) else load(data)
    space = search if isinstance(search, Space) else Space.from_texts(search)
    plan = Plan(space=space, method=method, trials=trials, seed=seed or 0, prune=prune)
    if _is_run(what):
        return tune_run(
            Path(what), dataset, plan, Path(out), metric=metric, overrides=overrides, resume=resume, tell=tell
        )
    changes = {**(overrides or {}), **({"training.metric": metric} if metric else {})}
    experiment = configure(str(what) if isinstance(what, Path) else what, changes, seed)
    plan = plan.replace(seed=experiment.seed)
    return tune_training(experiment, dataset, plan, Path(out), resume=resume, progress=progress, tell=tell)


def _is_run(what: str | Path | Experiment) -> TypeGuard[str | Path]:
    return not isinstance(what, Experiment) and (Path(what) / "experiment.json").is_file()

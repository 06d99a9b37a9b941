"""Three calls for people: `load` data, `fit` a model, and what `fit` returns can `recommend`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guiderec.config import override
from guiderec.data.dataset import Dataset
from guiderec.data.prepared import load
from guiderec.errors import ConfigError, DataError
from guiderec.model import Model
from guiderec.recipes import run as runs
from guiderec.recipes.experiment import Experiment
from guiderec.recipes.registry import recipe as find_recipe

__all__ = ["DEFAULT_RECIPE", "Model", "configure", "fit", "load"]

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

    Raises
    ------
    ConfigError
        For a recipe or option that does not exist, or a value that is impossible.
    DataError
        For no data, and a folder that holds no prepared split.
    CheckpointError
        If `out` already holds a run.
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
    if out is not None:
        runs.train(experiment, dataset, Path(out), progress=progress)
        return Model.from_pretrained(out)
    with tempfile.TemporaryDirectory() as scratch:
        runs.train(experiment, dataset, Path(scratch) / "run", progress=progress)
        return Model.from_pretrained(Path(scratch) / "run")

"""What to try next, from what was tried: the only file that knows Optuna.

A suggestion is a function of the seed, the number of the trial and the trials before it. Nothing else is remembered, so
that a search which was stopped goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from guiderec.errors import ConfigError
from guiderec.rng import key_of
from guiderec.tuning.space import Choice, Space

Method = Literal["tpe", "random", "grid"]
"""tpe: tree-structured Parzen estimators (Bergstra et al. 2011), random at first and then near what was good; random:
independent draws; grid: every combination, in order."""

STARTUP_TRIALS = 10
"""Random trials at the head of a search by TPE."""
UNPRUNED_TRIALS = 5
"""Trials that must have trained to their own end before one is given up."""


@dataclass(frozen=True)
class Seen:
    """What a trial taught."""

    options: Mapping[str, Any]
    value: float | None
    """The metric, the higher the better; None for a trial that failed."""
    curve: Mapping[int, float] = field(default_factory=dict)
    """The metric after each epoch that was validated."""
    given_up: bool = False


class Suggest(Protocol):
    """Options for the next trial, from all that were tried."""

    def __call__(self, seen: Sequence[Seen], /) -> dict[str, Any]:
        """Dotted options and their values."""
        ...


def suggester(space: Space, method: Method, seed: int) -> Suggest:
    """How a method chooses. ConfigError for a grid over ranges, and where Optuna is needed and not installed."""
    if method == "grid":
        grid = space.grid
        return lambda seen: grid[len(seen)]
    require_optuna()
    return lambda seen: _suggest(space, method, seed, seen)


def falls_behind(seen: Sequence[Seen], curve: Mapping[int, float]) -> bool:
    """The median rule (Golovin et al. 2017): whether the best value so far is below the median of finished trials.

    Compared are their values after the same epoch, as far as they trained so long. While fewer than `UNPRUNED_TRIALS`
    are finished, none falls behind.
    """
    optuna = require_optuna()
    pruner = optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS)
    running = optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING, intermediate_values=dict(curve), params={}, distributions={}
    )
    return bool(pruner.prune(_study([(each, {}, {}) for each in seen], pruner=pruner), running))


def require_optuna() -> Any:
    """The module. ConfigError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "A search by tpe or random, and --prune, need Optuna.",
            hint="pip install 'guiderec[tune]', or search a grid",
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _suggest(space: Space, method: Method, seed: int, seen: Sequence[Seen]) -> dict[str, Any]:
    optuna = require_optuna()
    key = key_of(seed, "trial", len(seen)) % 2**32  # what numpy takes
    distributions = {path: _distribution(values) for path, values in space.options.items()}
    if method == "tpe":
        tried = [(each, _encoded(space, each.options), distributions) for each in seen]
        study = _study(tried, sampler=optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, seed=key))
    else:
        study = _study([], sampler=optuna.samplers.RandomSampler(seed=key))
    return _decoded(space, study.ask(distributions).params)


def _study(trials: Sequence[tuple[Seen, dict[str, Any], dict[str, Any]]], **options: Any) -> Any:
    """A study in memory that has seen these trials, each with its parameters and their distributions.

    Optuna forgets trials that failed, and would fail again at the same place. One that was pruned before its first
    value is to it the worst of all, which is what a failed one is.
    """
    optuna = require_optuna()
    states = optuna.trial.TrialState
    study = optuna.create_study(direction="maximize", **options)
    for trial, params, distributions in trials:
        pruned = trial.given_up or trial.value is None
        study.add_trial(
            optuna.trial.create_trial(
                state=states.PRUNED if pruned else states.COMPLETE,
                value=trial.value,
                params=params,
                distributions=distributions,
                intermediate_values=dict(trial.curve),
            )
        )
    return study


def _distribution(values: Any) -> Any:
    """A choice is the number of a value: Optuna knows no lists and no objects."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, Choice):
        return CategoricalDistribution(range(len(values.values)))
    return (IntDistribution if values.whole else FloatDistribution)(values.low, values.high, log=values.log)


def _encoded(space: Space, options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        path: values.index(options[path]) if isinstance(values, Choice) else options[path]
        for path, values in space.options.items()
    }


def _decoded(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    return {
        path: values.values[params[path]] if isinstance(values, Choice) else type(values.low)(params[path])
        for path, values in space.options.items()
    }

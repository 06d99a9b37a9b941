"""What exists: the models, found by listing `guiderec.models`, and the recipes, found by listing this folder.

A model is a module with exactly one `Recommender` whose `Config` has the module's name; a recipe is a public function
without arguments, in a module of this folder named after its model, that returns an `Experiment`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from guiderec import models
from guiderec.errors import ConfigError, nearest
from guiderec.models.base import ModelConfig, Recommender

if TYPE_CHECKING:
    from guiderec.recipes.experiment import Experiment

_NOT_MODELS = {"base"}
_NOT_RECIPES = {"experiment", "registry", "run"}


def model_names() -> list[str]:
    """Names of all models."""
    return sorted(module.name for module in pkgutil.iter_modules(models.__path__) if module.name not in _NOT_MODELS)


@cache
def model_class(name: str) -> type[Recommender]:
    """The model of that name. Raises ConfigError with the nearest name."""
    if name not in model_names():
        raise ConfigError(
            f"There is no model '{name}'.{nearest(name, model_names())} Known: {', '.join(model_names())}."
        )
    module = importlib.import_module(f"guiderec.models.{name}")
    (found,) = (
        thing
        for _, thing in inspect.getmembers(module, inspect.isclass)
        if issubclass(thing, Recommender) and thing.__module__ == module.__name__
    )
    return found


def model_config(data: Mapping[str, Any] | ModelConfig) -> ModelConfig:
    """The typed configuration of the model that `data["name"]` names."""
    if isinstance(data, ModelConfig):
        return data
    if "name" not in data:
        raise ConfigError("A model needs a 'name'.", hint=f"one of {', '.join(model_names())}")
    return model_class(str(data["name"])).Config.from_plain(data)


def build(config: ModelConfig, n_items: int) -> Recommender:
    """A freshly initialised model."""
    return model_class(config.name)(config, n_items)


@cache
def recipes() -> dict[str, Callable[[], Experiment]]:
    """All recipes by name: `steerrec:beauty` is the function `beauty` of `recipes/steerrec.py`."""
    return {name: function for model in _models_with_recipes() for name, function in recipes_of(model).items()}


@cache
def recipes_of(model: str) -> dict[str, Callable[[], Experiment]]:
    """The recipes of one model by name; none where there is no such model."""
    if model not in _models_with_recipes():
        return {}
    module = importlib.import_module(f"guiderec.recipes.{model}")
    return {
        f"{model}:{name}": function
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
    }


def _models_with_recipes() -> list[str]:
    """In alphabetical order."""
    package = importlib.import_module("guiderec.recipes")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name not in _NOT_RECIPES)


def recipe(name: str) -> Experiment:
    """The experiment of a recipe, by name. Raises ConfigError with the nearest name."""
    found = recipes_of(name.partition(":")[0])  # of one model, since all take a while to load
    if name not in found:
        raise _no_recipe(name)
    experiment = found[name]()
    return experiment.replace(recipe=name)


def _no_recipe(name: str) -> ConfigError:
    """The error for a name that no recipe has; of a model alone, with the recipes of that model."""
    if own := list(recipes_of(name)):
        usual = f"{name}:default" if f"{name}:default" in own else own[0]
        return ConfigError(f"'{name}' is a model; its recipes are {', '.join(own)}.", hint=f"for example {usual}")
    return ConfigError(
        f"There is no recipe '{name}'.{nearest(name, recipes())}", hint="`guiderec recipes` lists all of them"
    )

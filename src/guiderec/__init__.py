"""GuideRec: guided-diffusion sequential recommendation.

    data = guiderec.load("data/amazon-beauty/user-split")
    model = guiderec.fit("steerrec:beauty", data, overrides={"model.dim": 512})
    model.recommend([["B001", "B002"]], k=10, dislikes=[["B003"]])

The names below are the public interface. They are imported when first used, so that `import guiderec` is quick.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guiderec.api import configure, fit, load, tune
    from guiderec.data.dataset import Dataset, Fingerprint, Vocabulary
    from guiderec.data.interactions import Interactions
    from guiderec.data.prepared import save
    from guiderec.data.protocols import (
        DrawnImpressions,
        GlobalTime,
        ImpressionSplit,
        LeaveOneOut,
        SessionSplit,
        UserSplit,
    )
    from guiderec.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        GuideRecError,
        NotFittedError,
        ScoreError,
        TrainingError,
    )
    from guiderec.model import Model
    from guiderec.recipes.experiment import Experiment
    from guiderec.recipes.registry import recipe
    from guiderec.wishes import Category

_HOMES = {
    "configure": "api",
    "fit": "api",
    "load": "api",
    "tune": "api",
    "Dataset": "data.dataset",
    "Fingerprint": "data.dataset",
    "Vocabulary": "data.dataset",
    "Interactions": "data.interactions",
    "save": "data.prepared",
    "DrawnImpressions": "data.protocols",
    "GlobalTime": "data.protocols",
    "ImpressionSplit": "data.protocols",
    "LeaveOneOut": "data.protocols",
    "SessionSplit": "data.protocols",
    "UserSplit": "data.protocols",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "GuideRecError": "errors",
    "NotFittedError": "errors",
    "ScoreError": "errors",
    "TrainingError": "errors",
    "Model": "model",
    "Experiment": "recipes.experiment",
    "recipe": "recipes.registry",
    "Category": "wishes",
}

__version__ = version("guiderec")
__all__ = [
    "Category",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Dataset",
    "DrawnImpressions",
    "Experiment",
    "Fingerprint",
    "GlobalTime",
    "GuideRecError",
    "ImpressionSplit",
    "Interactions",
    "LeaveOneOut",
    "Model",
    "NotFittedError",
    "ScoreError",
    "SessionSplit",
    "TrainingError",
    "UserSplit",
    "Vocabulary",
    "configure",
    "fit",
    "load",
    "recipe",
    "save",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'guiderec' has no attribute {name!r}")
    return getattr(import_module(f"guiderec.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

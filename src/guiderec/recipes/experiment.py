"""`Experiment`: everything that decides a result, apart from the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from guiderec.config import Part
from guiderec.models.base import ModelConfig
from guiderec.recipes.registry import model_config
from guiderec.training.loop import Training


def _typed(data: Any) -> Any:
    return model_config(data) if isinstance(data, Mapping | ModelConfig) else data


class Experiment(Part):
    """A model, how it is trained, and how it is measured."""

    recipe: str = "custom"
    """Name of the recipe this came from; filled in by the registry."""
    model: Annotated[SerializeAsAny[ModelConfig], BeforeValidator(_typed)]
    """Which model, with its options. `name` chooses it."""
    training: Training = Training()
    """Optimiser, budget and stopping."""
    max_length: int = Field(10, ge=1)
    """L: the newest items of a history that a model is shown."""
    training_rows: Literal["protocol", "last", "every_prefix"] = "protocol"
    """Rows to train on: as the split's protocol says, only the last item of each training sequence, or every item that
    has one before it. The evaluation rows are the protocol's in any case."""
    metrics: tuple[str, ...] = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
    """What is reported."""
    seed: int = Field(0, ge=0)
    """Seeds initialisation, dropout, noise and the order of rows."""

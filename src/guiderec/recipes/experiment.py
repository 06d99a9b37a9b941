"""`Experiment`: everything that decides a result, apart from the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from guiderec.config import Part, override
from guiderec.errors import ConfigError
from guiderec.evaluation.metrics import parse_metrics
from guiderec.limits import MAX_SEED, beyond
from guiderec.models.base import ModelConfig
from guiderec.recipes.registry import model_config
from guiderec.training.loop import Training


def _typed(data: Any) -> Any:
    if not isinstance(data, Mapping):
        return data
    try:
        return model_config(data)
    except ConfigError as error:  # so that it is reported together with problems elsewhere, under `model`
        raise ValueError(str(error)) from None


def _names(metrics: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(metric.name for metric in parse_metrics(metrics))
    except ConfigError as error:
        raise ValueError(str(error)) from None


def recall_and_ndcg(*cutoffs: int) -> tuple[str, ...]:
    """`recall@5, recall@10, ..., ndcg@5, ndcg@10, ...`, what most papers print."""
    return tuple(f"{metric}@{k}" for metric in ("recall", "ndcg") for k in cutoffs)


class Experiment(Part):
    """A model, how it is trained, and how it is measured."""

    recipe: str = "custom"
    """Name of the recipe this came from; filled in by the registry."""
    model: Annotated[SerializeAsAny[ModelConfig], BeforeValidator(_typed)]
    """Which model, with its options. `name` chooses it."""
    training: Training = Training()
    """Optimiser, budget and stopping."""
    max_length: int = Field(10, ge=1)
    """L: the newest items of a history that a model is shown; at most `guiderec.limits.MAX_LENGTH`."""
    training_rows: Literal["protocol", "last", "every_prefix", "windows"] = "protocol"
    """Rows to train on: as the split's protocol says, only the last item of each training sequence, every item that has
    one before it, or so many windows of `max_length` that a model which learns every position of a row learns each of
    these items once. The evaluation rows are the protocol's in any case."""
    rows_per_epoch: int | None = Field(None, ge=1)
    """Of more training rows, an epoch has a sample of so many, another one every time. None: all."""
    validation_rows: int | None = Field(None, ge=1)
    """Of more validation rows, a sample of so many, the same one every time, is ranked to choose the best weights."""
    validation_options: dict[str, Any] = Field(default_factory=dict)
    """Options of the model, dotted, under which the validation rows are ranked to choose the best weights, such as
    fewer steps of a chain, where these cost much and choose alike: `{"generation.steps": 1}`. They leave the weights
    alone. What is stored and evaluated is the model under its own options."""
    dislikes: Literal["none", "earlier", "shown", "unclicked"] = "none"
    """What the model is told that the user of an evaluation row dislikes, where the data are impressions: nothing; what
    the user passed over in earlier impressions; all that the impression shows, of which the target is one; or what of
    it will be passed over, as SteerRec's paper has it, which gives the answer away."""
    metrics: tuple[str, ...] = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
    """What is reported."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Seeds initialisation, dropout, noise and the order of rows."""

    def with_model(self, **options: Any) -> Self:
        """The same experiment with some options of its model changed."""
        return self.replace(model=self.model.replace(**options))

    @field_validator("training")
    @classmethod
    def _known_metric(cls, training: Training) -> Training:
        """An unknown metric fails here and not after the first epoch; `HR@5` is stored as `recall@5`."""
        (name,) = _names((training.metric,))
        return training if name == training.metric else training.replace(metric=name)

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        return _names(metrics)

    @model_validator(mode="after")
    def _known_options(self) -> Experiment:
        self.validated_model()
        return self

    def validated_model(self) -> ModelConfig:
        """The model's options as they are when the validation rows are ranked."""
        try:
            return override(self.model, self.validation_options)
        except ConfigError as error:
            raise ValueError(f"validation_options: {error}") from None

    @model_validator(mode="after")
    def _model_takes_histories(self) -> Experiment:
        """Without this, a model would read the newest items alone and the record would claim longer histories."""
        longest = getattr(self.model, "max_length", None)
        if longest is not None and self.max_length > longest:
            raise ValueError(
                f"max_length = {self.max_length}, but the model reads {longest} items (model.max_length). "
                f"Hint: set both, max_length={self.max_length} and model.max_length={self.max_length}"
            )
        if found := beyond(self.model, self.max_length):  # here, and not when the trained model is to be stored
            raise ValueError(" ".join(found))
        return self

"""The conformance class must fail for models that break the contract: each fault below is one that models have had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guiderec.data.batch import Batch, Query
from guiderec.models.base import Recommender
from guiderec.models.sasrec import SASRec, SASRecConfig
from guiderec.rng import Noise
from guiderec.testing.conformance import ModelConformance

CONFIG = SASRecConfig(dim=8, layers=1, dropout=0.0, max_length=400)


class Sound(SASRec):
    pass


class LooksAtTheBatch(SASRec):
    def scores(self, query: Query, noise: Noise) -> Tensor:
        own = super().scores(query, noise)
        return own - own.mean(dim=0)


class ReadsPadding(SASRec):
    def scores(self, query: Query, noise: Noise) -> Tensor:
        return super().scores(query, noise) + self.items(query.history + 1).mean(dim=(1, 2))[:, None]


class UndefinedWithoutHistory(SASRec):
    def scores(self, query: Query, noise: Noise) -> Tensor:
        return super().scores(query, noise) / query.length[:, None].sign()


class FixedLength(SASRec):
    def scores(self, query: Query, noise: Noise) -> Tensor:
        if query.history.shape[1] > 200:
            raise IndexError("index out of range in self")
        return super().scores(query, noise)


class DropsAtInference(SASRec):
    def scores(self, query: Query, noise: Noise) -> Tensor:
        return nn.functional.dropout(super().scores(query, noise), 0.5)


class UnannouncedNoise(SASRec):
    def scores(self, query: Query, noise: Noise) -> Tensor:
        scores = super().scores(query, noise)
        return scores + noise.normal(query.key, scores.shape[1], "x", scores.dtype)


class ForgetsOnSaving(SASRec):
    def __init__(self, config: SASRecConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.secret = torch.randn(n_items + 1)

    def scores(self, query: Query, noise: Noise) -> Tensor:
        return super().scores(query, noise) + self.secret


class DeadParameter(SASRec):
    def __init__(self, config: SASRecConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.unused = nn.Parameter(torch.ones(3))


class ClimbsItsLoss(SASRec):
    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        parts = super().loss(batch, noise)
        return {"loss": 2 * parts["loss"].detach() - parts["loss"]}


class KnowsTheFuture(SASRec):
    """Reads the target of an evaluation batch."""

    def scores(self, query: Query, noise: Noise) -> Tensor:
        scores = super().scores(query, noise)
        if isinstance(query, Batch):
            scores = scores.scatter_add(1, query.target[:, None], torch.full_like(scores[:, :1], 100.0))
        return scores


class LearnsNothing(SASRec):
    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        return super().user_vectors(query, noise).roll(1, dims=2)


class OnlySinglePrecision(SASRec):
    def scores(self, query: Query, noise: Noise) -> Tensor:
        return super().scores(query, noise).float()


class ClaimsToSteer(SASRec):
    steers = True


class SteersInSecret(SASRec):
    def scores(self, query: Query, noise: Noise) -> Tensor:
        scores = super().scores(query, noise)
        return scores if query.dislikes is None else scores.scatter(1, query.dislikes, -1.0)


class OneColumnShort(SASRec):
    def scores(self, query: Query, noise: Noise) -> Tensor:
        return super().scores(query, noise)[:, 1:]


FAULTS: list[tuple[type[Recommender], str]] = [
    (LooksAtTheBatch, "test_row_alone_is_row_in_batch"),
    (ReadsPadding, "test_more_padding_changes_nothing"),
    (UndefinedWithoutHistory, "test_empty_history_has_an_answer"),
    (FixedLength, "test_long_history_has_an_answer"),
    (DropsAtInference, "test_scores_have_one_column_per_item"),
    (UnannouncedNoise, "test_other_seed_other_result"),
    (ForgetsOnSaving, "test_weights_survive_storage"),
    (DeadParameter, "test_loss_falls_and_reaches_every_parameter"),
    (ClimbsItsLoss, "test_loss_falls_and_reaches_every_parameter"),
    (KnowsTheFuture, "test_without_a_rule_it_stays_at_chance"),
    (LearnsNothing, "test_planted_rule_is_learnt"),
    (OnlySinglePrecision, "test_double_precision"),
    (ClaimsToSteer, "test_dislikes"),
    (SteersInSecret, "test_dislikes"),
    (OneColumnShort, "test_scores_have_one_column_per_item"),
]


def conformance(model: Callable[[SASRecConfig, int], Recommender], **claims: Any) -> ModelConformance:
    methods = {"make_model": lambda self: model(CONFIG, self.n_items), "steps": 60, "learning_rate": 1e-2, **claims}
    return type("Planted", (ModelConformance,), methods)()


@pytest.mark.parametrize("test", sorted({test for _, test in FAULTS}))
def test_sound_model_passes(test: str):
    getattr(conformance(Sound), test)()


@pytest.mark.parametrize(("model", "test"), FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_fault_is_found(model: type[Recommender], test: str):
    with pytest.raises((AssertionError, IndexError)):
        getattr(conformance(model), test)()


@pytest.mark.parametrize(
    ("claim", "test"),
    [
        ({"noise_in_scores": True}, "test_other_seed_other_result"),
        ({"noise_in_loss": True}, "test_other_seed_other_result"),
        ({"without_gradient": frozenset({"items.weight"})}, "test_loss_falls_and_reaches_every_parameter"),
        ({"personal": False}, "test_planted_rule_is_learnt"),
    ],
)
def test_false_claim_is_found(claim: dict[str, Any], test: str):
    """A claim that a model does not need is refused, so that claims stay true."""
    with pytest.raises(AssertionError):
        getattr(conformance(Sound, **claim), test)()


def test_a_model_must_be_given():
    with pytest.raises(NotImplementedError, match="must say how to make its model"):
        ModelConformance().test_dislikes()

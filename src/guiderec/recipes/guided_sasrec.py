"""Guided SASRec, ours: SASRec's accuracy with likes and dislikes that steer."""

from __future__ import annotations

from guiderec.models.guided_sasrec import GuidedSASRecConfig
from guiderec.recipes.experiment import Experiment
from guiderec.training.loop import Training


def beauty() -> Experiment:
    """Guided SASRec, Beauty, user split: encoder, budget and selection of `sasrec:beauty`."""
    model = GuidedSASRecConfig(dim=128, layers=2, heads=2, dropout=0.4, max_length=10)
    training = Training(batch_size=256, learning_rate=1e-3, epochs=40, patience=5, metric="recall@5")
    return Experiment(model=model, training=training, max_length=10)

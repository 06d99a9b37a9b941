"""PreferDiff (ICLR 2025), the strongest baseline of SteerRec's Table 1."""

from __future__ import annotations

from guiderec.diffusion.guidance import ClassifierFree
from guiderec.models.preferdiff import PreferDiffConfig
from guiderec.recipes.experiment import Experiment
from guiderec.training.loop import Training


def _authors(balance: float, w: float) -> Experiment:
    """Settings of the authors' README, at width 3072 with cosine error."""
    model = PreferDiffConfig(balance=balance, guidance=ClassifierFree(scale=w))
    training = Training(batch_size=256, learning_rate=1e-4, epochs=150, patience=10, metric="recall@5")
    return Experiment(model=model, training=training, max_length=10)


def beauty() -> Experiment:
    """PreferDiff, SteerRec's Table 1, Beauty, user split: Recall@5 0.0420, NDCG@5 0.0307, 0.0509, 0.0336."""
    return _authors(balance=0.4, w=8.0)


def sports() -> Experiment:
    """PreferDiff, SteerRec's Table 1, Sports, user split: Recall@5 0.0188, NDCG@5 0.0148, 0.0222, 0.0159."""
    return _authors(balance=0.4, w=2.0)


def toys() -> Experiment:
    """PreferDiff, SteerRec's Table 1, Toys, user split: Recall@5 0.0453, NDCG@5 0.0347, 0.0525, 0.0370."""
    return _authors(balance=0.6, w=6.0)


def mind() -> Experiment:
    """PreferDiff, SteerRec's Figure 13, MIND-small (Table 6: w = 4, rate 1e-4). The figure prints no number."""
    return _authors(balance=0.4, w=4.0)

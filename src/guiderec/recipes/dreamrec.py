"""DreamRec (NeurIPS 2023), as a baseline of SteerRec's Table 1."""

from __future__ import annotations

from guiderec.diffusion.guidance import ClassifierFree
from guiderec.diffusion.schedule import Linear
from guiderec.models.dreamrec import DreamRecConfig
from guiderec.recipes.experiment import Experiment
from guiderec.training.loop import Training


def beauty() -> Experiment:
    """DreamRec, SteerRec's Table 1, Beauty, user split: Recall@5 0.0387, NDCG@5 0.0278, 0.0481, 0.0314.

    At SteerRec's width and encoder (3072, two heads); w, T and the learning rate are not given there: ours are 2,
    1000 and 1e-4.
    """
    model = DreamRecConfig(
        dim=3072, heads=2, residual="double", schedule=Linear(steps=1000), guidance=ClassifierFree(scale=2.0)
    )
    training = Training(batch_size=256, learning_rate=1e-4, epochs=150, patience=10, metric="recall@5")
    return Experiment(model=model, training=training, max_length=10)


def sports() -> Experiment:
    """DreamRec, SteerRec's Table 1, Sports, user split: Recall@5 0.0147, NDCG@5 0.0132, 0.0207, 0.0134."""
    return beauty()


def toys() -> Experiment:
    """DreamRec, SteerRec's Table 1, Toys, user split: Recall@5 0.0425, NDCG@5 0.0315, 0.0476, 0.0342."""
    return beauty()

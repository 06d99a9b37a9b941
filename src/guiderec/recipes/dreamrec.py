"""DreamRec (NeurIPS 2023), as a baseline of SteerRec's Table 1 (user split) and ADIGRec's Table 2 (sessions).

Numbers of ADIGRec's table are percent: HR@5, 10, 20, 50 and NDCG@5, 10, 20, 50.
"""

from __future__ import annotations

from guiderec.diffusion.guidance import ClassifierFree
from guiderec.diffusion.schedule import Exponential, Linear
from guiderec.models.dreamrec import DreamRecConfig
from guiderec.recipes.experiment import Experiment, recall_and_ndcg
from guiderec.training.loop import Training

SESSIONS = recall_and_ndcg(5, 10, 20, 50)


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


def zhihu() -> Experiment:
    """DreamRec, ADIGRec's Table 2, Zhihu: HR 0.58, 1.29, 2.11, 3.66; NDCG 0.34, 0.56, 0.76, 1.07.

    The authors' instructions for Zhihu: d = 64, T = 500, linear betas, w = 4, batch 256, learning rate 1e-2.
    """
    training = Training(batch_size=256, learning_rate=1e-2, epochs=100, patience=10, metric="ndcg@20")
    return Experiment(model=DreamRecConfig(), training=training, max_length=10, metrics=SESSIONS)


def yoochoose() -> Experiment:
    """DreamRec, ADIGRec's Table 2, YooChoose: HR 3.42, 4.05, 4.76, 8.35; NDCG 1.54, 1.74, 1.93, 2.61.

    The authors' instructions for YooChoose: T = 500, the exponential schedule, w = 2, learning rate 1e-3.
    """
    base = zhihu()
    model = DreamRecConfig(schedule=Exponential(steps=500), guidance=ClassifierFree(scale=2.0))
    return base.replace(model=model, training=base.training.replace(learning_rate=1e-3))

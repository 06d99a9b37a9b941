"""L-DiffRec (SIGIR 2023) under the session split, beside DiffRec. ADIGRec's Table 2 has no row for it."""

from __future__ import annotations

from guiderec.models.ldiffrec import LDiffRecConfig
from guiderec.nn.profile import TimeWeighted
from guiderec.recipes.experiment import Experiment, recall_and_ndcg
from guiderec.training.loop import Training

METRICS = recall_and_ndcg(5, 10, 20, 50)


def zhihu() -> Experiment:
    """L-DiffRec on Zhihu: two clusters, D = 300, trained to restore the profile of a session.

    Settings of its code; one learning rate, 5e-4, where the code has two.
    """
    return _authors(LDiffRecConfig())


def yoochoose() -> Experiment:
    """L-DiffRec on YooChoose: as on Zhihu."""
    return _authors(LDiffRecConfig())


def kuairec() -> Experiment:
    """L-DiffRec on KuaiRec: as on Zhihu."""
    return _authors(LDiffRecConfig())


def zhihu_time_weighted() -> Experiment:
    """LT-DiffRec: L-DiffRec over the time-weighted profiles of T-DiffRec."""
    return zhihu().with_model(profile=TimeWeighted())


def zhihu_one_encoder() -> Experiment:
    """Ours: L-DiffRec without clusters, one encoder for all items."""
    return zhihu().with_model(clusters=1)


def zhihu_target() -> Experiment:
    """Ours: L-DiffRec trained to answer with the next item alone, so that the history does not come first."""
    return zhihu().with_model(answer="target").replace(training_rows="protocol")


def _authors(model: LDiffRecConfig) -> Experiment:
    """What all data sets share. Windows: every item of a session is in one profile, of 11 items at most."""
    training = Training(
        batch_size=400, learning_rate=5e-4, epochs=1000, validate_every_epochs=5, patience=4, metric="ndcg@20"
    )
    return Experiment(model=model, training=training, max_length=10, training_rows="windows", metrics=METRICS)

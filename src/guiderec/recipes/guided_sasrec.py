"""Guided SASRec, ours: SASRec's accuracy or better, with likes and dislikes that steer. What `fit` does by default."""

from __future__ import annotations

from guiderec.models.guided_sasrec import GuidedSASRecConfig
from guiderec.recipes import sasrec
from guiderec.recipes.experiment import Experiment, recall_and_ndcg
from guiderec.training.loop import Training


def default() -> Experiment:
    """Guided SASRec for a catalogue that nobody has tuned it for: some thousand to some ten thousand items.

    Every row teaches the item after each of its positions, so it is given each item of a sequence once. What ends the
    training is patience, which is counted in steps where epochs have few.
    """
    model = GuidedSASRecConfig(dim=128, layers=2, heads=2, dropout=0.2, max_length=50)
    return Experiment(model=model, training=sasrec.default().training, max_length=50, training_rows="windows")


def beauty() -> Experiment:
    """Guided SASRec, Beauty, user split: encoder, budget and selection of `sasrec:beauty`."""
    model = GuidedSASRecConfig(dim=128, layers=2, heads=2, dropout=0.4, max_length=10)
    training = Training(batch_size=256, learning_rate=1e-3, epochs=40, patience=5, metric="recall@5")
    return Experiment(model=model, training=training, max_length=10)


def sports() -> Experiment:
    """Guided SASRec, Sports, user split: as `beauty`."""
    return beauty()


def toys() -> Experiment:
    """Guided SASRec, Toys, user split: as `beauty`."""
    return beauty()


def beauty_leave_one_out() -> Experiment:
    """Guided SASRec, Beauty, leave-one-out: encoder, rows, budget and selection of `sasrec:beauty_leave_one_out`."""
    model = GuidedSASRecConfig(dim=128, layers=2, heads=2, dropout=0.4, max_length=50)
    training = Training(batch_size=256, learning_rate=1e-3, epochs=100, patience=10, metric="ndcg@10")
    metrics = recall_and_ndcg(5, 10, 20)
    return Experiment(model=model, training=training, max_length=50, training_rows="windows", metrics=metrics)


def toys_leave_one_out() -> Experiment:
    """Guided SASRec, Toys, leave-one-out: as `beauty_leave_one_out`."""
    return beauty_leave_one_out()


def movielens_1m_leave_one_out() -> Experiment:
    """Guided SASRec, ML-1M, leave-one-out; less dropout, as `sasrec:movielens_1m_leave_one_out`."""
    base = beauty_leave_one_out()
    return base.with_model(dropout=0.2)


def movielens_latest_small() -> Experiment:
    """Guided SASRec, MovieLens latest-small, ratings of 3.5 and more, leave-one-out: smaller batches, more dropout."""
    model = GuidedSASRecConfig(dim=128, layers=2, heads=2, dropout=0.4, max_length=50)
    training = Training(batch_size=64, learning_rate=1e-3, epochs=60, patience=8, metric="recall@10")
    return Experiment(model=model, training=training, max_length=50, training_rows="windows")


def demo() -> Experiment:
    """Guided SASRec at a width for the embedded synthetic catalogue; encoder and budget of `sasrec:demo`."""
    model = GuidedSASRecConfig(dim=64, layers=1, heads=2, dropout=0.1, max_length=10)
    training = Training(batch_size=256, learning_rate=3e-3, epochs=15, patience=3, metric="recall@10")
    return Experiment(model=model, training=training, metrics=("recall@10", "ndcg@10"))

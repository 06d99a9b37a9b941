"""STOSA (WWW 2022) as its authors train it, leave-one-out as in AlignDiff's Table 2, and variants of our own.

AlignDiff's numbers are in percent: HR@5, 10, 20, then NDCG@5, 10, 20. It does not say how its STOSA was set, nor
whether it was the public code, whose means are not updated: `model.means=input`.
"""

from __future__ import annotations

from guiderec.models.stosa import STOSAConfig
from guiderec.nn.next_item import CrossEntropy
from guiderec.recipes.experiment import Experiment, recall_and_ndcg
from guiderec.training.loop import Training

METRICS = recall_and_ndcg(5, 10, 20)


def beauty_leave_one_out() -> Experiment:
    """STOSA, AlignDiff's Table 2, Beauty, leave-one-out: HR 3.5457, 6.2048, 9.5939; NDCG 2.5554, 3.2085, 3.7609.

    The authors' settings for Beauty, on the rows of `sasrec:beauty_leave_one_out`: 50 items and not 100. Patience is
    long for it, since one negative for each position teaches little at a time; the authors have 500 epochs, and end
    after 100 without a better MRR.
    """
    training = Training(batch_size=256, learning_rate=1e-3, epochs=500, patience=20, metric="ndcg@10")
    return Experiment(
        model=STOSAConfig(max_length=50), training=training, max_length=50, training_rows="windows", metrics=METRICS
    )


def toys_leave_one_out() -> Experiment:
    """STOSA, AlignDiff's Table 2, Toys, leave-one-out: HR 4.2236, 6.9393, 9.5096; NDCG 3.1017, 3.8806, 4.3789."""
    return beauty_leave_one_out()


def movielens_1m_leave_one_out() -> Experiment:
    """STOSA, AlignDiff's Table 2, ML-1M: HR 7.0495, 14.3941, 24.9871; NDCG 3.7174, 6.0771, 8.7241."""
    return beauty_leave_one_out()


# ------------------------------------------------------------------------------------------------------------- ours


def beauty() -> Experiment:
    """Ours: STOSA with the softmax over all items, Beauty, user split; rows and budget of `sasrec:beauty`.

    No paper shows STOSA under this protocol.
    """
    model = STOSAConfig(max_length=10, objective=CrossEntropy())
    training = Training(batch_size=256, learning_rate=1e-3, epochs=40, patience=5, metric="recall@5")
    return Experiment(model=model, training=training, max_length=10)


def demo() -> Experiment:
    """Ours: STOSA with the softmax over all items, for the embedded synthetic catalogue."""
    model = STOSAConfig(dropout=0.1, max_length=10, objective=CrossEntropy())
    training = Training(batch_size=256, learning_rate=3e-3, epochs=15, patience=3, metric="recall@10")
    return Experiment(model=model, training=training, metrics=("recall@10", "ndcg@10"))

"""Caser (WSDM 2018) as its authors train it, leave-one-out as in AlignDiff's Table 2, and variants of our own.

AlignDiff's numbers are in percent: HR@5, 10, 20, then NDCG@5, 10, 20. It does not say how its Caser was set.
"""

from __future__ import annotations

from guiderec.models.caser import CaserConfig
from guiderec.nn.next_item import CrossEntropy
from guiderec.recipes.experiment import Experiment, recall_and_ndcg
from guiderec.training.loop import Training

METRICS = recall_and_ndcg(5, 10, 20)


def beauty_leave_one_out() -> Experiment:
    """Caser, AlignDiff's Table 2, Beauty, leave-one-out: HR 1.6118, 2.8166, 4.4048; NDCG 0.9758, 1.3602, 1.7595.

    All of the authors' settings; rows and the choice of the epoch as in `sasrec:beauty_leave_one_out`. A row has up to
    50 items, of which Caser cuts windows of five.
    """
    training = Training(batch_size=512, learning_rate=1e-3, epochs=100, patience=10, metric="ndcg@10")
    return Experiment(model=CaserConfig(), training=training, max_length=50, training_rows="windows", metrics=METRICS)


def toys_leave_one_out() -> Experiment:
    """Caser, AlignDiff's Table 2, Toys, leave-one-out: HR 0.9622, 1.8317, 2.9500; NDCG 0.5707, 0.8510, 1.1293."""
    return beauty_leave_one_out()


def movielens_1m_leave_one_out() -> Experiment:
    """Caser, AlignDiff's Table 2, ML-1M: HR 7.1401, 13.3792, 22.5507; NDCG 4.1550, 6.1400, 8.4304."""
    return beauty_leave_one_out()


# ------------------------------------------------------------------------------------------------------------- ours


def beauty() -> Experiment:
    """Ours: Caser with the softmax over all items, Beauty, user split; rows and budget of `sasrec:beauty`.

    No paper shows Caser under this protocol. The next item alone is learnt, as it is the only one that is asked for,
    and items begin long enough to be seen beside the biases of the filters.
    """
    model = CaserConfig(dim=128, targets=1, init_std=0.5, objective=CrossEntropy())
    training = Training(batch_size=256, learning_rate=1e-3, epochs=40, patience=5, metric="recall@5")
    return Experiment(model=model, training=training, max_length=10)


def demo() -> Experiment:
    """Ours: Caser at a width for the embedded synthetic catalogue; changed as in `beauty`."""
    model = CaserConfig(dim=64, targets=1, init_std=0.5, dropout=0.2, objective=CrossEntropy())
    training = Training(batch_size=64, learning_rate=1e-2, epochs=15, patience=3, metric="recall@10")
    return Experiment(model=model, training=training, metrics=("recall@10", "ndcg@10"))

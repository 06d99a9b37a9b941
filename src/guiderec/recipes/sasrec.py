"""SASRec (ICDM 2018), the baseline that every table needs, trained both as it was denied and as it deserves."""

from __future__ import annotations

from guiderec.models.sasrec import SASRecConfig
from guiderec.recipes.experiment import Experiment
from guiderec.training.loop import Training


def beauty() -> Experiment:
    """SASRec trained properly, Beauty, user split: cross-entropy over all items at every position of a row.

    SteerRec's Table 1 prints 0.0098, 0.0069, 0.0156, 0.0088 for SASRec.
    """
    model = SASRecConfig(dim=128, layers=2, heads=2, dropout=0.4, max_length=10)
    training = Training(batch_size=256, learning_rate=1e-3, epochs=40, patience=5, metric="recall@5")
    return Experiment(model=model, training=training, max_length=10)


def sports() -> Experiment:
    """SASRec trained properly, Sports. SteerRec's Table 1 prints 0.0042, 0.0028, 0.0053, 0.0032."""
    return beauty()


def toys() -> Experiment:
    """SASRec trained properly, Toys. SteerRec's Table 1 prints 0.0108, 0.0088, 0.0165, 0.0107."""
    return beauty()


def beauty_last_position() -> Experiment:
    """SASRec with one target per user, the last item, as the user-split protocol trains: cross-entropy, d = 128."""
    base = beauty()
    return base.replace(model=base.model.replace(predict="last_position"))


def demo() -> Experiment:
    """Ours: SASRec at a width for the embedded synthetic catalogue."""
    model = SASRecConfig(dim=64, layers=1, heads=2, dropout=0.1, max_length=10)
    training = Training(batch_size=256, learning_rate=3e-3, epochs=15, patience=3, metric="recall@10")
    return Experiment(model=model, training=training, metrics=("recall@10", "ndcg@10"))

"""CL4SRec (ICDE 2022) with the encoder, rows and budget of `sasrec`, so that the two differ in the contrast alone.

Augmentations, weight and temperature are those of its usual re-implementation. SteerRec's paper, whose table has these
numbers, says nothing of how it trained it; its dropout, norms and width there are SASRec's here.
"""

from __future__ import annotations

from guiderec.models.cl4srec import CL4SRecConfig, Crop, Mask, Reorder
from guiderec.recipes.experiment import Experiment, recall_and_ndcg
from guiderec.training.loop import Training


def beauty() -> Experiment:
    """CL4SRec, SteerRec's Table 1, Beauty, user split: 0.0226, 0.0119, 0.0327, 0.0169."""
    model = CL4SRecConfig(dim=128, layers=2, heads=2, dropout=0.4, norm="pre", max_length=10)
    training = Training(batch_size=256, learning_rate=1e-3, epochs=40, patience=5, metric="recall@5")
    return Experiment(model=model, training=training, max_length=10)


def sports() -> Experiment:
    """CL4SRec, SteerRec's Table 1, Sports, user split: 0.0112, 0.0075, 0.0151, 0.0085."""
    return beauty()


def toys() -> Experiment:
    """CL4SRec, SteerRec's Table 1, Toys, user split: 0.0227, 0.0145, 0.0330, 0.0170."""
    return beauty()


# ------------------------------------------------------------------------------------------------------------- ours


def beauty_crop() -> Experiment:
    """Ours: CL4SRec on Beauty, both views by cropping, one of the three that its paper looks at alone."""
    return beauty().with_model(augmentations=(Crop(),))


def beauty_mask() -> Experiment:
    """Ours: CL4SRec on Beauty, both views by hiding items."""
    return beauty().with_model(augmentations=(Mask(),))


def beauty_reorder() -> Experiment:
    """Ours: CL4SRec on Beauty, both views by shuffling."""
    return beauty().with_model(augmentations=(Reorder(),))


def beauty_leave_one_out() -> Experiment:
    """Ours: CL4SRec on Beauty under leave-one-out, the protocol of its own paper, with the rows of `sasrec`."""
    model = CL4SRecConfig(dim=128, layers=2, heads=2, dropout=0.4, norm="pre", max_length=50)
    training = Training(batch_size=256, learning_rate=1e-3, epochs=100, patience=10, metric="ndcg@10")
    metrics = recall_and_ndcg(5, 10, 20)
    return Experiment(model=model, training=training, max_length=50, training_rows="windows", metrics=metrics)


def demo() -> Experiment:
    """Ours: CL4SRec for the embedded synthetic catalogue, with the encoder of `sasrec:demo`."""
    model = CL4SRecConfig(dim=64, layers=1, heads=2, dropout=0.1, norm="pre", max_length=10)
    training = Training(batch_size=256, learning_rate=3e-3, epochs=15, patience=3, metric="recall@10")
    return Experiment(model=model, training=training, metrics=("recall@10", "ndcg@10"))

"""BERT4Rec (CIKM 2019), at the width and on the rows of `sasrec`, so that the two differ in the model.

Masks, dropout, warm-up, weight decay and the bound on the gradient are the authors'. Their rate of 1e-4, falling to 0
over 400,000 steps, is not: it is SASRec's here, and early stopping ends the training. The papers that print these
numbers say nothing of how they trained it.
"""

from __future__ import annotations

from guiderec.models.bert4rec import BERT4RecConfig
from guiderec.recipes.experiment import Experiment, recall_and_ndcg
from guiderec.training.loop import Training


def beauty() -> Experiment:
    """BERT4Rec, SteerRec's Table 1, Beauty, user split: 0.0152, 0.0105, 0.0266, 0.0141.

    Patience is long for it: it learns slower than SASRec, some positions of a row at a time.
    """
    model = BERT4RecConfig(dim=128, max_length=10)
    return Experiment(model=model, training=_training(epochs=200, metric="recall@5"), max_length=10)


def sports() -> Experiment:
    """BERT4Rec, SteerRec's Table 1, Sports, user split: 0.0101, 0.0051, 0.0149, 0.0073."""
    return beauty()


def toys() -> Experiment:
    """BERT4Rec, SteerRec's Table 1, Toys, user split: 0.0221, 0.0124, 0.0308, 0.0165."""
    return beauty()


def beauty_leave_one_out() -> Experiment:
    """BERT4Rec, AlignDiff's Table 2, Beauty, leave-one-out, percent.

    HR@5, 10, 20 2.1326, 3.7160, 5.7922; NDCG 1.3207, 1.8219, 2.3541.
    """
    metrics = recall_and_ndcg(5, 10, 20)
    return Experiment(
        model=BERT4RecConfig(dim=128, max_length=50),
        training=_training(epochs=200, metric="ndcg@10"),
        max_length=50,
        training_rows="windows",
        metrics=metrics,
    )


def toys_leave_one_out() -> Experiment:
    """BERT4Rec, AlignDiff's Table 2, Toys, leave-one-out, percent.

    HR@5, 10, 20 1.9260, 2.9312, 4.5889; NDCG 1.1630, 1.4870, 1.9038.
    """
    return beauty_leave_one_out()


def movielens_1m_leave_one_out() -> Experiment:
    """BERT4Rec, AlignDiff's Table 2, ML-1M, leave-one-out, percent; masks and dropout of the authors for these data.

    HR@5, 10, 20 13.6393, 20.5675, 29.9479; NDCG 8.8922, 11.1251, 13.4763.
    """
    return beauty_leave_one_out().with_model(masked=0.2, dropout=0.2)


# ------------------------------------------------------------------------------------------------------------- ours


def beauty_newest_only() -> Experiment:
    """Ours: BERT4Rec that is always asked for the newest item, as a request asks: what is left without Cloze."""
    return beauty().with_model(newest_only=1.0)


def default() -> Experiment:
    """Ours: BERT4Rec for a catalogue that nobody has tuned it for; rows of `sasrec:default`, more patience."""
    return Experiment(
        model=BERT4RecConfig(dim=128, max_length=50),
        training=_training(epochs=1000, metric="recall@10").replace(batch_size=64, validate_after_steps=100),
        max_length=50,
        training_rows="windows",
    )


def demo() -> Experiment:
    """Ours: BERT4Rec for the embedded synthetic catalogue; half of its rows ask for the newest item, as requests do."""
    model = BERT4RecConfig(
        layers=1, dropout=0.1, attention_dropout=0.1, max_length=10, masked=0.2, newest_only=0.5, counting="from_end"
    )
    training = Training(batch_size=256, learning_rate=3e-3, epochs=15, patience=3, metric="recall@10")
    return Experiment(model=model, training=training, training_rows="every_prefix", metrics=("recall@10", "ndcg@10"))


def _training(*, epochs: int, metric: str) -> Training:
    return Training(
        batch_size=256,
        learning_rate=1e-3,
        weight_decay=0.01,
        warmup_steps=100,
        clip_norm=5.0,
        epochs=epochs,
        patience=20,
        metric=metric,
    )

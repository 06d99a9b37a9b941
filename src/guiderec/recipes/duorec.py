"""DuoRec (WSDM 2022) with the encoder, rows and budget of `sasrec`, so that the two differ in the contrast alone.

Pairs, weights and temperature are those of the authors' code. ADIGRec's Table 2, percent: HR@5, 10, 20, 50; NDCG@5, 10,
20, 50. Its paper does not say how it trained DuoRec.
"""

from __future__ import annotations

from guiderec.models.duorec import DuoRecConfig
from guiderec.recipes.experiment import Experiment, recall_and_ndcg
from guiderec.training.loop import Training


def zhihu() -> Experiment:
    """DuoRec, ADIGRec's Table 2, Zhihu: HR 0.46, 1.16, 2.06, 4.86; NDCG 0.28, 0.54, 0.74, 1.31."""
    model = DuoRecConfig(dim=64, layers=2, heads=2, dropout=0.4, norm="pre", max_length=10)
    training = Training(batch_size=256, learning_rate=1e-3, epochs=100, patience=10, metric="ndcg@20")
    metrics = recall_and_ndcg(5, 10, 20, 50)
    return Experiment(model=model, training=training, max_length=10, metrics=metrics)


def yoochoose() -> Experiment:
    """DuoRec, ADIGRec's Table 2, YooChoose: HR 2.67, 3.12, 4.54, 6.71; NDCG 1.21, 1.47, 1.71, 2.23."""
    return zhihu()


def kuairec() -> Experiment:
    """DuoRec, ADIGRec's Table 2, KuaiRec: HR 4.17, 4.32, 4.54, 8.12; NDCG 2.24, 2.35, 2.52, 3.72."""
    return zhihu()


# ------------------------------------------------------------------------------------------------------------- ours


def zhihu_dropout_pairs() -> Experiment:
    """Ours: DuoRec on Zhihu, contrasting two passes of a history and no others (`un` in the authors' code)."""
    return zhihu().with_model(pairs="un")


def zhihu_fair_negatives() -> Experiment:
    """Ours: DuoRec on Zhihu, where rows with the same target are no negatives of each other."""
    return zhihu().with_model(same_target_negatives="left_out")


def beauty() -> Experiment:
    """Ours: DuoRec on Beauty, user split, with the encoder of `sasrec:beauty`; every position of a row is learnt."""
    model = DuoRecConfig(dim=128, layers=2, heads=2, dropout=0.4, norm="pre", predict="every_position", max_length=10)
    training = Training(batch_size=256, learning_rate=1e-3, epochs=40, patience=5, metric="recall@5")
    return Experiment(model=model, training=training, max_length=10)


def beauty_leave_one_out() -> Experiment:
    """Ours: DuoRec on Beauty under leave-one-out, the protocol of its own paper: every prefix, as its code has it."""
    model = DuoRecConfig(dim=128, layers=2, heads=2, dropout=0.4, norm="pre", max_length=50)
    training = Training(batch_size=256, learning_rate=1e-3, epochs=100, patience=10, metric="ndcg@10")
    metrics = recall_and_ndcg(5, 10, 20)
    return Experiment(model=model, training=training, max_length=50, training_rows="every_prefix", metrics=metrics)


def demo() -> Experiment:
    """Ours: DuoRec for the embedded synthetic catalogue, with the encoder of `sasrec:demo` on every prefix."""
    model = DuoRecConfig(dim=64, layers=1, heads=2, dropout=0.1, norm="pre", max_length=10)
    training = Training(batch_size=256, learning_rate=3e-3, epochs=15, patience=3, metric="recall@10")
    return Experiment(model=model, training=training, training_rows="every_prefix", metrics=("recall@10", "ndcg@10"))

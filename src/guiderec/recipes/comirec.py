"""ComiRec (KDD 2020), with self-attentive interests (SA) and dynamic routing (DR).

Sessions (ADIGRec's Table 2, percent: HR@5, 10, 20, 50; NDCG@5, 10, 20, 50) and leave-one-out (AlignDiff's Table 2,
percent: HR@5, 10, 20; NDCG@5, 10, 20). Neither paper says whether its ComiRec is SA or DR: each number stands at both.
"""

from __future__ import annotations

from guiderec.models.comirec import ComiRecConfig, Routing, SelfAttentive
from guiderec.nn.next_item import CrossEntropy
from guiderec.recipes.experiment import Experiment, recall_and_ndcg
from guiderec.training.loop import Training

SESSIONS = recall_and_ndcg(5, 10, 20, 50)
LEAVE_ONE_OUT = recall_and_ndcg(5, 10, 20)


def zhihu() -> Experiment:
    """ComiRec-SA, ADIGRec's Table 2, Zhihu: HR 0.45, 1.05, 1.99, 4.89; NDCG 0.24, 0.43, 0.67, 1.24.

    K = 4 and d = 64 as in both papers, batch 256 and the windows of ADIGRec; the rate and negatives are ComiRec's.
    """
    training = Training(batch_size=256, learning_rate=1e-3, epochs=100, patience=10, metric="ndcg@20")
    return Experiment(model=ComiRecConfig(max_length=10), training=training, max_length=10, metrics=SESSIONS)


def yoochoose() -> Experiment:
    """ComiRec-SA, ADIGRec's Table 2, YooChoose: HR 2.81, 3.21, 5.25, 8.54; NDCG 1.18, 1.34, 1.82, 2.32."""
    return zhihu()


def kuairec() -> Experiment:
    """ComiRec-SA, ADIGRec's Table 2, KuaiRec: HR 4.01, 5.24, 6.84, 9.48; NDCG 3.28, 3.42, 4.27, 4.62."""
    return zhihu()


def beauty() -> Experiment:
    """ComiRec-SA, AlignDiff's Table 2, Beauty, leave-one-out: HR 2.0495, 4.4545, 7.6968; NDCG 1.0503, 1.8306, 2.6451.

    Rows, window and the choice of the epoch as in `diffurec:beauty`.
    """
    training = Training(batch_size=512, learning_rate=1e-3, epochs=100, patience=10, metric="ndcg@10")
    return Experiment(
        model=ComiRecConfig(max_length=50),
        training=training,
        max_length=50,
        validation_rows=5_000,
        metrics=LEAVE_ONE_OUT,
    )


def toys() -> Experiment:
    """ComiRec-SA, AlignDiff's Table 2, Toys, leave-one-out: HR 2.3026, 4.2901, 6.9357; NDCG 1.1571, 1.7953, 2.4631."""
    return beauty()


def movielens_1m() -> Experiment:
    """ComiRec-SA, AlignDiff's Table 2, ML-1M: HR 6.1073, 12.0406, 21.0094; NDCG 3.5214, 5.4076, 7.6502."""
    return beauty()


# --------------------------------------------------------------------------------------------------- dynamic routing


def zhihu_dr() -> Experiment:
    """ComiRec-DR, ADIGRec's Table 2, Zhihu: the numbers of `zhihu`. A rate of 5e-3, as in ComiRec's code for DR."""
    return _dr(zhihu())


def yoochoose_dr() -> Experiment:
    """ComiRec-DR, ADIGRec's Table 2, YooChoose: the numbers of `yoochoose`."""
    return _dr(yoochoose())


def kuairec_dr() -> Experiment:
    """ComiRec-DR, ADIGRec's Table 2, KuaiRec: the numbers of `kuairec`."""
    return _dr(kuairec())


def beauty_dr() -> Experiment:
    """ComiRec-DR, AlignDiff's Table 2, Beauty: the numbers of `beauty`."""
    return _dr(beauty())


def toys_dr() -> Experiment:
    """ComiRec-DR, AlignDiff's Table 2, Toys: the numbers of `toys`."""
    return _dr(toys())


def movielens_1m_dr() -> Experiment:
    """ComiRec-DR, AlignDiff's Table 2, ML-1M: the numbers of `movielens_1m`."""
    return _dr(movielens_1m())


# ------------------------------------------------------------------------------------------------------------- ours


def zhihu_full_softmax() -> Experiment:
    """Ours: ComiRec-SA on Zhihu with the softmax over all items, which a catalogue of this size affords."""
    return zhihu().with_model(objective=CrossEntropy())


def zhihu_covariance() -> Experiment:
    """Ours: ComiRec-SA on Zhihu with ADIGRec's regulariser of the routing, at its weight there, 1."""
    return zhihu().with_model(covariance=1.0)


def demo() -> Experiment:
    """Ours: ComiRec-SA for the embedded synthetic catalogue, with its positions counted from the newest item."""
    model = ComiRecConfig(max_length=10, extraction=SelfAttentive(counting="from_end"))
    training = Training(batch_size=256, learning_rate=3e-3, epochs=15, patience=3, metric="recall@10")
    return Experiment(model=model, training=training, training_rows="every_prefix", metrics=("recall@10", "ndcg@10"))


def _dr(base: Experiment) -> Experiment:
    return base.with_model(extraction=Routing()).replace(training=base.training.replace(learning_rate=5e-3))

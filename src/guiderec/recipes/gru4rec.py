"""GRU4Rec (ICLR 2016, CIKM 2018) in the tables of three papers, none of which says which loss its GRU4Rec has.

Here it is the softmax over all items, which the authors' sampled cross-entropy approximates and catalogues of this
size afford; so it differs from `sasrec` in the encoder alone. The authors' own losses are recipes of ours. All are
trained by AdamW, where the authors have Adagrad with momentum, smaller batches and rates of 0.05 to 0.1.
"""

from __future__ import annotations

from guiderec.models.gru4rec import BPRMax, GRU4RecConfig, SampledCrossEntropy
from guiderec.nn.next_item import CrossEntropy
from guiderec.recipes import sasrec
from guiderec.recipes.experiment import Experiment, recall_and_ndcg
from guiderec.training.loop import Training

SESSIONS = recall_and_ndcg(5, 10, 20, 50)
LEAVE_ONE_OUT = recall_and_ndcg(5, 10, 20)


def beauty() -> Experiment:
    """GRU4Rec, Beauty, user split, learnt at every position of a row, at the width and budget of `sasrec:beauty`.

    SteerRec's Table 1 prints 0.0090, 0.0058, 0.0090, 0.0072; with equal recalls the two NDCG cannot differ.
    """
    model = GRU4RecConfig(dim=128, embedding_dropout=0.4, dropout=0.2, max_length=10, objective=CrossEntropy())
    training = Training(batch_size=256, learning_rate=1e-3, epochs=40, patience=5, metric="recall@5")
    return Experiment(model=model, training=training, max_length=10)


def sports() -> Experiment:
    """GRU4Rec, Sports, user split. SteerRec's Table 1 prints 0.0019, 0.0017, 0.0026, 0.0020."""
    return beauty()


def toys() -> Experiment:
    """GRU4Rec, Toys, user split. SteerRec's Table 1 prints 0.0087, 0.0073, 0.0096, 0.0081."""
    return beauty()


def beauty_leave_one_out() -> Experiment:
    """GRU4Rec, AlignDiff's Table 2, Beauty: HR 1.0112, 1.9370, 3.8531; NDCG 0.6084, 0.9029, 1.3804.

    Percent, at 5, 10 and 20. Rows, width and budget as in `sasrec:beauty_leave_one_out`.
    """
    model = GRU4RecConfig(dim=128, embedding_dropout=0.4, dropout=0.2, max_length=50, objective=CrossEntropy())
    training = Training(batch_size=256, learning_rate=1e-3, epochs=100, patience=10, metric="ndcg@10")
    return Experiment(model=model, training=training, max_length=50, training_rows="windows", metrics=LEAVE_ONE_OUT)


def toys_leave_one_out() -> Experiment:
    """GRU4Rec, AlignDiff's Table 2, Toys: HR 1.1009, 1.8553, 3.1827; NDCG 0.6983, 0.9396, 1.2724."""
    return beauty_leave_one_out()


def movielens_1m_leave_one_out() -> Experiment:
    """GRU4Rec, AlignDiff's Table 2, ML-1M: HR 5.1139, 10.1664, 18.6995; NDCG 3.0529, 4.6754, 6.8228.

    Less dropout, since histories are long and items few.
    """
    return beauty_leave_one_out().with_model(embedding_dropout=0.2)


def zhihu() -> Experiment:
    """GRU4Rec, ADIGRec's Table 2, Zhihu: HR 0.44, 1.01, 1.81, 4.35; NDCG 0.24, 0.48, 0.72, 1.24.

    Percent, at 5, 10, 20 and 50. One target for each row at the width of ADIGRec, as `sasrec:zhihu` has it.
    """
    model = GRU4RecConfig(
        dim=64,
        embedding_dropout=0.4,
        dropout=0.2,
        max_length=10,
        predict="last_position",
        objective=CrossEntropy(),
    )
    training = Training(batch_size=256, learning_rate=1e-3, epochs=100, patience=10, metric="ndcg@20")
    return Experiment(model=model, training=training, max_length=10, metrics=SESSIONS)


def yoochoose() -> Experiment:
    """GRU4Rec, ADIGRec's Table 2, YooChoose: HR 2.64, 2.98, 4.12, 6.27; NDCG 1.12, 1.52, 1.76, 2.12."""
    return zhihu()


def kuairec() -> Experiment:
    """GRU4Rec, ADIGRec's Table 2, KuaiRec: HR 3.21, 3.23, 3.69, 6.98; NDCG 1.19, 1.56, 1.82, 3.28."""
    return zhihu()


# ------------------------------------------------------------------------------------------------------------- ours


def beauty_sampled() -> Experiment:
    """Ours: `beauty` with the authors' cross-entropy: targets of the batch, 2048 drawn items, logQ."""
    return beauty().with_model(objective=SampledCrossEntropy())


def beauty_bpr_max() -> Experiment:
    """Ours: `beauty` with BPR-max, at the authors' parameters for Diginetica."""
    return beauty().with_model(objective=BPRMax(alpha=0.3, bpreg=0.9, elu=1.0))


def zhihu_sampled() -> Experiment:
    """Ours: `zhihu` with the authors' cross-entropy."""
    return zhihu().with_model(objective=SampledCrossEntropy())


def default() -> Experiment:
    """Ours: GRU4Rec for a catalogue that nobody has tuned it for; rows and budget of `sasrec:default`."""
    model = GRU4RecConfig(dim=128, embedding_dropout=0.2, dropout=0.2, max_length=50, objective=CrossEntropy())
    return Experiment(model=model, training=sasrec.default().training, max_length=50, training_rows="windows")


def demo() -> Experiment:
    """Ours: GRU4Rec with the authors' cross-entropy for the embedded synthetic catalogue."""
    model = GRU4RecConfig(dim=64, dropout=0.1, max_length=10, objective=SampledCrossEntropy(samples=256))
    training = Training(batch_size=256, learning_rate=1e-2, epochs=15, patience=3, metric="recall@10")
    return Experiment(model=model, training=training, metrics=("recall@10", "ndcg@10"))

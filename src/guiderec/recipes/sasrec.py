"""SASRec (ICDM 2018), the baseline that every table needs, trained both as it was denied and as it deserves."""

from __future__ import annotations

from guiderec.models.sasrec import SASRecConfig
from guiderec.recipes.experiment import Experiment, recall_and_ndcg
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
    return base.with_model(predict="last_position")


def beauty_leave_one_out() -> Experiment:
    """SASRec trained properly, Beauty, leave-one-out, on the rows of DiffuRec and AlignDiff and at their width.

    Being causal, it learns all prefixes of a sequence in one pass. AlignDiff's Table 2 prints, in percent, HR@5, 10, 20
    3.2688, 6.2648, 8.9791 and NDCG 2.3989, 3.2305, 3.6563 for SASRec.
    """
    model = SASRecConfig(dim=128, layers=2, heads=2, dropout=0.4, max_length=50)
    training = Training(batch_size=256, learning_rate=1e-3, epochs=100, patience=10, metric="ndcg@10")
    metrics = recall_and_ndcg(5, 10, 20)
    return Experiment(model=model, training=training, max_length=50, training_rows="windows", metrics=metrics)


def toys_leave_one_out() -> Experiment:
    """SASRec trained properly, Toys, leave-one-out.

    AlignDiff's Table 2, in percent: HR@5, 10, 20 4.5333, 6.5496, 9.2263; NDCG 3.0105, 3.7533, 4.3323.
    """
    return beauty_leave_one_out()


def movielens_1m_leave_one_out() -> Experiment:
    """SASRec trained properly, ML-1M, leave-one-out; less dropout, since histories are long and items few.

    AlignDiff's Table 2, in percent: HR@5, 10, 20 9.3812, 16.8941, 28.318; NDCG 5.3165, 7.7277, 10.5946.
    """
    base = beauty_leave_one_out()
    return base.with_model(dropout=0.2)


def zhihu() -> Experiment:
    """SASRec with the softmax over all items, Zhihu, sessions, at the width of ADIGRec.

    One target for each row, as the other models have it: windows would leave out the first item of a session, so that
    the answer to an empty history were not learnt. ADIGRec's Table 2, in percent: HR@5, 10, 20, 50 0.41, 0.90, 1.75,
    4.12; NDCG 0.21, 0.45, 0.66, 1.12.
    """
    model = SASRecConfig(dim=64, layers=2, heads=2, dropout=0.4, max_length=10, predict="last_position")
    training = Training(batch_size=256, learning_rate=1e-3, epochs=100, patience=10, metric="ndcg@20")
    metrics = recall_and_ndcg(5, 10, 20, 50)
    return Experiment(model=model, training=training, max_length=10, metrics=metrics)


def yoochoose() -> Experiment:
    """SASRec with the softmax over all items, YooChoose, sessions.

    ADIGRec's Table 2, in percent: HR@5, 10, 20, 50 2.32, 2.78, 3.90, 5.29; NDCG 1.17, 1.39, 1.56, 1.99.
    """
    return zhihu()


def movielens_latest_small() -> Experiment:
    """SASRec, MovieLens latest-small: encoder, rows, budget and selection of `guided_sasrec:movielens_latest_small`."""
    model = SASRecConfig(dim=128, layers=2, heads=2, dropout=0.4, max_length=50)
    training = Training(batch_size=64, learning_rate=1e-3, epochs=60, patience=8, metric="recall@10")
    return Experiment(model=model, training=training, max_length=50, training_rows="windows")


def default() -> Experiment:
    """Ours: SASRec for a catalogue that nobody has tuned it for; all else as in `guided_sasrec:default`.

    On MovieLens latest-small an epoch has 23 steps (six with 256 rows a batch, where patience by epochs ended the
    training before it had begun).
    """
    model = SASRecConfig(dim=128, layers=2, heads=2, dropout=0.2, max_length=50)
    training = Training(
        batch_size=64, learning_rate=1e-3, epochs=1000, validate_after_steps=100, patience=5, metric="recall@10"
    )
    return Experiment(model=model, training=training, max_length=50, training_rows="windows")


def demo() -> Experiment:
    """Ours: SASRec at a width for the embedded synthetic catalogue."""
    model = SASRecConfig(dim=64, layers=1, heads=2, dropout=0.1, max_length=10)
    training = Training(batch_size=256, learning_rate=3e-3, epochs=15, patience=3, metric="recall@10")
    return Experiment(model=model, training=training, metrics=("recall@10", "ndcg@10"))

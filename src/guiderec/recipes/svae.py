"""SVAE (WSDM 2019) in AlignDiff's table, at the widths of its authors' code."""

from __future__ import annotations

from guiderec.models.svae import SVAEConfig
from guiderec.recipes.experiment import Experiment, recall_and_ndcg
from guiderec.training.loop import Training


def beauty_leave_one_out() -> Experiment:
    """SVAE, AlignDiff's Table 2, Beauty: HR 0.9943, 1.9745, 3.1552; NDCG 0.6702, 0.9863, 1.2867.

    Percent, at 5, 10 and 20. Rows, budget and selection as in `sasrec:beauty_leave_one_out`; widths, next items and
    beta of the authors. Their 200,000 updates of one user each, over which beta rises, are here as many rows.
    """
    model = SVAEConfig(max_length=50, kl_anneal_steps=200_000 // 256)
    training = Training(
        batch_size=256, learning_rate=1e-3, weight_decay=5e-3, epochs=100, patience=10, metric="ndcg@10"
    )
    metrics = recall_and_ndcg(5, 10, 20)
    return Experiment(model=model, training=training, max_length=50, training_rows="windows", metrics=metrics)


def toys_leave_one_out() -> Experiment:
    """SVAE, AlignDiff's Table 2, Toys: HR 0.9109, 1.3683, 1.9239; NDCG 0.5580, 0.7063, 0.8446."""
    return beauty_leave_one_out()


def movielens_1m_leave_one_out() -> Experiment:
    """SVAE, AlignDiff's Table 2, ML-1M: HR 1.4869, 2.7189, 5.0326; NDCG 0.9587, 1.2302, 1.8251."""
    return beauty_leave_one_out()


# ------------------------------------------------------------------------------------------------------------- ours


def beauty_leave_one_out_next_item() -> Experiment:
    """Ours: `beauty_leave_one_out` with k = 1, what the protocol asks."""
    base = beauty_leave_one_out()
    return base.with_model(next_k=1)


def demo() -> Experiment:
    """Ours: SVAE at a width for the embedded synthetic catalogue."""
    model = SVAEConfig(dim=32, item_dim=64, state_dim=64, hidden_dim=64, max_length=10, kl_anneal_steps=1000)
    training = Training(batch_size=256, learning_rate=1e-2, epochs=15, patience=3, metric="recall@10")
    return Experiment(model=model, training=training, metrics=("recall@10", "ndcg@10"))

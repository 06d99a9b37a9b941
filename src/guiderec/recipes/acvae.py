"""ACVAE (WWW 2021) in AlignDiff's table, at the widths and weights of its authors' code."""

from __future__ import annotations

from guiderec.models.acvae import ACVAEConfig
from guiderec.recipes.experiment import Experiment, recall_and_ndcg
from guiderec.training.loop import Training


def beauty_leave_one_out() -> Experiment:
    """ACVAE, AlignDiff's Table 2, Beauty: HR 2.4672, 3.8832, 6.1224; NDCG 1.6858, 2.1389, 2.7020.

    Percent, at 5, 10 and 20. Rows, budget and selection as in `sasrec:beauty_leave_one_out`; widths, dropout, weights
    of the terms and decay of the authors.
    """
    model = ACVAEConfig(max_length=50)
    training = Training(
        batch_size=256, learning_rate=1e-3, weight_decay=1e-2, epochs=100, patience=10, metric="ndcg@10"
    )
    metrics = recall_and_ndcg(5, 10, 20)
    return Experiment(model=model, training=training, max_length=50, training_rows="windows", metrics=metrics)


def toys_leave_one_out() -> Experiment:
    """ACVAE, AlignDiff's Table 2, Toys: HR 2.1897, 3.0749, 4.4061; NDCG 1.5604, 1.8452, 2.1814."""
    return beauty_leave_one_out()


def movielens_1m_leave_one_out() -> Experiment:
    """ACVAE, AlignDiff's Table 2, ML-1M: HR 12.7167, 19.9313, 28.9722; NDCG 8.2287, 10.5417, 12.8210."""
    return beauty_leave_one_out()


# ------------------------------------------------------------------------------------------------------------- ours


def beauty_leave_one_out_without_adversary() -> Experiment:
    """Ours: `beauty_leave_one_out` without the divergence: nothing keeps the latent vectors near N(0, I)."""
    base = beauty_leave_one_out()
    return base.with_model(kl_weight=0.0)


def beauty_leave_one_out_without_contrast() -> Experiment:
    """Ours: `beauty_leave_one_out` without the critic."""
    base = beauty_leave_one_out()
    return base.with_model(contrast_weight=0.0)


def demo() -> Experiment:
    """Ours: ACVAE at a width for the embedded synthetic catalogue."""
    model = ACVAEConfig(
        dim=64, item_dim=64, state_dim=64, judge_dim=64, embedding_dropout=0.1, dropout=0.1, max_length=10
    )
    training = Training(batch_size=256, learning_rate=1e-2, epochs=15, patience=3, metric="recall@10")
    return Experiment(model=model, training=training, metrics=("recall@10", "ndcg@10"))

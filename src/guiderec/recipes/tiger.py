"""TIGER (NeurIPS 2023), at the paper's sizes, with semantic ids from the training sequences and not from text.

Every prefix of a training sequence is a row, as the paper's model learns it; an epoch is a sample of them, so that
weights are looked at as often as elsewhere.
"""

from __future__ import annotations

from guiderec.models.tiger import ResidualKMeans, TIGERConfig
from guiderec.recipes.experiment import Experiment, recall_and_ndcg
from guiderec.training.loop import Training


def beauty() -> Experiment:
    """TIGER, SteerRec's Table 1, Beauty, user split: 0.0247, 0.0167, 0.0378, 0.0195.

    Its paper does not say which content it gave to TIGER.
    """
    return Experiment(
        model=TIGERConfig(max_length=10),
        training=_training("recall@5"),
        max_length=10,
        training_rows="every_prefix",
        rows_per_epoch=20_000,
    )


def sports() -> Experiment:
    """TIGER, SteerRec's Table 1, Sports, user split: 0.0091, 0.0065, 0.0160, 0.0091."""
    return beauty()


def toys() -> Experiment:
    """TIGER, SteerRec's Table 1, Toys, user split: 0.0187, 0.0129, 0.0251, 0.0158."""
    return beauty()


def beauty_leave_one_out() -> Experiment:
    """TIGER under the protocol of its own paper, Beauty, leave-one-out, histories of 20 items.

    No number to compare with: the paper's ids are made of text, and AlignDiff's Table 2 has no TIGER.
    """
    return Experiment(
        model=TIGERConfig(),
        training=_training("ndcg@10"),
        max_length=20,
        training_rows="every_prefix",
        rows_per_epoch=20_000,
        validation_rows=5_000,
        metrics=recall_and_ndcg(5, 10, 20),
    )


def sports_leave_one_out() -> Experiment:
    """TIGER under the protocol of its own paper, Sports, leave-one-out."""
    return beauty_leave_one_out()


def toys_leave_one_out() -> Experiment:
    """TIGER under the protocol of its own paper, Toys, leave-one-out."""
    return beauty_leave_one_out()


# ------------------------------------------------------------------------------------------------------------- ours


def beauty_k_means() -> Experiment:
    """Ours: TIGER on Beauty with ids from residual k-means of the content and not from RQ-VAE."""
    base = beauty()
    return base.with_model(quantiser=ResidualKMeans())


def demo() -> Experiment:
    """Ours: TIGER at sizes for the embedded synthetic catalogue, with ids from residual k-means."""
    model = TIGERConfig(
        max_length=10,
        content_dim=32,
        quantiser=ResidualKMeans(),
        levels=2,
        codewords=32,
        dim=64,
        heads=4,
        head_dim=16,
        hidden=128,
        encoder_layers=1,
        decoder_layers=1,
        position_std=2.0,
    )
    training = Training(batch_size=256, learning_rate=3e-3, epochs=15, patience=3, metric="recall@10")
    return Experiment(model=model, training=training, training_rows="every_prefix", metrics=("recall@10", "ndcg@10"))


def _training(metric: str) -> Training:
    return Training(batch_size=256, learning_rate=1e-3, warmup_steps=200, epochs=200, patience=10, metric=metric)

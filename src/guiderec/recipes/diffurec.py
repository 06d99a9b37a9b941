"""DiffuRec (TOIS 2023), the baseline of AlignDiff's Table 2 (leave-one-out) and of ADIGRec's Table 2 (sessions)."""

from __future__ import annotations

from guiderec.diffusion.schedule import TruncatedLinear
from guiderec.models.diffurec import DiffuRecConfig
from guiderec.recipes.experiment import Experiment, recall_and_ndcg
from guiderec.training.loop import Training

ONE_STEP = {"generation.sampler": "ddim", "generation.steps": 1}
METRICS = recall_and_ndcg(5, 10, 20)


def beauty() -> Experiment:
    """DiffuRec, AlignDiff's Table 2, Beauty: HR@5/10/20 5.5758, 7.9068, 11.1098; NDCG 4.0047, 4.7494, 5.5566 percent.

    Settings of the authors' code. It evaluates every 20 of 500 epochs and stops after five evaluations in which
    nothing improved; here every epoch is validated, on a sample of the users, with a patience of ten.
    """
    training = Training(batch_size=512, learning_rate=1e-3, epochs=100, patience=10, metric="ndcg@10")
    return Experiment(model=DiffuRecConfig(), training=training, max_length=50, validation_rows=5_000, metrics=METRICS)


def toys() -> Experiment:
    """DiffuRec, AlignDiff's Table 2, Toys: HR@5/10/20 5.5650, 7.4587, 9.8417; NDCG 4.1667, 4.7724, 5.3684 percent."""
    return beauty()


def movielens_1m() -> Experiment:
    """DiffuRec, AlignDiff's Table 2, ML-1M: HR 17.9659, 26.2647, 36.7870; NDCG 12.1150, 14.7909, 17.4386 percent."""
    return beauty()


def zhihu() -> Experiment:
    """DiffuRec, ADIGRec's Table 2, Zhihu: HR 0.56, 1.21, 1.82, 4.75; NDCG 0.33, 0.52, 0.71, 1.33.

    Percent, at 5, 10, 20, 50. The model of the authors' code at the width and window of ADIGRec, d = 64 and 10 items.
    """
    training = Training(batch_size=512, learning_rate=1e-3, epochs=100, patience=10, metric="ndcg@20")
    metrics = recall_and_ndcg(5, 10, 20, 50)
    model = DiffuRecConfig(dim=64, max_length=10)
    return Experiment(model=model, training=training, max_length=10, metrics=metrics)


def beauty_public_code() -> Experiment:
    """DiffuRec as the public code computes it: items attend to padding, and padding is a class of the loss."""
    return beauty().with_model(padding="public_code")


def beauty_positions() -> Experiment:
    """Ours: DiffuRec with the learned positions that its code creates and does not use."""
    return beauty().with_model(positions=True)


def default() -> Experiment:
    """Ours: DiffuRec for a catalogue that nobody has tuned it for.

    Items begin short, so that few epochs go far; one step of the chain, which finds as much as all, chooses the epoch.
    """
    training = Training(
        batch_size=512, learning_rate=1e-3, epochs=1000, validate_after_steps=100, patience=3, metric="recall@10"
    )
    return Experiment(
        model=DiffuRecConfig(init_std=0.02),
        training=training,
        max_length=50,
        training_rows="every_prefix",
        rows_per_epoch=200_000,
        validation_rows=5_000,
        validation_options=ONE_STEP,
    )


def demo() -> Experiment:
    """Ours: DiffuRec at a width and depth for the embedded synthetic catalogue."""
    model = DiffuRecConfig(dim=64, layers=2, heads=2, init_std=0.02, schedule=TruncatedLinear(steps=8), max_length=10)
    training = Training(batch_size=256, learning_rate=3e-3, epochs=10, patience=3, metric="recall@10")
    return Experiment(model=model, training=training, training_rows="every_prefix", metrics=("recall@10", "ndcg@10"))

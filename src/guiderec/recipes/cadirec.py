"""CaDiRec (CIKM 2024), a baseline of AlignDiff's Table 2, under leave-one-out.

AlignDiff's Table 2 prints percent: HR@5, 10 and 20, then NDCG@5, 10 and 20. CaDiRec's own code ranks without the items
of the history, and its loss against one negative, never an item of the history, needs that: compare the published
numbers with those under seen = "mask".
"""

from __future__ import annotations

from guiderec.models.cadirec import CaDiRecConfig, Context, ReverseChain, SinglePrediction
from guiderec.nn.next_item import CrossEntropy
from guiderec.recipes.experiment import Experiment, recall_and_ndcg
from guiderec.training.loop import Training

METRICS = recall_and_ndcg(5, 10, 20)


def beauty() -> Experiment:
    """CaDiRec, AlignDiff's Table 2, Beauty: HR 5.1608, 7.2829, 10.5140; NDCG 3.4473, 4.2764, 4.7148.

    Settings of the authors' code for Beauty, with views from the reverse chain. One row per user, its whole training
    sequence. The code trains for 400 epochs and chooses no epoch; here the best of every fifth is kept, and ten in a
    row without a better one end the run.
    """
    return _authors(CaDiRecConfig(rounding_weight=0.2, context=Context(layers=2)), epochs=400)


def toys() -> Experiment:
    """CaDiRec, AlignDiff's Table 2, Toys: HR 4.9158, 7.1549, 9.6011; NDCG 3.8417, 4.4957, 4.8143.

    Settings of the authors' code for all Amazon data but Beauty: beta = 0.1 and a denoiser of one block.
    """
    return _authors(CaDiRecConfig(rounding_weight=0.1, context=Context(layers=1)), epochs=300)


def movielens_1m() -> Experiment:
    """CaDiRec, AlignDiff's Table 2, ML-1M: HR 15.1846, 22.5497, 31.4655; NDCG 10.5842, 11.7544, 15.9640.

    Settings of the authors' code for ML-1M: length 200, dropout 0.1, beta = 0.1 and a denoiser of one block. What is
    older than the newest 200 items of a user is not trained on; `training_rows = "windows"` adds it.
    """
    model = CaDiRecConfig(
        max_length=200, dropout=0.1, rounding_weight=0.1, context=Context(layers=1, input_dropout=0.1)
    )
    return _authors(model, epochs=300)


def beauty_single_prediction() -> Experiment:
    """Ours: CaDiRec whose views come from one prediction at a random step, as in the public code."""
    return beauty().with_model(views=SinglePrediction())


def beauty_shared_gaps() -> Experiment:
    """Ours: CaDiRec whose two views have the same gaps, filled by the chain."""
    return beauty().with_model(views=ReverseChain(gaps="shared"))


def beauty_gap_in_every_history() -> Experiment:
    """Ours: CaDiRec with a gap in every history; the ratio alone leaves three of five histories of Beauty without."""
    base = beauty()
    assert isinstance(base.model, CaDiRecConfig)
    return base.with_model(masking=base.model.masking.replace(at_least=1))


def beauty_without_contrast() -> Experiment:
    """Ours: CaDiRec without views, what SASRec gains from sharing its items with the diffusion model alone."""
    return beauty().with_model(contrast_weight=0.0)


def beauty_cross_entropy() -> Experiment:
    """Ours: CaDiRec on a backbone that is trained as it deserves, by cross-entropy over all items."""
    return beauty().with_model(objective=CrossEntropy())


def _authors(model: CaDiRecConfig, *, epochs: int) -> Experiment:
    """What all data sets share: Adam at 1e-3, batch 256, one sequence per user."""
    training = Training(
        batch_size=256, learning_rate=1e-3, epochs=epochs, validate_every_epochs=5, patience=10, metric="ndcg@10"
    )
    return Experiment(
        model=model, training=training, max_length=model.max_length, training_rows="last", metrics=METRICS
    )

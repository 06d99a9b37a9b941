"""BERT4Rec's recipes say what the tables print, have the authors' masks and SASRec's rows."""

from __future__ import annotations

import re

import pytest

from guiderec.recipes.registry import recipe, recipes

PUBLISHED = {
    # AlignDiff, Table 2: HR@5, 10, 20, NDCG@5, 10, 20
    "beauty": ["2.1326", "3.7160", "5.7922", "1.3207", "1.8219", "2.3541"],
    "toys": ["1.9260", "2.9312", "4.5889", "1.1630", "1.4870", "1.9038"],
    "movielens_1m": ["13.6393", "20.5675", "29.9479", "8.8922", "11.1251", "13.4763"],
}
"""Percent, transcribed from the paper apart from the recipes."""

AUTHORS = {"beauty": (0.6, 0.5, 0.2), "movielens_1m": (0.2, 0.2, 0.2)}
"""Share of masked items, dropout of states and of attention weights in the authors' settings."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_are_those_of_the_table(name: str):
    text = recipes()[f"bert4rec:{name}_leave_one_out"].__doc__ or ""
    assert re.findall(r"\b\d+\.\d{4}\b", text) == PUBLISHED[name]
    assert "AlignDiff's Table 2" in text


@pytest.mark.parametrize("name", AUTHORS)
def test_masks_and_optimiser_are_the_authors(name: str):
    experiment = recipe(f"bert4rec:{name}_leave_one_out")
    model, training = experiment.model, experiment.training
    assert (model.masked, model.dropout, model.attention_dropout) == AUTHORS[name]
    assert model.replacement.name == "mask"
    assert (training.batch_size, training.weight_decay, training.warmup_steps) == (256, 0.01, 100)
    assert (training.clip_norm, training.betas) == (5.0, (0.9, 0.999))


@pytest.mark.parametrize("name", ["beauty", "sports", "toys", *(f"{data_set}_leave_one_out" for data_set in PUBLISHED)])
def test_rows_width_and_measures_are_those_of_sasrec(name: str):
    ours, sasrec = recipe(f"bert4rec:{name}"), recipe(f"sasrec:{name}")
    shared = ("dim", "layers", "heads", "expansion", "max_length", "counting")
    assert all(getattr(ours.model, option) == getattr(sasrec.model, option) for option in shared)
    assert (ours.training.batch_size, ours.training.learning_rate) == (256, sasrec.training.learning_rate)
    assert ours.training.metric == sasrec.training.metric
    assert ours.replace(recipe="", model=sasrec.model, training=sasrec.training) == sasrec.replace(recipe="")


def test_our_variant_differs_in_one_option():
    base, variant = recipe("bert4rec:beauty"), recipe("bert4rec:beauty_newest_only")
    assert variant.model.newest_only == 1.0
    assert variant.replace(model=base.model, recipe=base.recipe) == base
    assert variant.model.replace(newest_only=base.model.newest_only) == base.model

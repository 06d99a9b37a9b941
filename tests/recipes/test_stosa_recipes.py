"""STOSA's recipes say what the table prints, have the authors' settings and SASRec's rows."""

from __future__ import annotations

import re

import pytest

from guiderec.nn.next_item import CrossEntropy
from guiderec.recipes.registry import recipe, recipes

PUBLISHED = {
    # AlignDiff, Table 2: HR@5, 10, 20, NDCG@5, 10, 20
    "beauty": ["3.5457", "6.2048", "9.5939", "2.5554", "3.2085", "3.7609"],
    "toys": ["4.2236", "6.9393", "9.5096", "3.1017", "3.8806", "4.3789"],
    "movielens_1m": ["7.0495", "14.3941", "24.9871", "3.7174", "6.0771", "8.7241"],
}
"""Percent, transcribed from the paper apart from the recipes."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_are_those_of_the_table(name: str):
    text = recipes()[f"stosa:{name}_leave_one_out"].__doc__ or ""
    assert re.findall(r"\b\d+\.\d{4}\b", text) == PUBLISHED[name]
    assert "AlignDiff's Table 2" in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_authors(name: str):
    experiment = recipe(f"stosa:{name}_leave_one_out")
    model, training = experiment.model, experiment.training
    assert (model.dim, model.layers, model.heads, model.expansion) == (64, 1, 4, 4)
    assert (model.dropout, model.attention_dropout) == (0.3, 0.0)
    assert (model.objective.name, model.objective.negatives, model.objective.dissimilarity) == ("ranking", 1, 0.005)
    assert (training.batch_size, training.learning_rate, training.weight_decay) == (256, 1e-3, 0.0)


@pytest.mark.parametrize("name", ["beauty", *(f"{data_set}_leave_one_out" for data_set in PUBLISHED)])
def test_rows_and_selection_are_those_of_sasrec(name: str):
    ours, sasrec = recipe(f"stosa:{name}"), recipe(f"sasrec:{name}")
    assert ours.model.max_length == ours.max_length == sasrec.max_length
    assert ours.training_rows == sasrec.training_rows
    assert ours.training.metric == sasrec.training.metric
    assert set(ours.metrics) == set(sasrec.metrics)


def test_beauty_differs_from_sasrec_in_the_model_alone():
    ours, sasrec = recipe("stosa:beauty"), recipe("sasrec:beauty")
    assert ours.model.objective == CrossEntropy()
    assert ours.replace(model=sasrec.model, recipe=sasrec.recipe) == sasrec

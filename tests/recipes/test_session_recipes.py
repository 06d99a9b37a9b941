"""DreamRec, SASRec and DiffuRec on sessions: what their recipes say is printed, and the settings that they share."""

from __future__ import annotations

import re

import pytest

from guiderec.recipes.registry import recipe, recipes

PUBLISHED = {
    "dreamrec:zhihu": ["0.58", "1.29", "2.11", "3.66", "0.34", "0.56", "0.76", "1.07"],
    "sasrec:zhihu": ["0.41", "0.90", "1.75", "4.12", "0.21", "0.45", "0.66", "1.12"],
    "diffurec:zhihu": ["0.56", "1.21", "1.82", "4.75", "0.33", "0.52", "0.71", "1.33"],
    "dreamrec:yoochoose": ["3.42", "4.05", "4.76", "8.35", "1.54", "1.74", "1.93", "2.61"],
    "sasrec:yoochoose": ["2.32", "2.78", "3.90", "5.29", "1.17", "1.39", "1.56", "1.99"],
}
"""ADIGRec, Table 2, percent: HR@5, 10, 20, 50, NDCG@5, 10, 20, 50; transcribed apart from the recipes."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_are_those_of_the_table(name: str):
    text = recipes()[name].__doc__ or ""
    assert re.findall(r"\b\d+\.\d{2}\b", text) == PUBLISHED[name]
    assert "ADIGRec's Table 2" in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_they_are_measured_and_chosen_as_adigrec_is(name: str):
    experiment, adigrec = recipe(name), recipe(f"adigrec:{name.partition(':')[2]}")
    assert experiment.metrics == adigrec.metrics
    assert experiment.training.metric == adigrec.training.metric
    assert experiment.max_length == adigrec.max_length == experiment.model.max_length
    assert experiment.model.dim == adigrec.model.dim


def test_dreamrec_has_the_settings_of_its_authors():
    zhihu, yoochoose = recipe("dreamrec:zhihu"), recipe("dreamrec:yoochoose")
    found = [
        (e.model.schedule.name, e.model.schedule.steps, e.model.guidance.scale, e.training.learning_rate)
        for e in (zhihu, yoochoose)
    ]
    assert found == [("linear", 500, 4.0, 1e-2), ("exp", 500, 2.0, 1e-3)]
    assert yoochoose.replace(model=zhihu.model, training=zhihu.training, recipe=zhihu.recipe) == zhihu

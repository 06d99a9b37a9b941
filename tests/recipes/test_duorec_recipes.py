"""DuoRec's recipes say what the table prints, have SASRec's encoder, and differ in what their names say."""

from __future__ import annotations

import re

import pytest

from guiderec.recipes.registry import recipe, recipes

PUBLISHED = {
    # ADIGRec, Table 2: HR@5, 10, 20, 50, NDCG@5, 10, 20, 50
    "zhihu": ["0.46", "1.16", "2.06", "4.86", "0.28", "0.54", "0.74", "1.31"],
    "yoochoose": ["2.67", "3.12", "4.54", "6.71", "1.21", "1.47", "1.71", "2.23"],
    "kuairec": ["4.17", "4.32", "4.54", "8.12", "2.24", "2.35", "2.52", "3.72"],
}
"""Percent, transcribed from the paper apart from the recipes."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_are_those_of_the_table(name: str):
    text = recipes()[f"duorec:{name}"].__doc__ or ""
    assert re.findall(r"\b\d+\.\d{2,4}\b", text) == PUBLISHED[name]
    assert "ADIGRec's Table 2" in text
    assert len(recipe(f"duorec:{name}").metrics) == len(PUBLISHED[name])


@pytest.mark.parametrize("name", ["zhihu", "yoochoose", "beauty"])
def test_it_differs_from_sasrec_in_the_contrast_alone(name: str):
    ours, sasrec = recipe(f"duorec:{name}"), recipe(f"sasrec:{name}")
    options = type(sasrec.model).model_fields.keys() - {"name"}
    assert all(getattr(ours.model, option) == getattr(sasrec.model, option) for option in options)
    assert ours.replace(recipe="", model=sasrec.model) == sasrec.replace(recipe="")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_contrast_is_that_of_the_authors(name: str):
    model = recipe(f"duorec:{name}").model
    assert (model.pairs, model.dropout_weight, model.target_weight) == ("us_x", 0.1, 0.1)
    assert (model.temperature, model.similarity, model.same_target_negatives) == (1.0, "dot", "kept")


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [("dropout_pairs", "pairs", "un"), ("fair_negatives", "same_target_negatives", "left_out")],
)
def test_our_variants_differ_in_one_option(name: str, option: str, value: str):
    base, variant = recipe("duorec:zhihu"), recipe(f"duorec:zhihu_{name}")
    assert getattr(variant.model, option) == value
    assert variant.model.replace(**{option: getattr(base.model, option)}) == base.model
    assert variant.replace(recipe=base.recipe, model=base.model) == base

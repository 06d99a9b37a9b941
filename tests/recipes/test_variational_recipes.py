"""SVAE's and ACVAE's recipes say what the table prints, and are trained on SASRec's rows with its budget."""

from __future__ import annotations

import re

import pytest

from guiderec.recipes.registry import recipe, recipes

PUBLISHED = {
    # AlignDiff, Table 2: HR@5, 10, 20, NDCG@5, 10, 20
    "svae:beauty_leave_one_out": ["0.9943", "1.9745", "3.1552", "0.6702", "0.9863", "1.2867"],
    "svae:toys_leave_one_out": ["0.9109", "1.3683", "1.9239", "0.5580", "0.7063", "0.8446"],
    "svae:movielens_1m_leave_one_out": ["1.4869", "2.7189", "5.0326", "0.9587", "1.2302", "1.8251"],
    "acvae:beauty_leave_one_out": ["2.4672", "3.8832", "6.1224", "1.6858", "2.1389", "2.7020"],
    "acvae:toys_leave_one_out": ["2.1897", "3.0749", "4.4061", "1.5604", "1.8452", "2.1814"],
    "acvae:movielens_1m_leave_one_out": ["12.7167", "19.9313", "28.9722", "8.2287", "10.5417", "12.8210"],
}
"""Percent, transcribed from the paper apart from the recipes."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_are_those_of_the_table(name: str):
    text = recipes()[name].__doc__ or ""
    assert re.findall(r"\b\d+\.\d{4}\b", text) == PUBLISHED[name]
    assert "AlignDiff's Table 2" in text
    assert len(recipe(name).metrics) == len(PUBLISHED[name])


@pytest.mark.parametrize("name", PUBLISHED)
def test_rows_budget_and_selection_are_sasrecs(name: str):
    ours, sasrec = recipe(name), recipe(f"sasrec:{name.partition(':')[2]}")
    decay = sasrec.training.replace(weight_decay=ours.training.weight_decay)
    assert ours.replace(recipe="", model=sasrec.model) == sasrec.replace(recipe="", training=decay)
    assert ours.training.weight_decay == {"svae": 5e-3, "acvae": 1e-2}[ours.model.name]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("svae:beauty_leave_one_out_next_item", {"next_k": 1}),
        ("acvae:beauty_leave_one_out_without_adversary", {"kl_weight": 0.0}),
        ("acvae:beauty_leave_one_out_without_contrast", {"contrast_weight": 0.0}),
    ],
)
def test_our_variants_differ_in_one_option(name: str, options: dict[str, float]):
    variant, base = recipe(name), recipe(name[: name.index("leave_one_out") + len("leave_one_out")])
    assert variant == base.replace(recipe=variant.recipe, model=base.model.replace(**options))

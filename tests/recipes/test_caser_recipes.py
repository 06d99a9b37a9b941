"""Caser's recipes say what AlignDiff's Table 2 prints, and have the settings of its authors."""

from __future__ import annotations

import re

import pytest

from guiderec.models.caser import CaserConfig
from guiderec.recipes.registry import recipe, recipes

PUBLISHED = {
    # AlignDiff, Table 2: HR@5, 10, 20, NDCG@5, 10, 20
    "beauty": ["1.6118", "2.8166", "4.4048", "0.9758", "1.3602", "1.7595"],
    "toys": ["0.9622", "1.8317", "2.9500", "0.5707", "0.8510", "1.1293"],
    "movielens_1m": ["7.1401", "13.3792", "22.5507", "4.1550", "6.1400", "8.4304"],
}
"""Percent, transcribed from the paper apart from the recipes."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_are_those_of_the_table(name: str):
    text = recipes()[f"caser:{name}_leave_one_out"].__doc__ or ""
    assert re.findall(r"\b\d+\.\d{4}\b", text) == PUBLISHED[name]
    assert "AlignDiff's Table 2" in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_those_of_the_authors_and_rows_those_of_sasrec(name: str):
    experiment, sasrec = recipe(f"caser:{name}_leave_one_out"), recipe(f"sasrec:{name}_leave_one_out")
    assert experiment.model == CaserConfig()
    assert (experiment.training.batch_size, experiment.training.learning_rate) == (512, 1e-3)
    assert experiment.training.weight_decay == 0
    for option in ("max_length", "training_rows", "metrics"):
        assert getattr(experiment, option) == getattr(sasrec, option)
    for option in ("epochs", "patience", "metric"):
        assert getattr(experiment.training, option) == getattr(sasrec.training, option)


def test_the_user_split_is_ours_with_the_rows_and_the_budget_of_sasrec():
    ours, sasrec = recipe("caser:beauty"), recipe("sasrec:beauty")
    assert (recipes()["caser:beauty"].__doc__ or "").startswith("Ours:")
    assert ours.model.objective == sasrec.model.objective
    assert ours.model.targets == 1
    assert ours.replace(recipe="", model=sasrec.model) == sasrec.replace(recipe="")

"""CaDiRec's recipes: the numbers that they say are those of AlignDiff's Table 2, the settings those of its authors."""

from __future__ import annotations

import re
from typing import Any

import pytest

from guiderec.recipes.registry import recipe, recipes

PUBLISHED: dict[str, str] = {
    "beauty": "5.1608 7.2829 10.5140 3.4473 4.2764 4.7148",
    "toys": "4.9158 7.1549 9.6011 3.8417 4.4957 4.8143",
    "movielens_1m": "15.1846 22.5497 31.4655 10.5842 11.7544 15.9640",
}
"""HR@5, 10, 20 and NDCG@5, 10, 20 in percent, transcribed from the table by hand, apart from the recipes."""

AUTHORS: dict[str, tuple[int, float, float, int, float, int]] = {
    "beauty": (50, 0.5, 0.2, 2, 0.5, 400),
    "toys": (50, 0.5, 0.1, 1, 0.5, 300),
    "movielens_1m": (200, 0.1, 0.1, 1, 0.1, 300),
}
"""Length, dropout, beta, blocks of the denoiser, dropout of its input, epochs: the authors' configurations."""


def flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix.rstrip("."): data}
    return {path: value for key, inner in data.items() for path, value in flat(inner, f"{prefix}{key}.").items()}


def changed(name: str) -> dict[str, Any]:
    """Options in which a recipe differs from `beauty`, with its own values; None: it has no such option."""
    first, second = (flat(recipe(f"cadirec:{one}").to_plain()) for one in ("beauty", name))
    names = [path for path in {**first, **second} if path != "recipe" and first.get(path) != second.get(path)]
    return {path: second.get(path) for path in names}


@pytest.mark.parametrize("name", PUBLISHED)
def test_says_the_numbers_of_the_table(name: str):
    text = recipes()[f"cadirec:{name}"].__doc__ or ""
    assert re.findall(r"\b\d+\.\d{4}\b", text) == PUBLISHED[name].split()
    data_set = {"beauty": "Beauty", "toys": "Toys", "movielens_1m": "ML-1M"}[name]
    assert text.startswith(f"CaDiRec, AlignDiff's Table 2, {data_set}: HR ")


def test_every_other_recipe_says_that_it_is_ours():
    others = {name.partition(":")[2] for name in recipes() if name.startswith("cadirec:")} - PUBLISHED.keys()
    assert len(others) == 5
    assert all((recipes()[f"cadirec:{name}"].__doc__ or "").startswith("Ours: ") for name in others)


@pytest.mark.parametrize("name", AUTHORS)
def test_has_the_settings_of_the_authors(name: str):
    experiment = recipe(f"cadirec:{name}")
    model, training = experiment.model, experiment.training
    found = (model.max_length, model.dropout, model.rounding_weight, model.context.layers, model.context.input_dropout)
    assert (*found, training.epochs) == AUTHORS[name]
    assert (model.dim, model.layers, model.heads, model.hidden) == (64, 2, 2, 128)
    assert (model.context.heads, model.context.hidden, model.context.dropout) == (2, 128, 0.2)
    assert (model.contrast_weight, model.error_weight, model.temperature, model.similarity) == (0.1, 0.0, 1.0, "dot")
    assert (model.schedule.name, model.schedule.steps, model.masking.ratio, model.candidates) == ("sqrt", 1000, 0.1, 10)
    assert (model.views.name, model.views.steps, model.objective.name) == ("chain", 5, "binary_cross_entropy")
    assert (training.batch_size, training.learning_rate, training.weight_decay) == (256, 1e-3, 0.0)
    assert (experiment.training_rows, experiment.max_length) == ("last", model.max_length)


def test_a_variant_replaces_one_part():
    assert changed("beauty_shared_gaps") == {"model.views.gaps": "shared"}
    assert changed("beauty_gap_in_every_history") == {"model.masking.at_least": 1}
    assert changed("beauty_without_contrast") == {"model.contrast_weight": 0.0}
    single = {path: value for path, value in changed("beauty_single_prediction").items() if value is not None}
    assert single == {"model.views.name": "single_prediction"}
    entropy = {path: value for path, value in changed("beauty_cross_entropy").items() if value is not None}
    assert entropy == {"model.objective.name": "cross_entropy"}

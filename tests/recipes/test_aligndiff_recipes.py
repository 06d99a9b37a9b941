"""AlignDiff's recipes: one part replaced each, and the numbers that they say are those of the paper's tables."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from guiderec.config import override
from guiderec.recipes.aligndiff import METRICS, SWEEPS
from guiderec.recipes.registry import build, recipe, recipes
from guiderec.rng import Noise, seed_everything
from guiderec.testing.oracles import batch_of, planted_rows

PUBLISHED: dict[str, str] = {
    # Table 2, with what Table 3 prints for the same model
    "beauty": "5.8675 8.1260 11.3729 4.2023 4.9261 5.6730 11.0729",
    "toys": "6.3244 8.7229 11.8493 4.4175 5.1904 5.9726",
    "movielens_1m": "18.2658 27.3419 37.7156 12.5781 15.4907 18.1183 16.3178 25.4160 36.7156 11.0781 13.8907 16.6183",
    # Table 3
    "beauty_without_ml": "5.8369 7.8229 10.3678 4.1279 4.7627 5.3951",
    "beauty_without_en": "5.7707 7.9518 10.7033 4.1684 4.8699 5.5596",
    "toys_without_ml": "6.1585 8.6638 11.6357 4.3922 5.0992 5.8229",
    "toys_without_en": "5.6382 7.4221 9.8330 4.2255 4.8007 5.4072",
    "movielens_1m_without_ml": "16.1037 24.8246 36.2756 10.5078 13.5789 16.2743",
    "movielens_1m_without_en": "15.8171 24.5478 35.6394 10.3501 13.1469 15.9432",
    # Table 4
    "beauty_energy_1_layer": "5.6580 7.9652 10.5314 4.0945 4.7549 5.4826",
    "beauty_energy_6_layers": "5.7245 8.0219 10.7256 4.1429 4.8126 5.5016",
    "beauty_energy_transformer": "5.7769 7.8453 10.6381 4.1156 4.7741 5.4822",
    # Table 6
    "beauty_correction_2_steps": "7.9524 4.6058",
    "beauty_correction_4_steps": "7.4428 4.3281",
    "beauty_correction_8_steps": "7.1625 4.0817",
    "toys_correction_2_steps": "8.5219 5.0257",
    "toys_correction_4_steps": "8.2907 4.7528",
    "toys_correction_8_steps": "7.9056 4.4325",
    # Table 7
    "beauty_gradient_penalty": "5.6416 7.8243 3.9424 4.6308",
    "beauty_adversarial": "5.2649 7.1526 3.6451 4.2107",
}
"""Transcribed from the paper's tables by hand, apart from the recipes."""

TABLES = {"without": "Table 3", "energy": "Table 4", "correction": "Table 6", "gradient": "Table 7", "adv": "Table 7"}


def flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix.rstrip("."): data}
    return {path: value for key, inner in data.items() for path, value in flat(inner, f"{prefix}{key}.").items()}


def changed(one: str, other: str) -> dict[str, Any]:
    """Options of two of AlignDiff's recipes that differ, with the values of the other; None: it has no such option."""
    first, second = (flat(recipe(f"aligndiff:{name}").to_plain()) for name in (one, other))
    names = [path for path in {**first, **second} if path != "recipe" and first.get(path) != second.get(path)]
    return {path: second.get(path) for path in names}


@pytest.mark.parametrize("name", PUBLISHED)
def test_says_the_numbers_of_its_table(name: str):
    text = recipes()[f"aligndiff:{name}"].__doc__ or ""
    assert re.findall(r"\b\d+\.\d{4}\b", text) == PUBLISHED[name].split()
    table = next((table for kind, table in TABLES.items() if f"_{kind}" in name), "Table 2")
    assert f"AlignDiff, {table}, " in text
    assert {"beauty": "Beauty", "toys": "Toys", "movielens": "ML-1M"}[name.partition("_")[0]] in text


def test_every_row_has_a_recipe_and_every_other_recipe_says_that_it_is_ours():
    own = {name.partition(":")[2]: function for name, function in recipes().items() if name.startswith("aligndiff:")}
    assert PUBLISHED.keys() <= own.keys()
    for name in own.keys() - PUBLISHED.keys():
        assert (own[name].__doc__ or "").startswith("Ours: ")


@pytest.mark.parametrize(("data_set", "w"), [("beauty", 0.3), ("toys", 0.3), ("movielens_1m", 0.1)])
def test_has_the_settings_of_the_paper(data_set: str, w: float):
    """And the budget of DiffuRec, which it is compared with."""
    experiment, diffurec = recipe(f"aligndiff:{data_set}"), recipe(f"diffurec:{data_set}")
    model = experiment.model
    assert (model.dim, model.layers, model.guidance.scale) == (128, 4, w)
    assert (model.energy.gamma, model.energy.weight, model.energy.network.layers) == (0.05, 0.01, 3)
    assert (experiment.training.batch_size, experiment.training.learning_rate) == (512, 1e-3)
    for field in ("training", "training_rows", "validation_rows", "max_length", "metrics"):
        assert getattr(experiment, field) == getattr(diffurec, field), field
    for field in ("dim", "layers", "heads", "dropout", "embedding_dropout", "schedule", "mixing", "generation"):
        assert getattr(model, field) == getattr(diffurec.model, field), field
    assert experiment.metrics == METRICS


@pytest.mark.parametrize("data_set", ["beauty", "toys", "movielens_1m"])
def test_an_ablation_replaces_one_part(data_set: str):
    without_ml, without_en = (changed(data_set, f"{data_set}_without_{part}") for part in ("ml", "en"))
    assert {path: value for path, value in without_ml.items() if value is not None} == {"model.levels.name": "none"}
    assert {path: value for path, value in without_en.items() if value is not None} == {"model.energy.name": "none"}
    assert all(path.startswith("model.levels.") for path in without_ml)
    assert all(path.startswith("model.energy.") for path in without_en)


def test_other_rows_replace_one_part():
    assert changed("beauty", "beauty_energy_1_layer") == {"model.energy.network.layers": 1}
    assert changed("beauty", "beauty_energy_6_layers") == {"model.energy.network.layers": 6}
    transformer = changed("beauty", "beauty_energy_transformer")
    assert transformer["model.energy.network.name"] == "transformer"
    assert all(path.startswith("model.energy.network.") for path in transformer)
    for data_set in ("beauty", "toys"):
        for steps in (2, 4, 8):
            assert changed(data_set, f"{data_set}_correction_{steps}_steps") == {"model.energy.correction.steps": steps}
    assert changed("beauty", "beauty_public_sign") == {"model.energy.target": "code"}
    for name in ("gradient_penalty", "adversarial"):
        kept = {path: value for path, value in changed("beauty", f"beauty_{name}").items() if value is not None}
        kept.pop("model.energy.penalty", None)
        assert kept == {"model.energy.name": name}


@pytest.mark.parametrize("data_set", ["beauty", "toys", "movielens_1m"])
@pytest.mark.parametrize("name", SWEEPS)
def test_sweeps_are_options_of_the_recipes_and_go_through_their_values(name: str, data_set: str):
    sweep, experiment = SWEEPS[name], recipe(f"aligndiff:{data_set}")
    own = flat(experiment.to_plain())[sweep.option]
    assert own in sweep.values
    points = [override(experiment, changes) for changes in sweep.overrides()]
    assert [flat(point.to_plain())[sweep.option] for point in points] == list(sweep.values)
    assert json.loads(json.dumps(sweep.overrides())) == sweep.overrides()
    best = {"omega": 0.01, "w": 0.1 if data_set == "movielens_1m" else 0.3, "nu": 0.05, "eta": 0.01}[name]
    assert min(sweep.values) < best < max(sweep.values)


def test_sweeps_say_rightly_which_options_move_weights():
    """The loss reads nu and eta, and never Omega nor w."""
    base, batch = override(recipe("aligndiff:beauty"), {"model.dim": 16}), batch_of(planted_rows(30, 4)[0][:8])
    for sweep in SWEEPS.values():
        losses = set()
        for changes in sweep.overrides():
            seed_everything(0)
            model = build(override(base, changes).model, 30).eval()
            with torch.no_grad():
                losses.add(float(model.loss(batch, Noise(0))["loss"]))
        assert (len(losses) == 1) == sweep.after_training

"""The recipes of DiffRec and L-DiffRec: the printed numbers, the settings, and what each variant changes."""

from __future__ import annotations

import re

import pytest

from guiderec.recipes.registry import recipe, recipes

PRINTED = {
    # ADIGRec, Table 2, rows DiffRec, in percent: HR@5, 10, 20, 50, then NDCG@5, 10, 20, 50
    "diffrec:yoochoose": ("2.89", "3.60", "4.30", "6.61", "1.34", "1.57", "1.92", "1.87"),
    "diffrec:kuairec": ("3.34", "3.40", "3.80", "7.12", "1.21", "1.60", "2.17", "3.62"),
    "diffrec:zhihu": ("0.55", "1.08", "1.84", "4.61", "0.32", "0.47", "0.68", "1.30"),
}
"""Transcribed from the paper's table by hand, apart from the recipes."""

OURS = {name for name in recipes() if name.partition(":")[0] in ("diffrec", "ldiffrec")} - PRINTED.keys()


@pytest.mark.parametrize("name", PRINTED)
def test_printed_numbers(name: str):
    text = recipes()[name].__doc__ or ""
    assert tuple(re.findall(r"\b\d\.\d{2}\b", text)) == PRINTED[name]
    assert "Table 2" in text


@pytest.mark.parametrize("name", sorted(OURS))
def test_other_recipes_claim_no_printed_number(name: str):
    assert not re.findall(r"\b\d\.\d{2}\b", recipes()[name].__doc__ or "")


@pytest.mark.parametrize("name", PRINTED)
def test_settings_of_the_authors(name: str):
    experiment = recipe(name)
    model, training = experiment.model, experiment.training
    assert (model.hidden, model.time_dim, model.dropout, model.sampling_steps) == ((1000,), 10, 0.5, 0)
    schedule = model.schedule
    assert (schedule.name, schedule.steps, schedule.scale, schedule.low, schedule.high) == (
        "linear_var",
        5,
        1e-4,
        5e-4,
        5e-3,
    )
    assert (model.answer, model.profile.name, model.reweight, model.timesteps) == (
        "profile",
        "multi_hot",
        True,
        "importance",
    )
    assert (training.batch_size, training.learning_rate, training.epochs) == (400, 5e-5, 1000)
    assert (experiment.max_length, experiment.training_rows) == (10, "windows")


@pytest.mark.parametrize(
    ("name", "model", "experiment"),
    [
        ("diffrec:zhihu_tdiffrec", {"profile"}, set()),
        ("diffrec:zhihu_next_item", {"answer"}, {"training_rows"}),
        ("diffrec:zhihu_target", {"answer"}, {"training_rows"}),
        ("ldiffrec:zhihu_time_weighted", {"profile"}, set()),
        ("ldiffrec:zhihu_one_encoder", {"clusters"}, set()),
        ("ldiffrec:zhihu_target", {"answer"}, {"training_rows"}),
    ],
)
def test_a_variant_replaces_one_part(name: str, model: set[str], experiment: set[str]):
    """Where a model answers with what follows, every position is a row of training."""
    base, variant = (recipe(each).to_plain() for each in (f"{name.partition(':')[0]}:zhihu", name))
    assert {option for option in base["model"] if base["model"][option] != variant["model"][option]} == model
    assert {option for option in base if base[option] != variant[option]} == {"recipe", "model", *experiment}

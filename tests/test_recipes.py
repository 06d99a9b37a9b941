"""Every recipe builds and takes a step; what it says was published is what the papers' tables say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from guiderec.config import override
from guiderec.errors import ConfigError
from guiderec.models.base import EmbeddingRecommender
from guiderec.recipes.experiment import Experiment
from guiderec.recipes.registry import build, model_class, model_config, model_names, recipe, recipes
from guiderec.rng import Noise, seed_everything
from guiderec.testing.oracles import batch_of, planted_rows, sequences_of

PUBLISHED: dict[str, tuple[str, str, str, str]] = {
    # SteerRec, Table 1: Recall@5, NDCG@5, Recall@10, NDCG@10
    "gru4rec:sports": ("0.0019", "0.0017", "0.0026", "0.0020"),
    "gru4rec:beauty": ("0.0090", "0.0058", "0.0090", "0.0072"),
    "gru4rec:toys": ("0.0087", "0.0073", "0.0096", "0.0081"),
    "sasrec:sports": ("0.0042", "0.0028", "0.0053", "0.0032"),
    "sasrec:beauty": ("0.0098", "0.0069", "0.0156", "0.0088"),
    "sasrec:toys": ("0.0108", "0.0088", "0.0165", "0.0107"),
    "bert4rec:sports": ("0.0101", "0.0051", "0.0149", "0.0073"),
    "bert4rec:beauty": ("0.0152", "0.0105", "0.0266", "0.0141"),
    "bert4rec:toys": ("0.0221", "0.0124", "0.0308", "0.0165"),
    "cl4srec:sports": ("0.0112", "0.0075", "0.0151", "0.0085"),
    "cl4srec:beauty": ("0.0226", "0.0119", "0.0327", "0.0169"),
    "cl4srec:toys": ("0.0227", "0.0145", "0.0330", "0.0170"),
    "tiger:sports": ("0.0091", "0.0065", "0.0160", "0.0091"),
    "tiger:beauty": ("0.0247", "0.0167", "0.0378", "0.0195"),
    "tiger:toys": ("0.0187", "0.0129", "0.0251", "0.0158"),
    "dreamrec:sports": ("0.0147", "0.0132", "0.0207", "0.0134"),
    "dreamrec:beauty": ("0.0387", "0.0278", "0.0481", "0.0314"),
    "dreamrec:toys": ("0.0425", "0.0315", "0.0476", "0.0342"),
    "preferdiff:sports": ("0.0188", "0.0148", "0.0222", "0.0159"),
    "preferdiff:beauty": ("0.0420", "0.0307", "0.0509", "0.0336"),
    "preferdiff:toys": ("0.0453", "0.0347", "0.0525", "0.0370"),
    "steerrec:sports": ("0.0208", "0.0167", "0.0275", "0.0189"),
    "steerrec:beauty": ("0.0443", "0.0334", "0.0531", "0.0365"),
    "steerrec:toys": ("0.0473", "0.0370", "0.0592", "0.0404"),
    # Table 2
    "steerrec:sports_without_png": ("0.0193", "0.0157", "0.0244", "0.0172"),
    "steerrec:beauty_without_png": ("0.0393", "0.0313", "0.0474", "0.0339"),
    "steerrec:toys_without_png": ("0.0445", "0.0348", "0.0539", "0.0375"),
    "steerrec:sports_without_gal": ("0.0181", "0.0142", "0.0215", "0.0153"),
    "steerrec:beauty_without_gal": ("0.0411", "0.0324", "0.0496", "0.0351"),
    "steerrec:toys_without_gal": ("0.0449", "0.0351", "0.0494", "0.0367"),
    # Table 11
    "steerrec:sports_hard_1_3": ("0.0211", "0.0169", "0.0280", "0.0191"),
    "steerrec:sports_hard_10_15": ("0.0209", "0.0166", "0.0276", "0.0189"),
    "steerrec:sports_hard_top_20": ("0.0185", "0.0152", "0.0262", "0.0177"),
}
"""Transcribed from the paper's tables by hand, apart from the recipes."""

TABLE_5 = {"sports": (2.0, 0.4, 1000, 0.1), "beauty": (4.0, 0.2, 1200, 0.1), "toys": (4.0, 0.2, 800, 0.1)}
"""w, mu, T, m."""

AUTHORS_OF_PREFERDIFF = {"sports": (0.4, 2.0), "beauty": (0.4, 8.0), "toys": (0.6, 6.0)}
"""lambda and w of their public instructions."""


def flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix.rstrip("."): data}
    return {path: value for key, inner in data.items() for path, value in flat(inner, f"{prefix}{key}.").items()}


def changed(one: str, other: str) -> dict[str, Any]:
    """Options in which two recipes differ, with the values of the other; the recipe's own name is none."""
    first, second = (flat(recipe(name).to_plain()) for name in (one, other))
    return {
        path: second.get(path) for path in first | second if first.get(path) != second.get(path) and path != "recipe"
    }


def small(experiment: Experiment) -> Experiment:
    options = flat(experiment.to_plain())
    return override(experiment, {"model.dim": 16} if "model.dim" in options else {})


# ------------------------------------------------------------------------------------------------ all of them


@pytest.mark.parametrize("name", recipes())
def test_builds_and_takes_a_step(name: str):
    """With a small width and all else as published; every weight that the loss reaches moves, the scores are finite."""
    experiment = small(recipe(name))
    seed_everything(0)
    model = build(experiment.model, 60)
    rows, _ = planted_rows(60, 4)
    model.prepare(sequences_of(rows))
    batch = batch_of(rows[:8], width=experiment.max_length)
    batch = replace(batch, negatives=torch.arange(1, 25).reshape(8, 3))  # what data of impressions tell
    if model.trains:
        before = {key: value.clone() for key, value in model.named_parameters()}
        optimizer = torch.optim.AdamW(model.parameters(), lr=experiment.training.learning_rate, weight_decay=0.0)
        loss = model.train().loss(batch, Noise(0))["loss"]
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
        moved = [key for key, value in model.named_parameters() if not torch.equal(value, before[key])]
        reached = [key for key, value in model.named_parameters() if value.grad is not None and value.grad.any()]
        assert moved == reached
        assert len(reached) >= len(before) - 1  # the null condition may not have been drawn
    with torch.inference_mode():
        scores = model.eval().scores(batch, Noise(0))
    assert scores.shape == (8, 61)
    assert scores[:, 1:].isfinite().all()
    if isinstance(model, EmbeddingRecommender):
        assert len({tuple(row) for row in scores.tolist()}) == 8


@pytest.mark.parametrize("name", recipes())
def test_survives_storage_and_knows_its_name(name: str):
    experiment = recipe(name)
    assert experiment.recipe == name
    assert experiment.model.name == name.partition(":")[0]
    assert Experiment.from_plain(json.loads(json.dumps(experiment.to_plain()))) == experiment


@pytest.mark.parametrize("name", recipes())
def test_published_numbers_are_those_of_the_table(name: str):
    """A recipe of a published row says its four numbers, in order; any other says none."""
    text = recipes()[name].__doc__
    assert text
    assert tuple(re.findall(r"\b0\.0\d{3}\b", text)) == PUBLISHED.get(name, ())


def test_every_published_row_has_its_recipe():
    assert PUBLISHED.keys() <= recipes().keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_docstring_names_table_and_data_set(name: str):
    text = recipes()[name].__doc__ or ""
    data_set = name.partition(":")[2].partition("_")[0].capitalize()
    assert data_set in text
    assert re.search(r"Table (1|2|11)\b", text)


def test_table_numbers_are_named_rightly():
    for name in PUBLISHED:
        kind = name.partition(":")[2].partition("_")[2]
        table = "Table 2" if kind.startswith("without") else "Table 11" if kind.startswith("hard") else "Table 1"
        assert re.search(rf"{table}\b", recipes()[name].__doc__ or ""), name


# ------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("data_set", TABLE_5)
def test_steerrec_has_the_settings_of_tables_4_to_6(data_set: str):
    experiment = recipe(f"steerrec:{data_set}")
    model, training = experiment.model, experiment.training
    assert (model.guidance.scale, model.balance, model.schedule.steps, model.margin) == TABLE_5[data_set]
    assert (model.dim, model.heads, model.max_length, experiment.max_length) == (3072, 2, 10, 10)
    assert (model.schedule.name, model.schedule.start, model.schedule.end) == ("linear", 1e-4, 0.02)
    assert (model.generation.sampler, model.generation.steps, model.denoiser, model.distance) == (
        "ddim",
        10,
        "linear",
        "cos",
    )
    assert model.guidance.name == "png"
    assert training.learning_rate in (2e-4, 1e-4, 5e-5, 1e-5)
    assert model.negatives.count in (32, 64)
    assert (training.batch_size, training.patience, training.metric) == (256, 10, "recall@5")
    assert experiment.training_rows == "protocol"


@pytest.mark.parametrize("data_set", AUTHORS_OF_PREFERDIFF)
def test_preferdiff_has_the_settings_of_its_authors(data_set: str):
    experiment = recipe(f"preferdiff:{data_set}")
    model = experiment.model
    assert (model.balance, model.guidance.scale) == AUTHORS_OF_PREFERDIFF[data_set]
    assert (model.dim, model.distance, model.gamma, model.schedule.steps) == (3072, "cos_sq", 5.0, 2000)
    assert (experiment.training.learning_rate, experiment.training.batch_size) == (1e-4, 256)
    assert (experiment.training.epochs, experiment.training.weight_decay) == (150, 0.0)


@pytest.mark.parametrize("data_set", TABLE_5)
def test_an_ablation_differs_in_one_option(data_set: str):
    base = f"steerrec:{data_set}"
    assert changed(base, f"{base}_without_png") == {"model.guidance.name": "cfg"}
    assert changed(base, f"{base}_without_gal") == {"model.balance": 0.0}


@pytest.mark.parametrize(("name", "band"), [("1_3", [0.01, 0.03]), ("10_15", [0.1, 0.15]), ("top_20", [0.0, 0.0])])
def test_hard_negatives_differ_in_the_negatives_alone(name: str, band: list[float]):
    assert changed("steerrec:sports", f"steerrec:sports_hard_{name}") == {
        "model.negatives.name": "hard",
        "model.negatives.count": 20,
        "model.negatives.band": band,
    }


def test_our_variants_differ_in_one_option():
    assert changed("steerrec:beauty", "steerrec:beauty_every_prefix") == {"training_rows": "every_prefix"}
    assert changed("sasrec:beauty", "sasrec:beauty_last_position") == {"model.predict": "last_position"}
    assert changed("diffurec:beauty", "diffurec:beauty_public_code") == {"model.padding": "public_code"}
    assert changed("diffurec:beauty", "diffurec:beauty_positions") == {"model.positions": True}


@pytest.mark.parametrize("data_set", ["beauty", "toys", "movielens_1m"])
def test_diffurec_has_the_settings_of_its_authors_and_sasrec_its_rows(data_set: str):
    experiment, sasrec = recipe(f"diffurec:{data_set}"), recipe(f"sasrec:{data_set}_leave_one_out")
    model, training = experiment.model, experiment.training
    assert (model.dim, model.layers, model.heads, model.max_length, model.mixing) == (128, 4, 4, 50, 0.001)
    assert (model.dropout, model.embedding_dropout, model.schedule.name, model.schedule.steps) == (
        0.1,
        0.3,
        "trunc_lin",
        32,
    )
    assert (training.batch_size, training.learning_rate, training.weight_decay) == (512, 1e-3, 0.0)
    assert (sasrec.model.dim, sasrec.max_length, sasrec.training_rows) == (128, 50, "windows")
    assert sasrec.metrics == experiment.metrics
    ours = recipe(f"guided_sasrec:{data_set}_leave_one_out")
    shared = set(sasrec.model.to_plain()) & set(ours.model.to_plain()) - {"name"}
    assert {"dim", "layers", "heads", "dropout", "max_length"} <= shared
    assert all(getattr(ours.model, option) == getattr(sasrec.model, option) for option in shared)
    assert ours.replace(recipe="", model=sasrec.model) == sasrec.replace(recipe="")


# ------------------------------------------------------------------------------------------------ what cannot be


def test_unknown_names_have_a_nearest_one():
    with pytest.raises(ConfigError, match=r"no recipe 'steerec:beauty'.* Did you mean 'steerrec:beauty'"):
        recipe("steerec:beauty")
    with pytest.raises(
        ConfigError, match=r"'sasrec' is a model; its recipes are .*sasrec:beauty, .*sasrec:toys.*"
    ) as e:
        recipe("sasrec")
    assert all(name in str(e.value) for name in recipes() if name.startswith("sasrec:"))
    with pytest.raises(ConfigError, match=r"no model 'sasrek'.* Did you mean 'sasrec'"):
        model_class("sasrek")
    with pytest.raises(ConfigError, match="no model 'base'"):
        model_class("base")
    with pytest.raises(ConfigError, match="needs a 'name'"):
        model_config({"dim": 8})


@pytest.mark.parametrize("name", ["../steerrec", "os", "guiderec.models.steerrec", "steerrec.py", ""])
def test_a_model_is_named_and_not_imported_by_path(name: str):
    assert name not in model_names()
    with pytest.raises(ConfigError, match="There is no model"):
        model_config({"name": name})


def test_a_misspelt_metric_fails_before_training():
    for path in ("training.metric", "metrics"):
        with pytest.raises(ConfigError, match=r"'recal@5' is not a metric\. Did you mean 'recall'"):
            override(recipe("steerrec:beauty"), {path: "recal@5" if path == "training.metric" else ["recal@5"]})


def test_a_metric_has_one_name():
    experiment = override(recipe("steerrec:beauty"), {"training.metric": "HR@10", "metrics": ["hr@5", "Recall@5"]})
    assert experiment.training.metric == "recall@10"
    assert experiment.metrics == ("recall@5",)
    assert experiment.training.batch_size == 256


@pytest.mark.parametrize("model", ["steerrec", "sasrec"])
def test_histories_longer_than_the_model_reads_are_refused(model: str):
    """Without this, L = 50 would silently have been L = 10."""
    experiment = recipe(f"{model}:beauty")
    with pytest.raises(ConfigError, match=r"max_length = 50, but the model reads 10 items.*set both"):
        override(experiment, {"max_length": 50})
    both = override(experiment, {"max_length": 50, "model.max_length": 50})
    assert (both.max_length, both.model.max_length) == (50, 50)
    assert override(experiment, {"max_length": 3}).max_length == 3


@pytest.mark.parametrize(
    ("path", "value"),
    [("model.heads", 5), ("model.generation.steps", 1201), ("model.denoiser", "mlp")],
)
def test_options_that_do_not_fit_each_other_are_config_errors(path: str, value: object):
    experiment = override(recipe("steerrec:beauty"), {"model.dim": 16, path: value})
    with pytest.raises(ConfigError):
        build(experiment.model, 10)

"""Every model in `guiderec.models` against the contract. A model file without an entry below fails."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import pytest

import guiderec.models
from guiderec.models.base import ModelConfig, Recommender
from guiderec.testing.conformance import ModelConformance

SMALL: dict[str, dict[str, Any]] = {
    "popularity": {},
    "markov": {},
    "sasrec": {"dim": 16, "layers": 1, "dropout": 0.1, "max_length": 10},
    "gru4rec": {
        "dim": 32,
        "dropout": 0.1,
        "max_length": 10,
        "objective": {"name": "sampled_cross_entropy", "samples": 60},
    },
    "guided_sasrec": {"dim": 16, "layers": 1, "dropout": 0.1, "max_length": 10},
    "cl4srec": {"dim": 32, "layers": 1, "dropout": 0.1, "max_length": 10, "norm": "pre"},
    "duorec": {"dim": 32, "layers": 1, "dropout": 0.1, "max_length": 10, "norm": "pre"},
    "bert4rec": {
        "dim": 32,
        "layers": 1,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "max_length": 10,
        "masked": 0.2,
        "newest_only": 0.5,
    },
    "diffurec": {"dim": 16, "layers": 2, "heads": 2, "max_length": 10, "schedule": {"name": "trunc_lin", "steps": 8}},
    "aligndiff": {"dim": 16, "layers": 2, "heads": 2, "max_length": 10, "schedule": {"name": "trunc_lin", "steps": 8}},
    "dreamrec": {"dim": 128, "schedule": {"name": "linear", "steps": 30}},
    "preferdiff": {"dim": 128, "schedule": {"name": "linear", "steps": 30}, "generation": {"steps": 5}},
    "steerrec": {"dim": 128, "schedule": {"name": "linear", "steps": 30}, "generation": {"steps": 5}},
    "cadirec": {
        "dim": 32,
        "layers": 1,
        "dropout": 0.1,
        "max_length": 10,
        "objective": {"name": "cross_entropy"},
        "schedule": {"name": "sqrt", "steps": 30},
        "context": {"layers": 1, "dropout": 0.1, "input_dropout": 0.1},
        "views": {"name": "chain", "steps": 2},
    },
    "diffrec": {"hidden": [64], "dropout": 0.0, "answer": "target"},
    "ldiffrec": {
        "dim": 64,
        "hidden": [64],
        "cluster_dim": 8,
        "dropout": 0.0,
        "encoder_dropout": 0.0,
        "kl_weight": 0.0,
        "answer": "target",
    },
    "caser": {"dim": 32, "targets": 1, "dropout": 0.1},
    "acvae": {
        "dim": 16,
        "item_dim": 32,
        "state_dim": 32,
        "judge_dim": 16,
        "embedding_dropout": 0.1,
        "dropout": 0.1,
        "max_length": 10,
    },
    "svae": {"dim": 16, "item_dim": 32, "state_dim": 32, "hidden_dim": 32, "max_length": 10},
    "comirec": {"dim": 32, "interests": 3, "max_length": 10},
    "stosa": {"dim": 16, "dropout": 0.1, "max_length": 10},
    "dimerec": {"dim": 64, "interests": 3, "schedule": {"name": "exp", "steps": 10}},
    "tiger": {
        "dim": 64,
        "heads": 4,
        "head_dim": 16,
        "hidden": 64,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "levels": 1,
        "codewords": 8,
        "max_length": 10,
        "quantiser": {"name": "residual_k_means"},
        "position_std": 2.0,
    },
    "adigrec": {"dim": 64, "guidance": {"name": "both", "interests": 3}, "schedule": {"name": "exp", "steps": 10}},
}
"""Options that make each model small enough to be trained in seconds; linear denoisers need width to hold 30 items."""

CLAIMS: dict[str, dict[str, Any]] = {
    "popularity": {"personal": False},
    "markov": {},
    "sasrec": {},
    "gru4rec": {"noise_in_loss": True, "learning_rate": 1e-2, "steps": 60},
    "guided_sasrec": {"noise_in_loss": True},
    "cl4srec": {"noise_in_loss": True, "learning_rate": 1e-2, "steps": 100},
    "duorec": {"noise_in_loss": True, "learning_rate": 1e-2, "steps": 100},
    "bert4rec": {"noise_in_loss": True, "learning_rate": 1e-2, "steps": 300},
    "diffurec": {"noise_in_loss": True, "noise_in_scores": True, "steps": 300},
    "aligndiff": {"noise_in_loss": True, "noise_in_scores": True, "learning_rate": 1e-2, "steps": 200},
    "dreamrec": {"noise_in_loss": True},
    "preferdiff": {"noise_in_loss": True},
    "steerrec": {"noise_in_loss": True, "noise_in_scores": True},
    "cadirec": {"noise_in_loss": True, "steps": 120, "learning_rate": 1e-2},
    "diffrec": {
        "noise_in_loss": True,
        "learning_rate": 1e-2,
        "steps": 300,
        "planted_at": 2,  # profiles are sets: both ends of a walk are next to an item without a neighbour
    },
    "ldiffrec": {
        "noise_in_loss": True,
        "learning_rate": 1e-2,
        "steps": 300,
        "planted_at": 5,  # the same, through a noisy latent vector: the neighbourhood is found
        "planted_recall": 0.6,
    },
    "caser": {
        "noise_in_loss": True,
        "learning_rate": 1e-2,
        "steps": 100,
        "planted_at": 3,  # negatives are never items of the row, so nothing pushes the items of the history down
    },
    "acvae": {"noise_in_loss": True, "learning_rate": 1e-2, "steps": 100},
    "svae": {
        "noise_in_loss": True,
        "learning_rate": 1e-2,
        "planted_at": 4,  # of the next four items none is said to be the first
    },
    "comirec": {
        "noise_in_loss": True,
        "learning_rate": 1e-2,
        "without_gradient": frozenset({"start"}),  # no planted history is empty
        "planted_at": 5,  # a mean of item vectors: neighbours are found, the order is not
        "planted_recall": 0.6,
    },
    "stosa": {
        "noise_in_loss": True,
        "learning_rate": 1e-2,
        "steps": 100,
        "planted_at": 3,  # negatives are never items of the row, so nothing pushes the items of the history away
    },
    "dimerec": {
        "noise_in_loss": True,
        "noise_in_scores": True,
        "learning_rate": 1e-2,
        "steps": 250,
        "without_gradient": frozenset({"start"}),  # no planted history is empty
        "planted_recall": 0.65,  # a mean of item vectors knows the newest item by its position alone
    },
    "tiger": {
        "learning_rate": 1e-3,
        "steps": 400,  # faster rates stay below the bound, however long
        "planted_at": 2,  # of items that share a token, the others come close
    },
    "adigrec": {
        "noise_in_loss": True,
        "noise_in_scores": True,
        "learning_rate": 1e-2,
        "steps": 200,
        "without_gradient": frozenset({"start"}),
        "planted_recall": 0.85,
    },
}
"""What each model says about itself, see the attributes of `ModelConformance`."""


def model_files() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(guiderec.models.__path__) if module.name != "base")


def model_class(name: str) -> type[Recommender]:
    """The one Recommender that the file defines."""
    module = importlib.import_module(f"guiderec.models.{name}")
    classes = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Recommender) and value.__module__ == module.__name__
    ]
    assert len(classes) == 1, f"models/{name}.py defines {len(classes)} models: {classes}"
    return classes[0]


def conformance(name: str) -> type[ModelConformance]:
    def make_model(self: ModelConformance) -> Recommender:
        model = model_class(name)
        return model(model.Config.from_plain({"name": name, **SMALL[name]}), self.n_items)

    return type(f"Test_{name}", (ModelConformance,), {"make_model": make_model, **CLAIMS[name]})


CASES = [
    pytest.param(conformance(name), test, id=f"{name}-{test.removeprefix('test_')}")
    for name in model_files()
    if name in SMALL and name in CLAIMS
    for test in dir(ModelConformance)
    if test.startswith("test_")
]


@pytest.mark.parametrize(("case", "test"), CASES)
def test_model(case: type[ModelConformance], test: str) -> None:
    getattr(case(), test)()


def test_every_model_file_has_an_entry_and_every_entry_a_file():
    assert set(model_files()) == set(SMALL) == set(CLAIMS)


@pytest.mark.parametrize("name", model_files())
def test_file_config_and_class_have_one_name(name: str):
    config = model_class(name).Config
    assert issubclass(config, ModelConfig)
    assert config.model_fields["name"].default == name

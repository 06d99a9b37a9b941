"""Impressions from training to evaluation: what models are told, what competes, and what the answer gives away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from guiderec.api import configure
from guiderec.data.dataset import Dataset
from guiderec.data.impressions import split
from guiderec.data.protocols import ImpressionSplit
from guiderec.data.synthetic import make
from guiderec.errors import ConfigError, DataError
from guiderec.evaluation.evaluate import evaluate, validation_metrics
from guiderec.evaluation.ranking import inference
from guiderec.models.popularity import Popularity, PopularityConfig
from guiderec.recipes import run as runs
from guiderec.recipes.registry import build
from guiderec.rng import Noise, seed_everything

SMALL = {"model.dim": 16, "model.schedule.steps": 20, "training.epochs": 1, "training.batch_size": 32}


@pytest.fixture(scope="module")
def impressions() -> Dataset:
    """120 impressions of 30 users, each of 3 to 8 of 40 items, one or two of them clicked."""
    random = np.random.default_rng(0)
    lines: list[dict[str, Any]] = []
    for time in range(120):
        shown = (1 + random.permutation(40)[: random.integers(3, 9)]).tolist()
        clicks = int(random.integers(1, 3))
        history = (1 + random.integers(0, 40, random.integers(0, 6))).tolist()
        lines.append({"user": int(random.integers(30)), "time": time, "history": history})
        lines[-1] |= {"clicked": shown[:clicks], "unclicked": shown[clicks:]}
    return split(pl.DataFrame(lines), ImpressionSplit(fractions=(0.5, 0.25, 0.25)), name="tiny")


def test_the_target_is_ranked_among_what_was_shown(impressions: Dataset) -> None:
    model = Popularity(PopularityConfig(), impressions.n_items)
    model.prepare(impressions.train.sequences)
    found = evaluate(model, impressions.test, max_length=5, candidates=impressions.candidates["test"])
    with inference(model):
        scores = model.scores(torch.zeros(1, 1), Noise(0))[0].tolist()  # type: ignore[arg-type]
    for row, (target, rank) in enumerate(found.rows.select("target", "rank").iter_rows()):
        shown = impressions.shown["test"][int(impressions.test.sequence[row])].tolist()
        assert rank == 1 + sum(scores[item] >= scores[target] for item in shown if item != target)
    assert found.catalogue == "candidates"


def test_what_each_choice_tells_the_model(impressions: Dataset) -> None:
    def told(dislikes: str, part: str = "test") -> np.ndarray | None:
        return runs.told(configure("steerrec:mind", {"dislikes": dislikes}), impressions, part)

    assert told("none") is None
    for name, lists in (("shown", impressions.shown), ("unclicked", impressions.unclicked)):
        rows = impressions.valid
        assert told(name, "valid").shape[0] == len(rows)
        for row, items in enumerate(told(name, "valid").tolist()):
            assert [item for item in items if item] == lists["valid"][int(rows.sequence[row])].tolist()
    assert told("earlier") is impressions.dislikes["test"]
    plain = make(n_items=100, n_users=100, mean_length=5).dataset
    for name in ("shown", "unclicked", "earlier"):
        with pytest.raises(ConfigError, match=f"dislikes = '{name}' needs a split of impressions"):
            runs.told(configure("steerrec:mind", {"dislikes": name}), plain, "test")


def test_the_answer_is_all_that_a_model_that_steers_needs(impressions: Dataset) -> None:
    """Told what will not be clicked, weights that nobody trained find most clicks; told what is shown, they do not."""
    seed_everything(0)
    experiment = configure("guided_sasrec:demo", {"model.guidance.scale": 1.0})
    model = build(experiment.model, impressions.n_items)
    found = {}
    for dislikes in ("none", "shown", "unclicked"):
        told = runs.told(experiment.replace(dislikes=dislikes), impressions, "test")
        means = validation_metrics(
            model,
            impressions.test,
            max_length=5,
            metrics=["recall@1"],
            candidates=impressions.candidates["test"],
            dislikes=told,
        )
        found[dislikes] = means["recall@1"]
    assert found["unclicked"] > 0.5  # of two clicks of an impression one is first
    assert max(found["none"], found["shown"]) < 0.4


def test_dislikes_of_another_shape_are_refused(impressions: Dataset) -> None:
    model = Popularity(PopularityConfig(), impressions.n_items)
    model.prepare(impressions.train.sequences)
    with pytest.raises(DataError, match=r"dislikes must have shape \(.*, C\), one line per row"):
        evaluate(model, impressions.test, max_length=5, dislikes=np.zeros((3, 2), dtype=np.int64))


def test_a_run_learns_from_what_was_passed_over_and_is_told_it(impressions: Dataset, tmp_path: Path) -> None:
    experiment = configure("steerrec:mind_impressions", SMALL, 0)
    assert experiment.dislikes == "unclicked"
    assert runs.train(experiment, impressions, tmp_path / "run", progress=False).steps > 0
    plain = runs.evaluate(tmp_path / "run", impressions)
    shown = runs.evaluate(tmp_path / "run", impressions, overrides={"dislikes": "shown"}, label="shown")
    again = runs.evaluate(tmp_path / "run", impressions, overrides={"dislikes": "unclicked"}, label="again")
    assert plain["catalogue"] == shown["catalogue"] == "candidates"
    assert plain["metrics"] == again["metrics"]
    ranks = [pl.read_parquet(tmp_path / "run" / "evaluation" / f"test{x}.parquet")["rank"] for x in ("", "-shown")]
    assert ranks[0].to_list() != ranks[1].to_list()
    plain_data = make(n_items=100, n_users=100, mean_length=5).dataset
    with pytest.raises(ConfigError, match="'shown' needs data that tell what was passed over"):
        runs.train(experiment.replace(dislikes="none"), plain_data, tmp_path / "other", progress=False)

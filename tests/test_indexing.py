"""`guiderec index` and `--index`: built beside the weights, measured on other people, stale ones refused, served."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

pytest.importorskip("faiss")

from guiderec import CheckpointError, ConfigError, DataError, Model, Vocabulary
from guiderec.cli.main import main
from guiderec.data import prepared
from guiderec.data.dataset import Dataset
from guiderec.data.protocols import UserSplit
from guiderec.data.sequences import Sequences
from guiderec.diffusion.generation import Generation
from guiderec.evaluation import index as module
from guiderec.evaluation.index import FILE, ItemIndex
from guiderec.indexing import build_index
from guiderec.models.base import ModelConfig
from guiderec.models.popularity import PopularityConfig
from guiderec.models.steerrec import SteerRecConfig
from guiderec.recipes.registry import build
from guiderec.rng import numpy_generator, seed_everything

ITEMS, PEOPLE = 3_000, 600
SMALL: dict[str, Any] = {"k": 10, "recall": 0.9, "people": 25}


def split_of(items: int) -> Dataset:
    lists = numpy_generator(0, "lists").integers(1, items + 1, (PEOPLE, 5)).tolist()
    vocabulary = Vocabulary(tuple(f"i{j:04d}" for j in range(items)))
    return UserSplit(seed=0).dataset(Sequences.from_lists(lists), vocabulary, name="random/user-split")


def model_of(dataset: Dataset, seed: int = 0, config: ModelConfig | None = None) -> Model:
    seed_everything(seed)
    config = config or SteerRecConfig(dim=16, generation=Generation(steps=4))
    return Model(build(config, dataset.n_items), dataset.vocabulary, max_length=5)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return split_of(ITEMS)


@pytest.fixture(scope="module")
def indexed(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The directory of a run with an index, and what was said of it."""
    run = tmp_path_factory.mktemp("runs") / "mine"
    model_of(dataset).save_pretrained(run / "model")
    return run, build_index(run, dataset, **SMALL)


@pytest.fixture
def run(indexed: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy, to be changed."""
    shutil.copytree(indexed[0], tmp_path / "mine")
    return tmp_path / "mine"


def test_it_lies_beside_the_weights_and_was_measured(indexed: tuple[Path, dict[str, Any]]):
    run, said = indexed
    assert said["file"] == str(run / "model" / FILE)
    assert (said["items"], said["width"], said["k"], said["people"]) == (ITEMS, 16, 10, 25)
    assert 0.8 < said["recall"] <= 1
    assert 0.8 < said["recall_steered"] <= 1
    assert said["times_faster"] == pytest.approx(said["exact_ms"] / said["index_ms"], rel=0.05)
    found = Model.from_pretrained(run, index=True).index
    assert isinstance(found, ItemIndex)
    assert (found.n_lists, found.probes, found.refine) == (said["lists"], said["probes"], said["refine"])
    assert found.measured == {"k": 10, "users": 25, "recall": said["recall"], "recall_steered": said["recall_steered"]}
    assert Model.from_pretrained(run).index is None


def test_the_recall_is_that_of_lists_of_people_it_never_saw(indexed: tuple[Path, dict[str, Any]], dataset: Dataset):
    """The test part's people have lists of the model, without and through the index; half-blind search is seen."""
    run, said = indexed
    rows = dataset.test.take(np.arange(50))
    histories = [[dataset.vocabulary.raw[j - 1] for j in row if j] for row in rows.windows(np.arange(50), 5)[0]]
    model = Model.from_pretrained(run, index=True)
    through = model.recommend(histories)["item_id"].to_numpy().reshape(50, 10)
    exact = Model.from_pretrained(run).recommend(histories)["item_id"].to_numpy().reshape(50, 10)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(through, exact, strict=True)])
    assert shared == pytest.approx(said["recall"], abs=0.1)


def test_the_same_seed_makes_the_same_index(run: Path, dataset: Dataset):
    before = (run / "model" / FILE).read_bytes()
    build_index(run, dataset, **SMALL, overwrite=True)
    assert (run / "model" / FILE).read_bytes() == before


def test_weights_that_were_trained_further_make_it_stale(run: Path, dataset: Dataset):
    """One item of 3,000 moved: none of the vectors that an index remembers need be among what changed."""
    model = Model.from_pretrained(run)
    stored = (run / "model" / FILE).read_bytes()
    with torch.no_grad():
        model.recommender.items.weight[2] += 1.0  # type: ignore[union-attr, operator]
    model.save_pretrained(run / "model")
    (run / "model" / FILE).write_bytes(stored)
    with pytest.raises(CheckpointError, match=r"index.safetensors: is stale: .* Hint: build the index anew: guiderec"):
        Model.from_pretrained(run, index=True)
    build_index(run, dataset, **SMALL, overwrite=True)
    assert Model.from_pretrained(run, index=True).index is not None


def test_a_model_that_is_saved_again_loses_its_old_index(run: Path):
    model_of(split_of(ITEMS), seed=1).save_pretrained(run / "model")
    with pytest.raises(CheckpointError, match=rf"no such file. Hint: guiderec index {run} --data SPLIT builds it; "):
        Model.from_pretrained(run, index=True)


Change = Callable[[Path], None]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ConfigError, "there is an index already. Hint: --overwrite replaces it"),
        ({"overwrite": True, "k": 100}, ConfigError, "3,000 items are too few for an index to be worth it"),
        ({"overwrite": True, "k": 5_000}, ConfigError, "k = 5,000: expected 1 to 3,000"),
        ({"overwrite": True, "k": 10, "recall": 1.5}, ConfigError, "recall = 1.5"),
    ],
)
def test_refusals_leave_what_is_there(
    options: dict[str, Any], error: type[Exception], message: str, run: Path, dataset: Dataset
):
    before = (run / "model" / FILE).read_bytes()
    with pytest.raises(error) as caught:
        build_index(run, dataset, **({"people": 25} | options))
    assert message in str(caught.value)
    assert (run / "model" / FILE).read_bytes() == before


def test_directories_that_cannot_have_one(dataset: Dataset, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty: holds no model to build an index of"):
        build_index(tmp_path / "empty", dataset)
    popularity = model_of(dataset, config=PopularityConfig())
    popularity.recommender.prepare(dataset.train.sequences)
    popularity.save_pretrained(tmp_path / "popularity")
    with pytest.raises(ConfigError, match="Popularity does not rank by inner product"):
        build_index(tmp_path / "popularity", dataset)
    with pytest.raises(ConfigError, match="Popularity does not rank by inner product"):
        Model.from_pretrained(tmp_path / "popularity", index=True)
    other = split_of(ITEMS + 1)
    model_of(other).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="was trained on another catalogue than that of random/user-split"):
        build_index(tmp_path / "other", dataset, k=10)


def test_too_few_people(run: Path, dataset: Dataset):
    few = split_of(ITEMS)
    few = type(few)(**{**vars(few), "valid": few.valid.take(np.arange(19))})
    with pytest.raises(DataError, match="the validation part has 19 rows, and 20 are needed"):
        build_index(run, few, k=10, overwrite=True)


def test_without_faiss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'guiderec\[ann\]'"):
        module.require_faiss()
    assert main(["index", "absent", "--data", "absent"]) == 2
    assert "An index of items needs FAISS. Hint: pip install 'guiderec[ann]'" in capfd.readouterr().err


# ------------------------------------------------------------------------------------------------ the commands


def test_the_commands(run: Path, dataset: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    prepared.save(dataset, tmp_path / "split")
    command = ["index", run, "--data", tmp_path / "split", "-k", 10, "--recall", 0.9, "--people", 25, "--overwrite"]
    assert main([str(word) for word in (*command, "--json")]) == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["run"], said["items"], said["people"]) == (str(run), ITEMS, 25)
    assert main([str(word) for word in command]) == 0
    text = capfd.readouterr().out
    assert f"recall@10 {said['recall']:.4f}, {said['recall_steered']:.4f} under dislikes" in text
    assert "times as fast" in text

    asked = ["recommend", run, "--history", "i0001,i0002", "--dislike", "i0003", "--json"]
    assert main([str(word) for word in (*asked, "--index")]) == 0
    through = json.loads(capfd.readouterr().out)
    assert main([str(word) for word in asked]) == 0
    exact = json.loads(capfd.readouterr().out)
    assert (through["candidates"], exact["candidates"]) == ("index", "all")
    assert through["dislikes_honoured"] == exact["dislikes_honoured"] == "steered"
    scores = {row["item_id"]: row["score"] for row in exact["recommendations"]}
    shared = [row for row in through["recommendations"] if row["item_id"] in scores]
    assert len(shared) >= 5
    assert [row["score"] for row in shared] == pytest.approx([scores[row["item_id"]] for row in shared], rel=1e-5)
    assert main([str(word) for word in asked[:-1]] + ["--index"]) == 0
    assert "Found through the index" in capfd.readouterr().out

    (run / "model" / FILE).unlink()
    assert main([str(word) for word in (*asked, "--index")]) == 2
    assert f"index.safetensors: there is no such file. Hint: guiderec index {run} --data" in capfd.readouterr().err


def test_every_user_through_the_index(run: Path, tmp_path: Path):
    log = pl.DataFrame({"user": ["a", "b"], "item": ["i0001", "i0002"], "time": [1, 2]})
    log.write_parquet(tmp_path / "log.parquet")
    command = ["recommend", run, "--all-users", tmp_path / "log.parquet", "--out", tmp_path / "lists", "--index"]
    assert main([str(word) for word in command]) == 0
    described = json.loads((tmp_path / "lists" / "recommendations.json").read_text())
    assert described["index"]["sha256"] == Model.from_pretrained(run, index=True).index.lists.sha256  # type: ignore[union-attr]

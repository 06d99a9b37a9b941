"""The index of a run's items: built, tuned and measured on people of its split, and stored beside the weights.

    vectors of the items -> lists and codes -> the effort that reaches a recall for some people -> measured on others

People are histories of the validation part, whose targets are not looked at. Where the model can be steered, each asks
a second time and refuses three random items: wishes move what is searched for, and an index must serve that too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guiderec.data.batch import Query
from guiderec.data.dataset import Dataset
from guiderec.errors import CheckpointError, ConfigError, DataError
from guiderec.evaluation.index import FILE, ItemIndex, exact_items, item_vectors, recall_of, require_faiss
from guiderec.evaluation.ranking import candidates_for, from_candidates, inference
from guiderec.model import Model, model_folder, refuse_unfinished
from guiderec.models.base import EmbeddingRecommender
from guiderec.recipes.run import require_same_data
from guiderec.rng import Noise, numpy_generator

DISLIKES = 3
"""Items that a steered person of the sample refuses."""
LEAST_PEOPLE = 10
"""People to tune on, and to measure on, at least: fewer say nothing."""
_ROWS = 256
_TIMED = 32
"""Requests that are timed, one at a time."""


def build_index(
    run: str | Path,
    dataset: Dataset,
    *,
    k: int = 100,
    recall: float = 0.99,
    people: int = 256,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Build the index of a run or model directory, store it beside the weights, and say what it is worth.

    Parameters
    ----------
    dataset
        The split that the run was trained on: its people ask as real ones do.
    k, recall
        The effort of a request is the least that finds this share of the k best items.
    people
        On so many the effort is chosen, and on as many others it is measured; fewer where the split has fewer.
    overwrite
        Whether an index that is there already may be replaced.

    Returns
    -------
    `file`, `items`, `width`, `lists`, `probes`, `refine`, `mib`; `build_seconds`, `tune_seconds`; `k`, `people`,
    `recall` and, for a model that can be steered, `recall_steered`: means over people that the effort was not chosen
    on; `exact_ms`, `index_ms`, `times_faster`: milliseconds that ranking takes for one request on this machine now,
    without the model's own work, medians over requests asked in turns.

    Raises
    ------
    CheckpointError
        Where there is no model, or it was trained on another split.
    ConfigError
        For an index that exists; without FAISS; for a model that does not rank by inner product; for a catalogue that
        is too small for an index, and for vectors without structure, with which no effort reaches the recall.
    DataError
        For a split with too few people.
    """
    require_faiss()
    folder = model_folder(run)
    _require_place(Path(run), folder, overwrite)
    model = Model.from_pretrained(folder)
    recommender = model.recommender
    vectors = item_vectors(recommender)
    _require_enough(len(vectors) - 1, k)
    _require_split(Path(run), model, dataset)
    chosen, others = _people(model, dataset, people, seed)

    started = time.perf_counter()
    index = ItemIndex.build(vectors, seed=seed)
    built = time.perf_counter()
    index = index.tuned(torch.cat(list(chosen.values())), k=k, recall=recall)
    tuned = time.perf_counter()
    _require_candidates(index, k)
    reached = {kind: _recall(index, vectors, users, k) for kind, users in others.items()}
    exact, through = _milliseconds(index, vectors, others["recall"], k)
    index.measured = {"k": k, "users": len(others["recall"]), **reached}
    index.save(folder)
    return {
        "file": str(folder / FILE),
        "items": index.n_items,
        "width": vectors.shape[1],
        "lists": index.n_lists,
        "probes": index.probes,
        "refine": index.refine,
        "mib": round(index.lists.nbytes / 2**20, 2),
        "build_seconds": round(built - started, 2),
        "tune_seconds": round(tuned - built, 2),
        "k": k,
        "people": len(others["recall"]),
        **reached,
        "exact_ms": round(exact, 3),
        "index_ms": round(through, 3),
        "times_faster": round(exact / through, 2),
    }


def _require_place(run: Path, folder: Path, overwrite: bool) -> None:
    refuse_unfinished(folder)
    if not (folder / "model.json").exists():
        raise CheckpointError(
            f"{run}: holds no model to build an index of.", hint="`guiderec train` stores one when it is done"
        )
    if (folder / FILE).exists() and not overwrite:
        raise ConfigError(f"{folder / FILE}: there is an index already.", hint="--overwrite replaces it")


def _require_enough(n_items: int, k: int) -> None:
    """ConfigError where ranking would not ask an index at all: its candidates would be a large part of all items."""
    if not 1 <= k <= n_items:
        raise ConfigError(f"k = {k:,}: expected 1 to {n_items:,}, the number of items.")
    least = 4 * max(10 * k, 200)
    if n_items < least:
        raise ConfigError(
            f"{n_items:,} items are too few for an index to be worth it: for lists of {k:,} it begins to pay off "
            f"beyond {least:,} items, and below them all are scored.",
            hint="rank exactly, without --index",
        )


def _require_candidates(index: ItemIndex, k: int) -> None:
    if 4 * candidates_for(index, k) > index.n_items:
        raise ConfigError(
            f"To reach the recall, {candidates_for(index, k):,} of {index.n_items:,} items would have to be scored for "
            "every request, and then all are: this catalogue is too small for an index to be worth it.",
            hint="rank exactly, without --index, or ask for less recall or shorter lists",
        )


def _require_split(run: Path, model: Model, dataset: Dataset) -> None:
    if (run / "data.json").exists():
        require_same_data(run, dataset)
    if dataset.vocabulary.raw != model.vocabulary.raw:
        raise CheckpointError(f"{run}: was trained on another catalogue than that of {dataset.name}.")


Sample = dict[str, Tensor]
"""User vectors (B, K, D): under `recall` those of plain requests, under `recall_steered` those of steered ones."""


def _people(model: Model, dataset: Dataset, count: int, seed: int) -> tuple[Sample, Sample]:
    """Two samples of different people, of the same size: to choose the effort, and to measure it."""
    count = min(count, len(dataset.valid) // 2)
    if count < LEAST_PEOPLE:
        raise DataError(
            f"{dataset.name}: the validation part has {len(dataset.valid):,} rows, and {2 * LEAST_PEOPLE} are needed "
            "to choose the effort of an index and to measure it."
        )
    random = numpy_generator(seed, "people of an index")
    rows = dataset.valid.take(random.permutation(len(dataset.valid))[: 2 * count])
    history = torch.from_numpy(rows.windows(np.arange(len(rows)), model.max_length)[0])
    query = Query(history, torch.from_numpy(rows.keys()))
    samples: Sample = {"recall": _vectors(model, query)}
    if model.steers:
        refused = torch.from_numpy(random.integers(1, dataset.n_items + 1, (2 * count, DISLIKES)))
        samples["recall_steered"] = _vectors(model, Query(query.history, query.key, dislikes=refused))
    chosen = {kind: users[:count] for kind, users in samples.items()}
    return chosen, {kind: users[count:] for kind, users in samples.items()}


def _vectors(model: Model, query: Query) -> Tensor:
    """(B, K, D)."""
    recommender = model.recommender
    assert isinstance(recommender, EmbeddingRecommender)
    with inference(recommender):
        parts = [
            recommender.user_vectors(query.rows(slice(start, start + _ROWS)), Noise(0))
            for start in range(0, len(query), _ROWS)
        ]
    return torch.cat(parts).to("cpu", torch.float32)


def _recall(index: ItemIndex, vectors: Tensor, users: Tensor, k: int) -> float:
    return round(recall_of(from_candidates(index, users, k).items, exact_items(vectors, users, k)), 4)


def _milliseconds(index: ItemIndex, vectors: Tensor, users: Tensor, k: int) -> tuple[float, float]:
    """Of one request by exact ranking, and through the index."""
    sides: tuple[Callable[[Tensor], object], ...] = (
        lambda user: exact_items(vectors, user, k),
        lambda user: from_candidates(index, user, k),
    )
    spent: tuple[list[float], ...] = ([], [])
    for number in range(min(_TIMED + 1, len(users))):
        user = users[number : number + 1]
        for side, times in zip(sides, spent, strict=True):
            begun = time.perf_counter()
            side(user)
            times.append(1e3 * (time.perf_counter() - begun))
    exact, through = (median(times[1:]) for times in spent)  # the first ones warm up
    return exact, through

"""An index of items: never a wrong score, never an excluded item, never a list too short, and data only on the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from guiderec import CheckpointError, ConfigError, Model, Vocabulary
from guiderec.data.batch import PADDING, Query
from guiderec.errors import ScoreError
from guiderec.models.base import EmbeddingRecommender, ModelConfig, Recommender
from guiderec.recipes.registry import build, model_config
from guiderec.rng import Noise, numpy_generator, seed_everything

pytest.importorskip("faiss")

from guiderec.evaluation.index import FILE, ItemIndex, attach, exact_items, item_vectors, recall_of
from guiderec.evaluation.ranking import top_k, top_k_by_interest

ITEMS, USERS, WIDTH = 2_000, 12, 15  # an odd width: codes are of pairs


class Vectors(EmbeddingRecommender):
    """Users (B, K, D) by key, and items (I + 1, D)."""

    def __init__(self, users: Tensor, items: Tensor) -> None:
        super().__init__(ModelConfig(name="vectors"), len(items) - 1)
        self.register_buffer("users", users)
        self.register_buffer("items", items)
        self.n_interests = users.shape[1]

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        return self.users[query.key]

    def item_vectors(self) -> Tensor:
        return self.items


def clustered(n: int, seed: int = 0) -> Tensor:
    """(n, D) points around 30 centres, of unequal lengths."""
    random = numpy_generator(seed, "clustered")
    centres = numpy_generator(0, "centres").normal(size=(30, WIDTH))
    points = centres[random.integers(0, 30, n)] + 0.5 * random.normal(size=(n, WIDTH))
    return torch.from_numpy((points * np.exp(0.25 * random.normal(size=(n, 1)))).astype(np.float32))


def asked(rows: int = USERS) -> Query:
    return Query(torch.ones(rows, 1, dtype=torch.int64), torch.arange(rows))


@pytest.fixture(scope="module")
def items() -> Tensor:
    return clustered(ITEMS + 1)


@pytest.fixture(scope="module")
def index(items: Tensor) -> ItemIndex:
    return ItemIndex.build(items)


def model_of(items: Tensor, interests: int = 1) -> Vectors:
    return Vectors(clustered(USERS * interests, seed=1).view(USERS, interests, WIDTH), items)


# ------------------------------------------------------------------------------------------------ lists


@pytest.mark.parametrize("interests", [1, 3])
def test_with_every_list_read_it_is_exact_ranking(items: Tensor, index: ItemIndex, interests: int):
    model = model_of(items, interests)
    exact = top_k_by_interest(model, asked(), 20, Noise(0))
    model.index = index.with_effort(index.n_lists, refine=40)
    found = top_k_by_interest(model, asked(), 20, Noise(0))
    assert found.items.equal(exact.items)
    assert found.interests.equal(exact.interests)
    torch.testing.assert_close(found.scores, exact.scores)
    scores, listed = top_k(model, asked(), 20, Noise(0))
    assert listed.equal(exact.items)
    assert scores.equal(found.scores)


def test_little_effort_is_approximate_but_its_scores_are_exact(items: Tensor, index: ItemIndex):
    model = model_of(items)
    truth = exact_items(items, model.users, 20)
    model.index = index.with_effort(1, refine=1)
    scores, listed = top_k(model, asked(), 20, Noise(0))
    assert 0.2 < recall_of(listed, truth) < 1  # otherwise nothing here is approximate, and the tests show nothing
    products = (items[listed] * model.users).sum(dim=2)
    torch.testing.assert_close(scores, products)
    assert bool((scores.diff(dim=1) <= 0).all())
    assert all(len(set(row)) == 20 for row in listed.tolist())


@pytest.mark.parametrize("kept", [1_900, 300, 25, 7, 0])
def test_excluded_items_never_appear_and_lists_are_full(items: Tensor, index: ItemIndex, kept: int):
    """Of every row but the last, all but `kept` items are excluded, beginning with those that score highest."""
    model, k = model_of(items), 20
    order = (model.users[:, 0] @ items[1:].T).argsort(dim=1, descending=True) + 1
    exclude = order[:, : ITEMS - kept].clone()
    exclude[-1] = PADDING
    model.index = index.with_effort(1, refine=1)
    scores, listed = top_k(model, asked(), k, Noise(0), exclude=exclude)
    for row, barred in zip(listed.tolist(), exclude.tolist(), strict=True):
        real = [item for item in row if item != PADDING]
        assert not set(real) & set(barred)
        assert len(real) == len(set(real)) == min(k, ITEMS - len(set(barred) - {PADDING}))
    assert bool((scores[listed == PADDING] == -torch.inf).all())


def test_a_row_alone_is_as_in_a_batch(items: Tensor, index: ItemIndex):
    """Also beside rows for which many items are excluded, which are looked for harder."""
    model = model_of(items)
    model.index = index.with_effort(4, refine=2)
    exclude = torch.zeros(USERS, 900, dtype=torch.int64)
    exclude[::2] = torch.arange(1, 901)
    _, together = top_k(model, asked(), 20, Noise(0), exclude=exclude)
    for row in range(USERS):
        _, alone = top_k(model, asked().rows(slice(row, row + 1)), 20, Noise(0), exclude=exclude[row : row + 1])
        assert alone.equal(together[row : row + 1])


def test_equal_items_are_listed_by_id(items: Tensor):
    """Every item three times: equal scores, smaller ids first, as in exact ranking."""
    thrice = torch.cat([items[:1], items[1:501].repeat(3, 1)])
    model = model_of(thrice)
    _, exact = top_k(model, asked(), 30, Noise(0))
    made = ItemIndex.build(thrice)
    model.index = made.with_effort(made.n_lists, refine=40)
    assert top_k(model, asked(), 30, Noise(0))[1].equal(exact)


def test_other_number_formats_are_scored_as_well(items: Tensor):
    half = items.half()
    model = Vectors(clustered(USERS, seed=1)[:, None], half)
    _, exact = top_k(model, asked(), 20, Noise(0))
    made = ItemIndex.build(half)
    model.index = made.with_effort(made.n_lists, refine=40)
    assert top_k(model, asked(), 20, Noise(0))[1].equal(exact)


def test_tuned_reaches_the_recall_on_other_users_too(items: Tensor, index: ItemIndex):
    tuned = index.tuned(clustered(200, seed=2)[:, None], k=20, recall=0.95)
    assert tuned.measured is not None
    assert tuned.measured["recall"] >= 0.95
    assert tuned.probes < index.n_lists
    model = Vectors(clustered(200, seed=3)[:, None], items)
    truth = exact_items(items, model.users, 20)
    model.index = tuned
    assert recall_of(top_k(model, asked(200), 20, Noise(0))[1], truth) > 0.92


def test_the_same_vectors_make_the_same_index(items: Tensor, index: ItemIndex):
    assert ItemIndex.build(items).describe() == index.describe()
    assert ItemIndex.build(items, seed=1).describe() != index.describe()


def test_candidates_of_a_query_are_ranked_exactly(items: Tensor, index: ItemIndex):
    model = model_of(items)
    query = Query(asked().history, asked().key, candidates=torch.arange(1, 61).repeat(USERS, 1))
    exact = top_k(model, query, 20, Noise(0))
    model.index = index.with_effort(1, refine=1)
    assert top_k(model, query, 20, Noise(0))[1].equal(exact[1])


def test_a_user_vector_that_is_not_finite_is_an_error(items: Tensor, index: ItemIndex):
    model = model_of(items)
    model.users[3, 0, 2] = torch.nan
    model.index = index
    with pytest.raises(ScoreError, match=r"Row 3 of the query \(key 3\) has a user vector that is not finite"):
        top_k(model, asked(), 5, Noise(0))


def test_the_model_recommends_through_its_index(tmp_path: Path):
    seed_everything(0)
    recommender = build(model_config({"name": "sasrec", "dim": 16, "max_length": 5}), ITEMS)
    model = Model(recommender, Vocabulary(tuple(range(100, 100 + ITEMS))), 5)
    exact = model.recommend([[100, 101], [102]], k=10, dislikes=[[103], []])
    made = ItemIndex.build(item_vectors(recommender))
    model.save_pretrained(tmp_path)
    made.with_effort(made.n_lists, refine=40).save(tmp_path)
    again = Model.from_pretrained(tmp_path)
    attach(again.recommender, tmp_path)
    assert again.recommend([[100, 101], [102]], k=10, dislikes=[[103], []])["item_id"].equals(exact["item_id"])


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda items, _: ItemIndex.build(items[:500]), "at least 1,000 items, got 499"),
        (lambda items, _: ItemIndex.build(items, lists=60), "lists = 60: of 2,000 items at most 51"),
        (lambda items, _: ItemIndex.build(torch.where(items > 2, torch.nan, items)), "is not finite"),
        (lambda _, index: index.with_effort(0, 10), "probes = 0"),
        (lambda _, index: index.with_effort(1, 0), "refine = 0"),
        (lambda _, index: index.tuned(clustered(5)[:, None], recall=1.5), "recall = 1.5"),
    ],
)
def test_what_cannot_be_built(make: Callable[..., Any], message: str, items: Tensor, index: ItemIndex):
    with pytest.raises(ConfigError) as caught:
        make(items, index)
    assert message in str(caught.value)


def test_models_without_inner_products_are_refused(items: Tensor, index: ItemIndex, tmp_path: Path):
    index.save(tmp_path)
    popularity: Recommender = build(model_config({"name": "popularity"}), ITEMS)
    with pytest.raises(ConfigError, match="Popularity does not rank by inner product"):
        attach(popularity, tmp_path)
    model = model_of(items[:1_501])
    model.index = index
    with pytest.raises(ConfigError, match="The index has 2,000 items, the model 1,500"):
        top_k(model, asked(), 5, Noise(0))


# ------------------------------------------------------------------------------------------------ on disk


def test_stored_and_loaded_it_is_the_same(items: Tensor, index: ItemIndex, tmp_path: Path):
    tuned = index.with_effort(3, refine=5)
    tuned.measured = {"k": 20, "recall": 0.9, "users": 7}
    tuned.save(tmp_path)
    loaded = ItemIndex.load(tmp_path, items)
    assert loaded.describe() == tuned.describe()
    assert loaded.measured == tuned.measured
    users = clustered(USERS, seed=1)[:, None]
    assert loaded.candidates(users, 100).equal(tuned.candidates(users, 100))
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


Arrays = dict[str, np.ndarray]


def swapped(arrays: Arrays) -> Arrays:
    arrays["items"][5] = arrays["items"][6]
    return arrays


def overflowing(arrays: Arrays) -> Arrays:
    arrays["sizes"][:2] += np.array([2**62, -(2**62)])
    return arrays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a | {"items": a["items"] + 1}, "items hold impossible values"),
        (swapped, "items hold impossible values"),
        (overflowing, "sizes hold impossible values"),
        (lambda a: a | {"sizes": np.append(a["sizes"][1:], 1)}, "sizes hold impossible values"),
        (lambda a: a | {"sizes": a["sizes"][1:]}, "'centroids' must be F32 of shape (50, 16)"),
        (lambda a: a | {"codes": a["codes"][:-1]}, "'codes' must be U8 of shape (2000, 4) for 2,000 items of width 15"),
        (lambda a: a | {"codewords": a["codewords"].astype(np.float64)}, "'codewords' must be F32"),
        (lambda a: a | {"centroids": a["centroids"] * np.nan}, "centroids hold impossible values"),
        (lambda a: a | {"witnesses": a["witnesses"] + 10**9}, "witnesses hold impossible values"),
        (lambda a: a | {"witness_vectors": a["witness_vectors"] + 1}, "was built of other item vectors"),
        (lambda a: {name: a[name] for name in a if name != "codes"}, "expected the arrays"),
        (lambda a: a | {"code": a["codes"]}, "expected the arrays"),
    ],
)
def test_impossible_arrays_are_refused(
    change: Callable[[Arrays], Arrays], message: str, items: Tensor, index: ItemIndex, tmp_path: Path
):
    index.save(tmp_path)
    about = {"guiderec.index": json.dumps({"format": 1, "probes": 1, "refine": 10, "measured": None})}
    save_file(change(load_file(tmp_path / FILE)), tmp_path / FILE, metadata=about)
    with pytest.raises(CheckpointError) as caught:
        ItemIndex.load(tmp_path, items)
    assert message in str(caught.value)
    assert str(tmp_path / FILE) in str(caught.value)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({}, "not an index of items"),
        ({"guiderec.index": "[1]"}, "not an index of items"),
        ({"guiderec.index": '{"format": 2, "probes": 1, "refine": 1, "measured": null}'}, "format 2, this version"),
        ({"guiderec.index": '{"format": 1, "probes": 10000, "refine": 1, "measured": null}'}, "probes = 10000"),
        ({"guiderec.index": '{"format": 1, "probes": "1", "refine": 1, "measured": null}'}, "must be whole numbers"),
    ],
)
def test_impossible_headers_are_refused(
    about: dict[str, str], message: str, items: Tensor, index: ItemIndex, tmp_path: Path
):
    index.save(tmp_path)
    save_file(load_file(tmp_path / FILE), tmp_path / FILE, metadata=about)
    with pytest.raises(CheckpointError) as caught:
        ItemIndex.load(tmp_path, items)
    assert message in str(caught.value)


def test_files_that_are_none_are_refused(items: Tensor, index: ItemIndex, tmp_path: Path):
    with pytest.raises(CheckpointError, match="there is no such file"):
        ItemIndex.load(tmp_path, items)
    index.save(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    for broken in (whole[:-10], whole[:100], b"IxFI" + whole, b""):
        (tmp_path / FILE).write_bytes(broken)
        with pytest.raises(CheckpointError, match="not a readable safetensors file"):
            ItemIndex.load(tmp_path, items)

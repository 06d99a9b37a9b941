from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranked_models import MeanOfHistory, Table, Vectors, query
from torch import Tensor

from guiderec.data.batch import Query
from guiderec.errors import ConfigError, DataError, ScoreError
from guiderec.evaluation import ranking
from guiderec.evaluation.ranking import ranks_both_ways, target_ranks, top_k, top_k_by_interest
from guiderec.models.base import EmbeddingRecommender
from guiderec.rng import Noise

NOISE = Noise(0)


def slow(scores: np.ndarray, target: int, k: int, candidates: set[int] | None, exclude: set[int]):
    """One row, in plain Python: the rank of the target, and (score, item) of the list."""
    competing = [j for j in range(1, len(scores)) if (candidates is None or j in candidates) and j not in exclude]
    rank = 1 + sum(1 for j in competing if j != target and scores[j] >= scores[target])
    listed = sorted((-scores[j], j) for j in competing if scores[j] > -math.inf)[:k]
    listed += [(math.inf, 0)] * (k - len(listed))
    return rank, [(-score, item) for score, item in listed]


@st.composite
def problems(draw: st.DrawFn) -> dict:
    """Small integers as vectors: products are exact, and ties are everywhere."""
    n_rows, n_items = draw(st.integers(1, 4)), draw(st.integers(1, 25))
    interests, width = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    some = lambda size: generator.integers(0, n_items + 1, size=(n_rows, size))  # noqa: E731
    return {
        "users": torch.tensor(generator.integers(-2, 3, size=(n_rows, interests, width)), dtype=torch.float32),
        "items": torch.tensor(generator.integers(-2, 3, size=(n_items + 1, width)), dtype=torch.float32),
        "generated": generator.random((n_rows, n_items + 1)) < draw(st.sampled_from([1.0, 0.6, 0.0])),
        "target": torch.tensor(generator.integers(1, n_items + 1, size=n_rows)),
        "exclude": some(draw(st.integers(0, 6))) if draw(st.booleans()) else None,
        "candidates": some(draw(st.integers(0, 9))) if draw(st.booleans()) else None,
        "k": draw(st.integers(1, 30)),
        "block_items": draw(st.one_of(st.none(), st.integers(1, 30))),
    }


def check(model, scores: np.ndarray, p: dict) -> None:
    n_rows = len(scores)
    candidates, exclude = p["candidates"], p["exclude"]
    asked = query(n_rows, candidates=None if candidates is None else candidates.tolist())
    excluded = None if exclude is None else torch.tensor(exclude)
    ranks = target_ranks(model, asked, p["target"], NOISE, exclude=excluded, block_items=p["block_items"])
    values, items = top_k(model, asked, p["k"], NOISE, exclude=excluded, block_items=p["block_items"])
    assert ranks.dtype == items.dtype == torch.int64
    if excluded is not None:
        listed_of = {"keep": top_k(model, asked, p["k"], NOISE)[1], "mask": items}
        for listed, expected in listed_of.items():
            ways, found = ranks_both_ways(
                model, asked, p["target"], p["k"], NOISE, seen=excluded, listed=listed, block_items=p["block_items"]
            )
            assert ways["keep"].equal(target_ranks(model, asked, p["target"], NOISE))
            assert ways["mask"].equal(ranks)
            assert found.equal(expected)
    for b in range(n_rows):
        rank, listed = slow(
            scores[b],
            int(p["target"][b]),
            p["k"],
            None if candidates is None else set(candidates[b].tolist()) - {0},
            set() if exclude is None else set(exclude[b].tolist()),
        )
        assert int(ranks[b]) == rank
        assert list(zip(values[b].tolist(), items[b].tolist(), strict=True)) == listed


@given(problems())
@settings(max_examples=150, deadline=None)
def test_vectors_agree_with_the_slow_loop(p: dict) -> None:
    scores = np.einsum("bkd,id->bki", p["users"].numpy(), p["items"].numpy()).max(axis=1)
    check(Vectors(p["users"], p["items"]), scores, p)


@given(problems())
@settings(max_examples=150, deadline=None)
def test_each_item_is_brought_by_the_first_of_its_best_interests(p: dict) -> None:
    """Beside the very lists of `top_k`; a place without an item has interest -1."""
    model, asked = Vectors(p["users"], p["items"]), query(len(p["users"]))
    excluded = None if p["exclude"] is None else torch.tensor(p["exclude"])
    found = top_k_by_interest(model, asked, p["k"], NOISE, exclude=excluded, block_items=p["block_items"])
    values, items = top_k(model, asked, p["k"], NOISE, exclude=excluded, block_items=p["block_items"])
    assert found.scores.equal(values)
    assert found.items.equal(items)
    products = np.einsum("bkd,id->bki", p["users"].numpy(), p["items"].numpy())
    for b, row in enumerate(items.tolist()):
        best = [products[b, :, j].tolist() for j in row]
        expected = [scores.index(max(scores)) if j else -1 for j, scores in zip(row, best, strict=True)]
        assert found.interests[b].tolist() == expected


def test_a_model_without_interests_has_one() -> None:
    found = top_k_by_interest(Table(torch.tensor([[0.0, 1.0, -torch.inf, 2.0]])), query(1), 3, NOISE)
    assert found.items.tolist() == [[3, 1, 0]]
    assert found.interests.tolist() == [[0, 0, -1]]


def test_interests_need_no_more_than_blocks() -> None:
    """No tensor with a column for every item and interest: the widest product is one block of all interests."""
    model = Vectors(torch.randn(3, 4, 8), torch.randn(5_001, 8))
    widest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            widest.extend(t.numel() for t in (out if isinstance(out, tuple) else [out]) if isinstance(t, Tensor))
            return out

    asked = query(3)
    with Watch():
        top_k_by_interest(model, asked, 5, NOISE, block_items=100)
    assert max(size for size in widest if size != model.items.numel()) <= 3 * 4 * 100


@given(problems())
@settings(max_examples=150, deadline=None)
def test_score_matrices_agree_with_the_slow_loop(p: dict) -> None:
    """Also with items that were not generated (-inf)."""
    scores = (p["users"] @ p["items"].T).amax(dim=1)
    scores[~torch.tensor(p["generated"])] = -torch.inf
    scores[:, 0] = torch.nan  # column 0 is never read
    check(Table(scores), scores.numpy(), p)


def test_a_constant_model_ranks_every_target_last() -> None:
    target = torch.tensor([1, 4, 9])
    asked = query(3)
    assert target_ranks(Table(torch.zeros(3, 10)), asked, target, NOISE).tolist() == [9, 9, 9]
    assert target_ranks(Vectors(torch.zeros(3, 1, 4), torch.ones(10, 4)), asked, target, NOISE).tolist() == [9, 9, 9]
    exclude = torch.tensor([[2, 3, 0], [4, 4, 2], [0, 0, 0]])  # row 1 excludes its own target, which still competes
    assert target_ranks(Table(torch.zeros(3, 10)), asked, target, NOISE, exclude=exclude).tolist() == [7, 8, 9]


def test_a_target_that_was_not_generated_ranks_last_and_is_not_listed() -> None:
    scores = torch.tensor([[0.0, -math.inf, 3.0, -math.inf, 1.0]])
    assert target_ranks(Table(scores), query(1), torch.tensor([3]), NOISE).tolist() == [4]
    values, items = top_k(Table(scores), query(1), 3, NOISE)
    assert items.tolist() == [[2, 4, 0]]
    assert values.tolist() == [[3.0, 1.0, -math.inf]]


def test_equal_vectors_tie_however_the_product_rounds() -> None:
    """A target recomputed by another kernel (a dot product per row) would beat or lose to its twins by one digit."""
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(64, 1, 129, generator=generator)
    items = torch.randn(1, 129, generator=generator).expand(999, 129).contiguous()
    for block_items in (None, 8, 128):
        model, target = Vectors(users, items), torch.randint(1, 999, (64,), generator=generator)
        ranks = target_ranks(model, query(64), target, NOISE, block_items=block_items)
        scores = torch.cat([b for _, b in ranking.ScoreBlocks(model, query(64), NOISE, block_items=block_items)], dim=1)
        own = scores.gather(1, target[:, None] - 1)
        assert ranks.equal((scores >= own).sum(dim=1))


@pytest.mark.parametrize("k", [1, 7, 100, 3000])
def test_lists_agree_with_torch_topk_on_random_scores(k: int) -> None:
    scores = torch.randn(17, 2001, generator=torch.Generator().manual_seed(1))
    expected = scores[:, 1:].topk(min(k, 2000), dim=1)
    for block_items in (None, 1, 333, 1000) if k <= 100 else (None, 333):
        values, items = top_k(Table(scores), query(17), k, NOISE, block_items=block_items)
        assert values[:, :2000].equal(expected.values)
        assert items[:, :2000].equal(expected.indices + 1)
        assert items[:, 2000:].sum() == 0


def test_scores_that_grow_with_the_item_id_keep_working() -> None:
    """Every item of every block enters the list: the worst case of the running threshold."""
    scores = torch.arange(1001.0).expand(2, -1)
    _, items = top_k(Table(scores), query(2), 5, NOISE, block_items=64)
    assert items.tolist() == [[1000, 999, 998, 997, 996]] * 2


def test_blocks_stay_within_the_budget() -> None:
    """512 rows with 4 interests against 300,000 items: no block of products above BLOCK_SCORES numbers."""
    model = Vectors(torch.zeros(512, 4, 1), torch.zeros(300_001, 1))
    blocks = ranking.ScoreBlocks(model, query(512), NOISE)
    assert 512 * 4 * blocks.block_items <= ranking.BLOCK_SCORES < 512 * 4 * (blocks.block_items + 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_named(bad: float) -> None:
    scores = torch.zeros(3, 21)
    scores[2, 13] = bad
    with pytest.raises(ScoreError, match=rf"Row 2 of the query \(key 2\) scores item 13 with {bad}") as caught:
        top_k(Table(scores), query(3), 5, NOISE, block_items=5)
    assert caught.value.row == 2
    with pytest.raises(ScoreError, match="scores item 13"):
        target_ranks(Table(scores), query(3), torch.tensor([1, 1, 1]), NOISE)


def test_scores_of_a_wrong_shape_stop_at_the_door() -> None:
    model = Table(torch.zeros(3, 21))
    model.n_items = 30
    with pytest.raises(ScoreError, match=r"`scores` must have shape \(3, 31\); the model gave \(3, 21\)"):
        top_k(model, query(3), 5, NOISE)
    model = Vectors(torch.zeros(3, 4), torch.zeros(5, 4))
    with pytest.raises(ScoreError, match=r"`user_vectors` must have shape \(3, any, any\); the model gave \(3, 4\)"):
        top_k(model, query(3), 5, NOISE)


def test_impossible_arguments() -> None:
    model = Table(torch.zeros(2, 5))
    with pytest.raises(DataError, match=r"target of row 1 is item 5; items are 1..4 \(1 of 2 targets"):
        target_ranks(model, query(2), torch.tensor([4, 5]), NOISE)
    with pytest.raises(DataError, match="item 0"):
        target_ranks(model, query(2), torch.tensor([0, 1]), NOISE)
    with pytest.raises(ConfigError, match="k = 0"):
        top_k(model, query(2), 0, NOISE)
    with pytest.raises(ConfigError, match="block_items = 0"):
        top_k(model, query(2), 1, NOISE, block_items=0)


def test_a_model_with_scores_of_its_own_is_ranked_by_them() -> None:
    class Distances(Vectors):
        def scores(self, query: Query, noise: Noise) -> Tensor:
            return -torch.cdist(self.users[query.key][:, 0], self.items)

    model = Distances(torch.tensor([[[1.0]]]), torch.tensor([[0.0], [9.0], [1.5]]))
    assert isinstance(model, EmbeddingRecommender)
    assert top_k(model, query(1), 2, NOISE)[1].tolist() == [[2, 1]]  # the inner product prefers item 1


def test_every_module_returns_to_its_own_mode() -> None:
    model = MeanOfHistory(20).train()
    model.frozen.eval()
    first = top_k(model, query(4), 5, NOISE)
    assert model.training
    assert model.dropout.training
    assert not model.frozen.training
    second = top_k(model.eval(), query(4), 5, NOISE)  # no dropout in either
    assert first[0].equal(second[0])
    assert not model.training
    assert not first[0].requires_grad


def test_the_mode_returns_after_an_error() -> None:
    model = Table(torch.full((1, 4), math.nan)).train()
    with pytest.raises(ScoreError):
        top_k(model, query(1), 1, NOISE)
    assert model.training


def test_half_precision_is_ranked_in_single_precision() -> None:
    users, items = torch.randn(3, 1, 8).bfloat16(), torch.randn(50, 8).bfloat16()
    values, listed = top_k(Vectors(users, items), query(3), 49, NOISE)
    expected = (users[:, 0].double() @ items[1:].double().T).sort(dim=1, descending=True)
    assert values.dtype == torch.float32
    assert listed.equal(expected.indices + 1)


@pytest.mark.slow
def test_memory_is_bounded_by_the_block() -> None:
    """A few blocks, where the score matrix has 24; measured in processes of their own."""
    benchmark = Path(__file__).parents[2] / "benchmarks" / "ranking.py"
    command = [sys.executable, str(benchmark), "--items", "400000", "--width", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    record = json.loads(done.stdout)
    peaks = {side: result["peak_rise_mib"] for side, result in record["results"].items()}
    assert record["full_matrix_mib"] > 24 * record["block_mib"]
    assert peaks["full matrix"] > 0.9 * record["full_matrix_mib"]
    assert peaks["blocks"] < 3.5 * record["block_mib"]
    assert peaks["blocks with target ranks"] < 5 * record["block_mib"]
    assert record["share_of_equal_places"] > 0.999

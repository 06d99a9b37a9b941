"""Measures of interests against closed forms and loops over single rows; changes between two runs."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from ranked_models import Table, Vectors, make_rows
from torch import Tensor

from guiderec.data.batch import Query
from guiderec.data.sequences import Rows, Sequences
from guiderec.errors import CheckpointError, ConfigError, DataError
from guiderec.evaluation.diversity import UNKNOWN
from guiderec.evaluation.interests import (
    MEASURES,
    Interests,
    compare,
    effective_number,
    interests,
    listed_interests,
    routing_entropy,
    rows_path,
)
from guiderec.models.base import EmbeddingRecommender, ModelConfig
from guiderec.rng import Noise

ITEMS, K, DIM = 50, 3, 4
Line = dict[str, float]


class Routes(EmbeddingRecommender):
    """Interest k is the mean of the items of a history, weighted by 1 / (k + 1)^age: routed by a known rule."""

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__(ModelConfig(name="routes"), ITEMS)
        self.n_interests = K
        self.sharpness = sharpness
        self.items = torch.nn.Parameter(torch.randn(ITEMS + 1, DIM, generator=torch.Generator().manual_seed(0)))

    def routing(self, query: Query) -> Tensor:
        age = torch.arange(query.history.shape[1] - 1, -1, -1)[None, :, None]
        weights = (1 + torch.arange(K)) ** (-self.sharpness * age) * query.mask[..., None]
        return (weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-9)).to(self.items.dtype)

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        return self.routing(query).transpose(1, 2) @ self.items[query.history]

    def item_vectors(self) -> Tensor:
        return self.items


# ------------------------------------------------------------------------------------------------- the measures


def test_effective_number_of_known_sets():
    same = torch.ones(1, 4, 5)
    apart = torch.eye(4, 5)[None] * torch.tensor([1.0, 2.0, 30.0, 0.1])[:, None]  # lengths do not count
    pairs = torch.eye(4, 5)[None][:, [0, 0, 1, 1]]
    opposite = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    for vectors, expected in ((same, 1.0), (apart, 4.0), (pairs, 2.0), (opposite, 1.0)):
        assert float(effective_number(vectors)) == pytest.approx(expected)
    assert effective_number(torch.zeros(1, 2, 3)).isnan().all()


def test_effective_number_of_two_at_an_angle():
    """Eigenvalues (1 +- cos) / 2."""
    for angle in (0.1, 0.7, 1.5):
        vectors = torch.tensor([[[1.0, 0.0], [math.cos(angle), math.sin(angle)]]], dtype=torch.float64)
        p = [(1 + math.cos(angle)) / 2, (1 - math.cos(angle)) / 2]
        assert float(effective_number(vectors)) == pytest.approx(math.exp(-sum(x * math.log(x) for x in p)))


def test_routing_entropy_is_the_loop():
    weights = torch.tensor([[[0.0, 9.0], [0.25, 1.0], [0.75, 0.0]], [[0, 0], [0, 0], [1.0, 1.0]]])
    mask = torch.tensor([[False, True, True], [False, False, True]])
    found = routing_entropy(weights, mask)
    first = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)  # the second interest is one item: 0
    assert float(found[0]) == pytest.approx(first / 2)
    assert found[1].isnan()
    even = torch.ones(1, 3, 2) * 7  # capsules share items out, so that columns do not sum to 1
    assert float(routing_entropy(even, torch.ones(1, 3, dtype=torch.bool))) == pytest.approx(1)


def test_listed_interests_counts_who_brought_the_list():
    found = listed_interests(torch.tensor([[0, 0, 0, 0], [0, 1, 2, 1], [2, 0, -1, -1], [-1, -1, -1, -1]]), 3)
    shares = [0.25, 0.5, 0.25]
    assert found.tolist()[:3] == pytest.approx([1, math.exp(-sum(p * math.log(p) for p in shares)), 2])
    assert found[3].isnan()


# ---------------------------------------------------------------------------------------------------- whole rows


def by_loop(model: Routes, rows: Rows, categories: list[int], k: int, seen: str) -> tuple[list[Line], float]:
    """One row at a time, without padding."""
    table = model.item_vectors().detach().double().numpy()
    lines: list[Line] = []
    reached: set[int] = set()
    for r in range(len(rows)):
        whole = rows.sequences[int(rows.sequence[r])][: int(rows.position[r])].tolist()
        history = whole[-6:]
        line: Line = {}
        n = len(history)
        w = np.array([[(1.0 + j) ** (-model.sharpness * (n - 1 - i)) for j in range(K)] for i in range(n)]).reshape(
            n, K
        )
        w = w / w.sum(axis=0) if n else w
        users = w.T @ table[history] if n else np.zeros((K, DIM))

        def vendi(vectors: np.ndarray) -> float:
            if not np.linalg.norm(vectors, axis=1).all():
                return math.nan
            units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            p = [max(v, 0.0) for v in np.linalg.eigvalsh(units @ units.T / len(units))]
            return math.exp(-sum(v * math.log(v) for v in p if v > 0))

        line["effective_interests"] = vendi(users)
        line["effective_routes"] = vendi(w.T) if n > 1 else math.nan
        entropies = [-sum(v * math.log(v) for v in column) for column in w.T]
        line["routing_entropy"] = float(np.mean(entropies)) / math.log(n) if n > 1 else math.nan
        products = users @ table.T
        competing = [j for j in range(1, ITEMS + 1) if seen == "keep" or j not in whole]
        listed = sorted(competing, key=lambda j: (-products[:, j].max(), j))[:k]
        reached.update(listed)
        shares = np.bincount([int(products[:, j].argmax()) for j in listed]) / k
        line["listed_interests"] = math.exp(-sum(p * math.log(p) for p in shares if p > 0))
        units = table / np.linalg.norm(table, axis=1, keepdims=True)
        pairs = list(itertools.combinations(listed, 2))
        line["list_diversity"] = float(np.mean([1 - units[a] @ units[b] for a, b in pairs]))
        known = [(a, b) for a, b in pairs if UNKNOWN not in (categories[a], categories[b])]
        apart = [categories[a] != categories[b] for a, b in known]
        line["category_diversity"] = float(np.mean(apart)) if apart else math.nan
        lines.append(line)
    return lines, len(reached) / ITEMS


@pytest.mark.parametrize("seen", ["keep", "mask"])
def test_rows_are_those_of_the_loop(seen: Any):
    model = Routes().double()
    generator = np.random.default_rng(1)
    lists = [generator.integers(1, ITEMS + 1, size=size).tolist() for size in (1, 2, 3, 5, 9, 12, 4)]
    rows = Rows.last_items(Sequences.from_lists(lists))
    categories = [UNKNOWN, *(int(c) for c in generator.integers(-1, 3, size=ITEMS))]
    found = interests(model, rows, max_length=6, k=4, seen=seen, categories=torch.tensor(categories), batch_size=3)
    expected, coverage = by_loop(model, rows, categories, 4, seen)
    assert found.measures == list(MEASURES)
    assert found.coverage == pytest.approx(coverage)
    for line, wanted in zip(found.rows.select(MEASURES).to_dicts(), expected, strict=True):
        assert line == pytest.approx(wanted, nan_ok=True, rel=1e-6)


def test_the_result_does_not_depend_on_batches_or_shards():
    model, rows = Routes(), make_rows()
    whole = interests(model, rows, max_length=8, k=5)
    small = interests(model, rows, max_length=8, k=5, batch_size=7)
    np.testing.assert_allclose(whole.rows.to_numpy(), small.rows.to_numpy(), rtol=1e-5)
    assert whole.coverage == small.coverage
    shares: list[list[Tensor]] = []
    for rank in (0, 1):
        parts: list[Tensor] = []
        with pytest.raises(DataError, match="not evaluated exactly once"):
            interests(
                model,
                rows,
                max_length=8,
                k=5,
                batch_size=7,
                shard=(rank, 2),
                sum_over=lambda part, parts=parts: parts.append(part) or part,
            )
        shares.append(parts)
    total = iter([a + b for a, b in zip(*shares, strict=True)])
    both = interests(model, rows, max_length=8, k=5, batch_size=7, shard=(0, 2), sum_over=lambda _: next(total))
    np.testing.assert_array_equal(both.rows.to_numpy(), small.rows.to_numpy())
    assert both.coverage == small.coverage


def test_a_model_has_the_measures_that_it_can_have():
    rows = Rows.last_items(Sequences.from_lists([[1, 2, 3]]))
    keys = int(rows.keys()[0])

    class Plain(Vectors):
        def user_vectors(self, query: Query, noise: Noise) -> Tensor:
            assert int(query.key[0]) == keys
            return self.users

    found = interests(Plain(torch.randn(1, 1, DIM), torch.randn(ITEMS + 1, DIM)), rows, max_length=5, k=3)
    assert found.measures == ["list_diversity"]
    with pytest.raises(ConfigError, match="Table does not rank by vectors"):
        interests(Table(torch.zeros(1, ITEMS + 1)), rows, max_length=5)
    with pytest.raises(DataError, match="no rows"):
        interests(Routes(), rows.take(np.array([], dtype=np.int64)), max_length=5)


def test_summary_leaves_out_what_is_not_defined():
    table = pl.DataFrame(
        {"user": [1, 2, 3], "target": [1, 1, 1], "history_length": [0, 2, 3], "routing_entropy": [math.nan, 0.5, 0.7]}
    )
    found = Interests(table.with_columns(list_diversity=pl.lit(math.nan)), 5, 2, 0.25).summary()
    assert found["measures"]["routing_entropy"]["mean"] == pytest.approx(0.6)
    assert found["measures"]["routing_entropy"]["n_rows"] == 2
    assert 0.5 <= found["measures"]["routing_entropy"]["low"] <= 0.6 <= found["measures"]["routing_entropy"]["high"]
    assert found["measures"]["list_diversity"] is None


# -------------------------------------------------------------------------------------------------- before and after


def written(run: Path, table: pl.DataFrame) -> Path:
    rows_path(run, "test").parent.mkdir(parents=True)
    table.write_parquet(rows_path(run, "test"))
    return run


def measured(shift: float, n: int = 400, **columns: Any) -> pl.DataFrame:
    generator = np.random.default_rng(0)
    values = generator.normal(2.0, 1.0, n)
    return pl.DataFrame(
        {
            "user": np.arange(n),
            "target": np.ones(n, dtype=np.int64),
            "history_length": np.full(n, 3),
            "effective_interests": values + shift + 0.1 * generator.normal(size=n) * (shift != 0),
            **columns,
        }
    )


def test_a_planted_change_is_found_and_none_where_there_is_none(tmp_path: Path):
    before, same, after = (
        written(tmp_path / name, measured(shift)) for name, shift in (("a", 0.0), ("b", 0.0), ("c", 0.25))
    )
    (change,) = compare([before], [after])
    assert change.measure == "effective_interests"
    assert change.difference == pytest.approx(change.after - change.before)
    assert change.low < 0.25 < change.high
    assert change.high - change.low < 0.05  # rows are paired: their spread of 1 does not count
    (none,) = compare([before], [same])
    assert (none.low, none.difference, none.high) == (0, 0, 0)


def test_seeds_are_averaged_and_undefined_rows_left_out(tmp_path: Path):
    runs = [written(tmp_path / str(shift), measured(shift)) for shift in (0.2, 0.4)]
    gone = measured(0.0).with_columns(
        effective_interests=pl.when(pl.col("user") < 100).then(math.nan).otherwise(pl.col("effective_interests"))
    )
    (change,) = compare([written(tmp_path / "before", gone)], runs)
    assert change.n_rows == 300
    assert change.difference == pytest.approx(0.3, abs=0.02)


def test_what_cannot_be_compared(tmp_path: Path):
    run = written(tmp_path / "a", measured(0.0))
    with pytest.raises(CheckpointError, match=r"no interests of part 'test'.*--interests"):
        compare([run], [tmp_path / "absent"])
    with pytest.raises(DataError, match=r"400 evaluation rows and .* has 399"):
        compare([run], [written(tmp_path / "b", measured(0.0, 399))])
    with pytest.raises(DataError, match="no measure of interests in common"):
        compare([run], [written(tmp_path / "c", measured(0.0).rename({"effective_interests": "routing_entropy"}))])

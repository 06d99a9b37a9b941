from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from guiderec.data.batch import Query
from guiderec.data.sequences import Rows, Sequences
from guiderec.models.base import EmbeddingRecommender, ModelConfig, Recommender
from guiderec.rng import Noise


class Table(Recommender):
    """Gives a fixed score matrix (R, I + 1); the key of a query row is its row of the matrix."""

    def __init__(self, table: Tensor) -> None:
        super().__init__(ModelConfig(name="table"), table.shape[1] - 1)
        self.register_buffer("table", table)

    def scores(self, query: Query, noise: Noise) -> Tensor:
        return self.table[query.key]


class Vectors(EmbeddingRecommender):
    """Fixed user vectors (R, K, D), picked by key, and item vectors (I + 1, D)."""

    def __init__(self, users: Tensor, items: Tensor) -> None:
        super().__init__(ModelConfig(name="vectors"), len(items) - 1)
        self.register_buffer("users", users)
        self.register_buffer("items", items)

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        return self.users[query.key]

    def item_vectors(self) -> Tensor:
        return self.items


class MeanOfHistory(EmbeddingRecommender):
    """A model that reads its history, draws keyed noise, and has dropout that would show in training mode."""

    def __init__(self, n_items: int, width: int = 8) -> None:
        super().__init__(ModelConfig(name="mean"), n_items)
        generator = torch.Generator().manual_seed(0)
        self.items = torch.nn.Parameter(torch.randn(n_items + 1, width, generator=generator))
        self.dropout = torch.nn.Dropout(0.5)
        self.frozen = torch.nn.Dropout(0.5).eval()
        self.queries: list[Query] = []

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        self.queries.append(query)
        mean = (self.items[query.history] * query.mask[..., None]).sum(dim=1) / query.length.clamp(min=1)[:, None]
        return (self.dropout(mean) + 0.3 * noise.normal(query.key, mean.shape[1], "x_T"))[:, None]

    def item_vectors(self) -> Tensor:
        return self.items


def query(n_rows: int, *, candidates: list[list[int]] | None = None) -> Query:
    """A query whose keys are 0..n_rows - 1."""
    return Query(
        history=torch.ones(n_rows, 1, dtype=torch.int64),
        key=torch.arange(n_rows),
        candidates=None if candidates is None else torch.tensor(candidates, dtype=torch.int64),
    )


def make_rows() -> Rows:
    generator = np.random.default_rng(3)
    lists = [generator.integers(1, 51, size=generator.integers(1, 12)).tolist() for _ in range(101)]
    return Rows.last_items(Sequences.from_lists(lists, users=np.arange(101) % 60))

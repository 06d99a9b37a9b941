from __future__ import annotations

import numpy as np
import polars as pl
import torch
from torch import Tensor

from guiderec.data.batch import Query
from guiderec.data.dataset import Dataset, Fingerprint, Vocabulary
from guiderec.data.sequences import Rows, Sequences
from guiderec.models.base import EmbeddingRecommender, ModelConfig, Recommender
from guiderec.rng import Noise

ITEMS = 30


class Planted(Recommender):
    """Fixed scores (R, I + 1) by user; the score of what is disliked falls by w, of what is liked it rises."""

    steers = True
    steers_by_likes = True

    def __init__(self, table: Tensor, *, listens: bool = True) -> None:
        super().__init__(ModelConfig(name="planted"), table.shape[1] - 1)
        self.register_buffer("table", table)
        self.listens = listens

    def scores(self, query: Query, noise: Noise) -> Tensor:
        scores = self.table[query.key >> 20].clone()
        if self.listens:
            for sign, items in ((-1, query.dislikes), (1, query.likes)):
                if items is not None:
                    change = torch.full(items.shape, sign * float(query.guidance_scale or 0))
                    scores.scatter_add_(1, items, change * (items > 0))
        return scores


class Vectors(EmbeddingRecommender):
    """Fixed user vectors by user; nothing steers it."""

    def __init__(self, users: Tensor, items: Tensor) -> None:
        super().__init__(ModelConfig(name="vectors"), len(items) - 1)
        self.register_buffer("users", users)
        self.register_buffer("items", items)

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        return self.users[query.key >> 20][:, None]

    def item_vectors(self) -> Tensor:
        return self.items


def dataset(n_users: int = 20, *, seen: str = "keep", rows_per_user: int = 1) -> Dataset:
    """Sequences of random items; items come in three categories, item 30 in none and every fifth in two."""
    random = np.random.default_rng(0)
    lists = [random.integers(1, ITEMS + 1, size=6).tolist() for _ in range(60)]
    train = Rows.last_items(Sequences.from_lists(lists))
    test_lists = [random.integers(1, ITEMS + 1, size=5).tolist() for _ in range(n_users)]
    sequences = Sequences.from_lists(test_lists)
    test = Rows.last_items(sequences) if rows_per_user == 1 else Rows.every_prefix(sequences, 4 - rows_per_user + 1)
    names = ["abc"[j % 3] + ("|d" if j % 5 == 0 else "") for j in range(1, ITEMS)] + [""]
    raw = tuple(range(1, ITEMS + 1))
    table = pl.DataFrame({"item": raw, "category": names})
    print_ = Fingerprint(60, ITEMS, 360, "0" * 64)
    return Dataset("random", {"name": "test"}, train, test, test, Vocabulary(raw, table), print_, seen=seen)


def scores(n_users: int = 20, *, whole: bool = False, seed: int = 0) -> Tensor:
    """(U, I + 1) random scores; `whole` numbers from 0 to 5 have many ties."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(n_users, ITEMS + 1, generator=generator)
    return (6 * drawn).floor() if whole else 4 * drawn

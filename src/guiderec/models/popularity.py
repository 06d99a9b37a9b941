"""Popularity: the most frequent items of the training sequences, the same list for everybody.

The baseline that every personal model has to beat. Items with equal counts are ordered by a fixed hash of their id: ids
often follow the order of a file, and a rank that counts ties against the model would put every item of a long tail of
equal counts at its end.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from guiderec.data.batch import Query
from guiderec.data.sequences import Sequences
from guiderec.errors import NotFittedError
from guiderec.models.base import ModelConfig, Recommender
from guiderec.rng import Noise


class PopularityConfig(ModelConfig):
    """Popularity has no options."""

    name: Literal["popularity"] = "popularity"


class Popularity(Recommender):
    """Scores an item by its number of interactions in training, plus a fraction in [0, 1) that orders equal counts."""

    Config = PopularityConfig
    trains = False

    counts: Tensor
    ties: Tensor

    def __init__(self, config: PopularityConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.register_buffer("counts", torch.zeros(n_items + 1, dtype=torch.int64))
        ties = Noise(0).integers(torch.arange(n_items + 1), 1, 2**20, "popularity/ties")[:, 0]
        self.register_buffer("ties", ties, persistent=False)

    def prepare(self, train: Sequences) -> None:
        """Count the items of the training sequences."""
        self.counts = torch.from_numpy(np.bincount(train.items, minlength=self.n_items + 1)).to(self.counts)

    def scores(self, query: Query, noise: Noise) -> Tensor:
        """(B, I + 1) float64, the same row for everybody."""
        if not bool(self.counts.any()):
            raise NotFittedError("Popularity has counted no interactions.", hint="call prepare(train) or load weights")
        # float64 holds counts up to 2^33 and the fraction exactly, whatever precision the module was cast to.
        return (self.counts.double() + self.ties * 2.0**-20).expand(len(query), -1)

"""Markov: transitions from the newest item, with back-off to popularity.

    score(j | i) = (n_ij + m p_j) / (n_i + m)       n_ij   weight of transitions i -> j, n_i = sum_j n_ij
                                                    p_j    share of item j in training
                                                    m      strength of the back-off, in transitions

the posterior mean of the transition probabilities under a Dirichlet prior of strength m around popularity. An item
without transitions, and an empty history, get popularity. With `window` > 1 a pair of items g steps apart counts 1 / g:
the sequential rules of Ludewig and Jannach (2018, arXiv:1803.09587).

Storage is sparse, by rows: transitions of item i are `following[starts[i]:starts[i + 1]]` with weights alike, so memory
grows with the training data and never with I x I.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from guiderec.data.batch import Query
from guiderec.data.sequences import Sequences
from guiderec.errors import NotFittedError
from guiderec.models.base import ModelConfig, Recommender
from guiderec.rng import Noise


class MarkovConfig(ModelConfig):
    """Options of the Markov chain."""

    name: Literal["markov"] = "markov"
    backoff: float = Field(1.0, gt=0)
    """m, the weight of popularity in units of observed transitions."""
    window: int = Field(1, ge=1)
    """Largest distance in steps between two items that counts as a transition. 1 is the Markov chain."""


class Markov(Recommender):
    """Scores an item by how often it followed the newest item of the history in training."""

    Config = MarkovConfig
    trains = False

    counts: Tensor
    ties: Tensor
    totals: Tensor
    starts: Tensor
    following: Tensor
    weights: Tensor

    def __init__(self, config: MarkovConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.register_buffer("counts", torch.zeros(n_items + 1, dtype=torch.int64))
        self.register_buffer("totals", torch.zeros(n_items + 1))
        self.register_buffer("starts", torch.zeros(n_items + 2, dtype=torch.int64))
        self.register_buffer("following", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("weights", torch.zeros(0))
        # Items with equal counts would otherwise tie in the back-off: a fixed hash of the id, in [0, 1), orders them.
        ties = Noise(0).uniform(torch.arange(n_items + 1), 1, "markov/ties")[:, 0].float()
        self.register_buffer("ties", ties, persistent=False)

    def prepare(self, train: Sequences) -> None:
        """Count items and transitions of the training sequences."""
        sequence = train.owners
        pairs, weights = [], []
        for gap in range(1, self.config.window + 1):
            together = sequence[gap:] == sequence[:-gap]
            pairs.append((train.items[:-gap] * (self.n_items + 1) + train.items[gap:])[together])
            weights.append(np.full(len(pairs[-1]), 1.0 / gap))
        pair, place = np.unique(np.concatenate(pairs), return_inverse=True)  # ascending: by item, then by follower
        total = np.bincount(place, weights=np.concatenate(weights), minlength=len(pair))
        item, follower = pair // (self.n_items + 1), pair % (self.n_items + 1)
        starts = np.concatenate([[0], np.cumsum(np.bincount(item, minlength=self.n_items + 1))])
        totals = np.bincount(item, weights=total, minlength=self.n_items + 1)
        self.counts = torch.from_numpy(np.bincount(train.items, minlength=self.n_items + 1)).to(self.counts)
        self.starts = torch.from_numpy(starts).to(self.starts)
        self.totals = torch.from_numpy(totals).to(self.totals)
        self.following = torch.from_numpy(follower).to(self.following)
        self.weights = torch.from_numpy(total).to(self.weights)

    def scores(self, query: Query, noise: Noise) -> Tensor:
        """(B, I + 1) probabilities of the next item, up to the fraction that orders equal counts."""
        if not bool(self.counts.any()):
            raise NotFittedError("Markov has counted no transitions.", hint="call prepare(train) or load weights")
        last = query.history[:, -1]  # 0 after an empty history, and item 0 has no transitions
        first, stop = self.starts[last], self.starts[last + 1]
        row = torch.repeat_interleave(stop - first)  # (n,) for the n transitions of all rows
        offset = torch.cumsum(stop - first, dim=0) - (stop - first)
        place = torch.arange(len(row), device=row.device) - offset[row] + first[row]
        weight = self.weights[place]
        total = self.totals[last]

        backoff = self.config.backoff
        popularity = self.counts + self.ties
        scores = (backoff / (total + backoff))[:, None] * (popularity / popularity.sum())
        scores[row, self.following[place]] += weight / (total + backoff)[row]  # cells are distinct: a row lists j once
        return scores

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Make room first: the number of transitions is known to the stored weights, not to a fresh model."""
        for name in ("following", "weights"):
            stored = state_dict.get(prefix + name)
            if stored is not None:
                setattr(self, name, getattr(self, name).new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

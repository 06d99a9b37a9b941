"""ComiRec: Controllable Multi-Interest Framework for Recommendation (Cen et al., KDD 2020, arXiv:2005.09347).

Idea       A history is K interests and not one. The interest that is nearest to the target learns from it; every item
           is scored by its best interest. A list can then be re-ranked for diversity (`evaluation/diversity.py`).
Notation   paper -> code:  H -> items (B, L, D);  A -> weights (B, L, K);  V_u -> interests (B, K, D);  e_i -> target
Order      interests(), SA or DR -> loss(): the best interest, sampled softmax -> user_vectors(): all interests
Facts      authors' public code (THUDM/ComiRec: src/model.py) for sizes, initialisation, negatives and the readout.
Departs    1. Every row is learnt. The public code draws one prefix of at least four items from each sequence.
           2. Negatives are drawn with replacement, by rank of their count in training, and weighted by importance
              sampling; the public code draws distinct ones by id, which its data sort by count, with TensorFlow's
              expected counts. Both go to the softmax over all items, which is `objective=CrossEntropy()`.
           3. The best interests of all items are one list by construction. The public code takes the first N of each
              interest and merges them, which is the same list.
           4. The answer to an empty history is learnt: a start vector stands for its only item.
           5. `covariance` adds ADIGRec's regulariser of the routing; at 0, as here, it is not part of the loss.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.config import Part
from guiderec.data.batch import PADDING, Batch, Query
from guiderec.data.sequences import Sequences
from guiderec.models.base import EmbeddingRecommender, ModelConfig
from guiderec.nn.embedding import Counting, PositionEmbedding
from guiderec.nn.interests import (
    DynamicRouting,
    SelfAttentiveInterests,
    best_interest,
    covariance_penalty,
    with_start,
)
from guiderec.nn.next_item import CrossEntropy
from guiderec.nn.sampled_softmax import Proposal, log_probabilities, sampled_softmax, shared_ranks
from guiderec.rng import Noise


class SelfAttentive(Part):
    """ComiRec-SA: each interest is a weighted mean of the items (`nn/interests.py: SelfAttentiveInterests`)."""

    name: Literal["self_attentive"] = "self_attentive"
    expansion: int = Field(4, ge=1)
    """Hidden width of the routing network in multiples of `dim`."""
    positions: bool = True
    """Whether the routing network sees where an item stands. The values are without positions in any case."""
    counting: Counting = "from_start"
    """Position 0 is the oldest item that the model reads, or the newest."""

    def build(self, dim: int, interests: int, max_length: int) -> nn.Module:
        """The extractor: items (B, L, D), mask (B, L) -> interests (B, K, D), weights (B, L, K)."""
        return _PositionedAttention(
            SelfAttentiveInterests(dim, interests, self.expansion * dim),
            _glorot_positions(max_length, dim, self.counting) if self.positions else None,
        )


class Routing(Part):
    """ComiRec-DR: capsules that items are routed to by agreement (`nn/interests.py: DynamicRouting`)."""

    name: Literal["dynamic_routing"] = "dynamic_routing"
    iterations: int = Field(3, ge=1)
    """Rounds of routing; a gradient passes through the last."""
    counting: Counting = "from_start"
    """Maps belong to positions; position 0 is the oldest item that the model reads, or the newest."""

    def build(self, dim: int, interests: int, max_length: int) -> nn.Module:
        """The extractor: items (B, L, D), mask (B, L) -> interests (B, K, D), weights (B, L, K)."""
        return DynamicRouting(dim, interests, max_length, iterations=self.iterations, counting=self.counting)


class SampledSoftmax(Part):
    """The target against negatives that the rows of a batch share (`nn/sampled_softmax.py`)."""

    name: Literal["sampled_softmax"] = "sampled_softmax"
    negatives: int = Field(10, ge=1)
    """Negatives drawn, in multiples of the rows of the batch."""
    proposal: Proposal = "log_uniform"
    """By popularity, or all items alike."""


class ComiRecConfig(ModelConfig):
    """Options of ComiRec. Defaults are those of the authors' code for Amazon Books, with SA."""

    name: Literal["comirec"] = "comirec"
    dim: int = Field(64, ge=1)
    """D, width of items and interests."""
    interests: int = Field(4, ge=1)
    """K."""
    max_length: int = Field(20, ge=1)
    """L, the longest history. Of a longer one the newest items count."""
    extraction: Annotated[SelfAttentive | Routing, Field(discriminator="name")] = SelfAttentive()
    """How interests are found."""
    objective: Annotated[SampledSoftmax | CrossEntropy, Field(discriminator="name")] = SampledSoftmax()
    """What the best interest minimises."""
    covariance: float = Field(0.0, ge=0)
    """Weight of ADIGRec's L_reg, which keeps interests from being routed alike; 0 is ComiRec."""


class ComiRec(EmbeddingRecommender):
    """K interests of a history; the one nearest to the target learns from it.

    Initialisation: items and positions Glorot-uniform, as TensorFlow 1 does; the start vector as an item; extractors as
    in `nn/interests.py`.
    """

    Config: ClassVar[type[ModelConfig]] = ComiRecConfig

    by_count: Tensor
    log_q: Tensor

    def __init__(self, config: ComiRecConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.n_interests = config.interests
        self.items = nn.Embedding(n_items + 1, config.dim, padding_idx=PADDING)
        nn.init.xavier_uniform_(self.items.weight)
        with torch.no_grad():
            self.items.weight[PADDING].zero_()
        bound = (6 / (n_items + 1 + config.dim)) ** 0.5
        self.start = nn.Parameter(torch.empty(config.dim).uniform_(-bound, bound))
        self.extract = config.extraction.build(config.dim, config.interests, config.max_length)
        self.register_buffer("by_count", torch.arange(1, n_items + 1))
        self.register_buffer("log_q", torch.zeros(n_items + 1))

    def prepare(self, train: Sequences) -> None:
        """Order the items by their count in training, and note how likely each is drawn as a negative."""
        objective = self.config.objective
        counts = np.bincount(train.items, minlength=self.n_items + 1)[1:]
        order = torch.from_numpy(np.argsort(-counts, kind="stable"))
        self.by_count = (order + 1).to(self.by_count)
        proposal = objective.proposal if isinstance(objective, SampledSoftmax) else "uniform"
        self.log_q[self.by_count] = log_probabilities(proposal, self.n_items).to(self.log_q)

    def interests(self, query: Query) -> tuple[Tensor, Tensor]:
        """(B, K, D), and the routing weights (B, L', K) of the newest L' items, at most `max_length`."""
        history = query.history[:, -self.config.max_length :]
        items, mask = with_start(self.items(history), history != PADDING, self.start)
        interests, weights = self.extract(items, mask)
        return interests, weights

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """`{"loss"}`, the objective of the best interest; with L_reg also `next_item` and `covariance`, unweighted."""
        interests, weights = self.interests(batch)
        best = best_interest(interests, self.items(batch.target))
        next_item = self._next_item(best, batch.target, noise)
        if self.config.covariance == 0:
            return {"loss": next_item}
        spread = covariance_penalty(weights, batch.mask[:, -weights.shape[1] :])
        return {"loss": next_item + self.config.covariance * spread, "next_item": next_item, "covariance": spread}

    def _next_item(self, state: Tensor, target: Tensor, noise: Noise) -> Tensor:
        objective, table = self.config.objective, self.items.weight
        if isinstance(objective, CrossEntropy):
            return objective(state, target, target[:, None], table)
        size = objective.negatives * len(target)
        ranks = shared_ranks(
            objective.proposal, self.n_items, size, noise=noise, purpose="negatives", device=target.device
        )
        return sampled_softmax(state, target, self.by_count[ranks], table, self.log_q)

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, K, D) the interests."""
        return self.interests(query)[0]

    def routing(self, query: Query) -> Tensor:
        """(B, L, K) how the items of a history are routed; 0 at padding and where the model does not read."""
        weights = self.interests(query)[1]
        unread = query.history.shape[1] - weights.shape[1]
        return F.pad(weights, (0, 0, unread, 0)) * query.mask[..., None]

    def item_vectors(self) -> Tensor:
        """(I + 1, D)."""
        return self.items.weight


class _PositionedAttention(nn.Module):
    """SA with the positions that its routing network sees."""

    def __init__(self, attention: SelfAttentiveInterests, positions: PositionEmbedding | None) -> None:
        super().__init__()
        self.attention = attention
        self.positions = positions

    def forward(self, items: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        positioned = items if self.positions is None else items + self.positions(mask)
        interests, weights = self.attention(items, positioned, mask)
        return interests, weights


def _glorot_positions(max_length: int, dim: int, counting: Counting) -> PositionEmbedding:
    positions = PositionEmbedding(max_length, dim, counting)
    nn.init.xavier_uniform_(positions.table.weight)
    return positions

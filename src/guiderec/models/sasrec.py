"""SASRec: Self-Attentive Sequential Recommendation (Kang and McAuley, ICDM 2018, arXiv:1808.09781).

Notation   paper -> code:  M -> items.weight (I + 1, D), for input and output;  P -> positions;  F_t -> states[:, t]
Order      states() Sec. III-A and III-B -> loss() Eq. 7 or cross-entropy -> user_vectors() Eq. 6
Departs    1. Cross-entropy over all items by default; the paper's binary loss with one negative is
              `objective=BinaryCrossEntropy()`. The loss moves the result more than the architecture does.
           2. Residuals carry the unnormalised stream. In the authors' code (kang205/SASRec: modules.py) the residual
              is the normalised query and the keys are not normalised.
           3. GELU and a hidden width of 4 D in the position-wise network; the paper has ReLU and D.
           4. Inputs are not multiplied by sqrt(D), and everything starts from N(0, 0.02^2).
           5. Negatives avoid the items of the row, not of all rows of the user.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from guiderec.data.batch import PADDING, Batch, Query
from guiderec.models.base import EmbeddingRecommender, ModelConfig
from guiderec.nn.attention import causal_mask
from guiderec.nn.embedding import Counting, PositionEmbedding, item_embedding
from guiderec.nn.next_item import CrossEntropy, NextItemObjective
from guiderec.nn.sampling import items_outside
from guiderec.nn.transformer import Norm, TransformerEncoder
from guiderec.rng import Noise


class SASRecConfig(ModelConfig):
    """Options of SASRec. The defaults are tuned for short histories of sparse catalogues (Amazon Beauty)."""

    name: Literal["sasrec"] = "sasrec"
    dim: int = Field(128, ge=1)
    """Width D of items, positions and states."""
    layers: int = Field(2, ge=0)
    """Number of blocks."""
    heads: int = Field(2, ge=1)
    """Number of attention heads; divides `dim`."""
    expansion: int = Field(4, ge=1)
    """Hidden width of the position-wise network in multiples of `dim`."""
    dropout: float = Field(0.4, ge=0, lt=1)
    """Probability of dropping an entry of the input, of the attention weights and of each residual branch."""
    norm: Norm = "pre"
    """Layer norm before each part of a block, or after each residual sum."""
    counting: Counting = "from_start"
    """Position 0 is the oldest item of the history, or the newest."""
    max_length: int = Field(50, ge=1)
    """Number of positions. Of a longer history the newest `max_length` items count."""
    predict: Literal["every_position", "last_position"] = "every_position"
    """Learn the item after every position of a row, or the row's target alone."""
    objective: NextItemObjective = CrossEntropy()
    """What is minimised at each learnt position."""

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> SASRecConfig:
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide dim = {self.dim}")
        return self


class SASRec(EmbeddingRecommender):
    """A causal transformer over the history; the state at the newest item is compared with the item table."""

    Config: ClassVar[type[ModelConfig]] = SASRecConfig

    def __init__(self, config: SASRecConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.items = item_embedding(n_items, config.dim)
        self.positions = PositionEmbedding(config.max_length, config.dim, config.counting)
        self.encoder = TransformerEncoder(
            config.dim,
            layers=config.layers,
            heads=config.heads,
            hidden=config.expansion * config.dim,
            dropout=config.dropout,
            norm=config.norm,
        )

    def states(self, history: Tensor) -> Tensor:
        """(B, L, D) after every position of the histories (B, L); L is cut to `max_length`, the newest stay.

        The state at padding is finite and depends on nothing: an empty history has a constant answer.
        """
        history = history[:, -self.config.max_length :]
        mask = history != PADDING
        x = self.items(history) + self.positions(mask)
        states: Tensor = self.encoder(x * mask[..., None], causal_mask(mask))
        return states

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """`{"loss"}`, averaged over the learnt positions of the batch."""
        states = self.states(batch.history)  # (B, L, D)
        target = batch.next_items[:, -states.shape[1] :]  # (B, L)
        target[:, -1] = batch.target  # also after an empty history
        if self.config.predict == "last_position":
            states, target = states[:, -1:], target[:, -1:]
        learnt = target != PADDING
        objective = self.config.objective
        negative = self._negatives(batch, target.shape[1], objective.negatives, noise)[learnt]
        return {"loss": objective(states[learnt], target[learnt], negative, self.items.weight)}

    def _negatives(self, batch: Batch, length: int, size: int, noise: Noise) -> Tensor:
        """(B, L, N) items that the row does not have."""
        if size == 0:
            return batch.history.new_zeros(len(batch), length, 0)
        own = torch.cat([batch.history, batch.target[:, None]], dim=1)
        drawn = items_outside(own, self.n_items, length * size, keys=batch.key, noise=noise, purpose="negatives")
        return drawn.view(len(batch), length, size).flip(1)  # newest first, so that padding moves no draw

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, 1, D) the state at the newest item."""
        return self.states(query.history)[:, -1:]

    def item_vectors(self) -> Tensor:
        """(I + 1, D) the table of the input."""
        return self.items.weight

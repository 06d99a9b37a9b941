"""SASRec: Self-Attentive Sequential Recommendation (Kang and McAuley, ICDM 2018, arXiv:1808.09781).

Notation   paper -> code:  M -> items.weight (I + 1, D), for input and output;  P -> positions;  F_t -> states[:, t]
Order      states() in `base.py`, Sec. III-A and III-B -> loss() Eq. 7 or cross-entropy -> user_vectors() Eq. 6
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

from torch import Tensor

from guiderec.data.batch import PADDING, Batch, Query
from guiderec.models.base import CausalConfig, CausalRecommender, ModelConfig
from guiderec.nn.next_item import CrossEntropy, NextItemObjective
from guiderec.nn.sampling import items_outside
from guiderec.rng import Noise


class SASRecConfig(CausalConfig):
    """Options of SASRec. The defaults are tuned for short histories of sparse catalogues (Amazon Beauty)."""

    name: Literal["sasrec"] = "sasrec"
    predict: Literal["every_position", "last_position"] = "every_position"
    """Learn the item after every position of a row, or the row's target alone."""
    objective: NextItemObjective = CrossEntropy()
    """What is minimised at each learnt position."""


class SASRec(CausalRecommender):
    """A causal transformer over the history; the state at the newest item is compared with the item table."""

    Config: ClassVar[type[ModelConfig]] = SASRecConfig

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """`{"loss"}`, averaged over the learnt positions of the batch."""
        target = batch.next_items[:, -self.config.max_length :]  # (B, L)
        if self.config.predict == "last_position":
            states, target = self.newest_state(batch.history)[:, None], target[:, -1:]
        else:
            states = self.states(batch.history)  # (B, L, D)
        learnt = target != PADDING
        objective = self.config.objective
        negative = self._negatives(batch, target.shape[1], objective.negatives, noise)[learnt]
        return {"loss": objective(states[learnt], target[learnt], negative, self.items.weight)}

    def _negatives(self, batch: Batch, length: int, size: int, noise: Noise) -> Tensor:
        """(B, L, N) items that the row does not have."""
        if size == 0:
            return batch.history.new_zeros(len(batch), length, 0)
        own = batch.own_items
        drawn = items_outside(own, self.n_items, length * size, keys=batch.key, noise=noise, purpose="negatives")
        return drawn.view(len(batch), length, size).flip(1)  # newest first, so that padding moves no draw

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, 1, D) the state at the newest item."""
        return self.newest_state(query.history)[:, None]

"""SASRec: Self-Attentive Sequential Recommendation (Kang and McAuley, ICDM 2018, arXiv:1808.09781).

Notation   paper -> code:  M -> items.weight (I + 1, D), for input and output;  P -> positions;  F_t -> states[:, t]
Order      all in `base.py`: states() Sec. III-A and III-B -> recommendation() Eq. 7 -> user_vectors() Eq. 6
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

from guiderec.data.batch import Batch
from guiderec.models.base import ModelConfig, NextItemConfig, NextItemRecommender
from guiderec.rng import Noise


class SASRecConfig(NextItemConfig):
    """Options of SASRec. The defaults are tuned for short histories of sparse catalogues (Amazon Beauty)."""

    name: Literal["sasrec"] = "sasrec"


class SASRec(NextItemRecommender):
    """A causal transformer over the history; the state at the newest item is compared with the item table."""

    Config: ClassVar[type[ModelConfig]] = SASRecConfig

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """`{"loss"}`, averaged over the learnt positions of the batch."""
        loss, _ = self.recommendation(batch, noise)
        return {"loss": loss}

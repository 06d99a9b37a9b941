"""What a model that predicts an item minimises at each position. Shapes: P positions, N negatives, D width, I items."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from guiderec.config import Part


class CrossEntropy(Part):
    """`-log softmax(F M^T)[target]` over all items, averaged over positions. Both factors get gradients."""

    name: Literal["cross_entropy"] = "cross_entropy"

    negatives: ClassVar[int] = 0

    def __call__(self, states: Tensor, target: Tensor, negative: Tensor, table: Tensor) -> Tensor:
        """() for states (P, D), targets (P,) in 1..I and the table (I + 1, D)."""
        return F.cross_entropy(states @ table[1:].T, target - 1)  # row 0 is no item and takes no probability


class BinaryCrossEntropy(Part):
    """`-log sigmoid(r_target) - mean_n log(1 - sigmoid(r_n))`, averaged over positions (SASRec, Eq. 7)."""

    name: Literal["binary_cross_entropy"] = "binary_cross_entropy"
    negatives: int = Field(1, ge=1)
    """Negatives per position, drawn uniformly. SASRec has 1."""

    def __call__(self, states: Tensor, target: Tensor, negative: Tensor, table: Tensor) -> Tensor:
        """() for states (P, D), targets (P,), negatives (P, N), 0 where a row has every item, and the table."""
        wanted = F.logsigmoid((states * F.embedding(target, table)).sum(dim=1))
        against = torch.einsum("pd,pnd->pn", states, F.embedding(negative, table))
        real = negative != 0
        unwanted = (F.logsigmoid(-against) * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        return -(wanted + unwanted).mean()


NextItemObjective = Annotated[CrossEntropy | BinaryCrossEntropy, Field(discriminator="name")]

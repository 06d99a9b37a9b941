"""What a model that predicts an item minimises at each position. Shapes: P positions, N negatives, D width, I items."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from guiderec.config import Part

_CHUNK_LOGITS = 1 << 21
"""Logits that are there at a time, 8 MiB: about what a processor keeps near."""
_LEAST_CHUNK = 64
"""Positions of a chunk at least, so that its products stay efficient."""


def softmax_loss(states: Tensor, table: Tensor, target: Tensor) -> Tensor:
    """() `-log softmax(F M^T)[target]`, averaged over positions: states (P, D), table (I, D), targets (P,) in 0..I - 1.

    In chunks of positions where torch has that (2.13 and later) and there are more of both than columns: gradients are
    found while the logits of a chunk are still at hand, and the whole (P, I) never exists. A loss made so can be
    differentiated once. Under autocast all logits are made at once, in its precision.
    """
    positions, width = states.shape
    chunk = max(_LEAST_CHUNK, _CHUNK_LOGITS // len(table))
    whole = positions <= max(chunk, width) or len(table) <= width or torch.is_autocast_enabled(states.device.type)
    if whole or not hasattr(nn, "LinearCrossEntropyOptions"):
        return F.cross_entropy(states @ table.T, target)
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=chunk)
    return F.linear_cross_entropy(states, table, target, options=options)


class CrossEntropy(Part):
    """`-log softmax(F M^T)[target]` over all items, averaged over positions. Both factors get gradients."""

    name: Literal["cross_entropy"] = "cross_entropy"

    negatives: ClassVar[int] = 0

    def __call__(self, states: Tensor, target: Tensor, negative: Tensor, table: Tensor) -> Tensor:
        """() for states (P, D), targets (P,) in 1..I and the table (I + 1, D)."""
        return softmax_loss(states, table[1:], target - 1)  # row 0 is no item and takes no probability


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

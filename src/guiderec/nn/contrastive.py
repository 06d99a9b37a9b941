"""Contrast of two views of the same rows. Shapes: B rows, D width."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Similarity = Literal["dot", "cos"]
"""Inner product of two states, or their cosine."""


def info_nce(
    first: Tensor,
    second: Tensor,
    *,
    temperature: float = 1.0,
    similarity: Similarity = "dot",
    alike: Tensor | None = None,
) -> Tensor:
    """NT-Xent (Chen et al. 2020, SimCLR, Eq. 1) of two views (B, D) whose rows i belong together.

    Each of the 2B states has to tell its partner from the 2(B - 1) states of other rows:

        -log exp(s(z, z') / tau) / sum_{y != z} exp(s(z, y) / tau),    averaged over the 2B states z.

    One row alone has nothing to be told from: 0, and so is no row at all. Rows with equal numbers in `alike` (B,) are
    not told from each other: the sum leaves out the states of such other rows.
    """
    states = torch.cat([first, second])  # (2B, D)
    if not len(states):
        return states.sum()
    if similarity == "cos":
        states = F.normalize(states, dim=-1)
    logits = states @ states.T / temperature
    itself = torch.eye(len(states), dtype=torch.bool, device=states.device)
    partner = torch.arange(len(states), device=states.device).roll(len(first))
    left_out = itself
    if alike is not None:
        left_out = (alike[:, None] == alike).repeat(2, 2)
        left_out[torch.arange(len(states), device=states.device), partner] = False
    return F.cross_entropy(logits.masked_fill(left_out, -torch.inf), partner)

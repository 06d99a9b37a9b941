"""Guidance inserted into a noisy state by attention: ADIGRec's AI2M.

    a = softmax((x W_Q)(G W_K)^T / sqrt(D)) G W_V            x (C, D), G (M, W)

followed by whatever linear map U reads a. In a chain G stays and x moves, so all maps are folded into G once:

    logits = x (W_Q W_K^T G^T) / sqrt(D) = x keys^T           U a = softmax(logits) (G W_V U) = softmax(logits) values

and a step costs 2 C M D multiply-adds, instead of 2 C D^2 + 2 M W D + 2 C M D.

Shapes   B batch, C states, M rows of guidance, W their width, D width of states.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Inserted(NamedTuple):
    """One guidance, ready to be asked by many states."""

    keys: Tensor
    """(B, M, D)."""
    values: Tensor
    """(B, M, D), the outer map applied."""

    def __call__(self, x: Tensor, added: Tensor) -> Tensor:
        """`added` + U a, for states x and `added` (B, C, D): (B, C, D)."""
        weights = (x @ self.keys.transpose(1, 2)).softmax(dim=-1)  # (B, C, M)
        return torch.baddbmm(added, weights, self.values)


class ConditionInsertion(nn.Module):
    """AI2M and the linear map that reads it: W_Q (D, D), W_K and W_V (W, D), and U (D, D), none with a bias.

    Initialisation: as torch's Linear. Whoever joins U with other blocks draws it anew.
    """

    def __init__(self, dim: int, guidance_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(guidance_dim, dim, bias=False)
        self.value = nn.Linear(guidance_dim, dim, bias=False)
        self.outer = nn.Linear(dim, dim, bias=False)

    def on(self, guidance: Tensor) -> Inserted:
        """The insertion for guidance (B, M, W): the maps are joined first, which costs nothing beside a batch."""
        dim = self.query.in_features
        to_keys = self.query.weight.T @ self.key.weight / math.sqrt(dim)  # (D, W)
        to_values = self.outer.weight @ self.value.weight
        return Inserted(guidance @ to_keys.T, guidance @ to_values.T)

"""Softmax over the target and items drawn for the whole batch. Shapes: B rows, N drawn items, D width, I items.

An item j that is drawn N times with probability q_j comes N q_j times, so that each time it counts 1 / (N q_j): its
logit is s_j - log(N q_j). The target is there once in any case and has its own logit. The sum of exponentials then has
the mean of the full softmax (importance sampling; Bengio and Senecal 2008).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from guiderec.rng import Noise

Proposal = Literal["log_uniform", "uniform"]
"""How negatives are drawn: by rank of popularity, or all alike."""


def log_probabilities(proposal: Proposal, n_items: int) -> Tensor:
    """(I,) float64 log q of the item with the r-th largest count, r = 0..I - 1.

    log_uniform: q_r = log((r + 2) / (r + 1)) / log(I + 1), near Zipf's law.
    """
    rank = torch.arange(n_items, dtype=torch.float64)
    if proposal == "uniform":
        return torch.full_like(rank, 1 / n_items).log()
    return (torch.log1p(1 / (rank + 1)) / torch.log(torch.tensor(n_items + 1.0, dtype=torch.float64))).log()


def shared_ranks(
    proposal: Proposal, n_items: int, size: int, *, noise: Noise, purpose: str, device: torch.device | None = None
) -> Tensor:
    """(N,) int64 ranks in 0..I - 1, drawn with replacement from `log_probabilities`, the same for all rows.

    floor((I + 1)^u) - 1 has the log-uniform law for u uniform in [0, 1): it is r where log(r + 1) <= u log(I + 1) <
    log(r + 2).
    """
    one = torch.zeros(1, dtype=torch.int64, device=device)
    if proposal == "uniform":
        return noise.integers(one, size, n_items, purpose)[0]
    power = (n_items + 1.0) ** noise.uniform(one, size, purpose)[0]
    return (power.long() - 1).clamp(max=n_items - 1)  # (I + 1)^u may be rounded up to I + 1


def sampled_softmax(states: Tensor, target: Tensor, negatives: Tensor, table: Tensor, log_q: Tensor) -> Tensor:
    """() `-log softmax` of the target among itself and the negatives, averaged over rows.

    States (B, D), targets (B,), negatives (N,) for all rows, the table (I + 1, D) and log q (I + 1,) of its items. A
    negative that is the target of a row is no negative of that row.
    """
    wanted = (states * table[target]).sum(dim=1)  # (B,)
    against = states @ table[negatives].T - log_q[negatives] - math.log(len(negatives))  # (B, N)
    against = against.masked_fill(negatives == target[:, None], -torch.inf)
    logits = torch.cat([wanted[:, None], against], dim=1)
    return (logits.logsumexp(dim=1) - wanted).mean()

"""Losses on predicted clean embeddings. All terms of one loss share one noising of the batch, the `Draw`.

Shapes   x0, x0_hat, eps, x_t (B, D); t (B,); per-row losses (B,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from guiderec.diffusion.process import q_sample
from guiderec.diffusion.schedule import Schedule
from guiderec.rng import Noise

Distance = Literal["cos", "cos_sq", "l2"]
"""1 - cos in [0, 2]; (1 - cos)^2 in [0, 4], as in PreferDiff's code; mean squared error."""


@dataclass(frozen=True)
class Draw:
    """One noising of a batch: x_t = a_t x0 + b_t eps."""

    x0: Tensor
    t: Tensor
    eps: Tensor
    x_t: Tensor


def draw(
    x0: Tensor, schedule: Schedule, noise: Noise, key: Tensor, purpose: str = "draw", *, scale: float = 1.0
) -> Draw:
    """Noise x0 (B, D) at steps t uniform in {0..T-1}; t and eps are named by the row keys (B,).

    eps is from N(0, scale^2 I).
    """
    t = noise.integers(key, 1, schedule.T, f"{purpose}/t")[:, 0]
    eps = noise.normal(key, x0.shape[1], f"{purpose}/eps", x0.dtype)
    if scale != 1:
        eps = scale * eps
    return Draw(x0, t, eps, q_sample(x0, t, eps, schedule))


def distance(kind: Distance) -> Callable[[Tensor, Tensor], Tensor]:
    """The per-row distance d(x0_hat, x0): (B, D), (B, D) -> (B,)."""
    return _DISTANCES[kind]


_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cos": lambda x, y: 1 - F.cosine_similarity(x, y, dim=-1),
    "cos_sq": lambda x, y: (1 - F.cosine_similarity(x, y, dim=-1)).square(),
    "l2": lambda x, y: (x - y).square().mean(dim=-1),
}


def drop_condition(condition: Tensor, null: Tensor, p: float, noise: Noise, key: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the condition (B, C) of each row by `null` (C,) with probability p (Ho & Salimans 2022, Alg. 1).

    Returns the conditions (B, C) and a mask (B,), True where the row's own condition was kept.
    """
    kept = noise.uniform(key, 1, "drop_condition")[:, 0] >= p
    return torch.where(kept[:, None], condition, null), kept


def centroid_of_others(vectors: Tensor, ids: Tensor, *, exclude_same_id: bool) -> tuple[Tensor, Tensor]:
    """Mean of the other rows' vectors, for each row of (B, D).

    With `exclude_same_id`, rows with the same id (B,) as row i do not count for row i. Returns the centroids (B, D)
    and a mask (B,), False (and the centroid zero) where no other row is left.
    """
    others = ~torch.eye(len(ids), dtype=torch.bool, device=ids.device)
    if exclude_same_id:
        others &= ids[:, None] != ids[None, :]
    count = others.sum(dim=1)
    weights = others.to(vectors.dtype) / count.clamp(min=1)[:, None]
    return weights @ vectors, count > 0


def guidance_alignment(positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """max(0, d_pos - d_neg + m) per row (SteerRec, eq. 13): distances to the target under both conditions."""
    return F.relu(positive - negative + margin)


def preference(positive: Tensor, negative: Tensor, gamma: float) -> Tensor:
    """-log sigmoid(-gamma (e_pos - e_neg)) (PreferDiff, eq. 12), in the stable form softplus(gamma (e_pos - e_neg))."""
    return F.softplus(gamma * (positive - negative))


def softmax_against(
    predicted: Tensor, target: Tensor, negatives: Tensor, real: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """() -log softmax of the target among itself and its row's own negatives, averaged over rows (ADIGRec, Eq. 18, 20).

    Predicted and target (B, D), negatives (B, N, D), real (B, N): False where a negative is none.
    """
    wanted = (predicted * target).sum(dim=-1, keepdim=True)  # (B, 1)
    against = (negatives @ predicted[:, :, None]).squeeze(-1).masked_fill(~real, -torch.inf)
    logits = torch.cat([wanted, against], dim=1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B,) over rows where mask (B,) is True; 0 if there is none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)

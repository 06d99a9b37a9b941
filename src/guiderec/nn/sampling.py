"""Items drawn uniformly from those a row does not have."""

from __future__ import annotations

import torch
from torch import Tensor

from guiderec.rng import Noise


def negatives_by_position(own: Tensor, n_items: int, length: int, size: int, *, keys: Tensor, noise: Noise) -> Tensor:
    """(B, L, N) items that a row with the items `own` (B, E) does not have; the newest position has the first draws.

    More padding on the left thus moves no draw.
    """
    if size == 0:
        return own.new_zeros(len(own), length, 0)
    drawn = items_outside(own, n_items, length * size, keys=keys, noise=noise, purpose="negatives")
    return drawn.view(len(own), length, size).flip(1)


def items_outside(own: Tensor, n_items: int, size: int, *, keys: Tensor, noise: Noise, purpose: str) -> Tensor:
    """Items (B, size), uniform over 1..I without the row's `own` (B, E), which may repeat and hold padding 0.

    A row that has every item gets padding. No draw is rejected: number u of the allowed items is u + 1 plus the number
    of own items below it. Own item s_j, the j-th in ascending order, is below when s_j - j <= u.
    """
    ordered = own.sort(dim=1).values
    repeated = torch.zeros_like(ordered, dtype=torch.bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    distinct = ~repeated & (ordered > 0)
    beyond = 2 * n_items + 2  # where no draw comes, so that repeats and padding count for nothing
    ascending = torch.where(distinct, ordered, beyond).sort(dim=1).values
    allowed = (n_items - distinct.sum(dim=1, keepdim=True)).clamp(min=0)  # (B, 1)
    drawn = noise.bits(keys, size, purpose) % allowed.clamp(min=1)
    rank = torch.arange(1, own.shape[1] + 1, device=own.device)
    gaps = torch.where(ascending < beyond, ascending - rank, beyond).contiguous()
    items = drawn + 1 + torch.searchsorted(gaps, drawn, right=True)
    return torch.where(allowed > 0, items, 0)

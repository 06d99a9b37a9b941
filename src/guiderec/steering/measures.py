"""What steered scores do to the lists of B rows: where the disliked went, what came with it, and what it cost.

Places    In a list and in the ranks of what is steered, equal scores stand by ascending item id. The target alone loses
          ties, so that its rank is that of `guiderec evaluate`.
Seen      Where items of the history are masked, they are in no list and rank last; the target always competes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from guiderec.data.batch import PADDING
from guiderec.evaluation.ranking import RunningTopK
from guiderec.steering.procedure import Wishes


def listed_items(scores: Tensor, k: int, exclude: Tensor | None) -> Tensor:
    """(B, k) the best items of scores (B, I + 1), without `exclude` (B, E), padded with 0 where fewer compete."""
    listing = RunningTopK(k, None, exclude)
    listing.add(1, scores[:, 1:])
    return listing.items


def places(scores: Tensor, items: Tensor) -> Tensor:
    """(B, M) 1-based places of `items` (B, M) in scores (B, I + 1), equal scores by ascending id; 0 for padding."""
    ids = torch.arange(scores.shape[1], device=scores.device)
    found = torch.zeros_like(items)
    for column, item in enumerate(items.T):
        own = scores.gather(1, item[:, None])
        found[:, column] = 1 + (scores > own).sum(dim=1)
        level = (scores == own).sum(dim=1)
        if bool((level > 1).any()):  # somewhere there is a tie, or padding
            found[:, column] += ((scores == own) & (ids < item[:, None]) & (ids > 0)).sum(dim=1)
    return found * (items != PADDING)


def target_ranks(scores: Tensor, target: Tensor, own: Tensor, exclude: Tensor | None) -> Tensor:
    """(B,) 1 + the other items, without `exclude` (B, E), that score at least as high as `own` (B,), the targets."""
    wins = scores >= own[:, None]
    for losers in (target[:, None], exclude):
        if losers is not None:
            wins.scatter_(1, losers, False)
    return 1 + wins[:, 1:].sum(dim=1)


def geometric_mean(ranks: Tensor) -> Tensor:
    """(B,) geometric mean of ranks (B, M), 0 at padding; nan where a row has none."""
    known = ranks > 0
    logs = torch.where(known, ranks.double().clamp(min=1).log(), 0.0)
    return (logs.sum(dim=1) / known.sum(dim=1)).exp()


def overlap(before: Tensor, after: Tensor, concerned: Tensor) -> Tensor:
    """(B,) of the items of the lists `before` (B, k) that are not `concerned` (B, I + 1), the share still in `after`.

    nan where all of them are.
    """
    rest = (before != PADDING) & ~concerned.gather(1, before)
    still = (before[:, :, None] == after[:, None, :]).any(dim=2)
    return (rest & still).sum(dim=1).double() / rest.sum(dim=1)


def measured(
    scores: Tensor, wishes: Wishes, target: Tensor, k: int, *, seen: Tensor | None, before: dict[str, Tensor] | None
) -> dict[str, Tensor]:
    """Every measure of B rows, (B,) each, and the lists as `list` (B, k). Changes `scores` (B, I + 1) in place.

    Parameters
    ----------
    seen
        (B, E) the items of the histories that do not compete; None: all do.
    before
        The measures of the unsteered scores; None: these are they.
    """
    own = scores.gather(1, target[:, None])[:, 0]
    if seen is not None:
        scores.scatter_(1, seen, -torch.inf)
    items = listed_items(scores, k, None)
    near = geometric_mean(places(scores, wishes.followed))
    found = {
        "list": items,
        "item_rank": places(scores, wishes.anchor[:, None])[:, 0],
        "listed": (items == wishes.anchor[:, None]).any(dim=1),
        "group_rank": near,
        "exposure": wishes.group.gather(1, items).sum(dim=1),
        "target_rank": target_ranks(scores, target, own, seen),
    }
    start = found if before is None else before
    found["shift"] = torch.log2(near / start["group_rank"])
    found["overlap"] = overlap(start["list"], items, wishes.concerned)
    return found

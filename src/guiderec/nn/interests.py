"""Many interests of one history, and how its positions are routed to them (Cen et al., KDD 2020, ComiRec).

Shapes   B batch, L history length, D width, K interests.
Layout   histories are padded on the left, mask (B, L) is True at items. Routing weights are (B, L, K).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from guiderec.nn.embedding import Counting


class SelfAttentiveInterests(nn.Module):
    """K self-attentive readouts of a history (ComiRec-SA; ADIGRec's G1).

        A = softmax_L(tanh((E + P) W_1 + b) W_2)        one softmax over the items for each interest
        V = A^T E                                       values are the items without their positions

    Weights are Glorot-uniform, b is 0, as in the authors' code (THUDM/ComiRec: src/model.py), which has a bias beside
    W_2 too: it is the same for all items and drops out of the softmax.
    """

    def __init__(self, dim: int, interests: int, hidden: int | None = None) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, 4 * dim if hidden is None else hidden)
        self.route = nn.Linear(self.expand.out_features, interests, bias=False)
        nn.init.xavier_uniform_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)
        nn.init.xavier_uniform_(self.route.weight)

    def forward(self, items: Tensor, positioned: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Interests (B, K, D) and weights (B, L, K), for `items` (B, L, D), the same with positions, mask (B, L).

        Weights of an interest sum to 1 over the items; padding has 0. An empty history has weights 0 and interests 0.
        """
        logits = self.route(torch.tanh(self.expand(positioned)))  # (B, L, K)
        weights = masked_softmax(logits, mask[..., None], dim=1)
        return weights.transpose(1, 2) @ items, weights


class DynamicRouting(nn.Module):
    """K capsules that a history is routed to by agreement (ComiRec-DR; Sabour et al. 2017, Procedure 1).

        u_lk = W_lk e_l                               one map for each position and interest
        b_lk = 0, and then `iterations` times:
            c_lk = softmax_k(b_lk)                    an item shares itself out among the interests
            v_k  = squash(sum_l c_lk u_lk)
            b_lk = b_lk + u_lk . v_k

    No gradient passes through the logits: in all iterations but the last, u is a constant (authors' code). Maps are
    drawn from N(0, 1). They belong to positions, so a history may have `max_length` items at most.
    """

    def __init__(
        self, dim: int, interests: int, max_length: int, *, iterations: int = 3, counting: Counting = "from_start"
    ) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"routing needs at least 1 iteration, got {iterations}.")
        self.interests = interests
        self.iterations = iterations
        self.counting: Counting = counting
        self.maps = nn.Parameter(torch.randn(max_length, dim, interests * dim))

    def forward(self, items: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Interests (B, K, D), each shorter than 1, and weights (B, L, K), for `items` (B, L, D) and mask (B, L).

        Weights of an item sum to 1 over the interests; padding has 0. An empty history has weights 0 and interests 0.
        """
        batch, length, dim = items.shape
        if length > len(self.maps):
            raise ValueError(f"{length} positions, but there are maps for {len(self.maps)}.")
        order = _order(mask, self.counting)  # (B, L) the column that holds position l
        placed = items.gather(1, order[..., None].expand_as(items)).transpose(0, 1)  # (L, B, D)
        votes = (placed @ self.maps[:length]).view(length, batch, self.interests, dim).permute(1, 2, 0, 3)
        valid = mask.gather(1, order)[:, None]  # (B, 1, L)
        constant = votes.detach()  # (B, K, L, D)
        logits = torch.zeros(votes.shape[:3], dtype=votes.dtype, device=votes.device)
        for _ in range(self.iterations - 1):
            capsules = squash(_mix(logits.softmax(dim=1) * valid, constant))
            logits = logits + (constant @ capsules[..., None]).squeeze(-1)
        weights = logits.softmax(dim=1) * valid  # (B, K, L), by position
        placed_back = weights.gather(2, order.argsort(dim=1)[:, None].expand_as(weights))
        return squash(_mix(weights, votes)), placed_back.transpose(1, 2)


def squash(x: Tensor) -> Tensor:
    """`|x|^2 / (1 + |x|^2) x / |x|` over the last axis: the direction stays, the length is below 1 (Sabour, Eq. 1)."""
    squared = x.square().sum(dim=-1, keepdim=True)
    return squared / (1 + squared) * x / (squared + 1e-9).sqrt()


def masked_softmax(logits: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Softmax over the entries of `dim` where `mask` is True; the others are 0, and all of them where none is True."""
    kept = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)  # not -inf: a softmax over nothing is nan
    return kept.softmax(dim=dim) * mask


def best_interest(interests: Tensor, target: Tensor) -> Tensor:
    """(B, D) of the interests (B, K, D) the one with the largest inner product with `target` (B, D).

    The choice itself has no gradient; the first of equal ones is taken.
    """
    best = index_of_best(interests, target)
    return interests[torch.arange(len(best), device=best.device), best]


def index_of_best(interests: Tensor, target: Tensor) -> Tensor:
    """(B,) in {0..K-1}: which of the interests (B, K, D) `best_interest` takes."""
    return torch.einsum("bkd,bd->bk", interests.detach(), target.detach()).argmax(dim=1)


def covariance_penalty(weights: Tensor, mask: Tensor) -> Tensor:
    """L_reg of ADIGRec (SIGIR 2025): the sum of the lengths of the rows of C, averaged over the B histories.

        C = (1/n) (W - mean)^T (W - mean)  (K, K),      n and mean over the n items of a history

    It is 0 where routing is uniform. Weights (B, L, K), mask (B, L); what stands at padding is ignored. A history of
    one item, or none, has C = 0.
    """
    count = mask.sum(dim=1).clamp(min=1)[:, None, None]  # (B, 1, 1)
    valid = mask[..., None]
    mean = (weights * valid).sum(dim=1, keepdim=True) / count
    centred = (weights - mean) * valid
    covariance = centred.transpose(1, 2) @ centred / count  # (B, K, K)
    return torch.linalg.vector_norm(covariance, dim=2).sum(dim=1).mean()


def with_start(items: Tensor, mask: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Items (B, L, D) and mask (B, L) where an empty history has the vector `start` (D,) as its newest position."""
    newest = torch.zeros_like(mask)
    newest[:, -1] = ~mask.any(dim=1)
    return torch.where(newest[..., None], start, items), mask | newest


def _order(mask: Tensor, counting: Counting) -> Tensor:
    """(B, L) the columns of positions 0, 1, ...; those of padding come last.

    mask          0 0 1 1 1
    from_start    2 3 4 0 1
    from_end      4 3 2 1 0
    """
    if counting == "from_start":
        return (~mask).to(torch.uint8).argsort(dim=1, stable=True)
    return torch.arange(mask.shape[1] - 1, -1, -1, device=mask.device).expand(mask.shape)


def _mix(weights: Tensor, votes: Tensor) -> Tensor:
    """(B, K, D) sum over l of weights (B, K, L) times votes (B, K, L, D)."""
    return (weights[..., None, :] @ votes).squeeze(-2)

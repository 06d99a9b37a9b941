"""Guidance by natural gradient: every wish moves by what was asked, and the rest of the list as little as possible.

What is generated, x, ranks the items by p(j | x) = softmax_j e_j . x. A wish says that an item, and to a lesser degree
what it is akin to, should come up or go down. Written as weights q over items that sum to 1, its direction is

    g = sum_j q_j (e_j - e_bar),        e_bar = sum_j p_j e_j,

the gradient of sum_j q_j log p(j | x). To move x along g lowers everything that resembles the disliked item, since all
that a user is offered is alike. So the step is the one that changes p least. To second order KL(p(x + D) || p(x)) is
1/2 D^T F D with the Fisher matrix F = sum_j p_j (e_j - e_bar)(e_j - e_bar)^T, and the least change by which K wishes
g_k move by b_k each, min D^T F D subject to g_k . D = b_k, is (Lagrange)

    D = F^-1 G^T (G F^-1 G^T)^-1 b,        b_k = +- w s,        s the standard deviation of the user's scores.

One wish gives the natural gradient, F^-1 g. Two equal wishes give what one gives, and two that have nothing in common
their sum. The strength w counts standard deviations of the scores, for any model and any number of wishes.

Three things make it robust. F looks at the `nearest` items alone, with p flattened by a temperature: what is far down
the list need not be kept where it is. F is damped, F + damping tr(F)/D I, so that no direction is free. The wishes are
asked with a ridge, so that two that contradict each other do not tear x apart.

Shapes   B rows, K wishes, D width, I items, M nearest items, N neighbours.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from guiderec.config import Part
from guiderec.errors import ConfigError

BLOCK_SCORES = 2**25
"""Scores that are held at a time, over rows: 128 MiB in single precision."""


class NaturalGuidance(Part):
    """Likes up, dislikes down, by the least change of the list."""

    name: Literal["natural"] = "natural"
    scale: float = Field(2.0, ge=0)
    """w, in standard deviations of a user's scores over the catalogue; 0 is off."""
    kinship: float = Field(0.07, ge=0)
    """Weight of each neighbour of a wished item, where the item has 1."""
    nearest: int = Field(256, ge=2)
    """M, the best items for the user, which should stay as they are."""
    temperature: float = Field(2.0, gt=0)
    """Flattens p over these items, so that the first does not outweigh all others."""
    damping: float = Field(0.1, gt=0)
    """Added to F, as a share of its mean eigenvalue."""
    ridge: float = Field(0.01, ge=0)
    """Added to G F^-1 G^T, as a share of its diagonal."""

    def __call__(self, x: Tensor, table: Tensor, items: Tensor, akin: Tensor, signs: Tensor, scale: float) -> Tensor:
        """(B, K, D) what each wish adds to x (B, D), in the ranking by the table (I + 1, D); 0 for wishes of padding.

        Parameters
        ----------
        items
            (B, K) wished items, 0 is no wish.
        akin
            (B, K, N) their neighbours, 0 where there are fewer.
        signs
            (B, K) +1 for likes and -1 for dislikes.
        scale
            w.
        """
        found = x.new_zeros(*items.shape, x.shape[1])
        asking = (items != 0).any(dim=1).nonzero()[:, 0]
        if scale == 0 or not len(asking):
            return found
        size = max(1, BLOCK_SCORES // len(table))
        for rows in asking.split(size):  # type: ignore[no-untyped-call]
            found[rows] = self._steps(x[rows], table, items[rows], akin[rows], scale * signs[rows])
        return found

    def _steps(self, x: Tensor, table: Tensor, items: Tensor, akin: Tensor, asked: Tensor) -> Tensor:
        scores = x @ table[1:].T  # (B, I)
        around, mean = self._surroundings(scores, table)
        wish = self._directions(table, items, akin) - mean[:, None]  # (B, K, D)
        natural = solve_damped(around, self.damping, wish)  # (B, K, D)
        there = (items != 0).to(x.dtype)
        gram = (wish @ natural.transpose(1, 2)) * there[:, :, None] * there[:, None, :]
        own = gram.diagonal(dim1=1, dim2=2)
        gram = gram + torch.diag_embed(self.ridge * own + (1 - there))  # padding asks for nothing, and gets it
        wanted = asked * there * scores.std(dim=1, keepdim=True)
        share = torch.linalg.solve(gram, wanted[..., None])  # (B, K, 1)
        return share * natural * there[..., None]

    def _surroundings(self, scores: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """X (B, M, D) with F = X^T X, and e_bar (B, D), over the nearest items."""
        best = (scores / self.temperature).topk(min(self.nearest, scores.shape[1]), dim=1)
        p = best.values.softmax(dim=1)[..., None]  # (B, M, 1)
        vectors = table[best.indices + 1]
        mean = (p * vectors).sum(dim=1)
        return p.sqrt() * (vectors - mean[:, None]), mean

    def _directions(self, table: Tensor, items: Tensor, akin: Tensor) -> Tensor:
        """(B, K, D) sum_j q_j e_j."""
        known = (akin != 0).to(table.dtype)
        total = table[items] + self.kinship * (table[akin] * known[..., None]).sum(dim=2)
        return total / (1 + self.kinship * known.sum(dim=2))[..., None]


def solve_damped(X: Tensor, damping: float, G: Tensor) -> Tensor:
    """(B, K, D) rows of G (B, K, D) times (X^T X + damping tr(X^T X)/D I)^-1, for X (B, M, D).

    Where M < D the inverse is taken on the other side (Woodbury): (G - G X^T (X X^T + m I)^-1 X) / m.

    Raises ConfigError where all rows of X are equal, so that nothing is left to be damped.
    """
    M, D = X.shape[1:]
    level = damping * X.square().sum(dim=(1, 2)) / D
    if not bool((level > 0).all()):
        raise ConfigError(
            "Guidance needs items that differ: all vectors around a user are equal.", hint="train the model first"
        )
    if M >= D:
        F = X.transpose(1, 2) @ X + torch.diag_embed(level[:, None].expand(-1, D))
        solved: Tensor = torch.linalg.solve(F, G.transpose(1, 2)).transpose(1, 2)
        return solved
    inner = X @ X.transpose(1, 2) + torch.diag_embed(level[:, None].expand(-1, M))
    left = torch.linalg.solve(inner, X @ G.transpose(1, 2))  # (B, M, K)
    return (G - (X.transpose(1, 2) @ left).transpose(1, 2)) / level[:, None, None]

"""Guidance by natural gradient: every wish moves to where it was asked, and the rest of the list as little as possible.

What is generated, x, ranks the items by p(j | x) = softmax_j e_j . x. To move x against a disliked item, or what a
network makes of it, lowers everything that resembles it, and all that a user is offered is alike. So the step is the
one that changes p least. To second order KL(p(x + D) || p(x)) is 1/2 D^T F D with the Fisher matrix

    F = sum_j p_j (e_j - e_bar)(e_j - e_bar)^T,        e_bar = sum_j p_j e_j.

A wish for item k has a direction that takes its neighbours along, and asks for a change b_k of the item's own score:

    g_k = (e_k - e_bar) + kinship sum_n s_n (e_n - e_bar),        c_k = e_k - e_bar,        c_k . D = b_k

    D = sum_k a_k F^-1 g_k,        (c_k F^-1 g_l)_kl a = b

which without neighbours is min D^T F D subject to all c_k . D = b_k (Lagrange), and for one wish the natural gradient.
Two equal wishes give what one gives, and two that have nothing in common their sum. The share s_n of a neighbour is 1
unless whoever asks says less.

How far is asked in places of the user's own list, so that a strength means the same for all users and catalogues:

    dislike    b = -w (s_k - s_(50))      at w = 1 the item falls to where the 50th item stood
    like       b = +w (s_(1) - s_k)       at w = 1 it rises to where the first stood

and `least` standard deviations of the scores where it stands there already.

Three things make it robust. F looks at the `nearest` items alone, with p flattened by a temperature: what is far down
the list need not be kept where it is. F is damped, F + damping tr(F)/D I, so that no direction is free. The wishes are
asked with a ridge, so that two that contradict each other do not tear x apart; and neighbours that would hold an item
back are not taken along.

Shapes   B rows, K wishes, D width, I items, M nearest items, N neighbours.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from guiderec.config import Part
from guiderec.errors import ConfigError

BLOCK_NUMBERS = 2**25
"""Scores, or entries of nearest vectors, that are held at a time over rows: 128 MiB in single precision."""


class NaturalGuidance(Part):
    """Likes up, dislikes down, by the least change of the list."""

    name: Literal["natural"] = "natural"
    scale: float = Field(1.0, ge=0)
    """w; 0 is off, 1 takes a dislike to place `place` of the user's list and a like to the first."""
    place: int = Field(50, ge=2)
    """Where dislikes go at w = 1."""
    least: float = Field(0.3, ge=0)
    """What a wish is moved at least at w = 1, in standard deviations of a user's scores over the catalogue."""
    kinship: float = Field(0.15, ge=0)
    """Weight of each neighbour of a wished item, where the item has 1."""
    nearest: int = Field(512, ge=2)
    """M, the best items for the user, which should stay as they are."""
    temperature: float = Field(2.0, gt=0)
    """Flattens p over these items, so that the first does not outweigh all others."""
    damping: float = Field(0.1, gt=0)
    """Added to F, as a share of its mean eigenvalue."""
    ridge: float = Field(0.01, ge=0)
    """Added to the system of the wishes, as a share of its diagonal."""

    def __call__(
        self, x: Tensor, table: Tensor, items: Tensor, akin: Tensor, shares: Tensor, signs: Tensor, scale: float
    ) -> Tensor:
        """(B, K, D) what each wish adds to x (B, D), in the ranking by the table (I + 1, D); 0 for wishes of padding.

        Parameters
        ----------
        items
            (B, K) wished items, 0 is no wish.
        akin
            (B, K, N) their neighbours, 0 where there are fewer.
        shares
            (B, K, N) how much each neighbour counts among them, 1 or less; nothing where there is none.
        signs
            (B, K) +1 for likes and -1 for dislikes.
        scale
            w.
        """
        found = x.new_zeros(*items.shape, x.shape[1])
        asking = (items != 0).any(dim=1).nonzero()[:, 0]
        if scale == 0 or not len(asking):
            return found
        size = max(1, BLOCK_NUMBERS // max(len(table), self.nearest * x.shape[1]))
        for rows in asking.split(size):  # type: ignore[no-untyped-call]
            found[rows] = scale * self._steps(x[rows], table, items[rows], akin[rows], shares[rows], signs[rows])
        return found

    def _steps(self, x: Tensor, table: Tensor, items: Tensor, akin: Tensor, shares: Tensor, signs: Tensor) -> Tensor:
        """(B, K, D) at w = 1."""
        scores = x @ table[1:].T  # (B, I)
        best = scores.topk(min(max(self.nearest, self.place), scores.shape[1]), dim=1)
        around, mean = self._surroundings(best.values, best.indices, table)
        own = table[items] - mean[:, None]  # (B, K, D)
        heard = (shares * (akin != 0))[..., None]
        along = ((table[akin] - mean[:, None, None]) * heard).sum(dim=2)
        alone, together = solve_damped(around, self.damping, torch.cat([own, own + self.kinship * along], dim=1)).chunk(
            2, dim=1
        )
        helped = (own * together).sum(dim=2) > 0.1 * (own * alone).sum(dim=2)  # the neighbours do not hold it back
        natural = torch.where(helped[..., None], together, alone)
        there = (items != 0).to(x.dtype)
        system = (own @ natural.transpose(1, 2)) * there[:, :, None] * there[:, None, :]
        diagonal = system.diagonal(dim1=1, dim2=2)
        system = system + torch.diag_embed(self.ridge * diagonal + (1 - there))  # padding asks for nothing, and gets it
        share = torch.linalg.solve(system, (signs * there * self._asked(scores, best.values, items, signs))[..., None])
        return share * natural * there[..., None]

    def _asked(self, scores: Tensor, best: Tensor, items: Tensor, signs: Tensor) -> Tensor:
        """(B, K) how far each wish goes at w = 1, above 0."""
        own = scores.gather(1, (items - 1).clamp(min=0))
        place = min(self.place, best.shape[1]) - 1
        gap = torch.where(signs > 0, best[:, :1] - own, own - best[:, place : place + 1])
        return torch.maximum(gap, self.least * scores.std(dim=1, keepdim=True))

    def _surroundings(self, scores: Tensor, items: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """X (B, M, D) with F = X^T X, and e_bar (B, D), for the best items of each row."""
        p = (scores[:, : self.nearest] / self.temperature).softmax(dim=1)[..., None]  # (B, M, 1)
        vectors = table[items[:, : self.nearest] + 1]
        mean = (p * vectors).sum(dim=1)
        return p.sqrt() * (vectors - mean[:, None]), mean


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

"""A denoiser under several rows of guidance, kept apart into what a chain repeats and what it does not.

    x0_hat = f([x_t ; a ; vec(G) ; time(t)]) = W_x x_t + U a + W_G vec(G) + W_t time(t) + b       (ADIGRec, Sec. 4.2.2)
    a      = softmax((x_t + time(t)) W_Q (G W_K)^T / sqrt(D)) G W_V                               (AI2M; without it, 0)

f is one linear layer, so it is a sum of blocks: W_G vec(G), and the keys and values of G, are computed once for a
query; W_t time(t) once for a step; what is left for every row and step is W_x x_t and 2 M D multiply-adds for a.

Shapes   B batch, D width, G (B, M, W): M rows of width W; C chains: 1, or one for each row of G; x_t, x0_hat (B, C, D);
         t (B,).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from guiderec.diffusion.guidance import Denoiser
from guiderec.nn.insertion import ConditionInsertion, Inserted
from guiderec.nn.time import TimeEmbedding

Form = Literal["joined", "per_interest"]
"""joined: f reads vec(G), all rows at once, and predicts one vector. per_interest: f reads one row of G, and predicts a
vector for each."""


class InterestDenoiser(nn.Module):
    """f and AI2M; `on` binds them to the guidance of one batch.

    Initialisation: W_x, U, W_G, W_t and b as one torch Linear over all inputs, W_Q, W_K and W_V each as their own.
    """

    def __init__(self, dim: int, rows: int, width: int, *, form: Form = "joined", insertion: bool = True) -> None:
        super().__init__()
        self.form: Form = form
        condition = rows * width if form == "joined" else width
        self.time = TimeEmbedding(dim)
        self.from_state = nn.Linear(dim, dim, bias=False)
        self.from_guidance = nn.Linear(condition, dim, bias=False)
        self.from_time = nn.Linear(dim, dim)
        self.insertion = ConditionInsertion(dim, width) if insertion else None
        blocks = [self.from_state, self.from_guidance, self.from_time]
        blocks += [self.insertion.outer] if self.insertion else []
        bound = 1 / math.sqrt(sum(block.in_features for block in blocks))
        for parameter in [*(block.weight for block in blocks), self.from_time.bias]:
            nn.init.uniform_(parameter, -bound, bound)

    def on(self, guidance: Tensor, row: Tensor | None = None) -> BoundInterestDenoiser:
        """The denoiser under G (B, M, W). `row` (B,): of the M chains of `per_interest`, the one to keep."""
        if self.form == "joined":
            pull = self.from_guidance(guidance.flatten(1))[:, None]  # (B, 1, D)
        elif row is None:
            pull = self.from_guidance(guidance)  # (B, M, D)
        else:
            chosen = guidance[torch.arange(len(row), device=row.device), row]
            pull = self.from_guidance(chosen)[:, None]
        return BoundInterestDenoiser(self, pull, self.insertion.on(guidance) if self.insertion else None)


class BoundInterestDenoiser:
    """D(x_t, t) under the guidance of one batch."""

    def __init__(self, network: InterestDenoiser, pull: Tensor, inserted: Inserted | None) -> None:
        self.network = network
        self.pull = pull
        """(B, C, D) what of x0_hat depends on G alone."""
        self.inserted = inserted

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x0_hat (B, C, D) for x_t (B, C, D), each row at its own step t (B,)."""
        distinct, place = torch.unique(t, return_inverse=True)
        time = self.network.time(distinct)
        return self._predict(x_t, time[place][:, None], self.network.from_time(time)[place][:, None])

    def along(self, steps: Sequence[int]) -> Denoiser:
        """The same for a chain over `steps`, where all rows are at one step: the terms of time are computed now."""
        visited = torch.tensor(sorted(set(steps)), device=self.pull.device)
        time = self.network.time(visited)
        terms = torch.cat([time, self.network.from_time(time)], dim=1)  # (S, 2D)
        table = terms.new_zeros(int(visited[-1]) + 1, terms.shape[1])  # by step, so that a step is one look-up
        table[visited] = terms

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            time, added = table[t[:1]][:, None].chunk(2, dim=2)
            return self._predict(x_t, time, added)

        return denoise

    def _predict(self, x_t: Tensor, time: Tensor, added: Tensor) -> Tensor:
        """(B, C, D) for time(t) and W_t time(t) + b, each (B, 1, D) or (1, 1, D)."""
        linear = self.network.from_state(x_t) + (self.pull + added)
        return linear if self.inserted is None else self.inserted(x_t + time, linear)

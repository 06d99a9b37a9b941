"""The exact denoiser of a Gaussian: what diffusion comes to when the clean vector is N(mu, s^2 I) given the condition.

With x_t = a_t x_0 + b_t eps, Bayes gives the mean of x_0 given x_t and the condition,

    D(x_t, t, mu) = mu + k_t (x_t - a_t mu),        k_t = a_t s^2 / (a_t^2 s^2 + b_t^2),

so only mu and s are to be learnt: mu needs no noise at all, and s is a number. k_t is 0 where all is noise, so that
D = mu there, and 1 / a_t where there is none.

A step of any sampler is x_s = keep x_t + move D(x_t, t, mu), so from a mean of zero the mean stays a multiple of mu
through every chain: however many steps, the mean ranks items by inner product as mu itself does. The spread of what
is generated around it is s.

Shapes   x_t, x0_hat, mu (B, D); t (B,) int64 in {0, ..., T-1}.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from guiderec.diffusion.schedule import Schedule


class GaussianDenoiser(nn.Module):
    """D(x_t, t, mu) for one learnt spread s, the same in all directions and for all conditions."""

    def __init__(self, schedule: Schedule, spread: float = 1.0) -> None:
        super().__init__()
        self.schedule = schedule
        self.log_spread = nn.Parameter(torch.tensor(math.log(spread)))

    @property
    def spread(self) -> Tensor:
        """s, ()."""
        return self.log_spread.exp()

    def forward(self, x_t: Tensor, t: Tensor, mu: Tensor) -> Tensor:
        """x_t (B, D), t (B,), mu (B, D) -> x0_hat (B, D)."""
        a = self.schedule.a(t).to(x_t.dtype)[:, None]
        b = self.schedule.b(t).to(x_t.dtype)[:, None]
        variance = self.spread.square()
        return mu + a * variance / (a.square() * variance + b.square()) * (x_t - a * mu)

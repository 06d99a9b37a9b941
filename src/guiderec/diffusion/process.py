"""The forward process and its posterior (Ho et al. 2020, DDPM), for rows with their own steps.

Shapes   x0, x_t, eps (B, D); t (B,) int64 in {0, ..., T-1}.
Coefficients are computed in float64 and cast once to the dtype of the vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from guiderec.diffusion.schedule import Schedule


def q_sample(x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (DDPM Eq. 4): (B, D)."""
    return _column(schedule.a(t), x0) * x0 + _column(schedule.b(t), x0) * eps


def posterior(x0: Tensor, x_t: Tensor, t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Mean (B, D) and variance (B, 1) of x_{t-1} given x_t and x_0 (DDPM Eq. 6-7). At t = 0 they are x_0 and 0."""
    of_x0, of_x_t, variance = posterior_coefficients(t, schedule)
    return _column(of_x0, x0) * x0 + _column(of_x_t, x0) * x_t, _column(variance, x0)


def posterior_coefficients(t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor, Tensor]:
    """Factor of x_0, factor of x_t and variance of the posterior, each (B,) float64."""
    beta = schedule.betas.to(t.device).index_select(0, t)
    b_square, b_previous_square = schedule.b(t).square(), schedule.b(t - 1).square()
    of_x0 = schedule.a(t - 1) * beta / b_square
    of_x_t = torch.sqrt(1 - beta) * b_previous_square / b_square
    return of_x0, of_x_t, beta * b_previous_square / b_square


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) float64 -> (B, 1) with the dtype of `like`."""
    return values.to(like.dtype)[:, None]

"""Samplers: functions of a denoiser. They know nothing of networks, conditions or guidance.

Every step of every sampler here has the form

    x_s = keep * x_t + move * x0_hat(x_t, t) + spread * eps,        s the next, cleaner step,

so a sampler is a list of `Step`s; `affine.py` reads the same lists. (Equal to the usual form with the predicted noise
(x_t - a_t x0_hat) / b_t, without dividing by a small b_t in the precision of the network.)

Shapes   x, x0_hat (B, D); t (B,) int64 in {0, ..., T-1}.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from guiderec.diffusion.guidance import Denoiser
from guiderec.diffusion.process import posterior_coefficients
from guiderec.diffusion.schedule import Schedule
from guiderec.errors import ConfigError

StepNoise = Callable[[int], Tensor]
"""Step t -> standard normal noise (B, D) for the step that leaves t."""


class Step(NamedTuple):
    """x_s = keep x_t + move x0_hat + spread eps; `keep` and `move` are not negative."""

    t: int
    keep: float
    move: float
    spread: float


@torch.no_grad()
def ddim(
    denoise: Denoiser, x: Tensor, schedule: Schedule, steps: int, *, eta: float = 0.0, noise: StepNoise | None = None
) -> Tensor:
    """x_T (B, D) -> x_0 (B, D) in `steps` steps (Song et al. 2021, DDIM, Eq. 12 and 16).

    `eta` = 0 is deterministic; with 1 and steps = T it is `ddpm`. Other values than 0 need `noise`.
    """
    if eta != 0 and noise is None:
        raise ConfigError(f"DDIM with eta = {eta} needs noise.", hint="give noise, or eta = 0")
    return walk(denoise, x, ddim_steps(schedule, steps, eta=eta), noise)


@torch.no_grad()
def ddpm(denoise: Denoiser, x: Tensor, schedule: Schedule, noise: StepNoise) -> Tensor:
    """x_T (B, D) -> x_0 (B, D) by ancestral sampling through all T steps (Ho et al. 2020, DDPM, Alg. 2)."""
    return walk(denoise, x, ddpm_steps(schedule), noise)


def ddim_steps(schedule: Schedule, steps: int, *, eta: float = 0.0) -> list[Step]:
    """The steps of DDIM on `schedule.grid(steps)`. `eta` in [0, 1] scales the noise of DDPM."""
    if not 0 <= eta <= 1:
        raise ConfigError(f"DDIM: eta = {eta} is not in [0, 1].")
    grid = schedule.grid(steps)
    return [_ddim_step(schedule, t, s, eta) for t, s in zip(grid, [*grid[1:], -1], strict=True)]


def ddpm_steps(schedule: Schedule) -> list[Step]:
    """The steps of DDPM with the variance of the posterior; the last step adds no noise and gives x0_hat."""
    t = torch.arange(schedule.T - 1, -1, -1)
    move, keep, variance = posterior_coefficients(t, schedule)
    columns = (column.tolist() for column in (t, keep, move, variance.sqrt()))
    return [Step(*row) for row in zip(*columns, strict=True)]


def _ddim_step(schedule: Schedule, t: int, s: int, eta: float) -> Step:
    a_t, b_t, a_s, b_s = schedule.a(t), schedule.b(t), schedule.a(s), schedule.b(s)
    spread = eta * b_s / b_t * math.sqrt(1 - (a_t / a_s) ** 2)
    keep = math.sqrt(b_s**2 - spread**2) / b_t
    return Step(t, keep=keep, move=a_s - a_t * keep, spread=spread)


def walk(
    denoise: Denoiser,
    x: Tensor,
    steps: Iterable[Step],
    noise: StepNoise | None = None,
    *,
    project: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """x_T (B, D) -> x_0 (B, D) through any list of steps; `noise` is asked only where a step adds some.

    `project` brings the state back to where it belongs (a sphere, say) before every step; what the last step leaves is
    not projected. States may have more axes, (B, ..., D).
    """
    for t, keep, move, spread in steps:
        if project is not None:
            x = project(x)
        x0 = denoise(x, torch.full((len(x),), t, dtype=torch.int64, device=x.device))
        x = keep * x + move * x0
        if spread > 0:
            if noise is None:
                raise ConfigError(f"The step that leaves t = {t} adds noise, and none was given.", hint="give noise")
            x = x + spread * noise(t)
    return x

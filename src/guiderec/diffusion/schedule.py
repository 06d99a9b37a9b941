"""Noise schedules: how much of the clean vector is left at every step. All tables are float64.

Legend   T steps of the forward process, t in {0, ..., T-1}; t = -1 stands for the clean vector;
         alpha_bar_t = prod_{s <= t} (1 - beta_s);  x_t = a_t x_0 + b_t eps  with a_t^2 + b_t^2 = 1.

A `Schedule` is a table. The parts `Linear`, `Exponential`, ... are its configurations: calling one gives the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal, overload

import torch
from pydantic import Field, model_validator
from torch import Tensor

from guiderec.config import Part
from guiderec.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Schedule:
    """A forward process given by its betas.

    >>> schedule = Linear(steps=1000)()
    >>> schedule
    Schedule(T=1000, alpha_bar=0.9999..4.036e-05)
    >>> schedule.grid(4)
    [999, 749, 499, 249]
    >>> schedule.a(-1), schedule.b(-1)
    (1.0, 0.0)

    Raises
    ------
    ConfigError
        When a beta is not in (0, 1]: a step without noise cannot be undone by division by its noise level.
    """

    betas: Tensor
    """(T,) float64, variance that each step adds."""
    alpha_bar: Tensor = field(init=False, repr=False)
    """(T,) float64, share of the clean variance that is left; decreasing."""
    _a: Tensor = field(init=False, repr=False)
    _b: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        betas = self.betas.detach().to("cpu", torch.float64)
        _check(betas)
        # Sums of logarithms keep 1 - alpha_bar accurate where alpha_bar is close to 1, which a product does not.
        log_alpha_bar = torch.cumsum(torch.log1p(-betas), dim=0)
        clean = torch.zeros(1, dtype=torch.float64)
        log_with_clean = torch.cat([clean, log_alpha_bar])  # row t + 1 belongs to step t
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "alpha_bar", torch.exp(log_alpha_bar))
        object.__setattr__(self, "_a", torch.exp(0.5 * log_with_clean))
        object.__setattr__(self, "_b", torch.sqrt(torch.expm1(log_with_clean).abs()))

    @property
    def T(self) -> int:
        """Number of steps of the forward process."""
        return len(self.betas)

    def __repr__(self) -> str:
        return f"Schedule(T={self.T}, alpha_bar={float(self.alpha_bar[0]):.4g}..{float(self.alpha_bar[-1]):.4g})"

    @overload
    def a(self, t: int) -> float: ...
    @overload
    def a(self, t: Tensor) -> Tensor: ...
    def a(self, t: int | Tensor) -> float | Tensor:
        """sqrt(alpha_bar_t), the factor of the clean vector; int -> float, (B,) int64 -> (B,) float64."""
        return _at(self._a, t)

    @overload
    def b(self, t: int) -> float: ...
    @overload
    def b(self, t: Tensor) -> Tensor: ...
    def b(self, t: int | Tensor) -> float | Tensor:
        """sqrt(1 - alpha_bar_t), the factor of the noise; int -> float, (B,) int64 -> (B,) float64."""
        return _at(self._b, t)

    def grid(self, steps: int) -> list[int]:
        """The `steps` distinct steps that a shortened chain visits, from T - 1 down: round(j T / S) - 1, j = S..1.

        Halves round up, in integers, so that the grid is the same on every machine.
        """
        if not 1 <= steps <= self.T:
            raise ConfigError(
                f"A schedule of {self.T} steps cannot be sampled in {steps}.", hint=f"choose 1 to {self.T} steps"
            )
        return [(2 * j * self.T + steps) // (2 * steps) - 1 for j in range(steps, 0, -1)]


class Linear(Part):
    """Betas evenly spaced (Ho et al. 2020). Below about 400 steps the last state is far from pure noise."""

    name: Literal["linear"] = "linear"
    steps: int = Field(1000, ge=1)
    """T, the number of steps of the forward process."""
    start: float = Field(1e-4, gt=0, le=1)
    """First beta."""
    end: float = Field(0.02, gt=0, le=1)
    """Last beta."""

    def __call__(self) -> Schedule:
        """The table of T = `steps` steps."""
        return Schedule(torch.linspace(self.start, self.end, self.steps, dtype=torch.float64))


class Exponential(Part):
    """beta_i = 1 - exp(-low/T - x_i (high - low) / (2 T^2)), x evenly spaced in [1, 2T + 1] (DreamRec)."""

    name: Literal["exp"] = "exp"
    steps: int = Field(1000, ge=1)
    """T, the number of steps of the forward process."""
    low: float = Field(0.1, gt=0)
    """Rate of noise at the first step."""
    high: float = Field(10.0, gt=0)
    """Rate of noise at the last step."""

    def __call__(self) -> Schedule:
        """The table of T = `steps` steps."""
        n = self.steps
        x = torch.linspace(1, 2 * n + 1, n, dtype=torch.float64)
        return Schedule(-torch.expm1(-self.low / n - 0.5 * x * (self.high - self.low) / n**2))


class Cosine(Part):
    """alpha_bar(u) = cos^2((u + s)/(1 + s) pi/2) for u = t/T (Nichol and Dhariwal 2021, Eq. 17), betas clipped."""

    name: Literal["cosine"] = "cosine"
    steps: int = Field(1000, ge=1)
    """T, the number of steps of the forward process."""
    offset: float = Field(0.008, ge=0)
    """s, which keeps the first betas from vanishing."""
    smallest: float = Field(1e-4, gt=0, le=1)
    """Lower limit of beta."""
    largest: float = Field(0.9999, gt=0, le=1)
    """Upper limit of beta."""

    def __call__(self) -> Schedule:
        """The table of T = `steps` steps."""
        u = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
        alpha_bar = torch.cos((u + self.offset) / (1 + self.offset) * math.pi / 2) ** 2
        return Schedule(_betas_between(alpha_bar).clamp(self.smallest, self.largest))


class SquareRoot(Part):
    """alpha_bar(u) = 1 - sqrt(u + s) for u = t/T (Li et al. 2022, Diffusion-LM, App. A), betas capped."""

    name: Literal["sqrt"] = "sqrt"
    steps: int = Field(1000, ge=1)
    """T, the number of steps of the forward process."""
    offset: float = Field(1e-4, gt=0, lt=1)
    """s, the noise variance (squared) that the curve starts from."""
    largest: float = Field(0.999, gt=0, le=1)
    """Upper limit of beta; the curve itself falls below zero at the end."""

    def __call__(self) -> Schedule:
        """The table of T = `steps` steps."""
        u = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
        return Schedule(_betas_between(1 - torch.sqrt(u + self.offset)).clamp(max=self.largest))


class TruncatedLinear(Part):
    """Linear betas scaled to 1000/T of their size and raised by `shift` (DiffuRec).

    With T = 32: 0.0131 to 0.635. Where the last beta would exceed 1, a twentieth of its slope is taken, as there.
    """

    name: Literal["trunc_lin"] = "trunc_lin"
    steps: int = Field(32, ge=1)
    """T, the number of steps of the forward process."""
    shift: float = Field(0.01, ge=0, lt=1)
    """Added to every beta."""

    def __call__(self) -> Schedule:
        """The table of T = `steps` steps."""
        scale = 1000 / self.steps
        end = scale * 0.02 + self.shift
        if end > 1:
            end = scale * 0.001 + self.shift
        return Schedule(torch.linspace(scale * 1e-4 + self.shift, end, self.steps, dtype=torch.float64))


class Align(Part):
    """beta_t = 0.1 + 0.8 t/T for t = 1, ..., 0.8 T, and 0.09 after it (AlignDiff, Eq. 5)."""

    name: Literal["align"] = "align"
    steps: int = Field(32, ge=1)
    """T, the number of steps of the forward process."""

    def __call__(self) -> Schedule:
        """The table of T = `steps` steps."""
        t = torch.arange(1, self.steps + 1, dtype=torch.float64)
        rising = 5 * t <= 4 * self.steps  # t <= 0.8 T without rounding
        return Schedule(torch.where(rising, 0.1 + 0.8 * t / self.steps, 0.09))


class LinearVariance(Part):
    """1 - alpha_bar_t evenly spaced from scale * low to scale * high, but for the first beta (DiffRec).

    The defaults leave nearly everything of the clean vector at every step: DiffRec restores profiles, and does not
    generate from noise. As in its public code, the first beta is replaced after the others were derived, which lowers
    all alpha_bar by one factor.
    """

    name: Literal["linear_var"] = "linear_var"
    steps: int = Field(5, ge=1)
    """T, the number of steps of the forward process."""
    scale: float = Field(1e-4, gt=0)
    """Factor of both ends."""
    low: float = Field(5e-4, gt=0)
    """Noise variance at the first step, before `scale`."""
    high: float = Field(5e-3, gt=0)
    """Noise variance at the last step, before `scale`; above `low`."""
    first: float | None = Field(1e-5, gt=0, le=1)
    """The first beta. None: scale * low, as the line says."""

    @model_validator(mode="after")
    def _rises_below_one(self) -> LinearVariance:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low} must be below high = {self.high}: the noise grows from step to step")
        if self.scale * self.high >= 1:
            raise ValueError(f"scale * high = {self.scale * self.high:g} must be below 1, the variance of pure noise")
        return self

    def __call__(self) -> Schedule:
        """The table of T = `steps` steps."""
        variance = torch.linspace(self.scale * self.low, self.scale * self.high, self.steps, dtype=torch.float64)
        # 1 - (1 - v_t) / (1 - v_{t-1}) without the cancellation: the variances are far below 1
        later = (variance[1:] - variance[:-1]) / (1 - variance[:-1])
        first = variance[:1] if self.first is None else variance.new_tensor([self.first])
        return Schedule(torch.cat([first, later]))


ScheduleConfig = Annotated[
    Linear | Exponential | Cosine | SquareRoot | TruncatedLinear | Align | LinearVariance, Field(discriminator="name")
]


def _betas_between(alpha_bar: Tensor) -> Tensor:
    """(T,) betas of a curve given at its T + 1 ends of steps."""
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


def _at(table: Tensor, t: int | Tensor) -> float | Tensor:
    """Row t + 1 of a table (T + 1,). `index_select`, since plain indexing would wrap a negative step around."""
    if isinstance(t, Tensor):
        return table.to(t.device).index_select(0, t + 1)
    if not -1 <= t < len(table) - 1:
        raise IndexError(f"Step {t} is outside of -1 (clean) to {len(table) - 2}.")
    return float(table[t + 1])


def _check(betas: Tensor) -> None:
    if betas.ndim != 1 or len(betas) == 0:
        raise ConfigError(f"A schedule needs betas of shape (T,), T >= 1, got {tuple(betas.shape)}.")
    wrong = ~((betas > 0) & (betas <= 1))  # written so that NaN is wrong
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ConfigError(
            f"Betas must be in (0, 1]; {int(wrong.sum())} of {len(betas)} are not (first: step {first}, "
            f"{float(betas[first]):.6g})."
        )

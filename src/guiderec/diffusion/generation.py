"""Generation: from conditions to x0_hat, by the cheapest exact way that the denoiser allows.

A denoiser that is not affine is stepped through, from noise. For an affine one, all that guidance does is to replace
the condition by g (`guidance.py`), and the mean over all noise is exact, in one of two ways that agree to rounding:

    few steps    walk the mean itself through the chain: x <- keep x + move (W x + W_c g + tau_t) from x = 0, with
                 W_c g and all tau_t computed once: one D x D product per row and step
    many steps   compose the chain into one affine map (`affine.py`), once for given weights, then one product per row

Shapes   x, x0_hat (B, D); conditions (B, C); key (B,).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, cast

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from guiderec.config import Part
from guiderec.diffusion.affine import AffineChain, AffineDenoiser, compose_steps
from guiderec.diffusion.guidance import Conditional, Conditions, Denoiser, GuidanceConfig
from guiderec.diffusion.samplers import Step, StepNoise, ddim_steps, ddpm_steps, walk
from guiderec.diffusion.schedule import Schedule
from guiderec.errors import ConfigError
from guiderec.rng import Noise, subkeys

_COMPOSE_ABOVE = 32
"""Steps. Composing costs 8 to 14 products of D x D matrices in float64, more than walking few rows a few steps."""


class Generation(Part):
    """How an embedding is generated at inference."""

    sampler: Literal["ddim", "ddpm"] = "ddim"
    """ddim: deterministic given x_T, any number of steps. ddpm: ancestral, all T steps."""
    steps: int | None = Field(10, ge=1)
    """S, steps of DDIM, at most T; None for DDPM, which has no choice."""
    start: Literal["mean", "noise"] = "mean"
    """mean: the exact mean over x_T and all later noise; for affine denoisers only. noise: one sample, drawn from
    N(0, I) by the seed and the key of each row."""

    @model_validator(mode="after")
    def _steps_fit_sampler(self) -> Generation:
        if (self.sampler == "ddpm") != (self.steps is None):
            raise ValueError("sampler 'ddpm' takes steps = null (it makes all T), 'ddim' takes a number")
        return self

    def chain(self, schedule: Schedule) -> list[Step]:
        """The steps on a schedule, noisiest first."""
        return ddpm_steps(schedule) if self.steps is None else ddim_steps(schedule, self.steps)


def _from_noise(generation: Generation) -> Generation:
    if generation.start != "noise":
        raise ValueError('start must be "noise": this denoiser is not affine, its mean over the noise is not known')
    return generation


SampledGeneration = Annotated[Generation, AfterValidator(_from_noise)]
"""How a denoiser that is not affine generates: from noise, since there is no closed form of the mean over it."""


def sample(denoise: Denoiser, steps: Sequence[Step], noise: Noise, key: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """x0_hat (B, D) at the end of a chain from N(0, I). All noise is named by the row keys (B,) and its step."""
    x_T = noise.normal(key, dim, "x_T", dtype)
    return walk(denoise, x_T, steps, lambda t: noise.normal(key, dim, f"step/{t}", dtype))


def step_noise(
    noise: Noise, key: Tensor, dim: int, steps: Sequence[Step], dtype: torch.dtype, *, rows_ahead: int = 8192
) -> StepNoise:
    """The noise (B, D) of a chain's steps, named by row and step, drawn for many steps at a time.

    One draw is some 25 small operations, more than a step of a small network. `rows_ahead` bounds the rows, over all
    steps, that one draw holds; the numbers do not depend on it.
    """
    asked = [step.t for step in steps if step.spread > 0]
    ahead = max(1, rows_ahead // max(1, len(key)))
    place = {t: i for i, t in enumerate(asked)}
    drawn: dict[int, Tensor] = {}

    def of(t: int) -> Tensor:
        block = place[t] // ahead
        if block not in drawn:
            drawn.clear()
            ts = torch.tensor(asked[block * ahead : (block + 1) * ahead], device=key.device)
            keys = subkeys(key, ts[:, None])  # (steps, B)
            drawn[block] = noise.normal(keys.flatten(), dim, "step", dtype).view(*keys.shape, dim)
        return drawn[block][place[t] % ahead]

    return of


class Generator:
    """Generates with one denoiser, and remembers the composed chain while the weights stay the same.

    Raises
    ------
    ConfigError
        When the mean is asked of a denoiser that is not affine.
    """

    def __init__(self, generation: Generation, schedule: Schedule, denoiser: Conditional) -> None:
        if generation.start == "mean" and not isinstance(denoiser, AffineDenoiser):
            raise ConfigError(
                f"The mean over the noise has a closed form for affine denoisers, not for {type(denoiser).__name__}.",
                hint='set generation.start to "noise"',
            )
        self.generation = generation
        self.denoiser = denoiser
        self.steps = generation.chain(schedule)
        self._composed: tuple[AffineChain, tuple[object, ...], Tensor] | None = None

    def __call__(
        self, conditions: Conditions, guidance: GuidanceConfig, noise: Noise, key: Tensor, *, scale: float | None = None
    ) -> Tensor:
        """x0_hat (B, D) under guided conditions; `scale` replaces the guidance's own strength."""
        if self.generation.start == "mean":
            return self.mean(guidance.extrapolate(conditions, scale))
        return self.sample(conditions, guidance, noise, key, scale=scale)

    def sample(
        self, conditions: Conditions, guidance: GuidanceConfig, noise: Noise, key: Tensor, *, scale: float | None = None
    ) -> Tensor:
        """One sample per row, stepped; noise is named by the row keys (B,)."""
        toward = conditions.toward
        denoise = guidance(self.denoiser, conditions, scale)
        return sample(denoise, self.steps, noise, key, toward.shape[-1], toward.dtype)

    def mean(self, g: Tensor) -> Tensor:
        """The mean of x0_hat over all noise, under the extrapolated condition g (B, C)."""
        if len(self.steps) > _COMPOSE_ABOVE or self._is_composed():
            return self.compose().mean(g)
        denoiser = self._affine()
        pull = denoiser.from_condition(g)
        tau = denoiser.time_term(torch.tensor([step.t for step in self.steps], device=g.device))
        x = self.steps[0].move * (pull + tau[0])  # from x = 0, of which W x and keep x are 0
        for step, tau_t in zip(self.steps[1:], tau[1:], strict=True):
            x = step.keep * x + step.move * (denoiser.from_state(x) + (pull + tau_t))
        return x

    def compose(self) -> AffineChain:
        """The chain as one affine map, composed anew only when the weights have changed since. For serving."""
        if self._composed is None or not self._is_composed():
            self._composed = (compose_steps(self._affine(), self.steps), self._versions(), self._weights_seen())
        return self._composed[0]

    def _is_composed(self) -> bool:
        if self._composed is None:
            return False
        _, versions, weights = self._composed
        return versions == self._versions() and torch.equal(weights, self._weights_seen())

    def _versions(self) -> tuple[object, ...]:
        """Changes with every in-place operation, move or cast of a weight, but not with what fused optimizers do."""
        return tuple(
            (p.data_ptr(), None if p.is_inference() else p._version, p.dtype, p.device) for p in self._parameters()
        )

    def _weights_seen(self) -> Tensor:
        """Some 4096 numbers of every weight. Fused kernels write without counting, but they write everywhere."""
        return torch.cat([p.detach().flatten()[:: max(1, p.numel() // 4096)] for p in self._parameters()])

    def _parameters(self) -> list[torch.nn.Parameter]:
        return list(cast(torch.nn.Module, self.denoiser).parameters())

    def _affine(self) -> AffineDenoiser:
        denoiser: object = self.denoiser
        if not isinstance(denoiser, AffineDenoiser):
            raise ConfigError(f"{type(denoiser).__name__} is not affine: its chain has no closed form.")
        return denoiser

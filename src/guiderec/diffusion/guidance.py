"""Guidance: a function from a conditional denoiser to a denoiser.

Convention   D_guided = (1 + w) D(x, t, toward) - w D(x, t, away);  w = 0 is off, whatever `away` is.

`away` = the learned null condition gives classifier-free guidance (Ho and Salimans 2022, Eq. 6, written on x_0);
`away` = what the user dislikes gives positive-negative guidance (SteerRec, Algorithm 2). Both are `repel`.

Shapes   x_t, x0_hat (B, D); t (B,) int64; conditions (B, C) or (B, K, C).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, runtime_checkable

from pydantic import Field
from torch import Tensor

from guiderec.config import Part
from guiderec.errors import ConfigError

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""x_t (B, D), t (B,) -> x0_hat (B, D)."""
Conditional = Callable[[Tensor, Tensor, Tensor], Tensor]
"""x_t (B, D), t (B,), condition (B, ...) -> x0_hat (B, D)."""


@dataclass(frozen=True)
class Conditions:
    """What to go towards and what to go away from. All that are given have the shape of `toward`."""

    toward: Tensor
    """Encoded history (B, C)."""
    null: Tensor | None = None
    """The learned condition that says nothing, one row per row of `toward`."""
    away: Tensor | None = None
    """Encoded dislikes or negatives."""

    def __post_init__(self) -> None:
        for name in ("null", "away"):
            other = getattr(self, name)
            if other is not None and other.shape != self.toward.shape:
                raise ValueError(
                    f"Conditions: '{name}' has shape {tuple(other.shape)}, but 'toward' has {tuple(self.toward.shape)}."
                )


@runtime_checkable
class UnderEach(Protocol):
    """A conditional denoiser that predicts under several conditions at once, cheaper than one after another."""

    def under_each(self, x_t: Tensor, t: Tensor, conditions: list[Tensor]) -> list[Tensor]:
        """The predictions (B, D) for the same x_t and t under each condition, in their order."""
        ...


def repel(denoise: Conditional, toward: Tensor, away: Tensor, w: float) -> Denoiser:
    """(1 + w) D(x, t, toward) - w D(x, t, away): one batch where the network can, else two calls; one when w = 0."""
    if w == 0:
        return attract(denoise, toward)

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        liked, disliked = predict_under_each(denoise, x_t, t, [toward, away])
        return (1 + w) * liked - w * disliked

    return guided


def predict_under_each(denoise: Conditional, x_t: Tensor, t: Tensor, conditions: list[Tensor]) -> list[Tensor]:
    """The predictions of any conditional denoiser for the same x_t and t under each condition."""
    batched: object = denoise
    if isinstance(batched, UnderEach):
        return batched.under_each(x_t, t, conditions)
    return [denoise(x_t, t, condition) for condition in conditions]


def attract(denoise: Conditional, toward: Tensor) -> Denoiser:
    """D(x, t, toward): the condition bound, nothing else."""

    def conditioned(x_t: Tensor, t: Tensor) -> Tensor:
        return denoise(x_t, t, toward)

    return conditioned


class Unguided(Part):
    """The conditional denoiser as it is."""

    name: Literal["none"] = "none"

    def __call__(self, denoise: Conditional, conditions: Conditions, scale: float | None = None) -> Denoiser:
        """x0_hat under `conditions.toward`. ConfigError for a scale other than 0: nothing is there to be scaled."""
        self._check(scale)
        return attract(denoise, conditions.toward)

    def extrapolate(self, conditions: Conditions, scale: float | None = None) -> Tensor:
        """The one condition that stands for the guidance: `conditions.toward`."""
        self._check(scale)
        return conditions.toward

    def _check(self, scale: float | None) -> None:
        if scale:
            raise ConfigError(
                f"Guidance 'none' cannot be given the scale {scale}.", hint="choose guidance 'cfg' or 'png', or scale 0"
            )


class ClassifierFree(Part):
    """Away from the null condition: sharper, and less varied, for larger scales."""

    name: Literal["cfg"] = "cfg"
    scale: float = Field(2.0, ge=0)
    """w; 0 is off."""

    def __call__(self, denoise: Conditional, conditions: Conditions, scale: float | None = None) -> Denoiser:
        """The guided denoiser; `scale` replaces the part's own."""
        return repel(denoise, conditions.toward, _null(conditions), self.scale if scale is None else scale)

    def extrapolate(self, conditions: Conditions, scale: float | None = None) -> Tensor:
        """The condition g = (1 + w) toward - w null, shaped like `toward`; see `PositiveNegative.extrapolate`."""
        return _extrapolate(conditions.toward, _null(conditions), self.scale if scale is None else scale)


class PositiveNegative(Part):
    """Away from what the user dislikes."""

    name: Literal["png"] = "png"
    scale: float = Field(2.0, ge=0)
    """w; 0 is off."""

    def __call__(self, denoise: Conditional, conditions: Conditions, scale: float | None = None) -> Denoiser:
        """The guided denoiser; `scale` replaces the part's own."""
        return repel(denoise, conditions.toward, _away(conditions), self.scale if scale is None else scale)

    def extrapolate(self, conditions: Conditions, scale: float | None = None) -> Tensor:
        """The condition g = (1 + w) toward - w away, shaped like `toward`.

        For a denoiser that is affine in its condition, one pass under g equals the guided denoiser, because the
        two factors sum to 1. For any other denoiser g is only a condition among others.
        """
        return _extrapolate(conditions.toward, _away(conditions), self.scale if scale is None else scale)


GuidanceConfig = Annotated[Unguided | ClassifierFree | PositiveNegative, Field(discriminator="name")]


def _extrapolate(toward: Tensor, away: Tensor, w: float) -> Tensor:
    return toward if w == 0 else (1 + w) * toward - w * away


def _null(conditions: Conditions) -> Tensor:
    if conditions.null is None:
        raise ConfigError(
            "Classifier-free guidance needs a null condition, and this model gives none.",
            hint="train with the condition dropped now and then, or choose guidance 'none'",
        )
    return conditions.null


def _away(conditions: Conditions) -> Tensor:
    if conditions.away is None:
        raise ConfigError(
            "Positive-negative guidance needs a condition to go away from, and none was given.",
            hint="give dislikes or negatives, or choose guidance 'cfg' or 'none'",
        )
    return conditions.away

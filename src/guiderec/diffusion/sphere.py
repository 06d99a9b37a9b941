"""What of a diffusion over embeddings lies on the unit sphere (DimeRec's geodesic walk, as ADIGRec reads it).

A chain on the sphere is a chain in space whose state is brought back to length 1 before every step, and before the
network sees it. Nothing of this is affine: means over the noise have no closed form.

Shapes   x (..., D).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from guiderec.config import Part


class Flat(Part):
    """No sphere: ordinary diffusion."""

    name: Literal["off"] = "off"

    temperature: ClassVar[float] = 1.0

    def state(self, x: Tensor) -> Tensor:
        """Noisy states as they are."""
        return x

    def vector(self, x: Tensor) -> Tensor:
        """Item vectors and predictions as they are."""
        return x


class StatesOnSphere(Part):
    """As printed in ADIGRec's algorithms: x_t has length 1 before the network and the step, and nothing else has."""

    name: Literal["paper"] = "paper"

    temperature: ClassVar[float] = 1.0

    def state(self, x: Tensor) -> Tensor:
        """Noisy states, of length 1."""
        return F.normalize(x, dim=-1)

    def vector(self, x: Tensor) -> Tensor:
        """Item vectors and predictions as they are."""
        return x


class AllOnSphere(Part):
    """Item vectors and predictions have length 1 too, wherever they occur, so that items are ranked by cosine."""

    name: Literal["full"] = "full"
    temperature: float = Field(0.1, gt=0)
    """tau, by which the logits of both softmax losses are divided: cosines alone cannot tell a target from 10
    negatives with more than exp(2) to 1."""

    def state(self, x: Tensor) -> Tensor:
        """Noisy states, of length 1."""
        return F.normalize(x, dim=-1)

    def vector(self, x: Tensor) -> Tensor:
        """Item vectors and predictions, of length 1."""
        return F.normalize(x, dim=-1)


SphereConfig = Annotated[Flat | StatesOnSphere | AllOnSphere, Field(discriminator="name")]

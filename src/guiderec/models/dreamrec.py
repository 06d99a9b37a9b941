"""DreamRec: Generate What You Prefer: Reshaping Sequential Recommendation via Guided Diffusion (Yang et al.,
NeurIPS 2023, arXiv:2310.20453).

Idea       Generate the embedding of the next item from noise under the encoded history; rank by inner product.
Notation   paper -> code:  e_n^0 -> x0 (B, D);  c_{1:n-1} -> condition (B, D);  w -> guidance.scale
Order      encode() Sec. 3.1 -> loss() Alg. 1 -> user_vectors() Alg. 2
Facts      authors' public code, read for what the paper leaves open: residual layout, null token, time network.
Departs    1. eval() at evaluation: the authors' code keeps dropout on.
           2. Padding is never ranked; every row is evaluated; an epoch is a permutation, not draws with replacement.
           3. Histories are padded on the left in memory; positions still count from the oldest item.
           4. By default x_T and the steps' noise are replaced by their mean, exact for the linear denoiser.
              `generation.start = "noise"` samples as the authors do.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from guiderec.data.batch import Batch, Query
from guiderec.diffusion.denoisers import DenoiserName
from guiderec.diffusion.generation import Generation
from guiderec.diffusion.guidance import ClassifierFree, Conditions, GuidanceConfig
from guiderec.diffusion.objectives import Distance, draw, drop_condition
from guiderec.diffusion.schedule import Linear, ScheduleConfig
from guiderec.models.base import HistoryConditioned, ModelConfig
from guiderec.rng import Noise


class DreamRecConfig(ModelConfig):
    """Options of DreamRec. Defaults are those of the authors' code for Zhihu where it names them."""

    name: Literal["dreamrec"] = "dreamrec"
    dim: int = Field(64, ge=2, multiple_of=2)
    """D, width of item embeddings and of everything else."""
    max_length: int = Field(10, ge=1)
    """L, the longest history."""
    heads: int = Field(1, ge=1)
    """Attention heads; must divide dim."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of embeddings, attention weights and feed-forward layer."""
    residual: Literal["inner", "double"] = "inner"
    """Residual layout of the encoder block, see `nn/history.py`. SteerRec's comparison uses "double"."""
    schedule: ScheduleConfig = Linear(steps=500)
    """Noise schedule and number of diffusion steps T."""
    denoiser: DenoiserName = "linear"
    """Network F([x_t ; c ; t]): one linear layer, or two with a GELU between."""
    distance: Distance = "l2"
    """Reconstruction error; the paper's is the squared error."""
    detach_target: bool = False
    """True: no gradient through the target's embedding x0."""
    p_uncond: float = Field(0.1, ge=0, lt=1)
    """Probability of the null condition in training."""
    guidance: GuidanceConfig = ClassifierFree(scale=4.0)
    """Guidance at inference; (1 + w) F(c) - w F(null)."""
    generation: Generation = Generation(sampler="ddpm", steps=None)
    """Sampler, its steps, and whether it starts from noise or from the mean over the noise."""


class DreamRec(HistoryConditioned):
    """Reconstructs the target's embedding under the history; samples it with classifier-free guidance."""

    Config = DreamRecConfig

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Mean reconstruction error of the target's embedding (Alg. 1, eq. 9)."""
        history, target = self.embed(batch)
        x0 = target.detach() if self.config.detach_target else target
        drawn = draw(x0, self.schedule, noise, batch.key)
        encoded = self.encoder(history, batch.mask[:, -history.shape[1] :])
        condition, _ = drop_condition(encoded, self.null, self.config.p_uncond, noise, batch.key)
        x0_hat = self.denoiser(drawn.x_t, drawn.t, condition)
        return {"loss": self.distance(x0_hat, x0).mean()}

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, 1, D): x0_hat under guidance (Alg. 2)."""
        conditions = Conditions(toward=self.encode(query), null=self.null.expand(len(query), -1))
        x0_hat = self.generator(conditions, self.config.guidance, noise, query.key, scale=query.guidance_scale)
        return x0_hat[:, None]

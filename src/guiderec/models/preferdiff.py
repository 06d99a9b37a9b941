"""PreferDiff: Preference Diffusion for Recommendation (Liu et al., ICLR 2025, arXiv:2410.13117).

Idea       DreamRec with a cosine error, plus a preference term: the denoising error of the target must be smaller than
           that of a negative, the centroid of the other targets in the batch.
Notation   paper -> code:  e_0^+ -> x0 (B, D);  e_0^- -> negative (B, D);  c -> condition (B, D);  lambda -> balance
Order      encode() -> loss() eq. 12 to 14 -> user_vectors() Sec. 3.3
Facts      authors' public code, read for what the paper leaves open: error (cos - 1)^2, BPR on batch means, gamma = 5.
Departs    1. The sampler's grid is ours (MODELS: the public grid feeds the network a step that was never trained).
           2. `preference_over = "rows"` compares each row with its own negative; the default "batch" is the code's.
           3. eval() and padding as in `dreamrec.py`; by default x_T is replaced by its mean.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from guiderec.data.batch import Batch, Query
from guiderec.diffusion.denoisers import DenoiserName
from guiderec.diffusion.generation import Generation
from guiderec.diffusion.guidance import ClassifierFree, Conditions, GuidanceConfig
from guiderec.diffusion.objectives import (
    Distance,
    centroid_of_others,
    draw,
    drop_condition,
    masked_mean,
    preference,
)
from guiderec.diffusion.process import q_sample
from guiderec.diffusion.schedule import Linear, ScheduleConfig
from guiderec.models.base import HistoryConditioned, ModelConfig
from guiderec.rng import Noise


class PreferDiffConfig(ModelConfig):
    """Options of PreferDiff. Defaults are the authors' settings for Beauty."""

    name: Literal["preferdiff"] = "preferdiff"
    dim: int = Field(3072, ge=2, multiple_of=2)
    """D, width of item embeddings and of everything else."""
    max_length: int = Field(10, ge=1)
    """L, the longest history."""
    heads: int = Field(2, ge=1)
    """Attention heads; must divide dim."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of embeddings, attention weights and feed-forward layer."""
    residual: Literal["inner", "double"] = "double"
    """Residual layout of the encoder block, see `nn/history.py`."""
    schedule: ScheduleConfig = Linear(steps=2000)
    """Noise schedule and number of diffusion steps T."""
    denoiser: DenoiserName = "linear"
    """Network F([x_t ; c ; t])."""
    distance: Distance = "cos_sq"
    """Denoising error e; the authors' best runs use (1 - cos)^2."""
    balance: float = Field(0.4, ge=0, le=1)
    """lambda: balance * e_pos + (1 - balance) * preference."""
    gamma: float = Field(5.0, gt=0)
    """Sharpness of the preference term."""
    preference_over: Literal["batch", "rows"] = "batch"
    """Compare the batch means of the errors (authors' code) or each row's errors (the paper's formula)."""
    exclude_same_id: bool = False
    """True: other rows with the same target are left out of a row's centroid. The authors keep them."""
    p_uncond: float = Field(0.1, ge=0, lt=1)
    """Probability of the null condition in training."""
    guidance: GuidanceConfig = ClassifierFree(scale=8.0)
    """Guidance at inference."""
    generation: Generation = Generation(sampler="ddim", steps=20)
    """Sampler, its steps, and whether it starts from noise or from the mean over the noise."""


class PreferDiff(HistoryConditioned):
    """Denoises the target better than the centroid of other targets, under the same history."""

    Config = PreferDiffConfig

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Lambda e_pos - (1 - lambda) log sigmoid(-gamma (e_pos - e_neg)), eq. 14 with the errors of eq. 12.

        The negative is noised to the same step with its own noise and denoised under the same condition. A batch
        without any other target has no preference term.
        """
        history, x0 = self.embed(batch)
        negative, has_negative = centroid_of_others(x0, batch.target, exclude_same_id=self.config.exclude_same_id)
        drawn = draw(x0, self.schedule, noise, batch.key)
        eps = noise.normal(batch.key, x0.shape[1], "negative/eps", x0.dtype)
        negative_t = q_sample(negative, drawn.t, eps, self.schedule)

        encoded = self.encoder(history, batch.mask[:, -history.shape[1] :])
        condition, _ = drop_condition(encoded, self.null, self.config.p_uncond, noise, batch.key)
        positive_error = self.distance(self.denoiser(drawn.x_t, drawn.t, condition), x0)
        negative_error = self.distance(self.denoiser(negative_t, drawn.t, condition), negative)
        if self.config.preference_over == "batch":
            preferred = preference(positive_error.mean(), masked_mean(negative_error, has_negative), self.config.gamma)
            preferred = preferred * has_negative.any()
        else:
            preferred = masked_mean(preference(positive_error, negative_error, self.config.gamma), has_negative)
        reconstruction = positive_error.mean()
        balance = self.config.balance
        return {
            "loss": balance * reconstruction + (1 - balance) * preferred,
            "reconstruction": reconstruction,
            "preference": preferred,
        }

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, 1, D): x0_hat under guidance."""
        conditions = Conditions(toward=self.encode(query), null=self.null.expand(len(query), -1))
        x0_hat = self.generator(conditions, self.config.guidance, noise, query.key, scale=query.guidance_scale)
        return x0_hat[:, None]

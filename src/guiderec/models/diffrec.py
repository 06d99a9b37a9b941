"""DiffRec: Diffusion Recommender Model (Wang et al., SIGIR 2023, arXiv:2304.04971), with T-DiffRec's time weights.

Idea       A user is the multi-hot vector of all items of the history. A little noise is added to it; a wide autoencoder
           restores the clean vector; items are ranked by what it restores beyond the history.
Notation   paper -> code:  x_0 -> wanted (B, I);  x_t (B, I);  x_theta -> denoiser;  T' -> sampling_steps;
           s, alpha_min, alpha_max -> schedule.scale, low, high;  w_t of T-DiffRec -> profile
Order      loss() Alg. 1, eq. 7-9 -> restore() Alg. 2
Facts      authors' public code (YiyanXu/DiffRec) for sizes, initialisation, the first beta and importance sampling.
Departs    1. As a next-item model: a row of training is a profile, and a request is the profile of its history. What is
              shown and wanted in training is an option, `answer`; the paper's is "profile".
           2. The protocol (`seen`) and not the model masks items of the history. The paper masks them: with "profile"
              and "next_item" they come first under seen = "keep", so compare with the numbers under "mask".
           3. T-DiffRec: a single item, and the last of repeated ones, counts as the newest. The public code gives a
              single item the weight of the oldest.
           4. The frequencies of the step's embedding span the whole range (`nn/time.py`).
           5. Noise and steps are named by the row; the memory of importance sampling travels with the weights.
           6. Columns are items without padding. An empty history is the zero vector: the answer to it is a constant.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from guiderec.data.batch import Batch, Query
from guiderec.diffusion.denoisers import AutoencoderDenoiser
from guiderec.diffusion.process import q_sample
from guiderec.diffusion.samplers import ddpm_steps, walk
from guiderec.diffusion.schedule import LinearVariance, ScheduleConfig
from guiderec.diffusion.timesteps import TIMESTEPS, TimestepsName, snr_drop
from guiderec.models.base import ModelConfig, Recommender
from guiderec.nn.profile import Answer, MultiHot, ProfileConfig, shown_and_wanted
from guiderec.rng import Noise


class DiffRecConfig(ModelConfig):
    """Options of DiffRec. Defaults are those of the authors' code for Amazon-book."""

    name: Literal["diffrec"] = "diffrec"
    profile: ProfileConfig = MultiHot()
    """How a history becomes a vector; "time_weighted" is T-DiffRec."""
    answer: Answer = "profile"
    """What training shows and wants: see `nn/profile.py`. "profile" is the paper's; "target" is the next-item task."""
    hidden: tuple[int, ...] = Field((1000,), min_length=1)
    """Widths of the hidden layers. The weights are 2 I times the first, 20 million for I = 10,000."""
    time_dim: int = Field(10, ge=2, multiple_of=2)
    """Width of the step's embedding."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout of the noised profile."""
    schedule: ScheduleConfig = LinearVariance(steps=5)
    """Noise schedule and number of diffusion steps T."""
    reweight: bool = True
    """True: errors count by the drop of the signal-to-noise ratio at their step. False: all alike."""
    timesteps: TimestepsName = "importance"
    """How the steps of a batch are drawn."""
    sampling_steps: int = Field(0, ge=0)
    """T': the profile of a request is noised as at step T' before it is restored; 0 leaves it as it is, so that the
    answer has no noise in it."""

    @model_validator(mode="after")
    def _fits(self) -> DiffRecConfig:
        if self.sampling_steps > self.schedule.steps:
            raise ValueError(f"sampling_steps = {self.sampling_steps} is more than T = {self.schedule.steps}")
        if min(self.hidden) < 1:
            raise ValueError(f"hidden = {self.hidden}: widths must be at least 1")
        return self


class DiffRec(Recommender):
    """Restores noised profiles; ranks by the restored profile.

    Initialisation: as in `AutoencoderDenoiser`.
    """

    Config = DiffRecConfig

    def __init__(self, config: DiffRecConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.schedule = config.schedule()
        self.denoiser = AutoencoderDenoiser(n_items, config.hidden, time_dim=config.time_dim, dropout=config.dropout)
        self.timesteps = TIMESTEPS[config.timesteps](self.schedule.T)
        self.steps = [step._replace(spread=0.0) for step in ddpm_steps(self.schedule)]

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Squared error of the restored profile, averaged over items and rows (Alg. 1); `squared_error` unweighted."""
        config, dtype = self.config, self.dtype
        shown, wanted = shown_and_wanted(
            config.answer, config.profile, batch.history, batch.target, self.n_items, dtype
        )
        t, share = self.timesteps.draw(noise, batch.key)
        eps = noise.normal(batch.key, self.n_items, "draw/eps", dtype)
        restored = self.denoiser(q_sample(shown, t, eps, self.schedule), t)
        error = (restored - wanted).square().mean(dim=1)
        weighted = error * snr_drop(t, self.schedule).to(dtype) if config.reweight else error
        self.timesteps.record(t, weighted)
        return {"loss": (weighted / share.to(dtype)).mean(), "squared_error": error.mean()}

    def scores(self, query: Query, noise: Noise) -> Tensor:
        """(B, I + 1): the restored profile."""
        profile = self.config.profile(query.history, self.n_items, self.dtype)
        return F.pad(self.restore(profile, query.key, noise), (1, 0))

    def restore(self, profile: Tensor, key: Tensor, noise: Noise) -> Tensor:
        """(B, I) -> (B, I) along all T steps, each to the mean of its posterior (Alg. 2)."""
        if self.config.sampling_steps > 0:
            t = torch.full_like(key, self.config.sampling_steps - 1)
            eps = noise.normal(key, self.n_items, "x_T", self.dtype)
            profile = q_sample(profile, t, eps, self.schedule)
        return walk(self.denoiser, profile, self.steps)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of profiles."""
        return self.denoiser.from_state.weight.dtype

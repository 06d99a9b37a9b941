"""AlignDiff: Gradient-Semantic Aligned Diffusion Model for Sequential Recommendation (anonymous ACL submission, 2025).

Idea       DiffuRec's approximator, with (1) a guidance vector h of the history from attention at orthogonal levels,
           multiplied into every item and strengthened by classifier-free guidance, and (2) an energy whose gradient S
           corrects what is predicted, learnt by score matching beside the cross-entropy.
Notation   paper -> code:  e_n -> drawn.x0 (B, D);  h -> levels(...) (B, D);  lambda_i, delta -> mixing;
           xtilde_0 -> x0_hat;  S -> energy.score;  y_s -> energy.noised;  eta -> energy.weight;
           gamma, nu -> energy.gamma;  Omega -> energy.correction.step_size;  w -> guidance.scale
Order      nn/orthogonal.py Eq. 3, 4 -> bind() Eq. 7 -> loss() Eq. 13 and cross-entropy -> user_vectors() Eq. 11, 12
Facts      authors' public code (ZhuYiZ-1205/AlignDiff), which does not run as published, for what the paper leaves
           open: T, delta, schedule, width of the energy, item vectors without positions in the denoiser.
Departs    1. U and V are orthogonal by construction; the public code has one ordinary head and no such matrix.
           2. h is the state of the newest item. The public code reads it at position `length` - 1 of a history that is
              padded on the left: padding, and so the same vector, for whoever has up to half of the longest history.
           3. Padding is masked as a key everywhere, and is never ranked nor a class of the cross-entropy.
           4. The unguided condition is h = 0 in training as at inference. The public code trains a learned null vector
              that its inference never uses.
           5. The sign of score matching: `energy.target`, see `diffusion/energy.py`. In the public code a correction
              moves away from the target.
           6. The residual of the attention is x_newest + out: the text has one, Eq. 4 shows none.
           7. Schedule and T are those of the public code (truncated linear, 32); Eq. 5 is `schedule.name = "align"`,
              which does not reach the 0.9 that the text names. No extra step from e_n to x_0: its alpha_0 is undefined.
           8. eta is constant; the public code moves it after every evaluation.
           9. Corrections act at every step, as in Eq. 11 and the code; the text has one at the end of the chain, that
              is `energy.correction.where = "end"`.
          10. The positions of the levels begin as short as the items (`init_std`), so that h is about the items.
          11. All noise is named by the row and the position, so that a request always has the same answer.
          12. Posterior variance in sampling; the public code takes beta at all steps but one. For the blocks of the
              denoiser see `diffusion/sequence.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from guiderec.config import Part
from guiderec.data.batch import PADDING, Batch, Query
from guiderec.diffusion.energy import EnergyConfig, ScoreMatching
from guiderec.diffusion.generation import Generation, SampledGeneration, sample
from guiderec.diffusion.guidance import ClassifierFree, Conditional, Conditions, Denoiser, Unguided, predict_under_each
from guiderec.diffusion.objectives import draw, drop_condition
from guiderec.diffusion.schedule import ScheduleConfig, TruncatedLinear
from guiderec.diffusion.sequence import BoundSequenceDenoiser, SequenceDenoiser
from guiderec.models.base import EmbeddingRecommender, ModelConfig, require_divisors
from guiderec.nn.attention import two_sided_mask
from guiderec.nn.buckets import by_history
from guiderec.nn.dropout import Dropout
from guiderec.nn.embedding import PositionEmbedding, item_embedding
from guiderec.nn.next_item import softmax_loss
from guiderec.nn.orthogonal import LevelAttention
from guiderec.rng import Noise


class MultiLevel(Part):
    """h from attention at orthogonal levels, see `nn/orthogonal.py`."""

    name: Literal["orthogonal"] = "orthogonal"
    heads: int = Field(4, ge=1)
    """Levels; divides dim. The paper does not say how many."""
    average_heads: bool = False
    """True: the mean over the levels. False: their sum, as printed; a layer norm follows."""


class NoLevels(Part):
    """h = 0: the ablation "w/o ML". Both passes of the guidance are then the same, and only one is made."""

    name: Literal["none"] = "none"


class AlignDiffConfig(ModelConfig):
    """Options of AlignDiff. Defaults are the paper's settings for Beauty, and its public code's where it is silent."""

    name: Literal["aligndiff"] = "aligndiff"
    dim: int = Field(128, ge=2, multiple_of=2)
    """D, width of items and states."""
    max_length: int = Field(50, ge=1)
    """L, the longest history. Of a longer one the newest items count."""
    init_std: float = Field(1.0, gt=0)
    """Deviation of the initial items and positions. At 1, as published, the logits begin so large that it takes many
    epochs to forget them."""
    layers: int = Field(4, ge=1)
    """Transformer blocks of the denoiser."""
    heads: int = Field(4, ge=1)
    """Attention heads of the denoiser; divides dim."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of attention weights, feed-forward layers and residual branches."""
    embedding_dropout: float = Field(0.3, ge=0, lt=1)
    """Dropout of the item vectors of the history."""
    levels: Annotated[MultiLevel | NoLevels, Field(discriminator="name")] = MultiLevel()
    """Where the guidance vector h comes from. "none" is the ablation "w/o ML"."""
    schedule: ScheduleConfig = TruncatedLinear(steps=32)
    """Noise schedule and number of diffusion steps T. "align" is the paper's Eq. 5."""
    mixing: float = Field(0.001, ge=0)
    """delta: mean and deviation of lambda, with which the noised target is mixed into the history."""
    positions: bool = False
    """True: learned positions, counted from the newest item, also in the denoiser."""
    p_uncond: float = Field(0.1, ge=0, lt=1)
    """Probability of h = 0 in training."""
    guidance: Annotated[ClassifierFree | Unguided, Field(discriminator="name")] = ClassifierFree(scale=0.3)
    """Guidance at inference, away from h = 0. The paper finds w = 0.3 best, 0.1 on MovieLens-1M."""
    final_norm: Literal["after_guidance", "before_guidance"] = "after_guidance"
    """Where the last layer norm stands: after the two predictions are combined, as in the public code, or in both."""
    energy: EnergyConfig = ScoreMatching()
    """The energy: its network, how it is trained, and how it corrects. "none" is the ablation "w/o EN"."""
    generation: SampledGeneration = Generation(sampler="ddpm", steps=None, start="noise")
    """Sampler and its steps. The mean over the noise has no closed form here, so start must be "noise"."""

    @model_validator(mode="after")
    def _widths_divide_dim(self) -> AlignDiffConfig:
        widths = {"heads": self.heads}
        if isinstance(self.levels, MultiLevel):
            widths["levels.heads"] = self.levels.heads
        for name in ("heads", "tokens"):
            if (width := getattr(getattr(self.energy, "network", None), name, None)) is not None:
                widths[f"energy.network.{name}"] = width
        require_divisors(self.dim, widths)
        return self


class AlignDiff(EmbeddingRecommender):
    """Reconstructs the target from a gated history; samples it with guidance and corrections.

    Initialisation: items and positions N(0, init_std^2); the parts as in `nn/orthogonal.py`, `diffusion/sequence.py`
    and `diffusion/energy.py`.
    """

    Config: ClassVar[type[ModelConfig]] = AlignDiffConfig

    def __init__(self, config: AlignDiffConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.items = item_embedding(n_items, config.dim, config.init_std)
        self.positions = (
            PositionEmbedding(config.max_length, config.dim, "from_end", std=config.init_std)
            if config.positions
            else None
        )
        self.item_dropout = Dropout(config.embedding_dropout)
        self.item_norm = nn.LayerNorm(config.dim)
        self.levels = (
            LevelAttention(
                config.dim,
                config.max_length,
                heads=config.levels.heads,
                dropout=config.dropout,
                average_heads=config.levels.average_heads,
                std=config.init_std,
            )
            if isinstance(config.levels, MultiLevel)
            else None
        )
        self.schedule = config.schedule()
        self.denoiser = SequenceDenoiser(
            config.dim,
            layers=config.layers,
            heads=config.heads,
            dropout=config.dropout,
            total_steps=self.schedule.T,
            mixing=config.mixing,
        )
        self.energy = config.energy.build(config.dim)
        self.steps = config.generation.chain(self.schedule)

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Cross-entropy of x0_hat against all items, at a step drawn for each row, and what trains the energy."""
        drawn = draw(self.items(batch.target), self.schedule, noise, batch.key)
        bind = self.binder(noise)

        def predict(history: Tensor, rows: Tensor) -> Tensor:
            denoise, h = bind(history, batch.key[rows])
            condition, _ = drop_condition(h, h.new_zeros(()), self.config.p_uncond, noise, batch.key[rows])
            return denoise(drawn.x_t[rows], drawn.t[rows], condition)

        x0_hat = self.denoiser.norm(self._by_history(batch, predict))
        cross_entropy = softmax_loss(x0_hat, self.items.weight[1:], batch.target - 1)
        energy, terms = self.config.energy(self.energy, x0_hat, drawn, self.schedule, noise, batch.key)
        return {"loss": cross_entropy + energy, "cross_entropy": cross_entropy, **terms}

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, 1, D): the guided and corrected x0_hat at the end of the chain (Eq. 11 and 12)."""
        bind, energy = self.binder(noise), self.config.energy

        def generate(history: Tensor, rows: Tensor) -> Tensor:
            key = query.key[rows]
            network, h = bind(history, key)
            denoise = energy.every_step(self.guided(network, h, query.guidance_scale), self.energy)
            x0_hat = sample(denoise, self.steps, noise, key, self.config.dim, self.items.weight.dtype)
            return energy.at_end(x0_hat, self.energy)

        return self._by_history(query, generate)[:, None]

    def binder(self, noise: Noise) -> Callable[[Tensor, Tensor], tuple[BoundSequenceDenoiser, Tensor]]:
        """Histories (B, L) and keys (B,) -> their denoiser, without the final norm, and their h (B, D).

        What all rows share is computed here, once; what does not change along a chain in the call, once per chain.
        """
        folded = None if self.levels is None else self.levels.folded()

        def bind(history: Tensor, key: Tensor) -> tuple[BoundSequenceDenoiser, Tensor]:
            mask = history != PADDING
            items = self.item_dropout(self.items(history))
            h = torch.zeros_like(items[:, -1]) if self.levels is None else self.levels(items, mask, folded)
            if self.positions is not None:
                items = items + self.positions(mask)
            return self.denoiser.on(self.item_norm(items), two_sided_mask(mask), key, noise), h

        return bind

    def guided(self, network: BoundSequenceDenoiser, h: Tensor, scale: float | None) -> Denoiser:
        """(1 + w) D(x, t, h) - w D(x, t, 0) with the final norm, where it is to be; `scale` replaces the model's w."""
        norm = self.denoiser.norm
        conditions = Conditions(toward=h, null=torch.zeros_like(h))
        scale = 0.0 if self.levels is None else scale
        if self.config.final_norm == "before_guidance":
            return self.config.guidance(_Normed(network, norm), conditions, scale)
        combined = self.config.guidance(network, conditions, scale)
        return lambda x_t, t: norm(combined(x_t, t))

    def _by_history(self, query: Query, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """`function` of histories (n, L') and their rows (n,), for rows of like length at a time: (B, D)."""
        history = query.history[:, -self.config.max_length :]
        return by_history(history, history != PADDING, function)

    def item_vectors(self) -> Tensor:
        """(I + 1, D)."""
        return self.items.weight


class _Normed:
    """A conditional denoiser with every prediction normalised."""

    def __init__(self, denoise: Conditional, norm: nn.Module) -> None:
        self.denoise = denoise
        self.norm = norm

    def __call__(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self.norm(self.denoise(x_t, t, condition))

    def under_each(self, x_t: Tensor, t: Tensor, conditions: list[Tensor]) -> list[Tensor]:
        return [self.norm(predicted) for predicted in predict_under_each(self.denoise, x_t, t, conditions)]

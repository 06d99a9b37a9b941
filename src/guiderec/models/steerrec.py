"""SteerRec: Sculpting user preferences for recommendation with positive-negative diffusion guidance
(anonymous submission to ICLR 2026, OpenReview nT7UlrSJzF).

Idea       Replace the null condition of classifier-free guidance by a negative condition, the centroid of negatives
           (PNG), and train the denoiser with a triplet loss so that it understands it as "avoid" (GAL).
Notation   paper -> code:  x_0^+ -> x0 (B, D);  c^+ -> condition (B, D);  c^- -> negative (B, D);  F -> denoiser;
           mu -> balance;  m -> margin;  w -> guidance.scale;  N_neg -> negatives.count;  S -> generation.steps
Order      encode() Sec. 3.1 -> loss() Alg. 1, eq. 12, 13 -> negative_condition() eq. 14 -> user_vectors() Alg. 2
Facts      The paper's code is not public. What it leaves open follows its closest relative, PreferDiff.
Departs    1. Null-condition dropout (p_uncond) is kept in training, on the positive branch, so that the ablation
              "w/o PNG" can be sampled; dropped rows take no part in GAL. p_uncond = 0 is Algorithm 1 to the letter.
           2. The centroid leaves out rows with the row's own target (exclude_same_id).
           3. d = 1 - cos, per row, hinge per row. Eq. 3's squared error is distance = "l2".
           4. Items, positions and null token start from N(0, 1), the linear layers as in PreferDiff's code: N(0, 1)
              everywhere, as the paper says, would give outputs of standard deviation 96 at D = 3072.
           5. The grid has S steps, tau_j = round(j T / S) - 1, and ends in the clean state.
           6. By default x_T is replaced by its mean: exact, since F is linear. `generation.start = "noise"` samples.
           7. `training_negatives = OwnNegatives()` is not in the paper: two-sided alignment, so that dislikes act.
           8. `training_negatives = ShownNegatives()` is the paper's setting on MIND: plain mean, as many as there are.
           9. Padding as in `dreamrec.py`. A user's own dislikes, when given, are the negatives, or a share of them
              (`dislike_share`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from guiderec.config import Part
from guiderec.data.batch import PADDING, Batch, Query
from guiderec.diffusion.affine import AffineDenoiser
from guiderec.diffusion.denoisers import DenoiserName
from guiderec.diffusion.generation import Generation
from guiderec.diffusion.guidance import Conditions, GuidanceConfig, PositiveNegative
from guiderec.diffusion.objectives import (
    Distance,
    centroid_of_others,
    draw,
    drop_condition,
    guidance_alignment,
    masked_mean,
)
from guiderec.diffusion.schedule import Linear, ScheduleConfig
from guiderec.errors import ConfigError
from guiderec.models.base import HistoryConditioned, ModelConfig, Parts
from guiderec.nn.sampling import items_outside
from guiderec.rng import Noise


class RandomNegatives(Part):
    """Items drawn uniformly from those not in the history, with replacement, once per request."""

    name: Literal["random"] = "random"
    count: int = Field(64, ge=1)
    """N_neg, negatives per row; the paper finds 32 or 64 best."""

    def __call__(self, query: Query, condition: Tensor, items: Tensor, noise: Noise) -> Tensor:
        """(B, N) item ids, for conditions (B, D) and the item table (I + 1, D)."""
        return items_outside(
            query.history, len(items) - 1, self.count, keys=query.key, noise=noise, purpose="negatives/random"
        )


class HardNegatives(Part):
    """Items drawn uniformly from a band of the ranking by similarity to the user's condition (Table 11, "HNM").

    The ranking is by inner product with c^+ over all items; history and target are not left out, as in the paper.
    """

    name: Literal["hard"] = "hard"
    count: int = Field(20, ge=1)
    """N_neg, negatives per row."""
    band: tuple[float, float] = (0.01, 0.03)
    """Shares of the catalogue between which the ranks lie: 0 <= first <= last <= 1, first < 1. A band of no more than
    `count` items becomes the `count` items from its first on, each taken once: (0, 0) is the most similar ones."""

    @field_validator("band")
    @classmethod
    def _shares_of_one(cls, band: tuple[float, float]) -> tuple[float, float]:
        first, last = band
        if not (0 <= first <= last <= 1 and first < 1):
            raise ValueError("needs 0 <= first <= last <= 1 and first < 1")
        return band

    def __call__(self, query: Query, condition: Tensor, items: Tensor, noise: Noise) -> Tensor:
        """(B, N) item ids, for conditions (B, D) and the item table (I + 1, D)."""
        n_items = len(items) - 1
        first, last = (int(share * n_items) for share in self.band)
        last = min(max(last, first + self.count), n_items)
        ranking = (condition @ items[1:].T).topk(last, dim=1).indices + 1
        if last - first <= self.count:
            return ranking[:, first:last]
        place = first + noise.integers(query.key, self.count, last - first, "negatives/hard")
        return ranking.gather(1, place)


NegativeSource = Annotated[RandomNegatives | HardNegatives, Field(discriminator="name")]


class BatchNegatives(Part):
    """One negative condition per row in training, as published: the centroid of the other rows' targets."""

    name: Literal["batch"] = "batch"


class OwnNegatives(Part):
    """Two-sided alignment, ours: each row has 1 to `most` random items, and the negative prediction is tied to them.

    Without the tie the negative prediction is pushed off the target and nowhere else, so that it says nothing of the
    items that it was given.
    """

    name: Literal["own"] = "own"
    most: int = Field(8, ge=1)
    """Largest number of negatives; the number is uniform in 1 to `most`, as dislikes come in small numbers."""
    tie: float = Field(0.3, ge=0)
    """Weight of d(F(x_t, c^-), centroid of the negatives) in the loss."""


class ShownNegatives(Part):
    """What was shown together with the target of a row and passed over: the paper's "high-quality negatives" on MIND.

    Rows of which the data do not tell take no part in the alignment.
    """

    name: Literal["shown"] = "shown"
    tie: float = Field(0.0, ge=0)
    """Weight of d(F(x_t, c^-), centroid of the negatives); 0 is the paper, above it is two-sided alignment."""


TrainingNegatives = Annotated[BatchNegatives | OwnNegatives | ShownNegatives, Field(discriminator="name")]


class SteerRecConfig(ModelConfig):
    """Options of SteerRec. Defaults are the paper's settings for Beauty (Table 5)."""

    name: Literal["steerrec"] = "steerrec"
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
    schedule: ScheduleConfig = Linear(steps=1200)
    """Noise schedule and number of diffusion steps T."""
    denoiser: DenoiserName = "linear"
    """Network F([x_t ; c ; t])."""
    distance: Distance = "cos"
    """d in both terms of the loss."""
    balance: float = Field(0.2, ge=0, le=1)
    """mu: (1 - mu) L_recon + mu L_GAL. 0 is the ablation "w/o GAL"."""
    margin: float = Field(0.1, ge=0)
    """m of the triplet loss, in units of d."""
    training_negatives: TrainingNegatives = BatchNegatives()
    """What c^- is made of in training."""
    exclude_same_id: bool = True
    """True: other rows with the same target are left out of a row's centroid."""
    detach_target: bool = False
    """True: no gradient through the target's embedding x0."""
    negative_condition: Literal["raw", "layernorm", "encoder"] = "raw"
    """Where c^- lives: the centroid of item embeddings (eq. 14); that centroid through a LayerNorm; or the centroid of
    the encoder's states for each negative alone, which is the space c^+ lives in."""
    p_uncond: float = Field(0.1, ge=0, lt=1)
    """Probability of the null condition in training."""
    guidance: GuidanceConfig = PositiveNegative(scale=4.0)
    """Guidance at inference. "cfg" is the ablation "w/o PNG"."""
    negatives: NegativeSource = RandomNegatives()
    """Negatives at inference, where the request names no dislikes."""
    dislike_share: float = Field(1.0, gt=0, le=1)
    """Weight of the user's dislikes in c^-; the rest is that of the sampled negatives."""
    generation: Generation = Generation(sampler="ddim", steps=10)
    """Sampler, its steps, and whether it starts from noise or from the mean over the noise."""
    score: Literal["dot", "cos"] = "dot"
    """Rank by inner product (paper) or by cosine."""


class SteerRec(HistoryConditioned):
    """Pulled by the history, pushed away from negatives."""

    Config = SteerRecConfig

    def __init__(self, config: SteerRecConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.steers = isinstance(config.guidance, PositiveNegative)  # other guidance never looks at c^-
        self.explains = (
            self.steers
            and config.generation.start == "mean"
            and isinstance(self.denoiser, AffineDenoiser)
            and config.negative_condition != "layernorm"
        )

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """(1 - mu) d(F(x_t, c^+), x0) + mu max(0, d(F(x_t, c^+), x0) - d(F(x_t, c^-), x0) + m) (eq. 12, 13)."""
        history, target = self.embed(batch)
        x0 = target.detach() if self.config.detach_target else target
        drawn = draw(x0, self.schedule, noise, batch.key)
        encoded = self.encoder(history, batch.mask[:, -history.shape[1] :])
        condition, kept = drop_condition(encoded, self.null, self.config.p_uncond, noise, batch.key)
        away = self.config.training_negatives
        own = self.training_negatives(batch, noise)
        if own is None:
            negative, has_negative = centroid_of_others(
                self.as_conditions(target), batch.target, exclude_same_id=self.config.exclude_same_id
            )
        else:
            negative, has_negative = self.centroid(own, conditions=True)
        positive_hat, negative_hat = self.denoiser.under_each(drawn.x_t, drawn.t, [condition, self.centred(negative)])
        positive = self.distance(positive_hat, x0)
        alignment = guidance_alignment(positive, self.distance(negative_hat, x0), self.config.margin)
        alignment = masked_mean(alignment, kept & has_negative)
        reconstruction = positive.mean()
        balance = self.config.balance
        loss = (1 - balance) * reconstruction + balance * alignment
        parts = {"loss": loss, "reconstruction": reconstruction, "alignment": alignment}
        tie = 0.0 if isinstance(away, BatchNegatives) else away.tie
        if own is not None and tie > 0:
            meant, _ = self.centroid(own, conditions=False)
            parts["tie"] = masked_mean(self.distance(negative_hat, meant.detach()), has_negative)
            parts["loss"] = loss + tie * parts["tie"]
        return parts

    def training_negatives(self, batch: Batch, noise: Noise) -> Tensor | None:
        """(B, N) negatives of each row, padded with 0; None where they are those of the batch."""
        away = self.config.training_negatives
        if isinstance(away, BatchNegatives):
            return None
        if isinstance(away, OwnNegatives):
            return self.own_negatives(batch, away.most, noise)
        if batch.negatives is None:
            raise ConfigError(
                "training_negatives = 'shown' needs data that tell what was passed over.",
                hint="split a table of impressions; see guiderec.data.impressions",
            )
        return batch.negatives

    def own_negatives(self, batch: Batch, most: int, noise: Noise) -> Tensor:
        """(B, N) 1 to `most` items that the row does not have, padded with 0."""
        own = batch.own_items
        items = items_outside(own, self.n_items, most, keys=batch.key, noise=noise, purpose="negatives/training")
        count = 1 + noise.integers(batch.key, 1, most, "negatives/count")  # (B, 1)
        return items * (torch.arange(most, device=items.device) < count)

    def centroid(self, items: Tensor, *, conditions: bool) -> tuple[Tensor, Tensor]:
        """Mean (B, D) of items (B, N), as vectors or as conditions, and a mask (B,), False where there is none."""
        there = items != PADDING
        vectors = self.items(items)
        vectors = self.as_conditions(vectors) if conditions else vectors
        count = there.sum(dim=1, keepdim=True)
        return (vectors * there[:, :, None]).sum(dim=1) / count.clamp(min=1), count[:, 0] > 0

    def as_conditions(self, vectors: Tensor) -> Tensor:
        """Item vectors (..., D) -> the vectors (..., D) that a negative condition is the centroid of."""
        if self.config.negative_condition != "encoder":
            return vectors
        alone = vectors.reshape(-1, 1, vectors.shape[-1])
        return self.encoder(alone, torch.ones_like(alone[:, :, 0], dtype=torch.bool)).view_as(vectors)

    def centred(self, centroid: Tensor) -> Tensor:
        """The centroid as a condition (B, D): through a LayerNorm without weights if so configured."""
        if self.config.negative_condition == "layernorm":
            return F.layer_norm(centroid, centroid.shape[-1:])
        return centroid

    def negative_condition(self, query: Query, condition: Tensor, noise: Noise) -> Tensor:
        """c^- (B, D), eq. 14: `dislike_share` of it the centroid of the user's dislikes, the rest of sampled negatives.

        In a row without dislikes it is all of sampled negatives.
        """
        sampled = self.sampled_centroid(query, condition, noise)
        if query.dislikes is None:
            return self.centred(sampled)
        share = self.config.dislike_share
        meant, there = self.centroid(query.dislikes, conditions=True)
        return self.centred(torch.where(there[:, None], share * meant + (1 - share) * sampled, sampled))

    def sampled_centroid(self, query: Query, condition: Tensor, noise: Noise) -> Tensor:
        """(B, D) centroid of the negatives that are drawn at inference."""
        negatives = self.config.negatives(query, condition, self.items.weight, noise)
        return self.as_conditions(self.items(negatives)).mean(dim=1)

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, 1, D): x0_hat under guidance (Alg. 2)."""
        condition = self.encode(query)
        conditions = Conditions(
            toward=condition,
            null=self.null.expand(len(query), -1),
            away=self.negative_condition(query, condition, noise) if self.steers else None,
        )
        x0_hat = self.generator(conditions, self.config.guidance, noise, query.key, scale=query.guidance_scale)
        return x0_hat[:, None]

    def parts(self, query: Query, noise: Noise) -> Parts:
        """The chain is affine in g = (1 + w) c^+ - w c^-, and c^- a weighted mean over dislikes and sampled negatives.

        What sampled negatives give stands in the base: nobody wished it.
        """
        scale = self.config.guidance.scale if query.guidance_scale is None else query.guidance_scale
        condition = self.encode(query)
        constant = self.generator.mean(torch.zeros_like(condition))

        def carried(g: Tensor) -> Tensor:  # (B, K, D) -> (B, K, D), without the constant of the chain
            flat = g.flatten(0, 1)
            return (self.generator.mean(flat) - constant[:1]).view_as(g)

        none = condition[:, None][:, :0]
        away, dislikes = self.sampled_centroid(query, condition, noise), none
        if query.dislikes is not None:
            disliked = query.dislikes != PADDING
            share = self.config.dislike_share * disliked.any(dim=1, keepdim=True).to(condition.dtype)
            weight = share * disliked / disliked.sum(dim=1, keepdim=True).clamp(min=1)
            away = (1 - share) * away
            dislikes = carried(-scale * weight[:, :, None] * self.as_conditions(self.items(query.dislikes)))
        shared = carried(torch.stack([(1 + scale) * condition, -scale * away], dim=1))
        return Parts(history=shared[:, :1], base=constant[:, None] + shared[:, 1:], likes=none, dislikes=dislikes)

    def item_vectors(self) -> Tensor:
        """(I + 1, D)."""
        table = self.items.weight
        return table if self.config.score == "dot" else F.normalize(table, dim=-1)

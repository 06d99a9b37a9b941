"""DiffuRec: A Diffusion Model for Sequential Recommendation (Li, Sun and Li, ACM TOIS 2023, arXiv:2304.00686).

Idea       An item is a distribution: the noised target is mixed into every position of the history, a transformer
           reconstructs the target from it, and the reconstruction is trained by cross-entropy over all items.
Notation   paper -> code:  e_i -> history (B, L, D);  x_0 -> x0 (B, D);  x_s -> x_t;  lambda_i -> denoiser.mixing;
           f_theta -> denoiser;  delta -> mixing
Order      denoiser_of() Sec. 4.2 -> loss() Alg. 1 -> user_vectors() Alg. 2
Facts      authors' public code (WHUIR/DiffuRec: src/) for sizes, initialisation, schedule and the sampling of steps.
Departs    1. Keys at padding are masked. The public code masks the queries at padding instead, so that items attend to
              padding, whose row is a trained vector: `padding = "public_code"` does the same, to measure what it does.
           2. Padding is no class of the cross-entropy and is never ranked ("public_code": it is a class).
           3. Positions are not used, as in the public code, whose table of them has no effect. `positions` adds them.
           4. x_T, lambda and the noise of the steps are named by the row, so that a request always has the same answer.
           5. Posterior variance in sampling; the public code takes beta (its "fixed large") at all steps but one.
           6. An empty history is one padding position; padding never takes part in anything else.
           7. Dropout, GELU, norms and biases of the blocks: see `diffusion/sequence.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.data.batch import PADDING, Batch, Query
from guiderec.diffusion.generation import Generation, SampledGeneration, sample
from guiderec.diffusion.objectives import draw
from guiderec.diffusion.schedule import ScheduleConfig, TruncatedLinear
from guiderec.diffusion.sequence import BoundSequenceDenoiser, SequenceDenoiser
from guiderec.models.base import EmbeddingRecommender, ModelConfig, require_divisors
from guiderec.nn.attention import two_sided_mask
from guiderec.nn.buckets import by_history
from guiderec.nn.dropout import Dropout
from guiderec.nn.embedding import PositionEmbedding
from guiderec.nn.next_item import softmax_loss
from guiderec.rng import Noise


class DiffuRecConfig(ModelConfig):
    """Options of DiffuRec. Defaults are those of the authors' code for Amazon Beauty."""

    name: Literal["diffurec"] = "diffurec"
    dim: int = Field(128, ge=2, multiple_of=2)
    """D, width of items and states."""
    max_length: int = Field(50, ge=1)
    """L, the longest history. Of a longer one the newest items count."""
    init_std: float = Field(1.0, gt=0)
    """Deviation of the initial items and positions. At 1, as published, the logits begin so large that it takes many
    epochs to forget them."""
    layers: int = Field(4, ge=1)
    """Transformer blocks of the approximator."""
    heads: int = Field(4, ge=1)
    """Attention heads; must divide dim."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of attention weights, feed-forward layers and residual branches."""
    embedding_dropout: float = Field(0.3, ge=0, lt=1)
    """Dropout of the item vectors of the history."""
    schedule: ScheduleConfig = TruncatedLinear(steps=32)
    """Noise schedule and number of diffusion steps T."""
    mixing: float = Field(0.001, ge=0)
    """delta: mean and deviation of lambda, with which the noised target is mixed into the history. At the published
    value it is a thousandth of the input, and what is generated hardly depends on the noise."""
    positions: bool = False
    """True: learned positions, counted from the newest item, are added to the item vectors."""
    padding: Literal["masked", "public_code"] = "masked"
    """public_code: items attend to padding up to max_length; padding is a trained vector and a class of the loss."""
    generation: SampledGeneration = Generation(sampler="ddpm", steps=None, start="noise")
    """Sampler and its steps. The mean over the noise has no closed form here, so start must be "noise"."""

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> DiffuRecConfig:
        require_divisors(self.dim, {"heads": self.heads})
        return self


class DiffuRec(EmbeddingRecommender):
    """Reconstructs the target from a history into which the noised target is mixed; samples it from noise.

    Initialisation: items and positions N(0, init_std^2); the denoiser as in `diffusion/sequence.py`.
    """

    Config: ClassVar[type[ModelConfig]] = DiffuRecConfig

    def __init__(self, config: DiffuRecConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.items = nn.Embedding(n_items + 1, config.dim, padding_idx=PADDING if config.padding == "masked" else None)
        with torch.no_grad():
            self.items.weight.mul_(config.init_std)
        self.positions = (
            PositionEmbedding(config.max_length, config.dim, "from_end", std=config.init_std)
            if config.positions
            else None
        )
        self.item_dropout = Dropout(config.embedding_dropout)
        self.item_norm = nn.LayerNorm(config.dim)
        self.schedule = config.schedule()
        self.denoiser = SequenceDenoiser(
            config.dim,
            layers=config.layers,
            heads=config.heads,
            dropout=config.dropout,
            total_steps=self.schedule.T,
            mixing=config.mixing,
        )
        self.steps = config.generation.chain(self.schedule)

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Cross-entropy of x0_hat against all items, at a step drawn for each row (Alg. 1; Eq. 10)."""
        drawn = draw(self.items(batch.target), self.schedule, noise, batch.key)

        def predict(history: Tensor, rows: Tensor) -> Tensor:
            return self.denoiser_of(history, batch.key[rows], noise)(drawn.x_t[rows], drawn.t[rows])

        x0_hat = self.denoiser.norm(self._by_history(batch, predict))
        if self.config.padding == "public_code":
            return {"loss": softmax_loss(x0_hat, self.items.weight, batch.target)}
        return {"loss": softmax_loss(x0_hat, self.items.weight[1:], batch.target - 1)}

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, 1, D): x0_hat at the end of the chain (Alg. 2)."""

        def generate(history: Tensor, rows: Tensor) -> Tensor:
            key = query.key[rows]
            network = self.denoiser_of(history, key, noise)

            def denoise(x_t: Tensor, t: Tensor) -> Tensor:
                return self.denoiser.norm(network(x_t, t))

            return sample(denoise, self.steps, noise, key, self.config.dim, self.items.weight.dtype)

        return self._by_history(query, generate)[:, None]

    def denoiser_of(self, history: Tensor, key: Tensor, noise: Noise) -> BoundSequenceDenoiser:
        """The denoiser of the target for histories (B, L), without the final norm."""
        mask = history != PADDING
        vectors = self.items(history)
        if self.positions is not None:
            counted = mask if self.config.padding == "masked" else torch.ones_like(mask)  # padding is an item there
            vectors = vectors + self.positions(counted)
        items = self.item_norm(self.item_dropout(vectors))
        visible = two_sided_mask(mask) if self.config.padding == "masked" else _padding_queries_see_all(mask, items)
        return self.denoiser.on(items, visible, key, noise)

    def _by_history(self, query: Query, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """`function` of histories (n, L') and their rows (n,), for rows of like length at a time: (B, D)."""
        history = query.history[:, -self.config.max_length :]
        if self.config.padding == "public_code":  # padding is part of the answer, so its amount must not vary
            history = F.pad(history, (self.config.max_length - history.shape[1], 0), value=PADDING)
            return function(history, torch.arange(len(history), device=history.device))
        return by_history(history, history != PADDING, function)

    def item_vectors(self) -> Tensor:
        """(I + 1, D)."""
        return self.items.weight


def _padding_queries_see_all(mask: Tensor, like: Tensor) -> Tensor:
    """(B, 1, L, L), added to the logits: the public code masks rows of the logits where it means columns.

    A masked row has equal logits, so that padding attends to everything alike; items attend to everything, padding
    included, by their logits.
    """
    added = torch.where(mask, 0.0, -1e30).to(like.dtype)  # so large that sums with logits are equal to the last bit
    return added[:, None, :, None].expand(-1, 1, -1, mask.shape[1])

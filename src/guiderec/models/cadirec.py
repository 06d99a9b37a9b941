"""CaDiRec: Context Matters: Enhancing Sequential Recommendation with Context-aware Diffusion-based Contrastive Learning
(Cui, Wu, He, Cheng and Ma, CIKM 2024, arXiv:2405.09369).

Idea       SASRec, regularised: a diffusion model that sees both sides of a history replaces some of its items by others
           that fit; two histories changed in this way must have like states.
Notation   paper -> code:  e -> items.weight (I + 1, D);  z_t -> x_t (P, D), at the gaps alone;  f_theta -> context;
           rho -> masking.ratio;  alpha -> contrast_weight;  beta -> rounding_weight;  gamma -> error_weight
Order      recommendation() -> denoised() -> views() -> loss() -> user_vectors()
Facts      authors' public code (ziqiangcui/CaDiRec) for sizes, weights, losses and the data of a row.
Rows       One sequence per user, every position of it learnt, as in the authors' code: train with
           `training_rows = "last"`, whose row is the whole training sequence. Every prefix works and costs more.
Departs    1. Views come from a reverse chain: noise at the gaps, 5 steps of DDIM (the number that the authors'
              configuration names and its code ignores) under the clean context, without dropout. The public code takes
              the prediction that the diffusion loss has just made, with dropout, from the history's own noised items,
              at whatever step was drawn: `views.name = "single_prediction"`.
           2. The two views have their own gaps; in the public code they share those of the diffusion loss
              (`views.gaps = "shared"`).
           3. Padding and the unused mask token are no classes of the diffusion loss and are never put into a view.
           4. The context is clean. The public code adds noise of variance 1 - alpha_bar_0 to every item vector,
              context included: `embedding_noise`.
           5. Negatives avoid the items of the row. The public code's avoid the user's test item too.
           6. LayerNorm's epsilon is torch's, and the frequencies of the time embedding are those of the package.
Noted      With ratio 0.1 and the public code's draws, 62% of the training histories of Amazon Beauty (63% of Toys) have
           no gap: their two views are copies, told apart by dropout alone. `masking.at_least = 1` gives each a gap.
           Negatives are never items of the history, so that L_rec with one negative ranks these high: the authors
           leave them out of the ranking (seen = "mask"). Cross-entropy does not need that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.config import Part
from guiderec.data.batch import PADDING, Batch, Query
from guiderec.diffusion.process import q_sample
from guiderec.diffusion.samplers import ddim_steps, walk
from guiderec.diffusion.schedule import ScheduleConfig, SquareRoot
from guiderec.models.base import EmbeddingRecommender, ModelConfig, require_divisors
from guiderec.nn.attention import causal_mask, two_sided_mask
from guiderec.nn.buckets import by_history, by_length
from guiderec.nn.contrastive import Similarity, info_nce
from guiderec.nn.disentangled import DisentangledEncoder
from guiderec.nn.dropout import Dropout
from guiderec.nn.embedding import Counting, PositionEmbedding, item_embedding
from guiderec.nn.next_item import BinaryCrossEntropy, NextItemObjective
from guiderec.nn.sampling import negatives_by_position
from guiderec.nn.time import TimeEmbedding
from guiderec.nn.transformer import TransformerEncoder
from guiderec.rng import Noise, subkeys

# ------------------------------------------------------------------------------------------------ options


class Masking(Part):
    """Which positions of a history become gaps: each with the same probability, whatever the others do."""

    ratio: float = Field(0.1, ge=0, le=1)
    """rho, the probability."""
    at_least: int = Field(0, ge=0)
    """Gaps of a history at least, as far as it has items. The public code: 0."""

    def __call__(self, mask: Tensor, key: Tensor, noise: Noise, purpose: str) -> Tensor:
        """(B, L) bool, True at gaps, for a mask (B, L) that is True at items and row keys (B,)."""
        drawn = noise.uniform(key, mask.shape[1], purpose).flip(1)  # the newest item has the first number
        drawn = drawn.masked_fill(~mask, 2.0)
        rank = drawn.argsort(dim=1, stable=True).argsort(dim=1)
        return ((drawn < self.ratio) | (rank < self.at_least)) & mask


class ReverseChain(Part):
    """Generate what fits into the gaps: a shortened chain of DDIM from noise under the clean context."""

    name: Literal["chain"] = "chain"
    steps: int = Field(5, ge=1)
    """S, steps of DDIM, at most T."""
    gaps: Literal["own", "shared"] = "own"
    """own: each view has gaps of its own. shared: both have those of the diffusion loss."""


class SinglePrediction(Part):
    """What the diffusion loss predicted at its gaps, from the noised items themselves: the public code."""

    name: Literal["single_prediction"] = "single_prediction"


class Context(Part):
    """The network that restores items from both sides: blocks of disentangled attention."""

    layers: int = Field(2, ge=1)
    """Number of blocks."""
    heads: int = Field(2, ge=1)
    """Number of attention heads; divides `dim`."""
    hidden: int = Field(128, ge=1)
    """Hidden width of the position-wise network."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout of attention weights, residual branches and relative positions."""
    input_dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout of the normalised input. In the public code it is the backbone's."""


class CaDiRecConfig(ModelConfig):
    """Options of CaDiRec. Defaults are those of the authors' code for Amazon Beauty."""

    name: Literal["cadirec"] = "cadirec"
    dim: int = Field(64, ge=2, multiple_of=2)
    """D, width of items, positions and states."""
    max_length: int = Field(50, ge=1)
    """L, the longest history. Of a longer one the newest items count."""
    layers: int = Field(2, ge=1)
    """Blocks of the backbone."""
    heads: int = Field(2, ge=1)
    """Attention heads of the backbone; divides `dim`."""
    hidden: int = Field(128, ge=1)
    """Hidden width of the backbone's position-wise network."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout of the backbone's input, attention weights and residual branches."""
    counting: Counting = "from_end"
    """Position 0 is the newest item of the history, as in code that pads before it, or the oldest."""
    objective: NextItemObjective = BinaryCrossEntropy()
    """L_rec at every position: against one negative (public code), or cross-entropy over all items."""
    schedule: ScheduleConfig = SquareRoot(steps=1000)
    """Noise schedule and number of diffusion steps T."""
    context: Context = Context()
    """The denoiser."""
    masking: Masking = Masking()
    """Gaps, of the diffusion loss and of views that have their own."""
    embedding_noise: bool = False
    """True: x_0 ~ N(e, (1 - alpha_bar_0) I) at every position in the diffusion loss, context included."""
    views: Annotated[ReverseChain | SinglePrediction, Field(discriminator="name")] = ReverseChain()
    """Where the items of a view come from."""
    candidates: int = Field(10, ge=1)
    """A gap is filled with one of so many items, drawn uniformly from those with the largest inner product with what
    was generated. 1: the best one."""
    temperature: float = Field(1.0, gt=0)
    """tau of the contrast."""
    similarity: Similarity = "dot"
    """What the contrast compares states by."""
    contrast_weight: float = Field(0.1, ge=0)
    """alpha, of InfoNCE between the two views. 0 makes no views."""
    rounding_weight: float = Field(0.2, ge=0)
    """beta, of the negative log-likelihood of the items under what is restored at their gaps."""
    error_weight: float = Field(0.0, ge=0)
    """gamma, of the squared error of what is restored."""

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> CaDiRecConfig:
        require_divisors(self.dim, {"heads": self.heads, "context.heads": self.context.heads})
        return self


# ------------------------------------------------------------------------------------------------ context diffusion


@dataclass(frozen=True)
class Gaps:
    """P gaps in R histories of like length, each with one gap at least; in order of rows, the oldest of a row first."""

    history: Tensor
    """(R, L) the items, also those at gaps."""
    where: Tensor
    """(R, L) bool, True at gaps."""
    rows: Tensor
    """(R,) where the histories stand in the batch."""

    @property
    def mask(self) -> Tensor:
        """(R, L) bool, True at items."""
        return self.history != PADDING

    @property
    def item(self) -> Tensor:
        """(P,) the item at each gap."""
        return self.history[self.where]

    @property
    def row(self) -> Tensor:
        """(P,) the row of the batch that each gap is in."""
        return self.rows.repeat_interleave(self.where.sum(dim=1))

    @property
    def age(self) -> Tensor:
        """(P,) how far each gap is from the newest item, whose age is 0."""
        return self.where.shape[1] - 1 - self.where.nonzero()[:, 1]

    @property
    def share(self) -> Tensor:
        """(P,) 1 / the number of gaps in the gap's history."""
        count = self.where.sum(dim=1)
        return (1.0 / count).repeat_interleave(count)

    def keys(self, key: Tensor) -> Tensor:
        """(P,) names of the gaps for keyed noise, for the keys (B,) of the batch."""
        return subkeys(key[self.row], self.age)


def gaps_in(history: Tensor, where: Tensor) -> list[Gaps]:
    """The gaps of histories (B, L) at `where` (B, L), for rows of like length at a time; rows without any are left out.

    history  0 3 1 4      where  . . x .      Gaps(3 1 4, . x ., rows 0)
             0 0 0 5             . . . .
             2 6 5 3             x . . x      Gaps(2 6 5 3, x . . x, rows 2), with the first where lengths are alike
    """
    some = where.any(dim=1).nonzero()[:, 0]
    return [
        Gaps(history[some[rows], -length:], where[some[rows], -length:], some[rows])
        for rows, length in by_length(history[some] != PADDING)
    ]


@dataclass(frozen=True)
class Restored:
    """Noised items, and what the denoiser made of them."""

    gaps: Gaps
    x0: Tensor
    """(P, D) what was noised."""
    x0_hat: Tensor
    """(P, D) what was predicted."""


class ContextDenoiser(nn.Module):
    """f_theta: `Blocks(Dropout(LN(x + time(t))))`, two-sided, steps counted as if there were 1000 of them.

    Initialisation: weights N(0, 0.02^2), biases 0.
    """

    def __init__(self, config: Context, *, dim: int, span: int, total_steps: int) -> None:
        super().__init__()
        self.total_steps = total_steps
        self.time = TimeEmbedding(dim, expansion=4, activation=F.silu)
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(config.input_dropout)
        self.encoder = DisentangledEncoder(
            dim, layers=config.layers, heads=config.heads, hidden=config.hidden, dropout=config.dropout, span=span
        )
        for layer in (self.time.up, self.time.down):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, gaps: Gaps, context: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x0_hat (P, D) for x_t (P, D) put into the gaps of the context (R, L, D), at steps t (R,), or (1,) for all."""
        x = context.masked_scatter(gaps.where[..., None], x_t)
        x = x + self.time(t * (1000.0 / self.total_steps))[:, None]
        x0_hat: Tensor = self.encoder(self.dropout(self.norm(x)), two_sided_mask(gaps.mask), gaps.where)
        return x0_hat


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """The module in eval mode for a while."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


# ------------------------------------------------------------------------------------------------ model


class CaDiRec(EmbeddingRecommender):
    """A causal transformer over the history, and a two-sided diffusion that makes other histories for its training.

    Inference is the transformer's alone. The contrast is within the batch; with several processes, within each share.

    Initialisation: items, positions and all linear maps N(0, 0.02^2), biases 0.
    """

    Config: ClassVar[type[ModelConfig]] = CaDiRecConfig

    def __init__(self, config: CaDiRecConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.items = item_embedding(n_items, config.dim)
        self.positions = PositionEmbedding(config.max_length, config.dim, config.counting)
        self.encoder = TransformerEncoder(
            config.dim,
            layers=config.layers,
            heads=config.heads,
            hidden=config.hidden,
            dropout=config.dropout,
            hidden_dropout=0.0,
            norm="post",
        )
        self.schedule = config.schedule()
        self.context = ContextDenoiser(
            config.context, dim=config.dim, span=config.max_length, total_steps=self.schedule.T
        )
        self.steps = ddim_steps(self.schedule, config.views.steps) if isinstance(config.views, ReverseChain) else []

    # -------------------------------------------------------------------------------------------- loss

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """L_rec + alpha InfoNCE + beta NLL + gamma MSE, and the four of them."""
        config: CaDiRecConfig = self.config
        history = self._newest_items(batch)
        recommendation = self.recommendation(batch, noise)
        restored = self.denoised(history, batch.key, noise)
        rounding, error = self.rounding(restored, len(batch)), self.error(restored)
        contrast = torch.zeros_like(recommendation)
        if config.contrast_weight > 0:
            contrast = self.contrast(history, self.views(history, batch.key, restored, noise))
        return {
            "loss": recommendation
            + config.contrast_weight * contrast
            + config.rounding_weight * rounding
            + config.error_weight * error,
            "recommendation": recommendation,
            "contrast": contrast,
            "rounding": rounding,
            "squared_error": error,
        }

    def recommendation(self, batch: Batch, noise: Noise) -> Tensor:
        """L_rec, averaged over all positions with an item after them."""
        history = self._newest_items(batch)
        target = batch.next_items[:, -history.shape[1] :]
        negative = self._negatives(batch, history.shape[1], noise)
        states, targets, negatives = [], [], []
        for rows, length in by_length(history != PADDING):
            learnt = target[rows, -length:] != PADDING
            x, visible = self._input(history[rows, -length:], self.items.weight)
            states.append(self.encoder(x, visible)[learnt])
            targets.append(target[rows, -length:][learnt])
            negatives.append(negative[rows, -length:][learnt])
        return self.config.objective(torch.cat(states), torch.cat(targets), torch.cat(negatives), self.items.weight)

    def denoised(self, history: Tensor, key: Tensor, noise: Noise) -> list[Restored]:
        """Items of histories (B, L), noised at gaps to a step drawn for each row, and restored."""
        t = noise.integers(key, 1, self.schedule.T, "diffusion/t")[:, 0]
        restored = []
        for gaps in gaps_in(history, self._diffusion_gaps(history, key, noise)):
            context = self.items(gaps.history)
            if self.config.embedding_noise:
                context = context + self.schedule.b(0) * self._noise_everywhere(context, key[gaps.rows], noise)
            x0 = context[gaps.where]
            eps = noise.normal(gaps.keys(key), x0.shape[1], "diffusion/eps", x0.dtype)
            x_t = q_sample(x0, t[gaps.row], eps, self.schedule)
            restored.append(Restored(gaps, x0, self.context(gaps, context, x_t, t[gaps.rows])))
        return restored

    def rounding(self, restored: list[Restored], rows: int) -> Tensor:
        """-log softmax(x0_hat . e)[item], averaged over the gaps of a row and then over all `rows`, as the authors do.

        A row without a gap counts as 0.
        """
        if not restored:
            return self.items.weight.new_zeros(())
        logits = torch.cat([part.x0_hat for part in restored]) @ self.items.weight[1:].T
        item = torch.cat([part.gaps.item for part in restored])
        share = torch.cat([part.gaps.share for part in restored])
        return (F.cross_entropy(logits, item - 1, reduction="none") * share).sum() / rows

    def error(self, restored: list[Restored]) -> Tensor:
        """Squared error of x0_hat, averaged over gaps and columns."""
        if not restored:
            return self.items.weight.new_zeros(())
        return torch.cat([part.x0_hat - part.x0 for part in restored]).square().mean()

    def contrast(self, history: Tensor, views: Tensor) -> Tensor:
        """InfoNCE between the states of two views, (2B, L); rows without an item take no part.

        Item vectors get no gradient here, as in the authors' code.
        """
        states = self._newest_states(views, self.items.weight.detach())
        present = (history != PADDING).any(dim=1)
        first, second = states.chunk(2)
        config: CaDiRecConfig = self.config
        return info_nce(first[present], second[present], temperature=config.temperature, similarity=config.similarity)

    # -------------------------------------------------------------------------------------------- views

    @torch.no_grad()
    def views(self, history: Tensor, key: Tensor, restored: list[Restored], noise: Noise) -> Tensor:
        """(2B, L) the histories (B, L) with other items at gaps: B first views, then B second ones."""
        views = history.repeat(2, 1)
        keys = torch.cat([subkeys(key, key.new_tensor(view)) for view in range(2)])
        if isinstance(self.config.views, SinglePrediction):
            generated = self._predicted(restored, len(history))
        else:
            generated = self._chained(history, key, keys, noise)
        for gaps, x0_hat in generated:
            views[gaps.row, -1 - gaps.age] = self.rounded(x0_hat, gaps.keys(keys), noise)
        return views

    def generate(self, gaps: Gaps, key: Tensor, noise: Noise) -> Tensor:
        """(P, D) what fits into the gaps: DDIM from noise, under a clean context that stays what it is."""
        context = self.items(gaps.history)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return self.context(gaps, context, x_t, t[:1])  # a chain is at the same step everywhere

        x_T = noise.normal(gaps.keys(key), context.shape[-1], "views/x_T", context.dtype)
        with without_dropout(self.context):
            return walk(denoise, x_T, self.steps)

    def rounded(self, x0_hat: Tensor, key: Tensor, noise: Noise) -> Tensor:
        """(P,) items, each drawn uniformly from the `candidates` best for x0_hat (P, D). Never padding."""
        count = min(self.config.candidates, self.n_items)
        best = (x0_hat @ self.items.weight[1:].T).topk(count, dim=1).indices + 1
        return best.gather(1, noise.integers(key, 1, count, "views/candidate"))[:, 0]

    def _chained(self, history: Tensor, key: Tensor, keys: Tensor, noise: Noise) -> list[tuple[Gaps, Tensor]]:
        """Gaps of the 2B views with keys (2B,), and what is generated for them."""
        both = history.repeat(2, 1)
        if self.config.views.gaps == "own":
            where = self.config.masking(both != PADDING, keys, noise, "views/gaps")
        else:
            where = self._diffusion_gaps(history, key, noise).repeat(2, 1)
        return [(gaps, self.generate(gaps, keys, noise)) for gaps in gaps_in(both, where)]

    def _predicted(self, restored: list[Restored], batch: int) -> list[tuple[Gaps, Tensor]]:
        """The gaps of the diffusion loss, once for each view, and what was predicted for them."""
        return [
            (replace(part.gaps, rows=part.gaps.rows + view * batch), part.x0_hat)
            for view in range(2)
            for part in restored
        ]

    # -------------------------------------------------------------------------------------------- inference

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, 1, D) the state at the newest item. No diffusion takes part."""
        return self._newest_states(self._newest_items(query), self.items.weight)[:, None]

    def item_vectors(self) -> Tensor:
        """(I + 1, D) the table of the input."""
        return self.items.weight

    # -------------------------------------------------------------------------------------------- helpers

    def _newest_items(self, query: Query) -> Tensor:
        """(B, L) the histories, as far as the model reads them."""
        return query.history[:, -self.config.max_length :]

    def _newest_states(self, history: Tensor, table: Tensor) -> Tensor:
        """(B, D) states at the newest item of histories (B, L), with item vectors from `table` (I + 1, D)."""

        def newest(part: Tensor, rows: Tensor) -> Tensor:
            return self.encoder.last(*self._input(part, table))

        return by_history(history, history != PADDING, newest)

    def _input(self, history: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Input (B, L, D) of the backbone, zero at padding, and which key each query may look at."""
        mask = history != PADDING
        x = F.embedding(history, table, padding_idx=PADDING) + self.positions(mask)
        return x * mask[..., None], causal_mask(mask)

    def _negatives(self, batch: Batch, length: int, noise: Noise) -> Tensor:
        """(B, L, N) items that the row does not have; the newest position has the first draws."""
        size = self.config.objective.negatives
        return negatives_by_position(batch.own_items, self.n_items, length, size, keys=batch.key, noise=noise)

    def _diffusion_gaps(self, history: Tensor, key: Tensor, noise: Noise) -> Tensor:
        """(B, L) bool, the gaps of the diffusion loss."""
        where: Tensor = self.config.masking(history != PADDING, key, noise, "diffusion/gaps")
        return where

    def _noise_everywhere(self, like: Tensor, key: Tensor, noise: Noise) -> Tensor:
        """Standard normal (R, L, D), named by row and distance from the newest position."""
        _, length, dim = like.shape
        age = torch.arange(length - 1, -1, -1, device=like.device)
        return noise.normal(subkeys(key[:, None], age).flatten(), dim, "diffusion/x_0", like.dtype).view_as(like)

"""STOSA: Sequential Recommendation via Stochastic Self-Attention (Fan et al., WWW 2022, arXiv:2201.06035).

Idea       An item is a Gaussian and not a point: a mean for what it is, a diagonal covariance for how sure that is. Who
           attends to whom, and what is recommended, goes by the Wasserstein distance of the Gaussians.
Distance   W(a, b) = |m_a - m_b|^2 + |sqrt(c_a) - sqrt(c_b)|^2, the square of the 2-Wasserstein distance, as the paper
           and its code have it. It is the squared Euclidean distance of the points (m, sqrt(c)) in 2 D dimensions, so
           that all distances of B users and I items are one product of matrices. Only differences count: `point`
           has sqrt(c) - 1, which is 0 where networks begin, and products lose less to rounding.
Notation   paper -> code:  M^mu, M^Sigma -> items.weight (I + 1, 2 D), mean and unbounded covariance side by side;
           P^mu, P^Sigma -> positions;  ELU(x) + 1 -> positive(x);  A -> weights;  l_pvn -> dissimilarity
Order      point() -> WassersteinAttention -> Block -> states() -> loss(): Ranking -> scores()
Facts      authors' public code (zfan20/STOSA: seqmodels.py, modules.py, trainers.py, main.py, README.md) for sizes,
           initialisation, norms, activations and the loss.
Kept       One LayerNorm serves means and covariances at the input, another one in each attention, as in the code.
Departs    1. Means are updated by attention, as the paper writes it. In the public code a misspelt name drops the
              update, so that the mean of the answer is that of the newest item alone: `means="input"`.
           2. No user part: the code looks up a margin for each user and does not use it.
           3. Negatives avoid the items of the row, not of all rows of the user.
           4. Padding is no item: never ranked, and not trained. The public code ranks it, and its unused last id.
           5. ELU(x) + 1 and its square root are computed without the difference, so that a small covariance is neither
              rounded to 0 nor clamped. LayerNorm's epsilon is torch's.
           6. The answer to an empty history is that of a single position without an item or a place.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.config import Part
from guiderec.data.batch import PADDING, Batch, Query
from guiderec.models.base import ModelConfig, Recommender, require_divisors
from guiderec.nn.attention import causal_mask
from guiderec.nn.buckets import by_history
from guiderec.nn.dropout import Dropout
from guiderec.nn.embedding import Counting, PositionEmbedding
from guiderec.nn.next_item import CrossEntropy
from guiderec.nn.sampling import negatives_by_position
from guiderec.rng import Noise

MEAN, STD = 0.01, 0.02
"""The normal law that tables and maps are drawn from."""


# ------------------------------------------------------------------------------------------------------- Gaussians


def positive(x: Tensor) -> Tensor:
    """ELU(x) + 1, elementwise, as (1 + max(x, 0)) exp(min(x, 0)): above 0 also where e^x is nothing beside 1."""
    return (1 + x.relu()) * x.clamp(max=0).exp()


def point(mean: Tensor, unbounded: Tensor) -> Tensor:
    """(..., 2 D) the place of Gaussians with means (..., D) and covariances positive(unbounded): (m, sqrt(c) - 1)."""
    deviation = (1 + unbounded.relu()).sqrt() * (unbounded.clamp(max=0) / 2).exp()
    return torch.cat([mean, deviation - 1], dim=-1)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """(...) W of points (..., 2 D) and (..., 2 D), which are broadcast."""
    return (a - b).square().sum(dim=-1)


# --------------------------------------------------------------------------------------------------------- options


class Ranking(Part):
    """`-log sigmoid(W(s, n) - W(s, i)) + w max(0, W(s, i) - W(i, n))` for state s, target i and negative n.

    The second part wants the target to be nearer to the state than to the negative.
    """

    name: Literal["ranking"] = "ranking"
    dissimilarity: float = Field(0.005, ge=0)
    """w, weight of the second part (l_pvn); 0 is BPR. The authors have 0.005 for Beauty."""
    negatives: int = Field(1, ge=1)
    """Negatives per position, drawn uniformly; their losses are averaged. STOSA has 1."""

    def __call__(self, state: Tensor, wanted: Tensor, unwanted: Tensor, real: Tensor) -> dict[str, Tensor]:
        """`{"loss", "ranking", "dissimilarity"}`, averaged over positions; the parts are without weight.

        Points (P, 2 D) of states and targets, (P, N, 2 D) of negatives, and (P, N) True where there is one.
        """
        near = distance(state, wanted)[:, None]  # (P, 1)
        far = distance(state[:, None], unwanted)  # (P, N)
        apart = distance(wanted[:, None], unwanted)  # (P, N)
        count = real.sum(dim=1).clamp(min=1)
        ranking = ((F.softplus(near - far) * real).sum(dim=1) / count).mean()
        dissimilarity = (((near - apart).relu() * real).sum(dim=1) / count).mean()
        loss = ranking + self.dissimilarity * dissimilarity
        return {"loss": loss, "ranking": ranking, "dissimilarity": dissimilarity}


class STOSAConfig(ModelConfig):
    """Options of STOSA. Defaults are those of the authors' instructions for Amazon Beauty."""

    name: Literal["stosa"] = "stosa"
    dim: int = Field(64, ge=1)
    """D, width of means and of covariances."""
    layers: int = Field(1, ge=1)
    """Number of blocks."""
    heads: int = Field(4, ge=1)
    """Number of attention heads; divides `dim`."""
    expansion: int = Field(4, ge=1)
    """Hidden width of the position-wise networks in multiples of `dim`."""
    dropout: float = Field(0.3, ge=0, lt=1)
    """Dropout of the input and of each residual branch."""
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of attention weights."""
    means: Literal["attended", "input"] = "attended"
    """Whether blocks update the means, as the paper says, or leave those of the input, as the public code does."""
    counting: Counting = "from_end"
    """Position 0 is the oldest item of the history, or the newest, as in the public code, which pads on the left."""
    max_length: int = Field(100, ge=1)
    """Number of positions. Of a longer history the newest `max_length` items count."""
    predict: Literal["every_position", "last_position"] = "every_position"
    """Learn the item after every position of a row, or the row's target alone."""
    objective: Annotated[Ranking | CrossEntropy, Field(discriminator="name")] = Ranking()
    """What is minimised at each learnt position; cross-entropy is that of the softmax of -W over all items."""

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> STOSAConfig:
        require_divisors(self.dim, {"heads": self.heads})
        return self


# --------------------------------------------------------------------------------------------------------- network


class WassersteinAttention(nn.Module):
    """Attention by distance: A = softmax(-W(Q, K) / sqrt(D / H)), means A V, covariances A^2 V, with H heads.

    A^2 is taken entry by entry: a weighted sum of independent Gaussians has the squared weights in its covariance.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.mean_query = nn.Linear(dim, dim)
        self.mean_key_value = nn.Linear(dim, 2 * dim)
        self.mean_output = nn.Linear(dim, dim)
        self.covariance_query = nn.Linear(dim, dim)
        self.covariance_key_value = nn.Linear(dim, 2 * dim)
        self.covariance_output = nn.Linear(dim, dim)

    def forward(self, mean: Tensor, covariance: Tensor, visible: Tensor, asking: slice) -> tuple[Tensor, Tensor]:
        """What the positions `asking`, n of L, get: means and covariances (B, L, D) -> (B, n, D) of each.

        `visible` (B, 1, n, L), True where a query may look at a key.
        """
        mean_query = self._split(self.mean_query(mean[:, asking]))
        mean_key, mean_value = (self._split(x) for x in self.mean_key_value(mean).chunk(2, dim=-1))
        raw_query = self._split(self.covariance_query(covariance[:, asking]))  # raw: before ELU(x) + 1
        raw_key, raw_value = (self._split(x) for x in self.covariance_key_value(covariance).chunk(2, dim=-1))
        weights = self.weights(point(mean_query, raw_query), point(mean_key, raw_key), visible)
        weights = F.dropout(weights, self.dropout, self.training)
        return (
            self.mean_output(_join(weights @ mean_value)),
            self.covariance_output(_join(weights.square() @ positive(raw_value))),
        )

    def weights(self, query: Tensor, key: Tensor, visible: Tensor) -> Tensor:
        """A (B, H, n, L) of points (B, H, n, 2 E) and (B, H, L, 2 E), E = D / H.

        W(q, k) = |q|^2 - 2 q k + |k|^2, of which |q|^2 is the same for all keys and drops out of the softmax.
        """
        nearness = 2 * query @ key.transpose(-1, -2) - key.square().sum(dim=-1)[..., None, :]
        nearness = nearness / math.sqrt(query.shape[-1] / 2)
        return nearness.masked_fill(~visible, -torch.inf).softmax(dim=-1)

    def _split(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, H, L, D / H)."""
        return x.view(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)


class Block(nn.Module):
    """Post-norm: attention, then a position-wise network for means and another one for covariances.

        m <- LN(m + attention),   c <- LN(c + attention)        with one LN
        m <- LN(m + ELU network), c <- ELU(LN(c + ELU network)) + 1

    The last ELU(x) + 1 is left to whoever takes the result: x is what is given back, without a bound.
    """

    def __init__(self, config: STOSAConfig) -> None:
        super().__init__()
        self.attention = WassersteinAttention(config.dim, config.heads, config.attention_dropout)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.mean_feedforward = _feedforward(config.dim, config.expansion)
        self.mean_norm = nn.LayerNorm(config.dim)
        self.covariance_feedforward = _feedforward(config.dim, config.expansion)
        self.covariance_norm = nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, mean: Tensor, unbounded: Tensor, visible: Tensor, asking: slice) -> tuple[Tensor, Tensor]:
        """Means and unbounded covariances (B, L, D) -> (B, n, D) of each, for the positions `asking`."""
        covariance = positive(unbounded)
        mean_seen, covariance_seen = self.attention(mean, covariance, visible[:, :, asking], asking)
        mean = self.attention_norm(mean[:, asking] + self.dropout(mean_seen))
        covariance = self.attention_norm(covariance[:, asking] + self.dropout(covariance_seen))
        mean = self.mean_norm(mean + self.dropout(self.mean_feedforward(mean)))
        unbounded = self.covariance_norm(covariance + self.dropout(self.covariance_feedforward(covariance)))
        return mean, unbounded


class STOSA(Recommender):
    """A causal transformer over Gaussians; the one at the newest item is compared with those of all items.

    Initialisation: tables and maps N(0.01, 0.02^2), biases 0, norms the identity.
    """

    Config: ClassVar[type[ModelConfig]] = STOSAConfig

    def __init__(self, config: STOSAConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.items = nn.Embedding(n_items + 1, 2 * config.dim, padding_idx=PADDING)
        self.positions = PositionEmbedding(config.max_length, 2 * config.dim, config.counting)
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, MEAN, STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.items.weight[PADDING].zero_()

    def states(self, history: Tensor) -> Tensor:
        """(B, L, 2 D) points after every position of the histories (B, L); L is cut to `max_length`, the newest stay.

        The state at padding is finite and depends on nothing: an empty history has a constant answer.
        """
        history = history[:, -self.config.max_length :]
        length = history.shape[1]

        def encode(part: Tensor, rows: Tensor) -> Tensor:
            return F.pad(self._encode(part, slice(None)), (0, 0, length - part.shape[1], 0))

        return by_history(history, history != PADDING, encode)

    def newest_state(self, history: Tensor) -> Tensor:
        """(B, 2 D) the last of `states`, without computing what the others alone need."""
        history = history[:, -self.config.max_length :]
        return by_history(history, history != PADDING, lambda part, rows: self._encode(part, slice(-1, None))[:, -1])

    def _encode(self, history: Tensor, asking: slice) -> Tensor:
        """(B, n, 2 D) points at the positions `asking` of histories (B, L)."""
        mask = history != PADDING
        visible = causal_mask(mask)
        read = (self.items(history) + self.positions(mask)) * mask[..., None]
        mean, unbounded = (self.dropout(self.norm(half)) for half in read.chunk(2, dim=-1))
        mean = F.elu(mean)
        for number, block in enumerate(self.blocks, start=1):
            wanted = asking if number == len(self.blocks) else slice(None)
            attended, unbounded = block(mean, unbounded, visible, wanted)
            mean = attended if self.config.means == "attended" else mean[:, wanted]
        return point(mean, unbounded)

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """`{"loss"}` and, with `Ranking`, its parts, averaged over the learnt positions of the batch."""
        target = batch.next_items[:, -self.config.max_length :]  # (B, L)
        if self.config.predict == "last_position":
            states, target = self.newest_state(batch.history)[:, None], target[:, -1:]
        else:
            states = self.states(batch.history)  # (B, L, 2 D)
        learnt = target != PADDING
        states = states[learnt]  # (P, 2 D)
        objective = self.config.objective
        if isinstance(objective, CrossEntropy):
            return {"loss": self._cross_entropy(objective, states, target[learnt])}
        negative = self._negatives(batch, target.shape[1], objective.negatives, noise)[learnt]  # (P, N)
        items = self._points(torch.cat([target[learnt][:, None], negative], dim=1))  # one look-up, one gradient
        return objective(states, items[:, 0], items[:, 1:], negative != PADDING)

    def _cross_entropy(self, objective: CrossEntropy, states: Tensor, target: Tensor) -> Tensor:
        """() over all items: |s|^2 - W(s, j) is the inner product of (2 s, -1) and (j, |j|^2)."""
        items = self.item_points()
        table = torch.cat([items, items.square().sum(dim=1, keepdim=True)], dim=1)
        return objective(F.pad(2 * states, (0, 1), value=-1.0), target, target[:, None], table)

    def _negatives(self, batch: Batch, length: int, size: int, noise: Noise) -> Tensor:
        """(B, L, N) items that the row does not have."""
        return negatives_by_position(batch.own_items, self.n_items, length, size, keys=batch.key, noise=noise)

    def scores(self, query: Query, noise: Noise) -> Tensor:
        """(B, I + 1) minus W. The distances are one product of matrices, and the only thing of that size."""
        state, items = self.newest_state(query.history), self.item_points()
        scores = torch.addmm(-items.square().sum(dim=1), state, items.T, alpha=2)
        return scores.sub_(state.square().sum(dim=1, keepdim=True))

    def item_points(self) -> Tensor:
        """(I + 1, 2 D) the places of all items; row 0 is padding."""
        return point(*self.items.weight.chunk(2, dim=1))

    def _points(self, ids: Tensor) -> Tensor:
        """(..., 2 D) of ids (...)."""
        return point(*self.items(ids).chunk(2, dim=-1))


def _join(x: Tensor) -> Tensor:
    """(B, H, L, E) -> (B, L, H E)."""
    return x.transpose(1, 2).flatten(2)


def _feedforward(dim: int, expansion: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, expansion * dim), nn.ELU(), nn.Linear(expansion * dim, dim))

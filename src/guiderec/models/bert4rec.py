"""BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer (Sun et al., CIKM
2019, arXiv:1904.06690).

Idea       Cloze. Some items of a sequence are masked; a transformer that sees both sides of each says what was there. A
           request is a sequence whose newest item is masked.
Notation   paper -> code:  E -> items.weight (I + 2, D), for input and output, its last row is [mask];  P -> positions;
           rho -> masked;  h^L -> states (B, L + 1, D);  W^P, b^P -> transform;  b^O -> bias (I + 1,)
Order      window() -> gaps() and replacement(), Sec. 3.6 -> states(), Sec. 3.3 and 3.4 -> _answer(), Sec. 3.5 -> loss()
           -> user_vectors()
Facts      authors' public code (FeiSun/BERT4Rec: gen_data_fin.py, modeling.py, run.py) for sizes, masks and the head.
Rows       A row is a window: its history and, as its newest item, its target. Windows that share no more than one item
           (`training_rows = "windows"`) or one row per user are enough; every prefix works and costs more.
Places     A window has L + 1 positions, L = `max_length`. A request needs one for [mask], and L means for this model
           what it means for the others: items of the history. The authors' window has L, of which a request fills one.
Departs    1. Masks are drawn anew whenever a row is learnt. The public code draws each window ten times before
              training and adds it once with its newest item masked: of its samples one in eleven, which is the
              probability here (`newest_only`).
           2. Windows start L items apart. The public code's start 0.1 L (Beauty) or 0.5 L (ML-1M) apart.
           3. Classes are the items: padding, [mask] and the unused tokens have no probability, and random replacements
              are never the masked item itself.
           4. The most masks of a window, 30 of 50 in the public code, is what its ratio gives in any case.
           5. No embedding of the token's type: all have one, so that it is part of the positions.
           6. Weight decay of all parameters; the public code leaves norms and biases out. LayerNorm's epsilon is
              torch's.
           7. The item bias is one more coordinate of the item vectors, against a user vector that is 1 there: ranking
              is by the logits that were learnt, exactly.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.config import Part
from guiderec.data.batch import PADDING, Batch, Query
from guiderec.models.base import EmbeddingRecommender, ModelConfig, require_divisors
from guiderec.nn.attention import two_sided_mask
from guiderec.nn.buckets import by_history
from guiderec.nn.embedding import Counting, PositionEmbedding
from guiderec.nn.next_item import softmax_loss
from guiderec.nn.transformer import TransformerEncoder
from guiderec.rng import Noise

STD = 0.02
"""Deviation of the normal law that weights are drawn from, before it is cut at two of them."""


class AlwaysMask(Part):
    """[mask] stands in every gap: the authors' settings (`mask_prob` 1.0)."""

    name: Literal["mask"] = "mask"

    def __call__(self, items: Tensor, key: Tensor, noise: Noise, n_items: int) -> Tensor:
        """(B, W) what stands in the place of items (B, W), were all of them gaps."""
        return torch.full_like(items, n_items + 1)


class Mixed(Part):
    """In a gap stands [mask], or another item, or the item itself, as in BERT (80, 10 and 10%)."""

    name: Literal["mixed"] = "mixed"
    mask: float = Field(0.8, ge=0, le=1)
    """Probability of [mask]."""
    random: float = Field(0.1, ge=0, le=1)
    """Probability of another item, uniform over all but the one that is there. What is left keeps the item."""

    @model_validator(mode="after")
    def _probabilities(self) -> Mixed:
        if self.mask + self.random > 1:
            raise ValueError(f"mask + random = {self.mask + self.random:g}, which is no probability")
        return self

    def __call__(self, items: Tensor, key: Tensor, noise: Noise, n_items: int) -> Tensor:
        """(B, W) what stands in the place of items (B, W), were all of them gaps."""
        width = items.shape[1]
        chance = noise.uniform(key, width, "replacement").flip(1)  # newest first, so that padding moves no draw
        other = 1 + noise.integers(key, width, max(1, n_items - 1), "other items").flip(1)
        other = other + (other >= items)  # steps over the item; where it is the only one, this is [mask]
        kept = torch.where(chance < self.mask + self.random, other, items)
        return torch.where(chance < self.mask, n_items + 1, kept)


Replacement = Annotated[AlwaysMask | Mixed, Field(discriminator="name")]


class BERT4RecConfig(ModelConfig):
    """Options of BERT4Rec. Defaults are those of the authors' code for Amazon Beauty."""

    name: Literal["bert4rec"] = "bert4rec"
    dim: int = Field(64, ge=1)
    """D, width of items, positions and states."""
    layers: int = Field(2, ge=1)
    """Number of blocks."""
    heads: int = Field(2, ge=1)
    """Number of attention heads; divides `dim`."""
    expansion: int = Field(4, ge=1)
    """Hidden width of the position-wise network in multiples of `dim`."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout of the input and of each residual branch. The authors have 0.2 for ML-1M."""
    attention_dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout of attention weights."""
    counting: Counting = "from_start"
    """Position 0 is the oldest item of the window, or the newest, which at a request is [mask]."""
    max_length: int = Field(50, ge=1)
    """L, the longest history. Of a longer one the newest items count. There are L + 1 positions."""
    masked: float = Field(0.6, gt=0, le=1)
    """rho, the share of a window that is masked, rounded to whole items and at least one. The authors have 0.6 for
    Beauty, 0.4 for Steam, 0.2 for ML-1M and ML-20M."""
    newest_only: float = Field(1 / 11, ge=0, le=1)
    """Share of the rows of which only the newest item is masked, as at a request. It is always [mask]."""
    replacement: Replacement = AlwaysMask()
    """What stands in the gaps of all other rows."""

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> BERT4RecConfig:
        require_divisors(self.dim, {"heads": self.heads})
        return self


class BERT4Rec(EmbeddingRecommender):
    """A two-sided transformer that restores masked items; a request asks for a masked item after the newest one.

    An empty history is [mask] alone. That is learnt where training has such rows, as sessions do.

    Initialisation: tables and maps N(0, 0.02^2) cut at two deviations, biases 0, norms the identity.
    """

    Config: ClassVar[type[ModelConfig]] = BERT4RecConfig

    def __init__(self, config: BERT4RecConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.items = nn.Embedding(n_items + 2, config.dim, padding_idx=PADDING)
        self.positions = PositionEmbedding(config.max_length + 1, config.dim, config.counting)
        self.encoder = TransformerEncoder(
            config.dim,
            layers=config.layers,
            heads=config.heads,
            hidden=config.expansion * config.dim,
            dropout=config.dropout,
            hidden_dropout=0.0,
            attention_dropout=config.attention_dropout,
            norm="post",
        )
        self.transform = nn.Linear(config.dim, config.dim)
        self.transform_norm = nn.LayerNorm(config.dim)
        self.bias = nn.Parameter(torch.zeros(n_items + 1))
        nn.init.zeros_(self.transform.bias)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=STD, a=-2 * STD, b=2 * STD)
        with torch.no_grad():
            self.items.weight[PADDING].zero_()

    @property
    def mask_token(self) -> int:
        """The id of [mask], after those of the items."""
        return self.n_items + 1

    # -------------------------------------------------------------------------------------------- training

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """`{"loss"}`: `-log softmax(answer . items + bias)` of the masked items, averaged over those of the batch."""
        window = self.window(batch)
        gaps, newest_only = self.gaps(window != PADDING, batch.key, noise)
        inserted = self.config.replacement(window, batch.key, noise, self.n_items)
        inserted = torch.where(newest_only[:, None], self.mask_token, inserted)
        states = self.states(torch.where(gaps, inserted, window))
        return {"loss": softmax_loss(self._answer(states[gaps]), self.item_vectors()[1:], window[gaps] - 1)}

    def window(self, batch: Batch) -> Tensor:
        """(B, L + 1) the newest L items of each history, and the target."""
        return torch.cat([batch.history[:, -self.config.max_length :], batch.target[:, None]], dim=1)

    def gaps(self, mask: Tensor, key: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """(B, W) True at gaps, and (B,) True where the newest item is the only one, for a mask (B, W) of windows.

        mask  0 0 1 1 1 1 1     at rho = 0.4, two of five     0 0 0 1 0 0 1
                                newest only                   0 0 0 0 0 0 1
        """
        newest_only = noise.uniform(key, 1, "newest only")[:, 0] < self.config.newest_only
        drawn = noise.uniform(key, mask.shape[1], "gaps").flip(1)  # newest first, so that padding moves no draw
        rank = drawn.masked_fill(~mask, 2.0).argsort(dim=1).argsort(dim=1)
        count = (self.config.masked * mask.sum(dim=1).double()).round().clamp(min=1)
        newest = torch.arange(mask.shape[1], device=mask.device) == mask.shape[1] - 1
        return torch.where(newest_only[:, None], newest, rank < count[:, None]), newest_only

    # -------------------------------------------------------------------------------------------- network

    def states(self, tokens: Tensor) -> Tensor:
        """(B, W, D) at every position of tokens (B, W); W at most L + 1. Those at padding have no meaning."""
        width = tokens.shape[1]

        def encode(part: Tensor, rows: Tensor) -> Tensor:
            return F.pad(self.encoder(*self._input(part)), (0, 0, width - part.shape[1], 0))

        return by_history(tokens, tokens != PADDING, encode)

    def _input(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder reads (B, W, D), and where it may look (B, 1, W, W)."""
        mask = tokens != PADDING
        x = self.items(tokens) + self.positions(mask)
        return x * mask[..., None], two_sided_mask(mask)

    def _answer(self, states: Tensor) -> Tensor:
        """(P, D + 1) the head's reading of states (P, D), and the 1 that the items' biases are multiplied with."""
        return F.pad(self.transform_norm(F.gelu(self.transform(states))), (0, 1), value=1.0)

    # -------------------------------------------------------------------------------------------- ranking

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, 1, D + 1) the answer at [mask], which follows the newest L items."""
        history = query.history[:, -self.config.max_length :]
        tokens = F.pad(history, (0, 1), value=self.mask_token)
        newest = by_history(tokens, tokens != PADDING, lambda part, rows: self.encoder.last(*self._input(part)))
        return self._answer(newest)[:, None]

    def item_vectors(self) -> Tensor:
        """(I + 1, D + 1) the table of the input without [mask], and the biases."""
        return torch.cat([self.items.weight[:-1], self.bias[:, None]], dim=1)

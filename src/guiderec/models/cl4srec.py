"""CL4SRec: Contrastive Learning for Sequential Recommendation (Xie, Sun, Liu, Wu, Gao, Zhang, Ding and Cui, ICDE 2022,
arXiv:2010.14395).

Idea       SASRec, regularised: of every history two views are made, each with some of its items cut off, hidden or out
           of order, and the states of the two must know each other among those of the batch.
Notation   paper -> code:  s_u -> history (B, L);  s_u^a -> views (2B, L);  a -> Crop, Mask, Reorder;  eta -> Crop.kept;
           gamma -> Mask.ratio;  beta -> Reorder.ratio;  [mask] -> hidden (D,);  lambda -> contrast_weight;
           L_main -> recommendation;  L_cl -> contrast
Order      Crop, Mask, Reorder -> views() -> contrast() -> recommendation() in `base.py` -> loss()
Facts      The authors' code is not public. Sizes, shares and weights are those of its usual re-implementation
           (RuihongQiu/DuoRec: cl4srec.py, sequential_dataloader.py).
Departs    1. Views are copies. In that re-implementation Mask and Reorder write into the training data itself, so that
              histories decay from epoch to epoch.
           2. L_main is the cross-entropy over all items at every position; the paper's softmax has sampled negatives.
              That re-implementation learns the row's target alone: `predict = "last_position"`.
           3. Histories are augmented without the target of the row, as there; a history without an item has no views.
           4. The hidden item is a vector of its own, no row of the item table: it is never a class and never ranked.
           5. Dropout also of the hidden units of the position-wise networks; LayerNorm's epsilon is torch's.
Noted      Numbers of items are rounded down: histories of fewer than four items have none hidden (gamma = 0.3), of a
           history of two items Crop keeps one and Reorder moves none, and the views of one item are both that item. On
           the users of Amazon Beauty half of the histories have no more than six items.
           Rows of a batch with like histories, and other rows of the same user, count as negatives of each other.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from guiderec.config import Part
from guiderec.data.batch import PADDING, Batch
from guiderec.models.base import ModelConfig, NextItemConfig, NextItemRecommender
from guiderec.nn.contrastive import Similarity, info_nce
from guiderec.nn.transformer import Norm
from guiderec.rng import Noise, subkeys

# ------------------------------------------------------------------------------------------------ augmentations


class Crop(Part):
    """Keep a run of the items, wherever it begins."""

    name: Literal["crop"] = "crop"
    kept: float = Field(0.6, gt=0, le=1)
    """eta, share of the history that is kept, rounded down to whole items; one at least."""

    def __call__(self, history: Tensor, key: Tensor, noise: Noise, hidden: int) -> Tensor:
        """(B, L) for histories (B, L) and the keys (B,) of the views.

        history  0 0 3 1 4 1 5      three kept, the newest of them the last but one      0 0 0 0 1 4 1
        """
        length = (history != PADDING).sum(dim=1)
        kept = share(self.kept, length).clamp(min=1)
        dropped = below(length - kept + 1, key, noise, "crop")  # of the newest items
        age = ages(history)
        source = (age + dropped[:, None]).clamp(max=history.shape[1] - 1)
        return history.gather(1, history.shape[1] - 1 - source) * (age < kept[:, None])


class Mask(Part):
    """Hide some items, each choice of them equally likely."""

    name: Literal["mask"] = "mask"
    ratio: float = Field(0.3, ge=0, le=1)
    """gamma, share of the history that is hidden, rounded down to whole items."""

    def __call__(self, history: Tensor, key: Tensor, noise: Noise, hidden: int) -> Tensor:
        """(B, L) for histories (B, L) and the keys (B,) of the views; `hidden` stands for a hidden item.

        history  0 0 3 1 4 1 5      two hidden      0 0 3 h 4 1 h
        """
        mask = history != PADDING
        drawn = noise.uniform(key, history.shape[1], "mask").flip(1)  # newest first, so that padding moves no draw
        rank = drawn.masked_fill(~mask, 2.0).argsort(dim=1, stable=True).argsort(dim=1)
        return torch.where(rank < share(self.ratio, mask.sum(dim=1))[:, None], hidden, history)


class Reorder(Part):
    """Shuffle a run of the items, wherever it begins."""

    name: Literal["reorder"] = "reorder"
    ratio: float = Field(0.6, ge=0, le=1)
    """beta, share of the history that is shuffled, rounded down to whole items."""

    def __call__(self, history: Tensor, key: Tensor, noise: Noise, hidden: int) -> Tensor:
        """(B, L) for histories (B, L) and the keys (B,) of the views.

        history  0 0 3 1 4 1 5      three shuffled, the newest of them the last but one      0 0 3 4 1 1 5
        """
        length = (history != PADDING).sum(dim=1)
        count = share(self.ratio, length)
        newest = below(length - count + 1, key, noise, "reorder/where")[:, None]  # age of the youngest that moves
        age = ages(history)
        shuffled = (age >= newest) & (age < newest + count[:, None])
        drawn = noise.uniform(key, history.shape[1], "reorder/order").flip(1)
        order = torch.where(shuffled, newest + drawn, age.double())  # [newest, newest + 1) is between the ages outside
        return history.gather(1, order.argsort(dim=1, descending=True, stable=True))


Augmentation = Annotated[Crop | Mask | Reorder, Field(discriminator="name")]


def share(ratio: float, length: Tensor) -> Tensor:
    """(B,) int64, the share of lengths (B,), rounded down to whole items (0.29 of 100 is 29, whatever floats say)."""
    return (ratio * length.double() + 1e-9).floor().long()


def below(high: Tensor, key: Tensor, noise: Noise, purpose: str) -> Tensor:
    """(B,) int64, uniform in {0, ..., high - 1} for bounds (B,) of at least 1."""
    return noise.bits(key, 1, purpose)[:, 0] % high.clamp(min=1)


def ages(history: Tensor) -> Tensor:
    """(L,) 0 for the newest position, L - 1 for the oldest."""
    return torch.arange(history.shape[1] - 1, -1, -1, device=history.device)


# ------------------------------------------------------------------------------------------------ model


class CL4SRecConfig(NextItemConfig):
    """Options of CL4SRec. Defaults are those of its usual re-implementation."""

    name: Literal["cl4srec"] = "cl4srec"
    dim: int = Field(64, ge=1)
    """Width D of items, positions and states."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Probability of dropping an entry of the input, of the attention weights and of each residual branch."""
    norm: Norm = "post"
    """Layer norm after each residual sum, or before each part of a block."""
    augmentations: tuple[Augmentation, ...] = Field((Crop(), Mask(), Reorder()), min_length=1)
    """What a view may be made by. With one of them, both views are made by it, with draws of their own."""
    pair: Literal["different", "independent"] = "different"
    """The two views of a history are made by two different augmentations, all pairs equally likely; or each by any."""
    contrast_weight: float = Field(0.1, ge=0)
    """lambda, of InfoNCE between the two views. 0 makes no views."""
    temperature: float = Field(1.0, gt=0)
    """tau of the contrast."""
    similarity: Similarity = "dot"
    """What the contrast compares states by."""


class CL4SRec(NextItemRecommender):
    """A causal transformer over the history whose states know two views of one history among the others of the batch.

    Inference is SASRec's. The contrast is within the batch; with several processes, within each share.

    Initialisation: everything N(0, 0.02^2), the hidden item too; biases 0, norms the identity.
    """

    Config: ClassVar[type[ModelConfig]] = CL4SRecConfig

    def __init__(self, config: CL4SRecConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.hidden = nn.Parameter(torch.randn(config.dim) * 0.02)

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """L_main + lambda L_cl, and the two of them."""
        recommendation, _ = self.recommendation(batch, noise)
        contrast = torch.zeros_like(recommendation)
        if self.config.contrast_weight > 0:
            contrast = self.contrast(batch.history[:, -self.config.max_length :], batch.key, noise)
        loss = recommendation + self.config.contrast_weight * contrast
        return {"loss": loss, "recommendation": recommendation, "contrast": contrast}

    def contrast(self, history: Tensor, key: Tensor, noise: Noise) -> Tensor:
        """() InfoNCE between the newest states of two views of histories (B, L); rows without an item take no part."""
        present = (history != PADDING).any(dim=1)
        first, second = self.newest_state(self.views(history[present], key[present], noise)).chunk(2)
        config: CL4SRecConfig = self.config
        return info_nce(first, second, temperature=config.temperature, similarity=config.similarity)

    def views(self, history: Tensor, key: Tensor, noise: Noise) -> Tensor:
        """(2B, L) the histories (B, L), changed: B first views, then B second ones; n_items + 1 is the hidden item."""
        history = history.repeat(2, 1)
        keys = torch.cat([subkeys(key, key.new_tensor(view)) for view in range(2)])
        chosen = self.chosen(key, noise)
        views = history
        for number, augmentation in enumerate(self.config.augmentations):
            made = augmentation(history, keys, noise, self.n_items + 1)
            views = torch.where((chosen == number)[:, None], made, views)
        return views

    def chosen(self, key: Tensor, noise: Noise) -> Tensor:
        """(2B,) number of the augmentation that makes each view, for row keys (B,)."""
        count = len(self.config.augmentations)
        first = noise.integers(key, 1, count, "views/first")[:, 0]
        if self.config.pair == "independent" or count == 1:
            second = noise.integers(key, 1, count, "views/second")[:, 0]
        else:
            second = (first + 1 + noise.integers(key, 1, count - 1, "views/second")[:, 0]) % count
        return torch.cat([first, second])

    def _vectors(self, history: Tensor) -> Tensor:
        """(B, L, D) item vectors, and the vector of the hidden item where one is hidden."""
        is_hidden = history > self.n_items
        return torch.where(is_hidden[..., None], self.hidden, self.items(history.masked_fill(is_hidden, PADDING)))

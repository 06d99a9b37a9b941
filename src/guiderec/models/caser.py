"""Caser: Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding (Tang and Wang, WSDM 2018,
arXiv:1809.07426).

Idea       The vectors of the newest L items, one under the other, are an image of L rows and D columns. Horizontal
           filters are as wide as the image and h = 1..L rows high: each looks for some h items in a row, wherever they
           stand. Vertical filters are weighted sums of the rows. What both find predicts the next T items and not the
           very next one alone, since people skip steps.
Notation   paper -> code:  E -> image (B, S, D);  F^k, o -> horizontal;  F~^k, o~ -> vertical;  W, b -> fully_connected;
           W', b' -> outputs (I + 1, D + 1), whose last column is b';  x = [z ; 1] -> state (B, D + 1)
Order      found(): Sec. 3.2 -> state(): Sec. 3.3 -> wanted(), loss(): Sec. 3.4 -> user_vectors(): the newest window
Facts      authors' public code (graytowne/caser_pytorch: caser.py, train_caser.py, interactions.py) for sizes, rates,
           initialisation, the ReLU on horizontal filters and on z and none on vertical ones, and three negatives.
Departs    1. No user vector: x = z where the paper has [z ; P_u], since the users of most protocols are new. W' is D
              wide and not 2 D; its deviation, one over its width, follows.
           2. b' is the last column of the items' vectors and meets a 1 in the user's, so that the answer is an inner
              product with the bias in it, for serving as for ranking.
           3. Windows end at every item of a row, and predict those of the next T items that the row has. The public
              code slides windows of L + T whole items, so that it sees no short history of anybody who has more; of a
              shorter sequence it makes one padded window, whose targets may be padding.
           4. Three negatives for each target, as the help of the public code says (its newest version draws three for
              each window), and their mean is taken, as there. They avoid the items of the row, not all of the user's.
           5. Padding is zero in both tables for good, is no target and is never ranked. The public code trains and
              ranks it.
           6. AdamW without decay, where the public code has Adam with a penalty of 1e-6.

Shapes     B rows, S positions of a row, L the window, T targets, P = S - L + 1 windows, D width, I items.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.data.batch import PADDING, Batch, Query
from guiderec.models.base import EmbeddingRecommender, ModelConfig
from guiderec.nn.buckets import by_history
from guiderec.nn.dropout import Dropout
from guiderec.nn.embedding import item_embedding
from guiderec.nn.next_item import BinaryCrossEntropy, NextItemObjective
from guiderec.nn.sampling import negatives_by_position
from guiderec.rng import Noise


class CaserConfig(ModelConfig):
    """Options of Caser. The defaults are those of the authors' code, for MovieLens-1M."""

    name: Literal["caser"] = "caser"
    dim: int = Field(50, ge=1)
    """D, width of items and of z."""
    window: int = Field(5, ge=1)
    """L, the newest items that are looked at. Longer histories are cut into windows in training, and cut to the newest
    one at inference."""
    targets: int = Field(3, ge=1)
    """T, how many of the items after a window it learns to predict."""
    horizontal: int = Field(16, ge=0)
    """Horizontal filters of each height 1..L; 0 leaves them out."""
    vertical: int = Field(4, ge=0)
    """Vertical filters; 0 leaves them out."""
    init_std: float | None = Field(None, gt=0)
    """Deviation of the initial items; None is 1 / D. Items this short begin far below the biases of the filters, and it
    takes many steps until anything depends on the history: where there are few, begin with longer ones."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Probability of dropping what a filter found."""
    predict: Literal["every_position", "last_position"] = "every_position"
    """Learn all pairs of a window and a target that a row has, or those with the row's target alone. The second over
    every prefix of a sequence is the first over the sequence."""
    objective: NextItemObjective = BinaryCrossEntropy(negatives=3)
    """What is minimised for each pair of a window and a target. Cross-entropy over all items costs T times as much for
    T targets."""

    @model_validator(mode="after")
    def _some_filters(self) -> Self:
        if not self.horizontal + self.vertical:
            raise ValueError("horizontal = 0 and vertical = 0 leave no filter: at least one must be there")
        return self


class Caser(EmbeddingRecommender):
    """Convolutions over the vectors of the newest items; the output table has a bias.

    Initialisation: items N(0, init_std^2), outputs N(0, 1 / D^2), biases of items 0, filters and the fully connected
    layer as torch does (uniform within one over the square root of how many numbers an output reads).
    """

    Config: ClassVar[type[ModelConfig]] = CaserConfig

    def __init__(self, config: CaserConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.items = item_embedding(n_items, config.dim, std=config.init_std or 1 / config.dim)
        self.horizontal = Horizontal(config.dim, config.window, config.horizontal) if config.horizontal else None
        self.vertical = Vertical(config.window, config.vertical) if config.vertical else None
        self.dropout = Dropout(config.dropout)
        self.fully_connected = nn.Linear(config.window * config.horizontal + config.vertical * config.dim, config.dim)
        self.outputs = item_embedding(n_items, config.dim + 1, std=1 / config.dim)
        with torch.no_grad():
            self.outputs.weight[:, -1].zero_()

    def found(self, history: Tensor) -> Tensor:
        """(B, P, F) what the filters find in the windows of rows (B, S), S = P + L - 1: [o ; o~]."""
        image = self.items(history)
        return torch.cat([part(image) for part in (self.horizontal, self.vertical) if part is not None], dim=2)

    def state(self, found: Tensor) -> Tensor:
        """(..., D + 1) x = [z ; 1] for z = ReLU(W [o ; o~] + b)."""
        z = self.fully_connected(self.dropout(found)).relu()
        return F.pad(z, (0, 1), value=1.0)

    def wanted(self, history: Tensor, target: Tensor) -> Tensor:
        """(B, S, T) what the window that ends at each position is to predict; 0 where that is nothing.

        history  0 0 4 7 9   target 2        T = 2
        wanted   . . 7 9 2                   the next item; `last_position` keeps no more than . . . . 2
                 . . 9 2 .                   the one after; `last_position` keeps no more than . . . 2 .

        An empty history has one window, at the newest position.
        """
        size, length = self.config.targets, history.shape[1]
        later = torch.cat([history[:, 1:], target[:, None]], dim=1)
        later = F.pad(later, (0, size - 1)).unfold(1, size, 1)
        ends = history != PADDING
        ends[:, -1] = True
        learnt = ends[..., None]
        if self.config.predict == "last_position":
            before, after = (torch.arange(n, device=history.device) for n in (length, size))
            learnt = learnt & (before[:, None] + after == length - 1)
        return later * learnt

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """`{"loss"}`, averaged over the pairs of a window and a target."""
        history = batch.history
        if self.config.predict == "last_position":  # no other window has the row's target
            history = history[:, -(self.config.window + self.config.targets - 1) :]
        wanted = self.wanted(history, batch.target)
        pairs = wanted != PADDING  # (B, S, T)
        ends = pairs.any(dim=2)
        states = self.state(self._found_at_every_position(history)[ends])  # (windows, D + 1)
        window = pairs[ends].nonzero()[:, 0]
        objective = self.config.objective
        negatives = self._negatives(batch, history.shape[1], objective.negatives, noise)[pairs]
        return {"loss": objective(states[window], wanted[pairs], negatives, self.outputs.weight)}

    def _found_at_every_position(self, history: Tensor) -> Tensor:
        """(B, S, F) for the windows that end at each position of rows (B, S). At padding it has no meaning, except for
        the newest position of an empty history.

        Neighbouring windows share L - 1 rows, so the filters pass over the items of a row once: what one finds in a
        place does not depend on the window that the place is seen in.
        """
        length = history.shape[1]

        def find(part: Tensor, rows: Tensor) -> Tensor:
            found = self.found(F.pad(part, (self.config.window - 1, 0)))
            return F.pad(found, (0, 0, length - part.shape[1], 0))

        return by_history(history, history != PADDING, find)

    def _negatives(self, batch: Batch, length: int, size: int, noise: Noise) -> Tensor:
        """(B, S, T, N) items that the row does not have, for the newest S positions."""
        targets = self.config.targets
        drawn = negatives_by_position(
            batch.own_items, self.n_items, length, targets * size, keys=batch.key, noise=noise
        )
        return drawn.view(len(batch), length, targets, size)

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, 1, D + 1) x of the newest window."""
        newest = query.history[:, -self.config.window :]
        return self.state(self.found(F.pad(newest, (self.config.window - newest.shape[1], 0))))

    def item_vectors(self) -> Tensor:
        """(I + 1, D + 1) [W' ; b']."""
        return self.outputs.weight


class Horizontal(nn.Module):
    """ReLU of the inner products of filters (h, D) with any h rows in a row, h = 1..L; the largest of each window."""

    def __init__(self, dim: int, window: int, filters: int) -> None:
        super().__init__()
        self.heights = nn.ModuleList(nn.Conv1d(dim, filters, height) for height in range(1, window + 1))

    def forward(self, image: Tensor) -> Tensor:
        """(B, S, D) -> (B, P, L n), first the n filters of height 1."""
        columns = image.transpose(1, 2)
        places = range(len(self.heights), 0, -1)  # L - h + 1 of them in a window
        found = [
            F.max_pool1d(convolution(columns).relu(), place, stride=1)
            for convolution, place in zip(self.heights, places, strict=True)
        ]
        return torch.cat(found, dim=1).transpose(1, 2)


class Vertical(nn.Module):
    """Weighted sums of the L rows of a window, the same weights for all columns, and a bias for each filter."""

    def __init__(self, window: int, filters: int) -> None:
        super().__init__()
        self.window = window
        self.weights = nn.Linear(window, filters)

    def forward(self, image: Tensor) -> Tensor:
        """(B, S, D) -> (B, P, n D), first the D columns of filter 1."""
        sums: Tensor = self.weights(image.unfold(1, self.window, 1))  # (B, P, D, n)
        return sums.transpose(2, 3).flatten(2)

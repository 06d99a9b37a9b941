"""The contract of every model: `Recommender`, and `EmbeddingRecommender` for models that rank by inner product.

A model is constructed from its `Config` and the number of items, knows one device, and is trained by
`training/loop.py` through `loss` alone. The file's name is the model's name: `models/steerrec.py` holds exactly one
`Recommender`, whose `Config` has `name: Literal["steerrec"] = "steerrec"`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from guiderec.config import Part
from guiderec.data.batch import PADDING, Batch, Query
from guiderec.data.sequences import Sequences
from guiderec.diffusion.denoisers import DENOISERS
from guiderec.diffusion.generation import Generator
from guiderec.diffusion.objectives import distance
from guiderec.nn.history import LastStateEncoder
from guiderec.rng import Noise


class ModelConfig(Part):
    """Options of a model. Every subclass fixes `name` to the name of its file."""

    name: str


class Recommender(nn.Module):
    """Scores every item of the catalogue for a history."""

    Config: ClassVar[type[ModelConfig]]
    steers: bool = False
    """True: dislikes change what is generated. False: they can only be filtered from the list. A model that knows
    only from its options sets this in its constructor."""
    trains: ClassVar[bool] = True
    """False: `prepare` is all the training there is (popularity, Markov)."""

    def __init__(self, config: Any, n_items: int) -> None:
        super().__init__()
        self.config = config
        self.n_items = n_items

    def prepare(self, train: Sequences) -> None:
        """Look at the training sequences once, before training. The default does nothing.

        What is found must be stored in buffers, so that it travels with the weights.
        """

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """`{"loss": (), ...}`: the scalar to minimise and its named parts, averaged over rows."""
        raise NotImplementedError(f"{type(self).__name__} has no loss: it is fitted by `prepare`.")

    def scores(self, query: Query, noise: Noise) -> Tensor:
        """(B, I + 1) the higher the better; column j is item j. Column 0 has no meaning and is never read."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the model's tensors are."""
        return next(iter([*self.parameters(), *self.buffers()])).device


class EmbeddingRecommender(Recommender):
    """Ranks by the best inner product of K user vectors with the item vectors."""

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, K, D), K interests, usually 1."""
        raise NotImplementedError

    def item_vectors(self) -> Tensor:
        """(I + 1, D); row 0 is padding and never read."""
        raise NotImplementedError

    def scores(self, query: Query, noise: Noise) -> Tensor:
        """(B, I + 1) inner product with the best interest."""
        return (self.user_vectors(query, noise) @ self.item_vectors().T).amax(dim=1)


class HistoryConditioned(EmbeddingRecommender):
    """Generates the embedding of the next item under the last state of the encoded history.

    What DreamRec, PreferDiff and SteerRec share. Their losses, and what guidance goes away from, stand in their files.
    `config` has dim, max_length, heads, dropout, residual, denoiser, schedule, distance and generation.

    Initialisation: items (I + 1, D) and null token (D,) N(0, 1); the encoder as in `nn/history.py`; the linear denoiser
    as one torch Linear.
    """

    def __init__(self, config: Any, n_items: int) -> None:
        super().__init__(config, n_items)
        self.items = nn.Embedding(n_items + 1, config.dim, padding_idx=PADDING)
        self.null = nn.Parameter(torch.randn(config.dim))
        self.encoder = LastStateEncoder(
            config.dim, config.max_length, heads=config.heads, dropout=config.dropout, residual=config.residual
        )
        self.denoiser = DENOISERS[config.denoiser](config.dim)
        self.schedule = config.schedule()
        self.distance = distance(config.distance)
        self.generator = Generator(config.generation, self.schedule, self.denoiser)

    def encode(self, query: Query) -> Tensor:
        """History -> condition (B, D)."""
        history = query.history[:, -self.config.max_length :]
        return self.encoder(self.items(history), history != PADDING)

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """History (B, L, D) and target (B, D) in one look-up, so that the table gets one gradient and not two."""
        history = batch.history[:, -self.config.max_length :]
        vectors = self.items(torch.cat([history, batch.target[:, None]], dim=1))
        return vectors[:, :-1], vectors[:, -1]

    def item_vectors(self) -> Tensor:
        """(I + 1, D)."""
        return self.items.weight

"""The contract of every model: `Recommender`, and `EmbeddingRecommender` for models that rank by inner product.

A model is constructed from its `Config` and the number of items, knows one device, and is trained by
`training/loop.py` through `loss` alone. The file's name is the model's name: `models/steerrec.py` holds exactly one
`Recommender`, whose `Config` has `name: Literal["steerrec"] = "steerrec"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeGuard, runtime_checkable

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.config import Part
from guiderec.data.batch import PADDING, Batch, Query
from guiderec.data.sequences import Sequences
from guiderec.diffusion.denoisers import DENOISERS
from guiderec.diffusion.generation import Generation, Generator, SampledGeneration, step_noise
from guiderec.diffusion.interests import Form, InterestDenoiser
from guiderec.diffusion.objectives import Draw, distance, draw, softmax_against
from guiderec.diffusion.samplers import walk
from guiderec.diffusion.schedule import Exponential, ScheduleConfig
from guiderec.diffusion.sphere import SphereConfig, StatesOnSphere
from guiderec.errors import ConfigError
from guiderec.nn.attention import causal_mask
from guiderec.nn.buckets import by_history
from guiderec.nn.embedding import Counting, PositionEmbedding, item_embedding
from guiderec.nn.history import LastStateEncoder
from guiderec.nn.interests import with_start
from guiderec.nn.next_item import CrossEntropy, NextItemObjective
from guiderec.nn.sampling import items_outside, negatives_by_position
from guiderec.nn.transformer import Norm, TransformerEncoder
from guiderec.rng import Noise


class ModelConfig(Part):
    """Options of a model. Every subclass fixes `name` to the name of its file."""

    name: str


def require_divisors(dim: int, widths: Mapping[str, int]) -> None:
    """For validators of configurations: ValueError, naming all `widths` that do not divide `dim`."""
    if wrong := [f"{name} = {width}" for name, width in widths.items() if dim % width]:
        raise ValueError(f"{', '.join(wrong)} {'does' if len(wrong) == 1 else 'do'} not divide dim = {dim}")


class Recommender(nn.Module):
    """Scores every item of the catalogue for a history."""

    Config: ClassVar[type[ModelConfig]]
    steers: bool = False
    """True: dislikes change what is generated. False: they can only be filtered from the list. A model that knows
    only from its options sets this in its constructor."""
    steers_by_likes: bool = False
    """True: likes change what is generated. False: they can only be taken for a part of the history."""
    explains: bool = False
    """True: a score is a sum of what the history and each wish gave; see `EmbeddingRecommender.parts`."""
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
        return next(chain(self.parameters(), self.buffers())).device


class Parts(NamedTuple):
    """What user vectors are made of: all their vectors, over the second axis and over the four parts, sum to them."""

    history: Tensor
    """(B, 1, D)."""
    base: Tensor
    """(B, 1, D) what everybody is given."""
    likes: Tensor
    """(B, K, D), one for each like of the query; K = 0 without likes."""
    dislikes: Tensor
    """(B, K, D), one for each dislike of the query; K = 0 without dislikes."""


class CandidateIndex(Protocol):
    """Finds items that probably score high, without scoring all of them (`evaluation/index.py`)."""

    refine: int
    """Candidates that are scored per wanted item."""

    @property
    def n_items(self) -> int:
        """I, the items it was built of."""
        ...

    def candidates(self, users: Tensor, count: int, *, effort: int = 1) -> Tensor:
        """(B, C) items for users (B, K, D), `count` or fewer per interest; 0 is none, and an item may be repeated."""
        ...

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """(B, K, C) inner products of users (B, K, D) with the vectors of items (B, C); what 0 gets has no meaning."""
        ...


class EmbeddingRecommender(Recommender):
    """Ranks by the best inner product of K user vectors with the item vectors."""

    n_interests: int = 1
    """K. A model that has more sets this in its constructor; lists then say which one brought each item."""
    index: CandidateIndex | None = None
    """Where set, lists are made of its candidates; None scores every item. Ranks of targets never use it."""

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, K, D), K interests, usually 1."""
        raise NotImplementedError

    def item_vectors(self) -> Tensor:
        """(I + 1, D); row 0 is padding and never read."""
        raise NotImplementedError

    def parts(self, query: Query, noise: Noise) -> Parts:
        """What `user_vectors` are the sum of, for models that say `explains`."""
        raise NotImplementedError(f"{type(self).__name__} has user vectors that are no sum of parts.")

    def scores(self, query: Query, noise: Noise) -> Tensor:
        """(B, I + 1) inner product with the best interest."""
        return (self.user_vectors(query, noise) @ self.item_vectors().T).amax(dim=1)


def ranks_by_vectors(model: Recommender) -> TypeGuard[EmbeddingRecommender]:
    """Whether scores are inner products. A model may inherit from EmbeddingRecommender and still score its own way."""
    return isinstance(model, EmbeddingRecommender) and type(model).scores is EmbeddingRecommender.scores


@runtime_checkable
class Routed(Protocol):
    """A model that can say how the items of a history are routed to its interests."""

    def routing(self, query: Query) -> Tensor:
        """(B, L, K) weights from 0 on, for histories (B, L) that the model reads whole; 0 at padding.

        What they sum to is the model's: 1 over the items for each interest (self-attention), or 1 over the interests
        for each item (capsules).
        """
        ...


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


class CausalConfig(ModelConfig):
    """Options of a causal transformer over the history. The defaults suit short histories of sparse catalogues."""

    dim: int = Field(128, ge=1)
    """Width D of items, positions and states."""
    layers: int = Field(2, ge=0)
    """Number of blocks."""
    heads: int = Field(2, ge=1)
    """Number of attention heads; divides `dim`."""
    expansion: int = Field(4, ge=1)
    """Hidden width of the position-wise network in multiples of `dim`."""
    dropout: float = Field(0.4, ge=0, lt=1)
    """Probability of dropping an entry of the input, of the attention weights and of each residual branch."""
    norm: Norm = "pre"
    """Layer norm before each part of a block, or after each residual sum."""
    counting: Counting = "from_start"
    """Position 0 is the oldest item of the history, or the newest."""
    max_length: int = Field(50, ge=1)
    """Number of positions. Of a longer history the newest `max_length` items count."""

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> Self:
        require_divisors(self.dim, {"heads": self.heads})
        return self


class CausalRecommender(EmbeddingRecommender):
    """A causal transformer over the history, whose input table also ranks the items.

    What SASRec, Guided SASRec, CL4SRec and DuoRec share. `config` is a `CausalConfig`.

    Initialisation: everything N(0, 0.02^2), biases 0, norms the identity.
    """

    def __init__(self, config: Any, n_items: int) -> None:
        super().__init__(config, n_items)
        self.items = item_embedding(n_items, config.dim)
        self.positions = PositionEmbedding(config.max_length, config.dim, config.counting)
        self.encoder = TransformerEncoder(
            config.dim,
            layers=config.layers,
            heads=config.heads,
            hidden=config.expansion * config.dim,
            dropout=config.dropout,
            norm=config.norm,
        )

    def states(self, history: Tensor) -> Tensor:
        """(B, L, D) after every position of the histories (B, L); L is cut to `max_length`, the newest stay.

        The state at padding is finite and depends on nothing: an empty history has a constant answer.
        """
        history = history[:, -self.config.max_length :]
        length = history.shape[1]

        def encode(part: Tensor, rows: Tensor) -> Tensor:
            return F.pad(self.encoder(*self._input(part)), (0, 0, length - part.shape[1], 0))

        return by_history(history, history != PADDING, encode)

    def newest_state(self, history: Tensor) -> Tensor:
        """(B, D) the last of `states`, without computing what the others alone need."""
        history = history[:, -self.config.max_length :]
        return by_history(history, history != PADDING, lambda part, rows: self.encoder.last(*self._input(part)))

    def _input(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder reads (B, L, D), and where it may look (B, 1, L, L)."""
        mask = history != PADDING
        x = self._vectors(history) + self.positions(mask)
        return x * mask[..., None], causal_mask(mask)

    def _vectors(self, history: Tensor) -> Tensor:
        """(B, L, D) what is read at each position. A model that reads more than items says here what stands for it."""
        vectors: Tensor = self.items(history)
        return vectors

    def item_vectors(self) -> Tensor:
        """(I + 1, D) the table of the input."""
        return self.items.weight


class NextItemConfig(CausalConfig):
    """Options of a causal transformer that learns which item comes next."""

    predict: Literal["every_position", "last_position"] = "every_position"
    """Learn the item after every position of a row, or the row's target alone."""
    objective: NextItemObjective = CrossEntropy()
    """What is minimised at each learnt position."""


class NextItemRecommender(CausalRecommender):
    """A causal transformer that compares the state at the newest item with the item table.

    What SASRec, CL4SRec and DuoRec share. `config` is a `NextItemConfig`.
    """

    def recommendation(self, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor]:
        """() the objective, averaged over the learnt positions of the batch, and (B, D) the newest states it saw."""
        target = batch.next_items[:, -self.config.max_length :]  # (B, L)
        if self.config.predict == "last_position":
            states, target = self.newest_state(batch.history)[:, None], target[:, -1:]
        else:
            states = self.states(batch.history)  # (B, L, D)
        learnt = target != PADDING
        objective = self.config.objective
        negative = self._negatives(batch, target.shape[1], objective.negatives, noise)[learnt]
        return objective(states[learnt], target[learnt], negative, self.items.weight), states[:, -1]

    def _negatives(self, batch: Batch, length: int, size: int, noise: Noise) -> Tensor:
        """(B, L, N) items that the row does not have."""
        return negatives_by_position(batch.own_items, self.n_items, length, size, keys=batch.key, noise=noise)

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, 1, D) the state at the newest item."""
        return self.newest_state(query.history)[:, None]


class InterestGuidance(NamedTuple):
    """What a history says to the denoiser."""

    rows: Tensor
    """G (B, M, W)."""
    interests: Tensor | None = None
    """G1 (B, K, D), where there are interests."""
    routing: Tensor | None = None
    """(B, L, K), the share that each position has in each interest; sums to 1 over the positions."""


class Looked(NamedTuple):
    """Vectors of a training batch, from one look-up."""

    items: Tensor
    """(B, L, D) the history; an empty one has the start vector as its newest position."""
    mask: Tensor
    """(B, L) True at items and at the start vector."""
    target: Tensor
    """(B, D)."""
    negatives: Tensor
    """(B, N, D)."""
    real: Tensor
    """(B, N) False where a row already has every item, so that nothing could be drawn."""


class InterestConfig(ModelConfig):
    """Options of a diffusion under several rows of guidance, on the sphere or off it."""

    dim: int = Field(64, ge=2, multiple_of=2)
    """D, width of items, interests and states."""
    max_length: int = Field(10, ge=1)
    """L, the longest history. Of a longer one the newest items count."""
    init_std: float = Field(1.0, gt=0)
    """Deviation of the initial items and positions. At 1 an item is as long as the noise, sqrt(D)."""
    form: Form = "joined"
    """What f reads of the guidance: all rows, or one for each of several predictions."""
    sphere: SphereConfig = StatesOnSphere()
    """What has length 1: x_t ("paper", as ADIGRec prints it), items and predictions too ("full"), nothing ("off")."""
    noise_scale: Literal[1, "1/sqrt(d)"] = 1
    """Deviation of the noise: literally 1, where its length is sqrt(D); or its expected length is 1, as an item's under
    `sphere.name=full`."""
    negatives: int = Field(10, ge=1)
    """Negatives per row, drawn uniformly, which both softmax losses share."""
    reconstruction: float = Field(0.1, ge=0)
    """Weight of the squared error (ADIGRec's lambda_1)."""
    retrieval: float = Field(1.0, ge=0)
    """Weight of the sampled softmax of x0_hat (ADIGRec's lambda_2). Its paper has 1 for YooChoose and KuaiRec, 0.01 for
    Zhihu."""
    schedule: ScheduleConfig = Exponential(steps=200)
    """Noise schedule and number of diffusion steps T; this one ends near the same alpha_bar for every T. ADIGRec's
    paper searches T in 50..2000: linear betas of 1e-4 to 0.02 would leave 0.60 of the variance at T = 50, this one
    0.006."""
    generation: SampledGeneration = Generation(sampler="ddpm", steps=None, start="noise")
    """Sampler and its steps. There is no closed form of the mean over the noise, so start must be "noise"."""


class InterestConditioned(EmbeddingRecommender):
    """Generates the embedding of the next item under several rows of guidance, by a chain that may lie on a sphere.

    What DimeRec and ADIGRec share. Where guidance comes from, and the losses, stand in their files.

    Initialisation: items (I + 1, D), positions (L, D) and the start vector (D,) N(0, init_std^2); the denoiser as in
    `diffusion/interests.py`.
    """

    def __init__(self, config: InterestConfig, n_items: int, *, rows: int, width: int, insertion: bool) -> None:
        super().__init__(config, n_items)
        self.items = item_embedding(n_items, config.dim, config.init_std)
        self.positions = PositionEmbedding(config.max_length, config.dim, std=config.init_std)
        self.start = nn.Parameter(config.init_std * torch.randn(config.dim))
        self.denoiser = InterestDenoiser(config.dim, rows, width, form=config.form, insertion=insertion)
        self.chains = rows if config.form == "per_interest" else 1
        self.n_interests = self.chains
        self.sphere = config.sphere
        self.noise_scale = 1.0 if config.noise_scale == 1 else config.dim**-0.5
        self.schedule = config.schedule()
        self.steps = [
            step._replace(spread=step.spread * self.noise_scale) for step in config.generation.chain(self.schedule)
        ]

    def guide(self, items: Tensor, mask: Tensor) -> InterestGuidance:
        """The guidance of histories (B, L, D) with mask (B, L), none of them empty."""
        raise NotImplementedError

    def embed(self, batch: Batch, noise: Noise) -> Looked:
        """Histories, targets, and negatives that the row does not have, drawn uniformly."""
        history = batch.history[:, -self.config.max_length :]
        own = batch.own_items
        drawn = items_outside(
            own, self.n_items, self.config.negatives, keys=batch.key, noise=noise, purpose="negatives"
        )
        vectors = self.vectors(torch.cat([history, batch.target[:, None], drawn], dim=1))
        length = history.shape[1]
        items, mask = self.with_start(vectors[:, :length], history)
        return Looked(items, mask, vectors[:, length], vectors[:, length + 1 :], drawn != PADDING)

    def reconstruct(
        self, guidance: InterestGuidance, target: Tensor, key: Tensor, noise: Noise, row: Tensor | None = None
    ) -> tuple[Tensor, Draw]:
        """x0_hat (B, D) of the noised targets (B, D), and the noising; `row` as in `InterestDenoiser.on`."""
        drawn = draw(target, self.schedule, noise, key, scale=self.noise_scale)
        denoise = self.denoiser.on(guidance.rows, row)
        x0_hat = denoise(self.sphere.state(drawn.x_t)[:, None], drawn.t)[:, 0]
        return self.sphere.vector(x0_hat), drawn

    def against_negatives(self, predicted: Tensor, look: Looked) -> Tensor:
        """() -log softmax of the target among itself and the row's negatives, for predictions (B, D)."""
        return softmax_against(predicted, look.target, look.negatives, look.real, temperature=self.sphere.temperature)

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, 1, D): x0_hat at the end of the chain; (B, M, D) per interest. The chains of a row share their noise."""
        network = self.denoiser.on(self.guidance(query).rows).along([step.t for step in self.steps])
        dim, dtype = self.config.dim, self.items.weight.dtype
        x_T = self.noise_scale * noise.normal(query.key, dim, "x_T", dtype)[:, None]
        eps = step_noise(noise, query.key, dim, self.steps, dtype)
        return walk(
            lambda x_t, t: self.sphere.vector(network(x_t, t)),
            x_T.expand(-1, self.chains, -1),
            self.steps,
            lambda t: eps(t)[:, None],
            project=self.sphere.state,
        )

    def guidance(self, query: Query) -> InterestGuidance:
        """What the histories of a request say; L is cut to `max_length`."""
        history = query.history[:, -self.config.max_length :]
        return self.guide(*self.with_start(self.vectors(history), history))

    def routing(self, query: Query) -> Tensor:
        """(B, L, K) how the items of a history are routed; 0 at padding and where the model does not read.

        Raises
        ------
        ConfigError
            When the model has no interests.
        """
        weights = self.guidance(query).routing
        if weights is None:
            raise ConfigError(f"{type(self).__name__} has no interests here, so nothing is routed to them.")
        unread = query.history.shape[1] - weights.shape[1]
        return F.pad(weights, (0, 0, unread, 0)) * query.mask[..., None]

    def vectors(self, ids: Tensor) -> Tensor:
        """Item vectors (..., D) of ids (...), on the sphere if items are."""
        vectors: Tensor = self.sphere.vector(self.items(ids))
        return vectors

    def with_start(self, items: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """Histories (B, L, D) and their mask (B, L), with the start vector as the only item of an empty one."""
        return with_start(items, history != PADDING, self.sphere.vector(self.start))

    def item_vectors(self) -> Tensor:
        """(I + 1, D)."""
        vectors: Tensor = self.sphere.vector(self.items.weight)
        return vectors

"""TIGER: Recommender Systems with Generative Retrieval (Rajput et al., NeurIPS 2023, arXiv:2305.05065).

Idea       An item is a tuple of tokens, its semantic id: items that are alike share the first ones. A T5 reads the
           tokens of the history and writes those of the next item; a beam search over the tuples that exist finds the
           most likely items. Nothing has an item's id, so tables do not grow with the catalogue.
Notation   paper -> code:  x -> content (I, C);  z -> latent;  r_d -> residual;  e_k of level d -> books[d] (K, E);
           (c_0, ..., c_m) -> codes (I + 1, m + 1);  m -> levels;  K -> codewords.  W is the width of the beam.
Order      prepare(): content_vectors(), the quantiser (Sec. 3.1), semantic_ids() with the last token for collisions
           -> loss(): encode(), decode(), cross-entropy of each token (Sec. 3.2) -> scores(): beam search or all items
Facts      sizes of RQ-VAE and transformer from the paper; T5's layers, buckets and initialisation from Raffel et al.
           2020 (arXiv:1910.10683); what public codes do with collisions from EdoardoBotta/RQ-VAE-Recommender.
Departs    1. Content is what the training sequences tell, a PPMI-SVD of which items meet in them; the paper embeds
              titles and descriptions by Sentence-T5. A recommender sees ids here, and no text. Items that meet no other
              in training have the zero vector: they share their first tokens, and the rest tells them apart.
           2. RQ-VAE is trained by Adam for some fifty epochs and not by Adagrad for 20,000: a minute for 12,000 items.
              All quantised parts are subtracted without gradient, so that a codeword learns from its own term alone.
           3. No user token: users of a user split and of sessions are new. The history ends with T5's end token,
              which is all that an empty one has.
           4. The last token counts items of one tuple from the most popular on, and has K values as the others. An item
              that finds all K taken goes to the next-nearest codeword with room.
           5. The softmax of a position is over the K tokens of its level; the paper's is over all. Invalid tuples are
              never generated, and so need not be dropped. An item that the beam does not reach scores -inf.
           6. `position_std` can begin the biases of distances wider than T5 does. AdamW moves every number by about the
              rate in a step, and a bias of some units, which a head needs to look at one place, takes thousands.
           7. AdamW by the trainer; the paper has a rate of 0.01 for 10,000 steps and then its inverse square root.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, Self, cast

import numpy as np
import torch
from pydantic import Field, model_validator
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import svds
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.config import Part
from guiderec.data.batch import PADDING, Batch, Query
from guiderec.data.cooccurrence import incidence, neighbours_by_meetings
from guiderec.data.sequences import Sequences
from guiderec.errors import ConfigError, NotFittedError
from guiderec.models.base import ModelConfig, Recommender
from guiderec.nn.buckets import by_history
from guiderec.nn.dropout import Dropout
from guiderec.rng import Noise, numpy_generator

KeysValues = tuple[Tensor, Tensor]
"""Keys and values (B, H, N, E) of one attention."""

_SHRINKAGE = 5.0
"""Sequences by which the mutual information of rare pairs is damped, as in `data/cooccurrence.py`."""
_DENSE_ITEMS = 500
"""Catalogues up to this size are decomposed whole, larger ones by their first singular vectors."""
_BEAMS_AT_ONCE = 4096
"""Beams, or items, that are decoded together: some 200 MiB at the paper's sizes."""


# ------------------------------------------------------------------------------------------------ options


class ResidualKMeans(Part):
    """k-means of the content, then of what each level leaves over. Seconds, and close to RQ-VAE."""

    name: Literal["residual_k_means"] = "residual_k_means"
    rounds: int = Field(20, ge=0)
    """Rounds of Lloyd's iteration on each level."""

    def __call__(self, content: Tensor, known: Tensor, levels: int, codewords: int) -> tuple[Tensor, Tensor]:
        """Points (I, C), the content itself, and codebooks (m, K, C) of the `known` (I,) ones."""
        return content, residual_k_means(content[known], levels, codewords, self.rounds)


class RQVAE(Part):
    """An autoencoder whose latent vector is a sum of codewords, one of each level (paper, Sec. 3.1)."""

    name: Literal["rqvae"] = "rqvae"
    hidden: tuple[int, ...] = (512, 256, 128)
    """Widths of the encoder's hidden layers; the decoder has them in reverse."""
    latent: int = Field(32, ge=1)
    """E, width of the latent vector and of the codewords."""
    commitment: float = Field(0.25, ge=0)
    """beta, weight of the term that draws residuals to their codewords."""
    learning_rate: float = Field(1e-3, gt=0)
    """Adam's step size. The paper has Adagrad with 0.4."""
    batch_size: int = Field(1024, ge=1)
    """Items per step. The codebooks begin as a residual k-means of the first batch."""
    epochs: int = Field(50, ge=0)
    """Passes over the items. The paper has 20,000."""
    steps: int = Field(2000, ge=0)
    """Steps, at most, however many items there are."""

    @model_validator(mode="after")
    def _widths(self) -> Self:
        if min(self.hidden, default=1) < 1:
            raise ValueError(f"hidden = {self.hidden}: widths must be at least 1")
        return self

    def __call__(self, content: Tensor, known: Tensor, levels: int, codewords: int) -> tuple[Tensor, Tensor]:
        """Points (I, E), the latent vectors, and codebooks (m, K, E), learnt on the `known` (I,) ones."""
        widths = [content.shape[1], *self.hidden, self.latent]
        encoder, decoder = _mlp(widths), _mlp(widths[::-1])
        items = content[known]
        order = torch.randperm(len(items))
        with torch.no_grad():
            books = residual_k_means(encoder(items[order[: self.batch_size]]), levels, codewords, rounds=10)
        with torch.enable_grad():
            books = nn.Parameter(books)
            optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), books], lr=self.learning_rate)
            left = self.steps
            for _ in range(self.epochs):
                for batch in torch.split(torch.randperm(len(items)), self.batch_size)[:left]:
                    optimizer.zero_grad()
                    rqvae_loss(items[batch], encoder, decoder, books, self.commitment).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    left -= 1
        with torch.no_grad():
            return encoder(content), books.detach()


class Beam(Part):
    """The most likely items by beam search over the tuples that exist; all others score -inf."""

    name: Literal["beam"] = "beam"
    width: int = Field(64, ge=1)
    """W. At least the longest list that is wanted: no more items than this have a score."""


class Exact(Part):
    """The likelihood of every item, each decoded by itself: for small catalogues."""

    name: Literal["exact"] = "exact"


class TIGERConfig(ModelConfig):
    """Options of TIGER. Sizes are the paper's."""

    name: Literal["tiger"] = "tiger"
    max_length: int = Field(20, ge=1)
    """L, the longest history. Of a longer one the newest items count."""
    content_dim: int = Field(64, ge=1)
    """C, width of the content vectors, at most I."""
    quantiser: Annotated[RQVAE | ResidualKMeans, Field(discriminator="name")] = RQVAE()
    """How content becomes tokens."""
    levels: int = Field(3, ge=1)
    """m, tokens that content gives; one more tells items of the same tuple apart."""
    codewords: int = Field(256, ge=2)
    """K, tokens of each level, the last one included. K^(m + 1) is at least the number of items."""
    dim: int = Field(128, ge=1)
    """D, width of tokens and states."""
    heads: int = Field(6, ge=1)
    """H, number of attention heads."""
    head_dim: int = Field(64, ge=1)
    """Width of a head; H of them need not make up D."""
    hidden: int = Field(1024, ge=1)
    """Width of the position-wise networks."""
    encoder_layers: int = Field(4, ge=1)
    """Blocks that read the history."""
    decoder_layers: int = Field(4, ge=1)
    """Blocks that write the item."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Probability of dropping an entry of inputs, attention weights, hidden units, branches and outputs."""
    init_std: float = Field(1.0, gt=0)
    """Deviation of the tokens at the start; T5 has 1."""
    buckets: int = Field(32, ge=4, multiple_of=4)
    """Classes of relative positions; a quarter of them are distances of their own on each side."""
    max_distance: int = Field(128, ge=2)
    """Tokens from which on all distances are of one class."""
    position_std: float | None = Field(None, gt=0)
    """Deviation of what is added to logits for distances, at the start; None is T5's, 1 / sqrt(D)."""
    search: Annotated[Beam | Exact, Field(discriminator="name")] = Beam()
    """How items are found. It moves no weight."""

    @model_validator(mode="after")
    def _distances(self) -> Self:
        if self.max_distance <= self.buckets // 2:
            raise ValueError(f"max_distance = {self.max_distance} is not above half of buckets = {self.buckets}")
        return self


# ------------------------------------------------------------------------------------------------ semantic ids


def content_vectors(train: Sequences, n_items: int, dim: int) -> Tensor:
    """(I, min(C, I)) vectors of length 1, item j in row j - 1; zero for items that meet no other one in training.

    Rows of U sqrt(S) of the positive pointwise mutual information of items in the same sequence, damped for rare pairs
    (`data/cooccurrence.py`). An item meets itself in all of its sequences: without that, two items that meet each other
    alone would have nothing in common. The largest entry of each singular vector is positive.
    """
    near = neighbours_by_meetings(train.owners, train.items, n_items, similarity="pmi", shrinkage=_SHRINKAGE)
    size = n_items + 1
    others = csr_array((near.similarity, near.items, near.offsets), shape=(size, size))[1:, 1:]
    held = np.asarray(incidence(train.owners, train.items, n_items).sum(axis=0)).ravel()[1:]  # (I,) sequences
    itself = np.log(len(train) / np.maximum(held, 1)) * held / (held + _SHRINKAGE)
    ppmi = others + diags_array(itself, format="csr")
    if n_items <= max(_DENSE_ITEMS, dim):
        left, values, _ = np.linalg.svd(ppmi.toarray())
        left, values = left[:, :dim], values[:dim]
    else:
        start = numpy_generator(0, "tiger", "svd").normal(size=n_items)
        left, values, _ = svds(ppmi, k=dim, v0=start)
        left, values = left[:, ::-1], values[::-1]
    largest = left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])]
    vectors = left * np.where(largest < 0, -1.0, 1.0) * np.sqrt(values)
    meets = np.diff(others.indptr) > 0
    length = np.linalg.norm(vectors, axis=1)
    known = meets & (length > 1e-9 * max(float(length.max(initial=0.0)), 1e-30))
    unit = np.where(known, 1.0, 0.0)[:, None] * vectors / np.where(known, length, 1.0)[:, None]
    return torch.from_numpy(unit).float()


def nearest(points: Tensor, book: Tensor) -> Tensor:
    """(N,) the codeword of `book` (K, E) that is nearest to each of `points` (N, E); the first of equal ones."""
    return (book.square().sum(dim=1) - 2 * points @ book.T).argmin(dim=1)


def residual_codes(points: Tensor, books: Tensor) -> Tensor:
    """(N, m) codewords of `points` (N, E): each level takes the one nearest to what those before leave over."""
    codes, residual = [], points
    for book in books:
        codes.append(nearest(residual, book))
        residual = residual - book[codes[-1]]
    return torch.stack(codes, dim=1)


def k_means(points: Tensor, k: int, rounds: int) -> Tensor:
    """(k, E) centres of `points` (N, E): Lloyd's iteration from a k-means++ start (Arthur and Vassilvitskii 2007).

    A centre that no point is nearest to stays where it is. Draws from torch's generator.
    """
    first = torch.randint(len(points), (1,))
    centres = points[first]
    distance = (points - centres[0]).square().sum(dim=1)
    for _ in range(k - 1):
        weights = distance if bool(distance.sum() > 0) else torch.ones_like(distance)
        chosen = points[torch.searchsorted(weights.cumsum(0), torch.rand(1) * weights.sum()).clamp(max=len(points) - 1)]
        centres = torch.cat([centres, chosen])
        distance = torch.minimum(distance, (points - chosen).square().sum(dim=1))
    for _ in range(rounds):
        label = nearest(points, centres)
        counts = torch.bincount(label, minlength=k)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, label, points)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres


def residual_k_means(points: Tensor, levels: int, k: int, rounds: int) -> Tensor:
    """(m, k, E) centres of `points` (N, E), then of what is left over, and so on."""
    books, residual = [], points
    for _ in range(levels):
        books.append(k_means(residual, k, rounds))
        residual = residual - books[-1][nearest(residual, books[-1])]
    return torch.stack(books)


def rqvae_loss(
    x: Tensor, encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor], books: Tensor, beta: float
) -> Tensor:
    """() `||x - x_hat||^2 + sum_d ||sg(r_d) - e_d||^2 + beta ||r_d - sg(e_d)||^2`, averaged over rows of x (N, C)."""
    z = encode(x)
    residual, quantised, distance = z, torch.zeros_like(z), x.new_zeros(len(x))
    for book in books:
        codeword = book[nearest(residual.detach(), book)]
        distance = distance + (residual.detach() - codeword).square().sum(dim=1)
        distance = distance + beta * (residual - codeword.detach()).square().sum(dim=1)
        residual = residual - codeword.detach()
        quantised = quantised + codeword.detach()
    x_hat = decode(z + (quantised - z).detach())  # straight-through: the encoder gets the decoder's gradient
    return ((x - x_hat).square().sum(dim=1) + distance).mean()


def semantic_ids(points: Tensor, books: Tensor, order: Tensor) -> Tensor:
    """(I, m + 1) tuples, no two alike, of `points` (I, E), given to the items of `order` (I,) one after the other.

    The codewords of `residual_codes`, and the number of items before with the same ones. An item whose tuple has K
    items already takes, on every level, the nearest codeword below which there is room.
    """
    k, levels = books.shape[1], len(books)
    codes = residual_codes(points, books).tolist()
    taken: Counter[tuple[int, ...]] = Counter()
    for item in order.tolist():
        path = codes[item]
        if taken[tuple(path)] == k:
            path = codes[item] = []
            residual = points[item]
            for level, book in enumerate(books):
                near = (residual - book).square().sum(dim=1).argsort(stable=True).tolist()
                room = k ** (levels - level)
                path.append(next(token for token in near if taken[*path, token] < room))
                residual = residual - book[path[-1]]
        for depth in range(1, levels + 1):
            taken[tuple(path[:depth])] += 1
        path.append(taken[tuple(path)] - 1)
    return torch.tensor(codes)


def _mlp(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


# ------------------------------------------------------------------------------------------------ tuples as a trie


class Trie(NamedTuple):
    """The tuples that exist. A node at depth d is a prefix of d tokens; nodes of one depth are numbered in order."""

    starts: list[Tensor]
    """For depths 0..m: (n_d + 1,) where the children of each node begin among the nodes of depth d + 1."""
    tokens: list[Tensor]
    """For depths 1..m + 1: (n_d,) the last token of each node."""
    items: Tensor
    """(I,) the item of each leaf, 1..I."""

    @classmethod
    def of(cls, codes: Tensor) -> Trie:
        """The trie of distinct tuples (I, m + 1), item j in row j - 1."""
        order = torch.arange(len(codes), device=codes.device)
        for column in reversed(codes.unbind(dim=1)):
            order = order[column[order].argsort(stable=True)]
        ordered = codes[order]
        opens = F.pad(ordered[1:] != ordered[:-1], (0, 0, 1, 0), value=True).cummax(dim=1).values  # (I, m + 1)
        node = opens.cumsum(dim=0) - 1  # the node of each item at depths 1..m + 1
        above = F.pad(node[:, :-1], (1, 0))
        starts, tokens = [], []
        for depth in range(codes.shape[1]):
            first = opens[:, depth]
            parent, token = above[first, depth], ordered[first, depth]
            starts.append(F.pad(torch.bincount(parent).cumsum(0), (1, 0)))
            tokens.append(token)
        return cls(starts, tokens, order + 1)

    def children(self, depth: int, node: Tensor) -> tuple[Tensor, Tensor]:
        """Children (..., C) of nodes (...) at `depth`, and whether there are so many; C is the most that any has."""
        starts = self.starts[depth]
        most = int(starts.diff().max())
        child = starts[node][..., None] + torch.arange(most, device=node.device)
        exists = child < starts[node + 1][..., None]
        return child.masked_fill(~exists, 0), exists


# ------------------------------------------------------------------------------------------------ T5


class RelativePositions(nn.Module):
    """What T5 adds to the logits of attention for the distance of query and key, the same in all blocks of a stack.

    Of K buckets on each side (all of them where nothing lies ahead, half where both sides count), the first half are
    distances of their own; the others grow with the logarithm and end at `max_distance`.
    """

    def __init__(self, buckets: int, max_distance: int, heads: int, *, two_sided: bool) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.two_sided = two_sided
        self.table = nn.Embedding(buckets, heads)

    def bucket(self, ahead: Tensor) -> Tensor:
        """The class of each key's place minus its query's."""
        side = self.table.num_embeddings // (2 if self.two_sided else 1)
        distance = ahead.abs() if self.two_sided else (-ahead).clamp(min=0)
        exact = side // 2
        growth = torch.log(distance.clamp(min=1).double() / exact) / math.log(self.max_distance / exact)
        far = (exact + (growth * (side - exact)).long()).clamp(max=side - 1)
        bucket = torch.where(distance < exact, distance, far)
        return bucket + side * (ahead > 0) if self.two_sided else bucket

    def forward(self, queries: int, keys: int) -> Tensor:
        """(1, H, Q, N) for the newest Q of N places."""
        place = torch.arange(keys, device=self.table.weight.device)
        ahead = place[None, :] - place[keys - queries :, None]
        return cast(Tensor, self.table(self.bucket(ahead))).permute(2, 0, 1)[None]


class Attention(nn.Module):
    """T5's attention: no biases, no scaling of the logits, to which something may be added."""

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(dim, heads * head_dim, bias=False)
        self.key = nn.Linear(dim, heads * head_dim, bias=False)
        self.value = nn.Linear(dim, heads * head_dim, bias=False)
        self.output = nn.Linear(heads * head_dim, dim, bias=False)
        nn.init.normal_(self.query.weight, std=(dim * head_dim) ** -0.5)
        nn.init.normal_(self.key.weight, std=dim**-0.5)
        nn.init.normal_(self.value.weight, std=dim**-0.5)
        nn.init.normal_(self.output.weight, std=(heads * head_dim) ** -0.5)

    def keys_values(self, x: Tensor) -> KeysValues:
        """Of states (B, N, D)."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, added: Tensor) -> Tensor:
        """(B, Q, D) -> (B, Q, D); `added` (B or 1, H or 1, Q or 1, N) is -inf where a query may not look."""
        query = self._split(self.query(x))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            query, keys, values, attn_mask=added.to(query.dtype), dropout_p=dropout, scale=1.0
        )
        return cast(Tensor, self.output(mixed.transpose(1, 2).flatten(2)))

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)


class FeedForward(nn.Module):
    """`W_2 ReLU(W_1 x)` without biases."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden, bias=False)
        self.contract = nn.Linear(hidden, dim, bias=False)
        self.dropout = Dropout(dropout)
        nn.init.normal_(self.expand.weight, std=dim**-0.5)
        nn.init.normal_(self.contract.weight, std=hidden**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return cast(Tensor, self.contract(self.dropout(F.relu(self.expand(x)))))


class EncoderBlock(nn.Module):
    """`x + attention(norm(x))`, then `x + feedforward(norm(x))`; norms are root mean squares."""

    def __init__(self, config: TIGERConfig) -> None:
        super().__init__()
        self.attention = Attention(config.dim, config.heads, config.head_dim, config.dropout)
        self.feedforward = FeedForward(config.dim, config.hidden, config.dropout)
        self.attention_norm = nn.RMSNorm(config.dim, eps=1e-6)
        self.feedforward_norm = nn.RMSNorm(config.dim, eps=1e-6)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, added: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, *self.attention.keys_values(normed), added))
        return cast(Tensor, x + self.dropout(self.feedforward(self.feedforward_norm(x))))


class DecoderBlock(nn.Module):
    """As `EncoderBlock`, with an attention to the history between the two parts.

    States are (B, W, Q, D): W sequences of each row write on, and read the one history of the row.
    """

    def __init__(self, config: TIGERConfig) -> None:
        super().__init__()
        self.attention = Attention(config.dim, config.heads, config.head_dim, config.dropout)
        self.reading = Attention(config.dim, config.heads, config.head_dim, config.dropout)
        self.feedforward = FeedForward(config.dim, config.hidden, config.dropout)
        self.attention_norm = nn.RMSNorm(config.dim, eps=1e-6)
        self.reading_norm = nn.RMSNorm(config.dim, eps=1e-6)
        self.feedforward_norm = nn.RMSNorm(config.dim, eps=1e-6)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, x: Tensor, added: Tensor, memory: KeysValues, visible: Tensor, past: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """(B, W, Q, D) -> (B, W, Q, D), and keys and values (B W, H, P + Q, E), those of `past` first."""
        normed = self.attention_norm(x).flatten(0, 1)
        present = self.attention.keys_values(normed)
        if past is not None:
            present = (torch.cat([past[0], present[0]], dim=2), torch.cat([past[1], present[1]], dim=2))
        x = x + self.dropout(self.attention(normed, *present, added)).view_as(x)
        normed = self.reading_norm(x).flatten(1, 2)
        x = x + self.dropout(self.reading(normed, *memory, visible)).view_as(x)
        return x + self.dropout(self.feedforward(self.feedforward_norm(x))), present


class Memory(NamedTuple):
    """What the decoder reads of encoded histories."""

    blocks: list[KeysValues]
    """For each block of the decoder, keys and values (B, H, N, E)."""
    visible: Tensor
    """(B, 1, 1, N) 0 at tokens and -inf at padding, to be added to logits."""

    def rows(self, first: int, stop: int) -> Memory:
        """Of some rows."""
        return Memory([(k[first:stop], v[first:stop]) for k, v in self.blocks], self.visible[first:stop])


# ------------------------------------------------------------------------------------------------ the model


class TIGER(Recommender):
    """Writes the tokens of the next item.

    Initialisation: T5's. Tokens (m + 1) K x D, end and start N(0, 1); queries N(0, 1 / (D E)), keys, values, first
    layers and relative positions N(0, 1 / D), outputs N(0, 1 / (H E)) and N(0, 1 / hidden); norms the identity. The
    table of tokens also gives the logits, which are divided by sqrt(D). Semantic ids come from `prepare`.
    """

    Config = TIGERConfig

    codes: Tensor
    """(I + 1, m + 1) int64, the semantic ids; row 0 is padding. -1 before `prepare`."""

    def __init__(self, config: TIGERConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        depth = config.levels + 1
        if n_items > config.codewords**depth:
            raise ConfigError(
                f"{n_items:,} items cannot have distinct tuples of {depth} tokens with {config.codewords} values each.",
                hint="a larger model.codewords",
            )
        self.register_buffer("codes", torch.full((n_items + 1, depth), -1))
        self.tokens = nn.Embedding(depth * config.codewords, config.dim)
        nn.init.normal_(self.tokens.weight, std=config.init_std)
        self.end = nn.Parameter(config.init_std * torch.randn(config.dim))
        self.start = nn.Parameter(config.init_std * torch.randn(config.dim))
        self.distances = RelativePositions(config.buckets, config.max_distance, config.heads, two_sided=True)
        self.written = RelativePositions(config.buckets, config.max_distance, config.heads, two_sided=False)
        for table in (self.distances.table, self.written.table):
            nn.init.normal_(table.weight, std=config.position_std or config.dim**-0.5)
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.decoder_layers))
        self.encoder_norm = nn.RMSNorm(config.dim, eps=1e-6)
        self.decoder_norm = nn.RMSNorm(config.dim, eps=1e-6)
        self.dropout = Dropout(config.dropout)

    # ------------------------------------------------------------------------------------------------ stage 1

    def prepare(self, train: Sequences) -> None:
        """Give every item its tuple. Items of the same codewords are counted from the most popular one."""
        config = self.config
        content = content_vectors(train, self.n_items, config.content_dim)
        known = content.any(dim=1)
        if not bool(known.any()):  # nothing meets anything: the last tokens and what has room tell items apart
            known = torch.ones_like(known)
        points, books = config.quantiser(content, known, config.levels, config.codewords)
        counts = torch.from_numpy(np.bincount(train.items, minlength=self.n_items + 1)[1:])
        order = counts.argsort(descending=True, stable=True)
        self.codes[1:] = semantic_ids(points, books, order).to(self.codes)
        self.codes[PADDING] = 0

    # ------------------------------------------------------------------------------------------------ stage 2

    def encode(self, history: Tensor) -> Memory:
        """Histories (B, L): their tokens, oldest item first, and the end token."""
        if int(self.codes[-1, 0]) < 0:
            raise NotFittedError("TIGER has no semantic ids.", hint="call prepare(train) or load weights")
        config = self.config
        mask = F.pad((history != PADDING).repeat_interleave(config.levels + 1, dim=1), (0, 1), value=True)
        added = torch.zeros_like(mask, dtype=self.end.dtype).masked_fill(~mask, -torch.inf)[:, None, None]
        tokens = self._embedded(self.codes[history]).flatten(1, 2)  # (B, L (m + 1), D)
        x = self.dropout(torch.cat([tokens, self.end.expand(len(history), 1, -1)], dim=1))
        bias = self.distances(x.shape[1], x.shape[1]) + added
        for block in self.encoder:
            x = block(x, bias)
        x = self.dropout(self.encoder_norm(x))
        return Memory([cast(DecoderBlock, block).reading.keys_values(x) for block in self.decoder], added)

    def decode(
        self, x: Tensor, memory: Memory, past: list[KeysValues | None] | None = None
    ) -> tuple[Tensor, list[KeysValues]]:
        """States (B, W, Q, D) after inputs (B, W, Q, D) that follow `past`, and keys and values to go on with."""
        past = past or [None] * len(self.decoder)
        before = 0 if past[0] is None else past[0][0].shape[2]
        queries = x.shape[2]
        later = torch.ones(queries, queries, dtype=torch.bool, device=x.device).triu(1)
        bias = self.written(queries, before + queries).masked_fill(F.pad(later, (before, 0)), -torch.inf)
        x, present = self.dropout(x), []
        for block, keys_values, own in zip(self.decoder, memory.blocks, past, strict=True):
            x, kept = block(x, bias, keys_values, memory.visible, own)
            present.append(kept)
        return self.dropout(self.decoder_norm(x)), present

    def log_likelihoods(self, codes: Tensor, memory: Memory) -> Tensor:
        """(B, W, m + 1) log-probability of each token of tuples (B, W, m + 1), given those before it."""
        start = self.start.expand(*codes.shape[:2], 1, -1)
        states, _ = self.decode(torch.cat([start, self._embedded(codes)[:, :, :-1]], dim=2), memory)
        logits = torch.stack([self._logits(states[:, :, level], level) for level in range(codes.shape[2])], dim=2)
        return F.log_softmax(logits, dim=-1).gather(3, codes[..., None])[..., 0]

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """`{"loss"}`, the sum of the cross-entropies of the target's tokens, and each of them: `token_1`, ..."""
        history = batch.history[:, -self.config.max_length :]
        target = self.codes[batch.target][:, None]  # (B, 1, m + 1)

        def entropies(part: Tensor, rows: Tensor) -> Tensor:
            return -self.log_likelihoods(target[rows], self.encode(part))[:, 0]

        parts = by_history(history, history != PADDING, entropies).mean(dim=0)
        return {"loss": parts.sum(), **{f"token_{i}": part for i, part in enumerate(parts.unbind(), start=1)}}

    # ------------------------------------------------------------------------------------------------ inference

    def scores(self, query: Query, noise: Noise) -> Tensor:
        """(B, I + 1) log-likelihood of each item's tuple; -inf where the beam does not come."""
        history = query.history[:, -self.config.max_length :]
        search = self.config.search
        if isinstance(search, Exact):
            return by_history(history, history != PADDING, lambda part, rows: self._exact(self.encode(part)))
        trie = Trie.of(self.codes[1:])
        at_once = max(1, _BEAMS_AT_ONCE // search.width)

        def answer(part: Tensor, rows: Tensor) -> Tensor:
            memory = self.encode(part)
            firsts = range(0, max(1, len(part)), at_once)
            return torch.cat([self._beam(memory.rows(first, first + at_once), trie, search.width) for first in firsts])

        return by_history(history, history != PADDING, answer)

    def _exact(self, memory: Memory) -> Tensor:
        """(B, I + 1) every item by itself."""
        rows = len(memory.visible)
        blocks = torch.split(self.codes[1:], max(1, _BEAMS_AT_ONCE // max(1, rows)))
        found = [self.log_likelihoods(codes.expand(rows, -1, -1), memory).sum(dim=2) for codes in blocks]
        return F.pad(torch.cat(found, dim=1), (1, 0))

    def _beam(self, memory: Memory, trie: Trie, width: int) -> Tensor:
        """(B, I + 1) the `width` likeliest tuples, found token by token among those that exist."""
        rows = len(memory.visible)
        node = torch.zeros(rows, 1, dtype=torch.int64, device=self.device)  # (B, W)
        score = self.end.new_zeros(rows, 1)  # -inf for a beam that is none
        x = self.start.expand(rows, 1, 1, -1)
        past: list[KeysValues | None] | None = None
        for depth in range(self.config.levels + 1):
            states, present = self.decode(x, memory, past)
            log_p = F.log_softmax(self._logits(states[:, :, 0], depth), dim=-1)  # (B, W, K)
            child, exists = trie.children(depth, node)  # (B, W, C)
            token = trie.tokens[depth][child]
            total = (score[..., None] + log_p.gather(2, token)).masked_fill(~exists, -torch.inf).flatten(1)
            score, best = total.topk(min(width, total.shape[1], len(trie.tokens[depth])), dim=1)
            parent = best // child.shape[2]  # (B, W'), the beam that each goes on from
            node, token = child.flatten(1).gather(1, best), token.flatten(1).gather(1, best)
            past = [(_follow(keys, parent), _follow(values, parent)) for keys, values in present]
            x = self.tokens(token + depth * self.config.codewords)[:, :, None]
        item = trie.items[node].masked_fill(score == -torch.inf, PADDING)
        return score.new_full((rows, self.n_items + 1), -torch.inf).scatter(1, item, score)

    def _embedded(self, codes: Tensor) -> Tensor:
        """(..., m + 1, D) of tuples (..., m + 1): every level has its own tokens."""
        level = torch.arange(codes.shape[-1], device=codes.device) * self.config.codewords
        return cast(Tensor, self.tokens(codes + level))

    def _logits(self, states: Tensor, level: int) -> Tensor:
        """(..., K) of the tokens of a level, for states (..., D)."""
        k = self.config.codewords
        return states @ self.tokens.weight[level * k : (level + 1) * k].T * self.config.dim**-0.5


def _follow(kept: Tensor, parent: Tensor) -> Tensor:
    """Keys or values (B W, ...) of the beams `parent` (B, W'): (B W', ...)."""
    rows = torch.arange(len(parent), device=parent.device)[:, None]
    return kept.reshape(len(parent), len(kept) // max(1, len(parent)), *kept.shape[1:])[rows, parent].flatten(0, 1)

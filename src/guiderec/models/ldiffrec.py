"""L-DiffRec: Diffusion Recommender Model (Wang et al., SIGIR 2023, arXiv:2304.04971), Sec. 3.3.

Idea       DiffRec in a small space: items are clustered, a variational encoder per cluster compresses its part of the
           profile, the joined latent vector is noised and restored, and a decoder gives the profile back.
Notation   paper -> code:  x_0 -> profile (B, I);  q_psi -> encoder;  z_0 -> latent (B, D);  f_theta -> denoiser;
           p_phi -> decoder;  lambda -> weight_of_diffusion();  gamma -> weight_of_kl()
Order      prepare() Sec. 3.3.1 -> encode() -> loss() eq. 14-16 -> scores()
Facts      authors' public code (YiyanXu/DiffRec: L-DiffRec/) for sizes, annealing and the shared decoder.
Departs    1. As a next-item model, with `answer` as in DiffRec; `seen` masks the history and not the model.
           2. Clusters come from the training sequences alone: k-means over the directions of the items in a truncated
              singular value decomposition of the sequence-item matrix. The paper takes pre-trained LightGCN vectors.
           3. Weights of all clusters stand in one matrix whose other blocks are zero. Items keep their order, so that
              nothing has to be mapped back; the public code predicts in the order of clusters.
           4. The likelihood is of the profile; the public code's is of the profile after dropout.
           5. Both annealings count optimizer steps; the public code counts epochs for lambda.
           6. One learning rate. One latent column is given to every cluster before the rest is divided in proportion.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy import sparse
from scipy.sparse.linalg import svds
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.data.batch import Batch, Query
from guiderec.data.sequences import Sequences
from guiderec.diffusion.denoisers import AutoencoderDenoiser
from guiderec.diffusion.process import q_sample
from guiderec.diffusion.samplers import ddpm_steps, walk
from guiderec.diffusion.schedule import LinearVariance, ScheduleConfig
from guiderec.diffusion.timesteps import TIMESTEPS, TimestepsName, snr_drop
from guiderec.errors import NotFittedError
from guiderec.models.base import ModelConfig, Recommender
from guiderec.nn.dropout import Dropout
from guiderec.nn.profile import Answer, MultiHot, ProfileConfig, shown_and_wanted
from guiderec.rng import Noise, numpy_generator

Vectors = NDArray[np.float64]
Labels = NDArray[np.int64]


class LDiffRecConfig(ModelConfig):
    """Options of L-DiffRec. Defaults are those of the authors' code where it names them."""

    name: Literal["ldiffrec"] = "ldiffrec"
    profile: ProfileConfig = MultiHot()
    """How a history becomes a vector; "time_weighted" is LT-DiffRec."""
    answer: Answer = "profile"
    """What training shows and wants: see `nn/profile.py`. "profile" is the paper's; "target" is the next-item task."""
    clusters: int = Field(2, ge=1)
    """C, clusters of items. 1 is one encoder for all."""
    cluster_dim: int = Field(64, ge=1)
    """Width of the item vectors that are clustered."""
    dim: int = Field(300, ge=1)
    """D, width of the latent vector, divided among clusters in proportion to their items."""
    decoder: Literal["shared", "per_cluster"] = "shared"
    """shared: every item from the whole latent vector, as in the public code. per_cluster: from its cluster's part."""
    hidden: tuple[int, ...] = Field((300,), min_length=1)
    """Widths of the hidden layers of the denoiser."""
    time_dim: int = Field(10, ge=2, multiple_of=2)
    """Width of the step's embedding."""
    encoder_dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of the profile before it is encoded."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout of the noised latent vector."""
    schedule: ScheduleConfig = LinearVariance(steps=5, scale=0.1, low=1e-4, high=0.02)
    """Noise schedule and number of diffusion steps T."""
    reweight: bool = True
    """True: errors count by the drop of the signal-to-noise ratio at their step. False: all alike."""
    timesteps: TimestepsName = "importance"
    """How the steps of a batch are drawn."""
    diffusion_weight: float = Field(0.03, ge=0)
    """lambda_0, weight of the squared error in the latent space at the first step."""
    least_diffusion_weight: float = Field(0.005, ge=0)
    """What lambda falls to."""
    diffusion_decay_steps: int = Field(10_000, ge=1)
    """Optimizer steps after which lambda would be 0. The public code has 500 epochs."""
    kl_weight: float = Field(0.3, ge=0)
    """gamma, weight of the Kullback-Leibler divergence after its annealing."""
    kl_anneal_steps: int = Field(200, ge=1)
    """gamma rises by 1 / kl_anneal_steps at every optimizer step, until it reaches `kl_weight`."""
    sampling_steps: int = Field(0, ge=0)
    """T': the latent vector of a request is noised as at step T' before it is restored; 0 leaves it as it is."""

    @model_validator(mode="after")
    def _fits(self) -> LDiffRecConfig:
        if self.dim < self.clusters:
            raise ValueError(f"dim = {self.dim} has no column for each of {self.clusters} clusters")
        if self.sampling_steps > self.schedule.steps:
            raise ValueError(f"sampling_steps = {self.sampling_steps} is more than T = {self.schedule.steps}")
        if min(self.hidden) < 1:
            raise ValueError(f"hidden = {self.hidden}: widths must be at least 1")
        return self


class LDiffRec(Recommender):
    """Restores the noised latent vectors of profiles; ranks by the decoded profile.

    Initialisation, in `prepare`: weights of cluster c, with I_c items and D_c columns, N(0, 2 / (in + out)) with
    in = I_c and out = 2 D_c (mean and log variance), zero outside of its block; the shared decoder alike with D and I;
    biases N(0, 0.001^2); the denoiser as in `AutoencoderDenoiser`.
    """

    Config = LDiffRecConfig

    item_cluster: Tensor
    """(I,) int64, the cluster of each item; -1 before `prepare`."""
    column_cluster: Tensor
    """(D,) int64, the cluster of each latent column."""

    def __init__(self, config: LDiffRecConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.register_buffer("item_cluster", torch.full((n_items,), -1, dtype=torch.int64))
        self.register_buffer("column_cluster", torch.zeros(config.dim, dtype=torch.int64))
        self.to_mean = nn.Linear(n_items, config.dim)
        self.to_log_variance = nn.Linear(n_items, config.dim)
        self.decoder = nn.Linear(config.dim, n_items)
        self.encoder_dropout = Dropout(config.encoder_dropout)
        self.schedule = config.schedule()
        self.denoiser = AutoencoderDenoiser(config.dim, config.hidden, time_dim=config.time_dim, dropout=config.dropout)
        self.timesteps = TIMESTEPS[config.timesteps](self.schedule.T)
        self.steps = [step._replace(spread=0.0) for step in ddpm_steps(self.schedule)]

    def prepare(self, train: Sequences) -> None:
        """Cluster the items of the training sequences, and draw the weights that fit the clusters."""
        vectors = item_directions(train, self.n_items, self.config.cluster_dim)
        clusters = k_means(vectors, self.config.clusters)
        sizes = np.bincount(clusters, minlength=self.config.clusters)
        widths = latent_widths(sizes, self.config.dim)
        self.item_cluster.copy_(torch.from_numpy(clusters))
        self.column_cluster.copy_(torch.from_numpy(np.repeat(np.arange(len(widths)), widths)))
        self._initialise(torch.from_numpy(sizes), torch.from_numpy(widths))

    @torch.no_grad()
    def _initialise(self, sizes: Tensor, widths: Tensor) -> None:
        own = self.blocks().T  # (I, D)
        size, width = (counts.to(self.device)[self.column_cluster].to(self.dtype) for counts in (sizes, widths))
        deviation = own * torch.sqrt(2 / (size + 2 * width))  # (I, D)
        for layer in (self.to_mean, self.to_log_variance):
            layer.weight.copy_(torch.randn_like(layer.weight) * deviation.T)
        if self.config.decoder == "per_cluster":
            deviation = own * torch.sqrt(2 / (size + width))
        else:
            deviation = torch.full_like(deviation, math.sqrt(2 / (self.n_items + self.config.dim)))
        self.decoder.weight.copy_(torch.randn_like(self.decoder.weight) * deviation)
        for layer in (self.to_mean, self.to_log_variance, self.decoder):
            layer.bias.normal_(0.0, 0.001)

    def blocks(self) -> Tensor:
        """(D, I): 1 where a latent column belongs to the cluster of an item, 0 elsewhere."""
        return (self.column_cluster[:, None] == self.item_cluster).to(self.dtype)

    def encode(self, profile: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, D) of the latent vector of profiles (B, I): each column sees its cluster alone."""
        if int(self.item_cluster[0]) < 0:
            raise NotFittedError("L-DiffRec has no clusters of items.", hint="call prepare(train) or load weights")
        profile, own = self.encoder_dropout(profile), self.blocks()
        mean = F.linear(profile, self.to_mean.weight * own, self.to_mean.bias)
        return mean, F.linear(profile, self.to_log_variance.weight * own, self.to_log_variance.bias)

    def decode(self, latent: Tensor) -> Tensor:
        """Latent vectors (B, D) -> logits (B, I)."""
        weight = self.decoder.weight
        if self.config.decoder == "per_cluster":
            weight = weight * self.blocks().T
        return F.linear(latent, weight, self.decoder.bias)

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """`lambda diffusion + likelihood + gamma divergence` (eq. 16).

        The squared error of the restored latent vector, the multinomial likelihood of the profile decoded from it
        (negative, in nats), and the divergence of the encoder from N(0, I).
        """
        config, dtype = self.config, self.dtype
        shown, wanted = shown_and_wanted(
            config.answer, config.profile, batch.history, batch.target, self.n_items, dtype
        )
        mean, log_variance = self.encode(shown)
        latent = mean + torch.exp(0.5 * log_variance) * noise.normal(batch.key, config.dim, "latent", dtype)
        t, share = self.timesteps.draw(noise, batch.key)
        eps = noise.normal(batch.key, config.dim, "draw/eps", dtype)
        restored = self.denoiser(q_sample(latent, t, eps, self.schedule), t)

        error = (restored - latent).square().mean(dim=1)
        weighted = error * snr_drop(t, self.schedule).to(dtype) if config.reweight else error
        self.timesteps.record(t, weighted)
        diffusion = (weighted / share.to(dtype)).mean()
        likelihood = -(F.log_softmax(self.decode(restored), dim=1) * wanted).sum(dim=1).mean()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
        loss = (
            self.weight_of_diffusion(noise.step) * diffusion + likelihood + self.weight_of_kl(noise.step) * divergence
        )
        return {"loss": loss, "diffusion": diffusion, "likelihood": likelihood, "divergence": divergence}

    def weight_of_diffusion(self, step: int) -> float:
        """The lambda of an optimizer step: falls evenly, and stops above 0."""
        left = 1 - step / self.config.diffusion_decay_steps
        return max(left * self.config.diffusion_weight, self.config.least_diffusion_weight)

    def weight_of_kl(self, step: int) -> float:
        """The gamma of an optimizer step: rises evenly from 0, by 1 / kl_anneal_steps a step."""
        return min(step / self.config.kl_anneal_steps, self.config.kl_weight)

    def scores(self, query: Query, noise: Noise) -> Tensor:
        """(B, I + 1): logits of the profile decoded from the restored mean of the latent vector."""
        latent, _ = self.encode(self.config.profile(query.history, self.n_items, self.dtype))
        if self.config.sampling_steps > 0:
            t = torch.full_like(query.key, self.config.sampling_steps - 1)
            eps = noise.normal(query.key, self.config.dim, "x_T", self.dtype)
            latent = q_sample(latent, t, eps, self.schedule)
        return F.pad(self.decode(walk(self.denoiser, latent, self.steps)), (1, 0))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of profiles."""
        return self.decoder.weight.dtype


def item_directions(train: Sequences, n_items: int, dim: int) -> Vectors:
    """(I, min(dim, S, I)) unit vectors: item factors V S of the sequence-item matrix, item j in row j - 1.

    The matrix (S, I) is 1 where a sequence has the item. Items without sequences are the zero vector. Directions are
    clustered and not factors, since the length of a factor is mostly the item's popularity.
    """
    ones = np.ones(len(train.items))
    matrix = sparse.csr_array((ones, (train.owners, train.items - 1)), shape=(len(train), n_items))
    matrix.data[:] = np.minimum(matrix.data, 1.0)  # duplicates were added up
    if min(matrix.shape) <= dim:
        _, values, rows = np.linalg.svd(matrix.toarray(), full_matrices=False)
    else:
        start = numpy_generator(0, "ldiffrec", "svd").normal(size=min(matrix.shape))
        _, values, rows = svds(matrix, k=dim, v0=start)
    factors = rows.T * values
    length = np.linalg.norm(factors, axis=1, keepdims=True)
    known = length > 1e-9 * max(float(length.max()), 1e-30)
    return np.where(known, factors / np.where(known, length, 1.0), 0.0)


def k_means(points: Vectors, k: int, *, restarts: int = 10, rounds: int = 100) -> Labels:
    """(N,) the cluster 0..k-1 of each of `points` (N, D): Lloyd's iteration from k-means++ starts, the best of several.

    Arthur and Vassilvitskii (2007). Clusters are numbered in the order of their first point. With fewer than k distinct
    points some are empty.
    """
    generator = numpy_generator(0, "ldiffrec", "k-means")
    best, least = np.zeros(len(points), dtype=np.int64), math.inf
    for _ in range(restarts):
        centres = _spread_out(points, k, generator)
        labels = np.full(len(points), -1)
        for _ in range(rounds):
            distances = _squared_distances(points, centres)
            nearest = distances.argmin(axis=1)
            if (nearest == labels).all():
                break
            labels = nearest
            counts = np.bincount(labels, minlength=k)
            sums = np.stack([np.bincount(labels, weights=column, minlength=k) for column in points.T], axis=1)
            centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
        within = float(_squared_distances(points, centres).min(axis=1).sum())
        if within < least - 1e-12:
            best, least = labels, within
    _, first = np.unique(best, return_index=True)
    renumbered = np.full(k, -1)
    renumbered[best[np.sort(first)]] = np.arange(len(first))
    return renumbered[best].astype(np.int64)


def latent_widths(sizes: Labels, dim: int) -> Labels:
    """(C,) columns of each cluster, `dim` in all: one each, and the rest in proportion to the items (C,)."""
    bounds = np.round(np.cumsum(sizes) / sizes.sum() * (dim - len(sizes))).astype(np.int64)
    return 1 + np.diff(bounds, prepend=0)


def _spread_out(points: Vectors, k: int, generator: np.random.Generator) -> Vectors:
    """(k, D) points drawn one by one, each in proportion to its squared distance from those before."""
    chosen = [int(generator.integers(len(points)))]
    for _ in range(k - 1):
        nearest = _squared_distances(points, points[chosen]).min(axis=1)
        total = nearest.sum()
        p = nearest / total if total > 0 else None
        chosen.append(int(generator.choice(len(points), p=p)))
    return points[chosen].copy()


def _squared_distances(points: Vectors, centres: Vectors) -> Vectors:
    """(N, k), by the binomial formula: no (N, k, D) array."""
    cross = points @ centres.T
    squared = (points**2).sum(axis=1)[:, None] - 2 * cross + (centres**2).sum(axis=1)
    return np.maximum(squared, 0.0)

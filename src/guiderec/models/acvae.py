"""ACVAE: Adversarial and Contrastive Variational Autoencoder for Sequential Recommendation (Xie et al., WWW 2021).

arXiv:2103.10693. What is drawn around the GRU's state is no Gaussian: noise goes through the encoder.

Idea       A GRU reads the history; noise is added inside a small causal convolution over its states, so that the latent
           vector of a position has whatever distribution the network makes (adversarial variational Bayes, Mescheder et
           al. 2017). An adversary tells latent vectors from draws of N(0, I), and so says what their divergence is; a
           critic tells the latent vectors of a history from those of another, so that they say something of it. The
           decoder gives the next item of every position.
Notation   paper -> code:  z -> latent (B, L, D);  T(x, z) -> adversary;  the critic of the contrastive term -> critic;
           alpha -> kl_weight;  beta -> contrast_weight
Order      latent() -> decode() -> loss(): likelihood + alpha divergence + beta contrast + what the adversary minimises
Facts      authors' public code (ACVAE/ACVAE-PyTorch: model.py, loss_func.py, train.py) for widths, dropout,
           initialisation and weights.
The game   The encoder lowers the mean of T, the adversary its error at telling apart. They take one step each in
           turn. The first moves no weight of the adversary, and the second sees the latent vectors from before the
           first, so both gradients belong to the same weights. Here one loss has the same gradients: in the divergence
           the adversary's weights are constants, in its own error the vectors are. AdamW, which looks at each weight
           by itself, then makes the two steps that two AdamW would make in turn. A bound on the norm of the whole
           gradient (`clip_norm`) would mix the players.
Departs    1. Everything is trained by AdamW at one rate. The authors have it for the model, and SGD at 5e-4 for the
              adversary, which keeps it near where it began; SGD at 3e-4 for the critic, and so a second step for
              the encoder on the gradients that AdamW has just used. Their decay is 0.1 for both judges.
           2. Sums over the positions of a row, averaged over rows, are averages over positions: the parts keep their
              weights to each other, and long rows do not set the length of a step.
           3. Ranks with 0 for the noise. The public code draws at inference too: `inference="sample"`.
           4. log sigmoid in a stable form; the public code adds 1e-9 inside of the logarithm.
           5. A negative of the critic is the next row of the batch, counted from the newest item and repeated from
              there where it is shorter. The public code counts from the oldest and goes on into the other's padding,
              which tells the two apart without a look at what they hold.
           6. The padding item takes no probability; the public code ranks it among the items of the softmax.
Kept       1. Both layers add noise by one map.
           2. The divergence is the mean of T over its D outputs, and T sees the newest item, not the history.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from guiderec.data.batch import PADDING, Batch, Query
from guiderec.models.base import EmbeddingRecommender, ModelConfig
from guiderec.nn.buckets import by_history
from guiderec.nn.dropout import Dropout
from guiderec.nn.embedding import item_embedding
from guiderec.nn.next_item import softmax_loss
from guiderec.nn.recurrent import GRU
from guiderec.rng import Noise, position_keys


class ACVAEConfig(ModelConfig):
    """Options of ACVAE. Defaults are those of the authors' code."""

    name: Literal["acvae"] = "acvae"
    dim: int = Field(64, ge=1)
    """D, width of the latent vectors."""
    item_dim: int = Field(128, ge=1)
    """W, width of the item vectors that are read, and of the decoder's hidden layer."""
    state_dim: int = Field(100, ge=1)
    """H, width of the GRU's state and of the noise."""
    judge_dim: int = Field(128, ge=1)
    """J, width of the hidden layers of the adversary, and of the state of the critic."""
    kernel: int = Field(5, ge=1)
    """Positions that the convolution over states sees, the newest of them its own."""
    embedding_dropout: float = Field(0.5, ge=0, lt=1)
    """Probability of dropping an entry of the item vectors that the GRU reads."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Probability of dropping an entry of what the convolution has made of a state."""
    adversary_dropout: float = Field(0.2, ge=0, lt=1)
    """Probability of dropping an entry of the adversary's first and last layer."""
    max_length: int = Field(50, ge=1)
    """L, the longest history. Of a longer one the newest items count."""
    kl_weight: float = Field(0.05, ge=0)
    """alpha, weight of the divergence that the adversary measures; 0: there is no adversary."""
    contrast_weight: float = Field(0.1, ge=0)
    """beta, weight of the critic's error, which critic and encoder lower together; 0: there is no critic."""
    inference: Literal["centre", "sample"] = "centre"
    """Rank with 0 for the noise, or with noise that is named by the row."""


# ------------------------------------------------------------------------------------------------------------- parts


class _Encoder(nn.Module):
    """States (B, L, H), where a position is real (B, L), noise (B, L, 2, H) -> latent vectors (B, L, D).

    y_1 = softplus(W_1 (h + n(e_1)))            n(e) = tanh(W_n e + b_n), the same for both layers
    y_2 = softplus(convolution(y_1 + n(e_2)))   over the newest `kernel` positions, 2 H channels
    z   = W_3 dropout(h + softplus(W_2 y_2))    each map has a bias
    """

    def __init__(self, config: ACVAEConfig) -> None:
        super().__init__()
        width = config.state_dim
        self.noise = nn.Linear(width, width)
        self.before = nn.Linear(width, width)
        self.convolution = nn.Conv1d(width, 2 * width, config.kernel)
        self.after = nn.Linear(2 * width, width)
        self.latent = nn.Linear(width, config.dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, states: Tensor, real: Tensor, eps: Tensor) -> Tensor:
        first, second = self.noise(eps).tanh().unbind(dim=2)
        y = F.softplus(self.before(states + first))
        y = (y + second) * real[..., None]  # before the first position there is 0
        y = F.pad(y.transpose(1, 2), (self.convolution.kernel_size[0] - 1, 0))
        y = F.softplus(self.convolution(y)).transpose(1, 2)
        y = F.softplus(self.after(y))
        latent: Tensor = self.latent(self.dropout(states + y))
        return latent


class _Adversary(nn.Module):
    """T(x, z): item vectors (P, W) and latent vectors (P, D) -> (P, D), large where z is none of N(0, I).

    f_0 = dropout(W_0 [x ; z]),    f_i = elu(f_{i-1} + V_i U_i f_{i-1}) for i = 1, 2,    T = dropout(W_3 f_2) + z^2 / 2
    """

    def __init__(self, config: ACVAEConfig) -> None:
        super().__init__()
        width = config.judge_dim
        self.input = nn.Linear(config.item_dim + config.dim, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Linear(width, width)) for _ in range(2))
        self.output = nn.Linear(width, config.dim)
        self.dropout = Dropout(config.adversary_dropout)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        f = self.dropout(self.input(torch.cat([x, z], dim=-1)))
        for block in self.blocks:
            f = F.elu(f + block(f))
        return self.dropout(self.output(f)) + 0.5 * z.square()


class _Critic(nn.Module):
    """Item vectors (B, L, W), latent vectors (B, L, D), where there are positions (B, L) -> (B, L), large for a pair.

    A GRU over [x ; z], and a line in the GELU of its states.
    """

    def __init__(self, config: ACVAEConfig) -> None:
        super().__init__()
        self.gru = GRU(config.item_dim + config.dim, config.judge_dim)
        self.line = nn.Linear(config.judge_dim, 1)

    def forward(self, x: Tensor, z: Tensor, real: Tensor) -> Tensor:
        states = F.gelu(self.gru(torch.cat([x, z], dim=-1), real))
        line: Tensor = self.line(states)
        return line.squeeze(-1)


# ------------------------------------------------------------------------------------------------------------- model


class ACVAE(EmbeddingRecommender):
    """Decodes a latent vector that noise and the newest states of a GRU make together.

    The state before the first item is 0: a history without items is one position with that state and no vector, and
    its latent vector is learnt where there are such rows.

    Initialisation: items N(0, 1); the decoder's map and the output table, a map from W to I, Xavier-normal, N(0, 2 /
    (rows + columns)); everything else as torch does.
    """

    Config: ClassVar[type[ModelConfig]] = ACVAEConfig

    def __init__(self, config: ACVAEConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.items = item_embedding(n_items, config.item_dim, std=1.0)
        self.embedding_dropout = Dropout(config.embedding_dropout)
        self.gru = GRU(config.item_dim, config.state_dim)
        self.encoder = _Encoder(config)
        self.decoder = nn.Linear(config.dim, config.item_dim)
        nn.init.xavier_normal_(self.decoder.weight)
        self.output = item_embedding(n_items, config.item_dim + 1, std=math.sqrt(2 / (n_items + config.item_dim)))
        with torch.no_grad():
            bound = config.item_dim**-0.5
            self.output.weight[1:, -1].uniform_(-bound, bound)
        self.adversary = _Adversary(config) if config.kl_weight > 0 else None
        self.critic = _Critic(config) if config.contrast_weight > 0 else None

    # ---------------------------------------------------------------------------------------------------- the network

    def latent(self, query: Query, noise: Noise | None) -> Tensor:
        """(B, L, D) after every position; L is cut to `max_length`. Without noise, at its centre 0.

        What stands at padding has no meaning, except in a history without items, whose newest position is real.
        """
        history = query.history[:, -self.config.max_length :]
        length = history.shape[1]

        def read(part: Tensor, rows: Tensor) -> Tensor:
            states = self.gru(self.embedding_dropout(self.items(part)), part != PADDING)
            eps = self._eps(query.key[rows], part.shape[1], noise, states.dtype)
            return F.pad(self.encoder(states, positions_of(part), eps), (0, 0, length - part.shape[1], 0))

        return by_history(history, history != PADDING, read)

    def _eps(self, keys: Tensor, length: int, noise: Noise | None, dtype: torch.dtype) -> Tensor:
        """(B, L, 2, H) noise of both layers, named by the row and how many positions are newer."""
        shape = (len(keys), length, 2, self.config.state_dim)
        if noise is None:
            return torch.zeros(shape, dtype=dtype, device=keys.device)
        places = position_keys(keys, length).flatten()
        return noise.normal(places, 2 * self.config.state_dim, "encoder", dtype).view(shape)

    def decode(self, latent: Tensor) -> Tensor:
        """(P, W + 1) what the output table is multiplied with, and a 1 for its biases, for latent vectors (P, D)."""
        return F.pad(self.decoder(latent).tanh(), (0, 1), value=1.0)

    # ------------------------------------------------------------------------------------------------------- the loss

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """`likelihood + alpha divergence + beta contrast + adversary`, each averaged over positions.

        The likelihood is negative, in nats; the divergence is what the adversary takes it for, and `adversary` the
        error of that, which moves the adversary alone.
        """
        config = self.config
        history = batch.history[:, -config.max_length :]
        real = positions_of(history)
        target = batch.next_items[:, -config.max_length :][real]  # (P,)
        latent, read = self.latent(batch, noise), self.items(history)
        z, x = latent[real], read[real]  # (P, D), (P, W)

        likelihood = softmax_loss(self.decode(z), self.output.weight[1:], target - 1)
        parts = {"loss": likelihood, "likelihood": likelihood}
        if self.adversary is not None:
            keys = position_keys(batch.key, history.shape[1])[real]
            prior = noise.normal(keys, config.dim, "prior", z.dtype)
            parts["divergence"] = judged(self.adversary, x, z).mean()
            parts["adversary"] = telling_apart(self.adversary, x.detach(), z.detach(), prior)
            parts["loss"] = parts["loss"] + config.kl_weight * parts["divergence"] + parts["adversary"]
        if self.critic is not None:
            own = self.critic(read, latent, real)[real]
            other = self.critic(read, of_the_next_row(latent, real), real)[real]
            parts["contrast"] = (F.softplus(-own) + F.softplus(other)).mean()
            parts["loss"] = parts["loss"] + config.contrast_weight * parts["contrast"]
        return parts

    # ----------------------------------------------------------------------------------------------------- the answer

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, 1, W + 1)."""
        drawn = noise if self.config.inference == "sample" else None
        return self.decode(self.latent(query, drawn)[:, -1])[:, None]

    def item_vectors(self) -> Tensor:
        """(I + 1, W + 1) the output table, and its biases."""
        return self.output.weight


# -------------------------------------------------------------------------------------------------- terms of the loss


def judged(adversary: nn.Module, x: Tensor, z: Tensor) -> Tensor:
    """(P, D) T(x, z), whose gradient moves x and z and no weight of the adversary."""
    fixed = {name: parameter.detach() for name, parameter in adversary.named_parameters()}
    verdict: Tensor = functional_call(adversary, fixed, (x, z))
    return verdict


def telling_apart(adversary: nn.Module, x: Tensor, z: Tensor, prior: Tensor) -> Tensor:
    """() `-log sigmoid(T(x, z)) - log(1 - sigmoid(T(x, prior)))`, averaged over positions and outputs."""
    return F.softplus(-adversary(x, z)).mean() + F.softplus(adversary(x, prior)).mean()


def positions_of(history: Tensor) -> Tensor:
    """(B, L) True at items, and at the newest position also where a history (B, L) has none."""
    real = history != PADDING
    real[:, -1] = True
    return real


def of_the_next_row(latent: Tensor, real: Tensor) -> Tensor:
    """(B, L, D) of (B, L, D): for every row what the next one has, the last one what the first has.

    Counted from the newest position, and again from there where the other row is shorter:

        row  - a b c        next row  - - p q        given  p q p q

    `real` (B, L) says where rows have positions. What stands elsewhere is never given.
    """
    length = real.shape[1]
    newer = torch.arange(length - 1, -1, -1, device=real.device)
    other = real.sum(dim=1, keepdim=True).roll(-1, dims=0)  # (B, 1), at least 1
    place = length - 1 - newer % other  # (B, L)
    return latent.roll(-1, dims=0).gather(1, place[..., None].expand_as(latent))

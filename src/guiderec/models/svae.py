"""SVAE: Sequential Variational Autoencoders for Collaborative Filtering (Sachdeva et al., WSDM 2019, arXiv:1811.09975).

Idea       A GRU reads the history. After every item its state gives a Gaussian, and what is drawn from it is decoded
           into a distribution over the items, of which the next k items of the sequence are to be likely.
Notation   paper -> code:  h_t -> states;  mu, log sigma -> posterior();  z_t -> latent (P, D);  pi(z_t) -> decode() and
           the inner product with `output`;  k -> next_k;  beta -> weight_of_kl()
Order      states() -> posterior() -> decode() -> next_items_of(), what is to be likely -> divergence() -> loss()
Facts      authors' public code (noveens/svae_cf: main_svae.ipynb) for widths, initialisation, targets and annealing.
Departs    1. Rows are padded windows in batches; the authors take one user at a time. A window ends where the next one
              begins, so that its last positions have fewer than k items, as the last ones of a sequence have there.
           2. Likelihood and divergence are averaged over positions, so that beta weighs them as in the paper's bound.
              The public code sums the likelihood over the steps of a user and averages the divergence: its beta is
              divided by the length of the sequence. That is `average="public_code"`.
           3. log sigma is one thing. In the public code it is that in the draw, and log sigma^2 in the divergence:
              `log_scale="public_code"`.
           4. Ranks by the mean of the Gaussian. The public code draws at inference too: `inference="sample"`.
           5. Trained by AdamW, with a decay apart from the gradient; the authors have Adam with the decay inside it.
Kept       1. The next k items are a set: an item that comes twice among them counts once.
           2. Each of them weighs one over the number that the first position of the row has, k or what the row affords.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.data.batch import PADDING, Batch, Query
from guiderec.models.base import EmbeddingRecommender, ModelConfig
from guiderec.nn.buckets import by_history
from guiderec.nn.embedding import item_embedding
from guiderec.nn.recurrent import GRU
from guiderec.rng import Noise, position_keys


class SVAEConfig(ModelConfig):
    """Options of SVAE. Defaults are those of the authors' code."""

    name: Literal["svae"] = "svae"
    dim: int = Field(64, ge=1)
    """D, width of the latent vector."""
    item_dim: int = Field(256, ge=1)
    """Width of the item vectors that the GRU reads."""
    state_dim: int = Field(200, ge=1)
    """H, width of the GRU's state."""
    hidden_dim: int = Field(150, ge=1)
    """M, width of the hidden layer between state and Gaussian, and of the one between latent vector and items."""
    max_length: int = Field(50, ge=1)
    """L, the longest history. Of a longer one the newest items count."""
    next_k: int = Field(4, ge=1)
    """k, how many of the items that follow a position are to be likely there. 1 is the next-item task."""
    kl_weight: float = Field(0.2, ge=0)
    """beta, weight of the divergence after its annealing."""
    kl_anneal_steps: int = Field(10_000, ge=0)
    """Optimizer steps over which beta rises evenly from 0; 0 has it whole from the start. The authors have 200,000
    updates of one user each, of which their 25 epochs on ML-1M make 113,000."""
    average: Literal["positions", "public_code"] = "positions"
    """Both parts of the loss are averaged over all positions of a batch; or, as in the public code, the likelihood is
    summed and the divergence averaged over the positions of each row, and then both are averaged over rows."""
    log_scale: Literal["deviation", "public_code"] = "deviation"
    """The second half of what the encoder gives is log sigma. The public code's divergence reads it as log sigma^2."""
    inference: Literal["mean", "sample"] = "mean"
    """Rank by the mean of the Gaussian, or by a draw from it that is named by the row."""


class SVAE(EmbeddingRecommender):
    """Decodes a latent vector that is drawn around a function of the GRU's state.

    The state before the first item is 0: an empty history has the Gaussian of that state, which is learnt where there
    are rows without a history.

    Initialisation: items N(0, 1); all maps but the GRU's Xavier-normal, N(0, 2 / (rows + columns)), the output table as
    a map from M to I; the GRU and all biases as torch does.
    """

    Config: ClassVar[type[ModelConfig]] = SVAEConfig

    def __init__(self, config: SVAEConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.items = item_embedding(n_items, config.item_dim, std=1.0)
        self.gru = GRU(config.item_dim, config.state_dim)
        self.hidden = _xavier(nn.Linear(config.state_dim, config.hidden_dim))
        self.gaussian = _xavier(nn.Linear(config.hidden_dim, 2 * config.dim))
        self.decoder = _xavier(nn.Linear(config.dim, config.hidden_dim))
        self.output = item_embedding(n_items, config.hidden_dim + 1, std=math.sqrt(2 / (n_items + config.hidden_dim)))
        with torch.no_grad():
            bound = config.hidden_dim**-0.5
            self.output.weight[1:, -1].uniform_(-bound, bound)

    # ---------------------------------------------------------------------------------------------------- the network

    def states(self, history: Tensor) -> Tensor:
        """(B, L, H) after every position of the histories (B, L); L is cut to `max_length`. 0 at padding."""
        history = history[:, -self.config.max_length :]
        length = history.shape[1]

        def read(part: Tensor, rows: Tensor) -> Tensor:
            return F.pad(self.gru(self.items(part), part != PADDING), (0, 0, length - part.shape[1], 0))

        return by_history(history, history != PADDING, read)

    def newest_state(self, history: Tensor) -> Tensor:
        """(B, H) the last of `states`."""
        history = history[:, -self.config.max_length :]
        return by_history(
            history, history != PADDING, lambda part, rows: self.gru(self.items(part), part != PADDING)[:, -1]
        )

    def posterior(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log sigma (P, D) for states (P, H)."""
        mean, log_sigma = self.gaussian(self.hidden(states).tanh()).chunk(2, dim=-1)
        return mean, log_sigma

    def decode(self, latent: Tensor) -> Tensor:
        """(P, M + 1) what the output table is multiplied with, and a 1 for its biases, for latent vectors (P, D)."""
        return F.pad(self.decoder(latent).tanh(), (0, 1), value=1.0)

    # ------------------------------------------------------------------------------------------------------- the loss

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """`likelihood + beta divergence`; the likelihood is negative, in nats."""
        config = self.config
        target, weight = next_items_of(batch, config.next_k, config.max_length)  # (B, L, k)
        learnt = target[..., 0] != PADDING  # (B, L)
        mean, log_sigma = self.posterior(self.states(batch.history)[learnt])  # (P, D)
        keys = position_keys(batch.key, learnt.shape[1])[learnt]
        latent = mean + log_sigma.exp() * noise.normal(keys, config.dim, "latent", mean.dtype)

        log_share = (self.decode(latent) @ self.output.weight[1:].T).log_softmax(dim=1)  # (P, I)
        likely = log_share.gather(1, (target[learnt] - 1).clamp(min=0))  # (P, k)
        surprise = -(likely * weight[learnt].to(likely.dtype)).sum(dim=1)  # (P,)
        apart = divergence(mean, log_sigma if config.log_scale == "deviation" else 0.5 * log_sigma)  # (P,)

        if config.average == "positions":
            likelihood, kl = surprise.mean(), apart.mean()
        else:
            positions = learnt.sum(dim=1, keepdim=True).expand_as(learnt)[learnt]  # (P,) how many the row has
            likelihood, kl = surprise.sum() / len(batch), (apart / positions).sum() / len(batch)
        return {
            "loss": likelihood + self.weight_of_kl(noise.step) * kl,
            "likelihood": likelihood,
            "divergence": kl,
        }

    def weight_of_kl(self, step: int) -> float:
        """The beta of an optimizer step: rises evenly from 0 to `kl_weight`."""
        steps = self.config.kl_anneal_steps
        return self.config.kl_weight * (min(1.0, step / steps) if steps else 1.0)

    # ----------------------------------------------------------------------------------------------------- the answer

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, 1, M + 1)."""
        latent, log_sigma = self.posterior(self.newest_state(query.history))
        if self.config.inference == "sample":
            latent = latent + log_sigma.exp() * noise.normal(query.key, self.config.dim, "latent", latent.dtype)
        return self.decode(latent)[:, None]

    def item_vectors(self) -> Tensor:
        """(I + 1, M + 1) the output table, and its biases."""
        return self.output.weight


def divergence(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """(P,) Kullback-Leibler divergence of N(mean, diag(sigma^2)) from N(0, I), for (P, D) each, in nats."""
    return 0.5 * (mean.square() + (2 * log_sigma).exp() - 1 - 2 * log_sigma).sum(dim=-1)


def next_items_of(batch: Batch, k: int, max_length: int) -> tuple[Tensor, Tensor]:
    """The k items that follow every position, 0 where there are fewer, and their weights: (B, L, k) each.

        history  0 0 4 7 9   target 2   k = 2        0 0 0 0 0   target 5
        items    - - 7 9 2                           - - - - 5
                 - - 9 2 0                           - - - - 0
        weights  one half each                       1

    An item that was there before among the k has weight 0; the others weigh one over the number of different items
    that follow the oldest position of the row. L is cut to `max_length`.
    """
    own = F.pad(batch.own_items, (0, k - 1))  # (B, L + k)
    learnt = batch.next_items != PADDING
    items = (own[:, 1:].unfold(1, k, 1) * learnt[..., None])[:, -max_length:]
    learnt = learnt[:, -max_length:]
    earlier = torch.ones(k, k, dtype=torch.bool, device=items.device).tril(-1)
    repeated = ((items[..., :, None] == items[..., None, :]) & earlier).any(dim=-1)
    counted = (items != PADDING) & ~repeated
    oldest = learnt.to(torch.uint8).argmax(dim=1)  # the first True
    count = counted.sum(dim=2).gather(1, oldest[:, None])  # (B, 1)
    return items, counted / count[..., None]


def _xavier(linear: nn.Linear) -> nn.Linear:
    nn.init.xavier_normal_(linear.weight)
    return linear

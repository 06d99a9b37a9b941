"""GRU4Rec: Session-based Recommendations with Recurrent Neural Networks (Hidasi et al., ICLR 2016, arXiv:1511.06939).

With the losses of Recurrent Neural Networks with Top-k Gains (Hidasi and Karatzoglou, CIKM 2018, arXiv:1706.03847).

Idea       A GRU reads the history item by item; its state is compared with every item. What an item is compared with in
           training are the targets of the other sessions of the mini-batch, and a sample of items for all of them.
Notation   paper -> code:  h_t -> states[:, t];  W_y, b_y -> output.weight[:, :-1], output.weight[:, -1];
           r_{i,j} -> scores (M, M + N), own target on the diagonal;  N_S -> M - 1 + N;  z_t -> 1 - torch's z
Order      states(): embedding, GRU -> loss(): scores of targets and drawn items -> one of the objectives ->
           user_vectors(): (h, 1), so that the inner product with (W_y, b_y) has the bias
Facts      both public codes of the authors (hidasib/GRU4Rec: gru4rec.py, hidasib/GRU4Rec_PyTorch_Official:
           gru4rec_pytorch.py) for tied tables, dropout, sampling, logQ, ELU and initialisation.
Departs    1. Rows are windows, not session-parallel mini-batches. There a step has one event of each of M sessions, and
              states go on to the next step without a gradient through time. Here a row is read from its start with the
              gradient through all of it, in random order, as every model of a table reads it. What remains: a column
              of the batch, counted from the newest item, is a step, and negatives are the targets of that column alone.
           2. The N drawn items are shared by all columns of a batch; the authors draw anew for every step.
           3. The reset gate multiplies U h + b and not h, as torch and the authors' own torch code have it.
           4. BPR and TOP1 are means over the negatives, as printed in 2016; the authors' code also counts the target
              against itself, which adds a constant. Scores are linear, where 2016 has tanh, except for BPR-max's ELU.
           5. No input of one-hot vectors. It is `embedding=Separate()` with a width of 3 D that needs no map.
           6. Items that training never shows are not drawn. The authors have no such items.
           7. Trained by AdamW like every model here; the authors have Adagrad with momentum, at rates near 0.1.
Kept       1. An accidental hit, a drawn item or another row's target that is the own target too, counts as a negative.
           2. The dropped state is what goes on to the next item, so that dropout is part of the recurrence.
           3. logQ subtracts the logarithm of an item's count in training from all targets of the mini-batch, the own
              one included, and alpha times that from drawn items: neither the sums that make probabilities of counts
              nor the numbers M and N of draws are in it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.config import Part
from guiderec.data.batch import PADDING, Batch, Query
from guiderec.data.sequences import Sequences
from guiderec.models.base import EmbeddingRecommender, ModelConfig
from guiderec.nn.buckets import by_history
from guiderec.nn.dropout import Dropout
from guiderec.nn.embedding import item_embedding
from guiderec.nn.next_item import CrossEntropy
from guiderec.rng import Noise

_GRID_BITS = 53
"""Probabilities of drawing are multiples of 2^-53, kept as whole numbers: a change of precision moves no draw."""


# ------------------------------------------------------------------------------------------------------------ losses


class SharedNegatives(Part):
    """What the sampled losses have in common: a mini-batch of M rows is compared with its targets and N drawn items.

    A loss is a function of scores (M, M + N), row i's own target in column i, and of the log q (M + N,) of their
    columns, how often each is there. It gives (M,).
    """

    samples: int = Field(2048, ge=0)
    """N, items drawn for all rows of a batch. 0 leaves the targets of the other rows, as in 2016."""
    alpha: float = Field(0.5, ge=0)
    """An item is drawn with a probability proportional to its count in training to this power; 0: all alike."""


class SampledCrossEntropy(SharedNegatives):
    """`-log softmax(r - logq log q)[own]` among all M + N columns."""

    name: Literal["sampled_cross_entropy"] = "sampled_cross_entropy"
    logq: float = Field(1.0, ge=0)
    """How much of log q is subtracted from the scores in training; 0 corrects nothing."""

    def __call__(self, scores: Tensor, log_q: Tensor) -> Tensor:
        """(M,)."""
        corrected = scores - self.logq * log_q
        return corrected.logsumexp(dim=1) - corrected.diagonal()


class BPRMax(SharedNegatives):
    """`-log sum_j s_j sigmoid(r_i - r_j) + bpreg sum_j s_j r_j^2`, s the softmax of the negatives' scores (2018)."""

    name: Literal["bpr_max"] = "bpr_max"
    bpreg: float = Field(1.0, ge=0)
    """Weight of the second sum, which keeps scores of negatives small."""
    elu: float = Field(0.5, ge=0)
    """Scores above 0 stay, others become elu (exp(r) - 1) in the loss; 0 leaves all as they are."""

    def __call__(self, scores: Tensor, log_q: Tensor) -> Tensor:
        """(M,), through `log sum_j exp(log s_j + log sigmoid(r_i - r_j))`, which cannot be log 0."""
        if self.elu > 0:
            scores = F.elu(scores, self.elu)
        log_share = _log_share(scores)
        won = log_share + F.logsigmoid(_own(scores) - scores)
        return self.bpreg * (log_share.exp() * scores.square()).sum(dim=1) - won.logsumexp(dim=1)


class TOP1Max(SharedNegatives):
    """`sum_j s_j (sigmoid(r_j - r_i) + sigmoid(r_j^2))`, s the softmax of the negatives' scores (2018)."""

    name: Literal["top1_max"] = "top1_max"

    def __call__(self, scores: Tensor, log_q: Tensor) -> Tensor:
        """(M,)."""
        return (_log_share(scores).exp() * _top1(scores)).sum(dim=1)


class BPR(SharedNegatives):
    """`-log sigmoid(r_i - r_j)`, averaged over the negatives (2016)."""

    name: Literal["bpr"] = "bpr"

    def __call__(self, scores: Tensor, log_q: Tensor) -> Tensor:
        """(M,)."""
        return _mean_of_negatives(-F.logsigmoid(_own(scores) - scores))


class TOP1(SharedNegatives):
    """`sigmoid(r_j - r_i) + sigmoid(r_j^2)`, averaged over the negatives (2016)."""

    name: Literal["top1"] = "top1"

    def __call__(self, scores: Tensor, log_q: Tensor) -> Tensor:
        """(M,)."""
        return _mean_of_negatives(_top1(scores))


def _own(scores: Tensor) -> Tensor:
    """(M, 1) r_i."""
    return scores.diagonal()[:, None]


def _top1(scores: Tensor) -> Tensor:
    """(M, M + N) a rank that is to be small, and a score that is to be near 0."""
    return (scores - _own(scores)).sigmoid() + scores.square().sigmoid()


def _log_share(scores: Tensor) -> Tensor:
    """(M, M + N) log s_j, the log-softmax over the negatives; as good as -inf at the own target, where s is 0."""
    return scores.masked_fill(_is_own(scores), torch.finfo(scores.dtype).min).log_softmax(dim=1)


def _mean_of_negatives(terms: Tensor) -> Tensor:
    """(M,) the mean of every row without its own column."""
    return terms.masked_fill(_is_own(terms), 0).sum(dim=1) / (terms.shape[1] - 1)


def _is_own(scores: Tensor) -> Tensor:
    return torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)


# ----------------------------------------------------------------------------------------------------------- options


class Tied(Part):
    """The GRU reads the vectors that items are scored with ("constrained" in the authors' code)."""

    name: Literal["tied"] = "tied"


class Separate(Part):
    """The GRU reads a table of its own."""

    name: Literal["separate"] = "separate"
    dim: int = Field(100, ge=1)
    """Width of what is read."""


class GRU4RecConfig(ModelConfig):
    """Options of GRU4Rec. Defaults are those of the authors' parameters for cross-entropy on RSC15."""

    name: Literal["gru4rec"] = "gru4rec"
    dim: int = Field(100, ge=1)
    """D, width of states and of output vectors without their bias."""
    layers: int = Field(1, ge=1)
    """GRUs, each of which reads the states of the one before."""
    embedding: Annotated[Tied | Separate, Field(discriminator="name")] = Tied()
    """What the first GRU reads."""
    embedding_dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping an entry of what is read."""
    dropout: float = Field(0.4, ge=0, lt=1)
    """Probability of dropping an entry of a state, for the next layer, the scores and the next item alike."""
    max_length: int = Field(50, ge=1)
    """L, the longest history. Of a longer one the newest items count."""
    predict: Literal["every_position", "last_position"] = "every_position"
    """Learn the item after every position of a row, or the row's target alone."""
    objective: Annotated[
        SampledCrossEntropy | BPRMax | TOP1Max | BPR | TOP1 | CrossEntropy, Field(discriminator="name")
    ] = SampledCrossEntropy()
    """What is minimised at each learnt position: a sampled loss, or the cross-entropy over all items."""


# ------------------------------------------------------------------------------------------------------------- model


class GRU4Rec(EmbeddingRecommender):
    """A GRU over the history; the state at the newest item is compared with the output table.

    The state before the first item is 0, so that an empty history is answered by the output biases, which are learnt.

    Initialisation: tables, and each gate's block of the GRU's maps by itself, uniform within
    sqrt(6 / (rows + columns)); biases 0.
    """

    Config: ClassVar[type[ModelConfig]] = GRU4RecConfig

    log_count: Tensor
    upto: Tensor

    def __init__(self, config: GRU4RecConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.output = _uniform_table(n_items, config.dim, biases=1)
        separate = config.embedding if isinstance(config.embedding, Separate) else None
        self.input = _uniform_table(n_items, separate.dim) if separate else None
        self.embedding_dropout = Dropout(config.embedding_dropout)
        widths = [separate.dim if separate else config.dim] + [config.dim] * (config.layers - 1)
        self.layers = nn.ModuleList(_GRU(width, config.dim, config.dropout) for width in widths)
        self.register_buffer("log_count", torch.zeros(n_items + 1))
        self.register_buffer("upto", torch.zeros(n_items, dtype=torch.int64))
        self._count(np.ones(n_items))

    def prepare(self, train: Sequences) -> None:
        """Count the items in training, by which negatives are drawn and corrected for."""
        self._count(np.bincount(train.items, minlength=self.n_items + 1)[1:].astype(np.float64))

    def _count(self, counts: np.ndarray) -> None:
        """Set `log_count` (I + 1,), and `upto` (I,): 2^53 times the probability that one of the items 1..j is drawn."""
        alpha = getattr(self.config.objective, "alpha", 0.0)
        weights = np.where(counts > 0, counts**alpha, 0.0).cumsum()
        self.upto = torch.from_numpy((weights / weights[-1] * 2.0**_GRID_BITS).astype(np.int64)).to(self.upto)
        self.log_count[1:] = torch.from_numpy(np.log(counts.clip(min=1))).to(self.log_count)

    def states(self, history: Tensor) -> Tensor:
        """(B, L, D) after every position of the histories (B, L); L is cut to `max_length`. 0 at padding."""
        history = history[:, -self.config.max_length :]
        length = history.shape[1]

        def read(part: Tensor, rows: Tensor) -> Tensor:
            return F.pad(self._read(part), (0, 0, length - part.shape[1], 0))

        return by_history(history, history != PADDING, read)

    def newest_state(self, history: Tensor) -> Tensor:
        """(B, D) the last of `states`."""
        history = history[:, -self.config.max_length :]
        return by_history(history, history != PADDING, lambda part, rows: self._read(part)[:, -1])

    def _read(self, history: Tensor) -> Tensor:
        """(B, L, D) for (B, L)."""
        mask = history != PADDING
        x = self.output(history)[..., :-1] if self.input is None else self.input(history)
        x = self.embedding_dropout(x)
        for layer in self.layers:
            x = layer(x, mask)
        return x

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """`{"loss"}`, averaged over the learnt positions of the batch."""
        target = batch.next_items[:, -self.config.max_length :]  # (B, L)
        if self.config.predict == "last_position":
            states, target = self.newest_state(batch.history)[:, None], target[:, -1:]
        else:
            states = self.states(batch.history)  # (B, L, D)
        states, learnt = _with_one(states), target != PADDING
        objective = self.config.objective
        if isinstance(objective, CrossEntropy):
            states, target = states[learnt], target[learnt]
            return {"loss": objective(states, target, target[:, None], self.output.weight)}
        return {"loss": self._sampled(states, target, learnt, noise)}

    def _sampled(self, states: Tensor, target: Tensor, learnt: Tensor, noise: Noise) -> Tensor:
        """() a sampled loss of states (B, L, D + 1) and targets (B, L), where they are learnt: a column at a time.

        A position that has nothing to be compared with has no loss.
        """
        objective = self.config.objective
        rows = learnt.sum(dim=0).tolist()  # M of every column
        states, target = states.transpose(0, 1)[learnt.T], target.T[learnt.T]  # (P, D + 1) and (P,), by columns
        drawn = self.draw(objective.samples, noise)
        vectors = self.output(torch.cat([target, drawn]))  # one look-up, so that the table gets one gradient
        wanted, against = vectors[: len(target)], vectors[len(target) :]
        total = 0.0 * (states.sum() + vectors.sum())  # has a gradient also where nothing is compared
        columns = (torch.split(part, rows) for part in (states, wanted, target))
        for h, y, ids in zip(*columns, strict=True):
            if len(h) == 0 or len(h) + len(drawn) == 1:
                continue
            log_q = torch.cat([self.log_count[ids], objective.alpha * self.log_count[drawn]])
            total = total + objective(h @ torch.cat([y, against]).T, log_q).sum()
        return total / len(target)

    def draw(self, size: int, noise: Noise) -> Tensor:
        """(N,) items for a whole batch, with replacement, by popularity to the power alpha."""
        one = torch.zeros(1, dtype=torch.int64, device=self.upto.device)
        place = noise.bits(one, size, "negatives")[0] >> (63 - _GRID_BITS)
        return torch.searchsorted(self.upto, place, right=True) + 1

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """(B, 1, D + 1) the state at the newest item, and 1."""
        return _with_one(self.newest_state(query.history))[:, None]

    def item_vectors(self) -> Tensor:
        """(I + 1, D + 1) the output vectors, and their biases."""
        return self.output.weight


class _GRU(nn.Module):
    """One layer: vectors (B, L, D_in), mask (B, L) with padding on the left -> states (B, L, D), 0 at padding.

    r = sigmoid(W_r x + U_r h),  z = sigmoid(W_z x + U_z h),  n = tanh(W_n x + r (U_n h)),  h <- (1 - z) n + z h, where
    each map has a bias; then dropout.
    """

    def __init__(self, width: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.cell = nn.GRUCell(width, dim)
        self.dropout = Dropout(dropout)
        for weight in (self.cell.weight_ih, self.cell.weight_hh):
            for block in weight.detach().chunk(3):
                nn.init.xavier_uniform_(block)
        nn.init.zeros_(self.cell.bias_ih)
        nn.init.zeros_(self.cell.bias_hh)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = x.new_zeros(len(x), self.cell.hidden_size)
        states = []
        for x_t, real in zip(x.unbind(dim=1), mask[..., None].unbind(dim=1), strict=True):
            h = self.dropout(self.cell(x_t, h)) * real  # still 0 when the first item comes
            states.append(h)
        return torch.stack(states, dim=1)


def _uniform_table(n_items: int, dim: int, *, biases: int = 0) -> nn.Embedding:
    """A table (I + 1, D + biases), uniform within sqrt(6 / (I + D)), 0 in the columns of biases and in row 0."""
    table = item_embedding(n_items, dim + biases)
    bound = (6 / (n_items + dim)) ** 0.5
    with torch.no_grad():
        table.weight[1:, :dim].uniform_(-bound, bound)
        table.weight[:, dim:].zero_()
    return table


def _with_one(states: Tensor) -> Tensor:
    """(..., D + 1) the states and what their biases are multiplied with."""
    return F.pad(states, (0, 1), value=1.0)

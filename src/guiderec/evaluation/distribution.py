"""How the generated vectors are spread beside the true ones: squared maximum mean discrepancy (MMD^2), with a test.

    rows -> user_vectors                -> generated x (R, D)
    rows -> targets -> item_vectors     -> true      y (R, D)      both brought to length 1 -> `mmd`

    MMD^2(P, Q) = E k(x, x') + E k(y, y') - 2 E k(x, y)                      (Gretton et al. 2012, JMLR 13, Lemma 6)
    k(u, v)     = mean over c in {1/4, 1/2, 1, 2, 4} of exp(-||u - v||^2 / (2 (c m)^2)),   m the median distance

A row has one x and one y, which depend on each other, so a row is never compared with itself, nor are two rows of one
user. The estimate is the U-statistic over all other pairs of rows,

    h(r, s) = k(x_r, x_s) + k(y_r, y_s) - k(x_r, y_s) - k(x_s, y_r)          MMD_u^2 = mean of h over pairs (r, s),

which is unbiased: where generated and true vectors have one distribution, it is below 0 as often as not.

What it says and what not. It compares two clouds: a model that gave every user the vector of somebody else would keep
its MMD. Every model is measured in its own table of items and by its own median distance, so two models are compared by
how well each fills its own space. The true vectors stand on items, where several rows may share one; a model that
spreads its vectors evenly between the items is apart from them in the narrow kernels alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from guiderec.data.sequences import Ids, Rows
from guiderec.errors import ConfigError, DataError, ScoreError
from guiderec.evaluation.evaluate import SumOver, batches, require_once
from guiderec.evaluation.ranking import inference
from guiderec.models.base import Recommender, ranks_by_vectors
from guiderec.nn.interests import best_interest
from guiderec.rng import Noise, numpy_generator

WIDTHS = (4.0, 2.0, 1.0, 0.5, 0.25)
"""Bandwidths of the kernels, in median distances; each half the one before."""
PERMUTATIONS = 999
"""Random sign patterns of the test: the smallest p value is 1 / 1,000."""
MEDIAN_ROWS = 2_000
"""Rows whose generated and true vectors give the median distance; all rows where there are not more."""
BLOCK_ROWS = 256
"""Rows compared with as many others at a time: blocks of 2 MiB, which stay in the cache of a processor."""

_NOISE = Noise(0)
_ROUNDING = 1e-12
"""Two means of h that are nearer than this are equal: kernels are at most 1, in float64."""


@dataclass(frozen=True)
class Generated:
    """What a model generates for R rows, and the table of items that it generates into. Tensors on the CPU."""

    vectors: Tensor
    """(R, D) float32, what the ranking compares with the items. Of K interests the one nearest to the target, by inner
    product: the one that gives the target its score."""
    items: Tensor
    """(I + 1, D) float32; row 0 is padding."""
    targets: Ids
    """(R,) the item that followed."""
    users: Ids
    """(R,) the user of each row."""
    keys: Ids
    """(R,) names of the rows, as `Rows.keys`: the same for every model on this part of this split."""
    interests: int
    """K, the vectors that the model generates for a row."""

    @property
    def true(self) -> Tensor:
        """(R, D) the vectors of the targets."""
        return self.items[torch.from_numpy(self.targets)]

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by name."""
        ids = {"target": self.targets, "user": self.users, "key": self.keys}
        return {
            "generated": self.vectors,
            "items": self.items,
            **{name: torch.from_numpy(value) for name, value in ids.items()},
        }


@dataclass(frozen=True)
class Discrepancy:
    """MMD_u^2 between generated and true vectors."""

    mmd2: float
    """The estimate of the SQUARED discrepancy, as it is and not in thousandths; may be below 0."""
    p: float
    """One-sided p value of 'generated and true vectors have one distribution'."""
    permutations: int
    median_distance: float
    """m, of unit vectors: in (0, 2]."""
    median_rows: int
    """Rows it was taken over."""
    n_rows: int
    unit: Literal["row", "user"]
    """What is swapped as one, and never compared with itself."""

    def to_plain(self) -> dict[str, Any]:
        """Plain data for a record."""
        return {**asdict(self), "kernel": "RBF mixture", "bandwidths": [w * self.median_distance for w in WIDTHS]}


def generated(
    model: Recommender,
    rows: Rows,
    *,
    max_length: int,
    noise: Noise = _NOISE,
    batch_size: int = 512,
    shard: tuple[int, int] = (0, 1),
    sum_over: SumOver | None = None,
) -> Generated:
    """The vectors that `model` ranks the rows with: the same batches, noise and mode as in `evaluate`.

    A model that ranks with the mean over its sampling noise gives that mean, and not a draw.

    Raises
    ------
    ConfigError
        For a model that does not rank by inner products of user and item vectors, and so generates none.
    DataError
        For no rows, or a shard without `sum_over`.
    ScoreError
        For a vector that is not finite, with its row and user.
    """
    if not ranks_by_vectors(model):
        raise ConfigError(
            f"{type(model).__name__} does not rank by vectors, so there is no distribution of them to look at.",
            hint="take a model that generates the embedding of the next item",
        )
    if len(rows) == 0:
        raise DataError("There are no rows to generate for.", hint="choose a protocol or filter that leaves some")
    times, interests = torch.zeros(len(rows), dtype=torch.int64), 0
    with inference(model):
        items = model.item_vectors().detach().float()
        vectors = torch.zeros(len(rows), items.shape[1])
        for index, batch in batches(rows, max_length, batch_size, shard, model.device):
            found = model.user_vectors(batch, noise).float()
            vectors[torch.from_numpy(index)] = best_interest(found, items[batch.target]).cpu()
            times[torch.from_numpy(index)] += 1
            interests = found.shape[1]
    if sum_over is not None:
        vectors, times = (sum_over(part.to(model.device)).cpu() for part in (vectors, times))
    require_once(times.numpy())
    broken = ~torch.isfinite(vectors).all(dim=1)
    if bool(broken.any()):
        row = int(broken.nonzero()[0])
        raise ScoreError(
            f"Evaluation row {row:,} (user {rows.users()[row]}): the generated vector is not finite; "
            f"{int(broken.sum()):,} of {len(rows):,} rows are like this.",
            hint="look for a loss that diverged",
        )
    vectors, items = vectors.clone(), items.cpu().clone()  # outside, so that others may use them with gradients
    return Generated(vectors, items, rows.targets(), rows.users(), rows.keys(), interests)


def mmd(
    vectors: Tensor, true: Tensor, *, users: Ids | None = None, permutations: int = PERMUTATIONS, seed: int = 0
) -> Discrepancy:
    """MMD_u^2 between `vectors` (R, D) and `true` (R, D), row r of both being of `users[r]`, and its p value.

    Both are brought to length 1. Under the hypothesis, swapping the generated and the true vectors of a user changes
    nothing; it turns the sign of h(r, s) for all pairs of theirs. With N random patterns of signs g,

        p = (1 + #{sum g_r g_s h(r, s) >= sum h(r, s)}) / (1 + N).

    h is computed in float64, `BLOCK_ROWS` rows against as many at a time, each pair once: memory grows with R alone.

    Parameters
    ----------
    users
        (R,) whose row it is; None: every row its own. Rows of one user depend on each other, so they are swapped
        together and never compared.

    Raises
    ------
    DataError
        For shapes that differ, fewer than two users, and vectors most of which are equal, so that there is no median.
    """
    _require_pairs(vectors, true)
    x, y = (F.normalize(each.detach().double(), dim=1) for each in (vectors, true))
    owner = _owners(len(x), users)
    median, median_rows = median_distance(x, y, seed=seed)
    signs = _signs(owner, permutations, seed)
    mean, sums = swapped_sums(x, y, median, owner, signs)
    extreme = int((sums[1:] >= sums[0] - _ROUNDING * len(x) ** 2).sum())
    return Discrepancy(
        mmd2=mean,
        p=(1 + extreme) / (1 + permutations),
        permutations=permutations,
        median_distance=median,
        median_rows=median_rows,
        n_rows=len(x),
        unit="row" if int(owner.max()) == len(owner) - 1 else "user",
    )


def mmd2(x: Tensor, y: Tensor, median: float, *, users: Ids | None = None) -> float:
    """MMD_u^2 between x (R, D) and y (R, D) as they are, without bringing them to length 1, for a given median."""
    _require_pairs(x, y)
    owner = _owners(len(x), users)
    return swapped_sums(x.double(), y.double(), median, owner, torch.ones(len(x), 1, dtype=torch.int8))[0]


def swapped_sums(x: Tensor, y: Tensor, median: float, owner: Ids, signs: Tensor) -> tuple[float, Tensor]:
    """The mean of h over pairs of rows of different owners, and the sums (P,) of g_r g_s h(r, s) for signs g (R, P).

    The mean is summed in float64; the sums pass float32 products, each column in the same way.
    """
    whose, signs = torch.from_numpy(owner).to(x.device), signs.to(x.device)
    total, pairs = 0.0, 0
    sums = torch.zeros(signs.shape[1], dtype=torch.float64, device=x.device)
    for rows, columns, times in _pairs_of_blocks(len(x)):
        other = whose[rows, None] != whose[columns]
        h = other * _h(x[rows], y[rows], x[columns], y[columns], median)
        total += times * float(h.sum())
        pairs += times * int(other.sum())
        left, right = signs[rows].float(), signs[columns].float()
        sums += times * (left * (h.float() @ right)).sum(dim=0).double()
    return total / pairs, sums


def median_distance(x: Tensor, y: Tensor, *, rows: int = MEDIAN_ROWS, seed: int = 0) -> tuple[float, int]:
    """The median distance between different vectors of x (R, D) and y (R, D) put together, and rows it is taken over.

    Exact up to `rows` rows; above, over a sample of that many, drawn without replacement by `seed`.
    """
    if len(x) > rows:
        sample = numpy_generator(seed, "median distance").choice(len(x), size=rows, replace=False)
        index = torch.from_numpy(np.sort(sample)).to(x.device)
        x, y = x[index], y[index]
    median = float(torch.pdist(torch.cat([x, y])).median())
    if median == 0:
        raise DataError(
            "Most of the vectors are equal, so their median distance is 0 and the kernels have no width.",
            hint="the embeddings have collapsed; look at guiderec.evaluation.diagnostics",
        )
    return median, len(x)


def kernel(a: Tensor, b: Tensor, median: float) -> Tensor:
    """(A, B) k(u, v) of the vectors a (A, D) and b (B, D), in (0, 1]; 1 for equal ones."""
    squared = (a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * (a @ b.T)).clamp_(min=0)
    narrower = squared.mul_(-0.5 / (WIDTHS[0] * median) ** 2).exp_()
    mixture = narrower.clone()
    for _ in WIDTHS[1:]:
        mixture += narrower.square_().square_()  # half the width is the fourth power: one exponential for all of them
    return mixture / len(WIDTHS)


def _h(x_r: Tensor, y_r: Tensor, x_s: Tensor, y_s: Tensor, median: float) -> Tensor:
    """(A, B) h(r, s) for the rows r and s."""
    a, b = len(x_r), len(x_s)
    k = kernel(torch.cat([x_r, y_r]), torch.cat([x_s, y_s]), median)
    return k[:a, :b] + k[a:, b:] - k[:a, b:] - k[a:, :b]


def _pairs_of_blocks(n: int) -> Iterator[tuple[slice, slice, int]]:
    """Two blocks of rows, and how many times their pairs count: h is symmetric, so two different blocks meet once."""
    blocks = [slice(first, min(first + BLOCK_ROWS, n)) for first in range(0, n, BLOCK_ROWS)]
    for i, rows in enumerate(blocks):
        for j, columns in enumerate(blocks[i:], start=i):
            yield rows, columns, 1 if i == j else 2


def _signs(owner: Ids, permutations: int, seed: int) -> Tensor:
    """(R, 1 + N) int8: a column of 1, and N columns of fair signs that the rows of an owner share."""
    drawn = numpy_generator(seed, "mmd").integers(0, 2, size=(int(owner.max()) + 1, permutations), dtype=np.int8)
    kept = np.ones((len(drawn), 1), dtype=np.int8)
    return torch.from_numpy(np.concatenate([kept, 2 * drawn - 1], axis=1)[owner])


def _owners(n: int, users: Ids | None) -> Ids:
    """(R,) 0..U - 1, the user of each row; without users every row is its own."""
    if users is None:
        users = np.arange(n)
    _, owner = np.unique(users, return_inverse=True)
    if not n or int(owner.max()) == 0:
        raise DataError(f"A discrepancy needs rows of at least two users; found {min(n, 1)}.")
    return owner


def _require_pairs(vectors: Tensor, true: Tensor) -> None:
    if vectors.ndim != 2 or vectors.shape != true.shape:
        raise DataError(
            f"Expected two (R, D) tensors of one shape, got {tuple(vectors.shape)} and {tuple(true.shape)}."
        )
    for name, each in (("generated", vectors), ("true", true)):
        bad = ~torch.isfinite(each).all(dim=1)
        if bool(bad.any()):
            raise DataError(f"The {name} vector of row {int(bad.nonzero()[0]):,} is not finite.")

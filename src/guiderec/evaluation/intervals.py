"""How sure a mean over rows is: percentile bootstrap intervals, over rows or over clusters of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from guiderec.data.sequences import Ids
from guiderec.evaluation.metrics import Values
from guiderec.rng import numpy_generator

_DRAWS = 2**22
"""Multinomial counts drawn at a time (32 MiB)."""


def bootstrap_interval(
    values: Values, *, clusters: Ids | None = None, level: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> tuple[Values, Values]:
    """Percentile bootstrap interval of the means of `values` (R, M): lower and upper ends (M,).

    With `clusters` (R,), whole clusters are resampled and a mean is over the rows drawn (a ratio of two sums).
    """
    means = bootstrap_means(values, clusters=clusters, resamples=resamples, seed=seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def bootstrap_means(
    values: Values, *, clusters: Ids | None = None, resamples: int = 2_000, seed: int = 0
) -> NDArray[np.float64]:
    """(resamples, M) means of resampled rows or clusters.

    Rows with equal values are exchangeable, so it is enough to draw how often each distinct row occurs. A metric with a
    cutoff k has k + 1 distinct values: the same bootstrap, without drawing a number per row.
    """
    sums, sizes = per_cluster(values, clusters)
    distinct, counts = np.unique(np.column_stack([sums, sizes]), axis=0, return_counts=True)
    n = len(sums)
    generator = numpy_generator(seed, "bootstrap")
    chunk = max(1, _DRAWS // len(distinct))
    means = [
        (totals := generator.multinomial(n, counts / n, size=min(chunk, resamples - done)) @ distinct)[:, :-1]
        / totals[:, -1:]
        for done in range(0, resamples, chunk)
    ]
    return np.concatenate(means)


def per_cluster(values: Values, clusters: Ids | None) -> tuple[Values, Values]:
    """Sums (C, M) and numbers of rows (C,) of every cluster; without clusters every row is its own."""
    if clusters is None:
        return values, np.ones(len(values), dtype=np.float64)
    _, which, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(which, weights=column) for column in values.T], axis=1).astype(np.float64)
    return sums, sizes.astype(np.float64)

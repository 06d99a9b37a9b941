"""Clouds of vectors in the plane: PCA and t-SNE of true and generated vectors together, so that they share the axes.

Vectors are brought to length 1 first, as for MMD. The same rows are drawn for every run, picked by their names, so that
two runs on one split show the same people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guiderec.errors import ConfigError

try:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits
except ImportError:  # the only module that needs them
    raise ConfigError("Projections need scikit-learn.", hint="pip install 'guiderec[plots]'") from None

Vectors = NDArray[np.floating]
Points = NDArray[np.float64]

ROWS = 500
"""Rows that are drawn, of each of the two clouds."""
PERPLEXITY = 30.0
SEED = 0
"""Of t-SNE's descent, which begins at the principal components; PCA needs none."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Projection:
    """Two clouds of n points in one plane."""

    name: str
    axes: tuple[str, str]
    """What the axes are; empty where they have no meaning."""
    true: Points
    """(n, 2)."""
    generated: Points
    """(n, 2), of the same rows."""


def sample(keys: NDArray[np.int64], rows: int = ROWS) -> NDArray[np.int64]:
    """Indices of `rows` rows, ascending: those whose names have the smallest hash, whatever their order."""
    hashed = (keys.astype(np.uint64) + np.uint64(1)) * _MULTIPLIER
    hashed = (hashed ^ (hashed >> np.uint64(31))) * _MULTIPLIER
    return np.sort(np.argsort(hashed, kind="stable")[:rows])


def pca(true: Vectors, generated: Vectors) -> Projection:
    """The plane of the two first principal components of both clouds (n, D) together."""
    both = _directions(true, generated)
    with threadpool_limits(limits=1):
        found = PCA(n_components=2, svd_solver="full").fit(both)
        points = found.transform(both)
    axes = tuple(
        f"Component {i} ({100 * share:.0f} % of the variance)"
        for i, share in enumerate(found.explained_variance_ratio_, start=1)
    )
    return Projection("PCA", (axes[0], axes[1]), points[: len(true)], points[len(true) :])


def tsne(true: Vectors, generated: Vectors) -> Projection:
    """t-SNE of both clouds (n, D) together; on one thread, where it gives the same points every time."""
    both = _directions(true, generated)
    perplexity = min(PERPLEXITY, (len(both) - 1) / 3)
    with threadpool_limits(limits=1):
        points = TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=SEED).fit_transform(both)
    points = points.astype(np.float64)
    return Projection("t-SNE", ("", ""), points[: len(true)], points[len(true) :])


def _directions(true: Vectors, generated: Vectors) -> Points:
    both = np.concatenate([true, generated]).astype(np.float64)
    return both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12)

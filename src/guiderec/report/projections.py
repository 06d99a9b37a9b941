"""Clouds of vectors in the plane: PCA and t-SNE of true and generated vectors together, so that they share the axes.

Vectors are brought to length 1 first, as for MMD. The same rows are drawn for every run, picked by their names, so that
two runs on one split show the same people. `coverage` sets generated vectors beside all items, as ADIGRec's Figures 4
and 5 do: t-SNE, and Gaussian kernel densities in its plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gaussian_kde

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
ITEMS = 1_000
"""Items that are drawn beside generated vectors."""
GRID = 96
"""Points of each side of the grid that densities are taken on."""
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


@dataclass(frozen=True)
class Coverage:
    """Densities of item vectors and of generated vectors in one plane, on a grid of (GRID, GRID) points."""

    x: Points
    """(GRID,)."""
    y: Points
    """(GRID,)."""
    items: Points
    """(GRID, GRID) density of the items at (y, x), per unit of area."""
    generated: Points
    """(GRID, GRID) density of the generated vectors."""

    @property
    def overlap(self) -> float:
        """The mass that the two densities share, the integral of the smaller one: 1 where they are equal, 0 apart."""
        cell = (self.x[1] - self.x[0]) * (self.y[1] - self.y[0])
        return float(np.minimum(self.items, self.generated).sum() * cell)


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


def coverage(items: Vectors, generated: Vectors) -> Coverage:
    """Gaussian kernel densities (Scott's bandwidth) of items (n, D) and generated vectors (m, D) in their t-SNE."""
    plane = tsne(items, generated)
    both = np.concatenate([plane.true, plane.generated])
    low, high = both.min(axis=0), both.max(axis=0)
    margin = 0.15 * (high - low)
    x, y = (np.linspace(low[i] - margin[i], high[i] + margin[i], GRID) for i in range(2))
    grid = np.stack(np.meshgrid(x, y)).reshape(2, -1)
    of_items, of_generated = (
        gaussian_kde(points.T)(grid).reshape(GRID, GRID) for points in (plane.true, plane.generated)
    )
    return Coverage(x, y, of_items, of_generated)


def _directions(true: Vectors, generated: Vectors) -> Points:
    both = np.concatenate([true, generated]).astype(np.float64)
    return both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12)

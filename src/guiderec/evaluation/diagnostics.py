"""What the geometry of item vectors tells about a model: collapse, popularity in the norms, use of the sphere."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from guiderec.data.sequences import Ids
from guiderec.errors import DataError, ScoreError
from guiderec.rng import numpy_generator


def item_diagnostics(item_vectors: Tensor, training_counts: Ids | None = None) -> dict[str, float]:
    """All diagnostics of item vectors (I + 1, D), whose row 0 is padding and ignored, as plain data."""
    vectors = item_vectors[1:].detach().double().cpu()
    if len(vectors) < 2:
        raise DataError(f"Diagnostics compare items; found {len(vectors)}.")
    if not bool(torch.isfinite(vectors).all()):
        item = int((~torch.isfinite(vectors)).any(dim=1).nonzero()[0]) + 1
        raise ScoreError(f"The vector of item {item} is not finite.", hint="look for a loss that diverged")
    found = {"effective_rank": effective_rank(vectors), "uniformity": uniformity(vectors)}
    if training_counts is not None:
        found["norm_popularity"] = norm_popularity(vectors, training_counts[1:])
    return found


def effective_rank(vectors: Tensor) -> float:
    """exp(H(p)), p the singular values of `vectors` (I, D) divided by their sum (Roy and Vetterli 2007, Def. 1).

    In [1, min(I, D)]: 1 when all vectors lie on one line, D when they fill all directions evenly. Vectors that are all
    zero have effective rank 0.
    """
    values = torch.linalg.svdvals(vectors)
    if float(values.sum()) == 0:
        return 0.0
    p = values / values.sum()
    return float(torch.special.entr(p).sum().exp())


def uniformity(vectors: Tensor, *, t: float = 2.0, most_items: int = 4_096, seed: int = 0) -> float:
    """Log of the mean over pairs of exp(-t ||u - v||^2) for unit vectors u, v (Wang and Isola 2020, Eq. 2).

    In [-4 t, 0], the lower the more even; 0 when all vectors point the same way. Above `most_items` items, the pairs
    of a sample of that many.
    """
    if len(vectors) > most_items:
        sample = numpy_generator(seed, "uniformity").choice(len(vectors), size=most_items, replace=False)
        vectors = vectors[torch.from_numpy(sample)]
    squared = torch.pdist(torch.nn.functional.normalize(vectors, dim=1)).square()
    return float((-t * squared).exp().mean().log())


def norm_popularity(vectors: Tensor, counts: Ids) -> float:
    """Spearman correlation between the norms of vectors (I, D) and training counts (I,), in [-1, 1].

    Near 1, the inner product puts popular items first for everybody. 0 where all norms or all counts are equal.
    """
    norms = torch.linalg.vector_norm(vectors, dim=1).numpy()
    if np.ptp(norms) <= 1e-12 * np.max(norms, initial=0.0) or np.ptp(counts) == 0:
        return 0.0
    return float(spearmanr(norms, counts).statistic)

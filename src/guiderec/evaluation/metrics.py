"""Metrics of a list with one relevant item, as functions of the rank of that item.

    rank      1      2      3      6      (1 is the top)
    recall@5  1      1      1      0      1 where rank <= k: with a single target, recall is the hit rate
    ndcg@5    1      0.631  0.5    0      1 / log2(rank + 1) where rank <= k; the ideal DCG is 1
    mrr@5     1      0.5    0.333  0      1 / rank where rank <= k

`hr@k` is another name for `recall@k`. The mean of a metric is over rows, never over batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guiderec.data.sequences import Ids
from guiderec.errors import ConfigError, nearest
from guiderec.limits import MAX_CUTOFF

Values = NDArray[np.float64]

_GAINS: dict[str, Callable[[Values], Values]] = {
    "recall": np.ones_like,
    "ndcg": lambda rank: 1.0 / np.log2(rank + 1.0),
    "mrr": lambda rank: 1.0 / rank,
}
_ALIASES = {"hr": "recall"}

DEFAULT_METRICS = ("recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr@10", "mrr@20")
"""The cutoffs that the papers report."""


@dataclass(frozen=True)
class Metric:
    """One metric with its cutoff; called with 1-based ranks (R,), it gives one value in [0, 1] per row.

    >>> Metric("ndcg", 5)(np.array([1, 3, 6])).tolist()
    [1.0, 0.5, 0.0]
    """

    gain: str
    k: int

    @property
    def name(self) -> str:
        """`ndcg@10`."""
        return f"{self.gain}@{self.k}"

    def __call__(self, ranks: Ids) -> Values:
        """(R,) values of ranks (R,)."""
        rank = np.asarray(ranks, dtype=np.float64)
        return np.where(rank <= self.k, _GAINS[self.gain](rank), 0.0)


def parse_metric(text: str) -> Metric:
    """`"NDCG@10"` as a metric. Raises ConfigError for an unknown name or a cutoff that is not in 1..`MAX_CUTOFF`."""
    name, at, cutoff = text.strip().lower().partition("@")
    gain = _ALIASES.get(name, name)
    if gain not in _GAINS:
        known = [*_GAINS, *_ALIASES]
        raise ConfigError(
            f"'{text}' is not a metric.{nearest(name, known)}", hint=f"one of {', '.join(known)}, as in ndcg@10"
        )
    if not at or not cutoff.isascii() or not cutoff.isdigit() or not cutoff.strip("0"):
        raise ConfigError(f"Metric '{text}' needs a cutoff of at least 1.", hint=f"for example {name}@10")
    if len(cutoff) > len(str(MAX_CUTOFF)) or int(cutoff) > MAX_CUTOFF:
        raise ConfigError(f"Metric '{text[:40]}' has a cutoff beyond {MAX_CUTOFF:,}.", hint=f"for example {name}@10")
    return Metric(gain, int(cutoff))


def parse_metrics(names: Iterable[str]) -> tuple[Metric, ...]:
    """The metrics in the order given, each once (`hr@5` and `recall@5` are one)."""
    metrics = tuple(dict.fromkeys(parse_metric(name) for name in names))
    if not metrics:
        raise ConfigError("There is no metric to compute.", hint="for example recall@5")
    return metrics

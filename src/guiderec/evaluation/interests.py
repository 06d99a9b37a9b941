"""What the K interests of a model do: how many there are in effect, how histories are routed, what the lists are like.

One number per row; nan where it is not defined, and then the row is no part of the mean.

effective_interests  exp(H(p)), p the eigenvalues of the cosines of the K user vectors, divided by K (Friedman and Dieng
                     2023, Vendi score): 1 when all interests point the same way, K when they are orthogonal. For
                     models with K > 1.
effective_routes     the same of the K columns of routing weights over the items of a history: 1 when all interests read
                     the history alike (routing collapse), at most min(K, items). Models with routing, K > 1, two items.
routing_entropy      mean over interests of the entropy of a column over the n items, each column summing to 1, divided
                     by log n: 1 when an interest is the mean of the history, 0 when it is one item. Two items and more.
listed_interests     exp of the entropy of the shares of a list that the interests brought: 1 when one brought it all.
list_diversity       mean of 1 - cosine of the item vectors over the pairs of a list, in [0, 2].
category_diversity   share of pairs of a list whose categories differ. Where the items have categories.

Vectors are compared by their angle, so that turning an interest around counts as none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from guiderec.data.sequences import Ids, Rows
from guiderec.errors import CheckpointError, ConfigError, DataError
from guiderec.evaluation.diversity import category_diversity, list_diversity
from guiderec.evaluation.evaluate import LEVEL, RESAMPLES, SumOver, batches, require_once
from guiderec.evaluation.intervals import bootstrap_interval
from guiderec.evaluation.metrics import Values
from guiderec.evaluation.ranking import RunningTopK, ScoreBlocks, Seen, inference
from guiderec.evaluation.significance import require_same_rows
from guiderec.models.base import EmbeddingRecommender, Recommender, Routed, ranks_by_vectors
from guiderec.rng import Noise

MEASURES = (
    "effective_interests",
    "effective_routes",
    "routing_entropy",
    "listed_interests",
    "list_diversity",
    "category_diversity",
)
_NOISE = Noise(0)


@dataclass(frozen=True)
class Interests:
    """The interests of a model on one part of a split."""

    rows: pl.DataFrame
    """One line per row, in the order of the split: `user`, `target`, `history_length` and the measures that the model
    and the data allow."""
    k: int
    """Length of the lists."""
    n_interests: int
    """K."""
    coverage: float
    """Share of the catalogue in anybody's list."""

    @property
    def measures(self) -> list[str]:
        """Names of the measures of this model."""
        return [name for name in MEASURES if name in self.rows.columns]

    def summary(self, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
        """Plain data: for each measure its mean with 95% percentile bootstrap interval over users, and its rows."""
        return {
            "k": self.k,
            "n_interests": self.n_interests,
            "coverage": self.coverage,
            "measures": {
                name: _mean_with_interval(self.rows[name].to_numpy(), self.rows["user"].to_numpy(), resamples, seed)
                for name in self.measures
            },
        }


def interests(
    model: Recommender,
    rows: Rows,
    *,
    max_length: int,
    k: int = 20,
    seen: Seen = "keep",
    categories: Tensor | None = None,
    candidates: Ids | None = None,
    noise: Noise = _NOISE,
    batch_size: int = 512,
    shard: tuple[int, int] = (0, 1),
    sum_over: SumOver | None = None,
) -> Interests:
    """Measure the lists of length k of every row and the interests behind them; batches and noise as in `evaluate`.

    `categories` (I + 1,) are those of `diversity.category_codes`.

    Raises
    ------
    ConfigError
        For a model that does not rank by vectors, or k below 1.
    DataError
        For no rows.
    """
    if not ranks_by_vectors(model):
        raise ConfigError(
            f"{type(model).__name__} does not rank by vectors, so it has no interests to look at.",
            hint="take a model with user and item vectors",
        )
    if len(rows) == 0:
        raise DataError("There are no rows to look at.", hint="choose a protocol or filter that leaves some")
    names = _measures_of(model, categories)
    values = torch.zeros(len(rows), len(names), dtype=torch.float64)
    times = torch.zeros(len(rows), dtype=torch.int64)
    listed = torch.zeros(model.n_items + 1, dtype=torch.int64)
    with inference(model):
        vectors = model.item_vectors()
        for index, batch in batches(rows, max_length, batch_size, shard, model.device, candidates=candidates):
            exclude = torch.from_numpy(rows.histories(index)).to(model.device) if seen == "mask" else None
            blocks, listing = ScoreBlocks(model, batch, noise), RunningTopK(k, batch.candidates, exclude)
            for block in blocks.with_interests():
                listing.add(*block)
            assert blocks.users is not None  # it ranks by vectors
            items = listing.items
            found = {
                "effective_interests": effective_number(blocks.users),
                "listed_interests": listed_interests(listing.interests, model.n_interests),
                "list_diversity": list_diversity(items, vectors),
            }
            if isinstance(model, Routed):
                found.update(_of_routing(model.routing(batch), batch.mask))
            if categories is not None:
                found["category_diversity"] = category_diversity(items, categories.to(items.device))
            where = torch.from_numpy(index)
            values[where] = torch.stack([found[name].double() for name in names], dim=1).cpu()
            times[where] += 1
            listed += items.flatten().bincount(minlength=len(listed)).cpu()
    if sum_over is not None:
        values, times, listed = (sum_over(part.to(model.device)).cpu() for part in (values, times, listed))
    require_once(times.numpy())
    columns: dict[str, Any] = {
        "user": rows.users(),
        "target": rows.targets(),
        "history_length": rows.history_lengths(),
        **{name: values[:, i].numpy() for i, name in enumerate(names)},
    }
    return Interests(pl.DataFrame(columns), k, model.n_interests, float((listed[1:] > 0).double().mean()))


def effective_number(vectors: Tensor) -> Tensor:
    """(B,) exp(H(p)) of the vectors (B, K, D) of each row, p the eigenvalues of their cosines divided by K.

    In [1, min(K, D)]. nan for a row with a vector of zeros, which has no direction.
    """
    units = F.normalize(vectors.double(), dim=2)
    cosines = units @ units.transpose(1, 2) / vectors.shape[1]
    p = torch.linalg.eigvalsh(cosines).clamp(min=0)
    effective = torch.special.entr(p).sum(dim=1).exp()
    return torch.where(units.square().sum(dim=2).amin(dim=1) > 0, effective, torch.nan)


def routing_entropy(weights: Tensor, mask: Tensor) -> Tensor:
    """(B,) mean over interests of the entropy of weights (B, L, K) over the items, in units of log n; mask (B, L).

    nan for fewer than two items, and for an interest without any weight.
    """
    count = mask.sum(dim=1)
    p = weights.double() * mask[..., None]
    total = p.sum(dim=1, keepdim=True)
    entropy = torch.special.entr(p / total).sum(dim=1).mean(dim=1)
    return torch.where(count > 1, entropy / count.clamp(min=2).log(), torch.nan)


def listed_interests(brought: Tensor, n_interests: int) -> Tensor:
    """(B,) exp of the entropy of the shares of interests (B, k), -1 where there is no item, in lists; nan for none."""
    there = (brought >= 0).sum(dim=1, keepdim=True)
    counts = F.one_hot(brought.clamp(min=0), n_interests).mul((brought >= 0)[..., None]).sum(dim=1)
    effective = torch.special.entr(counts / there.clamp(min=1).double()).sum(dim=1).exp()
    return torch.where(there[:, 0] > 0, effective, torch.nan)


@dataclass(frozen=True)
class Change:
    """One measure before and after, over the rows in which both are defined."""

    measure: str
    before: float
    after: float
    difference: float
    """after - before."""
    low: float
    """Ends of the 95% percentile bootstrap interval of the difference, over users."""
    high: float
    n_rows: int

    def to_plain(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def compare(
    before: Sequence[Path], after: Sequence[Path], *, part: str = "test", resamples: int = RESAMPLES, seed: int = 0
) -> list[Change]:
    """What changed from the runs `before` to the runs `after` in every measure that all of them recorded for `part`.

    A side is the runs of one experiment with different seeds; each row counts with its mean over them.

    Raises
    ------
    CheckpointError
        For a run whose interests were not measured.
    DataError
        For runs on other rows, or without a common measure.
    """
    if not before or not after:
        raise DataError("A comparison needs at least one run on each side.")
    tables = {Path(run): read_rows(Path(run), part) for run in (*before, *after)}
    first, *others = tables
    for other in others:
        require_same_rows(tables[first], tables[other], names=(str(first), str(other)))
    names = [name for name in MEASURES if all(name in table.columns for table in tables.values())]
    if not names:
        raise DataError("The runs have no measure of interests in common.")
    users = tables[first]["user"].to_numpy()
    changes = []
    for name in names:
        one, other = (np.mean([tables[Path(run)][name].to_numpy() for run in side], axis=0) for side in (before, after))
        both = ~np.isnan(one) & ~np.isnan(other)
        interval = _mean_with_interval(np.where(both, other - one, np.nan), users, resamples, seed)
        if interval is None:
            continue
        changes.append(
            Change(
                name,
                float(one[both].mean()),
                float(other[both].mean()),
                interval["mean"],
                interval["low"],
                interval["high"],
                int(both.sum()),
            )
        )
    return changes


def rows_path(run: Path, part: str) -> Path:
    """Where the rows of a part are kept."""
    return Path(run) / "evaluation" / f"{part}.interests.parquet"


def read_rows(run: Path, part: str) -> pl.DataFrame:
    """The rows of `Interests` that a run recorded. Raises CheckpointError where there are none."""
    path = rows_path(run, part)
    if not path.is_file():
        raise CheckpointError(
            f"{run} has no interests of part '{part}' ({path} does not exist).",
            hint="measure them with `guiderec evaluate RUN --data DIR --interests`",
        )
    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.", hint="evaluate the run again") from None


def _measures_of(model: EmbeddingRecommender, categories: Tensor | None) -> list[str]:
    """The measures that this model and these data have."""
    absent = set()
    if model.n_interests == 1:
        absent |= {"effective_interests", "listed_interests"}
    if not isinstance(model, Routed):
        absent |= {"effective_routes", "routing_entropy"}
    if categories is None:
        absent |= {"category_diversity"}
    return [name for name in MEASURES if name not in absent]


def _of_routing(weights: Tensor, mask: Tensor) -> Mapping[str, Tensor]:
    """What depends on the routing weights (B, L, K) alone."""
    routes = effective_number((weights * mask[..., None]).transpose(1, 2))
    return {
        "effective_routes": torch.where(mask.sum(dim=1) > 1, routes, torch.nan),
        "routing_entropy": routing_entropy(weights, mask),
    }


def _mean_with_interval(values: Values, users: Ids, resamples: int, seed: int) -> dict[str, Any] | None:
    """Mean of the values that are there, with its interval; None where there is none."""
    there = ~np.isnan(values)
    if not there.any():
        return None
    low, high = bootstrap_interval(
        values[there, None], clusters=users[there], level=LEVEL, resamples=resamples, seed=seed
    )
    return {
        "mean": float(values[there].mean()),
        "low": float(low[0]),
        "high": float(high[0]),
        "n_rows": int(there.sum()),
    }

"""Evaluation of a model on the rows of a split: one rank per row, then metrics, intervals and records.

Every row is ranked exactly once, by `evaluation/ranking.py`. The table of rows is the result; everything else (means,
intervals, comparisons of runs) is computed from it. Several processes share the work by batches, so each batch is the
same matrix product in the same shape as in one process and the tables agree to the last bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor

from guiderec.data import parquet
from guiderec.data.batch import PADDING, Batch
from guiderec.data.sequences import Ids, Rows
from guiderec.errors import CheckpointError, DataError, ScoreError
from guiderec.evaluation.intervals import bootstrap_interval
from guiderec.evaluation.metrics import DEFAULT_METRICS, Metric, parse_metrics
from guiderec.evaluation.ranking import Seen, inference, ranks_both_ways, target_ranks
from guiderec.files import write_json
from guiderec.models.base import Recommender
from guiderec.rng import Noise

SumOver = Callable[[Tensor], Tensor]
"""Elementwise sum of a tensor over all processes, given to each of them."""

LEVEL = 0.95
RESAMPLES = 2_000
_NOISE = Noise(0)
RANK_IF: Mapping[Seen, str] = {"keep": "rank_if_kept", "mask": "rank_if_masked"}
"""Columns of the table of rows with the ranks under the treatment of seen items that was not asked for."""


@dataclass(frozen=True)
class Evaluation:
    """What a model does on one part of a split."""

    rows: pl.DataFrame
    """One line per row, in the order of the split: `user`, `target`, `history_length` (uncut), `rank` (1-based), one
    column per metric, `rank_if_masked` or `rank_if_kept` (under the other treatment of seen items), and `target_count`
    (training events of the target) where training counts were given."""
    seen: Seen
    """Whether items of the history compete (`keep`) or are masked."""
    catalogue: Literal["all", "candidates"]
    """What the target is ranked among."""
    beyond: Mapping[str, float]
    """Beyond accuracy, over all lists of the largest cutoff k; see `beyond_accuracy`."""
    noise_seed: int
    seconds: float

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that were computed."""
        return parse_metrics(name for name in self.rows.columns if "@" in name)

    def means(self) -> dict[str, float]:
        """The mean of every metric over rows."""
        return {metric.name: float(self.rows[metric.name].to_numpy().mean()) for metric in self.metrics}

    def otherwise(self) -> Evaluation | None:
        """The same rows under the other treatment of seen items; None where its ranks were not kept.

        Its lists were not made, so that `beyond` is empty.
        """
        other: Seen = "keep" if self.seen == "mask" else "mask"
        if RANK_IF[other] not in self.rows.columns:
            return None
        ranks = self.rows[RANK_IF[other]]
        metrics = {metric.name: metric(ranks.to_numpy()) for metric in self.metrics}
        rows = self.rows.drop(RANK_IF[other]).with_columns(rank=ranks, **metrics)
        return replace(self, rows=rows, seen=other, beyond={})

    def summary(self, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
        """Plain data for `evaluation/{part}.json`: means with 95% percentile bootstrap intervals, and groups of rows.

        Rows are resampled; where a user has several rows, users are resampled with all their rows (`interval.unit`).
        `groups` has the metrics of the rows with a history, of those whose target occurs in training, and of those with
        both, each only where it leaves rows out. `otherwise` has `seen`, `metrics` and `groups` under the other
        treatment of seen items.
        """
        other = self.otherwise()
        return {
            "n_rows": len(self.rows),
            "catalogue": self.catalogue,
            "cutoffs": sorted({metric.k for metric in self.metrics}),
            **self._measured(resamples, seed),
            **({} if other is None else {"otherwise": other._measured(resamples, seed)}),
            "interval": {
                "level": LEVEL,
                "method": "percentile bootstrap",
                "resamples": resamples,
                "unit": "user" if self._several_rows_per_user() else "row",
            },
            "beyond": dict(self.beyond),
            "noise_seed": self.noise_seed,
            "seconds": round(self.seconds, 3),
        }

    def _measured(self, resamples: int, seed: int) -> dict[str, Any]:
        """What depends on the treatment of seen items, and which one it is."""
        names = [metric.name for metric in self.metrics]
        clusters = self.rows["user"].to_numpy() if self._several_rows_per_user() else None
        values = self.rows.select(names).to_numpy()
        low, high = bootstrap_interval(values, clusters=clusters, level=LEVEL, resamples=resamples, seed=seed)
        return {
            "seen": self.seen,
            "metrics": {
                name: {"mean": mean, "low": float(low[i]), "high": float(high[i])}
                for i, (name, mean) in enumerate(self.means().items())
            },
            "groups": self._groups(names),
        }

    def _several_rows_per_user(self) -> bool:
        return self.rows["user"].n_unique() < len(self.rows)

    def _groups(self, names: list[str]) -> dict[str, Any]:
        kept = {"history>0": pl.col("history_length") > 0}
        if "target_count" in self.rows.columns:
            kept["warm target"] = pl.col("target_count") > 0
        groups = {}
        for group, condition in kept.items():
            if measured := self._group(condition, names):
                groups[group] = measured
        if len(groups) == 2 and (both := self._group(pl.all_horizontal(*kept.values()), names)):
            groups["history>0, warm target"] = both
        return groups

    def _group(self, condition: pl.Expr, names: list[str]) -> dict[str, Any] | None:
        """The means over some of the rows; None where these are all or none."""
        rows = self.rows.filter(condition)
        if not 0 < len(rows) < len(self.rows):
            return None
        return {"n_rows": len(rows), "metrics": rows.select(pl.col(names).mean()).row(0, named=True)}

    def write(self, run: Path, part: str) -> None:
        """Write `evaluation/{part}.parquet` and `evaluation/{part}.json` under the directory of a run."""
        folder = Path(run) / "evaluation"
        folder.mkdir(parents=True, exist_ok=True)
        parquet.write(self.rows, folder / f"{part}.parquet")
        write_json(folder / f"{part}.json", {"part": part, **self.summary()})

    @classmethod
    def read(cls, run: Path, part: str) -> Self:
        """What `write` wrote. Raises CheckpointError where a run has no evaluation of this part."""
        record_path = Path(run) / "evaluation" / f"{part}.json"
        rows = read_rows(run, part)
        try:
            record = json.loads(record_path.read_text())
            return cls(
                rows, record["seen"], record["catalogue"], record["beyond"], record["noise_seed"], record["seconds"]
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{record_path} cannot be read: {error!r}.", hint="evaluate the run again") from None


def read_rows(run: Path, part: str) -> pl.DataFrame:
    """The table of rows of a run. Raises CheckpointError where there is none."""
    path = Path(run) / "evaluation" / f"{part}.parquet"
    if not path.is_file():
        raise CheckpointError(
            f"{run} has no evaluation of part '{part}' ({path} does not exist).", hint="evaluate the run first"
        )
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.", hint="evaluate the run again") from None


def evaluate(
    model: Recommender,
    rows: Rows,
    *,
    max_length: int,
    metrics: Sequence[str] = DEFAULT_METRICS,
    seen: Seen = "keep",
    candidates: Ids | None = None,
    dislikes: Ids | None = None,
    noise: Noise = _NOISE,
    batch_size: int = 512,
    training_counts: Ids | None = None,
    shard: tuple[int, int] = (0, 1),
    sum_over: SumOver | None = None,
    block_items: int | None = None,
) -> Evaluation:
    """Rank the target of every row and compute every metric.

    Parameters
    ----------
    max_length
        Items of the history that the model sees, the newest ones.
    seen
        `mask`: no item of the whole history competes, also those before the window of `max_length`. The target always
        does: a repeated item is ranked, not dropped. The ranks under the other treatment are found in the same pass;
        the lists behind coverage, novelty and popularity are made under this one alone.
    candidates
        (R, C) item ids, padded with 0, that the target of each row is ranked among; None is the whole catalogue.
    dislikes
        (R, K) item ids, padded with 0, that the model is told each row's user dislikes; None tells it nothing.
    noise
        Named per row by `Rows.keys()`, so that the result does not depend on the size or the order of batches.
    training_counts
        (I + 1,) events of each item in training (`count_items`). Adds novelty, popularity and the group of warm
        targets.
    shard, sum_over
        (rank, world) of this process and the sum over all processes. Every process gets the whole result.

    Raises
    ------
    DataError
        For no rows, or candidates or counts of the wrong shape.
    ScoreError
        For scores that are nan or +inf, with the user.
    """
    started = time.perf_counter()
    chosen = parse_metrics(metrics)
    k = max(metric.k for metric in chosen)
    ranked = _rank_all(
        model,
        rows,
        max_length=max_length,
        seen=seen,
        candidates=candidates,
        dislikes=dislikes,
        noise=noise,
        batch_size=batch_size,
        k=k,
        shard=shard,
        sum_over=sum_over,
        block_items=block_items,
    )
    columns: dict[str, Any] = {
        "user": rows.users(),
        "target": rows.targets(),
        "history_length": rows.history_lengths(),
        "rank": ranked.ranks,
        **{metric.name: metric(ranked.ranks) for metric in chosen},
        RANK_IF["keep" if seen == "mask" else "mask"]: ranked.otherwise,
    }
    if training_counts is not None:
        _require_counts(training_counts, model.n_items)
        columns["target_count"] = training_counts[rows.targets()]
    return Evaluation(
        pl.DataFrame(columns),
        seen,
        "all" if candidates is None else "candidates",
        beyond_accuracy(ranked.listed, k, training_counts),
        noise.seed,
        time.perf_counter() - started,
    )


def validation_metrics(
    model: Recommender,
    rows: Rows,
    *,
    max_length: int,
    metrics: Sequence[str] = ("recall@5", "ndcg@5"),
    seen: Seen = "keep",
    candidates: Ids | None = None,
    dislikes: Ids | None = None,
    noise: Noise = _NOISE,
    batch_size: int = 512,
    shard: tuple[int, int] = (0, 1),
    sum_over: SumOver | None = None,
) -> dict[str, float]:
    """The means of `evaluate` alone, without lists and intervals: for the training loop."""
    chosen = parse_metrics(metrics)
    ranks = _rank_all(
        model,
        rows,
        max_length=max_length,
        seen=seen,
        candidates=candidates,
        dislikes=dislikes,
        noise=noise,
        batch_size=batch_size,
        shard=shard,
        sum_over=sum_over,
    ).ranks
    return {metric.name: float(metric(ranks).mean()) for metric in chosen}


def count_items(rows: Rows, n_items: int) -> Ids:
    """(I + 1,) how often each item occurs in training, for the rows of a training part.

    An event counts once, however many rows its sequence has: those up to the last target of each sequence.
    """
    return np.bincount(rows.events()[1], minlength=n_items + 1)


def beyond_accuracy(listed: Ids, k: int, training_counts: Ids | None = None) -> dict[str, float]:
    """What all lists of length k hold together; `listed` (I + 1,) says how many lists have each item.

    coverage@k     share of the catalogue in anybody's list
    novelty@k      mean over listed items of -log2 p(item), in bits, with p the item's share of the training events; an
                   item without events counts as one with a single event
    popularity@k   mean over listed items of the percentile of their training count, in (0, 1): equal counts share
                   their mean percentile, so that random lists give 0.5
    """
    weight = listed[1:] / max(1, listed[1:].sum())
    beyond = {f"coverage@{k}": float((listed[1:] > 0).mean())}
    if training_counts is not None:
        counts = training_counts[1:]
        information = -np.log2(np.maximum(counts, 1) / max(1, counts.sum()))
        percentile = (pl.Series(counts).rank("average").to_numpy() - 0.5) / len(counts)
        beyond[f"novelty@{k}"] = float(weight @ information)
        beyond[f"popularity@{k}"] = float(weight @ percentile)
    return beyond


class _Ranked(NamedTuple):
    """All rows: ranks (R,), ranks under the other treatment of seen items (R,) and how many lists hold each item."""

    ranks: Ids
    otherwise: Ids
    listed: Ids


def _rank_all(
    model: Recommender,
    rows: Rows,
    *,
    max_length: int,
    seen: Seen,
    candidates: Ids | None,
    dislikes: Ids | None,
    noise: Noise,
    batch_size: int,
    shard: tuple[int, int],
    sum_over: SumOver | None,
    k: int | None = None,
    block_items: int | None = None,
) -> _Ranked:
    """Rank all rows. Without a length k of lists, `otherwise` and `listed` stay 0: training needs the ranks alone."""
    _require_rows(rows, candidates=candidates, dislikes=dislikes)
    ranks, otherwise, times = (np.zeros(len(rows), dtype=np.int64) for _ in range(3))
    listed = np.zeros(model.n_items + 1, dtype=np.int64)
    with inference(model):
        for index, batch in batches(
            rows, max_length, batch_size, shard, model.device, candidates=candidates, dislikes=dislikes
        ):
            try:
                if k is None:
                    exclude = _seen_items(rows, index, model.device) if seen == "mask" else None
                    found = target_ranks(model, batch, batch.target, noise, exclude=exclude, block_items=block_items)
                else:
                    history = _seen_items(rows, index, model.device)
                    both, items = ranks_both_ways(
                        model, batch, batch.target, k, noise, seen=history, listed=seen, block_items=block_items
                    )
                    found = both[seen]
                    otherwise[index] = both["keep" if seen == "mask" else "mask"].cpu().numpy()
                    listed += np.bincount(items.flatten().cpu().numpy(), minlength=len(listed))
            except ScoreError as error:
                if error.row is None:
                    raise
                row = int(index[error.row])
                raise ScoreError(f"Evaluation row {row:,} (user {rows.users()[row]}): {error}") from None
            ranks[index] = found.cpu().numpy()
            times[index] += 1
    if sum_over is not None:
        ranks, otherwise, times, listed = (
            sum_over(torch.from_numpy(part).to(model.device)).cpu().numpy()
            for part in (ranks, otherwise, times, listed)
        )
    require_once(times)
    listed[0] = 0  # places in lists that no item could fill
    return _Ranked(ranks, otherwise, listed)


def batches(
    rows: Rows,
    max_length: int,
    batch_size: int,
    shard: tuple[int, int],
    device: torch.device,
    *,
    candidates: Ids | None = None,
    dislikes: Ids | None = None,
) -> Iterator[tuple[Ids, Batch]]:
    """Row numbers (B,) and batch of every batch of this shard, in order: batch b belongs to rank b mod world."""
    rank, world = shard
    keys = rows.keys()
    for first in range(rank * batch_size, len(rows), world * batch_size):
        index = np.arange(first, min(first + batch_size, len(rows)))
        history, target = rows.windows(index, max_length)
        batch = Batch(
            history=torch.from_numpy(history),
            key=torch.from_numpy(keys[index]),
            target=torch.from_numpy(target),
            candidates=None if candidates is None else torch.from_numpy(candidates[index]),
            dislikes=None if dislikes is None else torch.from_numpy(_trimmed(dislikes[index])),
        )
        yield index, batch.to(device)


def _trimmed(lists: Ids) -> Ids:
    """Lists (B, K), padded on the right, without the columns that are all padding; at least one column stays."""
    return lists[:, : max(1, int((lists != PADDING).sum(axis=1).max(initial=0)))]


def _seen_items(rows: Rows, index: Ids, device: torch.device) -> Tensor:
    """(B, E) the whole history of each row, which may be longer than the window that the model sees."""
    return torch.from_numpy(rows.histories(index)).to(device)


def require_once(times: Ids) -> None:
    """Every row is evaluated exactly once, over all processes."""
    wrong = np.flatnonzero(times != 1)
    if len(wrong):
        raise DataError(
            f"{len(wrong):,} of {len(times):,} rows were not evaluated exactly once "
            f"(first: row {wrong[0]}, {times[wrong[0]]} times).",
            hint="each process needs its own shard, the same rows and batch size, and `sum_over`",
        )


def _require_rows(rows: Rows, **lists: Ids | None) -> None:
    if len(rows) == 0:
        raise DataError("There are no rows to evaluate.", hint="choose a protocol or filter that leaves some")
    for name, items in lists.items():
        if items is not None and (items.ndim != 2 or len(items) != len(rows)):
            raise DataError(f"{name} must have shape ({len(rows)}, C), one line per row; found {items.shape}.")


def _require_counts(training_counts: Ids, n_items: int) -> None:
    if training_counts.shape != (n_items + 1,):
        raise DataError(f"training_counts must have shape ({n_items + 1},); found {training_counts.shape}.")

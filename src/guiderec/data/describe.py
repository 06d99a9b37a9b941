"""Numbers that say what a log or a split is: counts, lengths, density, popularity, cold targets, empty histories."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from guiderec.data import sources
from guiderec.data.dataset import EVALUATED, Dataset
from guiderec.data.doctor import is_cold, repeats_earlier
from guiderec.data.interactions import Interactions
from guiderec.data.sequences import Ids, Sequences


def describe(dataset: Dataset) -> dict[str, Any]:
    """A prepared split, as plain data.

    `known_as` names the published data set whose fingerprint this is, or is None.
    """
    fingerprint = dataset.fingerprint
    sequences = [part.sequences for part in (dataset.train, dataset.valid, dataset.test)]
    known = sources.recognise(fingerprint, dataset.protocol)
    return {
        "name": dataset.name,
        "known_as": None if known is None else known.to_plain(),
        "protocol": dataset.protocol,
        "filters": list(dataset.filters),
        "seen": dataset.seen,
        "fingerprint": dict(vars(fingerprint)),
        "density": fingerprint.interactions / (fingerprint.users * fingerprint.items),
        "train": {
            "sequences": len(sequences[0]),
            "rows": len(dataset.train),
            "interactions": len(sequences[0].items),
            "items": len(np.unique(sequences[0].items)),
            "lengths": quantiles(sequences[0].lengths),
            "repeated": float(repeats_earlier(sequences[0]).mean()),
        },
        "popularity": popularity(sequences[0].items, dataset.n_items),
        **{part: _evaluation(dataset, part) for part in EVALUATED},
    }


def describe_log(interactions: Interactions) -> dict[str, Any]:
    """A log, as plain data. Lengths are events per user; without a time column nothing is said about order."""
    log = interactions if interactions.has_time else _in_row_order(interactions)
    read = log.sequences()
    sequences, n_items = read.sequences, len(read.vocabulary)
    events = len(sequences.items)
    return {
        "name": interactions.name,
        "source": interactions.source,
        "columns": list(interactions.columns),
        "source_columns": dict(interactions.source_columns),
        "users": len(sequences),
        "items": n_items,
        "interactions": events,
        "duplicates": interactions.duplicates(),
        "density": events / (len(sequences) * n_items),
        "lengths": quantiles(sequences.lengths),
        "repeated": float(repeats_earlier(sequences).mean()),
        "popularity": popularity(sequences.items, n_items),
        "time": _period(sequences),
    }


def quantiles(values: Ids) -> dict[str, float]:
    """Smallest, quartiles, mean and largest."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {
        "min": int(values.min()),
        "25%": float(low),
        "median": float(median),
        "75%": float(high),
        "max": int(values.max()),
        "mean": float(values.mean()),
    }


def popularity(items: Ids, n_items: int) -> dict[str, float]:
    """How unevenly events fall on the I items of the catalogue.

    `gini` is 0 when all items are equally popular and tends to 1 when one has everything; `top_1%` and `top_10%` are
    the shares of events of the most popular items (at least one); `never` counts the items without events.
    """
    counts = np.sort(np.bincount(items, minlength=n_items + 1)[1:])
    ranks = np.arange(1, n_items + 1)
    return {
        "gini": float(((2 * ranks - n_items - 1) * counts).sum() / (n_items * counts.sum())),
        "top_1%": float(counts[-max(1, n_items // 100) :].sum() / counts.sum()),
        "top_10%": float(counts[-max(1, n_items // 10) :].sum() / counts.sum()),
        "most_popular": int(counts[-1]),
        "never": int((counts == 0).sum()),
    }


def _evaluation(dataset: Dataset, part: str) -> dict[str, Any]:
    rows = dataset.part(part)
    lengths = rows.history_lengths()
    cold = int(is_cold(dataset, part).sum())
    empty = int((lengths == 0).sum())
    return {
        "rows": len(rows),
        "users": len(np.unique(rows.users())),
        "history_lengths": quantiles(lengths),
        "empty_histories": empty,
        "cold_targets": cold,
        "cold_share": cold / len(rows),
    }


def _period(sequences: Sequences) -> dict[str, str] | None:
    """First and last time, ISO in UTC."""
    if sequences.times is None:
        return None
    ends = {"first": sequences.times.min(), "last": sequences.times.max()}
    return {name: datetime.fromtimestamp(int(time), UTC).isoformat() for name, time in ends.items()}


def _in_row_order(interactions: Interactions) -> Interactions:
    return replace(interactions, order="row")

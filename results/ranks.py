"""The rank of every target, kept beside the records, so that models can be compared row by row without their runs.

    <study>/<run>-seed<k>.ranks.parquet
        user_step             user of the row less that of the row before; of the first, the user itself
        test, test-one-step   rank of the row's target in this evaluation, null beyond its largest cutoff

All metrics are functions of such ranks (`guiderec.evaluation.metrics`). What is left out, ranks that count for nothing
and targets, which the digest of the split in the record stands for, is most of a table of rows: a hundredth is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from guiderec.data import parquet
from guiderec.errors import DataError
from guiderec.evaluation.evaluate import read_rows
from guiderec.evaluation.metrics import Values, parse_metrics
from guiderec.files import read_json

sys.path.insert(0, str(Path(__file__).parent))  # also when loaded as a module
from studies import panels

SUFFIX = ".ranks.parquet"


def path_of(record: Path) -> Path:
    """Where the ranks of a record are kept."""
    return record.with_suffix(SUFFIX)


def keep(run: Path, record: Path) -> None:
    """Write the ranks of a run's evaluations on the test part beside its record, less the points of panels."""
    name = record.stem.rpartition("-seed")[0]
    evaluations = sorted(path.stem for path in (run / "evaluation").glob("test*.json"))
    tables = {each: read_rows(run, each) for each in evaluations if f"{name}/{each[5:]}" not in panels()}
    users = tables["test"]["user"].cast(pl.Int64)
    columns = {"user_step": users.diff().fill_null(users[0] if len(users) else 0)}
    for name, table in tables.items():
        largest = max(read_json(run / "evaluation" / f"{name}.json")["cutoffs"])
        columns[name] = table.select(pl.when(pl.col("rank") <= largest).then("rank"))["rank"].shrink_dtype()
    parquet.write(pl.DataFrame(columns), path_of(record))


def kept(record: Path) -> list[str]:
    """The evaluations whose ranks are kept beside a record."""
    path = path_of(record)
    return [name for name in pl.read_parquet_schema(path) if name != "user_step"] if path.exists() else []


def read(record: Path, evaluation: str, metrics: Sequence[str]) -> tuple[np.ndarray, Values]:
    """Users (R,) and metrics (R, M) of the rows of an evaluation. DataError where a cutoff is beyond what was kept."""
    largest = max(measured(record, evaluation)["cutoffs"])
    if beyond := [name for name in metrics if parse_metrics([name])[0].k > largest]:
        raise DataError(f"{path_of(record)}: ranks end at {largest}, which is too early for {', '.join(beyond)}.")
    table = pl.read_parquet(path_of(record), columns=["user_step", evaluation])
    ranks = table[evaluation].cast(pl.Int64).fill_null(largest + 1).to_numpy()
    values = np.stack([metric(ranks) for metric in parse_metrics(list(metrics))], axis=1)
    return table["user_step"].cum_sum().to_numpy(), values


def measured(record: Path, evaluation: str) -> Mapping[str, Any]:
    """What a record says of an evaluation."""
    found: Mapping[str, Any] = read_json(record)["evaluation"][evaluation]
    return found

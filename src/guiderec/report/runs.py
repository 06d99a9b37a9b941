"""`Run`: the records of a run directory, read and checked. Tables, figures and the page see nothing else.

RUN/experiment.json and RUN/data.json must exist; environment.json, log.jsonl, evaluation/, distribution/ and steering/
may be missing and then read as empty, so that a run can be reported while it is still training.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from guiderec.errors import CheckpointError

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """One evaluated part of a split: the record and, beside it, one row per evaluation row."""

    record: Mapping[str, Any]
    """`{"part", "n_rows", "seen", "cutoffs", "metrics": {"recall@5": {"mean", "low", "high"}}, "beyond", ...}`."""
    rows_path: Path

    @property
    def part(self) -> str:
        """`test` or `valid`."""
        return str(self.record["part"])

    @property
    def metrics(self) -> Mapping[str, Mapping[str, float]]:
        """Metric name -> `mean`, `low` and `high` (95 % interval)."""
        metrics: Mapping[str, Mapping[str, float]] = self.record["metrics"]
        return metrics

    @property
    def otherwise(self) -> Mapping[str, Any]:
        """`seen`, `metrics` and `groups` under the other treatment of seen items; empty where it was not recorded."""
        otherwise: Mapping[str, Any] = self.record.get("otherwise") or {}
        return otherwise

    @cached_property
    def rows(self) -> pl.DataFrame:
        """One row per evaluation row: user, target, history_length, rank, and the metrics. Empty when not kept."""
        if not self.rows_path.is_file():
            return pl.DataFrame({"rank": pl.Series([], dtype=pl.Int64)})
        try:
            rows = pl.read_parquet(self.rows_path)
        except (pl.exceptions.PolarsError, OSError) as error:
            message = str(error).splitlines()[0]
            raise CheckpointError(f"{self.rows_path}: not readable as Parquet ({message}).") from None
        if "rank" not in rows.columns or not rows.schema["rank"].is_integer() or rows["rank"].null_count():
            raise CheckpointError(f"{self.rows_path}: has no whole number 'rank' in each row.")
        return rows

    @property
    def ranks(self) -> NDArray[np.int64]:
        """(R,) rank of the target of every row, 1 is the top."""
        return self.rows["rank"].to_numpy().astype(np.int64)


@dataclass(frozen=True)
class Distribution:
    """What a run generates for the rows of a part, beside the true vectors."""

    record: Mapping[str, Any]
    """`{"part", "n_rows", "mmd2", "p", "median_distance", ...}`."""
    vectors_path: Path

    @cached_property
    def vectors(self) -> Mapping[str, NDArray[Any]]:
        """`generated` (R, D), `items` (I + 1, D), and `target`, `user`, `key` (R,) of each row; empty when not kept."""
        if not self.vectors_path.is_file():
            return {}
        try:
            found = load_file(self.vectors_path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.vectors_path}: not readable as safetensors ({error}).") from None
        missing = [name for name in ("generated", "items", "target", "user", "key") if name not in found]
        if missing:
            raise CheckpointError(f"{self.vectors_path}: has no {', '.join(missing)}.")
        return found


@dataclass(frozen=True)
class Run:
    """The records of one run directory."""

    path: Path
    experiment: Mapping[str, Any]
    data: Mapping[str, Any]
    environment: Mapping[str, Any] = field(default_factory=dict)
    log: tuple[Event, ...] = ()
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    distributions: Mapping[str, Distribution] = field(default_factory=dict)
    steering: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Part -> the record of how wishes are honoured: `{"procedures": [{"name", "points", ...}], "strengths", ...}`."""

    @property
    def name(self) -> str:
        """The recipe's name, or else the model's, or else the directory's."""
        model = self.experiment.get("model", {})
        return str(self.experiment.get("recipe") or model.get("name") or self.path.name)

    @property
    def seed(self) -> int | None:
        """The seed of the experiment, where it has one."""
        return self.experiment.get("seed")

    @property
    def metric(self) -> str | None:
        """The validation metric that chose the best weights."""
        return self.experiment.get("training", {}).get("metric")

    def events(self, kind: str) -> list[Event]:
        """Events of one kind (`step`, `validation`, `stop`, ...), in the order of training."""
        return [event for event in self.log if event.get("event") == kind]

    def comparable(self, part: str) -> str:
        """A key that two runs share when the numbers of `part` answer the same question.

        That is: same data, protocol, candidates and treatment of seen items, on the same number of rows.
        """
        record = self.evaluations[part].record
        facts = [self.data.get("fingerprint"), self.data.get("protocol")]
        facts += [record.get(name) for name in ("seen", "catalogue", "n_rows")]
        return json.dumps(facts, sort_keys=True)


def read(path: Path) -> Run:
    """The run at `path`.

    Raises
    ------
    CheckpointError
        When it is no run directory or a record is damaged; the message names the file and the line.
    """
    path = Path(path)
    if not (path / "experiment.json").is_file():
        found = "the directory does not exist" if not path.exists() else "there is no experiment.json in it"
        raise CheckpointError(
            f"{path} is not a run directory: {found}.", hint="name a directory written by `guiderec train`."
        )
    environment = path / "environment.json"
    return Run(
        path=path,
        experiment=_with_objects(path / "experiment.json", ("model", "training")),
        data=_with_objects(path / "data.json", ("protocol", "fingerprint")),
        environment=_record(environment) if environment.is_file() else {},
        log=_read_log(path / "log.jsonl"),
        evaluations={
            file.stem: Evaluation(_evaluation(file), file.with_suffix(".parquet"))
            for file in sorted((path / "evaluation").glob("*.json"))
        },
        distributions={
            file.stem: Distribution(_distribution(file), file.with_suffix(".safetensors"))
            for file in sorted((path / "distribution").glob("*.json"))
        },
        steering={file.stem: _steering(file) for file in sorted((path / "steering").glob("*.json"))},
    )


def labels(runs: Sequence[Run]) -> list[str]:
    """What to call each run beside the others: its name, with the seed and then the directory where names repeat."""
    names = [run.name for run in runs]
    details: tuple[Callable[[Run], str], ...] = (lambda run: f"seed {run.seed}", lambda run: str(run.path))
    for more in details:
        repeated = {name for name, count in Counter(names).items() if count > 1}
        names = [f"{name} ({more(run)})" if name in repeated else name for name, run in zip(names, runs, strict=True)]
    return names


def _record(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: the run directory is not complete.") from None
    except (ValueError, RecursionError) as error:  # of JSON, of UTF-8, of numbers of thousands of digits, of depth
        raise CheckpointError(f"{file}: not readable as JSON ({error}).") from None
    if not isinstance(record, dict):
        raise CheckpointError(f"{file}: expected a JSON object, found {type(record).__name__}.")
    return record


def _with_objects(file: Path, names: Sequence[str]) -> dict[str, Any]:
    """A record in which what stands under these names, where anything does, are objects themselves."""
    record = _record(file)
    if wrong := [name for name in names if not isinstance(record.get(name, {}), dict)]:
        raise CheckpointError(f"{file}: '{wrong[0]}' must be an object, found {type(record[wrong[0]]).__name__}.")
    return record


def _evaluation(file: Path) -> dict[str, Any]:
    record = {"part": file.stem, **_record(file)}
    otherwise = record.get("otherwise")
    if not _are_metrics(record.get("metrics")):
        raise CheckpointError(f"{file}: 'metrics' must map each metric to its mean, low and high.")
    if otherwise is not None and not (isinstance(otherwise, dict) and _are_metrics(otherwise.get("metrics"))):
        raise CheckpointError(f"{file}: 'otherwise.metrics' must map each metric to its mean, low and high.")
    if not record["metrics"]:
        raise CheckpointError(f"{file}: 'metrics' names no metric.")
    if not isinstance(record.get("n_rows", 0), int):
        raise CheckpointError(f"{file}: 'n_rows' must be a whole number, found {record['n_rows']!r}.")
    return record


def _distribution(file: Path) -> dict[str, Any]:
    record = _record(file)
    missing = [name for name in _NUMBERS if name not in record]
    if missing:
        raise CheckpointError(f"{file}: has no {', '.join(missing)}.")
    if wrong := [name for name in _NUMBERS if not isinstance(record[name], int | float)]:
        raise CheckpointError(f"{file}: '{wrong[0]}' must be a number, found {record[wrong[0]]!r}.")
    return record


_NUMBERS = ("n_rows", "mmd2", "p", "median_distance")


def _steering(file: Path) -> dict[str, Any]:
    record = _record(file)
    procedures = record.get("procedures")
    whole = isinstance(procedures, list) and all(
        isinstance(each, dict)
        and {"name", "procedure", "n_rows", "n_wishes", "cutoff", "points"} <= set(each)
        and isinstance(each["points"], list)
        and all(isinstance(point, dict) and _are_metrics(point.get("measures")) for point in each["points"])
        for each in procedures
    )
    if not whole:
        raise CheckpointError(f"{file}: 'procedures' must list the points of each, with mean, low and high.")
    return record


def _are_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(each, dict) and all(isinstance(each.get(end), int | float) for end in ("mean", "low", "high"))
        for each in value.values()
    )


def _read_log(file: Path) -> tuple[Event, ...]:
    """All events. A last line without its newline was cut off while it was written and is left out, no other damage.

    A resumed training cuts the log back to its checkpoint, so no step is in it twice.
    """
    if not file.is_file():
        return ()
    try:
        *lines, _ = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: not readable as text ({error}).") from None
    events: list[Event] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
        except (ValueError, RecursionError) as error:
            message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise CheckpointError(f"{file}: line {number} is not readable as JSON ({message}).") from None
        if not isinstance(event, dict):
            raise CheckpointError(f"{file}: line {number} is not an event, but {type(event).__name__}.")
        events.append(event)
    return tuple(events)

"""Recommendations for every user of a log, to Parquet: one part file per shard of users, in bounded memory, resumable.

    OUT/recommendations.json     the job: model, users, options, number of parts, and whether all of them are there
        part-00000.parquet       user, item_id, name, score, rank [, interest] of the users 0..shard_rows - 1
        part-00001.parquet       ...

Users are in ascending order of their raw ids, and part p has the users p * shard_rows and following. A part appears
whole or not at all, so that a killed job loses what it was computing and nothing else. Its lists are those of
`Model.recommend`, the function that evaluation and serving rank with.

Memory is the model, 8 bytes per event (16 while the log is read) and one part: nothing grows with users times items, or
with users times k.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from pydantic import Field

from guiderec.config import Part
from guiderec.data.batch import PADDING
from guiderec.data.dataset import Dataset, RawId, Vocabulary
from guiderec.data.interactions import Interactions
from guiderec.data.protocols import protocol_from_plain
from guiderec.data.sequences import Ids, Sequences
from guiderec.errors import CheckpointError, DataError, nearest
from guiderec.files import read_json, replacing, write_json
from guiderec.model import Model

FORMAT = 1
"""Version of the folder."""
MANIFEST = "recommendations.json"
_EVENTS = 1 << 18
"""Events translated at a time."""

UnknownItems = Literal["error", "drop"]
"""What to do with events of items that the model does not know."""


class Options(Part):
    """What is asked for every user, as in `Model.recommend`, and how users are divided."""

    k: int | None = Field(default=None, ge=1)
    """Length of the lists; None is what `Model.list_length` says."""
    exclude_seen: bool = False
    """Leave the items of a history out of its list."""
    guidance_scale: float | None = None
    """Strength of guidance; 0 is off. None takes the model's own."""
    diversity: float | None = None
    """lambda of diversified lists; None is the plain list."""
    noise_seed: int = 0
    """Seed of the sampling noise."""
    batch_size: int = Field(default=256, ge=1)
    """Users that the model answers at a time."""
    shard_rows: int = Field(default=16_384, ge=1)
    """Users of one part file. A multiple of `batch_size` makes the batches those of one call for all users, and the
    scores equal to the last digit; otherwise they are equal up to the rounding of a matrix product."""

    def for_recommend(self) -> dict[str, Any]:
        """Arguments of `Model.recommend`."""
        return {name: value for name, value in self.to_plain().items() if name != "shard_rows"}


@dataclass(frozen=True)
class People:
    """Whom to recommend to: S users, in ascending order of their raw ids, and their histories."""

    sequences: Sequences
    """Histories in items 1..I of the model's catalogue, oldest first. One may be empty."""
    users: pl.Series
    """(S,) raw ids, text or integers."""
    source: str
    """For messages."""
    unknown_events: int = 0
    """Events that were left out, because the model does not know their items."""

    def __len__(self) -> int:
        return len(self.sequences)

    @classmethod
    def of(
        cls, log: Interactions | Dataset, vocabulary: Vocabulary, *, unknown_items: UnknownItems = "error"
    ) -> People:
        """The users of a log or of a prepared split, every event of theirs in their history.

        Raises
        ------
        DataError
            For items that the model does not know, if they are not to be dropped; a log without order; and a split in
            which a user has several sequences (sessions), since each would want a list of its own.
        """
        if isinstance(log, Interactions):
            read = log.sequences(needed_by="A history")
            users = pl.Series(read.sequences.users) if read.users is None else read.users
            items, offsets, known, source = read.sequences.items, read.sequences.offsets, read.vocabulary, log.source
            del read  # with the times, which are as large as the items
        else:
            sequences, users = _histories(log)
            items, offsets, known, source = sequences.items, sequences.offsets, log.vocabulary, log.name
        unknown, first = _translate(items, _codes(known, vocabulary))
        if unknown and unknown_items == "error":
            raise _unknown_items(unknown, len(items), known.raw[first - 1], vocabulary, source)
        if unknown:
            kept = items != PADDING
            offsets = np.concatenate([[0], np.cumsum(kept)])[offsets].astype(np.int64)
            items = items[kept]
        return cls(Sequences(items, offsets, np.arange(len(users))), users.alias("user"), source, unknown)

    @cached_property
    def sha256(self) -> str:
        """Of raw user ids and their histories."""
        digest = hashlib.sha256()
        for array in (self.sequences.items, self.sequences.offsets):
            digest.update(np.ascontiguousarray(array).data)
        for start in range(0, len(self.users), 1 << 16):
            digest.update("\n".join(map(str, self.users[start : start + (1 << 16)].to_list())).encode() + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True)
class Job:
    """What every part of the answer follows from."""

    model: Model
    people: People
    options: Options

    def __len__(self) -> int:
        """Number of parts."""
        return -(-len(self.people) // self.options.shard_rows)

    def users_of(self, part: int) -> range:
        """Users of a part."""
        first = part * self.options.shard_rows
        return range(first, min(first + self.options.shard_rows, len(self.people)))

    def frame(self, part: int) -> pl.DataFrame:
        """The lists of one part: `Model.recommend` with raw user ids instead of the number of the query."""
        users = self.users_of(part)
        raw = self.model.vocabulary.raw
        histories: list[list[RawId]] = [
            [raw[item - 1] for item in self.people.sequences[user].tolist()] for user in users
        ]
        listed = self.model.recommend(histories, **self.options.for_recommend())
        names = self.people.users[users.start : users.stop]
        return listed.select(names.gather(listed["query"]).alias("user"), pl.all().exclude("query"))

    def parquet(self, part: int) -> bytes:
        """`frame` as a Parquet file."""
        buffer = io.BytesIO()
        self.frame(part).write_parquet(buffer)
        return buffer.getvalue()

    def describe(self) -> dict[str, Any]:
        """What the folder was made of: equal for two jobs if and only if their parts are interchangeable."""
        return {
            "format": FORMAT,
            "model": {"name": self.model.name, "sha256": model_sha256(self.model)},
            "index": self.model.index.describe() if self.model.index else {"sha256": None},
            "users": {"count": len(self.people), "sha256": self.people.sha256},
            "options": self.options.to_plain(),
            "parts": len(self),
        }


Engine = Callable[[Job, Sequence[int]], Iterator[tuple[int, bytes]]]
"""Computes parts, in any order: `(job, parts) -> (part, Parquet file) ...`."""


def in_process(job: Job, parts: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """One part after another, in this process."""
    for part in parts:
        yield part, job.parquet(part)


def recommend_all(
    model: Model,
    people: People,
    out: str | Path,
    options: Options | None = None,
    *,
    engine: Engine = in_process,
    progress: bool = True,
) -> dict[str, Any]:
    """Write the lists of all users to the folder `out`, and say what was done.

    A folder in which the same job was interrupted is completed: parts that are there are kept.

    Returns
    -------
    `users`, `parts`, `parts_kept` (finished before), `rows` (of all parts), `unknown_events`, `seconds`,
    `users_per_second` (of the parts computed now; None where all were there) and `folder`.

    Raises
    ------
    ConfigError
        For options that `Model.recommend` refuses; nothing is written then.
    CheckpointError
        For a folder that holds something else, another job's parts or a damaged part, or that another process is
        writing to.
    """
    options = options or Options()
    job = Job(model, people, options.replace(k=model.list_length(options.k)))
    _refuse_what_the_model_refuses(job)
    out = Path(out)
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    with _alone_in(out):
        described = job.describe()
        _claim(out, described)
        rows = {part: _count_rows(file) for part in range(len(job)) if (file := _file(out, part)).exists()}
        todo = [part for part in range(len(job)) if part not in rows]
        with _bar(len(people), sum(len(job.users_of(part)) for part in rows), show=progress) as advance:
            for part, content in engine(job, todo):
                with replacing(_file(out, part)) as temporary:
                    temporary.write_bytes(content)
                rows[part] = _count_rows(_file(out, part))
                advance(len(job.users_of(part)))
        write_json(out / MANIFEST, {**described, "complete": True})
    seconds = time.perf_counter() - started
    computed = sum(len(job.users_of(part)) for part in todo)
    return {
        "folder": str(out),
        "model": model.name,
        "users": len(people),
        "parts": len(job),
        "parts_kept": len(job) - len(todo),
        "rows": sum(rows.values()),
        "unknown_events": people.unknown_events,
        "seconds": round(seconds, 3),
        "users_per_second": round(computed / seconds, 1) if computed else None,
    }


def model_sha256(model: Model) -> str:
    """What a model answers follows from: options, weights, catalogue and the length of histories."""
    digest = hashlib.sha256(repr((model.recommender.config.to_plain(), model.max_length)).encode())
    for start in range(0, len(model.vocabulary), 1 << 16):
        digest.update("\n".join(map(repr, model.vocabulary.raw[start : start + (1 << 16)])).encode() + b"\n")
    for name, tensor in sorted(model.recommender.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------ whom


def _histories(dataset: Dataset) -> tuple[Sequences, pl.Series]:
    """All events of a split as one sequence per user, in ascending order of the users."""
    whole = protocol_from_plain(dataset.protocol).divides == "events"
    parts = (dataset.train, dataset.valid, dataset.test)
    sequences = dataset.test.sequences if whole else Sequences.concatenated([part.sequences for part in parts])
    sequences = sequences.take(np.argsort(sequences.users, kind="stable"))
    users, counts = np.unique(sequences.users, return_counts=True)
    if (repeated := users[counts > 1]).size:
        first = repeated[0] if dataset.users is None else dataset.users[int(repeated[0])]
        raise DataError(
            f"{dataset.name}: {repeated.size:,} of {len(users):,} users have several sequences (first: {first!r}).",
            hint="give the log itself: every user of it has one history",
        )
    raw = pl.Series(users) if dataset.users is None else dataset.users.gather(users)
    return sequences, raw


def _codes(known: Vocabulary, vocabulary: Vocabulary) -> Ids:
    """(J + 1,) the model's item for each of a log's items 0..J; 0 for padding and what the model does not know.

    A log whose ids happen to be all digits is read as integers; a model may know them as text, and the reverse.
    """
    ids = {str(raw): item for item, raw in enumerate(vocabulary.raw, start=1)}
    return np.array([PADDING, *(ids.get(str(raw), PADDING) for raw in known.raw)], dtype=np.int64)


def _translate(items: Ids, codes: Ids) -> tuple[int, int]:
    """Replace `items` by their codes, in place; how many have none, and the first such item (0 if all have one)."""
    unknown, first = 0, PADDING
    for start in range(0, len(items), _EVENTS):
        old = items[start : start + _EVENTS]
        new = codes[old]
        if (strange := np.flatnonzero(new == PADDING)).size:
            first = first or int(old[strange[0]])
            unknown += strange.size
        items[start : start + _EVENTS] = new
    return unknown, first


def _unknown_items(unknown: int, events: int, first: RawId, vocabulary: Vocabulary, source: str) -> DataError:
    near = nearest(str(first), map(str, vocabulary.raw)) if len(vocabulary) <= 200_000 else ""
    return DataError(
        f"{source}: the items of {unknown:,} of {events:,} events are not in the model's catalogue of "
        f"{len(vocabulary):,} items (first: {first!r}).{near}",
        hint='unknown_items="drop" (--drop-unknown) leaves these events out',
    )


# ------------------------------------------------------------------------------------------------ where


def _refuse_what_the_model_refuses(job: Job) -> None:
    job.model.recommend([], **job.options.for_recommend())


def _file(out: Path, part: int) -> Path:
    return out / f"part-{part:05d}.parquet"


def _claim(out: Path, described: dict[str, Any]) -> None:
    """Make the folder that of this job. CheckpointError if it is something else's."""
    manifest = out / MANIFEST
    if manifest.exists():
        found = read_json(manifest)
        if differences := list(_differences(found, described)):
            raise CheckpointError(
                f"{out}: holds the recommendations of another job ({'; '.join(differences)}).",
                hint="ask for the same, or choose another folder",
            )
        return
    if others := [path.name for path in out.iterdir() if not path.name.startswith(".")]:
        raise CheckpointError(
            f"{out}: is not empty and has no {MANIFEST} (found {min(others)}).", hint="choose another"
        )
    write_json(manifest, {**described, "complete": False})


def _differences(found: dict[str, Any], asked: dict[str, Any]) -> Iterator[str]:
    """`k 10 there, 20 asked`: what makes the parts of one job useless to the other."""
    follows = ("complete", "parts")
    flat = [_flat({key: value for key, value in plain.items() if key not in follows}) for plain in (found, asked)]
    for key in sorted(flat[0].keys() | flat[1].keys()):
        there, here = (each.get(key) for each in flat)
        if there != here and key.endswith(" sha256"):
            yield f"another {key.removesuffix(' sha256')}" if key != "users sha256" else "other users or histories"
        elif there != here:
            yield f"{key} {there!r} there, {here!r} asked"


def _flat(plain: dict[str, Any]) -> dict[str, Any]:
    """One level: `{"model": {"name": ...}}` -> `{"model name": ...}`; options go by their own names."""
    inner = ((key, value if isinstance(value, dict) else {"": value}) for key, value in plain.items())
    return {
        (name if key == "options" else f"{key} {name}".strip()): value
        for key, values in inner
        for name, value in values.items()
    }


def _count_rows(file: Path) -> int:
    """Rows of a part, from its footer."""
    try:
        return int(pl.scan_parquet(file).select(pl.len()).collect().item())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CheckpointError(
            f"{file}: not a readable Parquet file ({str(error).splitlines()[0]}).",
            hint="remove it, and the same command computes it anew",
        ) from None


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keep other processes out of the folder. The system releases the lock when this process dies, however it does."""
    if os.name == "nt":
        yield
        return
    import fcntl

    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"{out}: another process is writing to this folder.") from None
        yield


@contextmanager
def _bar(users: int, done: int, *, show: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on the standard error, if that is a terminal; gives the function that advances it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("users"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    shown = show and sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as bars:
        task = bars.add_task("users", total=users, completed=done)
        yield lambda more: bars.advance(task, more)

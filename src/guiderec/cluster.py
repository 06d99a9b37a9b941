"""The parts of a bulk recommendation shared among the workers of a Ray cluster, through Ray Data.

Every worker has the model and the histories, computes whole parts as `bulk.in_process` does, and sends the Parquet
files back; the process that asked writes them. So the cluster needs no file system in common, results are those of one
process, and a job may be interrupted here and completed there.

The model travels as the data files of its directory; histories lie once per machine in Ray's shared memory. Workers
compute with one thread each. GuideRec must be installed wherever workers run.
"""

from __future__ import annotations

import io
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from guiderec.bulk import Job, Options, People
from guiderec.data.sequences import Sequences
from guiderec.errors import ConfigError
from guiderec.evaluation.index import FILE
from guiderec.model import Model

Shipped = dict[str, Any]
"""A job in plain types: bytes, arrays and options."""


@dataclass(frozen=True)
class OnRay:
    """Computes the parts of a job by `workers` Ray workers of one CPU each.

    The cluster is the one that this process is connected to; else that of the environment variable RAY_ADDRESS; else
    one on this machine, started for the job without a dashboard and without reports to anybody, that ends with it. Ray
    has no access control of its own: run it where nobody else can reach the ports of the machine.

    Raises
    ------
    ConfigError
        Without Ray installed, for less than one worker, and for a cluster that cannot be reached.
    """

    workers: int

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"workers = {self.workers}: at least 1 is needed.")
        _ray()

    def __call__(self, job: Job, parts: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Parts in the order in which they are finished."""
        if not parts:
            return
        ray = _ray()
        with _connected(ray, self.workers):
            shipped = ray.put(ship(job))
            tasks = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
            done = tasks.map_batches(
                _Worker,
                fn_constructor_args=(shipped,),
                batch_size=1,
                batch_format="numpy",
                compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(parts))),
                num_cpus=1,
            )
            for row in done.iter_rows():
                yield int(row["part"]), bytes(row["parquet"])


class _Worker:
    """One Ray actor: a job, unpacked once."""

    def __init__(self, shipped: Any) -> None:
        self.job = unpack(_ray().get(shipped))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        parts = [int(part) for part in batch["part"]]
        files = np.array([self.job.parquet(part) for part in parts], dtype=object)
        return {"part": np.array(parts), "parquet": files}


def ship(job: Job) -> Shipped:
    """A job as plain data, for `unpack` on another machine."""
    with tempfile.TemporaryDirectory() as scratch:
        job.model.save_pretrained(Path(scratch) / "model")
        if job.model.index:
            job.model.index.save(Path(scratch) / "model")
        model = {file.name: file.read_bytes() for file in sorted((Path(scratch) / "model").iterdir())}
    users = io.BytesIO()
    job.people.users.to_frame().write_parquet(users)
    people = job.people
    return {
        "model": model,
        "items": people.sequences.items,
        "offsets": people.sequences.offsets,
        "users": users.getvalue(),
        "source": people.source,
        "options": job.options.to_plain(),
    }


def unpack(shipped: Shipped) -> Job:
    """What `ship` packed."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in shipped["model"].items():
            (Path(scratch) / name).write_bytes(content)
        model = Model.from_pretrained(scratch, index=(Path(scratch) / FILE).exists())
    users = pl.read_parquet(io.BytesIO(shipped["users"])).to_series()
    sequences = Sequences(shipped["items"], shipped["offsets"], np.arange(len(users)))
    return Job(model, People(sequences, users, shipped["source"]), Options.from_plain(shipped["options"]))


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError("Sharing work among workers needs Ray.", hint="pip install 'guiderec[ray]'") from None
    return ray


@contextmanager
def _connected(ray: Any, workers: int) -> Iterator[None]:
    """A connection to the cluster; closed again if it was opened here."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers over the network
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS")
    local = {"num_cpus": workers, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(**quiet, **({"address": address} if address else {"address": "local", **local}))
    except (ConnectionError, ValueError, RuntimeError) as error:
        what = f"the Ray cluster at RAY_ADDRESS={address} cannot be reached" if address else "Ray cannot be started"
        raise ConfigError(f"{what.capitalize() if not address else what} ({' '.join(str(error).split())}).") from None
    bars = ray.data.DataContext.get_current()
    bars.enable_progress_bars = False  # the command has one of its own
    try:
        yield
    finally:
        ray.shutdown()

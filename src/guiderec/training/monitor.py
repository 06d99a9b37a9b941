"""What watches a run: sums of losses, the log, the clock, the bars, and requests to stop."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from guiderec.errors import CheckpointError, TrainingError
from guiderec.training.distributed import sum_over_processes

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Meter:
    """Sums of the named parts of the loss since the last step event, the same on every process.

    `add` leaves the values on their device; `read` fetches all of them at once and stops the run if one is not finite.
    So nothing waits for a GPU between reads, and every checkpoint, which reads first, holds a finite state.
    """

    def __init__(self, names: list[str] | None = None, sums: list[float] | None = None, count: int = 0) -> None:
        self.names = names or []
        self.sums = sums or []
        self.count = count
        self.interrupted = False
        """Whether any process was asked to stop, as of the last read. Only followed with several processes."""
        self._unread: list[Tensor] = []

    @classmethod
    def from_plain(cls, data: Mapping[str, Any], where: Path) -> Self:
        """What `plain` gave. CheckpointError for anything else."""
        kinds = {"names": list, "sums": list, "count": int}
        if data.keys() != kinds.keys() or not all(isinstance(data[name], kind) for name, kind in kinds.items()):
            raise CheckpointError(f"{where}: 'meter' holds no sums of losses.", hint="it is damaged")
        return cls(**data)

    def add(self, parts: Mapping[str, Tensor], share: float, asked: bool, fabric: Fabric) -> None:
        """Add the parts of one step; this process holds `share` of its rows."""
        names = list(parts)
        if not self.count:
            self.names, self.sums = names, [0.0] * len(names)
        elif names != self.names:
            raise TrainingError(f"The parts of the loss changed within a run from {self.names} to {names}.")
        values = torch.stack([part.detach().float() for part in parts.values()])
        if fabric.world_size > 1:
            values = sum_over_processes(fabric, torch.cat([values * share, values.new_tensor([float(asked)])]))
        self._unread.append(values)
        self.count += 1

    def read(self, step: int, model: nn.Module) -> None:
        """Fetch what was added; TrainingError for the first step, of those up to `step`, that is not finite."""
        if not self._unread:
            return
        rows = torch.stack(self._unread).tolist()
        self._unread.clear()
        for row_step, row in enumerate(rows, start=step - len(rows) + 1):
            if not all(map(math.isfinite, row)):
                raise not_finite(row_step, dict(zip(self.names, row, strict=False)), model)
            self.interrupted |= len(row) > len(self.names) and row[-1] > 0
            for i in range(len(self.names)):
                self.sums[i] += row[i]

    def means(self, step: int, model: nn.Module) -> dict[str, float]:
        """Mean of every part over the steps since the last call, which starts a new interval."""
        self.read(step, model)
        means = {name: total / self.count for name, total in zip(self.names, self.sums, strict=True)}
        self.sums, self.count = [0.0] * len(self.names), 0
        return means

    def plain(self) -> dict[str, Any]:
        """Arguments that make an equal meter. Everything must have been read."""
        assert not self._unread
        return {"names": self.names, "sums": self.sums, "count": self.count}


def not_finite(step: int, parts: Mapping[str, float], model: nn.Module) -> TrainingError:
    """The error for a loss that is not finite, with the parts and parameters where this shows."""
    values = ", ".join(f"{name} = {value:.6g}" for name, value in parts.items())
    parameters = dict(model.named_parameters())
    bad = [name for name, value in parameters.items() if not bool(torch.isfinite(value).all())]
    where = f"{', '.join(bad[:5])}{', ...' if len(bad) > 5 else ''}" if bad else "none"
    return TrainingError(
        f"Step {step}: the loss is not finite: {values}. "
        f"Parameters with values that are not finite: {len(bad)} of {len(parameters)} ({where}).",
        hint="lower training.learning_rate, or set training.clip_norm; the last checkpoint was not touched",
    )


class Log:
    """One line of JSON per event. A path of None writes nothing: only the first process has a log."""

    def __init__(self, path: Path | None, keep: int = 0) -> None:
        """Open `path` and drop everything after its first `keep` bytes."""
        self._file = None
        if path is None:
            return
        found = path.stat().st_size if path.exists() else 0
        if found < keep:
            raise CheckpointError(f"{path}: has {found} bytes, the checkpoint was taken at {keep}: it was cut off.")
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(keep)
        self._file.seek(keep)

    def write(self, event: Mapping[str, Any]) -> None:
        """Append an event; other processes can read it at once."""
        if self._file is not None:
            self._file.write(json.dumps(event, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            self._file.flush()

    def sync(self) -> int:
        """Bring the log to the disk; its length in bytes."""
        if self._file is None:
            return 0
        os.fsync(self._file.fileno())
        return self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


class Clock:
    """Seconds spent, continuing from an earlier process."""

    def __init__(self, before: float = 0.0) -> None:
        self._start = time.perf_counter() - before

    def seconds(self) -> float:
        """Seconds since the start, without the time between processes."""
        return time.perf_counter() - self._start


class Interruption:
    """Turns Ctrl-C and SIGTERM into a request to stop at the next safe point.

    `asked` is set by the first signal. A second one raises KeyboardInterrupt on the spot and sets `insisted`. Outside
    the main thread Python delivers no signals, and nothing is installed.
    """

    def __init__(self) -> None:
        self.asked = False
        self.insisted = False
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """While nothing changes the weights, as in a validation: do not wait for a safe point."""
        if self.asked:
            raise KeyboardInterrupt
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            self.insisted = True
        self.asked = True
        if self.insisted or self._at_once:
            self._at_once = False
            raise KeyboardInterrupt


class Bars:
    """Progress on the standard error: bars of the run and of the epoch on a terminal, else a line per validation."""

    def __init__(self, show: bool, epochs: int, steps_per_epoch: int) -> None:
        self._progress = None
        self._lines = show and not sys.stderr.isatty()
        self._epochs, self._steps_per_epoch = epochs, steps_per_epoch
        self._done = (0, 0)
        self._loss = ""
        self._clock = Clock()
        if not show or self._lines:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._run = self._progress.add_task("epochs", total=epochs, note="")
        self._epoch = self._progress.add_task("steps", total=steps_per_epoch, note="")

    def step(self, epoch: int, batch: int) -> None:
        """`epoch` epochs and `batch` batches of the next are done."""
        self._done = (epoch, batch)
        if self._progress is not None:
            self._progress.update(self._run, completed=epoch)
            self._progress.update(self._epoch, completed=batch)

    def loss(self, value: float) -> None:
        """Show the mean loss."""
        self._loss = f"loss {value:.4g}"
        if self._progress is not None:
            self._progress.update(self._epoch, note=self._loss)

    def metric(self, name: str, value: float, best: float) -> None:
        """Show the deciding metric."""
        found = f"{name} {value:.4f}, best {best:.4f}"
        if self._progress is not None:
            self._progress.update(self._run, note=found)
        if self._lines:
            epoch, batch = self._done
            step = epoch * self._steps_per_epoch + batch
            told = ", ".join(filter(None, (self._loss, found)))
            where = f"epoch {epoch + (batch > 0)} of {self._epochs}, step {step:,}"
            with suppress(OSError):  # a closed pipe must not end the training
                print(f"{where}: {told}, {self._clock.seconds():.1f} s", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

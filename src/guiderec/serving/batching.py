"""Micro-batches: calls that arrive while another batch is at work are answered together by the next one.

One thread takes everything that waits (at most `max_batch` jobs) and hands it to one function. A job that finds the
thread idle begins at once: there is no window in which to wait for company, so a lone request pays a hand-over between
threads and no more. Under load the batches grow by themselves.

The queue is bounded: beyond `max_queue` waiting jobs `submit` raises `QueueFull` with the time after which it is worth
trying again. A job whose future is cancelled while it waits leaves the queue and costs nothing.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Generic, TypeVar

from guiderec.errors import ConfigError, ServingError

Job = TypeVar("Job")
Result = TypeVar("Result")

Handle = Callable[[Sequence[Job]], Sequence[Result | Exception]]
"""Jobs (n >= 1) -> their results in the same order; an exception in place of a result fails that job alone."""

Observe = Callable[[int, float], None]
"""Told after each batch: number of jobs, seconds that `handle` took."""

_LONGEST_RETRY = 30
"""Seconds."""


class QueueFull(ServingError):
    """More jobs wait than the queue holds."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        self.retry_after = retry_after
        """Seconds from 1 on, whole."""
        super().__init__(f"{waiting:,} requests are waiting already.", hint=f"try again in {retry_after} s")


class Stopped(ServingError):
    """The server is shutting down."""

    def __init__(self) -> None:
        super().__init__("The server is shutting down.", hint="try again in a moment")


class Batcher(Generic[Job, Result]):
    """A bounded queue in front of one thread that answers in batches.

    Parameters
    ----------
    handle
        Answers a batch. What it raises fails all jobs of the batch.
    max_queue
        Jobs that may wait, besides those at work.
    max_batch
        Jobs that `handle` is given at once, at most.
    observe
        Told of each batch, on the thread of the batches.
    """

    def __init__(
        self,
        handle: Handle[Job, Result],
        *,
        max_queue: int = 256,
        max_batch: int = 64,
        name: str = "batches",
        observe: Observe | None = None,
    ) -> None:
        for option, value in (("max_queue", max_queue), ("max_batch", max_batch)):
            if value < 1:
                raise ConfigError(f"{option} must be at least 1, got {value}.")
        self.max_queue = max_queue
        self.max_batch = max_batch
        self._handle = handle
        self._observe = observe
        self._waiting: dict[Future[Result], Job] = {}  # in order of arrival; a dict, to drop a cancelled one at once
        self._changed = threading.Condition()
        self._closed = False
        self._seconds_per_job = 0.0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Future[Result]:
        """The answer to come. Cancel it to withdraw a job that has not begun.

        Raises
        ------
        QueueFull
            When `max_queue` jobs wait.
        Stopped
            After `close`.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._closed:
                raise Stopped
            if len(self._waiting) >= self.max_queue:
                raise QueueFull(len(self._waiting), self._retry_after())
            self._waiting[future] = job
            self._changed.notify()
        future.add_done_callback(self._forget)
        return future

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether jobs are still being answered."""
        return self._thread.is_alive() and not self._closed

    def close(self) -> None:
        """Take no more jobs, answer those that wait, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _forget(self, future: Future[Result]) -> None:
        """Make room when a waiting job is cancelled."""
        if future.cancelled():
            with self._changed:
                self._waiting.pop(future, None)

    def _retry_after(self) -> int:
        """Seconds until the present queue is answered, at the pace of the last batches."""
        return min(max(1, math.ceil(len(self._waiting) * self._seconds_per_job)), _LONGEST_RETRY)

    def _work(self) -> None:
        while batch := self._next_batch():
            begun = time.perf_counter()
            self._answer(batch)
            seconds = time.perf_counter() - begun
            pace = seconds / len(batch)
            self._seconds_per_job += 0.2 * (pace - self._seconds_per_job) if self._seconds_per_job else pace
            if self._observe is not None:
                self._observe(len(batch), seconds)

    def _next_batch(self) -> list[tuple[Future[Result], Job]]:
        """The jobs to answer now, not one of them cancelled; empty when closed and done."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                futures = list(islice(self._waiting, self.max_batch))
                taken = [(future, self._waiting.pop(future)) for future in futures]
            batch = [pair for pair in taken if pair[0].set_running_or_notify_cancel()]
            if batch or not taken:
                return batch

    def _answer(self, batch: Sequence[tuple[Future[Result], Job]]) -> None:
        jobs = [job for _, job in batch]
        try:
            results = self._handle(jobs)
            if len(results) != len(jobs):
                raise RuntimeError(f"{len(jobs)} jobs were given {len(results)} results.")
        except Exception as error:  # the thread must outlive any fault, or all later requests would hang
            results = [error] * len(jobs)
        for (future, _), result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

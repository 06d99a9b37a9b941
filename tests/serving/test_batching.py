from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError

import pytest

from guiderec.errors import ConfigError
from guiderec.serving.batching import Batcher, QueueFull, Stopped


class Gate:
    """Doubles numbers, one batch at a time, each only when it is let through."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(jobs))
        self.begun.release()
        assert self.open.acquire(timeout=30)
        return [ValueError("odd") if job % 2 else 2 * job for job in jobs]

    def let_all_through(self) -> None:
        self.open.release(1000)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def batcher(gate: Gate) -> Iterator[Batcher[int, int]]:
    batcher = Batcher(gate, max_queue=5, max_batch=3)
    yield batcher
    gate.let_all_through()
    batcher.close()


def test_a_lone_job_begins_at_once_and_what_waits_meanwhile_is_answered_together(batcher, gate):
    first = batcher.submit(0)
    assert gate.begun.acquire(timeout=10)
    later = [batcher.submit(job) for job in (2, 4, 6, 8)]
    assert batcher.waiting == 4
    gate.let_all_through()
    assert [future.result(timeout=10) for future in (first, *later)] == [0, 4, 8, 12, 16]
    assert gate.batches == [[0], [2, 4, 6], [8]]  # alone; max_batch; the rest


def test_an_exception_in_place_of_a_result_fails_that_job_alone(batcher, gate):
    gate.let_all_through()
    blocked = batcher.submit(2)
    wrong, right = batcher.submit(3), batcher.submit(4)
    assert (blocked.result(timeout=10), right.result(timeout=10)) == (4, 8)
    with pytest.raises(ValueError, match="odd"):
        wrong.result(timeout=10)


def test_full_queue_refuses_and_recovers(batcher, gate):
    running = batcher.submit(0)
    assert gate.begun.acquire(timeout=10)
    waiting = [batcher.submit(2) for _ in range(5)]
    with pytest.raises(QueueFull, match=r"5 requests are waiting already. Hint: try again in \d+ s") as refused:
        batcher.submit(2)
    assert 1 <= refused.value.retry_after <= 30
    gate.let_all_through()
    assert [future.result(timeout=10) for future in (running, *waiting)] == [0, 4, 4, 4, 4, 4]
    assert batcher.submit(6).result(timeout=10) == 12


def test_a_cancelled_job_is_never_begun_and_leaves_room(batcher, gate):
    batcher.submit(0)
    assert gate.begun.acquire(timeout=10)
    waiting = [batcher.submit(job) for job in (2, 4, 6, 8, 10)]
    assert waiting[0].cancel()
    assert waiting[3].cancel()
    assert batcher.waiting == 3
    last = batcher.submit(12)
    gate.let_all_through()
    assert last.result(timeout=10) == 24
    assert [job for batch in gate.batches for job in batch] == [0, 4, 6, 10, 12]
    with pytest.raises(CancelledError):
        waiting[0].result()


def test_what_has_begun_cannot_be_cancelled(batcher, gate):
    running = batcher.submit(2)
    assert gate.begun.acquire(timeout=10)
    assert not running.cancel()
    gate.let_all_through()
    assert running.result(timeout=10) == 4


def test_a_fault_fails_its_batch_and_the_thread_lives_on():
    def handle(jobs: Sequence[str]) -> list[str]:
        if "fault" in jobs:
            raise RuntimeError("a fault of ours")
        return [] if "short" in jobs else list(jobs)

    batcher = Batcher(handle)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        batcher.submit("fault").result(timeout=10)
    with pytest.raises(RuntimeError, match="1 jobs were given 0 results"):
        batcher.submit("short").result(timeout=10)
    assert batcher.submit("fine").result(timeout=10) == "fine"
    batcher.close()


def test_close_answers_what_waits_and_takes_nothing_more(gate):
    batcher = Batcher(gate, max_queue=5)
    futures = [batcher.submit(job) for job in (2, 4)]
    gate.let_all_through()
    batcher.close()
    assert [future.result(timeout=0) for future in futures] == [4, 8]
    assert not batcher.alive
    with pytest.raises(Stopped, match="shutting down"):
        batcher.submit(6)


def test_observer_is_told_of_every_batch():
    told: list[int] = []
    batcher = Batcher(lambda jobs: list(jobs), observe=lambda jobs, seconds: told.append(jobs if seconds >= 0 else -1))
    futures = [batcher.submit(job) for job in range(20)]
    assert [future.result(timeout=10) for future in futures] == list(range(20))
    batcher.close()
    assert sum(told) == 20
    assert min(told) >= 1


def test_bounds_are_checked():
    with pytest.raises(ConfigError, match="max_queue must be at least 1, got 0"):
        Batcher(lambda jobs: list(jobs), max_queue=0)

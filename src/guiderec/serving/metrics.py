"""What the server counts, for Prometheus. The only file that knows its client library."""

from __future__ import annotations

from collections.abc import Callable

from guiderec.errors import ConfigError

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST
except ImportError:  # the only module that needs it
    raise ConfigError("Metrics need prometheus_client.", hint="pip install 'guiderec[serve]'") from None

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server, in a registry of their own. A `Watch` of the service."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "guiderec_requests_total", "Answered requests.", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "guiderec_request_seconds",
            "Seconds from a request's last byte to its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.shed = Counter("guiderec_shed_total", "Requests refused because the queue was full.", registry=registry)
        self.abandoned = Counter(
            "guiderec_abandoned_total", "Requests whose client went away before the answer.", registry=registry
        )
        self.swaps = Counter("guiderec_model_swaps_total", "Models put in place of another.", registry=registry)
        self._served = Gauge(
            "guiderec_model", "1 for the model that is served.", ["name", "version"], registry=registry
        )
        self._waiting = Gauge("guiderec_queue_length", "Requests that have not begun.", registry=registry)
        self._batch_rows = Histogram(
            "guiderec_batch_requests", "Requests answered together.", buckets=_ROWS, registry=registry
        )
        self._batch_seconds = Histogram(
            "guiderec_batch_seconds", "Seconds per batch, look-ups included.", buckets=_SECONDS, registry=registry
        )
        self._model_seconds = Histogram(
            "guiderec_model_seconds", "Seconds per call of the model.", buckets=_SECONDS, registry=registry
        )
        self._feedback = Counter("guiderec_feedback_total", "Feedback that was committed.", registry=registry)
        self._commit_seconds = Histogram(
            "guiderec_feedback_commit_seconds", "Seconds per commit.", buckets=_SECONDS, registry=registry
        )

    def text(self) -> bytes:
        """All of it, in the format of Prometheus (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)

    def serve(self, name: str, version: str) -> None:
        """Say which model is served now."""
        self._served.clear()
        self._served.labels(name, version).set(1)

    def measure_queue(self, length: Callable[[], float]) -> None:
        """Ask `length` whenever the metrics are read."""
        self._waiting.set_function(length)

    def batch(self, jobs: int, seconds: float) -> None:
        """A batch of requests was answered."""
        self._batch_rows.observe(jobs)
        self._batch_seconds.observe(seconds)

    def model(self, rows: int, seconds: float) -> None:
        """One call of the model."""
        self._model_seconds.observe(seconds)

    def written(self, events: int, seconds: float) -> None:
        """One commit of feedback."""
        self._feedback.inc(events)
        self._commit_seconds.observe(seconds)

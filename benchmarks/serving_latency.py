"""Latency of `POST /recommend` over HTTP: closed form against the step loop, by number of clients. Prints JSON.

A server process of its own (uvicorn, SQLite on the disk) serves SteerRec with random weights: what is measured does not
depend on what was learnt. Every request names a user with stored feedback, a history of ten items and three dislikes.
Clients speak HTTP/1.1 over connections that stay open, one request at a time each, on blocking sockets; client and
server share the machine.

closed_form   the mean over the noise, composed into one product per row (how the library serves affine denoisers)
step_loop     the same weights, stepped from noise through S steps under both conditions

latency_ms       p50 and p99 of the seconds that a client waits
per_second       answered requests, all clients together
overhead_ms      with one client: what a request takes beyond the call of the model it caused, request by request. All
                 of HTTP, validation, look-up of the feedback, hand-overs between threads, and the reply.
overhead_cpu_ms  CPU time of the server process beside the calls of the model, per request; with --threads 1 only,
                 where no other thread works for the model. It can be measured on a busy machine, the wall clock cannot.

    python benchmarks/serving_latency.py --dim 3072 --items 12101 --clients 1 8 64
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guiderec.data.dataset import Vocabulary
from guiderec.diffusion.generation import Generation
from guiderec.model import Model
from guiderec.models.steerrec import SteerRecConfig
from guiderec.recipes.registry import build
from guiderec.rng import numpy_generator, seed_everything
from guiderec.training.memory import keep_freed_memory

HISTORY, DISLIKES, USERS = 10, 3, 64
HEAD = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
SIDES = {"closed_form": "mean", "step_loop": "noise"}


class Stopwatch:
    """Stands before `Model.recommend` and keeps what its calls cost."""

    def __init__(self, recommend: Callable[..., Any]) -> None:
        self.recommend = recommend
        self.calls: list[tuple[int, float, float]] = []
        self.cpu_before = time.process_time()

    def __call__(self, histories: Sequence[Any], **options: Any) -> Any:
        """The same call."""
        begun, cpu = time.perf_counter(), time.thread_time()
        found = self.recommend(histories, **options)
        self.calls.append((len(histories), time.perf_counter() - begun, time.thread_time() - cpu))
        return found

    def take(self) -> dict[str, Any]:
        """All since the last time: rows and seconds of each call, and CPU seconds of the process beside the calls."""
        calls, self.calls = self.calls, []
        now = time.process_time()
        beside, self.cpu_before = now - self.cpu_before - sum(cpu for _, _, cpu in calls), now
        return {"rows": [call[0] for call in calls], "seconds": [call[1] for call in calls], "cpu_beside": beside}


def serve(options: argparse.Namespace, start: str, folder: str, pipe: Connection) -> None:
    """The server process: answers "take" on the pipe with what was measured since, until it is told to end."""
    import uvicorn

    from guiderec.serving.app import create_app
    from guiderec.serving.feedback import Event, FeedbackStore
    from guiderec.serving.loaded import open_model
    from guiderec.serving.service import Service

    torch.set_num_threads(options.threads)
    keep_freed_memory()
    seed_everything(0)
    config = SteerRecConfig(dim=options.dim, generation=Generation(steps=options.steps, start=start))
    Model(build(config, options.items), Vocabulary(tuple(range(options.items))), HISTORY).save_pretrained(folder)
    feedback = FeedbackStore(f"sqlite:///{folder}.sqlite")
    feedback.append([Event(f"u{n}", "dislike", item=str(n)) for n in range(USERS)])
    feedback.append([Event(f"u{n}", "seen", item=str(n + 1)) for n in range(USERS)])
    loaded = open_model(Path(folder))
    watch = Stopwatch(loaded.model.recommend)
    loaded.model.recommend = watch  # type: ignore[method-assign]
    service = Service(loaded, feedback, max_queue=1024)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else every answer waits 40 ms for an ACK
    server = uvicorn.Server(uvicorn.Config(create_app(service), log_level="warning", access_log=False))

    def tell() -> None:
        pipe.send(listener.getsockname()[1])
        while pipe.recv() == "take":
            pipe.send(watch.take())
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=tell, daemon=True).start()
    server.run(sockets=[listener])


class Client:
    """One connection that stays open."""

    def __init__(self, port: int) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port))
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, body: bytes) -> float:
        """Seconds until the whole answer is there."""
        head = (
            f"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        )
        begun = time.perf_counter()
        self.connection.sendall(head.encode() + b"\r\n" + body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._read()
        top, _, rest = answer.partition(b"\r\n\r\n")
        length = int(next(line for line in top.lower().split(b"\r\n") if line.startswith(b"content-length:"))[15:])
        while len(rest) < length:
            rest += self._read()
        seconds = time.perf_counter() - begun
        if not top.startswith(b"HTTP/1.1 200"):
            raise RuntimeError((top + rest).decode())
        return seconds

    def _read(self) -> bytes:
        part = self.connection.recv(65536)
        if not part:
            raise RuntimeError("the server closed the connection")
        return part


def bodies(items: int, count: int) -> list[bytes]:
    """Different requests."""
    random = numpy_generator(0, "serving latency")
    drawn = [random.choice(np.arange(items), HISTORY + DISLIKES, replace=False).tolist() for _ in range(count)]
    return [
        json.dumps(
            {
                "user": f"u{n % USERS}",
                "history": items[:HISTORY],
                "dislikes": [{"item": item} for item in items[HISTORY:]],
            }
        ).encode()
        for n, items in enumerate(drawn)
    ]


def load(port: int, clients: int, seconds: float, requests: list[bytes]) -> tuple[list[float], float]:
    """Seconds of every request of `clients` clients within some `seconds`, and how long it took in all."""
    found: list[list[float]] = [[] for _ in range(clients)]
    begun = time.perf_counter()

    def run(number: int) -> None:
        client, turn = Client(port), number
        while time.perf_counter() - begun < seconds:
            found[number].append(client.ask(requests[turn % len(requests)]))
            turn += clients

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [one for listed in found for one in listed], time.perf_counter() - begun


def measure(options: argparse.Namespace, start: str) -> dict[str, Any]:
    """All numbers of clients against one server."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as scratch:
        process = context.Process(target=serve, args=(options, start, f"{scratch}/model", theirs))
        process.start()
        try:
            port, requests = ours.recv(), bodies(options.items, 256)
            load(port, 1, min(3.0, options.seconds), requests)  # warm
            return {f"{clients} clients": one(ours, port, clients, options, requests) for clients in options.clients}
        finally:
            ours.send("end")
            process.join(timeout=60)
            process.kill()


def one(
    pipe: Connection, port: int, clients: int, options: argparse.Namespace, requests: list[bytes]
) -> dict[str, Any]:
    """One number of clients."""
    pipe.send("take")
    pipe.recv()
    latencies, seconds = load(port, clients, options.seconds, requests)
    pipe.send("take")
    calls = pipe.recv()
    result = {
        "requests": len(latencies),
        "per_second": round(len(latencies) / seconds, 2),
        "latency_ms": percentiles(latencies),
        "model_call_ms": percentiles(calls["seconds"]),
        "rows_per_call": round(float(np.mean(calls["rows"])), 2),
    }
    if clients == 1:
        beyond = [latency - spent for latency, spent in zip(latencies, calls["seconds"], strict=True)]
        result["overhead_ms"] = percentiles(beyond)
        if options.threads == 1:
            result["overhead_cpu_ms"] = round(calls["cpu_beside"] / len(latencies) * 1e3, 3)
    return result


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    return {f"p{q}": round(float(np.percentile(seconds, q)) * 1e3, 3) for q in (50, 99)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=3072)
    parser.add_argument("--items", type=int, default=12101)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=20.0, help="per number of clients")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    options = parser.parse_args()
    found = {side: measure(options, SIDES[side]) for side in options.sides}
    machine = {"cores": os.cpu_count(), "load_at_end": os.getloadavg()[0], "torch": torch.__version__}
    print(json.dumps({**vars(options), **machine, **found}, indent=2))


if __name__ == "__main__":
    main()

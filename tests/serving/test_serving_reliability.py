"""Whole servers in processes of their own: killed, in pairs, swapped under load, stopped, started badly."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import GUIDEREC, Server

Serve = Callable[..., Server]


def tell(server: Server, user: str, kind: str, item: str) -> dict[str, Any]:
    reply = httpx.post(f"{server.url}feedback", json={"user": user, "kind": kind, "item": item}, timeout=60)
    assert reply.status_code == 201, reply.text
    found: dict[str, Any] = reply.json()
    return found


@pytest.mark.slow
def test_sigkill_in_a_storm_of_feedback_loses_nothing_acknowledged(serve: Serve, models: Path, any_database: str):
    server = serve(models / "first", "--database", any_database)
    acknowledged: dict[str, list[int]] = {f"user{n}": [] for n in range(16)}
    enough = threading.Event()

    def storm(user: str) -> None:
        with server.client() as client:
            while True:
                try:
                    reply = client.post("/feedback", json={"user": user, "kind": "seen", "item": "i01"})
                except httpx.HTTPError:
                    return
                if reply.status_code == 201:
                    acknowledged[user].append(reply.json()["id"])
                if sum(map(len, acknowledged.values())) > 300:
                    enough.set()

    threads = [threading.Thread(target=storm, args=(user,)) for user in acknowledged]
    for thread in threads:
        thread.start()
    assert enough.wait(timeout=120)
    server.kill()
    for thread in threads:
        thread.join(timeout=60)
    again = serve(models / "first", "--database", any_database)
    ids = [id_ for listed in acknowledged.values() for id_ in listed]
    assert len(ids) == len(set(ids)) > 300
    with again.client() as client:
        for user, listed in acknowledged.items():
            seen = client.get("/feedback", params={"user": user}).json()["seen"]
            assert len(seen) in (len(listed), len(listed) + 1)  # the one that was committed, but not answered any more
        assert client.post("/feedback", json={"user": "u", "kind": "seen", "item": "i01"}).json()["id"] > max(ids)


@pytest.mark.slow
def test_two_servers_on_one_database_agree_on_the_next_request(serve: Serve, models: Path, any_database: str):
    servers = [serve(models / "first", "--database", any_database) for _ in range(2)]
    for n in range(20):
        item = f"i{n + 1:02d}"
        tell(servers[n % 2], "ada", "dislike", item)
        for server in servers:
            reply = httpx.post(f"{server.url}recommend", json={"user": "ada", "k": 30}, timeout=60).json()
            assert {"item": item} in reply["wishes"]["dislikes"]
            assert item not in [listed["item_id"] for listed in reply["items"]]
    for server in servers:  # both at once, each about things of its own
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n, server=server: tell(server, "bob", "seen", f"i{n:02d}"), range(1, 21)))
    lists = [httpx.get(f"{server.url}feedback?user=bob", timeout=60).json()["seen"] for server in servers]
    assert lists[0] == lists[1]
    assert len(lists[0]) == 40


@pytest.mark.slow
def test_swaps_under_load_drop_no_request(serve: Serve, models: Path, database: str):
    server = serve(models / "first", "--database", database, GUIDEREC_API_KEY="k")
    stop, statuses, versions = threading.Event(), list[int](), set[str]()

    def load() -> None:
        with server.client(headers={"X-API-Key": "k"}) as client:
            while not stop.is_set():
                reply = client.post("/recommend", json={"history": ["i01"], "dislikes": [{"item": "i02"}]})
                statuses.append(reply.status_code)
                versions.add(reply.json()["model"]["version"])

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    with server.client(headers={"X-API-Key": "k"}) as client:
        swapped = {client.get("/model").json()["version"]}
        for path in ("second", "first", "second", "first"):
            reply = client.post("/model", json={"path": path})
            assert reply.status_code == 200, reply.text
            swapped.add(reply.json()["version"])
            assert client.post("/recommend", json={"history": []}).json()["model"]["version"] == reply.json()["version"]
        assert client.post("/model", json={"path": "nowhere"}).status_code == 422
    stop.set()
    for thread in threads:
        thread.join(timeout=60)
    assert set(statuses) == {200}
    assert len(statuses) > 20
    assert versions == swapped
    assert len(swapped) == 2


def test_a_server_from_start_to_end(serve: Serve, models: Path, database: str):
    """The quick check that the command serves at all: page, data, feedback, clients that hang up, a clean end."""
    server = serve(models / "first", "--database", database)
    with server.client() as client:
        assert client.get("/ready").status_code == 200
        assert "<html" in client.get("/").text
        tell(server, "ada", "like", "i05")
        assert client.post("/recommend", json={"user": "ada"}).json()["wishes"]["likes"] == [{"item": "i05"}]
        hang_up(server)
        assert client.post("/recommend", json={"history": []}).status_code == 200
        deadline = time.monotonic() + 20  # what was asked by those who hung up may still wait
        lines: list[str] = []
        while "guiderec_queue_length 0.0" not in lines and time.monotonic() < deadline:
            lines = client.get("/metrics").text.splitlines()
    assert "guiderec_queue_length 0.0" in lines
    assert not [line for line in lines if 'status="500"' in line]
    status, said = server.stop()
    assert status in (0, -15)
    assert "Traceback" not in said
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}health")


def hang_up(server: Server) -> None:
    """Whole requests whose answer nobody reads, half a request, and noise, over real connections."""
    host, port = server.url.removeprefix("http://").rstrip("/").split(":")
    body = b'{"history": []}'
    head = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    for sent in [head % len(body) + body] * 20 + [head % 1000 + body, b"POST /recomm", b"\x00\xff" * 50]:
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(sent)


# ----------------------------------------------------------------------------------------------------------- bad starts


def start(*arguments: object, **environment: str) -> tuple[int, list[str]]:
    """Status and lines on stderr of a start that must not succeed."""
    done = subprocess.run(
        [*GUIDEREC, "serve", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    return done.returncode, done.stderr.splitlines()


def test_a_port_in_use_is_one_line(models: Path, database: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, lines = start(models / "first", "--database", database, "--port", port)
    said = f"error: Cannot listen on 127.0.0.1, port {port}: Address already in use."
    assert (status, lines) == (2, [f"{said} Hint: --host and --port choose another"])


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["first", "--host", "no.such.host.invalid"], {}, "Cannot listen on 'no.such.host.invalid'"),
        (["first", "--database", "postgresql://ada:secret@127.0.0.1:1/x"], {}, "Connection refused"),
        (["first", "--database", "feedback.db"], {}, "The database is not a URL."),
        (["first", "--data", "/no/such/split"], {}, "/no/such/split"),
        (["first", "--models", "/no/such/models"], {}, "/no/such/models: there is no such directory."),
        (["first"], {"GUIDEREC_API_KEY": " "}, "GUIDEREC_API_KEY is set, but empty."),
        (["nowhere"], {}, "nowhere: there is no such directory."),
        (["damaged"], {}, "weights.safetensors: not a readable safetensors file"),
        ([], {}, "Name the run to serve, or --demo."),
        (["first", "--demo"], {}, "Name the run to serve, or --demo."),
    ],
    ids=lambda value: "-".join(value)[:30] if isinstance(value, list) else "",
)
def test_a_bad_start_is_one_line(
    models: Path, tmp_path: Path, cli_serve: Callable[..., tuple[int, list[str]]], arguments: list[str],
    environment: dict[str, str], words: str,
):  # fmt: skip
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in (models / "first").iterdir():
        (damaged / file.name).write_bytes(
            file.read_bytes()[:-1] if file.suffix == ".safetensors" else file.read_bytes()
        )
    folder = {"first": models / "first", "nowhere": tmp_path / "nowhere", "damaged": damaged}
    options = [folder.get(argument, argument) for argument in arguments]
    if "--database" not in arguments:
        options += ["--database", f"sqlite:///{tmp_path / 'f.sqlite'}"]
    status, lines = cli_serve(*options, "--port", 0, **environment)
    assert status == 2
    assert len(lines) == 1, lines
    assert words in lines[0]
    assert lines[0].startswith("error: ")
    assert "secret" not in lines[0]


@pytest.fixture
def cli_serve(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, list[str]]]:
    """`guiderec serve` in this process, for starts that end before anything is served."""
    from guiderec.cli.main import main

    def run(*arguments: object, **environment: str) -> tuple[int, list[str]]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        status = main(["serve", *map(str, arguments)])
        return status, capfd.readouterr().err.splitlines()

    return run

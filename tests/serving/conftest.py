"""A tiny shop: thirty items in three categories, two models of random weights, three people; servers and databases."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient

from guiderec.data import prepared
from guiderec.data.dataset import Vocabulary
from guiderec.data.protocols import LeaveOneOut
from guiderec.data.sequences import Sequences
from guiderec.diffusion.generation import Generation
from guiderec.model import Model
from guiderec.models.base import ModelConfig
from guiderec.models.popularity import PopularityConfig
from guiderec.models.steerrec import SteerRecConfig
from guiderec.recipes.registry import build
from guiderec.rng import seed_everything
from guiderec.serving.app import create_app
from guiderec.serving.feedback import FeedbackStore
from guiderec.serving.loaded import open_model
from guiderec.serving.metrics import Metrics
from guiderec.serving.people import People
from guiderec.serving.service import Service

from .postgres import Cluster, find_binaries

GUIDEREC = (sys.executable, "-c", "import sys; from guiderec.cli.main import main; sys.exit(main())")
"""The command, with the interpreter of the tests."""

ITEMS = 30
CATEGORIES = ("Tea", "Jazz", "Tea|Jazz")
RAW = tuple(f"i{j:02d}" for j in range(1, ITEMS + 1))
TABLE = pl.DataFrame(
    {
        "item": RAW,
        "name": [f"Thing {j}" for j in range(1, ITEMS + 1)],
        "category": [CATEGORIES[j % 3] for j in range(1, ITEMS + 1)],
    }
)
VOCABULARY = Vocabulary(RAW, TABLE)
HISTORIES = {"0": [1, 2, 3, 4], "1": [5, 6, 7], "2": [8, 9, 10, 11, 12]}
SEQUENCES = Sequences.from_lists(list(HISTORIES.values()), np.arange(len(HISTORIES)))


def make_model(seed: int = 0, config: ModelConfig | None = None) -> Model:
    """A model of random weights."""
    seed_everything(seed)
    config = config or SteerRecConfig(dim=16, generation=Generation(steps=4))
    return Model(build(config, ITEMS), VOCABULARY, max_length=10)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of saved models: `first`, `second` (other weights) and `popularity` (neither steered nor pulled)."""
    folder = tmp_path_factory.mktemp("models")
    make_model(0).save_pretrained(folder / "first")
    make_model(1).save_pretrained(folder / "second")
    popularity = make_model(0, PopularityConfig())
    popularity.recommender.prepare(SEQUENCES)
    popularity.save_pretrained(folder / "popularity")
    return folder


@pytest.fixture(scope="session")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared split of three people."""
    folder = tmp_path_factory.mktemp("data") / "shop"
    prepared.save(LeaveOneOut().dataset(SEQUENCES, VOCABULARY, name="shop/leave-one-out"), folder)
    return folder


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'feedback.sqlite'}"


@contextmanager
def running_service(model: Path, database: str, **options: object) -> Iterator[Service]:
    feedback = FeedbackStore(database)
    service = Service(open_model(model), feedback, **options)  # type: ignore[arg-type]
    try:
        yield service
    finally:
        service.close()
        feedback.close()


@pytest.fixture
def service(models: Path, split: Path, database: str) -> Iterator[Service]:
    with running_service(
        models / "first", database, people=People.of(prepared.load(split)), models=models
    ) as service:  # fmt: skip
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    """In process, without an API key."""
    with TestClient(create_app(service, metrics=Metrics())) as client:
        yield client


# ------------------------------------------------------------------------------------------------------------ processes


class Server:
    """`guiderec serve` in a process of its own, on a free port."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        self.process = subprocess.Popen(
            [*GUIDEREC, "serve", *map(str, arguments), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+/", line)
        if found is None:
            pytest.fail(f"the server did not start: {line}{self.process.communicate(timeout=30)[1]}")
        self.url = found[0]

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)  # type: ignore[arg-type]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def stop(self) -> tuple[int, str]:
        """Ask it to end; its status and what it said on stderr."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers; those that still run at the end are killed."""
    started: list[Server] = []

    def start(*arguments: object, **environment: str) -> Server:
        started.append(Server(*arguments, **environment))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL of its own, in a temporary directory."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's initdb and postgres are not installed")
    folder = Path(tempfile.mkdtemp(prefix="guiderec-pg-"))
    try:
        with Cluster(binaries, folder) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def any_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'feedback.sqlite'}"
    cluster: Cluster = request.getfixturevalue("postgres")
    return cluster.create_database()

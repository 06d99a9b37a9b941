"""A small recommender with a planted rule, and a program that trains it and dies where it is told to.

    python tiny_recommender.py '[{"run": ..., "training": {...}, "die": ["loss", 7, 9]}, ...]'

carries out the jobs one after another, each in a forked process of its own, and prints their exit codes as JSON.
Forking from a process that has one thread and has imported torch makes dozens of deaths cheap.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.data.batch import Batch, Query
from guiderec.data.loader import Loader
from guiderec.data.sequences import Rows, Sequences
from guiderec.models.base import EmbeddingRecommender, ModelConfig
from guiderec.rng import Noise, seed_everything
from guiderec.training.loop import GiveUp, Outcome, Training, fit

N_ITEMS = 30
LENGTH = 4


class TinyConfig(ModelConfig):
    name: Literal["tiny"] = "tiny"
    dim: int = 8
    dropout: float = 0.2
    jitter: float = 0.1


class Tiny(EmbeddingRecommender):
    """Scores from the last item alone. Draws from torch (dropout) and from the noise (jitter)."""

    Config = TinyConfig

    def __init__(self, config: TinyConfig, n_items: int = N_ITEMS) -> None:
        super().__init__(config, n_items)
        self.items = nn.Embedding(n_items + 1, config.dim)
        self.next = nn.Linear(config.dim, config.dim)
        self.drop = nn.Dropout(config.dropout)
        self.never_used = nn.Parameter(torch.ones(3))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.computed_in: set[torch.dtype] = set()

    def prepare(self, train: Sequences) -> None:
        self.seen = torch.tensor(len(train.items))

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        vectors = self.next(self.drop(self.items(query.history[:, -1])))
        self.computed_in.add(vectors.dtype)
        return vectors.float()[:, None]

    def item_vectors(self) -> Tensor:
        return self.items.weight

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        jitter = self.config.jitter * noise.normal(batch.key, self.n_items + 1, "jitter")
        softmax = F.cross_entropy(self.scores(batch, noise) + jitter, batch.target)
        size = self.items(batch.target).square().sum(dim=1).mean()
        return {"loss": softmax + 1e-3 * size, "softmax": softmax, "size": size}


def make_rows(n: int = 101, *, rule: bool = True, seed: int = 0) -> Rows:
    """`n` rows. With the rule, item j is followed by j + 1, and the last by 1; without it, by anything."""
    generator = np.random.default_rng(seed)
    starts = generator.integers(0, N_ITEMS, n)
    lists = (starts[:, None] + np.arange(LENGTH)) % N_ITEMS + 1
    if not rule:
        lists[:, -1] = generator.integers(1, N_ITEMS + 1, n)
    return Rows.last_items(Sequences.from_lists(list(lists)))


def recall(model: Tiny, rows: Rows, k: int) -> float:
    batch = next(Loader(rows, batch_size=len(rows), max_length=LENGTH, shuffle=False).batches(0)).to(model.device)
    top = model.scores(batch, Noise(0))[:, 1:].topk(k).indices + 1
    return (top == batch.target[:, None]).any(dim=1).float().mean().item()


def validate(model: Any) -> Mapping[str, float]:
    """Consumes random numbers on purpose: training must not notice."""
    torch.rand(7)
    valid = make_rows(64, seed=1)
    return {"recall@1": recall(model, valid, 1), "recall@5": recall(model, valid, 5)}


def train(
    run: Path,
    training: Training,
    *,
    resume: bool = False,
    config: TinyConfig | None = None,
    rows: Rows | None = None,
    check: Callable[[Any], Mapping[str, float]] = validate,
    model: Any = None,
    give_up: GiveUp | None = None,
) -> tuple[Tiny, Outcome]:
    """Train a new model, initialised from seed 0, unless one is given."""
    seed_everything(0)
    model = Tiny(config or TinyConfig()) if model is None else model
    loader = Loader(rows or make_rows(), batch_size=training.batch_size, max_length=LENGTH, seed=5)
    return model, fit(model, loader, check, training, run, seed=3, give_up=give_up, resume=resume, progress=False)


# --------------------------------------------------------------------------------------------- dying where one is told


def die(where: str, count: int, signal_number: int) -> None:
    """Arrange that this process sends itself a signal at the `count`-th time it comes to `where`."""
    owner, name = {
        "loss": (Tiny, "loss"),  # in the middle of a step
        "optimizer": (torch.optim.AdamW, "step"),
        "replace": (Path, "replace"),  # a file of a checkpoint is complete, but not yet in its place
        "remove": (Path, "unlink"),  # a checkpoint is complete, the files of the one before are still there
        "validation": (sys.modules[__name__], "recall"),
    }[where]
    original = getattr(owner, name)
    calls = 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal_number)
        return original(*args, **options)

    setattr(owner, name, counted)


def work(job: dict[str, Any]) -> int:
    """Carry out one job; the exit code is 130 after KeyboardInterrupt, as a shell has it."""
    if "die" in job:
        die(*job["die"])
    try:
        train(
            Path(job["run"]),
            Training(**job["training"]),
            resume=job.get("resume", False),
            config=TinyConfig(**job.get("model", {})),
        )
    except KeyboardInterrupt:
        return 130
    return 0


def in_child(job: dict[str, Any]) -> int:
    """Exit code of the job in a process of its own; minus the number of the signal that killed it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work(job)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    jobs = json.loads(sys.argv[1])
    if "WORLD_SIZE" in os.environ:  # under torchrun: one job, in this process
        sys.exit(work(jobs[0]))
    with tempfile.TemporaryDirectory() as folder:  # so that each child need not import what torch imports on first use
        train(Path(folder), Training(batch_size=50, epochs=1))
    print(json.dumps([in_child(job) for job in jobs]))

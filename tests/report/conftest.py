"""Small run directories with the real record format, written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

PROTOCOL = {"name": "user_split", "train": 0.8, "valid": 0.1, "test": 0.1}
FINGERPRINT = {"users": 400, "items": 1200, "interactions": 5200, "sha256": "5f" * 32}

MakeRun = Callable[..., Path]


def metric_table(ranks: np.ndarray, cutoffs: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Means of recall and NDCG over the ranks with the normal interval; enough for a record."""
    values = {}
    for k in cutoffs:
        hit = (ranks <= k).astype(float)
        for name, each in ((f"recall@{k}", hit), (f"ndcg@{k}", hit / np.log2(ranks + 1))):
            half = 1.96 * each.std() / np.sqrt(len(each))
            mean = each.mean()
            values[name] = {"mean": float(mean), "low": float(max(mean - half, 0.0)), "high": float(mean + half)}
    return values


def write_run(
    path: Path,
    *,
    model: str = "steerrec",
    seed: int = 0,
    epochs: int = 12,
    skill: float = 0.05,
    n_rows: int = 400,
    parts: tuple[str, ...] = ("test",),
    data: dict[str, Any] | None = None,
    both_ways: bool = False,
    mmd2: float | None = None,
) -> Path:
    """A run whose targets are ranked by a skewed law: the higher `skill`, the nearer to the top.

    `both_ways`: with the ranks where seen items are masked, one place better where they can be. `mmd2`: with generated
    vectors for the test part, and this as their recorded discrepancy.
    """
    random = np.random.default_rng(seed + round(1e6 * skill))
    path.mkdir(parents=True)
    experiment = {
        "recipe": f"{model}:demo",
        "model": {"name": model, "dim": 64},
        "training": {"metric": "recall@5", "epochs": epochs},
        "max_length": 10,
        "seed": seed,
    }
    data = data or {
        "name": "planted/user-split",
        "protocol": PROTOCOL,
        "fingerprint": FINGERPRINT,
        "rows": {"train": 3600, "valid": 400, "test": 400},
    }
    environment = {
        "guiderec": "0.1.0",
        "python": "3.12.3",
        "torch": "2.13.0",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "hardware": {"cpu": "Example CPU", "cores": 2, "memory_gib": 7.8, "gpu": None},
        "threads": 2,
        "started": "2025-03-01T09:00:00+00:00",
    }
    for name, record in (("experiment", experiment), ("data", data), ("environment", environment)):
        (path / f"{name}.json").write_text(json.dumps(record))

    events: list[dict[str, Any]] = [{"event": "start", "epoch": 0, "step": 0, "seconds": 0.0}]
    curve = [
        float(v) for v in (0.002 + skill * (1 - np.exp(-e / 4)) - 0.0004 * max(0, e - 9) for e in range(1, epochs + 1))
    ]
    for epoch in range(1, epochs + 1):
        loss = 0.4 + 3 * np.exp(-epoch / 5)
        for half in (1, 2):
            step = 20 * (epoch - 1) + 10 * half
            part = {"reconstruction": 0.7 * loss, "preference": 0.3 * loss}
            events.append({"event": "step", "epoch": epoch, "step": step, "seconds": step / 10, "loss": loss, **part})
        value = float(curve[epoch - 1])
        best = value == max(curve[:epoch])
        metrics = {"recall@5": value, "ndcg@5": 0.7 * value}
        events.append({"event": "validation", "epoch": epoch, "step": 20 * epoch, "metrics": metrics, "best": best})
    if epochs:
        best_epoch = int(np.argmax(curve)) + 1
        stop = {"reason": "epochs", "best_epoch": best_epoch, "best_step": 20 * best_epoch, "seconds": 75.2}
        events.append({"event": "stop", "epoch": epochs, "step": 20 * epochs, **stop})
    (path / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))

    (path / "evaluation").mkdir()
    for part in parts:
        ranks = np.ceil(1200 * random.random(n_rows) ** (1 + 60 * skill)).astype(np.int64).clip(1, 1200)
        record = {
            "part": part,
            "n_rows": n_rows,
            "seen": "keep",
            "cutoffs": [5, 10],
            "metrics": metric_table(ranks, (5, 10)),
            "beyond": {"coverage@10": 0.31, "novelty@10": 9.25, "popularity@10": 0.004},
            "noise_seed": 0,
            "seconds": 1.5,
        }
        if both_ways:
            metrics = metric_table(np.maximum(ranks - 1, 1), (5, 10))
            record["otherwise"] = {"seen": "mask", "metrics": metrics, "groups": {}}
        (path / "evaluation" / f"{part}.json").write_text(json.dumps(record))
        rows = pl.DataFrame(
            {"user": np.arange(n_rows), "rank": ranks, "history_length": random.integers(1, 20, n_rows)}
        )
        rows.write_parquet(path / "evaluation" / f"{part}.parquet")
    if mmd2 is not None:
        write_vectors(path, mmd2, n_rows, random)
    return path


def write_vectors(path: Path, mmd2: float, n_rows: int, random: np.random.Generator) -> None:
    """True vectors around one point, generated ones around another."""
    (path / "distribution").mkdir()
    record = {"part": "test", "n_rows": n_rows, "mmd2": mmd2, "p": 0.001, "median_distance": 1.25, "interests": 1}
    (path / "distribution" / "test.json").write_text(json.dumps(record))
    centre = np.array([4.0, 0, 0, 0, 0, 0])
    vectors = {
        "generated": (random.normal(size=(n_rows, 6)) - centre).astype(np.float32),
        "items": (random.normal(size=(31, 6)) + centre).astype(np.float32),
        "target": random.integers(1, 31, n_rows),
        "user": np.arange(n_rows),
        "key": np.arange(n_rows) << 20,
    }
    save_file(vectors, path / "distribution" / "test.safetensors")


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(name: str = "run", **options: Any) -> Path:
        return write_run(tmp_path / name, **options)

    return make


@pytest.fixture(autouse=True, scope="session")
def small_figures() -> Iterator[None]:
    """Coarse pixels: the same drawing in less time."""
    from guiderec.report import figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "DPI", 70)
        yield

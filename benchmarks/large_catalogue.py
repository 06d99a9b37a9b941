"""Very large catalogues: exact ranking in blocks against an index, through the same call, on one thread each.

    python benchmarks/large_catalogue.py [--items 1000000] [--width 128] [--k 100] [--recall 0.99] [--out FILE]
    python benchmarks/large_catalogue.py --items 10000000 --out large-catalogue-10M.json

For each kind of vectors, in a process of its own: make the vectors, build the index, choose its effort on one set of
users (`ItemIndex.tuned`), and measure recall and time on another. Both sides are `ranking.top_k`, without and with
`model.index`, in turns; times are the best of `--repeats`, per user, for a batch and for one user at a time.

clustered        items in I / 250 clusters of unequal sizes. Direction: centre + 0.7 x noise, both with variances that
                 fall as 1 / i over rotated axes, as those of embeddings do; length exp(0.25 x normal), as popularity
                 gives. Users are drawn like items, without the length.
structureless    items and users N(0, I): no index can do well here, and this says how badly.

Memory at 10 million items and D = 128: 4.8 GiB of vectors, and 10.4 GiB at the peak.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guiderec.data.batch import Query
from guiderec.errors import ConfigError
from guiderec.evaluation.index import ItemIndex, exact_items, recall_of
from guiderec.evaluation.ranking import top_k
from guiderec.models.base import EmbeddingRecommender, ModelConfig
from guiderec.rng import Noise

BLOCK = 1 << 18
KINDS = ("clustered", "structureless")


class Vectors(EmbeddingRecommender):
    """Users (B, 1, D), chosen by the first item of a history, and items (I + 1, D)."""

    def __init__(self, users: Tensor, items: Tensor) -> None:
        super().__init__(ModelConfig(name="vectors"), len(items) - 1)
        self.users, self.items = users, items

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """Users by key."""
        return self.users[query.key]

    def item_vectors(self) -> Tensor:
        """All items."""
        return self.items


def make(kind: str, items: int, users: int, width: int) -> tuple[Tensor, Tensor]:
    """Items (I + 1, D) and users (B, 1, D), made in blocks."""
    random = np.random.default_rng(0)
    draw = _clustered(random, items, width) if kind == "clustered" else _structureless(random, width)
    table = torch.empty(items + 1, width)
    for first in range(0, items + 1, BLOCK):
        block = table[first : first + BLOCK]
        lengths = np.exp(0.25 * random.standard_normal((len(block), 1))) if kind == "clustered" else 1.0
        block.copy_(torch.from_numpy((draw(len(block)) * lengths).astype(np.float32)))
    return table, torch.from_numpy(draw(users)[:, None].copy())


def _structureless(random: np.random.Generator, width: int) -> Callable[[int], np.ndarray]:
    return lambda n: random.standard_normal((n, width), dtype=np.float32)


def _clustered(random: np.random.Generator, items: int, width: int) -> Callable[[int], np.ndarray]:
    spread = (1.0 / np.sqrt(1 + np.arange(width))).astype(np.float32)
    axes = np.linalg.qr(random.standard_normal((width, width)))[0].astype(np.float32)
    clusters = max(100, items // 250)
    centres = random.standard_normal((clusters, width), dtype=np.float32) * spread
    share = np.cumsum(1.0 / (10 + np.arange(clusters)))

    def draw(n: int) -> np.ndarray:
        cluster = np.searchsorted(share, random.random(n) * share[-1])
        points = centres[cluster] + 0.7 * spread * random.standard_normal((n, width), dtype=np.float32)
        return (points / np.linalg.norm(points, axis=1, keepdims=True)) @ axes

    return draw


def measure(kind: str, items: int, users: int, width: int, k: int, recall: float, repeats: int) -> dict[str, Any]:
    """Everything about one kind of vectors."""
    torch.set_num_threads(1)
    table, everybody = make(kind, items, 2 * users, width)
    model = Vectors(everybody[:users], table)
    started = time.perf_counter()
    index = ItemIndex.build(table)
    built = time.perf_counter() - started
    truth = exact_items(table, model.users, k)
    result = {"lists": index.n_lists, "build_seconds": round(built, 1), "index_mib": round(index.lists.nbytes / 2**20)}
    try:
        efforts = [index.tuned(everybody[users:], k=k, recall=recall)]
    except ConfigError as error:
        result["tuned"] = str(error)
        efforts = [index.with_effort(max(1, index.n_lists // share), 40) for share in (64, 8, 1)]
    result["efforts"] = [compare(model, tried, truth, k, repeats) for tried in efforts]
    result["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    return result


def compare(model: Vectors, index: ItemIndex, truth: Tensor, k: int, repeats: int) -> dict[str, Any]:
    """Recall of one effort, and milliseconds per user of both sides, measured in turns."""
    everyone = Query(torch.ones(len(model.users), 1, dtype=torch.int64), torch.arange(len(model.users)))
    alone = [everyone.rows(slice(user, user + 1)) for user in range(8)]
    asked = {"batch": [everyone], "one at a time": alone}
    best: dict[str, dict[str, float]] = {what: {"exact": math.inf, "index": math.inf} for what in asked}
    found = truth
    for _ in range(repeats):
        for what, queries in asked.items():
            for side in ("exact", "index"):
                model.index = index if side == "index" else None
                started = time.perf_counter()
                lists = [top_k(model, query, k, Noise(0))[1] for query in queries]
                spent = 1e3 * (time.perf_counter() - started) / sum(map(len, queries))
                best[what][side] = min(best[what][side], spent)
                if what == "batch" and side == "index":
                    found = lists[0]
    times = {
        what: {
            "exact_ms": round(t["exact"], 3),
            "index_ms": round(t["index"], 3),
            "times_faster": round(t["exact"] / t["index"], 1),
        }
        for what, t in best.items()
    }
    return {"probes": index.probes, "refine": index.refine, f"recall@{k}": round(recall_of(found, truth), 4), **times}


def main() -> None:
    """Measure the kinds one after another and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=256, help="measured; as many more choose the effort")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--recall", type=float, default=0.99)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, help="also write the result here")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = {name: getattr(options, name) for name in ("items", "users", "width", "k", "recall", "repeats")}
    if options.kind:
        print(json.dumps(measure(options.kind, **sizes)))
        return
    record = {
        **sizes,
        "torch": torch.__version__,
        "threads": 1,
        "cpu": platform.processor() or platform.machine(),
        "results": {kind: _in_own_process(kind, sizes) for kind in options.kinds},
    }
    print(json.dumps(record, indent=2))
    if options.out:
        options.out.write_text(json.dumps(record, indent=2) + "\n")


def _in_own_process(kind: str, sizes: dict[str, Any]) -> dict[str, Any]:
    arguments = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # of FAISS, and of the matrix products
    command = [sys.executable, __file__, "--kind", kind, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{kind}: exit status {done.returncode} (a killed process has run out of memory)")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    main()

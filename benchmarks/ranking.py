"""Peak memory and time of ranking B users against I items: blocks with a running top-k against the full score matrix.

    python benchmarks/ranking.py [--users 512] [--items 1000000] [--width 128] [--k 100]

Each side runs in a process of its own, since a peak can be read but not reset. Memory is the rise of the peak resident
size above the size after the vectors exist; time is the best of `--repeats`. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guiderec.data.batch import Query
from guiderec.evaluation.ranking import BLOCK_SCORES, ranks_both_ways, top_k
from guiderec.models.base import EmbeddingRecommender, ModelConfig
from guiderec.rng import Noise

MIB = 2**20


class Vectors(EmbeddingRecommender):
    """Random users (B, 1, D) and items (I + 1, D)."""

    def __init__(self, users: int, items: int, width: int) -> None:
        super().__init__(ModelConfig(name="vectors"), items)
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("users", torch.randn(users, 1, width, generator=generator))
        self.register_buffer("items", torch.randn(items + 1, width, generator=generator))

    users: Tensor
    items: Tensor

    def user_vectors(self, query: Query, noise: Noise) -> Tensor:
        """All users."""
        return self.users

    def item_vectors(self) -> Tensor:
        """All items."""
        return self.items


def measure(side: str, users: int, items: int, width: int, k: int, repeats: int) -> dict[str, object]:
    """Seconds, rise of the peak in MiB, and the lists (B, k)."""
    model = Vectors(users, items, width)
    query = Query(torch.ones(users, 1, dtype=torch.int64), torch.arange(users))
    target = torch.randint(1, items + 1, (users,), generator=torch.Generator().manual_seed(1))

    def full() -> Tensor:
        with torch.inference_mode():
            scores = model.users[:, 0] @ model.items.T
            scores[:, 0] = -torch.inf
            return scores.topk(k, dim=1).indices

    sides: dict[str, Callable[[], Tensor]] = {
        "blocks": lambda: top_k(model, query, k, Noise(0))[1],
        "blocks with target ranks": lambda: ranks_both_ways(
            model, query, target, k, Noise(0), seen=query.history, listed="keep"
        )[1],
        "full matrix": full,
    }
    before = _resident()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        listed = sides[side]()
        seconds.append(time.perf_counter() - started)
    return {
        "seconds": round(min(seconds), 3),
        "peak_rise_mib": round((_peak() - before) / MIB, 1),
        "lists": listed.tolist(),
    }


def main() -> None:
    """Measure the sides one after another and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("users", 512), ("items", 1_000_000), ("width", 128), ("k", 100), ("repeats", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = {name: value for name, value in vars(options).items() if name != "side"}
    if options.side:
        print(json.dumps(measure(options.side, **sizes)))
        return
    results = {side: _in_own_process(side, sizes) for side in ("blocks", "blocks with target ranks", "full matrix")}
    lists = {side: torch.tensor(result.pop("lists")) for side, result in results.items()}
    blocks, full = results["blocks"], results["full matrix"]
    record = {
        **sizes,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "block_mib": BLOCK_SCORES * 4 / MIB,
        "full_matrix_mib": round(sizes["users"] * (sizes["items"] + 1) * 4 / MIB, 1),
        "results": results,
        "ratio_full_to_blocks": {
            "memory": round(full["peak_rise_mib"] / blocks["peak_rise_mib"], 2),
            "time": round(full["seconds"] / blocks["seconds"], 2),
        },
        # The two products may round differently, which swaps neighbours whose scores differ in the last digit.
        "share_of_equal_places": float((lists["blocks"] == lists["full matrix"]).float().mean()),
    }
    print(json.dumps(record, indent=2))


def _in_own_process(side: str, sizes: dict[str, int]) -> dict[str, Any]:
    arguments = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, __file__, "--side", side, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side}: exit status {done.returncode} (a killed process has run out of memory)\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _peak() -> int:
    """Peak resident size of this process in bytes (Linux counts in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _resident() -> int:
    """Resident size now; where the system does not tell, the peak so far."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else _peak()


if __name__ == "__main__":
    main()

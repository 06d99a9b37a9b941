"""Ranking with AlignDiff: the library against a plain loop over the same network, weights and noise. Prints JSON.

    python benchmarks/aligndiff_ranking.py [--rows 512] [--batch 256] [--items 12101] [--threads 2] [--device cpu]

Both sides generate an embedding for every history through all T steps, with guidance and a correction at each step, and
list the 20 best of all items. The plain loop pads every history to `--length`, and computes at every step, in two
passes, everything that the paper writes down: h from attention of all positions, the gated history, all positions of
all blocks. It is given what would only make it slower: the matrices U and V once for all batches, fused attention, and
noise that was drawn beforehand, while ours draws its own in the time that is measured.

Cases      amazon   lengths distributed as those of the test histories of Amazon Beauty (leave-one-out; mean 7.7 items)
           full     every history as long as the window, so that no padding can be saved
Limits     `arithmetic` is the plain loop's multiply-adds over ours: the speed-up at equal rates. `without_padding` is
           the same with every row in a batch of its own length: what buckets could give at best. `matmul_rate_share`
           says how near ours is to the best rate of the blocks' own matrix products on this machine.

Sides take turns, `--repeat` times each, and the fastest run of each counts. One batch of each goes first, untimed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from guiderec.data.batch import Query
from guiderec.evaluation.ranking import top_k
from guiderec.models.aligndiff import AlignDiff, AlignDiffConfig
from guiderec.nn.buckets import by_length
from guiderec.rng import Noise, seed_everything, subkeys
from guiderec.training.memory import keep_freed_memory

K = 20
NOISE = Noise(0)
QUANTILES = {0: 4, 0.3: 4, 0.4: 5, 0.5: 5, 0.6: 6, 0.7: 7, 0.8: 9, 0.9: 13, 0.95: 20, 0.99: 42, 1: 50}
"""Share of the test users of Amazon Beauty -> length of their histories, cut at 50."""

# ------------------------------------------------------------------------------------------------ the requests


def lengths_of(case: str, rows: int, longest: int) -> Tensor:
    """(B,) lengths, in random order."""
    if case == "full":
        return torch.full((rows,), longest)
    shares, values = list(QUANTILES), list(QUANTILES.values())
    found = []
    for row in range(rows):
        share = (row + 0.5) / rows
        above = next(i for i, edge in enumerate(shares) if edge >= share)
        part = (share - shares[above - 1]) / (shares[above] - shares[above - 1])
        found.append(round(values[above - 1] + part * (values[above] - values[above - 1])))
    lengths = torch.tensor(found).clamp(max=longest)
    return lengths[torch.randperm(rows, generator=torch.Generator().manual_seed(0))]


def requests(case: str, options: argparse.Namespace) -> list[Query]:
    """Batches of histories (B, L), padded on the left."""
    lengths = lengths_of(case, options.rows, options.length)
    generator = torch.Generator().manual_seed(1)
    history = torch.randint(1, options.items + 1, (options.rows, options.length), generator=generator)
    history[torch.arange(options.length) < options.length - lengths[:, None]] = 0
    query = Query(history=history, key=torch.arange(options.rows)).to(options.device)
    return [query.rows(slice(start, start + options.batch)) for start in range(0, options.rows, options.batch)]


# ------------------------------------------------------------------------------------------------ the plain loop


class Plain:
    """The generation of AlignDiff as one would write it from the paper, with the weights of a model."""

    def __init__(self, model: AlignDiff) -> None:
        self.model = model
        assert model.levels is not None
        self.u, self.v = model.levels.query_levels(), model.levels.key_levels()
        self.drawn: dict[int, tuple[Tensor, list[Tensor], list[Tensor]]] = {}

    def draw(self, query: Query) -> None:
        """x_T, lambda of every step and the noise of every step, as the library names them."""
        model, length = self.model, query.history.shape[1]
        dim, mixing = model.config.dim, model.config.mixing
        place = torch.arange(length - 1, -1, -1, device=query.key.device)
        mixed, spread = [], []
        for step in model.steps:
            t = torch.full_like(query.key, step.t)
            keys = subkeys(subkeys(query.key, t)[:, None], place)
            mixed.append(mixing + mixing * NOISE.normal(keys.flatten(), dim, "lambda").view(len(query), length, dim))
            spread.append(NOISE.normal(query.key, dim, f"step/{step.t}"))
        self.drawn[id(query)] = NOISE.normal(query.key, dim, "x_T"), mixed, spread

    def __call__(self, query: Query) -> Tensor:
        """(B, D) for a request that was drawn for."""
        x, mixed, spread = self.drawn[id(query)]
        correction, w = self.model.config.energy.correction, self.model.config.guidance.scale
        for number, step in enumerate(self.model.steps):
            t = torch.full_like(query.key, step.t)
            liked = self.prediction(query, x, t, mixed[number], conditional=True)
            free = self.prediction(query, x, t, mixed[number], conditional=False)
            x0 = self.model.denoiser.norm((1 + w) * liked - w * free)
            for _ in range(correction.steps):
                x0 = x0 - correction.step_size * self.slope(x0)
            x = step.keep * x + step.move * x0 + step.spread * spread[number]
        return x

    def prediction(self, query: Query, x: Tensor, t: Tensor, mixed: Tensor, *, conditional: bool) -> Tensor:
        """(B, D) before the final norm."""
        model, mask = self.model, query.mask
        items = model.items(query.history)
        z = model.item_norm(items)
        if conditional:
            z = z + self.guidance(items, mask)[:, -1:] * z
        time = model.denoiser.time(t * (1000.0 / model.schedule.T))
        z = z + mixed * (x + time)[:, None]
        visible = mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
        for block in model.denoiser.blocks:
            z = block(z, visible)
        return z[:, -1]

    def guidance(self, items: Tensor, mask: Tensor) -> Tensor:
        """H (B, L, D), Eq. 3 and 4 at every position."""
        levels = self.model.levels
        assert levels is not None
        x = items + levels.positions(mask)
        batch, length, dim = x.shape
        heads = (batch, length, levels.heads, dim // levels.heads)
        query = (levels.query(x) @ self.u).view(heads).transpose(1, 2)
        key = (levels.key(x) @ self.v).view(heads).transpose(1, 2)
        seen = mask[:, None, None, :] & torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        logits = query @ key.transpose(2, 3) / math.sqrt(heads[3])
        weights = logits.masked_fill(~seen, torch.finfo(x.dtype).min).softmax(dim=-1)
        y = x + weights.sum(dim=1) @ levels.value(x)
        return levels.norm(y + levels.outer(F.relu(levels.inner(y))))

    def slope(self, x: Tensor) -> Tensor:
        """The gradient of the energy."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.model.energy(x).sum(), x)
        return slope


# ------------------------------------------------------------------------------------------------ the arithmetic


def of_blocks(config: AlignDiffConfig, length: int, *, newest_only: bool) -> int:
    """Multiply-adds of one pass of one row through the blocks."""
    d = config.dim
    block = 12 * length * d**2 + 2 * length**2 * d
    last = 2 * length * d**2 + 10 * d**2 + 2 * length * d if newest_only else block
    return (config.layers - 1) * block + last


def of_plain(config: AlignDiffConfig, length: int) -> int:
    """Multiply-adds of one step of one row in the plain loop: two passes, guidance once, the rest is small."""
    d = config.dim
    guidance = 7 * length * d**2 + 2 * length**2 * d
    return 2 * (of_blocks(config, length, newest_only=False) + 8 * d**2) + guidance + of_energy(config)


def of_ours(config: AlignDiffConfig, length: int) -> int:
    """Multiply-adds of one step of one row in a bucket of this length; what is done once per chain is left out."""
    return 2 * of_blocks(config, length, newest_only=True) + of_energy(config)


def of_energy(config: AlignDiffConfig) -> int:
    """Forward and backward through three hidden layers."""
    return 2 * 10 * config.dim**2


def gflop(config: AlignDiffConfig, batches: list[Query]) -> dict[str, float]:
    """2 FLOP per multiply-add, all steps and rows."""
    steps = 2e-9 * config.schedule.steps
    buckets = [bucket for query in batches for bucket in by_length(query.mask)]
    lengths = [length for query in batches for length in query.length.tolist()]
    return {
        "plain": steps * sum(len(query) * of_plain(config, query.history.shape[1]) for query in batches),
        "ours": steps * sum(len(bucket.rows) * of_ours(config, bucket.length) for bucket in buckets),
        "ours_without_padding": steps * sum(of_ours(config, length) for length in lengths),
    }


def matmul_rate(options: argparse.Namespace, rows: int) -> float:
    """GFLOP/s of the products of a feed-forward layer at this number of positions, the best of ten."""
    d = options.dim
    x, expand, contract = (torch.randn(*shape, device=options.device) for shape in ((rows, d), (d, 4 * d), (4 * d, d)))
    best = min(timed(lambda: x @ expand @ contract, options.device)[1] for _ in range(10))
    return 2e-9 * rows * 8 * d**2 / best


# ------------------------------------------------------------------------------------------------ measuring


def timed(work: Callable[[], Any], device: str) -> tuple[Any, float]:
    """The result and the wall-clock seconds."""
    synchronise(device)
    begun = time.perf_counter()
    result = work()
    synchronise(device)
    return result, time.perf_counter() - begun


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def measure(model: AlignDiff, case: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of both sides on one case, and whether they agree."""
    batches, plain = requests(case, options), Plain(model)
    table = model.item_vectors()[1:]
    for query in batches:
        plain.draw(query)

    def by_loop() -> list[Tensor]:
        return [(plain(query) @ table.T).topk(K).indices + 1 for query in batches]

    def by_library() -> list[Tensor]:
        return [top_k(model, query, K, NOISE)[1] for query in batches]

    usual, ours = plain(batches[0]), model.user_vectors(batches[0], NOISE)[:, 0]
    difference = float((usual - ours).abs().max() / usual.abs().max())
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(options.repeat):
        loop_lists, taken = timed(by_loop, options.device)
        seconds["plain"].append(taken)
        lists, taken = timed(by_library, options.device)
        seconds["ours"].append(taken)
    best = {side: min(runs) for side, runs in seconds.items()}
    work = gflop(model.config, batches)
    positions = sum(int(len(bucket.rows) * bucket.length) for bucket in by_length(batches[0].mask))
    rate = matmul_rate(options, 2 * positions)
    return {
        "mean_length": float(torch.cat([query.length for query in batches]).double().mean()),
        "seconds": seconds,
        "rows_per_second": {side: options.rows / taken for side, taken in best.items()},
        "speedup": best["plain"] / best["ours"],
        "limit": {
            "arithmetic": work["plain"] / work["ours"],
            "without_padding": work["plain"] / work["ours_without_padding"],
            "matmul_gflop_per_second": rate,
            "matmul_rate_share": {side: work[side] / taken / rate for side, taken in best.items()},
        },
        "gflop": work,
        "largest_relative_difference": difference,
        "share_of_equal_places": float((torch.cat(lists) == torch.cat(loop_lists)).double().mean()),
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"rows": 512, "batch": 256, "items": 12_101, "length": 50, "dim": 128, "layers": 4, "repeat": 3}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=int, default=32, help="T, all of which are made")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", nargs="+", choices=["amazon", "full"], default=["amazon", "full"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    seed_everything(0)
    config = AlignDiffConfig.from_plain(
        {
            "dim": options.dim,
            "layers": options.layers,
            "max_length": options.length,
            "schedule": {"name": "trunc_lin", "steps": options.steps},
        }
    )
    model = AlignDiff(config, options.items).to(options.device).eval()
    load = os.getloadavg()[0]
    report = {
        **vars(options),
        "torch": torch.__version__,
        "load_average_before": load,
        "results": {case: measure(model, case, options) for case in options.cases},
        "load_average_after": os.getloadavg()[0],
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

"""Seconds per training step of SteerRec against a plain implementation and against the machine's matrix products.

    python benchmarks/training_step.py --dim 3072 --batch 256 --length 10 --items 12101

Prints one JSON object. A step is loss, backward and AdamW on random histories. The plain rival computes the same loss
in the layout of PreferDiff's public code: queries, keys, values and feed-forward layers at all positions, the denoiser
as one Linear on [x_t ; c ; time(t)] called once per condition, torch's AdamW over lists of tensors. Every contender
runs in its own process, so that what one does to the memory allocator does not reach the other.

Work       ours 13 B d^2 multiply-adds forward: 5 in the encoder, 5 in the time network and its layer, 1 for the state,
           2 for the conditions; the plain one 5 L B d^2 + 14 B d^2. Backward is twice as much; 2 FLOP each.
Limit      the best rate of a few matrix products in the same precision, in the same process as ours.

Wall-clock on a shared machine says little, so CPU seconds (of all threads) are given too, and the load average. They
count waiting at barriers as well: on a busy machine only `--threads 1` is to be trusted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.data.batch import Batch
from guiderec.diffusion.generation import Generation
from guiderec.diffusion.schedule import Linear
from guiderec.models.steerrec import SteerRec, SteerRecConfig
from guiderec.rng import Noise, seed_everything
from guiderec.training.memory import keep_freed_memory
from guiderec.training.optim import adamw

Step = Callable[[int], None]
T = 1200

# ------------------------------------------------------------------------------------------------ the plain rival


class PlainBlock(nn.Module):
    """One block over all positions, padded after the history, as in the public code."""

    def __init__(self, dim: int, length: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.positions = nn.Embedding(length, dim)
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.inner, self.outer = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """(B, L, D), (B,) -> the state of the last item (B, D)."""
        batch, length, dim = vectors.shape
        place = torch.arange(length)
        mask = (place < lengths[:, None]).to(vectors.dtype)[:, :, None]
        x = self.dropout(vectors + self.positions(place)) * mask
        normed = self.norms[0](x)
        q, k, v = (
            torch.cat(layer(states).chunk(self.heads, dim=2), dim=0)
            for layer, states in ((self.query, normed), (self.key, x), (self.value, x))
        )
        logits = q @ k.transpose(1, 2) / math.sqrt(dim)
        seen = mask[:, None, :, 0].bool() & (place <= place[:, None])
        weights = logits.masked_fill(~seen.repeat(self.heads, 1, 1), -(2.0**32) + 1).softmax(dim=-1)
        mixed = torch.cat((self.dropout(weights) @ v).chunk(self.heads, dim=0), dim=2)
        x = x + mixed * mask + normed
        inside = self.norms[1](x)
        x = x + self.norms[2](inside + self.dropout(self.outer(F.relu(self.inner(inside))))) * mask
        return self.norms[3](x)[torch.arange(batch), lengths - 1]


class Plain(nn.Module):
    """SteerRec's Algorithm 1 without any rearrangement."""

    def __init__(self, dim: int, length: int, items: int, *, heads: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        self.dim = dim
        self.items = nn.Embedding(items + 1, dim)
        self.null = nn.Embedding(1, dim)
        self.block = PlainBlock(dim, length, heads, dropout)
        self.time = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.denoiser = nn.Linear(3 * dim, dim)
        self.register_buffer("alpha_bar", torch.cumprod(1 - torch.linspace(1e-4, 0.02, T), dim=0))

    def denoise(self, x: Tensor, condition: Tensor, t: Tensor) -> Tensor:
        """(B, D), (B, D), (B,) -> (B, D)."""
        half = self.dim // 2
        frequency = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
        angle = t[:, None].float() * frequency
        time_embedding = self.time(torch.cat([angle.sin(), angle.cos()], dim=1))
        return self.denoiser(torch.cat([x, condition, time_embedding], dim=1))

    def loss(self, history: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """The loss of (B, L) histories padded after their items, of these lengths (B,)."""
        batch = len(target)
        condition = self.block(self.items(history), lengths)
        dropped = torch.rand(batch, 1) < 0.1
        condition = torch.where(dropped, self.null(torch.zeros(batch, dtype=torch.int64)), condition)
        x0 = self.items(target)
        others = (target[:, None] != target).to(x0.dtype)
        negative = others @ x0 / others.sum(dim=1, keepdim=True)
        t = torch.randint(0, T, (batch,))
        level = self.alpha_bar[t][:, None]
        x_t = level.sqrt() * x0 + (1 - level).sqrt() * torch.randn_like(x0)
        positive = 1 - F.cosine_similarity(self.denoise(x_t, condition, t), x0)
        alignment = F.relu(positive - (1 - F.cosine_similarity(self.denoise(x_t, negative, t), x0)) + 0.1)
        alignment = (alignment * ~dropped[:, 0]).sum() / (~dropped).sum()
        return 0.8 * positive.mean() + 0.2 * alignment


# ------------------------------------------------------------------------------------------------ contenders


def autocast(precision: str) -> contextlib.AbstractContextManager[Any]:
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)


def rows(options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Histories (B, L) of 4 to L items padded on the left, their lengths, and targets."""
    generator = torch.Generator().manual_seed(0)
    size = (options.batch, options.length)
    lengths = torch.randint(min(4, options.length), options.length + 1, size[:1], generator=generator)
    history = torch.randint(1, options.items + 1, size, generator=generator)
    history[torch.arange(options.length) < options.length - lengths[:, None]] = 0
    return history, lengths, torch.randint(1, options.items + 1, size[:1], generator=generator)


def ours(options: argparse.Namespace) -> Step:
    keep_freed_memory()
    config = SteerRecConfig(
        dim=options.dim, max_length=options.length, schedule=Linear(steps=T), generation=Generation(steps=10)
    )
    model = SteerRec(config, options.items).train()
    optimizer = adamw(model, learning_rate=1e-4, weight_decay=0.0, betas=(0.9, 0.999))
    history, _, target = rows(options)
    batch = Batch(history=history, key=torch.arange(options.batch), target=target)

    def step(number: int) -> None:
        optimizer.zero_grad()
        with autocast(options.precision):
            loss = model.loss(batch, Noise(0).at(number))["loss"]
        loss.backward()
        optimizer.step()

    return step


def plain(options: argparse.Namespace) -> Step:
    model = Plain(options.dim, options.length, options.items).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, foreach=True)
    history, lengths, target = rows(options)
    after = torch.stack([torch.cat([row[row > 0], row[row == 0]]) for row in history])

    def step(number: int) -> None:
        optimizer.zero_grad()
        with autocast(options.precision):
            loss = model.loss(after, lengths, target)
        loss.backward()
        optimizer.step()

    return step


CONTENDERS = {"ours": ours, "plain": plain}

# ------------------------------------------------------------------------------------------------ measuring


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and CPU seconds."""
    wall, cpu = clocks()
    work()
    return clocks()[0] - wall, clocks()[1] - cpu


def matmul_rates(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """GFLOP per wall-clock second and per CPU second and thread of a few products, the best of three each."""
    dtype = torch.float32 if options.precision == "fp32" else torch.bfloat16
    d, b = options.dim, options.batch
    rates = {}
    for m, k, n in ((b, d, d), (d, b, d), (2 * b, d, 2 * d), (1024, 1024, 1024)):
        left, right = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
        torch.mm(left, right)
        runs = [timed(lambda left=left, right=right: torch.mm(left, right)) for _ in range(3)]
        gflop = 2e-9 * m * k * n
        rates[f"{m}x{k}x{n}"] = {
            "gflop_per_second": gflop / min(wall for wall, _ in runs),
            "gflop_per_cpu_second": gflop / min(cpu for _, cpu in runs),
        }
    return rates


GROUPS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "mkldnn_linear", "matmul"),
    "AdamW": ("_fused_adamw_", "_foreach_"),
    "table look-up and its gradient": ("embedding", "index_select", "index", "_index_put", "scatter"),
    "allocation, zeros and copies": ("empty", "zero_", "fill_", "copy_", "zeros", "clone", "cat", "constant_pad"),
    "dropout": ("bernoulli", "native_dropout", "dropout", "random_", "clamp_"),
    "norms and softmax": ("native_layer_norm", "_softmax", "softmax"),
    "integers of keyed noise": ("bitwise", "__rshift__", "__and__", "remainder"),
}


def group_of(operator: str) -> str:
    name = operator.removeprefix("aten::")
    for group, prefixes in GROUPS.items():
        if name.startswith(prefixes):
            return group
    return "element by element and the rest"


def profiled(step: Step, number: int) -> list[dict[str, Any]]:
    """The six groups of operators with the most CPU time of one step, seen from the thread that calls them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step(number)
    seconds: dict[str, float] = defaultdict(float)
    for event in profile.key_averages():
        seconds[group_of(event.key)] += event.self_cpu_time_total * 1e-6
    total = sum(seconds.values())
    top = sorted(seconds.items(), key=lambda item: -item[1])[:6]
    return [{"group": name, "seconds": round(value, 4), "share": round(value / total, 3)} for name, value in top]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What one contender's process prints."""
    torch.set_num_threads(options.threads)
    seed_everything(0)
    step = CONTENDERS[options.only](options)
    step(0)  # allocates moments
    runs = [timed(lambda number=number: step(number)) for number in range(1, options.steps + 1)]
    result: dict[str, Any] = {
        "seconds_per_step": statistics.median(wall for wall, _ in runs),
        "fastest_step_seconds": min(wall for wall, _ in runs),
        "cpu_seconds_per_step": statistics.median(cpu for _, cpu in runs),
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    if options.only == "ours":
        result["groups"] = profiled(step, options.steps + 1)
        result["matmul"] = matmul_rates(options)
    return result


def in_own_process(options: argparse.Namespace, only: str, precision: str) -> dict[str, Any]:
    arguments = [f"--{name}={value}" for name, value in {**vars(options), "only": only, "precision": precision}.items()]
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    load_before = os.getloadavg()[0]
    found = in_own_process(options, "ours", options.precision)
    rival = in_own_process(options, "plain", options.precision)
    rival_fp32 = rival if options.precision == "fp32" else in_own_process(options, "plain", "fp32")
    groups, rates = found.pop("groups"), found.pop("matmul")
    multiply_adds = {"ours": 13, "plain": 5 * options.length + 14}
    gflop = {name: 2e-9 * 3 * n * options.batch * options.dim**2 for name, n in multiply_adds.items()}
    best = {kind: max(rate[kind] for rate in rates.values()) for kind in ("gflop_per_second", "gflop_per_cpu_second")}
    return {
        "options": {name: value for name, value in vars(options).items() if name != "only"},
        "gflop_per_step": gflop,
        "ours": found,
        "plain": rival,
        "plain_fp32": rival_fp32,
        "speedup": {
            "over_plain": rival["seconds_per_step"] / found["seconds_per_step"],
            "over_plain_in_cpu_seconds": rival["cpu_seconds_per_step"] / found["cpu_seconds_per_step"],
            "over_plain_fp32": rival_fp32["seconds_per_step"] / found["seconds_per_step"],
        },
        "matmul": {"best": best, "by_shape": rates},
        "share_of_matmul_rate": {
            "wall_clock": gflop["ours"] / found["seconds_per_step"] / best["gflop_per_second"],
            "cpu_seconds": gflop["ours"] / found["cpu_seconds_per_step"] / best["gflop_per_cpu_second"],
        },
        "where_the_time_goes": groups,
        "machine": {
            "cores": os.cpu_count(),
            "load_average_before": load_before,
            "load_average_after": os.getloadavg()[0],
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        },
        "note": "Without native bf16 (AVX512_BF16 or AMX), bf16 is emulated and slower than fp32: there fp32 counts.",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=3072)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--length", type=int, default=10)
    parser.add_argument("--items", type=int, default=12101)
    parser.add_argument("--steps", type=int, default=5, help="timed steps after one to warm up")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--only", choices=[*CONTENDERS, "all"], default="all", help="measure one, in this process")
    options = parser.parse_args()
    print(json.dumps(compare(options) if options.only == "all" else measure(options), indent=2))


if __name__ == "__main__":
    main()

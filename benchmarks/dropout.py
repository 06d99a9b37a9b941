"""Masks of 16 random bits against `torch.nn.Dropout`, and what they save in a training step. Prints JSON.

    python benchmarks/dropout.py [--threads 1] [--repeat 9]

Layers: forward and backward of one layer over hidden states of a transformer, wide and narrow. Step: loss, backward
pass and Adam of AlignDiff at the paper's width, 512 rows with histories as long as those of Amazon Beauty; the rival is
the same model with `torch.nn.Dropout` in every place of ours. Sides take turns, and the fastest of each counts.

How torch draws depends on the processor: it has a vectorised draw where it is built with MKL and runs on Intel.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from causal_encoder import batches
from guiderec.models.aligndiff import AlignDiff, AlignDiffConfig
from guiderec.nn.dropout import Dropout
from guiderec.rng import Noise, seed_everything
from guiderec.training.record import environment

SHAPES = ((4096, 512), (4096, 128), (64, 16))


def layer(kind: type[nn.Module], shape: tuple[int, int]) -> Callable[[], None]:
    """Forward and backward of one layer."""
    module, x = kind(0.1), torch.randn(shape, requires_grad=True)
    gradient = torch.randn(shape)
    return lambda: module(x).backward(gradient)


def step(kind: type[nn.Module], options: argparse.Namespace) -> Callable[[], None]:
    """A training step of AlignDiff with this kind of dropout in every layer."""
    seed_everything(0)
    model = AlignDiff(AlignDiffConfig(init_std=0.02), options.items)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Dropout):
                setattr(module, name, kind(child.p))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    rows = iter(batches(options, 200))

    def run() -> None:
        optimizer.zero_grad()
        model.loss(next(rows), Noise(0))["loss"].backward()
        optimizer.step()

    return run


def compared(ours: Callable[[], None], torchs: Callable[[], None], repeat: int) -> dict[str, float]:
    """Milliseconds of the fastest call of each, after one call of both, and their ratio."""
    best = [float("inf")] * 2
    for turn in range(repeat + 1):
        for side, call in enumerate((ours, torchs)):
            began = time.perf_counter()
            call()
            if turn > 0:
                best[side] = min(best[side], time.perf_counter() - began)
    return {"ours_ms": best[0] * 1e3, "torch_ms": best[1] * 1e3, "times_faster": best[1] / best[0]}


def main() -> None:
    """Compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=9)
    parser.set_defaults(items=12_101, length=50, batch=512, device="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {
        f"layer {rows} x {width}": compared(
            layer(Dropout, (rows, width)), layer(nn.Dropout, (rows, width)), 10 * options.repeat
        )
        for rows, width in SHAPES
    }
    found["step of AlignDiff"] = compared(step(Dropout, options), step(nn.Dropout, options), options.repeat)
    print(json.dumps({"environment": environment(), "found": found}, indent=2))


if __name__ == "__main__":
    main()

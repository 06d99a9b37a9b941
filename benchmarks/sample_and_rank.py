"""Sampling and ranking a whole test set: the step-by-step sampler against what the library does. Prints JSON.

Both sides take the same conditions of all rows, batch by batch, and end in the ten best of all items. Sides:

two_pass    the layout of public code: DDIM through one Linear(3D -> D) on [x ; c ; time(t)], twice per step
walked      the mean over the noise, walked through S steps with everything hoisted that does not change (what the
            library does for few steps, as in validation while training)
composed    the mean by the composed chain: one product per row, for any S (many steps, or serving); composing is given
            apart, since it is done once per checkpoint

    python benchmarks/sample_and_rank.py --dim 3072 --rows 2237 --items 12101 --steps 10 --many 1000
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from affine_sampling import SCALE, joined
from guiderec.diffusion.denoisers import LinearDenoiser
from guiderec.diffusion.generation import Generation, Generator
from guiderec.diffusion.guidance import Conditions, PositiveNegative
from guiderec.diffusion.samplers import ddim
from guiderec.diffusion.schedule import Linear
from guiderec.training.memory import keep_freed_memory

BATCH = 256


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=3072)
    parser.add_argument("--rows", type=int, default=2237)
    parser.add_argument("--items", type=int, default=12101)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--many", type=int, default=1000, help="a second, large number of steps")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    denoiser = LinearDenoiser(options.dim)
    schedule = Linear(steps=1200)()
    table = torch.randn(options.items, options.dim)
    toward, away = torch.randn(2, options.rows, options.dim)
    guidance = PositiveNegative(scale=SCALE)

    def rank_all(sample: Callable[[Conditions], Tensor]) -> tuple[Tensor, float]:
        begun = time.perf_counter()
        lists = [
            (sample(Conditions(toward[start : start + BATCH], away=away[start : start + BATCH])) @ table.T).topk(10)[1]
            for start in range(0, options.rows, BATCH)
        ]
        return torch.cat(lists), time.perf_counter() - begun

    network = joined(denoiser)

    def two_pass(conditions: Conditions) -> Tensor:
        start = torch.zeros_like(conditions.toward)  # from the mean of x_T, so that the lists can be compared
        return ddim(guidance(network, conditions), start, schedule, options.steps)

    def mean_of(steps: int, *, composed: bool) -> tuple[Callable[[Conditions], Tensor], float]:
        generator = Generator(Generation(steps=steps), schedule, denoiser)
        begun = time.perf_counter()
        if composed:
            generator.compose()
        return lambda conditions: generator.mean(guidance.extrapolate(conditions)), time.perf_counter() - begun

    usual, two_pass_seconds = rank_all(two_pass)
    sides: dict[str, Any] = {}
    for name, steps, composed in (
        ("walked", options.steps, False),
        ("composed", options.steps, True),
        (f"composed, S = {options.many}", options.many, True),
    ):
        sample, composing = mean_of(steps, composed=composed)
        lists, seconds = rank_all(sample)
        sides[name] = {
            "seconds": seconds,
            "composing_seconds": composing,
            "speedup": two_pass_seconds / seconds,
            "speedup_with_composing": two_pass_seconds / (seconds + composing),
        }
        if steps == options.steps:
            sides[name]["share_of_equal_places"] = float((lists == usual).float().mean())
    report = {**vars(options), "torch": torch.__version__, "two_pass": {"seconds": two_pass_seconds}, **sides}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

"""Sampling with a linear denoiser: the closed form against the usual loop. Prints JSON.

Three ways to the same x0_hat (B, D), with the same weights, in the dtype of the weights:

two_pass      the layout of public code: one Linear(3D -> D) on [x ; c ; time(t)], twice per step, once per condition
one_pass      the three blocks of the layer kept apart, one pass per step under the extrapolated condition g
closed_form   A x_T + G g + d; `mean` leaves A x_T out

Times are the best of `--repeat` runs, in seconds; composing is done once per checkpoint and is given apart.
`break_even` is the number of batches after which composing G and d has paid off against two_pass.

    python benchmarks/affine_sampling.py --dim 3072 --rows 64 --steps 10
    python benchmarks/affine_sampling.py --dim 256 --rows 256 --steps 10 1000
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from guiderec.diffusion.affine import AffineChain, compose
from guiderec.diffusion.denoisers import LinearDenoiser
from guiderec.diffusion.guidance import Conditions, PositiveNegative
from guiderec.diffusion.samplers import ddim
from guiderec.diffusion.schedule import Linear, Schedule

SCALE = 4.0


@torch.no_grad()
def main() -> None:
    options = _options()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    denoiser = LinearDenoiser(options.dim).to(options.device)
    schedule = Linear(steps=options.diffusion_steps)()
    x, toward, away = torch.randn(3, options.rows, options.dim, device=options.device)
    conditions = Conditions(toward, away=away)
    report = {
        "dim": options.dim,
        "rows": options.rows,
        "T": options.diffusion_steps,
        "threads": options.threads,
        "device": options.device,
        "torch": torch.__version__,
        "results": [_measure(denoiser, schedule, x, conditions, steps, options) for steps in options.steps],
    }
    print(json.dumps(report, indent=2))


def _measure(
    denoiser: LinearDenoiser, schedule: Schedule, x: Tensor, conditions: Conditions, steps: int, options: Any
) -> dict[str, Any]:
    guidance = PositiveNegative(scale=SCALE)
    g = guidance.extrapolate(conditions)

    def timed(call: Callable[[], Any], repeat: int) -> tuple[Any, float]:
        best = math.inf
        for _ in range(repeat):
            _wait(options.device)
            start = time.perf_counter()
            result = call()
            _wait(options.device)
            best = min(best, time.perf_counter() - start)
        return result, best

    def compose_state() -> AffineChain:
        chain.__dict__.pop("A", None)
        chain.A  # noqa: B018  composed when first asked for
        return chain

    network = joined(denoiser)
    usual, two_pass = timed(lambda: ddim(guidance(network, conditions), x, schedule, steps), options.repeat)
    _, one_pass = timed(lambda: _one_pass(denoiser, g, x, schedule, steps), options.repeat)
    chain, composing = timed(lambda: compose(denoiser, schedule, steps), 1)
    _, composing_state = timed(compose_state, 1)
    closed, closed_form = timed(lambda: chain(x, g), 2 + options.repeat)
    _, mean = timed(lambda: chain.mean(g), 2 + options.repeat)
    return {
        "steps": steps,
        "seconds": {
            "two_pass": two_pass,
            "one_pass": one_pass,
            "closed_form": closed_form,
            "closed_form_mean": mean,
            "compose_G_and_d": composing,
            "compose_A": composing_state,
        },
        "speedup_over_two_pass": {"one_pass": two_pass / one_pass, "closed_form": two_pass / closed_form,
                                  "closed_form_mean": two_pass / mean},
        "break_even": composing / (two_pass - mean),
        "largest_relative_difference": float((closed - usual).abs().max() / usual.abs().max()),
    }  # fmt: skip


def joined(denoiser: LinearDenoiser) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The same network as one layer on the concatenation of its inputs."""
    blocks = (denoiser.from_state, denoiser.from_condition, denoiser.from_time)
    weight, bias = torch.cat([block.weight for block in blocks], dim=1), denoiser.from_time.bias

    def forward(x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return torch.nn.functional.linear(torch.cat([x_t, condition, denoiser.time(t)], dim=1), weight, bias)

    return forward


def _one_pass(denoiser: LinearDenoiser, g: Tensor, x: Tensor, schedule: Schedule, steps: int) -> Tensor:
    from_condition = denoiser.from_condition(g)
    return ddim(lambda x, t: denoiser.from_state(x) + denoiser.time_term(t[:1]) + from_condition, x, schedule, steps)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--dim", type=int, default=3072, help="width D (default: 3072)")
    parser.add_argument("--rows", type=int, default=64, help="users per batch B (default: 64)")
    parser.add_argument("--steps", type=int, nargs="+", default=[10], help="sampling steps S (default: 10)")
    parser.add_argument("--diffusion-steps", type=int, default=1000, help="steps of the forward process T")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each loop, of which the best counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()

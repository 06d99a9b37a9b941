"""Generation with ADIGRec: the library against a plain loop over the same weights and noise. Prints JSON.

    python benchmarks/adigrec_generation.py [--rows 512] [--batch 256] [--steps 200] [--threads 2] [--device cpu]

Both sides encode the histories and walk the full chain of T steps on the sphere, with AI2M. The plain loop computes at
every step what the paper writes down: the embedding of the step for every row, keys and values of G, and f as one
matrix on [x_t ; a ; vec(G) ; time(t)]. Histories are encoded once on both sides: nobody would do that at every step.

Cases      given    both are given noise that was drawn beforehand: the network and the chain alone
           drawn    ours draws its own noise in the time that is measured, the plain loop still does not
Limits     `arithmetic` is the plain loop's multiply-adds over ours, the speed-up at equal rates.

Sides take turns, `--repeat` times each, and the fastest run of each counts. One batch of each goes first, untimed, and
their answers are checked to be equal in float64.

`latency` is the time of one request, one user: generation and the 20 best of all items, in milliseconds, by the full
chain and by few steps of DDIM.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from guiderec.data.batch import Query
from guiderec.diffusion.generation import step_noise
from guiderec.diffusion.samplers import walk
from guiderec.evaluation.ranking import top_k
from guiderec.models.adigrec import ADIGRec, ADIGRecConfig
from guiderec.nn.time import sinusoid
from guiderec.rng import Noise, seed_everything
from guiderec.training.memory import keep_freed_memory

K = 20
NOISE = Noise(0)


def requests(options: argparse.Namespace) -> list[Query]:
    """Batches of histories (B, L) of 1 to L items, padded on the left."""
    generator = torch.Generator().manual_seed(1)
    history = torch.randint(1, options.items + 1, (options.rows, options.length), generator=generator)
    lengths = torch.randint(1, options.length + 1, (options.rows,), generator=generator)
    history[torch.arange(options.length) < options.length - lengths[:, None]] = 0
    query = Query(history=history, key=torch.arange(options.rows)).to(options.device)
    return [query.rows(slice(start, start + options.batch)) for start in range(0, options.rows, options.batch)]


class Drawn:
    """The noise of a request's chain, as the library names it, drawn beforehand."""

    def __init__(self, model: ADIGRec, query: Query) -> None:
        dim, dtype = model.config.dim, model.items.weight.dtype
        self.x_T = NOISE.normal(query.key, dim, "x_T", dtype)
        asked = step_noise(NOISE, query.key, dim, model.steps, dtype)
        self.steps = {step.t: asked(step.t) for step in model.steps if step.spread > 0}


class Plain:
    """Algorithm 2 as one would write it from the paper, with the weights of a model."""

    def __init__(self, model: ADIGRec) -> None:
        self.model = model
        network, insertion = model.denoiser, model.denoiser.insertion
        assert insertion is not None
        self.insertion = insertion
        blocks = (network.from_state, insertion.outer, network.from_guidance, network.from_time)
        self.f = torch.cat([block.weight for block in blocks], dim=1)

    def __call__(self, query: Query, drawn: Drawn) -> Tensor:
        """(B, D)."""
        model, dim = self.model, self.model.config.dim
        g, x = model.guidance(query).rows, drawn.x_T
        for step in model.steps:
            x = x / x.norm(dim=1, keepdim=True)
            time = self.time(torch.full_like(query.key, step.t))
            q, k, v = self.insertion.query(x + time), self.insertion.key(g), self.insertion.value(g)
            weights = torch.softmax((q[:, None] @ k.transpose(1, 2)) / math.sqrt(dim), dim=-1)
            a = (weights @ v)[:, 0]
            x0 = F.linear(torch.cat([x, a, g.flatten(1), time], dim=1), self.f, model.denoiser.from_time.bias)
            x = step.keep * x + step.move * x0
            if step.spread > 0:
                x = x + step.spread * drawn.steps[step.t]
        return x

    def time(self, t: Tensor) -> Tensor:
        """(B, D), for every row."""
        network = self.model.denoiser.time
        return network.down(network.activation(network.up(sinusoid(t, network.dim, dtype=network.up.weight.dtype))))


def given(model: ADIGRec, query: Query, drawn: Drawn) -> Tensor:
    """The library's chain (B, D), of noise that was drawn beforehand."""
    network = model.denoiser.on(model.guidance(query).rows).along([step.t for step in model.steps])
    found = walk(
        network, drawn.x_T[:, None], model.steps, lambda t: drawn.steps[t][:, None], project=model.sphere.state
    )
    return found[:, 0]


def difference(model: ADIGRec, query: Query) -> float:
    """Largest relative difference of the two sides in float64."""
    model.double()
    drawn = Drawn(model, query)
    plain = Plain(model)(query, drawn)
    ours = [given(model, query, drawn), model.user_vectors(query, NOISE)[:, 0]]
    model.float()
    worst = max(float((one - plain).abs().max() / plain.abs().max()) for one in ours)
    if worst > 1e-9:
        raise SystemExit(f"The two sides differ by {worst:.2e}: the benchmark compares different things.")
    return worst


def seconds(call: Callable[[], Any], device: str) -> float:
    """Time of one call."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def throughput(model: ADIGRec, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds for all rows on each side."""
    batches = requests(options)
    worst = difference(model, batches[0])
    drawn = [Drawn(model, query) for query in batches]
    plain = Plain(model)
    sides: dict[str, Callable[[], Any]] = {
        "plain": lambda: [plain(query, noise) for query, noise in zip(batches, drawn, strict=True)],
        "ours_given": lambda: [given(model, query, noise) for query, noise in zip(batches, drawn, strict=True)],
        "ours_drawn": lambda: [model.user_vectors(query, NOISE) for query in batches],
    }
    best = dict.fromkeys(sides, math.inf)
    for call in sides.values():
        call()
    for _ in range(options.repeat):
        for name, call in sides.items():
            best[name] = min(best[name], seconds(call, options.device))
    return {
        "seconds": best,
        "rows_per_second": {name: options.rows / value for name, value in best.items()},
        "speedup": {name: best["plain"] / best[name] for name in ("ours_given", "ours_drawn")},
        "arithmetic": arithmetic(model),
        "largest_relative_difference": worst,
    }


def arithmetic(model: ADIGRec) -> float:
    """Multiply-adds of one step of one row in the plain loop, over those of ours. Keys and values cost 4 K D^2."""
    d, k = model.config.dim, model.config.guidance.interests
    time, attention = 4 * d**2, 2 * k * d
    plain = time + d**2 + 4 * k * d**2 + attention + (2 * k + 3) * d**2
    return plain / (d**2 + attention)


def latency(model: ADIGRec, options: argparse.Namespace) -> list[dict[str, float]]:
    """Milliseconds of single requests, by steps."""
    rows = []
    singles = [query.rows(slice(i, i + 1)) for query in requests(options)[:1] for i in range(len(query))]
    for steps in [None, *options.ddim]:
        generation = {"sampler": "ddpm" if steps is None else "ddim", "steps": steps, "start": "noise"}
        config = ADIGRecConfig.from_plain({**model.config.to_plain(), "generation": generation})
        server = ADIGRec(config, options.items).to(options.device).eval()
        server.load_state_dict(model.state_dict())
        asked = [singles[i % len(singles)] for i in range(options.requests + 3)]
        times = [seconds(partial(top_k, server, query, K, NOISE), options.device) for query in asked][3:]
        p50, p99 = torch.tensor(times, dtype=torch.float64).quantile(torch.tensor([0.5, 0.99], dtype=torch.float64))
        rows.append({"steps": options.steps if steps is None else steps, "p50_ms": 1e3 * float(p50),
                     "p99_ms": 1e3 * float(p99)})  # fmt: skip
    return rows


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"rows": 512, "batch": 256, "items": 9_514, "length": 10, "dim": 64, "interests": 4, "repeat": 3}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=int, default=200, help="T, all of which are made")
    parser.add_argument("--ddim", type=int, nargs="*", default=[50, 20, 10, 5], help="steps of DDIM in the latencies")
    parser.add_argument("--requests", type=int, default=200, help="requests per latency")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    seed_everything(0)
    config = ADIGRecConfig.from_plain(
        {
            "dim": options.dim,
            "max_length": options.length,
            "schedule": {"name": "exp", "steps": options.steps},
            "guidance": {"name": "both", "interests": options.interests},
        }
    )
    model = ADIGRec(config, options.items).to(options.device).eval()
    load = os.getloadavg()[0]
    report = {
        **vars(options),
        "torch": torch.__version__,
        "load_average_before": load,
        "throughput": throughput(model, options),
        "latency": latency(model, options),
        "load_average_after": os.getloadavg()[0],
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

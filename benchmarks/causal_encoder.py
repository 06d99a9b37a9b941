"""SASRec over short histories in long windows: the library against torch's own encoder over padded rows. Prints JSON.

    python benchmarks/causal_encoder.py [--items 12101] [--length 50] [--batch 256] [--threads 1] [--device cpu]

The rival is SASRec as one would write it with `torch.nn.TransformerEncoder`: every row padded to the window,
cross-entropy over the logits of all learnt positions at once, and the state of every position where a request asks for
the newest. Both sides have the same width, depth, dropout and number of weights, and learn from the same batches.

Lengths are those of the test histories of Amazon Beauty (leave-one-out; mean 7.7 items), in random order; items are
drawn uniformly. Compared are a training step (loss, backward pass, Adam) and the vectors of a batch of requests, both
sides beginning with the same weights: `largest_difference` is between their answers. Sides take turns, `--repeat` times
each, and the fastest of each counts. `peak_mib` (Linux) is what three steps add to the memory of a fresh process, one
process per side.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aligndiff_ranking import QUANTILES
from guiderec.data.batch import PADDING, Batch
from guiderec.models.sasrec import SASRec, SASRecConfig
from guiderec.rng import Noise, seed_everything
from guiderec.training.memory import keep_freed_memory

DIM, LAYERS, HEADS, DROPOUT = 128, 2, 2, 0.4


def batches(options: argparse.Namespace, count: int) -> list[Batch]:
    """Batches of rows padded on the left to `--length`."""
    generator = torch.Generator().manual_seed(0)
    shares, values = torch.tensor(list(QUANTILES), dtype=torch.float64), torch.tensor(list(QUANTILES.values())).double()
    made = []
    for _ in range(count):
        place = torch.rand(options.batch, generator=generator, dtype=torch.float64)
        above = torch.searchsorted(shares, place).clamp(min=1)
        part = (place - shares[above - 1]) / (shares[above] - shares[above - 1])
        lengths = (values[above - 1] + part * (values[above] - values[above - 1])).round().clamp(max=options.length)
        history = torch.randint(1, options.items + 1, (options.batch, options.length), generator=generator)
        history[torch.arange(options.length) < options.length - lengths[:, None]] = PADDING
        target = torch.randint(1, options.items + 1, (options.batch,), generator=generator)
        made.append(Batch(history=history, key=torch.arange(options.batch), target=target).to(options.device))
    return made


class Plain(nn.Module):
    """SASRec on torch's encoder."""

    def __init__(self, items: int, length: int) -> None:
        super().__init__()
        self.items = nn.Embedding(items + 1, DIM, padding_idx=PADDING)
        self.positions = nn.Embedding(length, DIM)
        self.dropout = nn.Dropout(DROPOUT)
        layer = nn.TransformerEncoderLayer(
            DIM, HEADS, 4 * DIM, DROPOUT, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, LAYERS, norm=nn.LayerNorm(DIM), enable_nested_tensor=False)

    def states(self, history: Tensor) -> Tensor:
        """(B, L, D)."""
        mask = history != PADDING
        place = (mask.cumsum(dim=1) - 1) * mask
        x = self.dropout((self.items(history) + self.positions(place)) * mask[..., None])
        causal = torch.ones(2 * history.shape[1:], dtype=torch.bool, device=history.device).triu(1)
        hidden = causal | ~mask[:, None]
        hidden.diagonal(dim1=1, dim2=2).fill_(False)  # a softmax over nothing is not a number
        states: Tensor = self.encoder(x, mask=hidden.repeat_interleave(HEADS, dim=0))
        return states

    def loss(self, batch: Batch) -> Tensor:
        """()."""
        target = batch.next_items
        learnt = target != PADDING
        return F.cross_entropy(self.states(batch.history)[learnt] @ self.items.weight[1:].T, target[learnt] - 1)


def ours(options: argparse.Namespace) -> SASRec:
    """The library's model."""
    seed_everything(0)
    config = SASRecConfig(dim=DIM, layers=LAYERS, heads=HEADS, dropout=DROPOUT, max_length=options.length)
    return SASRec(config, options.items).to(options.device)


def with_weights_of(model: SASRec, options: argparse.Namespace) -> Plain:
    """The rival with the weights of ours."""
    plain = Plain(options.items, options.length).to(options.device)
    names = {
        "attention.query_key_value.": "self_attn.in_proj_",
        "attention.output.": "self_attn.out_proj.",
        "feedforward.expand.": "linear1.",
        "feedforward.contract.": "linear2.",
        "attention_norm.": "norm1.",
        "feedforward_norm.": "norm2.",
    }
    with torch.no_grad():
        plain.items.weight.copy_(model.items.weight)
        plain.positions.weight.copy_(model.positions.table.weight)
        for block, layer in zip(model.encoder.blocks, plain.encoder.layers, strict=True):
            for mine, theirs in names.items():
                for kind in ("weight", "bias"):
                    layer.get_parameter(theirs + kind).copy_(block.get_parameter(mine + kind))
        assert plain.encoder.norm is not None
        plain.encoder.norm.load_state_dict(model.encoder.exit.state_dict())
    return plain


def steps(model: nn.Module, loss: Callable[[Batch], Tensor]) -> Callable[[Batch], None]:
    """A training step."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step(batch: Batch) -> None:
        loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def fastest(
    sides: dict[str, Callable[[Batch], object]], asked: list[Batch], repeat: int, synchronize: Callable[[], None]
) -> dict[str, float]:
    """Milliseconds per batch, the sides in turns; one batch of each goes first, untimed."""
    best = dict.fromkeys(sides, math.inf)
    for round_ in range(repeat + 1):
        for name, call in sides.items():
            for batch in asked[: 1 if round_ == 0 else None]:
                synchronize()
                started = time.perf_counter()
                call(batch)
                synchronize()
                best[name] = min(best[name], math.inf if round_ == 0 else 1e3 * (time.perf_counter() - started))
    return {name: round(value, 1) for name, value in best.items()}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both sides."""
    synchronize = torch.cuda.synchronize if options.device.startswith("cuda") else lambda: None
    asked = batches(options, 4)
    model = ours(options)
    plain = with_weights_of(model, options)
    noise = Noise(0)
    with torch.inference_mode():
        model.eval(), plain.eval()
        gap = (model.user_vectors(asked[0], noise)[:, 0] - plain.states(asked[0].history)[:, -1]).abs().max()
        requests = fastest(
            {"ours": lambda b: model.user_vectors(b, noise), "plain": lambda b: plain.states(b.history)[:, -1]},
            asked,
            options.repeat,
            synchronize,
        )
    model.train(), plain.train()
    training = fastest(
        {"ours": steps(model, lambda b: model.loss(b, noise)["loss"]), "plain": steps(plain, plain.loss)},
        asked,
        options.repeat,
        synchronize,
    )
    return {
        "largest_difference": float(gap),
        "training_step_ms": {**training, "times_faster": round(training["plain"] / training["ours"], 2)},
        "requests_ms": {**requests, "times_faster": round(requests["plain"] / requests["ours"], 2)},
        "peak_mib": {side: _peak(side, options) for side in ("ours", "plain")} if options.device == "cpu" else None,
    }


def _peak(side: str, options: argparse.Namespace) -> int:
    """MiB that three training steps add, in a process of their own."""
    sizes = [f"--{name}={getattr(options, name)}" for name in ("items", "length", "batch", "threads")]
    done = subprocess.run(
        [sys.executable, __file__, "--side", side, *sizes], stdout=subprocess.PIPE, text=True, check=True
    )
    return int(done.stdout)


def memory_of(side: str, options: argparse.Namespace) -> int:
    """MiB at the peak of three steps above what the model and its optimizer take."""
    model = ours(options)
    plain = with_weights_of(model, options)
    step = steps(model, lambda b: model.loss(b, Noise(0))["loss"]) if side == "ours" else steps(plain, plain.loss)
    asked = batches(options, 3)
    before = _peak_kib()
    for batch in asked:
        step(batch)
    return (_peak_kib() - before) // 1024


def _peak_kib() -> int:
    """Of this program alone: `ru_maxrss` begins with that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", choices=("ours", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.side:
        print(memory_of(options.side, options))
        return
    keep_freed_memory()
    about = {name: getattr(options, name) for name in ("items", "length", "batch", "threads", "device")}
    cores = os.cpu_count()
    print(json.dumps({**about, "torch": torch.__version__, "cores": cores, **measure(options)}, indent=2))


if __name__ == "__main__":
    main()

"""Processes and devices: the only file that knows that there may be several.

One process by default. Under `torchrun --nproc-per-node=W` every process runs the same program, takes one device, and
joins the others here; with one process all collectives do nothing.

The gradient is that of the mean loss over the global batch. A loss that looks across rows (negatives or a centroid from
the batch) sees the rows of its own process only, as everywhere with data parallelism; so does dropout's randomness.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import Tensor, nn

from guiderec.errors import ConfigError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Losses = dict[str, Tensor]
T = TypeVar("T")


def join(*, accelerator: Literal["auto", "cpu", "cuda"], precision: Literal["fp32", "bf16"]) -> Fabric:
    """The Fabric of this process: its device, its rank and the precision of its forward passes.

    bf16 is automatic mixed precision: weights, moments and losses stay in float32.

    Raises
    ------
    ConfigError
        For an accelerator that this machine lacks.
    """
    from lightning_fabric import Fabric  # here, since it takes as long to load as torch, and most commands do without
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces device and precision at INFO
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "training.accelerator = 'cuda', and torch finds no GPU here.",
            hint="--set training.accelerator=cpu, or auto",
        )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    world = processes()
    fabric = Fabric(
        accelerator=accelerator,
        devices=local,
        num_nodes=world // local,
        # A model may own parameters that a step does not use (a mask token, a frozen head); their gradients stay None,
        # as they do with one process.
        strategy=DDPStrategy(find_unused_parameters=True) if world > 1 else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def processes() -> int:
    """How many run this program together, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Computed(nn.Module):
    """Sends a computation with `model` through `forward`, which is where Fabric attaches DDP and autocast.

    The computation comes as a closure: batches are frozen, and Fabric would try to rebuild them field by field.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], Losses]) -> Losses:
        """What `compute()` gives; only the loss keeps its graph, since DDP waits for every gradient it can see."""
        return {name: part if name == "loss" else part.detach() for name, part in compute().items()}


def sum_over_processes(fabric: Fabric, values: Tensor) -> Tensor:
    """Elementwise sum of `values` over all processes."""
    if fabric.world_size == 1:
        return values
    total = fabric.all_reduce(values, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total


def from_first(fabric: Fabric, compute: Callable[[], T]) -> T:
    """What `compute()` gives the first process; the others wait and receive a copy."""
    result: T = fabric.broadcast(compute() if fabric.global_rank == 0 else None)  # type: ignore[assignment]
    return result

"""AdamW and its learning rate."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn
from torch.optim import AdamW

from guiderec.errors import ConfigError

Schedule = Literal["constant", "linear", "cosine"]


def adamw(module: nn.Module, *, learning_rate: float, weight_decay: float, betas: tuple[float, float]) -> AdamW:
    """AdamW (Loshchilov and Hutter 2019) over all trainable parameters, as one group.

    One group, since the papers reproduced here decay either nothing or everything. The fused kernel makes one pass
    over weights and moments; it exists for CPU and CUDA in every torch this package supports.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise ConfigError(
            f"{type(module).__name__} has no trainable parameter.",
            hint="a model that is fitted by `prepare` alone says so with `trains = False`",
        )
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    return AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, betas=betas, fused=fused)


def learning_rate_factor(step: int, *, total_steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """What the learning rate is multiplied with at step 1..total_steps, in [0, 1].

    Linear from 1 / warmup_steps to 1 during warm-up; after it constant, or falling linearly or along half a cosine
    so that it would be 0 one step after the last.
    """
    if step <= warmup_steps:
        return step / warmup_steps
    done = (step - warmup_steps - 1) / max(total_steps - warmup_steps, 1)
    return {
        "constant": 1.0,
        "linear": max(1.0 - done, 0.0),
        "cosine": 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0))),
    }[schedule]

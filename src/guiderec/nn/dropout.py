"""Dropout of layers, whose masks cost a processor little."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 1 << 16
"""Values of the 16 random bits that decide about an element."""


class Dropout(nn.Module):
    """`torch.nn.Dropout`, with masks made of 16 random bits per element on a processor.

    Where torch has no vectorised draw, as on processors of AMD, it draws a double for each element, one after another
    (`benchmarks/dropout.py`). There p, in 0 to 1, is rounded to a multiple of 2^-16, down to 0 and up to 1, and what is
    kept is scaled by just that, so that the mean stays. Attention weights are not dropped here, but by torch.

    Raises
    ------
    ValueError
        When p is not a probability.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> Dropout(0.5)(torch.ones(6))
    tensor([0., 0., 2., 0., 0., 0.])
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p = {p} is no probability: expected 0 to 1.")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...): x / (1 - p) where it is kept, 0 elsewhere; x itself outside of training."""
        if not self.training or x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        dropped = round(self.p * _LEVELS)
        if dropped in (0, _LEVELS):
            return x * (0.0 if dropped else 1.0)
        first_kept = dropped - _LEVELS // 2
        kept = _bits(x.shape).clamp_(first_kept - 1, first_kept).sub_(first_kept - 1)  # 0 or 1, and no slow comparison
        return x * kept.to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped))

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"p={self.p}"


def _bits(shape: torch.Size) -> Tensor:
    """Uniform int16 of the default generator: -32768 to 32767."""
    count = math.prod(shape)
    words = torch.empty(-(-count // 4), dtype=torch.int64, device="cpu").random_(-(1 << 63), None)
    return words.view(torch.int16)[:count].view(shape)

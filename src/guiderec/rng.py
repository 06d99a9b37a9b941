"""Seeds and keyed noise. Nothing else in the package seeds a generator.

`Noise` is counter-based: the number at position p of row r is a hash of (seed, purpose, key of r, p). It has no state,
so an answer depends neither on who else is in the batch, nor on the order of calls, the batch size or the device.
The hash is the finaliser of SplitMix64 (Steele, Lea and Flood 2014) applied twice.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


@dataclass(frozen=True)
class Noise:
    """Noise named by (seed, step); rows are named by their keys.

    `step` tells training steps apart; at inference it stays 0, so the same request gets the same answer.

    >>> noise, keys = Noise(0), torch.tensor([7, 8, 9])
    >>> bool((noise.normal(keys, 4, "x_T")[1] == noise.normal(keys[1:2], 4, "x_T")[0]).all())
    True
    """

    seed: int
    step: int = 0

    def at(self, step: int) -> Noise:
        """The same noise at another step."""
        return replace(self, step=step)

    def bits(self, keys: Tensor, size: int, purpose: str) -> Tensor:
        """Uniform 63-bit integers (B, size), int64, for row keys (B,)."""
        stream = _signed(_stable_hash(f"{self.seed}/{self.step}/{purpose}"))
        row = _mix(_mix(keys.to(torch.int64) * _signed(_GOLDEN) + stream))
        column = torch.arange(1, size + 1, device=keys.device, dtype=torch.int64) * _signed(_GOLDEN)
        return _mix(_mix(row[:, None] + column) ^ row[:, None]) & ((1 << 63) - 1)

    def uniform(self, keys: Tensor, size: int, purpose: str) -> Tensor:
        """Uniform numbers (B, size) in [0, 1), float64."""
        return (self.bits(keys, size, purpose) >> 10).to(torch.float64) * 2.0**-53

    def normal(self, keys: Tensor, size: int, purpose: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers (B, size), by Box and Muller."""
        half = (size + 1) // 2
        bits = self.bits(keys, half, purpose)
        low = (bits & 0x7FFFFFFF).to(torch.float64) * 2.0**-31  # two 31-bit uniforms from one hash
        high = ((bits >> 31) + 1).to(torch.float64) * 2.0**-32  # in (0, 1], so the logarithm is finite
        if dtype == torch.float32:
            low, high = low.float(), high.float()
        radius = torch.sqrt(-2.0 * torch.log(high))
        angle = 2.0 * math.pi * low
        return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :size].to(dtype)

    def integers(self, keys: Tensor, size: int, high: int, purpose: str) -> Tensor:
        """Uniform integers (B, size) in {0, ..., high - 1}. The bias of the modulus is below high / 2^63."""
        return self.bits(keys, size, purpose) % high


def subkeys(keys: Tensor, index: Tensor) -> Tensor:
    """Keys of the parts of what `keys` name: one for every pair, broadcast, int64. Both are whole numbers.

    The noise of a history's position is named by the row and the position, so that it is the same in wider batches.
    """
    return _mix(_mix(keys.to(torch.int64) * _signed(_GOLDEN)) + index.to(torch.int64) * _signed(_GOLDEN))


def position_keys(keys: Tensor, length: int) -> Tensor:
    """(B, L) names of the positions of rows (B,), counted from the newest item, so that padding changes none."""
    return subkeys(keys[:, None], torch.arange(length - 1, -1, -1, device=keys.device))


def key_of(*parts: Any) -> int:
    """A 63-bit key from any printable values; equal values give equal keys on every machine."""
    return _stable_hash("\x1f".join(str(part) for part in parts)) >> 1


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on all devices. Dropout and initialisation draw from these."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  the global generator is what third parties draw from
    torch.default_generator.manual_seed(seed)  # torch.manual_seed formats a stack trace per backend: 0.1 ms a call
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


@contextmanager
def undisturbed() -> Iterator[None]:
    """What draws from torch's global generator inside, such as a model that initialises itself, leaves it as it was."""
    with torch.random.fork_rng(devices=[]):
        yield


def numpy_generator(seed: int, *purpose: Any) -> np.random.Generator:
    """A NumPy generator for one purpose, independent of all others with the same seed."""
    return np.random.default_rng(key_of(seed, *purpose))


def _stable_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _signed(value: int) -> int:
    """`value` modulo 2^64 as the int64 with the same bits: torch has no unsigned arithmetic."""
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser, a bijection on 64 bits. int64 products wrap, as the algorithm wants."""
    z = (z ^ _shift(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shift(z, 27)) * _signed(_MIX_2)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's `>>` repeats the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)

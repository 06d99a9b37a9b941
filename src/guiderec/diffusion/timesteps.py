"""Which steps a loss is measured at, and how much each of them counts.

Shapes   t, key and losses (B,); T steps, R remembered losses per step.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guiderec.diffusion.schedule import Schedule
from guiderec.rng import Noise


def snr_drop(t: Tensor, schedule: Schedule) -> Tensor:
    """(B,) float64: SNR(t-1) - SNR(t) with SNR = alpha_bar / (1 - alpha_bar), the weight of a step's squared error.

    From the variational bound (Kingma et al. 2021, Eq. 13, without the half). At t = 0, where SNR(-1) is infinite, it
    is 1, as in DiffRec (its Eq. 9).
    """
    before = torch.where(t > 0, t - 1, t)
    drop = _snr(before, schedule) - _snr(t, schedule)
    return torch.where(t > 0, drop, torch.ones_like(drop))


class UniformTimesteps(nn.Module):
    """Every step alike."""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = T

    def draw(self, noise: Noise, key: Tensor) -> tuple[Tensor, Tensor]:
        """Steps t (B,), named by the row keys (B,), and T p(t) (B,), by which their losses are divided: ones."""
        return noise.integers(key, 1, self.T, "draw/t")[:, 0], torch.ones(len(key), device=key.device)

    def record(self, t: Tensor, losses: Tensor) -> None:
        """Nothing is remembered."""


class ImportanceTimesteps(nn.Module):
    """Steps in proportion to the root mean square of their last losses (Nichol and Dhariwal 2021, Eq. 18).

    p(t) = (1 - floor) q(t) + floor / T with q ~ sqrt(mean L_t^2) over the last `remembered` losses of each step, and
    uniform until every step has that many. Losses divided by T p(t) have the same mean, with less variance.

    The memory is made of buffers: it travels with the weights, so that a training that was stopped goes on with it,
    and with several processes all use that of the first.
    """

    recent: Tensor
    """(T, R) losses, the newest last."""
    count: Tensor
    """(T,) int64, how many of them are there."""

    def __init__(self, T: int, *, remembered: int = 10, floor: float = 0.001) -> None:
        super().__init__()
        self.T = T
        self.floor = floor
        self.register_buffer("recent", torch.zeros(T, remembered))
        self.register_buffer("count", torch.zeros(T, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        """(T,) p(t), float64."""
        size = self.recent.double().square().mean(dim=1).sqrt()
        q = size / size.sum()
        mixed = (1 - self.floor) * q + self.floor / self.T
        known = (self.count == self.recent.shape[1]).all() & q.isfinite().all()
        return torch.where(known, mixed, torch.full_like(mixed, 1 / self.T))

    def draw(self, noise: Noise, key: Tensor) -> tuple[Tensor, Tensor]:
        """Steps t (B,), named by the row keys (B,), and T p(t) (B,), by which their losses are divided."""
        p = self.probabilities()
        u = noise.uniform(key, 1, "draw/t")[:, 0]
        t = torch.searchsorted(p.cumsum(dim=0), u, right=True).clamp(max=self.T - 1)
        return t, (self.T * p)[t]

    @torch.no_grad()
    def record(self, t: Tensor, losses: Tensor) -> None:
        """Remember the losses (B,) of steps t (B,), the last rows as the newest; nothing in evaluation mode."""
        if not self.training:
            return
        remembered = self.recent.shape[1]
        of_step = F.one_hot(t, self.T)
        added = of_step.sum(dim=0)
        age = (of_step.flip(0).cumsum(dim=0).flip(0) * of_step).sum(dim=1) - 1  # 0 for the last row of its step
        column = torch.arange(remembered, device=t.device)
        older = self.recent.gather(1, (column + added[:, None]).clamp(max=remembered - 1))
        room = F.pad(older, (1, 0))  # column 0 takes what is older than can be remembered
        room[t, (remembered - age).clamp(min=0)] = losses.detach().to(room.dtype)
        self.recent.copy_(room[:, 1:])
        self.count.copy_((self.count + added).clamp(max=remembered))


TimestepsName = Literal["importance", "uniform"]
TIMESTEPS: dict[TimestepsName, type[ImportanceTimesteps] | type[UniformTimesteps]] = {
    "importance": ImportanceTimesteps,
    "uniform": UniformTimesteps,
}


def _snr(t: Tensor, schedule: Schedule) -> Tensor:
    return (schedule.a(t) / schedule.b(t)).square()

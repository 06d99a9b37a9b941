"""The Gaussian denoiser against Bayes on a grid, and the chain's law against the Gaussian that it should generate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from guiderec.diffusion.gaussian import GaussianDenoiser
from guiderec.diffusion.samplers import ddim_steps, ddpm_steps, walk
from guiderec.diffusion.schedule import Cosine, Linear
from guiderec.rng import Noise


@pytest.mark.parametrize("t", [0, 7, 25, 49])
def test_the_denoised_is_the_posterior_mean(t: int):
    """x_0 ~ N(0.7, 0.6^2) on a grid, times the likelihood of x_t."""
    schedule = Linear(steps=50)()
    denoiser = GaussianDenoiser(schedule, spread=0.6).double()
    x_t = torch.tensor([[-1.3], [0.2], [2.0]], dtype=torch.float64)
    grid = np.linspace(-8, 8, 400_001)
    expected = []
    for value in x_t[:, 0].tolist():
        log_weight = -0.5 * ((grid - 0.7) / 0.6) ** 2
        log_weight -= 0.5 * ((value - schedule.a(t) * grid) / schedule.b(t)) ** 2
        weight = np.exp(log_weight - log_weight.max())
        expected.append((weight * grid).sum() / weight.sum())
    found = denoiser(x_t, torch.full((3,), t), torch.full_like(x_t, 0.7))
    assert found[:, 0].tolist() == pytest.approx(expected, rel=1e-6)  # the spread is stored in single precision


def test_ancestral_sampling_gives_the_gaussian():
    """Mean and deviation of 4,000 samples of N(mu, s^2), within five standard errors."""
    schedule = Cosine(steps=200)()
    denoiser = GaussianDenoiser(schedule, spread=0.4).double()
    rows = torch.arange(4000)
    noise = Noise(0)
    mu = torch.tensor([[1.5, -0.5]], dtype=torch.float64).expand(len(rows), -1)

    def eps(t: int) -> torch.Tensor:
        return noise.normal(rows, 2, f"step/{t}", torch.float64)

    start = noise.normal(rows, 2, "x_T", torch.float64)
    # The last step gives the posterior mean at t = 0, where hardly any noise is left.
    with torch.no_grad():
        found = walk(lambda x, t: denoiser(x, t, mu), start, ddpm_steps(schedule), eps)
    error = 0.4 / math.sqrt(len(rows))
    assert found.mean(dim=0).tolist() == pytest.approx([1.5, -0.5], abs=5 * error)
    assert found.std(dim=0).tolist() == pytest.approx([0.4, 0.4], rel=5 / math.sqrt(2 * len(rows)))


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_the_mean_ranks_as_mu_does_in_any_number_of_steps(steps: int):
    schedule = Linear(steps=50)()
    denoiser = GaussianDenoiser(schedule, spread=0.9).double()
    mu = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = walk(lambda x, t: denoiser(x, t, mu), torch.zeros_like(mu), ddim_steps(schedule, steps))
    factor = found / mu
    assert float(factor.min()) > 0
    torch.testing.assert_close(factor, factor[:1, :1].expand_as(factor), rtol=1e-12, atol=0)

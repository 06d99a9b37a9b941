from __future__ import annotations

import math

import pytest
import torch

from guiderec.diffusion.process import posterior, q_sample
from guiderec.diffusion.schedule import Align, Linear


def test_q_sample_is_the_chain_of_single_steps():
    """x_t reached by T small steps x <- sqrt(1 - beta) x + sqrt(beta) eps has the mean and variance of q_sample."""
    schedule = Align(steps=8)()
    mean, variance = 1.0, 0.0
    for t, beta in enumerate(schedule.betas.tolist()):
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
        at = torch.tensor([t])
        assert float(q_sample(one, at, zero, schedule)) == pytest.approx(mean, rel=1e-12)
        assert float(q_sample(zero, at, one, schedule)) ** 2 == pytest.approx(variance, rel=1e-12)


def test_q_sample_takes_each_row_at_its_own_step_and_keeps_the_dtype():
    schedule = Linear(steps=100)()
    x0, eps, t = torch.randn(3, 5), torch.randn(3, 5), torch.tensor([0, 99, 40])
    together = q_sample(x0, t, eps, schedule)
    assert together.dtype == torch.float32
    for i in range(3):
        alone = q_sample(x0[i : i + 1], t[i : i + 1], eps[i : i + 1], schedule)
        assert torch.equal(together[i : i + 1], alone)


@pytest.mark.parametrize("t", [1, 2, 10, 31])
def test_posterior_is_bayes_rule(t):
    schedule = Align(steps=32)()
    beta, before = float(schedule.betas[t]), float(schedule.alpha_bar[t - 1])
    x0, x_t = 0.7, -1.1
    z = torch.linspace(-12, 12, 400_001, dtype=torch.float64)  # candidate x_{t-1}
    log_p = -((x_t - math.sqrt(1 - beta) * z) ** 2) / (2 * beta)
    log_p = log_p - (z - math.sqrt(before) * x0) ** 2 / (2 * (1 - before))
    p = torch.softmax(log_p, 0)
    expected = float((p * z).sum())

    mean, variance = posterior(
        torch.tensor([[x0]], dtype=torch.float64),
        torch.tensor([[x_t]], dtype=torch.float64),
        torch.tensor([t]),
        schedule,
    )
    assert float(mean) == pytest.approx(expected, abs=1e-9)
    assert float(variance) == pytest.approx(float((p * (z - expected) ** 2).sum()), rel=1e-7)


def test_posterior_of_the_first_step_is_the_clean_vector():
    x0, x_t = torch.randn(4, 3), torch.randn(4, 3)
    mean, variance = posterior(x0, x_t, torch.zeros(4, dtype=torch.int64), Linear(steps=50)())
    assert torch.equal(mean, x0)
    assert torch.equal(variance, torch.zeros(4, 1))


def test_posterior_shapes_and_rows():
    schedule = Linear(steps=100)()
    x0, x_t, t = torch.randn(3, 5), torch.randn(3, 5), torch.tensor([99, 0, 7])
    mean, variance = posterior(x0, x_t, t, schedule)
    assert (mean.shape, variance.shape) == ((3, 5), (3, 1))
    assert mean.dtype == variance.dtype == torch.float32
    alone, its_variance = posterior(x0[2:], x_t[2:], t[2:], schedule)
    assert torch.equal(mean[2:], alone)
    assert torch.equal(variance[2:], its_variance)

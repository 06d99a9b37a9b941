from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from guiderec.diffusion.denoisers import MLPDenoiser
from guiderec.diffusion.samplers import ddim, ddpm, ddpm_steps, walk
from guiderec.diffusion.schedule import Align, Cosine, Linear, Schedule
from guiderec.errors import ConfigError
from guiderec.rng import Noise

B, D = 3, 5


def _net(seed=0):
    """x0_hat = W x + u t/100 + v: a fixed network that depends on x and t."""
    generator = torch.Generator().manual_seed(seed)
    W = 0.3 * torch.randn(D, D, generator=generator, dtype=torch.float64)
    u, v = torch.randn(2, D, generator=generator, dtype=torch.float64)
    return lambda x, t: x @ W.T + u * t[:, None] / 100 + v


def _start(rows=B):
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _in_float64(scheduler):
    """The other library computes its products in float32; with float64 tables its steps can be compared closely."""
    scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), 0)
    scheduler.final_alpha_cumprod = scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


def _diffusers(kind, schedule, **options):
    scheduler = kind(
        num_train_timesteps=schedule.T, trained_betas=schedule.betas.numpy(), prediction_type="sample",
        clip_sample=False, timestep_spacing="trailing", **options,
    )  # fmt: skip
    scheduler.betas = schedule.betas
    return _in_float64(scheduler)


@pytest.mark.parametrize("part", [Linear(steps=1000), Cosine(steps=100), Align(steps=40)])
@pytest.mark.parametrize("steps", [1, 2, 10, 20])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_is_that_of_diffusers(part, steps, eta):
    schedule, net, x = part(), _net(), _start()
    noises = torch.randn(schedule.T, B, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    scheduler = _diffusers(DDIMScheduler, schedule)
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == schedule.grid(steps)
    expected = x
    for t in scheduler.timesteps:
        x0 = net(expected, t.expand(B))
        expected = scheduler.step(x0, int(t), expected, eta=eta, variance_noise=noises[t]).prev_sample

    found = ddim(net, x, schedule, steps, eta=eta, noise=lambda t: noises[t])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("part", [Linear(steps=200), Align(steps=32)])
def test_ddpm_is_that_of_diffusers(part):
    schedule, net, x = part(), _net(), _start()
    scheduler = _diffusers(DDPMScheduler, schedule)
    theirs, ours = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    expected = x
    for t in scheduler.timesteps:
        x0 = net(expected, t.expand(B))
        expected = scheduler.step(x0, int(t), expected, generator=theirs).prev_sample

    def noise(t: int) -> Tensor:
        return torch.randn(B, D, generator=ours, dtype=torch.float64)

    torch.testing.assert_close(ddpm(net, x, schedule, noise), expected, rtol=1e-9, atol=1e-9)


def test_ddim_with_the_noise_of_ddpm_on_the_full_grid_is_ddpm():
    schedule, net, x = Linear(steps=100)(), _net(), _start()
    noises = torch.randn(100, B, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    full = ddim(net, x, schedule, 100, eta=1.0, noise=noises.__getitem__)
    torch.testing.assert_close(full, ddpm(net, x, schedule, noises.__getitem__), rtol=1e-11, atol=1e-11)


def test_one_step_is_one_call_of_the_network():
    schedule, net, x = Linear(steps=50)(), _net(), _start()
    assert torch.equal(ddim(net, x, schedule, 1), net(x, torch.full((B,), 49)))


def test_ddim_converges_with_order_one_to_the_flow_of_gaussian_data():
    """For x_0 ~ N(m, s^2) the best denoiser and the flow it defines are known: (x_t - a m) / sqrt(a^2 s^2 + b^2) is
    constant along the flow. DDIM is Euler's method for it: half the step, half the error."""
    n, m, s = 2**15, 0.6, 0.5
    schedule = Schedule(torch.linspace(1e-4, 0.02, n, dtype=torch.float64) * 1000 / n)

    def best(x: Tensor, t: Tensor) -> Tensor:
        a, b = schedule.a(t)[:, None], schedule.b(t)[:, None]
        return m + s**2 * a / (s**2 * a**2 + b**2) * (x - a * m)

    x = torch.tensor([[-1.5], [0.3], [2.0]], dtype=torch.float64)
    a, b = schedule.a(n - 1), schedule.b(n - 1)
    exact = m + s * (x - a * m) / math.sqrt(a**2 * s**2 + b**2)
    errors = [float((ddim(best, x, schedule, steps) - exact).abs().max()) for steps in (64, 128, 256, 512)]
    ratios = [coarse / fine for coarse, fine in pairwise(errors)]
    assert errors[-1] < 0.01
    assert all(1.85 < ratio < 2.15 for ratio in ratios), (errors, ratios)


def test_ddpm_of_gaussian_data_has_the_variance_of_the_data():
    """With the best denoiser, ancestral sampling from pure noise gives back mean and spread of the data."""
    m, s, rows = 0.6, 0.5, 20_000
    schedule = Linear(steps=400)()

    def best(x: Tensor, t: Tensor) -> Tensor:
        a, b = schedule.a(t)[:, None], schedule.b(t)[:, None]
        return m + s**2 * a / (s**2 * a**2 + b**2) * (x - a * m)

    keys, noise = torch.arange(rows), Noise(0)
    start = schedule.a(399) * m + math.sqrt(schedule.a(399) ** 2 * s**2 + schedule.b(399) ** 2) * noise.normal(
        keys, 1, "x_T", torch.float64
    )
    x0 = ddpm(best, start, schedule, lambda t: noise.normal(keys, 1, f"step {t}", torch.float64))
    assert float(x0.mean()) == pytest.approx(m, abs=4 * s / math.sqrt(rows))
    assert float(x0.std()) == pytest.approx(s, rel=0.03)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_row_alone_is_the_row_in_the_batch(sampler):
    """Noise is keyed by row, so the answer for one user does not depend on the others; equal rows still differ."""
    torch.manual_seed(0)
    net, schedule, noise = MLPDenoiser(4).double(), Linear(steps=30)(), Noise(5)
    condition = torch.ones(1, 4, dtype=torch.float64)

    def sample(keys: Tensor) -> Tensor:
        x = noise.normal(keys, 4, "x_T", torch.float64)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            return net(x, t, condition.expand(len(x), -1))

        def eps(t: int) -> Tensor:
            return noise.normal(keys, 4, f"step {t}", torch.float64)

        if sampler == "ddpm":
            return ddpm(denoise, x, schedule, eps)
        return ddim(denoise, x, schedule, 10, eta=1.0, noise=eps)

    keys = torch.tensor([11, 12, 13])
    together = sample(keys)
    for i in range(3):
        torch.testing.assert_close(sample(keys[i : i + 1]), together[i : i + 1], rtol=1e-12, atol=1e-12)
    assert float((together[0] - together[1]).abs().min()) > 1e-6


def test_samplers_keep_the_dtype_and_hand_int64_steps_to_the_network():
    seen = []

    def net(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return 0.5 * x

    out = ddim(net, _start().float(), Linear(steps=10)(), 3)
    assert out.dtype == torch.float32
    assert [t.tolist() for t in seen] == [[9] * B, [6] * B, [2] * B]
    assert all(t.dtype == torch.int64 for t in seen)


def test_impossible_eta():
    schedule, net, x = Linear(steps=10)(), _net(), _start()
    with pytest.raises(ConfigError, match=r"eta = 0.5 needs noise.*Hint: give noise"):
        ddim(net, x, schedule, 5, eta=0.5)
    with pytest.raises(ConfigError, match=r"eta = 1.5 is not in \[0, 1\]"):
        ddim(net, x, schedule, 5, eta=1.5, noise=lambda t: x)
    with pytest.raises(ConfigError, match="leaves t = 9 adds noise, and none was given"):
        walk(net, x, ddpm_steps(schedule))

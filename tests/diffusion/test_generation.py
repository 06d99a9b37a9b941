"""Generation: the exact mean two ways against the average of many samples, samples against the algorithm by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from guiderec.diffusion.denoisers import LinearDenoiser, MLPDenoiser
from guiderec.diffusion.generation import Generation, Generator
from guiderec.diffusion.guidance import ClassifierFree, Conditions, PositiveNegative, Unguided
from guiderec.diffusion.schedule import Linear
from guiderec.errors import ConfigError
from guiderec.rng import Noise

DIM = 6
SCHEDULE = Linear(steps=40)()
DDIM = Generation(sampler="ddim", steps=8)
DDPM = Generation(sampler="ddpm", steps=None)
KEYS = torch.arange(3)


def make(generation: Generation = DDIM, network: type = LinearDenoiser) -> Generator:
    torch.manual_seed(0)
    return Generator(generation, SCHEDULE, network(DIM).double())


def conditions(rows: int = 3) -> Conditions:
    generator = torch.Generator().manual_seed(1)
    toward, null, away = torch.randn(3, rows, DIM, dtype=torch.float64, generator=generator)
    return Conditions(toward=toward, null=null, away=away)


def answer(generator: Generator, guidance: object = PositiveNegative(scale=2.0), **options: object) -> Tensor:
    with torch.no_grad():
        return generator(conditions(), guidance, Noise(0), KEYS, **options)


# ------------------------------------------------------------------------------------------------ one sample


def alpha_bar(t: int) -> float:
    return math.prod(1 - (1e-4 + (0.02 - 1e-4) * s / 39) for s in range(t + 1))


@pytest.mark.parametrize("network", [LinearDenoiser, MLPDenoiser])
@torch.no_grad()
def test_a_ddim_sample_is_the_algorithm(network: type):
    """SteerRec, Algorithm 2, with the predicted noise written out; steps round(j T / S) - 1 of T = 40, S = 8."""
    generator, c, w = make(DDIM.replace(start="noise"), network), conditions(), 2.0
    x = Noise(0).normal(KEYS, DIM, "x_T", torch.float64)
    grid = [39, 34, 29, 24, 19, 14, 9, 4]
    for t, previous in zip(grid, [*grid[1:], None], strict=True):
        steps = torch.full((3,), t)
        x0 = (1 + w) * generator.denoiser(x, steps, c.toward) - w * generator.denoiser(x, steps, c.away)
        eps = (x - math.sqrt(alpha_bar(t)) * x0) / math.sqrt(1 - alpha_bar(t))
        kept = 1.0 if previous is None else alpha_bar(previous)
        x = math.sqrt(kept) * x0 + math.sqrt(1 - kept) * eps
    torch.testing.assert_close(answer(generator), x, rtol=0, atol=1e-11)


@torch.no_grad()
def test_a_ddpm_sample_is_the_algorithm():
    """Ho et al. 2020, Algorithm 2, with the posterior of Eq. 7 and noise named by the step."""
    generator, c, w = make(DDPM.replace(start="noise")), conditions(), 2.0
    x = Noise(0).normal(KEYS, DIM, "x_T", torch.float64)
    for t in range(39, -1, -1):
        steps = torch.full((3,), t)
        x0 = (1 + w) * generator.denoiser(x, steps, c.toward) - w * generator.denoiser(x, steps, c.null)
        beta = 1e-4 + (0.02 - 1e-4) * t / 39
        now, before = alpha_bar(t), alpha_bar(t - 1)
        mean = math.sqrt(before) * beta / (1 - now) * x0 + math.sqrt(1 - beta) * (1 - before) / (1 - now) * x
        spread = math.sqrt(beta * (1 - before) / (1 - now))
        x = mean + (spread * Noise(0).normal(KEYS, DIM, f"step/{t}", torch.float64) if t > 0 else 0)
    torch.testing.assert_close(answer(generator, ClassifierFree(scale=w)), x, rtol=0, atol=1e-11)


def test_a_sample_depends_on_the_key_and_the_seed_of_its_row():
    generator, guidance = make(DDPM.replace(start="noise")), Unguided()
    c = conditions()
    with torch.no_grad():
        three = generator(c, guidance, Noise(0), KEYS)
        alone = Conditions(toward=c.toward[1:2])
        torch.testing.assert_close(generator(alone, guidance, Noise(0), KEYS[1:2]), three[1:2], rtol=0, atol=1e-13)
        assert not torch.allclose(generator(c, guidance, Noise(1), KEYS), three)
        assert not torch.allclose(generator(c, guidance, Noise(0), KEYS + 1), three)


# ------------------------------------------------------------------------------------------------ the mean


@pytest.mark.parametrize("generation", [DDIM, Generation(sampler="ddim", steps=1), DDPM], ids=["ddim", "one", "ddpm"])
@pytest.mark.parametrize("guidance", [PositiveNegative(scale=3.0), ClassifierFree(scale=1.5), Unguided()])
@torch.no_grad()
def test_the_mean_is_the_average_of_samples(generation: Generation, guidance: object):
    """Within 5 standard errors of 20,000 samples, in every coordinate; and both exact ways agree to rounding."""
    generator, c, n = make(generation), conditions(), 20_000
    mean = answer(generator, guidance)
    many = Conditions(**{name: getattr(c, name)[:1].expand(n, -1) for name in ("toward", "null", "away")})
    samples = generator.sample(many, guidance, Noise(7), torch.arange(n))
    error = samples.std(dim=0) / math.sqrt(n)
    assert (error > 0).all()
    assert ((samples.mean(dim=0) - mean[0]).abs() < 5 * error).all()
    composed = generator.compose().mean(guidance.extrapolate(c))
    torch.testing.assert_close(composed, mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(answer(generator, guidance), mean, rtol=0, atol=1e-12)  # now by the composed chain


@pytest.mark.parametrize("steps", [31, 32, 33, 40])
@torch.no_grad()
def test_few_and_many_steps_are_one_function(steps: int):
    """On both sides of the number of steps from which the chain is composed."""
    generator = make(Generation(sampler="ddim", steps=steps))
    g = conditions().toward
    x = torch.zeros(3, DIM, dtype=torch.float64)
    for step in generator.steps:
        x = step.keep * x + step.move * generator.denoiser(x, torch.full((3,), step.t), g)
    torch.testing.assert_close(generator.mean(g), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("start", ["mean", "noise"])
def test_without_strength_nothing_is_repelled(start: str):
    generator = make(DDIM.replace(start=start))
    plain = answer(generator, Unguided())
    for guidance in (PositiveNegative(scale=0.0), ClassifierFree(scale=0.0)):
        assert torch.equal(answer(generator, guidance), plain)
    assert torch.equal(answer(generator, PositiveNegative(scale=9.0), scale=0.0), plain)
    assert not torch.allclose(answer(generator, PositiveNegative(scale=9.0)), plain)


def test_the_scale_of_a_call_replaces_the_scale_of_the_guidance():
    generator = make()
    expected = answer(generator, PositiveNegative(scale=5.0))
    assert torch.equal(answer(generator, PositiveNegative(scale=1.0), scale=5.0), expected)


@torch.no_grad()
def test_guidance_is_a_shift_of_every_step():
    """F is linear: with w, each step is moved by w W_c (c+ - c-), whatever x_t and t are."""
    generator, c, w = make(DDIM.replace(start="noise")), conditions(), 4.0
    shift = w * (c.toward - c.away) @ generator.denoiser.from_condition.weight.T
    x = Noise(0).normal(KEYS, DIM, "x_T", torch.float64)
    for step in generator.steps:
        x = step.keep * x + step.move * (generator.denoiser(x, torch.full((3,), step.t), c.toward) + shift)
    torch.testing.assert_close(answer(generator, PositiveNegative(scale=w)), x, rtol=0, atol=1e-11)


# ------------------------------------------------------------------------------------------------ the composed chain


def step_with(**options: bool) -> Callable[[Generator], None]:
    def change(generator: Generator) -> None:
        optimizer = torch.optim.AdamW(generator.denoiser.parameters(), lr=1e-2, **options)
        c = conditions()
        generator.denoiser(c.away, torch.tensor([1, 5, 30]), c.toward).square().sum().backward()
        optimizer.step()

    return change


def load_others(generator: Generator) -> None:
    torch.manual_seed(9)
    generator.denoiser.load_state_dict(LinearDenoiser(DIM).state_dict())


def edit_one_number(generator: Generator) -> None:
    with torch.no_grad():
        generator.denoiser.from_condition.weight[3, 2] += 0.5


CHANGES = {
    "fused": step_with(fused=True),  # the kernel writes weights without counting it as a change
    "foreach": step_with(foreach=True),
    "plain": step_with(foreach=False),
    "load": load_others,
    "edit": edit_one_number,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_chain_is_composed_anew_when_weights_change(change: Callable[[Generator], None]):
    """A chain kept over an optimizer step made validation see the weights of the first epoch for ever."""
    generator = make(DDPM)
    before = answer(generator)
    kept = generator.compose()
    assert generator.compose() is kept
    change(generator)
    after = answer(generator)
    assert generator.compose() is not kept
    assert not torch.allclose(after, before)
    fresh = Generator(DDPM, SCHEDULE, generator.denoiser)
    torch.testing.assert_close(after, answer(fresh), rtol=0, atol=0)


def test_the_chain_follows_a_cast():
    generator = make(DDPM)
    generator.denoiser.float()
    assert generator.compose().G.dtype == torch.float32
    generator.denoiser.double()
    assert generator.compose().G.dtype == torch.float64
    assert answer(generator).dtype == torch.float64


def test_many_weights_are_watched_too():
    """Of a wide network only some numbers are compared; an optimizer step changes those as well."""
    torch.manual_seed(0)
    generator = Generator(DDPM, SCHEDULE, LinearDenoiser(80))
    kept = generator.compose()
    optimizer = torch.optim.AdamW(generator.denoiser.parameters(), lr=1e-6, fused=True)
    generator.denoiser(torch.randn(4, 80), torch.arange(4), torch.randn(4, 80)).square().sum().backward()
    optimizer.step()
    assert generator.compose() is not kept


def test_weights_made_in_inference_mode_can_be_composed():
    with torch.inference_mode():
        generator = make(DDPM)
        assert torch.isfinite(generator(conditions(), PositiveNegative(scale=2.0), Noise(0), KEYS)).all()


# ------------------------------------------------------------------------------------------------ what cannot be


def test_the_mean_needs_an_affine_denoiser():
    with pytest.raises(ConfigError, match=r'affine denoisers.* not for MLPDenoiser.*generation\.start to "noise"'):
        make(DDIM, MLPDenoiser)
    generator = make(DDIM.replace(start="noise"), MLPDenoiser)
    with pytest.raises(ConfigError, match="MLPDenoiser is not affine"):
        generator.compose()


@pytest.mark.parametrize("options", [{"sampler": "ddpm", "steps": 10}, {"sampler": "ddim", "steps": None}])
def test_steps_must_fit_the_sampler(options: dict[str, object]):
    with pytest.raises(ConfigError, match="'ddpm' takes steps = null"):
        Generation(**options)


def test_no_more_steps_than_the_schedule_has():
    with pytest.raises(ConfigError, match="40 steps cannot be sampled in 41"):
        make(Generation(sampler="ddim", steps=41))

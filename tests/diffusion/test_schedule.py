from __future__ import annotations

import doctest
import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from guiderec.config import Part
from guiderec.diffusion import schedule as module
from guiderec.diffusion.schedule import (
    Align,
    Cosine,
    Exponential,
    Linear,
    LinearVariance,
    Schedule,
    ScheduleConfig,
    SquareRoot,
    TruncatedLinear,
)
from guiderec.errors import ConfigError

PARTS = [Linear, Exponential, Cosine, SquareRoot, TruncatedLinear, Align, LinearVariance]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("steps", [1, 2, 10, 32, 1000])
def test_every_schedule_destroys_monotonically_in_float64(part, steps):
    schedule = part(steps=steps)()
    assert len(schedule.betas) == schedule.T
    assert steps == schedule.T
    assert schedule.betas.dtype == schedule.alpha_bar.dtype == torch.float64
    bars = [1.0, *schedule.alpha_bar.tolist()]
    assert all(later < earlier for earlier, later in pairwise(bars))
    torch.testing.assert_close(schedule.alpha_bar, torch.cumprod(1 - schedule.betas, 0), rtol=1e-9, atol=0)
    t = torch.arange(-1, steps)
    torch.testing.assert_close(schedule.a(t) ** 2 + schedule.b(t) ** 2, torch.ones(steps + 1, dtype=torch.float64))


@pytest.mark.parametrize(
    ("steps", "last"),
    [(100, 0.36), (200, 0.13), (400, 1.7e-2), (600, 2.3e-3), (800, 3.1e-4), (1000, 4.0e-5), (1200, 5.3e-6)],
)
def test_linear_ends_where_the_published_settings_say(steps, last):
    assert float(Linear(steps=steps)().alpha_bar[-1]) == pytest.approx(last, rel=0.03)


def test_linear_is_that_of_diffusers():
    other = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    schedule = Linear(steps=1000)()
    torch.testing.assert_close(schedule.betas.float(), other.betas, rtol=1e-6, atol=0)
    torch.testing.assert_close(schedule.alpha_bar.float(), other.alphas_cumprod, rtol=1e-4, atol=0)


def test_cosine_is_that_of_diffusers_where_neither_clips():
    other = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2").betas
    betas = Cosine(steps=1000)().betas
    free = (betas > 1e-4) & (other < 0.999)
    assert int(free.sum()) > 950
    torch.testing.assert_close(betas[free].float(), other[free], rtol=1e-4, atol=1e-7)
    assert float(betas.min()) == 1e-4
    assert float(betas.max()) == 0.9999


def test_exponential_is_its_formula():
    betas = Exponential(steps=500)().betas
    for i in (0, 1, 250, 499):
        x = 1 + i * (2 * 500 + 1 - 1) / (500 - 1)
        expected = 1 - math.exp(-0.1 / 500 - 0.5 * x * (10 - 0.1) / 500**2)
        assert float(betas[i]) == pytest.approx(expected, rel=1e-10)


def test_square_root_follows_its_curve_until_the_cap():
    schedule = SquareRoot(steps=2000)()
    start = 1 - math.sqrt(1e-4)
    for t in (0, 10, 1000, 1990):
        expected = (1 - math.sqrt((t + 1) / 2000 + 1e-4)) / start  # the table starts from alpha_bar = 1
        assert float(schedule.alpha_bar[t]) == pytest.approx(expected, rel=1e-9)
    assert float(schedule.betas[-1]) == 0.999


def test_truncated_linear_is_that_of_diffurec():
    schedule = TruncatedLinear(steps=32)()
    assert float(schedule.betas[0]) == pytest.approx(0.0131, abs=5e-5)
    assert float(schedule.betas[-1]) == pytest.approx(0.635, abs=5e-4)
    assert schedule.alpha_bar[[0, 7, 15, 31]].tolist() == pytest.approx([0.987, 0.494, 0.052, 9.9e-7], rel=0.01)
    short = TruncatedLinear(steps=10)()  # 100 * 0.02 + 0.01 would be above 1
    assert float(short.betas[-1]) == pytest.approx(100 * 0.001 + 0.01)


def test_align_is_equation_5():
    schedule = Align(steps=32)()
    assert schedule.alpha_bar[:2].tolist() == pytest.approx([0.875, 0.74375])
    assert float(schedule.alpha_bar[16]) < 1e-3 < float(schedule.alpha_bar[15])
    assert float(schedule.alpha_bar[-1]) == pytest.approx(1.3e-7, rel=0.05)
    assert float(schedule.betas.max()) == pytest.approx(0.1 + 0.8 * 25 / 32)  # 25 is the last t <= 0.8 T
    tenth = Align(steps=10)().betas
    assert tenth.tolist() == pytest.approx([0.18, 0.26, 0.34, 0.42, 0.5, 0.58, 0.66, 0.74, 0.09, 0.09])


def test_minus_one_is_clean_for_numbers_and_tensors():
    schedule = Linear(steps=10)()
    assert (schedule.a(-1), schedule.b(-1)) == (1.0, 0.0)
    t = torch.tensor([-1, 0, 9])
    assert schedule.a(t).tolist() == [schedule.a(-1), schedule.a(0), schedule.a(9)]
    assert schedule.b(t).tolist() == [schedule.b(-1), schedule.b(0), schedule.b(9)]
    assert schedule.a(0) == pytest.approx(math.sqrt(1 - 1e-4), rel=1e-15)
    assert schedule.b(0) == pytest.approx(0.01, rel=1e-15)  # a product of alphas would lose four digits here


@pytest.mark.parametrize("t", [-2, 10])
def test_steps_outside_of_the_table_are_errors(t):
    schedule = Linear(steps=10)()
    with pytest.raises(IndexError):
        schedule.a(t)
    with pytest.raises((IndexError, RuntimeError)):
        schedule.a(torch.tensor([0, t]))


def test_the_example_of_the_docstring():
    assert doctest.testmod(module).failed == 0


def test_grid_of_even_division():
    assert Linear(steps=1000)().grid(10) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert Linear(steps=1000)().grid(1) == [999]


@given(st.integers(1, 4000).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_grid_is_distinct_descending_and_nearest(case):
    n, steps = case
    grid = Schedule(torch.full((n,), 0.1)).grid(steps)
    assert len(grid) == steps
    assert grid[0] == n - 1
    assert grid[-1] >= 0
    assert all(s < t for t, s in pairwise(grid))
    assert all(abs(t + 1 - j * n / steps) <= 0.5 + 1e-9 for t, j in zip(grid, range(steps, 0, -1), strict=True))


@pytest.mark.parametrize("steps", [0, -1, 11])
def test_grid_of_impossible_length(steps):
    with pytest.raises(ConfigError, match=f"10 steps cannot be sampled in {steps}.*choose 1 to 10"):
        Linear(steps=10)().grid(steps)


def test_impossible_betas_are_counted_and_located():
    with pytest.raises(ConfigError, match=r"2 of 4 are not \(first: step 1, 0\)"):
        Schedule(torch.tensor([0.1, 0.0, 0.2, float("nan")]))
    with pytest.raises(ConfigError, match=r"got \(0,\)"):
        Schedule(torch.empty(0))


class _Model(Part):
    schedule: ScheduleConfig = Linear()


NAMES = ["linear", "exp", "cosine", "sqrt", "trunc_lin", "align", "linear_var"]


@pytest.mark.parametrize(("name", "part"), list(zip(NAMES, PARTS, strict=True)))
def test_configurations_survive_plain_data(name, part):
    model = _Model(schedule=part(steps=7))
    assert model.to_plain()["schedule"]["name"] == name
    assert _Model.from_plain(model.to_plain()) == model
    assert isinstance(TypeAdapter(ScheduleConfig).validate_python({"name": name}), part)


@pytest.mark.parametrize(("steps", "scale", "low", "high"), [(5, 1e-4, 5e-4, 5e-3), (40, 0.005, 0.005, 0.01)])
def test_linear_variance_is_a_line_but_for_the_first_beta(steps: int, scale: float, low: float, high: float):
    """DiffRec's settings for Amazon-book and ML-1M, with alpha_bar from the line in plain arithmetic."""
    line = [1 - scale * (low + (high - low) * t / (steps - 1)) for t in range(steps)]
    straight = LinearVariance(steps=steps, scale=scale, low=low, high=high, first=None)()
    assert straight.alpha_bar.tolist() == pytest.approx(line, rel=1e-14)
    replaced = LinearVariance(steps=steps, scale=scale, low=low, high=high)()
    assert float(replaced.betas[0]) == 1e-5
    assert replaced.betas[1:].tolist() == straight.betas[1:].tolist()
    assert replaced.alpha_bar.tolist() == pytest.approx([(1 - 1e-5) * bar / line[0] for bar in line], rel=1e-14)


def test_linear_variance_that_cannot_be():
    with pytest.raises(ConfigError, match=r"low = 0.01 must be below high = 0.005"):
        LinearVariance(low=0.01)
    with pytest.raises(ConfigError, match=r"scale \* high = 1.5 must be below 1"):
        LinearVariance(scale=300.0)

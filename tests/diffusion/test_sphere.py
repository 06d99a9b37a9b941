"""Chains brought back to a surface, noise drawn ahead of a chain, and the softmax against a row's negatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from guiderec.diffusion.generation import step_noise
from guiderec.diffusion.objectives import draw, softmax_against
from guiderec.diffusion.samplers import Step, ddim_steps, ddpm_steps, walk
from guiderec.diffusion.schedule import Exponential
from guiderec.diffusion.sphere import AllOnSphere, Flat, StatesOnSphere
from guiderec.errors import ConfigError
from guiderec.rng import Noise, subkeys

SCHEDULE = Exponential(steps=12)()
KEYS = torch.tensor([4, 9])


@pytest.mark.parametrize(
    ("part", "state", "vector"),
    [(Flat(), False, False), (StatesOnSphere(), True, False), (AllOnSphere(), True, True)],
)
def test_what_has_length_one(part: Flat | StatesOnSphere | AllOnSphere, state: bool, vector: bool):
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    short = torch.tensor([[0.6, 0.8], [0.0, 0.0]])  # zero has no direction and stays
    torch.testing.assert_close(part.state(x), short if state else x)
    torch.testing.assert_close(part.vector(x), short if vector else x)
    assert part.temperature == (0.1 if vector else 1.0)


def test_a_temperature_where_nothing_divides_by_it_is_refused():
    for part in (Flat, StatesOnSphere):
        with pytest.raises(ConfigError, match="temperature"):
            part.from_plain({"temperature": 0.2})


# ------------------------------------------------------------------------------------------------ projected chains


def test_every_step_starts_from_the_projected_state():
    """By hand: the network sees, and the step keeps, a state of length 1; the result of the last step is left alone."""
    x_T = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    seen: list[Tensor] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x)
        return 2 * x + t[:, None]

    steps = [Step(2, 0.5, 0.25, 0.0), Step(1, 0.1, 0.2, 0.0)]
    found = walk(denoise, x_T, steps, project=StatesOnSphere().state)
    first = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    second = 0.5 * first + 0.25 * (2 * first + 2)
    second = second / math.sqrt(float(second.square().sum()))
    torch.testing.assert_close(torch.cat(seen), torch.cat([first, second]))
    torch.testing.assert_close(found, 0.1 * second + 0.2 * (2 * second + 1))


@pytest.mark.parametrize("steps", [ddpm_steps(SCHEDULE), ddim_steps(SCHEDULE, 4)])
def test_no_projection_is_the_chain_in_space(steps: list[Step]):
    x = torch.randn(2, 3, dtype=torch.float64)
    noise = step_noise(Noise(0), KEYS, 3, steps, torch.float64)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return 0.3 * x + 0.1

    assert torch.equal(walk(denoise, x, steps, noise, project=Flat().state), walk(denoise, x, steps, noise))


# ------------------------------------------------------------------------------------------------ noise


@pytest.mark.parametrize("rows_ahead", [1, 5, 8192])
def test_noise_is_named_by_row_and_step_however_much_is_drawn(rows_ahead: int):
    steps = ddpm_steps(SCHEDULE)
    of = step_noise(Noise(3), KEYS, 6, steps, torch.float64, rows_ahead=rows_ahead)
    asked = [step.t for step in steps if step.spread > 0]
    assert asked == list(range(11, 0, -1))
    drawn = torch.stack([of(t) for t in asked])
    for i, t in enumerate(asked):
        expected = Noise(3).normal(subkeys(KEYS, torch.tensor(t)), 6, "step", torch.float64)
        assert torch.equal(drawn[i], expected)
    assert len(drawn.flatten().unique()) == drawn.numel()


def test_noise_of_a_scale():
    x0, keys = torch.zeros(4000, 4, dtype=torch.float64), torch.arange(4000)
    long, short = (draw(x0, SCHEDULE, Noise(0), keys, scale=scale) for scale in (1.0, 0.5))
    torch.testing.assert_close(short.eps, 0.5 * long.eps)
    torch.testing.assert_close(short.x_t, 0.5 * long.x_t)
    assert torch.equal(short.t, long.t)
    assert float(long.eps.std()) == pytest.approx(1.0, abs=0.03)


# ------------------------------------------------------------------------------------------------ softmax


def test_softmax_against_negatives_is_the_formula():
    predicted, target = torch.randn(2, 3, 5, dtype=torch.float64)
    negatives = torch.randn(3, 4, 5, dtype=torch.float64)
    real = torch.tensor([[True] * 4, [True, False, True, False], [False] * 4])
    for tau in (1.0, 0.2):
        total = 0.0
        for i in range(3):
            wanted = math.exp(float(predicted[i] @ target[i]) / tau)
            others = [math.exp(float(predicted[i] @ negatives[i, n]) / tau) for n in range(4) if real[i, n]]
            total += -math.log(wanted / (wanted + sum(others)))
        found = softmax_against(predicted, target, negatives, real, temperature=tau)
        assert float(found) == pytest.approx(total / 3, rel=1e-10)

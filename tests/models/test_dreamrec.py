"""DreamRec: its loss by hand, and the mean of its ancestral sampling by the recursion of the posterior."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from guiderec.models.dreamrec import DreamRec, DreamRecConfig
from guiderec.rng import Noise
from guiderec.testing.oracles import batch_of

ITEMS, DIM, T = 30, 8, 40
ROWS = [([1, 2, 3], 4), ([5, 6], 7), ([8], 9), ([], 4)]
BETAS = [1e-4 + (0.02 - 1e-4) * s / (T - 1) for s in range(T)]


def make(**options: Any) -> DreamRec:
    torch.manual_seed(0)
    plain = {"dim": DIM, "max_length": 4, "dropout": 0.0, "schedule": {"name": "linear", "steps": T}}
    return DreamRec(DreamRecConfig.from_plain({**plain, **options}), ITEMS).double().eval()


def alpha_bar(t: int) -> float:
    return math.prod(1 - beta for beta in BETAS[: t + 1])


def joined(model: DreamRec, x: Tensor, condition: Tensor, t: int) -> Tensor:
    """One Linear on [x_t ; c ; time(t)], the public layout."""
    network = model.denoiser
    weight = torch.cat([network.from_state.weight, network.from_condition.weight, network.from_time.weight], dim=1)
    time = network.time(torch.full((len(x),), t))
    return torch.cat([x, condition, time], dim=1) @ weight.T + network.from_time.bias


@pytest.mark.parametrize("p_uncond", [0.0, 0.5])
@torch.no_grad()
def test_loss_is_the_squared_error_by_hand(p_uncond: float):
    model, batch, noise = make(p_uncond=p_uncond), batch_of(ROWS, first_key=3), Noise(1)
    t = noise.integers(batch.key, 1, T, "draw/t")[:, 0].tolist()
    eps = noise.normal(batch.key, DIM, "draw/eps", torch.float64)
    dropped = (noise.uniform(batch.key, 1, "drop_condition")[:, 0] < p_uncond).tolist()
    assert p_uncond == 0 or len(set(dropped)) == 2
    total = 0.0
    for row, (_, target) in enumerate(ROWS):
        x0 = model.items.weight[target][None]
        x_t = math.sqrt(alpha_bar(t[row])) * x0 + math.sqrt(1 - alpha_bar(t[row])) * eps[row]
        condition = model.null[None] if dropped[row] else model.encode(batch.rows(slice(row, row + 1)))
        total += sum(error * error for error in (joined(model, x_t, condition, t[row]) - x0)[0].tolist()) / DIM
    assert model.loss(batch, noise)["loss"].item() == pytest.approx(total / len(ROWS), abs=1e-12)


def test_detached_targets_get_no_gradient_of_their_own():
    for detach in (False, True):
        model = make(detach_target=detach)
        model.loss(batch_of([([1, 2], 20), ([3], 21)]), Noise(0))["loss"].backward()
        assert bool(model.items.weight.grad[[20, 21]].any()) is not detach


@torch.no_grad()
def test_the_mean_of_ancestral_sampling():
    """The mean of x_{t-1} is linear in x_t, so it follows the posterior's own recursion, from 0 at t = T."""
    model, query, w = make(guidance={"name": "cfg", "scale": 4.0}), batch_of(ROWS), 4.0
    toward, null = model.encode(query), model.null.expand(len(ROWS), -1)
    x = torch.zeros(len(ROWS), DIM, dtype=torch.float64)
    for t in range(T - 1, -1, -1):
        x0 = (1 + w) * joined(model, x, toward, t) - w * joined(model, x, null, t)
        now, before = alpha_bar(t), alpha_bar(t - 1)
        x = BETAS[t] * math.sqrt(before) / (1 - now) * x0 + (1 - before) * math.sqrt(1 - BETAS[t]) / (1 - now) * x
    found = model.user_vectors(query, Noise(0))[:, 0]
    torch.testing.assert_close(found, x, rtol=0, atol=1e-10)
    assert torch.equal(model.user_vectors(query, Noise(1))[:, 0], found)  # no noise is left in it


@torch.no_grad()
def test_samples_scatter_around_the_mean():
    """Within 5 standard errors of the average over 3000 keys, in every coordinate."""
    mean = make()
    sampled = make(generation={"sampler": "ddpm", "steps": None, "start": "noise"})
    n = 3000
    one = batch_of([ROWS[0]])
    query = type(one)(history=one.history.expand(n, -1), key=torch.arange(n), target=one.target.expand(n))
    samples = sampled.user_vectors(query, Noise(0))[:, 0]
    error = samples.std(dim=0) / math.sqrt(n)
    assert (error > 0).all()
    assert ((samples.mean(dim=0) - mean.user_vectors(one, Noise(0))[0, 0]).abs() < 5 * error).all()


def test_validation_after_each_epoch_sees_the_new_weights():
    """The chain of 40 steps is kept composed; the fused optimizer of the training loop must not leave it behind."""
    model, batch = make(), batch_of(ROWS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    for step in range(3):
        with torch.inference_mode():
            model.eval().scores(batch, Noise(0))  # the validation before, which composes
        optimizer.zero_grad()
        model.train().loss(batch, Noise(0).at(step))["loss"].backward()
        optimizer.step()
        fresh = make()
        fresh.load_state_dict(model.state_dict())
        with torch.inference_mode():
            assert torch.equal(model.eval().scores(batch, Noise(0)), fresh.scores(batch, Noise(0)))


def test_defaults_are_the_authors_settings_for_zhihu():
    config = DreamRecConfig()
    assert (config.dim, config.heads, config.residual, config.dropout, config.p_uncond) == (64, 1, "inner", 0.1, 0.1)
    assert config.schedule.to_plain() == {"name": "linear", "steps": 500, "start": 1e-4, "end": 0.02}
    assert config.guidance.to_plain() == {"name": "cfg", "scale": 4.0}
    assert (config.generation.sampler, config.generation.steps) == ("ddpm", None)

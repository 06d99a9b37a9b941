"""DiffRec: its loss and its chain by loops over scalars; a planted co-occurrence; options that cannot be."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from guiderec.errors import ConfigError
from guiderec.models.diffrec import DiffRec, DiffRecConfig
from guiderec.rng import Noise
from guiderec.testing.oracles import batch_of, sequences_of

ITEMS, T = 7, 4
ROWS = [([1, 2, 3], 4), ([5, 6], 7), ([7], 1), ([], 4)]
PLAIN: dict[str, Any] = {
    "hidden": [6],
    "time_dim": 4,
    "schedule": {"name": "linear_var", "steps": T, "scale": 0.5, "low": 0.1, "high": 0.8},
}


def make(**options: Any) -> DiffRec:
    torch.manual_seed(0)
    return DiffRec(DiffRecConfig.from_plain({**PLAIN, **options}), ITEMS).double().eval()


def alpha_bar(t: int) -> float:
    """The line 1 - 0.05 ... 1 - 0.4, with the first beta 1e-5 in place of 0.05; 1 before the first step."""
    if t < 0:
        return 1.0
    line = [1 - (0.05 + 0.35 * s / (T - 1)) for s in range(T)]
    return (1 - 1e-5) * line[t] / line[0]


def restored(model: DiffRec, x: Tensor, t: int) -> Tensor:
    """The network on one vector (I,), as one layer on [x ; W time(t)]."""
    net = model.denoiser
    wave = [math.sin(t), math.sin(t / 10_000), math.cos(t), math.cos(t / 10_000)]
    time = net.time.weight @ torch.tensor(wave, dtype=torch.float64) + net.time.bias
    weight = torch.cat([net.from_state.weight, net.from_time.weight], dim=1)
    hidden = torch.tanh(weight @ torch.cat([x, time]) + net.from_time.bias)
    return net.layers[0].weight @ hidden + net.layers[0].bias


def hot(*items: int) -> Tensor:
    return torch.tensor([float(j in items) for j in range(1, ITEMS + 1)], dtype=torch.float64)


@pytest.mark.parametrize("reweight", [True, False])
@pytest.mark.parametrize("answer", ["profile", "next_item", "target"])
@torch.no_grad()
def test_loss_by_hand(answer: str, reweight: bool):
    model, batch, noise = make(answer=answer, reweight=reweight, timesteps="uniform"), batch_of(ROWS), Noise(1)
    t = noise.integers(batch.key, 1, T, "draw/t")[:, 0].tolist()
    eps = noise.normal(batch.key, ITEMS, "draw/eps", torch.float64)
    assert {0, *t} != {0}
    total = 0.0
    for row, (history, target) in enumerate(ROWS):
        shown = hot(*history, target) if answer == "profile" else hot(*history)
        wanted = hot(target) if answer == "target" else hot(*history, target)
        bar = alpha_bar(t[row])
        x_t = math.sqrt(bar) * shown + math.sqrt(1 - bar) * eps[row]
        ratio = [alpha_bar(s) / (1 - alpha_bar(s)) for s in range(T)]
        weight = ratio[t[row] - 1] - ratio[t[row]] if reweight and t[row] > 0 else 1.0
        total += weight * float((restored(model, x_t, t[row]) - wanted).square().mean())
    assert float(model.loss(batch, noise)["loss"]) == pytest.approx(total / len(ROWS), rel=1e-9)


@torch.no_grad()
def test_the_chain_goes_to_the_mean_that_bayes_rule_gives():
    """x_{t-1} given x_t and x_0 is proportional to q(x_t | x_{t-1}) q(x_{t-1} | x_0): its mean, on a grid, per item."""
    model, batch = make(), batch_of(ROWS)
    grid = torch.linspace(-6, 6, 60_001, dtype=torch.float64)
    for row, (history, _) in enumerate(ROWS):
        x = hot(*history)
        for t in range(T - 1, 0, -1):
            x0, beta, before = restored(model, x, t), 1 - alpha_bar(t) / alpha_bar(t - 1), alpha_bar(t - 1)
            means = []
            for item in range(ITEMS):
                log_p = -((x[item] - math.sqrt(1 - beta) * grid) ** 2) / (2 * beta)
                log_p = log_p - (grid - math.sqrt(before) * x0[item]) ** 2 / (2 * (1 - before))
                p = (log_p - log_p.max()).exp()
                means.append(float((p * grid).sum() / p.sum()))
            x = torch.tensor(means, dtype=torch.float64)
        torch.testing.assert_close(model.scores(batch, Noise(0))[row, 1:], restored(model, x, 0), rtol=0, atol=1e-4)


@torch.no_grad()
def test_sampling_steps_noise_the_profile_of_the_request():
    still, noisy, batch = make(), make(sampling_steps=2), batch_of(ROWS)
    bar = alpha_bar(1)
    eps = Noise(3).normal(batch.key, ITEMS, "x_T", torch.float64)
    profile = torch.stack([hot(*history) for history, _ in ROWS])
    expected = still.restore(math.sqrt(bar) * profile + math.sqrt(1 - bar) * eps, batch.key, Noise(0))
    torch.testing.assert_close(noisy.scores(batch, Noise(3))[:, 1:], expected)
    assert torch.equal(still.scores(batch, Noise(3)), still.scores(batch, Noise(0)))


def test_initial_weights_are_those_of_whole_layers():
    """N(0, 2 / (in + out)) with `in` the width of [x ; time]; biases N(0, 0.001^2)."""
    torch.manual_seed(0)
    net = DiffRec(DiffRecConfig(hidden=(400,)), 600).requires_grad_(False).denoiser
    first = torch.cat([net.from_state.weight, net.from_time.weight], dim=1)
    assert float(first.std()) == pytest.approx(math.sqrt(2 / (610 + 400)), rel=0.02)
    assert float(net.layers[0].weight.std()) == pytest.approx(math.sqrt(2 / 1000), rel=0.02)
    assert float(net.layers[0].bias.std()) == pytest.approx(0.001, rel=0.2)


@pytest.mark.parametrize("profile", ["multi_hot", "time_weighted"])
def test_a_planted_co_occurrence_is_restored(profile: str):
    """Items come in groups of four. Shown some of a group, the rest of it comes before all other items.

    With the answer "profile" the history itself is on top, as the header says.
    """
    groups = [list(range(4 * g + 1, 4 * g + 5)) for g in range(6)]
    generator = torch.Generator().manual_seed(0)
    rows = []
    for g in torch.randint(6, (200,), generator=generator).tolist():
        order = [groups[g][i] for i in torch.randperm(4, generator=generator).tolist()]
        rows.append((order[:-1], order[-1]))
    torch.manual_seed(1)
    config = DiffRecConfig.from_plain({"hidden": [32], "profile": {"name": profile}})
    model = DiffRec(config, 24)
    model.prepare(sequences_of(rows))
    batch, noise = batch_of(rows), Noise(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(150):
        optimizer.zero_grad()
        model.train().loss(batch, noise.at(step))["loss"].backward()
        optimizer.step()
    assert (model.timesteps.count == 10).all()
    with torch.no_grad():
        scores = model.eval().scores(batch_of([(group[:2], group[2]) for group in groups]), noise)[:, 1:]
    for group, row in zip(groups, scores, strict=True):
        assert sorted((row.argsort(descending=True)[:4] + 1).tolist()) == group


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling_steps": 6}, r"sampling_steps = 6 is more than T = 5"),
        ({"hidden": (10, 0)}, r"hidden = \(10, 0\): widths must be at least 1"),
        ({"hidden": ()}, r"'hidden' = \(\)"),
        ({"answer": "history"}, r"'answer' = 'history'"),
        ({"schedule": {"name": "linear_var", "low": 2.0, "high": 1.0}}, r"low = 2.0 must be below high = 1.0"),
        ({"schedule": {"name": "linear_var", "scale": 200.0}}, r"scale \* high = 1 must be below 1"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        DiffRecConfig.from_plain(options)

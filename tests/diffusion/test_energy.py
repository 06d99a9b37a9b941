"""Energies: their gradient against closed forms and finite differences, every objective by hand, and what a correction
does to a prediction after a toy energy has been fitted.
"""

from __future__ import annotations

import gc
import math
import weakref
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guiderec.diffusion.energy import (
    Adversarial,
    Correction,
    GradientPenalty,
    MLPNetwork,
    NoEnergy,
    ScoreMatching,
    TransformerNetwork,
    gradient,
)
from guiderec.diffusion.objectives import Draw, draw
from guiderec.diffusion.schedule import TruncatedLinear
from guiderec.rng import Noise

B, D, T = 5, 8, 32
PROCESS = TruncatedLinear(steps=T)()
NOISE, KEY = Noise(3), torch.arange(10, 10 + B)
NETWORKS = [
    MLPNetwork(layers=1),
    MLPNetwork(layers=3),
    MLPNetwork(layers=6),
    TransformerNetwork(tokens=2, heads=2),
]


def ids(network: Any) -> str:
    return f"{network.name}-{network.layers}"


def vectors(n: int = B, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def built(network: Any, *, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    energy = network.build(D).to(dtype).eval()
    for parameter in energy.parameters():  # biases of 0 would hide mistakes
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return energy


class Quadratic(nn.Module):
    """E(x) = k/2 ||x - c||^2, so S(x) = k (x - c)."""

    def __init__(self, centre: float = 0.3, stiffness: float = 1.7) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.full((D,), centre, dtype=torch.float64))
        self.stiffness = stiffness

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * self.stiffness * (x - self.centre).square().sum(dim=1)


class Flat(nn.Module):
    """A constant energy that still depends on x for autograd: S = 0."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.sum(dim=1) + 5


# ------------------------------------------------------------------------------------------------ the gradient


def test_gradient_of_a_quadratic_is_linear():
    x = vectors()
    torch.testing.assert_close(gradient(Quadratic(), x), 1.7 * (x - 0.3), rtol=0, atol=1e-14)


@pytest.mark.parametrize("network", NETWORKS, ids=ids)
def test_gradient_is_the_central_difference(network: Any):
    energy, x, step = built(network), vectors(), 1e-5
    slopes = torch.zeros_like(x)
    with torch.no_grad():
        for column in range(D):
            shift = torch.zeros(D, dtype=torch.float64)
            shift[column] = step
            slopes[:, column] = (energy(x + shift) - energy(x - shift)) / (2 * step)
    found = gradient(energy, x)
    assert found.norm(dim=1).min() > 1e-3
    torch.testing.assert_close(found, slopes, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("network", NETWORKS, ids=ids)
def test_gradient_can_be_differentiated_for_x_and_weights(network: Any):
    """What score matching needs: the numerical second derivative."""
    energy = built(network)
    x = vectors(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: gradient(energy, x), x)
    gradient(energy, vectors()).square().sum().backward()
    for name, parameter in energy.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name  # no weight idles: neither an output bias nor queries of one token


@pytest.mark.parametrize("network", NETWORKS, ids=ids)
def test_rows_are_independent(network: Any):
    energy, x = built(network), vectors()
    together = gradient(energy, x)
    alone = torch.cat([gradient(energy, x[row : row + 1]) for row in range(B)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-14)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("network", NETWORKS, ids=ids)
def test_works_where_nothing_is_recorded(network: Any, mode: Any):
    """On inference tensors too: the same numbers, no graph behind them, no gradient left on weights."""
    energy = built(network)
    recorded = gradient(energy, vectors().requires_grad_()).detach()
    with mode():
        x = vectors() * 1.0  # made here: an inference tensor in inference mode
        assert x.is_inference() == (mode is torch.inference_mode)
        found = gradient(energy, x)
        moved = x - 0.1 * found
        assert torch.is_grad_enabled() is False
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    torch.testing.assert_close(found, recorded, rtol=0, atol=0)
    assert not found.requires_grad
    assert not moved.requires_grad
    assert all(parameter.grad is None for parameter in energy.parameters())


def test_nothing_of_the_graph_outlives_the_call():
    """Every tensor that the graph saved is gone when the call returns; with recording it is still there."""
    energy, kept = built(MLPNetwork()), []

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    def pack(tensor: Tensor) -> Saved:
        saved = Saved(tensor)
        kept.append(weakref.ref(saved))
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        with torch.inference_mode():
            x = vectors() * 1.0
            for _ in range(3):
                x = x - 0.1 * gradient(energy, x)
        gc.collect()
        assert len(kept) > 3
        assert not [reference for reference in kept if reference() is not None]
        recorded = gradient(energy, vectors())
    assert [reference for reference in kept if reference() is not None]
    del recorded


@pytest.mark.parametrize("network", NETWORKS, ids=ids)
def test_autocast_does_not_reach_it(network: Any):
    energy, x = built(network, dtype=torch.float32), vectors(dtype=torch.float32)
    plain = gradient(energy, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = gradient(energy, x)
        half = gradient(energy, x.bfloat16())
    assert torch.equal(mixed, plain)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), plain, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("layers", "linear"), [(1, 2), (3, 4), (6, 7)])
def test_an_mlp_has_so_many_hidden_layers(layers: int, linear: int):
    """Table 4 counts hidden layers: 1 is D -> 2D -> 1, 3 is D -> 2D -> 2D -> 2D -> 1."""
    weights = [m.weight.shape for m in MLPNetwork(layers=layers).build(D).modules() if isinstance(m, nn.Linear)]
    assert len(weights) == linear
    assert weights[0] == (2 * D, D)
    assert weights[-1] == (1, 2 * D)
    assert all(shape == (2 * D, 2 * D) for shape in weights[1:-1])


@pytest.mark.parametrize("layers", [1, 3])
@torch.no_grad()
def test_an_mlp_one_number_at_a_time(layers: int):
    """ELU after the first hidden layer, the exact GELU after every other, and no bias at the end."""
    energy, x = built(MLPNetwork(layers=layers)), vectors()
    hidden = [module for module in energy.hidden if isinstance(module, nn.Linear)]
    for row, found in zip(x.tolist(), energy(x).tolist(), strict=True):
        values = row
        for number, layer in enumerate(hidden):
            sums = [
                b + sum(w * value for w, value in zip(weights, values, strict=True))
                for weights, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            ]
            if number == 0:
                values = [v if v > 0 else math.exp(v) - 1 for v in sums]
            else:
                values = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in sums]
        expected = sum(w * value for w, value in zip(energy.output.weight[0].tolist(), values, strict=True))
        assert found == pytest.approx(expected, rel=1e-9)


@torch.no_grad()
def test_a_transformer_one_row_and_piece_at_a_time():
    energy, x = built(NETWORKS[3]), vectors()
    for row, found in zip(x, energy(x).tolist(), strict=True):
        states = torch.stack([energy.entry(row[4 * i : 4 * i + 4]) + energy.places[i] for i in range(2)])[None]
        for block in energy.blocks:
            states = block(states, torch.ones(1, 1, 2, 2, dtype=torch.bool))
        middle = (states[0, 0] + states[0, 1]) / 2
        centred = middle - middle.mean()
        normed = energy.norm.weight * centred / (centred.square().mean() + energy.norm.eps).sqrt()
        assert found == pytest.approx(float(normed @ energy.output.weight[0]), rel=1e-9)


@pytest.mark.parametrize("kind", [MLPNetwork, TransformerNetwork])
def test_energies_drop_out_in_training_alone(kind: Any):
    x = vectors(64, dtype=torch.float32)
    for dropout in (0.5, 0.0):
        energy = kind(dropout=dropout).build(D)
        first, second = energy.train()(x), energy(x)
        assert torch.equal(first, second) == (dropout == 0)
        assert torch.equal(energy.eval()(x), energy(x))


def test_an_mlp_begins_uniform_and_without_biases():
    """Within the bounds of Xavier and over all of their range."""
    for layer in MLPNetwork().build(64).modules():
        if isinstance(layer, nn.Linear):
            bound = math.sqrt(6 / sum(layer.weight.shape))
            assert 0.9 * bound < float(layer.weight.detach().abs().max()) <= bound
            assert layer.bias is None or not layer.bias.any()


def test_tokens_must_divide_the_width():
    with pytest.raises(ValueError, match="a width of 8 cannot be cut into 3 tokens"):
        TransformerNetwork(tokens=3, heads=2).build(D)


# ------------------------------------------------------------------------------------------------ correction


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 8])
def test_k_corrections_of_a_quadratic_in_closed_form(steps: int):
    """x - c shrinks by (1 - Omega k) each time."""
    part, energy, x = ScoreMatching(correction=Correction(step_size=0.2, steps=steps)), Quadratic(), vectors()
    expected = 0.3 + (1 - 0.2 * 1.7) ** steps * (x - 0.3)
    torch.testing.assert_close(part.correction(part.score(energy), x), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("correction", [Correction(step_size=0.0, steps=3), Correction(steps=0)])
def test_no_correction_never_asks_the_energy(correction: Correction):
    def fail(x: Tensor) -> Tensor:
        raise AssertionError

    x = vectors()
    assert correction(fail, x) is x


@pytest.mark.parametrize("where", ["every_step", "end"])
def test_where_the_correction_stands(where: str):
    part, energy, x = ScoreMatching(correction=Correction(where=where)), Quadratic(), vectors()
    moved = x - 0.1 * 1.7 * (x - 0.3)
    denoise = part.every_step(lambda x_t, t: x_t, energy)
    at_step, at_end = denoise(x, torch.zeros(B)), part.at_end(x, energy)
    torch.testing.assert_close(at_step, moved if where == "every_step" else x, rtol=0, atol=1e-14)
    torch.testing.assert_close(at_end, moved if where == "end" else x, rtol=0, atol=1e-14)


def test_none_has_no_weights_no_loss_and_no_correction():
    part, x = NoEnergy(), vectors()
    energy = part.build(D)
    assert not list(energy.parameters())
    assert part.every_step(torch.add, energy) is torch.add
    assert part.at_end(x, energy) is x
    loss, terms = part(energy, x, some_draw(), PROCESS, NOISE, KEY)
    assert (float(loss), terms) == (0.0, {})


# ------------------------------------------------------------------------------------------------ objectives by hand


def some_draw(key: Tensor = KEY) -> Draw:
    return draw(vectors(len(key), seed=5), PROCESS, NOISE, key)


def noised_by_hand(drawn: Draw, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    """y_s (B, D), sigma_s^2 (B,) and eps (B, D), with products of (1 - gamma beta) in plain Python."""
    eps = NOISE.normal(KEY, D, "energy/eps", torch.float64)
    rows, variances = [], []
    for row in range(B):
        left = math.prod(1 - gamma * beta for beta in PROCESS.betas.tolist()[: int(drawn.t[row]) + 1])
        rows.append(math.sqrt(left) * drawn.x0[row] + math.sqrt(1 - left) * eps[row])
        variances.append(1 - left)
    return torch.stack(rows), torch.tensor(variances, dtype=torch.float64), eps


def residual_by_hand(target: str, s: Any, x: Tensor, y: Tensor, variance: float, eps: Tensor) -> Tensor:
    if target == "signfix":
        return s(x) - ((x - y) + s(x) * variance)
    if target == "code":
        return s(x) - ((y - x) + s(x) * variance)
    if target == "printed":
        return s(x) - ((s(y) - s(x)) / variance + s(x) * variance)
    return math.sqrt(variance) * (s(y) - eps / math.sqrt(variance))  # S = (y - a x0) / sigma^2 = eps / sigma


@pytest.mark.parametrize("target", ["signfix", "code", "printed", "dsm"])
@pytest.mark.parametrize("gamma", [0.05, 0.1])
def test_score_matching_by_hand(target: str, gamma: float):
    part, drawn, x0_hat = ScoreMatching(target=target, gamma=gamma, weight=0.25), some_draw(), vectors(seed=6)
    y, variance, eps = noised_by_hand(drawn, gamma)
    total = 0.0
    for row in range(B):
        error = residual_by_hand(target, lambda x: 1.7 * (x - 0.3), x0_hat[row], y[row], float(variance[row]), eps[row])
        total += sum(value * value for value in error.tolist())
    with torch.no_grad():
        loss, terms = part(Quadratic(), x0_hat, drawn, PROCESS, NOISE, KEY)
    assert float(terms["score_matching"]) == pytest.approx(total / B, rel=1e-9)
    assert float(loss) == pytest.approx(0.25 * total / B, rel=1e-9)


@pytest.mark.parametrize(("gamma", "left"), [(0.1, 0.35), (0.05, 0.59)])
def test_the_noise_of_targets_is_a_fraction_of_that_of_the_process(gamma: float, left: float):
    """abar'_T of the sheet, to its two digits."""
    t = torch.full((B,), T - 1)
    x0 = vectors()
    _, variance = ScoreMatching(gamma=gamma).noised(Draw(x0, t, x0, x0), PROCESS, NOISE, KEY)
    assert float(variance[0]) == pytest.approx(1 - left, abs=0.005)


def test_noise_of_targets_is_named_by_the_row():
    drawn = some_draw()
    flipped = Draw(*(part.flip(0) for part in (drawn.x0, drawn.t, drawn.eps, drawn.x_t)))
    part = ScoreMatching()
    one, _ = part.noised(drawn, PROCESS, NOISE, KEY)
    other, _ = part.noised(flipped, PROCESS, NOISE, KEY.flip(0))
    torch.testing.assert_close(other.x_t.flip(0), one.x_t, rtol=0, atol=0)
    assert (one.eps - drawn.eps).abs().min() > 0  # and is not that of the process


def test_only_the_printed_form_is_solved_by_a_constant_energy():
    """Why it is not the default."""
    for target in ("signfix", "code", "printed", "dsm"):
        with torch.no_grad():
            _, terms = ScoreMatching(target=target)(Flat(), vectors(seed=6), some_draw(), PROCESS, NOISE, KEY)
        assert (float(terms["score_matching"]) == 0) == (target == "printed")


@pytest.mark.parametrize("target", ["signfix", "code"])
def test_predictions_are_fixed_in_the_target_and_free_as_the_argument(target: str):
    """d/dx ||(1 - v) k (x - c) - sign (stop(x) - y)||^2 = 2 (1 - v) k (...), averaged over rows."""
    drawn, x0_hat = some_draw(), vectors(seed=6).requires_grad_()
    _, terms = ScoreMatching(target=target)(Quadratic(), x0_hat, drawn, PROCESS, NOISE, KEY)
    terms["score_matching"].backward()
    y, variance, _ = noised_by_hand(drawn, 0.05)
    rest, sign = 1 - variance[:, None], 1 if target == "signfix" else -1
    x = x0_hat.detach()
    error = rest * 1.7 * (x - 0.3) - sign * (x - y)
    torch.testing.assert_close(x0_hat.grad, 2 * rest * 1.7 * error / B, rtol=1e-9, atol=1e-12)


def test_gradient_penalty_by_hand():
    part, drawn, x0_hat = GradientPenalty(weight=0.25, penalty=10.0), some_draw(), vectors(seed=6)
    y, _, _ = noised_by_hand(drawn, 0.05)
    u = NOISE.uniform(KEY, 1, "energy/mix")
    mix = u * y + (1 - u) * x0_hat
    assert 0 < float(u.min()) < float(u.max()) < 1
    critic = (
        sum(0.85 * float((y[r] - 0.3) @ (y[r] - 0.3) - (x0_hat[r] - 0.3) @ (x0_hat[r] - 0.3)) for r in range(B)) / B
    )
    penalty = sum((1.7 * math.dist(mix[r].tolist(), [0.3] * D) - 1) ** 2 for r in range(B)) / B
    with torch.no_grad():
        loss, terms = part(Quadratic(), x0_hat, drawn, PROCESS, NOISE, KEY)
    assert float(terms["critic"]) == pytest.approx(critic, rel=1e-9)
    assert float(terms["penalty"]) == pytest.approx(penalty, rel=1e-9)
    assert float(loss) == pytest.approx(0.25 * (critic + 10 * penalty), rel=1e-9)


def test_adversarial_by_hand():
    part, drawn, x0_hat = Adversarial(weight=0.25), some_draw(), vectors(seed=6)
    y, _, _ = noised_by_hand(drawn, 0.05)

    def judged(x: Tensor) -> float:
        """D = sigmoid(-E)."""
        return 1 / (1 + math.exp(0.85 * float((x - 0.3) @ (x - 0.3))))

    discriminator = sum(-math.log(judged(y[r])) - math.log(1 - judged(x0_hat[r])) for r in range(B)) / B
    generator = sum(-math.log(judged(x0_hat[r])) for r in range(B)) / B
    with torch.no_grad():
        loss, terms = part(Quadratic(), x0_hat, drawn, PROCESS, NOISE, KEY)
    assert float(terms["discriminator"]) == pytest.approx(discriminator, rel=1e-9)
    assert float(terms["generator"]) == pytest.approx(generator, rel=1e-9)
    assert float(loss) == pytest.approx(discriminator + 0.25 * generator, rel=1e-9)
    torch.testing.assert_close(
        part.score(Quadratic())(x0_hat),
        torch.tensor([[1 - judged(x)] for x in x0_hat], dtype=torch.float64) * 1.7 * (x0_hat - 0.3),
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("part", "term", "reaches_energy", "reaches_prediction", "reaches_target"),
    [
        (ScoreMatching(), "score_matching", True, True, True),
        (GradientPenalty(), "critic", True, False, False),
        (GradientPenalty(), "penalty", True, False, False),
        (Adversarial(), "discriminator", True, False, False),
        (Adversarial(), "generator", False, True, False),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_who_learns_from_which_term(
    part: Any, term: str, reaches_energy: bool, reaches_prediction: bool, reaches_target: bool
):
    energy, x0_hat = built(MLPNetwork()), vectors(seed=6).requires_grad_()
    x0 = vectors(seed=5).requires_grad_()
    _, terms = part(energy, x0_hat, draw(x0, PROCESS, NOISE, KEY), PROCESS, NOISE, KEY)
    terms[term].backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in energy.parameters()) == reaches_energy
    assert (x0_hat.grad is not None and bool(x0_hat.grad.any())) == reaches_prediction
    assert (x0.grad is not None and bool(x0.grad.any())) == reaches_target


@pytest.mark.parametrize("part", [ScoreMatching(), GradientPenalty(), Adversarial()], ids=lambda part: part.name)
@pytest.mark.parametrize("network", NETWORKS, ids=ids)
def test_objectives_under_autocast(part: Any, network: Any):
    """With weights in float32 and predictions in half precision the loss is finite and near, and so are gradients."""
    energy = built(network, dtype=torch.float32)
    drawn = draw(vectors(seed=5, dtype=torch.float32), PROCESS, NOISE, KEY)
    x0_hat = vectors(seed=6, dtype=torch.float32)
    plain, _ = part(energy, x0_hat.requires_grad_(), drawn, PROCESS, NOISE, KEY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = part(energy, x0_hat.detach().bfloat16().requires_grad_(), drawn, PROCESS, NOISE, KEY)
    torch.testing.assert_close(mixed.float(), plain, rtol=0.05, atol=0.05)
    mixed.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in energy.parameters())


# ------------------------------------------------------------------------------------------------ after fitting


@cache
def fitted(part: Any, *, steps: int = 150) -> tuple[nn.Module, Tensor]:
    """An energy fitted to predictions scattered around one target of norm 2, and that target (D,)."""
    torch.manual_seed(0)
    energy, target = part.build(D), torch.zeros(D)
    target[0] = 2.0
    optimizer = torch.optim.Adam(energy.parameters(), lr=3e-3)
    key = torch.arange(64)
    for step in range(steps):
        noise = NOISE.at(step)
        drawn = draw(target.expand(64, -1), PROCESS, noise, key)
        scattered = target + noise.normal(key, D, "scatter")
        optimizer.zero_grad()
        part(energy, scattered, drawn, PROCESS, noise, key)[0].backward()
        optimizer.step()
    return energy.eval(), target


def distances(part: Any, steps: int = 1) -> tuple[float, float]:
    """Mean distance of fresh predictions to the target before and after corrections of the default size."""
    energy, target = fitted(part)
    fresh = target + NOISE.at(10_000).normal(torch.arange(200), D, "scatter")
    with torch.inference_mode():
        moved = Correction(steps=steps)(part.score(energy), fresh)
    return float((fresh - target).norm(dim=1).mean()), float((moved - target).norm(dim=1).mean())


TOY = MLPNetwork(dropout=0.0)


def test_the_default_moves_predictions_to_the_target_and_the_public_code_away():
    """One step of Omega = 0.1 along S = (x - y) / (1 - sigma^2) takes at least a tenth of the way, within the fit."""
    before, after = distances(ScoreMatching(network=TOY))
    assert after < 0.93 * before
    before, after = distances(ScoreMatching(network=TOY, target="code"))
    assert after > 1.07 * before


@pytest.mark.parametrize(
    "part", [ScoreMatching(target="dsm", network=TOY), Adversarial(network=TOY)], ids=["dsm", "adv"]
)
def test_the_alternatives_move_to_the_target_too(part: Any):
    before, after = distances(part)
    assert after < before


def test_a_critic_with_slope_one_moves_to_the_target():
    before, after = distances(GradientPenalty(network=TOY, weight=1.0))
    assert after < before


def test_more_corrections_go_further():
    one, eight = distances(ScoreMatching(network=TOY))[1], distances(ScoreMatching(network=TOY), steps=8)[1]
    assert eight < 0.75 * one

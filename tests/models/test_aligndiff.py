"""AlignDiff against a slow reading of the paper: one row at a time, no padding, every position, every step anew, two
passes, and the energy's gradient by plain autograd. Its layers have slow readings of their own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from guiderec.config import override
from guiderec.data.batch import Batch
from guiderec.diffusion.objectives import Draw
from guiderec.diffusion.schedule import TruncatedLinear
from guiderec.errors import ConfigError
from guiderec.models.aligndiff import AlignDiff, AlignDiffConfig, MultiLevel
from guiderec.nn.dropout import Dropout
from guiderec.nn.orthogonal import LevelAttention, OrthogonalMatrix
from guiderec.nn.time import sinusoid
from guiderec.nn.transformer import PreNormBlock
from guiderec.rng import Noise, subkeys
from guiderec.testing.oracles import batch_of

ITEMS, DIM, HEADS, T, L = 12, 8, 2, 4, 7
ROWS = [([1, 2, 3], 4), ([5, 6], 7), ([9, 3, 4, 8, 10, 11, 12, 6, 2], 9), ([8], 2), ([], 4)]
NOISE = Noise(7)


BASE = AlignDiffConfig(
    dim=DIM,
    max_length=L,
    layers=2,
    heads=HEADS,
    mixing=0.4,
    schedule=TruncatedLinear(steps=T),
    levels=MultiLevel(heads=HEADS),
)


def make(changes: dict[str, Any] | None = None) -> AlignDiff:
    """The small model with dotted options changed, in float64."""
    torch.manual_seed(0)
    model = AlignDiff(override(BASE, changes or {}), ITEMS).double().eval()
    for parameter in model.parameters():  # norms and biases that are the identity would hide mistakes
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


# ------------------------------------------------------------------------------------------------ the slow reading


def attention(block: Any, x: Tensor) -> Tensor:
    """Multi-head attention of one row (n, D), head by head and query by query."""
    q, k, v = (x @ block.query_key_value.weight.T + block.query_key_value.bias).chunk(3, dim=1)
    width = DIM // HEADS
    mixed = torch.zeros_like(x)
    for head in range(HEADS):
        columns = slice(head * width, (head + 1) * width)
        for i in range(len(x)):
            logits = torch.stack([q[i, columns] @ k[j, columns] / math.sqrt(width) for j in range(len(x))])
            mixed[i, columns] = logits.softmax(0) @ v[:, columns]
    return mixed @ block.output.weight.T + block.output.bias


def norm(x: Tensor, layer: Any) -> Tensor:
    return F.layer_norm(x, (DIM,), layer.weight, layer.bias)


def slow_h(model: AlignDiff, history: list[int]) -> Tensor:
    """The guidance vector (D,) of one history."""
    if model.levels is None:
        return torch.zeros(DIM, dtype=torch.float64)
    items = history[-L:] or [0]
    vectors = model.item_dropout(model.items.weight[items])
    return model.levels(vectors[None], torch.tensor([[item != 0 for item in items]]))[0]


def slow_prediction(
    model: AlignDiff, history: list[int], h: Tensor, key: int, x_t: Tensor, t: int, noise: Noise
) -> Tensor:
    """x0_hat (D,) of one history under h (D,), before the final norm."""
    items = history[-L:] or [0]
    n, network = len(items), model.denoiser
    vectors = model.item_dropout(model.items.weight[items])
    if model.positions is not None:
        vectors = vectors + model.positions.table.weight[list(range(n - 1, -1, -1))]
    e = norm(vectors, model.item_norm)
    wave = sinusoid(torch.tensor([t * 1000.0 / T], dtype=torch.float64), DIM, dtype=torch.float64)
    time = network.time.down(F.silu(network.time.up(wave)))[0]
    step_key = subkeys(torch.tensor([key]), torch.tensor([t]))
    z = []
    for i in range(n):
        drawn = noise.normal(subkeys(step_key, torch.tensor([n - 1 - i])), DIM, "lambda", torch.float64)[0]
        z.append(e[i] + h * e[i] + 0.4 * (1 + drawn) * (x_t + time))  # Eq. 7, lambda from N(0.4, 0.4^2)
    x = torch.stack(z)
    for block in network.blocks:
        x = x + block.dropout(attention(block.attention, norm(x, block.attention_norm)))
        x = x + block.dropout(block.feedforward(norm(x, block.feedforward_norm)))
    return network.dropout(x[-1])


def slow_gradient(model: AlignDiff, x: Tensor) -> Tensor:
    with torch.enable_grad():
        point = x.detach().clone().requires_grad_()
        energy = model.energy(point[None])[0]
        if model.config.energy.name == "adversarial":
            energy = -F.logsigmoid(-energy)
        (slope,) = torch.autograd.grad(energy, point)
    return slope


def slow_correction(model: AlignDiff, x: Tensor, where: str) -> Tensor:
    part = model.config.energy
    if part.name != "none" and part.correction.where == where:
        for _ in range(part.correction.steps):
            x = x - part.correction.step_size * slow_gradient(model, x)
    return x


def slow_guided(model: AlignDiff, history: list[int], key: int, x: Tensor, t: int) -> Tensor:
    """Eq. 11: both passes, the final norm where it is to be, and the corrections of this step."""
    w = getattr(model.config.guidance, "scale", 0.0)
    h, final = slow_h(model, history), model.denoiser.norm
    liked, free = (slow_prediction(model, history, c, key, x, t, NOISE) for c in (h, torch.zeros_like(h)))
    if model.config.final_norm == "before_guidance":
        x0 = (1 + w) * norm(liked, final) - w * norm(free, final)
    else:
        x0 = norm((1 + w) * liked - w * free, final)
    return slow_correction(model, x0, "every_step")


def dropped_by_column(layer: Dropout, x: Tensor) -> Tensor:
    """What stands in for dropout where its place is tested: a factor for each column, which no norm takes back."""
    return x * (1 + layer.p * torch.arange(x.shape[-1], dtype=x.dtype).cos())


def numerical_slope(value: Callable[[], float], parameter: Tensor, direction: Tensor, step: float = 1e-6) -> float:
    """The central difference of `value` as `parameter` moves in `direction`."""
    start, ends = parameter.detach().clone(), []
    with torch.no_grad():
        for sign in (1, -1):
            parameter.copy_(start + sign * step * direction)
            ends.append(value())
        parameter.copy_(start)
    return (ends[0] - ends[1]) / (2 * step)


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "strong": {"guidance.scale": 2.0, "energy.correction.step_size": 0.7},
    "unguided": {"guidance.name": "none"},
    "norm before": {"final_norm": "before_guidance", "guidance.scale": 2.0},
    "positions": {"positions": True},
    "mean of levels": {"levels.average_heads": True},
    "align": {"schedule.name": "align", "schedule.steps": T},
    "without ML": {"levels.name": "none"},
    "without EN": {"energy.name": "none"},
    "3 corrections": {"energy.correction.steps": 3, "energy.correction.step_size": 0.4},
    "at the end": {"energy.correction.where": "end", "energy.correction.steps": 2},
    "adversarial": {"energy.name": "adversarial", "energy.correction.step_size": 0.7},
    "transformer": {
        "energy.network.name": "transformer",
        "energy.network.tokens": 2,
        "energy.network.heads": 2,
    },
    "public sign": {"energy.target": "code"},
    "penalty": {"energy.name": "gradient_penalty"},
}
SAME_ANSWER = {"default", "public sign", "penalty"}
"""Variants of the loss alone."""


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_generation_is_ancestral_sampling_with_the_slow_reading(name: str):
    model, query = make(VARIANTS[name]), batch_of(ROWS, first_key=3)
    found = model.user_vectors(query, NOISE)[:, 0]
    beta, alpha_bar = model.schedule.betas.tolist(), [1.0, *model.schedule.alpha_bar.tolist()]  # alpha_bar[t + 1]
    for row, (history, _) in enumerate(ROWS):
        key = torch.tensor([3 + row])
        x = NOISE.normal(key, DIM, "x_T", torch.float64)[0]
        for t in range(T - 1, -1, -1):
            x0 = slow_guided(model, history, 3 + row, x, t)
            rest, before = 1 - alpha_bar[t + 1], 1 - alpha_bar[t]
            mean = math.sqrt(alpha_bar[t]) * beta[t] / rest * x0 + math.sqrt(1 - beta[t]) * before / rest * x
            drawn = NOISE.normal(key, DIM, f"step/{t}", torch.float64)[0]
            x = mean + math.sqrt(beta[t] * before / rest) * drawn
        torch.testing.assert_close(found[row], slow_correction(model, x, "end"), rtol=1e-6, atol=1e-7)


@torch.no_grad()
def test_every_variant_changes_what_is_generated():
    """Otherwise the test above could pass by comparing equal things."""
    query = batch_of(ROWS, first_key=3)
    plain = make().user_vectors(query, NOISE)
    for name, changes in VARIANTS.items():
        moved = float((make(changes).user_vectors(query, NOISE) - plain).abs().max())
        assert moved == 0 if name in SAME_ANSWER else moved > 1e-3, (name, moved)


def slow_loss(model: AlignDiff, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Cross-entropy over the items 1..I by hand, h dropped for some rows; objective and terms of the energy."""
    alpha_bar = model.schedule.alpha_bar
    t = NOISE.integers(batch.key, 1, T, "draw/t")[:, 0].tolist()
    eps = NOISE.normal(batch.key, DIM, "draw/eps", torch.float64)
    kept = (NOISE.uniform(batch.key, 1, "drop_condition")[:, 0] >= 0.5).tolist()
    assert len(set(t)) > 1
    assert len(set(kept)) == 2
    cross_entropy, predictions, noised = torch.zeros(()), [], []
    for row, (history, target) in enumerate(ROWS):
        x0 = model.items.weight[target]
        x_t = alpha_bar[t[row]].sqrt() * x0 + (1 - alpha_bar[t[row]]).sqrt() * eps[row]
        h = slow_h(model, history) * kept[row]
        x0_hat = norm(slow_prediction(model, history, h, 3 + row, x_t, t[row], NOISE), model.denoiser.norm)
        logits = model.items.weight[1:] @ x0_hat
        cross_entropy = cross_entropy + (logits.logsumexp(0) - logits[target - 1]) / len(ROWS)
        predictions.append(x0_hat)
        noised.append(x_t)
    drawn = Draw(model.items(batch.target), torch.tensor(t), eps, torch.stack(noised))
    energy, terms = model.config.energy(model.energy, torch.stack(predictions), drawn, model.schedule, NOISE, batch.key)
    return cross_entropy, energy, terms


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_loss_is_that_of_the_slow_reading(name: str):
    model, batch = make({**VARIANTS[name], "p_uncond": 0.5}), batch_of(ROWS, first_key=3)
    cross_entropy, energy, terms = slow_loss(model, batch)
    parts = model.loss(batch, NOISE)
    assert float(parts["cross_entropy"]) == pytest.approx(float(cross_entropy), rel=1e-7)
    assert parts.keys() == {"loss", "cross_entropy", *terms}
    assert float(parts["loss"]) == pytest.approx(float(cross_entropy + energy), rel=1e-6)
    for term, value in terms.items():
        assert float(parts[term]) == pytest.approx(float(value), rel=1e-6)


@pytest.mark.parametrize("energy", ["score_matching", "gradient_penalty", "adversarial"])
def test_the_objective_of_the_energy_moves_what_the_slow_reading_says(energy: str):
    """Its gradient, with respect to everything: what it cuts off inside is its own matter, see `test_energy.py`."""
    model, batch = make({"energy.name": energy, "p_uncond": 0.5}), batch_of(ROWS, first_key=3)
    parts = model.loss(batch, NOISE)
    found = gradients(parts["loss"] - parts["cross_entropy"], model)
    expected = gradients(slow_loss(model, batch)[1], model)
    expected["items.weight"][0] = 0  # a look-up of padding gives none
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-10, msg=f"gradient of {name}")
    reached = {name.split(".")[0] for name, gradient in expected.items() if gradient.abs().max() > 1e-6}
    assert reached >= ({"energy"} if energy == "gradient_penalty" else {"energy", "denoiser", "levels", "items"})


def gradients(value: Tensor, model: AlignDiff) -> dict[str, Tensor]:
    """Of every parameter, zeros where it is not reached."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for name, parameter, gradient in zip(names, parameters, found, strict=True)
    }


@torch.no_grad()
def test_dropout_stands_before_the_norms(monkeypatch: pytest.MonkeyPatch):
    """In LN(Dropout(e)) and LN(Dropout(Blocks(z))), as in the public code: with what is known to be dropped."""
    monkeypatch.setattr(Dropout, "forward", dropped_by_column)
    changes = {"dropout": 0.3, "embedding_dropout": 0.6, "energy.name": "none", "positions": True}
    model, query = make(changes), batch_of(ROWS, first_key=3)
    x, t = torch.randn(len(ROWS), DIM, dtype=torch.float64), torch.full((len(ROWS),), 2)
    for row, (history, _) in enumerate(ROWS):
        items = torch.tensor([history[-L:] or [0]])
        network, h = model.binder(NOISE)(items, query.key[row : row + 1])
        found = model.guided(network, h, None)(x[row : row + 1], t[:1])[0]
        torch.testing.assert_close(found, slow_guided(model, history, 3 + row, x[row], 2), rtol=1e-9, atol=1e-9)


def test_gradient_of_the_cross_entropy_is_the_numerical_one():
    """Through the history, h, the classes, and the target that is noised, which is not held fixed."""
    model, batch = make(), batch_of(ROWS)
    model.loss(batch, NOISE)["cross_entropy"].backward()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.startswith("energy"):
            assert parameter.grad is None
            continue
        direction = torch.randn_like(parameter)
        if name == "items.weight":
            direction[0] = 0  # padding is never moved
        slope = numerical_slope(lambda: float(model.loss(batch, NOISE)["cross_entropy"]), parameter, direction)
        assert float((parameter.grad * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-8), name


# ------------------------------------------------------------------------------------------------ what is not repeated


class Counting:
    """Counts the calls of all modules of a class, with the rows of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: type, method: str = "forward") -> None:
        self.rows: list[int] = []
        original = getattr(module, method)

        def counted(layer: Any, *arguments: Any) -> Any:
            self.rows.append(len(arguments[0]) if arguments else 0)
            return original(layer, *arguments)

        monkeypatch.setattr(module, method, counted)


@torch.no_grad()
def test_nothing_is_computed_again_at_every_step(monkeypatch: pytest.MonkeyPatch):
    """U and V once for the batch, h once for each of two buckets, both passes one batch, T steps for each bucket."""
    matrices, levels = Counting(monkeypatch, OrthogonalMatrix), Counting(monkeypatch, LevelAttention)
    whole, newest = Counting(monkeypatch, PreNormBlock), Counting(monkeypatch, PreNormBlock, "last")
    make().user_vectors(batch_of(8 * ROWS), NOISE)
    assert len(matrices.rows) == 2
    assert sorted(levels.rows) == [8, 32]  # the long histories, and those of up to 4 items
    assert sorted(whole.rows) == [16] * T + [64] * T  # the first of two blocks; both conditions
    assert sorted(newest.rows) == [16] * T + [64] * T  # the last block, for the newest position


@pytest.mark.parametrize(
    "options",
    [{"guidance.name": "none"}, {"guidance.scale": 0.0}, {"levels.name": "none"}],
)
@torch.no_grad()
def test_one_pass_is_made_where_two_would_be_the_same(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    newest = Counting(monkeypatch, PreNormBlock, "last")
    make(options).user_vectors(batch_of(ROWS[:2]), NOISE)
    assert newest.rows == [2] * T


@torch.no_grad()
def test_the_gated_history_is_computed_once_for_each_condition():
    network, h = make().binder(NOISE)(torch.tensor([[1, 2, 3]]), torch.arange(1))
    none = torch.zeros_like(h)
    assert network._history(h) is network._history(h)
    assert network._history(none) is network._history(none)
    assert not torch.equal(network._history(h), network._history(none))


# ------------------------------------------------------------------------------------------------ guidance


@torch.no_grad()
def test_a_request_sets_the_strength():
    query = batch_of(ROWS)
    weak, strong = make(), make({"guidance.scale": 2.0})
    stronger = weak.user_vectors(dataclasses.replace(query, guidance_scale=2.0), NOISE)
    assert torch.equal(stronger, strong.user_vectors(query, NOISE))
    off = weak.user_vectors(dataclasses.replace(query, guidance_scale=0.0), NOISE)
    assert torch.equal(off, make({"guidance.name": "none"}).user_vectors(query, NOISE))
    assert not torch.equal(off, stronger)


@torch.no_grad()
def test_without_levels_no_strength_changes_anything():
    model, query = make({"levels.name": "none"}), batch_of(ROWS)
    plain = model.user_vectors(query, NOISE)
    assert torch.equal(model.user_vectors(dataclasses.replace(query, guidance_scale=3.0), NOISE), plain)


@torch.no_grad()
def test_guidance_vectors_of_short_histories_differ():
    """In the public code they are read at a padding position, and are the same for all users with short histories."""
    model = make()
    h = model.binder(NOISE)(torch.tensor([[0, 0, 0, 0, 0, 5], [0, 0, 0, 0, 0, 6]]), torch.arange(2))[1]
    assert (h[0] - h[1]).abs().max() > 0.1


# ------------------------------------------------------------------------------------------------ training


def trained(model: AlignDiff, steps: int, *, learning_rate: float, mixed: bool = False) -> AlignDiff:
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    batch = batch_of(ROWS)
    model.train()
    for step in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            loss = model.loss(batch, NOISE.at(step))["loss"]
        loss.backward()
        assert loss.isfinite()
        optimizer.step()
    return model.eval()


def test_levels_stay_orthogonal_in_training():
    model = trained(make().float(), 20, learning_rate=0.1)
    width = DIM // HEADS
    for matrix in (model.levels.query_levels, model.levels.key_levels):
        assert matrix.weight.detach().abs().max() > 0.1  # it was trained
        q = matrix().detach()
        for i in range(HEADS):
            for j in range(HEADS):
                product = q[:, i * width : (i + 1) * width].T @ q[:, j * width : (j + 1) * width]
                expected = torch.eye(width) if i == j else torch.zeros(width, width)
                torch.testing.assert_close(product, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("energy", ["score_matching", "gradient_penalty", "adversarial", "none"])
def test_trains_in_mixed_precision(energy: str):
    """The gradient of a gradient too: the loss falls, and every weight that has a gradient has a finite one."""
    model = make({"energy.name": energy}).float()
    before = float(model.loss(batch_of(ROWS), NOISE.at(99))["cross_entropy"].detach())
    model = trained(model, 25, learning_rate=0.01, mixed=True)
    with torch.no_grad():
        assert float(model.loss(batch_of(ROWS), NOISE.at(99))["cross_entropy"]) < before
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("energy", ["score_matching", "adversarial"])
def test_answers_in_inference_mode_leave_nothing_behind(energy: str):
    model, query = make({"energy.name": energy}), batch_of(ROWS)
    with torch.no_grad():
        expected = model.user_vectors(query, NOISE)
    with torch.inference_mode():
        found = model.user_vectors(query, NOISE)
    assert torch.equal(found, expected)
    assert not found.requires_grad
    assert all(p.grad is None for p in model.parameters())
    trained(model, 1, learning_rate=0.01)  # and training goes on afterwards


def test_an_answer_is_what_the_weights_are():
    """Nothing of an earlier answer is kept: U, V and h follow the weights."""
    model, query = make(), batch_of(ROWS)
    with torch.inference_mode():
        first = model.user_vectors(query, NOISE)
    trained(model, 3, learning_rate=0.01)
    fresh = make()
    fresh.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert torch.equal(model.user_vectors(query, NOISE), fresh.user_vectors(query, NOISE))
        assert not torch.equal(model.user_vectors(query, NOISE), first)


# ------------------------------------------------------------------------------------------------ options


def test_defaults_are_the_settings_of_the_sheet():
    config = AlignDiffConfig()
    assert (config.dim, config.max_length, config.layers, config.heads, config.levels.heads) == (128, 50, 4, 4, 4)
    assert (config.schedule.name, config.schedule.steps) == ("trunc_lin", 32)
    assert (config.mixing, config.p_uncond, config.guidance.scale) == (0.001, 0.1, 0.3)
    energy = config.energy
    assert (energy.name, energy.target, energy.weight, energy.gamma) == ("score_matching", "signfix", 0.01, 0.05)
    assert (energy.network.name, energy.network.layers, energy.network.dropout) == ("mlp", 3, 0.3)
    assert (energy.correction.step_size, energy.correction.steps, energy.correction.where) == (0.1, 1, "every_step")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generation": {"start": "mean"}}, "start must be"),
        ({"heads": 3}, "heads = 3 does not divide dim = 128"),
        (
            {"levels": {"name": "orthogonal", "heads": 7}, "heads": 5},
            "heads = 5, levels.heads = 7 do not divide dim = 128",
        ),
        (
            {"energy": {"name": "score_matching", "network": {"name": "transformer", "tokens": 3}}},
            "energy.network.tokens = 3 does not divide dim = 128",
        ),
        ({"guidance": {"name": "png"}}, "'guidance.name' = 'png' does not exist"),
        ({"energy": {"name": "score_matching", "target": "signfx"}}, "'energy.target' = 'signfx'"),
        ({"energy": {"name": "none", "weight": 0.1}}, "'energy.weight' is not an option"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        AlignDiffConfig.from_plain(options)


@torch.no_grad()
@pytest.mark.parametrize("init_std", [1.0, 0.02])
def test_the_guidance_vector_differs_between_histories_of_one_length(init_std: float):
    """However short items begin, h is about them and not about their positions alone."""
    torch.manual_seed(0)
    model = AlignDiff(AlignDiffConfig(dim=32, layers=1, init_std=init_std), 500).eval()
    history = torch.randint(1, 501, (64, 6), generator=torch.Generator().manual_seed(0))
    _, h = model.binder(Noise(0))(history, torch.arange(64))
    between = (h - h.mean(dim=0)).square().sum(dim=1).mean().sqrt() / h.square().sum(dim=1).mean().sqrt()
    assert between > 0.5

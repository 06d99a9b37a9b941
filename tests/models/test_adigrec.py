"""ADIGRec against a slow reading of the paper: one row at a time, no padding, one matrix for f, every step anew."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from guiderec.config import override
from guiderec.diffusion.schedule import Exponential
from guiderec.errors import ConfigError
from guiderec.models.adigrec import ADIGRec, ADIGRecConfig
from guiderec.nn.time import sinusoid
from guiderec.rng import Noise, subkeys
from guiderec.testing.oracles import batch_of

ITEMS, DIM, T, L, K, HEADS, FIRST = 14, 8, 6, 5, 3, 2, 3
ROWS = [([1, 2, 3], 4), ([5, 6], 7), ([9, 3, 4, 8, 10, 11, 12], 9), ([8], 2), ([], 4)]
NOISE = Noise(7)
BASE = ADIGRecConfig.from_plain(
    {
        "dim": DIM,
        "max_length": L,
        "negatives": 5,
        "retrieval": 0.7,
        "schedule": {"name": "exp", "steps": T},
        "guidance": {"name": "both", "interests": K, "heads": HEADS},
    }
)

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "one interest": {"guidance.interests": 1},
    "add": {"guidance.combine": "add"},
    "multiply": {"guidance.combine": "multiply"},
    "concat_k": {"guidance.combine": "concat_k"},
    "G1": {"guidance.name": "g1", "guidance.interests": K},
    "G2": {"guidance.name": "g2", "guidance.heads": HEADS, "covariance": 0.0},
    "without AI2M": {"insertion": False},
    "G1 without AI2M": {"guidance.name": "g1", "guidance.interests": K, "insertion": False},
    "without L_reg": {"covariance": 0.0},
    "per interest": {"form": "per_interest"},
    "per interest, G1": {"form": "per_interest", "guidance.name": "g1", "guidance.interests": K},
    "no sphere": {"sphere.name": "off"},
    "all on the sphere": {"sphere.name": "full", "sphere.temperature": 0.3},
    "short noise": {"sphere.name": "full", "noise_scale": "1/sqrt(d)"},
    "linear": {"schedule.name": "linear", "schedule.steps": T},
    "ddim": {"generation.sampler": "ddim", "generation.steps": 3},
}
SAME_ANSWER = {"default", "without L_reg"}
"""Variants of the loss alone."""


def make(changes: dict[str, Any] | None = None) -> ADIGRec:
    torch.manual_seed(0)
    model = ADIGRec(override(BASE, changes or {}), ITEMS).double().eval()
    for parameter in model.parameters():  # norms and biases that are the identity would hide mistakes
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


# ------------------------------------------------------------------------------------------------ the slow reading


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum().sqrt()


def item(model: ADIGRec, i: int) -> Tensor:
    vector = model.items.weight[i]
    return unit(vector) if model.config.sphere.name == "full" else vector


def slow_transformer(model: ADIGRec, x: Tensor) -> Tensor:
    """The newest state (D,) of x (n, D): causal attention head by head and query by query."""

    def norm(x: Tensor, layer: Any) -> Tensor:
        return F.layer_norm(x, (DIM,), layer.weight, layer.bias)

    for block in model.dynamic.blocks:
        layer = block.attention
        q, k, v = (norm(x, block.attention_norm) @ layer.query_key_value.weight.T + layer.query_key_value.bias).chunk(
            3, dim=1
        )
        mixed = torch.zeros_like(x)
        for head in range(HEADS):
            part = slice(head * DIM // HEADS, (head + 1) * DIM // HEADS)
            for i in range(len(x)):
                logits = torch.stack([q[i, part] @ k[j, part] / math.sqrt(DIM / HEADS) for j in range(i + 1)])
                mixed[i, part] = logits.softmax(0) @ v[: i + 1, part]
        x = x + mixed @ layer.output.weight.T + layer.output.bias
        x = x + block.feedforward(norm(x, block.feedforward_norm))
    return norm(x, model.dynamic.exit)[-1]


def slow_guidance(model: ADIGRec, history: list[int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """G (M, W), G1 (K, D) and W (n, K) of one history."""
    start = unit(model.start) if model.config.sphere.name == "full" else model.start
    e = torch.stack([item(model, i) for i in history[-L:]]) if history else start[None]
    h = e + model.positions.table.weight[: len(e)]  # position 0 is the oldest
    g1 = weights = g2 = None
    if model.extract is not None:
        inner, outer = model.extract.expand, model.extract.route
        logits = [torch.tanh(inner.weight @ row + inner.bias) for row in h]
        weights = torch.stack([outer.weight @ row for row in logits]).softmax(0)
        g1 = torch.stack([sum(weights[i, j] * e[i] for i in range(len(e))) for j in range(weights.shape[1])])
    if model.dynamic is not None:
        g2 = slow_transformer(model, h)
    if g1 is None:
        return g2[None], None, None
    if g2 is None:
        return g1, g1, weights
    rows = {
        "concat": lambda: torch.stack([torch.cat([row, g2]) for row in g1]),
        "add": lambda: torch.stack([row + g2 for row in g1]),
        "multiply": lambda: torch.stack([row * g2 for row in g1]),
        "concat_k": lambda: torch.stack([*g1, g2]),
    }
    return rows[model.config.guidance.combine](), g1, weights


def slow_prediction(model: ADIGRec, rows: Tensor, x: Tensor, t: int, j: int) -> Tensor:
    """f([x ; a ; G ; t_E]) (D,) as one matrix, of all rows of G or of row j."""
    network = model.denoiser
    wave = sinusoid(torch.tensor([t]), DIM, dtype=torch.float64)
    time = network.time.down(F.gelu(network.time.up(wave)))[0]
    read = rows[j] if model.config.form == "per_interest" else rows.flatten()
    inputs = [x, read, time]
    blocks = [network.from_state.weight, network.from_guidance.weight, network.from_time.weight]
    if network.insertion is not None:
        maps = network.insertion
        query = maps.query.weight @ (x + time)
        logits = torch.stack([query @ (maps.key.weight @ row) / math.sqrt(DIM) for row in rows])
        a = sum(share * (maps.value.weight @ row) for share, row in zip(logits.softmax(0), rows, strict=True))
        inputs.append(a)
        blocks.append(maps.outer.weight)
    predicted = torch.cat(blocks, dim=1) @ torch.cat(inputs) + network.from_time.bias
    return unit(predicted) if model.config.sphere.name == "full" else predicted


def scale_of(model: ADIGRec) -> float:
    return 1.0 if model.config.noise_scale == 1 else 1 / math.sqrt(DIM)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_generation_is_algorithm_2_with_the_slow_reading(name: str):
    model, query = make(VARIANTS[name]), batch_of(ROWS, first_key=FIRST)
    found = model.user_vectors(query, NOISE)
    per_interest = model.config.form == "per_interest"
    assert found.shape == (len(ROWS), K if per_interest else 1, DIM)
    beta, alpha_bar = model.schedule.betas.tolist(), [1.0, *model.schedule.alpha_bar.tolist()]  # alpha_bar[t + 1]
    ddim = model.config.generation.steps
    grid = model.schedule.grid(ddim) if ddim else list(range(T - 1, -1, -1))
    for row, (history, _) in enumerate(ROWS):
        rows, _, _ = slow_guidance(model, history)
        key = torch.tensor([FIRST + row])
        for j in range(found.shape[1]):
            x = scale_of(model) * NOISE.normal(key, DIM, "x_T", torch.float64)[0]
            for t, s in zip(grid, [*grid[1:], -1], strict=True):
                if model.config.sphere.name != "off":
                    x = unit(x)
                x0 = slow_prediction(model, rows, x, t, j)
                now, before = alpha_bar[t + 1], alpha_bar[s + 1]
                if ddim:
                    eps = (x - math.sqrt(now) * x0) / math.sqrt(1 - now)
                    x = math.sqrt(before) * x0 + math.sqrt(1 - before) * eps
                    continue
                mean = math.sqrt(before) * beta[t] / (1 - now) * x0
                mean = mean + math.sqrt(1 - beta[t]) * (1 - before) / (1 - now) * x
                eps = scale_of(model) * NOISE.normal(subkeys(key, torch.tensor(t)), DIM, "step", torch.float64)[0]
                x = mean + math.sqrt(beta[t] * (1 - before) / (1 - now)) * eps
            torch.testing.assert_close(found[row, j], x, rtol=1e-6, atol=1e-7)


@torch.no_grad()
def test_every_variant_changes_what_is_generated():
    """Otherwise the test above could pass by comparing equal things."""
    query = batch_of(ROWS, first_key=FIRST)
    plain = make().user_vectors(query, NOISE)
    for name, changes in VARIANTS.items():
        moved = float((make(changes).user_vectors(query, NOISE) - plain).abs().max())
        assert moved == 0 if name in SAME_ANSWER else moved > 1e-3, (name, moved)


def slow_softmax(model: ADIGRec, vector: Tensor, target: int, negatives: list[int]) -> float:
    """-log exp(v . e_0) / (exp(v . e_0) + sum_neg exp(v . e_neg))."""
    tau = getattr(model.config.sphere, "temperature", 1.0)
    wanted = math.exp(float(vector @ item(model, target)) / tau)
    return -math.log(wanted / (wanted + sum(math.exp(float(vector @ item(model, n)) / tau) for n in negatives)))


def slow_covariance(weights: Tensor) -> float:
    """sum_j |C[j, :]|, C = (1/n) (W - mean)^T (W - mean), entry by entry."""
    n, k = weights.shape
    mean = [sum(float(weights[i, j]) for i in range(n)) / n for j in range(k)]
    total = 0.0
    for a in range(k):
        row = [
            sum((float(weights[i, a]) - mean[a]) * (float(weights[i, b]) - mean[b]) for i in range(n)) / n
            for b in range(k)
        ]
        total += math.sqrt(sum(entry**2 for entry in row))
    return total


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_loss_is_that_of_the_slow_reading(name: str, monkeypatch: pytest.MonkeyPatch):
    model, batch = make(VARIANTS[name]), batch_of(ROWS, first_key=FIRST)
    drawn: list[Tensor] = []
    from guiderec.models import base

    original = base.items_outside
    monkeypatch.setattr(base, "items_outside", lambda *a, **o: drawn.append(original(*a, **o)) or drawn[-1])
    parts = model.loss(batch, NOISE)
    (negatives,) = drawn  # one draw, shared by both terms
    alpha_bar = model.schedule.alpha_bar
    t = NOISE.integers(batch.key, 1, T, "draw/t")[:, 0].tolist()
    eps = scale_of(model) * NOISE.normal(batch.key, DIM, "draw/eps", torch.float64)
    assert len(set(t)) > 1
    sums = dict.fromkeys(("reconstruction", "retrieval", "interest", "covariance"), 0.0)
    for row, (history, target) in enumerate(ROWS):
        assert negatives.shape == (len(ROWS), 5)
        assert not set(negatives[row].tolist()) & {0, target, *history}
        rows, g1, weights = slow_guidance(model, history)
        x0 = item(model, target)
        x_t = alpha_bar[t[row]].sqrt() * x0 + (1 - alpha_bar[t[row]]).sqrt() * eps[row]
        best = 0 if g1 is None else int(torch.stack([g @ x0 for g in g1]).argmax())
        x_t = x_t if model.config.sphere.name == "off" else unit(x_t)
        x0_hat = slow_prediction(model, rows, x_t, t[row], best)
        sums["reconstruction"] += float((x0 - x0_hat).square().mean())
        sums["retrieval"] += slow_softmax(model, x0_hat, target, negatives[row].tolist())
        if g1 is not None:
            sums["interest"] += slow_softmax(model, g1[best], target, negatives[row].tolist())
            sums["covariance"] += slow_covariance(weights)
    means = {term: value / len(ROWS) for term, value in sums.items()}
    weight = {"reconstruction": 0.1, "retrieval": 0.7, "interest": 1.0, "covariance": model.config.covariance}
    total = sum(weight[term] * value for term, value in means.items())
    assert float(parts["loss"]) == pytest.approx(total, rel=1e-6)
    expected = {"loss", "reconstruction", "retrieval"} | ({"interest"} if model.extract is not None else set())
    assert parts.keys() == expected | ({"covariance"} if model.config.covariance > 0 else set())
    for term in parts.keys() - {"loss"}:
        assert float(parts[term]) == pytest.approx(means[term], rel=1e-6), term


# ------------------------------------------------------------------------------------------------ the posterior


@pytest.mark.parametrize("t", [2, 5, 20, 48])
def test_the_printed_coefficients_are_not_bayes_rule(t: int):
    """On a grid of candidates x_{t-1}: ours are Bayes' rule, Eq. 16 and Eq. 5 as printed are neither."""
    schedule = Exponential(steps=50)()
    beta, alpha_bar = schedule.betas.tolist(), schedule.alpha_bar.tolist()
    z = torch.linspace(-12, 12, 400_001, dtype=torch.float64)

    def mean(x0: float, x_t: float) -> float:
        log_p = -((x_t - math.sqrt(1 - beta[t]) * z) ** 2) / (2 * beta[t])
        log_p = log_p - (z - math.sqrt(alpha_bar[t - 1]) * x0) ** 2 / (2 * (1 - alpha_bar[t - 1]))
        return float(torch.softmax(log_p, 0) @ z)

    of_x0, of_x_t = mean(1.0, 0.0), mean(0.0, 1.0)
    model = make({"schedule.steps": 50})
    step = next(step for step in model.steps if step.t == t)
    assert (step.move, step.keep) == (pytest.approx(of_x0, abs=1e-9), pytest.approx(of_x_t, abs=1e-9))
    rest = 1 - alpha_bar[t]
    printed_16 = math.sqrt(1 - beta[t - 1]) * beta[t] / rest  # sqrt(alpha_{t-1})
    printed_5 = math.sqrt(1 - beta[t]) * (1 - alpha_bar[t]) / rest  # 1 - alpha_bar_t
    assert printed_16 > of_x0 + 1e-4
    assert printed_5 > of_x_t + 1e-4
    if t == 2:  # towards the clean end the state would be kept far too well,
        assert printed_5 > 1.2 * of_x_t
    if t == 48:  # and towards the noisy end the target would be pulled at many times its weight
        assert printed_16 > 5 * of_x0


# ------------------------------------------------------------------------------------------------ properties


@torch.no_grad()
def test_routing_is_a_distribution_over_the_items():
    model = make()
    query = batch_of(ROWS, width=9)
    routing = model.routing(query)
    assert routing.shape == (len(ROWS), 9, K)
    assert (routing >= 0).all()
    assert (routing[:, : 9 - L] == 0).all()  # where the model does not read
    assert (routing[~query.mask] == 0).all()
    expected = torch.ones(len(ROWS), K, dtype=torch.float64)
    expected[4] = 0  # nothing is routed in an empty history
    torch.testing.assert_close(routing.sum(dim=1), expected)
    for row, (history, _) in enumerate(ROWS[:4]):
        n = min(L, len(history))
        torch.testing.assert_close(routing[row, 9 - n :], slow_guidance(model, history)[2])


def test_without_interests_nothing_is_routed():
    with pytest.raises(ConfigError, match="ADIGRec has no interests"):
        make(VARIANTS["G2"]).routing(batch_of(ROWS))


@torch.no_grad()
def test_with_one_interest_the_regulariser_is_the_variance_of_its_weights():
    model, batch = make({"guidance.interests": 1}), batch_of(ROWS)
    variances = [float(slow_guidance(model, history)[2].var(correction=0)) for history, _ in ROWS]
    assert max(variances) > 1e-3
    assert float(model.loss(batch, NOISE)["covariance"]) == pytest.approx(sum(variances) / len(ROWS), rel=1e-9)


@pytest.mark.parametrize(("form", "same"), [("per_interest", True), ("joined", False)])
@torch.no_grad()
def test_the_order_of_interests_matters_only_to_vec_g(form: str, same: bool):
    model, query = make({"form": form}), batch_of(ROWS)
    before = model.scores(query, NOISE)
    order = torch.tensor([2, 0, 1])
    model.extract.route.weight.copy_(model.extract.route.weight[order])
    assert torch.allclose(model.scores(query, NOISE), before, rtol=0, atol=1e-12) == same


@torch.no_grad()
def test_an_empty_history_is_the_start_vector():
    model, query = make(), batch_of(ROWS)
    before = model.user_vectors(query, NOISE)
    model.start.add_(0.5)
    moved = (model.user_vectors(query, NOISE) - before).abs().amax(dim=(1, 2))
    assert (moved[:4] == 0).all()
    assert moved[4] > 1e-3


@torch.no_grad()
def test_on_the_sphere_vectors_have_length_one():
    query = batch_of(ROWS)
    full, paper = make({"sphere.name": "full"}), make()
    for vectors in (full.user_vectors(query, NOISE), full.item_vectors()[1:]):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1], dtype=torch.float64))
    assert torch.equal(paper.item_vectors(), paper.items.weight)
    cosines = F.cosine_similarity(full.user_vectors(query, NOISE), full.items.weight[None, 1:], dim=-1)
    torch.testing.assert_close(full.scores(query, NOISE)[:, 1:], cosines)


@torch.no_grad()
def test_the_length_of_the_start_counts_only_off_the_sphere():
    """noise_scale moves x_T; with one step from x_T and no other noise, a sphere takes its length away."""
    query, one = batch_of(ROWS), {"generation.sampler": "ddim", "generation.steps": 1}
    for sphere, same in (("paper", True), ("off", False)):
        options = {**one, "sphere.name": sphere}
        long, short = make(options), make({**options, "noise_scale": "1/sqrt(d)"})
        assert torch.allclose(long.user_vectors(query, NOISE), short.user_vectors(query, NOISE), atol=1e-12) == same


@torch.no_grad()
def test_a_row_that_has_every_item_has_no_negatives():
    """And no loss from telling the target apart."""
    model = make()
    everything = list(range(1, ITEMS + 1))
    parts = model.loss(batch_of([(everything[:-1], ITEMS)]), NOISE)
    assert float(parts["retrieval"]) == float(parts["interest"]) == 0
    assert parts["loss"].isfinite()


@torch.no_grad()
def test_guidance_is_computed_once_per_query_and_time_once_per_chain(monkeypatch: pytest.MonkeyPatch):
    model, calls = make(), []

    def count(module: torch.nn.Module, name: str) -> None:
        original = module.forward
        monkeypatch.setattr(module, "forward", lambda *a: calls.append((name, len(a[0]))) or original(*a))

    count(model.denoiser.time, "time")
    count(model.denoiser.from_guidance, "guidance")
    count(model.extract, "interests")
    count(model.denoiser.from_state, "state")
    model.user_vectors(batch_of(ROWS), NOISE)
    state = [("state", len(ROWS))] * T
    assert sorted(calls) == sorted([("guidance", len(ROWS)), ("interests", len(ROWS)), *state, ("time", T)])


@torch.no_grad()
def test_answers_do_not_depend_on_how_noise_is_drawn_ahead():
    """A large batch draws fewer steps at a time than a single row."""
    model, many = make({"schedule.steps": 40}), [([1, 2, 3], 4)] * 600
    together = model.user_vectors(batch_of(many), NOISE)
    alone = model.user_vectors(batch_of(many[:1], first_key=599), NOISE)
    torch.testing.assert_close(alone[0], together[599], rtol=1e-9, atol=1e-9)


def test_trains_in_mixed_precision():
    model, batch = make().float().train(), batch_of(ROWS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(5):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model.loss(batch, NOISE.at(step))["loss"]
        loss.backward()
        assert loss.isfinite()
        optimizer.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@torch.no_grad()
def test_dislikes_and_strength_are_for_filters_alone():
    model, query = make(), batch_of(ROWS)
    asked = dataclasses.replace(query, guidance_scale=3.0, dislikes=torch.full((len(ROWS), 2), 3))
    assert torch.equal(model.user_vectors(asked, NOISE), model.user_vectors(query, NOISE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generation": {"start": "mean"}}, "start must be"),
        ({"guidance": {"name": "both", "heads": 3}}, "heads = 3 does not divide dim"),
        ({"guidance": {"name": "g2"}}, "set covariance = 0"),
        ({"guidance": {"name": "both", "combine": "concat_k"}, "form": "per_interest"}, "one row of G for each"),
        ({"noise_scale": 2}, "noise_scale"),
        ({"sphere": {"name": "paper", "temperature": 0.2}}, "temperature"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        ADIGRecConfig.from_plain(options)

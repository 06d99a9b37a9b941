"""PreferDiff: its loss written out by hand on a small batch, and its guidance."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from guiderec.models.preferdiff import PreferDiff, PreferDiffConfig
from guiderec.rng import Noise
from guiderec.testing.oracles import batch_of

ITEMS, DIM, T = 30, 8, 40
ROWS = [([1, 2, 3], 4), ([5, 6], 7), ([8], 9), ([], 4)]


def make(**options: Any) -> PreferDiff:
    torch.manual_seed(0)
    plain = {"dim": DIM, "max_length": 4, "dropout": 0.0, "p_uncond": 0.0, "generation": {"steps": 5}}
    plain["schedule"] = {"name": "linear", "steps": T}
    return PreferDiff(PreferDiffConfig.from_plain({**plain, **options}), ITEMS).double().eval()


def alpha_bar(t: int) -> float:
    return math.prod(1 - (1e-4 + (0.02 - 1e-4) * s / (T - 1)) for s in range(t + 1))


def denoise(model: PreferDiff, x: Tensor, condition: Tensor, t: Tensor) -> Tensor:
    """One Linear on [x_t ; c ; time(t)], the public layout, for one row."""
    network = model.denoiser
    weight = torch.cat([network.from_state.weight, network.from_condition.weight, network.from_time.weight], dim=1)
    return weight @ torch.cat([x, condition, network.time(t[None])[0]]) + network.from_time.bias


ERRORS = {
    "cos_sq": lambda x, y: (1 - float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))) ** 2,
    "cos": lambda x, y: 1 - float(x @ y) / math.sqrt(float(x @ x) * float(y @ y)),
    "l2": lambda x, y: sum((a - b) ** 2 for a, b in zip(x.tolist(), y.tolist(), strict=True)) / len(x),
}


def errors_by_hand(model: PreferDiff, noise: Noise, *, kind: str, exclude: bool) -> tuple[list[float], list[float]]:
    """e_pos and e_neg of every row: the centroid of the other targets, noised to the same step, same condition."""
    batch = batch_of(ROWS)
    t = noise.integers(batch.key, 1, T, "draw/t")[:, 0]
    noises = {what: noise.normal(batch.key, DIM, f"{what}/eps", torch.float64) for what in ("draw", "negative")}
    positive, negative = [], []
    for row, (_, target) in enumerate(ROWS):
        others = [other for j, (_, other) in enumerate(ROWS) if j != row and not (exclude and other == target)]
        x0 = model.items.weight[target]
        centroid = sum(model.items.weight[other] for other in others) / len(others)
        condition = model.encode(batch.rows(slice(row, row + 1)))[0]
        level = alpha_bar(int(t[row]))
        for clean, what, errors in ((x0, "draw", positive), (centroid, "negative", negative)):
            x_t = math.sqrt(level) * clean + math.sqrt(1 - level) * noises[what][row]
            errors.append(ERRORS[kind](denoise(model, x_t, condition, t[row]), clean))
    return positive, negative


@pytest.mark.parametrize("kind", ["cos_sq", "cos", "l2"])
@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("over", ["batch", "rows"])
@torch.no_grad()
def test_loss_by_hand(kind: str, exclude: bool, over: str):
    """lambda e_pos - (1 - lambda) log sigmoid(-gamma (e_pos - e_neg)), on batch means or row by row."""
    model = make(balance=0.3, gamma=5.0, distance=kind, exclude_same_id=exclude, preference_over=over)
    noise = Noise(2)
    e_pos, e_neg = errors_by_hand(model, noise, kind=kind, exclude=exclude)
    pairs = list(zip(e_pos, e_neg, strict=True))
    if over == "batch":
        pairs = [(sum(e_pos) / len(e_pos), sum(e_neg) / len(e_neg))]
    terms = [-math.log(1 / (1 + math.exp(5.0 * (positive - negative)))) for positive, negative in pairs]
    preference, reconstruction = sum(terms) / len(terms), sum(e_pos) / len(e_pos)
    parts = model.loss(batch_of(ROWS), noise)
    assert parts["reconstruction"].item() == pytest.approx(reconstruction, abs=1e-12)
    assert parts["preference"].item() == pytest.approx(preference, abs=1e-12)
    assert parts["loss"].item() == pytest.approx(0.3 * reconstruction + 0.7 * preference, abs=1e-12)


def test_the_authors_compare_batch_means_and_keep_same_targets():
    config = PreferDiffConfig()
    assert (config.preference_over, config.exclude_same_id, config.distance, config.gamma) == (
        "batch",
        False,
        "cos_sq",
        5.0,
    )


@pytest.mark.parametrize("over", ["batch", "rows"])
def test_one_target_alone_has_no_preference(over: str):
    for rows, exclude in (([ROWS[0]], False), ([([1], 5), ([2, 3], 5)], True)):
        model = make(preference_over=over, exclude_same_id=exclude)
        parts = model.train().loss(batch_of(rows), Noise(0))
        assert parts["preference"].item() == 0
        assert parts["loss"].item() == pytest.approx(0.4 * parts["reconstruction"].item(), abs=1e-15)
        parts["loss"].backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_negatives_learn_too():
    """Nothing is detached: with the preference alone, a target is moved by rows whose negative it is."""
    model = make(balance=0.0, preference_over="rows")
    parts = model.loss(batch_of(ROWS), Noise(0))
    parts["loss"].backward()
    assert (model.items.weight.grad[[4, 7, 9]].abs().sum(dim=1) > 0).all()
    assert not model.items.weight.grad[10:].any()


@torch.no_grad()
def test_guidance_is_classifier_free():
    """x0_hat moves by w G (c - null), with G the composed chain, and not at all for w = 0."""
    model, query = make(guidance={"name": "cfg", "scale": 8.0}), batch_of(ROWS)
    plain = model.user_vectors(dataclasses.replace(query, guidance_scale=0.0), Noise(0))[:, 0]
    guided = model.user_vectors(query, Noise(0))[:, 0]
    expected = plain + 8.0 * (model.encode(query) - model.null) @ model.generator.compose().G.T
    torch.testing.assert_close(guided, expected, rtol=0, atol=1e-10)
    assert (guided - plain).abs().max() > 1e-2


def test_dislikes_are_not_steered_by():
    model = make()
    assert not model.steers
    query = batch_of(ROWS)
    disliking = dataclasses.replace(query, dislikes=torch.full((4, 2), 9))
    with torch.no_grad():
        assert torch.equal(model.scores(disliking, Noise(0)), model.scores(query, Noise(0)))

"""Losses on a few numbers with `math`, centroids by a slow loop, and what the draws depend on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from guiderec.diffusion.objectives import (
    centroid_of_others,
    distance,
    draw,
    drop_condition,
    guidance_alignment,
    masked_mean,
    preference,
)
from guiderec.diffusion.schedule import Linear
from guiderec.rng import Noise

SCHEDULE = Linear(steps=50)()


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------ the terms


def test_distances_are_the_formulas():
    x, y = [3.0, 4.0, 0.0], [1.0, 2.0, 2.0]
    cosine = (3 * 1 + 4 * 2 + 0 * 2) / (math.hypot(*x) * math.hypot(*y))  # 11 / (5 * 3)
    expected = {
        "cos": 1 - cosine,
        "cos_sq": (1 - cosine) ** 2,
        "l2": ((3 - 1) ** 2 + (4 - 2) ** 2 + (0 - 2) ** 2) / 3,
    }
    rows = torch.stack([tensor(*x), tensor(*y)]), torch.stack([tensor(*y), tensor(*y)])
    for kind, value in expected.items():
        torch.testing.assert_close(distance(kind)(*rows), tensor(value, 0.0), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("angle", "value"), [(0, 0.0), (60, 0.5), (90, 1.0), (180, 2.0)])
def test_cosine_distance_is_that_of_the_angle_at_any_length(angle: int, value: float):
    turned = 7.5 * tensor(math.cos(math.radians(angle)), math.sin(math.radians(angle)))
    found = distance("cos")(turned[None], tensor(0.2, 0.0)[None])
    torch.testing.assert_close(found, tensor(value), rtol=0, atol=1e-12)


def test_alignment_is_a_hinge():
    """max(0, 0.3 - 0.9 + 0.1) = 0; max(0, 0.5 - 0.55 + 0.1) = 0.05; max(0, 1.5 - 0.2 + 0.1) = 1.4."""
    found = guidance_alignment(tensor(0.3, 0.5, 1.5), tensor(0.9, 0.55, 0.2), 0.1)
    torch.testing.assert_close(found, tensor(0.0, 0.05, 1.4), rtol=0, atol=1e-15)


def test_preference_is_the_logistic_loss():
    errors = [(0.2, 0.7), (0.5, 0.5), (1.5, 0.1)]
    expected = [-math.log(1 / (1 + math.exp(5.0 * (pos - neg)))) for pos, neg in errors]
    positive, negative = (tensor(*column) for column in zip(*errors, strict=True))
    torch.testing.assert_close(preference(positive, negative, 5.0), tensor(*expected), rtol=0, atol=1e-14)


def test_preference_is_stable_where_the_formula_overflows():
    assert preference(tensor(4.0), tensor(0.0), 1000.0).tolist() == [4000.0]
    assert preference(tensor(0.0), tensor(4.0), 1000.0).tolist() == [0.0]


def test_masked_mean():
    values, mask = tensor(1.0, 20.0, 6.0), torch.tensor([True, False, True])
    assert masked_mean(values, mask) == 3.5
    assert masked_mean(values, mask) == values[mask].mean()
    assert masked_mean(values, torch.zeros(3, dtype=torch.bool)) == 0


@pytest.mark.parametrize("active", [True, False])
def test_gradient_of_the_whole_loss(active: bool):
    """SteerRec, eq. 32: dL = d(d_pos) - mu d(d_neg) where the hinge is active, (1 - mu) d(d_pos) where it is not."""
    mu, margin = 0.3, 0.1
    negative_value = 0.5 if active else 0.8
    theta = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    positive = 0.6 + 2.0 * (theta - 1.7)  # derivative 2
    negative = negative_value + 5.0 * (theta - 1.7)  # derivative 5
    loss = (1 - mu) * positive + mu * guidance_alignment(positive, negative, margin)
    loss.backward()
    assert theta.grad is not None
    assert theta.grad.item() == pytest.approx(2.0 - mu * 5.0 if active else (1 - mu) * 2.0, abs=1e-14)


# ------------------------------------------------------------------------------------------------ centroids


def centroid_by_loop(vectors: Tensor, ids: list[int], *, exclude_same_id: bool) -> tuple[list[Tensor], list[bool]]:
    centroids, found = [], []
    for i in range(len(ids)):
        others = [vectors[j] for j in range(len(ids)) if j != i and not (exclude_same_id and ids[j] == ids[i])]
        centroids.append(sum(others, torch.zeros_like(vectors[0])) / max(len(others), 1))
        found.append(bool(others))
    return centroids, found


@pytest.mark.parametrize("exclude_same_id", [True, False])
@pytest.mark.parametrize("ids", [[1, 2, 3, 4], [5, 5, 2, 5, 1], [7, 7, 7], [9]])
def test_centroid_of_others_by_loop(ids: list[int], exclude_same_id: bool):
    vectors = torch.randn(len(ids), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slow, slow_found = centroid_by_loop(vectors, ids, exclude_same_id=exclude_same_id)
    centroids, found = centroid_of_others(vectors, torch.tensor(ids), exclude_same_id=exclude_same_id)
    torch.testing.assert_close(centroids, torch.stack(slow), rtol=0, atol=1e-14)
    assert found.tolist() == slow_found


def test_centroids_of_one_batch_differ_by_the_rows_they_leave_out():
    """c_i - c_j = (x_j - x_i) / (B - 1): within a batch the negative conditions are nearly one vector."""
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    c, _ = centroid_of_others(x, torch.arange(6), exclude_same_id=False)
    torch.testing.assert_close(c[:, None] - c[None], (x[None] - x[:, None]) / 5, rtol=0, atol=1e-14)


# ------------------------------------------------------------------------------------------------ draws

KEYS = torch.arange(1000, 1000 + 4000)


def test_draw_is_the_forward_process():
    x0 = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    drawn = draw(x0, SCHEDULE, Noise(0), KEYS[:5])
    for row in range(5):
        betas = [1e-4 + (0.02 - 1e-4) * s / 49 for s in range(int(drawn.t[row]) + 1)]
        alpha_bar = math.prod(1 - beta for beta in betas)
        expected = math.sqrt(alpha_bar) * x0[row] + math.sqrt(1 - alpha_bar) * drawn.eps[row]
        torch.testing.assert_close(drawn.x_t[row], expected, rtol=0, atol=1e-12)


def test_draw_of_a_row_depends_on_its_key_and_the_step_alone():
    x0 = torch.randn(8, 3, generator=torch.Generator().manual_seed(3))
    together = draw(x0, SCHEDULE, Noise(0), KEYS[:8])
    order = torch.tensor([5, 0, 7])
    some = draw(x0[order], SCHEDULE, Noise(0), KEYS[order])
    assert torch.equal(some.t, together.t[order])
    assert torch.equal(some.eps, together.eps[order])
    assert torch.equal(some.x_t, together.x_t[order])
    same_key = draw(x0, SCHEDULE, Noise(0), torch.full((8,), 3))
    assert len(same_key.t.unique()) == 1
    for other in (Noise(1), Noise(0).at(1)):
        assert not torch.equal(draw(x0, SCHEDULE, other, KEYS[:8]).eps, together.eps)


def test_steps_are_uniform_and_noise_is_normal():
    """Counts of the 50 steps within 5 deviations of n / 50; mean and variance of the noise within 5 of 0 and 1."""
    n = len(KEYS)
    drawn = draw(torch.zeros(n, 2), SCHEDULE, Noise(4), KEYS)
    counts = torch.bincount(drawn.t, minlength=50)
    assert len(counts) == 50
    assert (counts - n / 50).abs().max() < 5 * math.sqrt(n / 50)
    assert drawn.eps.mean().abs() < 5 / math.sqrt(2 * n)
    assert (drawn.eps.var() - 1).abs() < 5 * math.sqrt(2 / (2 * n))
    correlation = torch.corrcoef(torch.stack([drawn.t.double(), drawn.eps[:, 0].double()]))[0, 1]
    assert correlation.abs() < 5 / math.sqrt(n)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.7])
def test_conditions_are_dropped_at_the_rate_asked_for(p: float):
    n = len(KEYS)
    condition, null = torch.ones(n, 2), torch.tensor([-1.0, -2.0])
    result, kept = drop_condition(condition, null, p, Noise(5), KEYS)
    assert abs((~kept).double().mean().item() - p) <= 5 * math.sqrt(p * (1 - p) / n)
    assert (result[kept] == 1).all()
    assert (result[~kept] == null).all()


def test_dropping_is_keyed_per_row_and_gives_gradients_to_the_right_side():
    condition = torch.ones(64, 2, requires_grad=True)
    null = torch.zeros(2, requires_grad=True)
    result, kept = drop_condition(condition, null, 0.3, Noise(6), KEYS[:64])
    assert torch.equal(drop_condition(condition[9:11], null, 0.3, Noise(6), KEYS[9:11])[1], kept[9:11])
    result.sum().backward()
    assert condition.grad is not None
    assert null.grad is not None
    assert torch.equal(condition.grad[:, 0] == 1, kept)
    assert null.grad.tolist() == [float((~kept).sum())] * 2

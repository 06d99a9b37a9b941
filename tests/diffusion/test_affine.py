from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from guiderec.diffusion.affine import AffineDenoiser, _norm_bound, compose, compose_steps
from guiderec.diffusion.denoisers import LinearDenoiser, MLPDenoiser
from guiderec.diffusion.guidance import Conditions, PositiveNegative
from guiderec.diffusion.samplers import ddpm, ddpm_steps
from guiderec.diffusion.schedule import Align, Cosine, Linear
from guiderec.errors import TrainingError

B, D, C = 4, 24, 10


def _matrix(kind: str, dim: int = D, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    R = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    unit = R / torch.linalg.matrix_norm(R, 2)
    eye = torch.eye(dim, dtype=torch.float64)
    return {
        "small": 0.6 * unit,
        "norm 2": 2 * unit,
        "norm 12": 12 * unit,
        "near -2": -2 * eye + 0.05 * unit,  # what the segments are for: the true result is tiny beside the terms
        "rotation": 2 * (R - R.T) / torch.linalg.matrix_norm(R - R.T, 2),
        "non-normal": 0.5 * torch.triu(R, 1),  # nilpotent: all eigenvalues are 0, the norm is about 4
        "Jordan": 0.9 * eye + torch.diag(torch.full((dim - 1,), 2.0, dtype=torch.float64), 1),
        "zero": 0 * eye,
    }[kind]


def _denoiser(W: Tensor, seed: int = 0) -> LinearDenoiser:
    torch.manual_seed(seed)
    denoiser = LinearDenoiser(len(W), C).double()
    with torch.no_grad():
        denoiser.from_state.weight.copy_(W)
    return denoiser


def _inputs(rows: int = B, dim: int = D) -> tuple[Tensor, Conditions]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    toward, away = torch.randn(2, rows, C, generator=generator, dtype=torch.float64)
    return x, Conditions(toward, away=away)


@torch.no_grad()
def _loop(denoiser: LinearDenoiser, x: Tensor, conditions: Conditions, w: float, betas: Tensor, steps: int) -> Tensor:
    """Algorithm 2 of SteerRec as printed: two passes and the predicted noise at every step. Shares no code."""
    alpha_bar = torch.cumprod(1 - betas, 0).tolist()
    grid = [int(j * len(betas) / steps + 0.5) - 1 for j in range(1, steps + 1)]
    for j in reversed(range(steps)):
        ab, ab_next = alpha_bar[grid[j]], alpha_bar[grid[j - 1]] if j else 1.0
        t = torch.full((len(x),), grid[j])
        x0 = (1 + w) * denoiser(x, t, conditions.toward) - w * denoiser(x, t, conditions.away)
        eps = (x - ab**0.5 * x0) / (1 - ab) ** 0.5
        x = ab_next**0.5 * x0 + (1 - ab_next) ** 0.5 * eps
    return x


def _assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    error = float((found - expected).abs().max() / expected.abs().max())
    assert error < tolerance, f"relative to the largest entry: {error:.2e}"


KINDS = ["small", "norm 2", "norm 12", "near -2", "rotation", "non-normal", "Jordan", "zero"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n", "steps"), [(n, s) for n in (10, 100, 1000) for s in sorted({1, 2, 3, 10, 50, n}) if s <= n]
)
def test_the_closed_form_is_the_loop(kind, n, steps):
    schedule, denoiser, w = Linear(steps=n)(), _denoiser(_matrix(kind)), 4.0
    x, conditions = _inputs()
    chain, g = compose(denoiser, schedule, steps), PositiveNegative(scale=w).extrapolate(conditions)
    _assert_close(chain(x, g), _loop(denoiser, x, conditions, w, schedule.betas, steps))
    _assert_close(chain.mean(g), _loop(denoiser, torch.zeros_like(x), conditions, w, schedule.betas, steps))


@pytest.mark.parametrize("part", [Align(steps=32), Cosine(steps=500)])
def test_other_schedules(part):
    schedule, denoiser = part(), _denoiser(_matrix("norm 2"))
    x, conditions = _inputs()
    for steps in (7, part.steps):
        found = compose(denoiser, schedule, steps)(x, PositiveNegative(scale=2).extrapolate(conditions))
        _assert_close(found, _loop(denoiser, x, conditions, 2.0, schedule.betas, steps))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
    st.sampled_from([2, 4, 8]), st.floats(0, 6), st.integers(0, 5), st.floats(0, 10),
)  # fmt: skip
def test_any_chain_of_any_small_matrix(case, dim, norm, seed, w):
    n, steps = case
    schedule, denoiser = Linear(steps=n)(), _denoiser(norm / 2 * _matrix("norm 2", dim, seed))
    x, conditions = _inputs(2, dim)
    found = compose(denoiser, schedule, steps)(x, PositiveNegative().extrapolate(conditions, w))
    _assert_close(found, _loop(denoiser, x, conditions, w, schedule.betas, steps))


def test_the_mean_is_exact():
    """x_T and -x_T are equally likely, and the loop is affine, so half the sum of the two results is the mean."""
    schedule, denoiser = Linear(steps=200)(), _denoiser(_matrix("norm 2"))
    x, conditions = _inputs()
    pair = [_loop(denoiser, sign * x, conditions, 3.0, schedule.betas, 20) for sign in (1, -1)]
    mean = compose(denoiser, schedule, 20).mean(PositiveNegative(scale=3).extrapolate(conditions))
    _assert_close(mean, (pair[0] + pair[1]) / 2)


def test_the_mean_of_ddpm():
    schedule, denoiser = Linear(steps=300)(), _denoiser(_matrix("norm 2"))
    x, conditions = _inputs()
    denoise = PositiveNegative(scale=2)(denoiser, conditions)
    noises = torch.randn(300, B, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plus = ddpm(denoise, x, schedule, lambda t: noises[t])
    minus = ddpm(denoise, -x, schedule, lambda t: -noises[t])
    chain = compose_steps(denoiser, ddpm_steps(schedule))
    _assert_close(chain.mean(PositiveNegative(scale=2).extrapolate(conditions)), (plus + minus) / 2)


class _Products(TorchDispatchMode):
    """Counts products of two square matrices."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.mm.default and all(a.shape == (D, D) for a in args):
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("n", "most"), [(10, 8), (100, 14), (1000, 14), (4000, 14)])
def test_a_thousand_steps_do_not_need_a_thousand_products(n, most):
    denoiser, schedule = _denoiser(_matrix("small")), Linear(steps=n)()
    with _Products() as products:
        chain = compose(denoiser, schedule, n)
    assert 0 < products.count <= most
    with _Products() as products:
        chain.A  # noqa: B018  composed when first asked for
    assert 0 < products.count <= most
    with _Products() as products:
        chain(torch.zeros(1, D, dtype=torch.float64), torch.zeros(1, C, dtype=torch.float64))
    assert products.count == 0


def test_single_precision_is_composed_in_double_and_kept_in_single():
    schedule, exact = Linear(steps=1000)(), _denoiser(_matrix("norm 2"))
    x, conditions = _inputs()
    g = PositiveNegative(scale=4).extrapolate(conditions)
    expected = compose(exact, schedule, 1000)(x, g)
    chain = compose(exact.float(), schedule, 1000)
    assert chain.A.dtype == chain.G.dtype == chain.d.dtype == torch.float32
    _assert_close(chain(x.float(), g.float()).double(), expected, 1e-5)


def test_later_changes_of_the_weights_do_not_reach_the_chain():
    schedule, denoiser = Linear(steps=50)(), _denoiser(_matrix("small"))
    x, conditions = _inputs()
    chain = compose(denoiser, schedule, 50)
    before = _loop(denoiser, x, conditions, 0.0, schedule.betas, 50)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.mul_(3)
    _assert_close(chain(x, conditions.toward), before)  # A is composed here, after the change


def test_the_chain_carries_no_gradient():
    chain = compose(_denoiser(_matrix("small")), Linear(steps=5)(), 5)
    assert not any(part.requires_grad for part in (chain.A, chain.G, chain.d))


def test_the_linear_denoiser_is_affine_and_the_mlp_is_not():
    assert isinstance(LinearDenoiser(4), AffineDenoiser)
    assert not isinstance(MLPDenoiser(4), AffineDenoiser)


def test_weights_that_are_not_finite_are_refused():
    W = _matrix("small")
    W[3, 4] = float("nan")
    with pytest.raises(TrainingError, match="not finite"):
        compose(_denoiser(W), Linear(steps=5)(), 5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "zero"])
@pytest.mark.parametrize("dim", [2, 24, 200])
def test_the_norm_bound_is_above_the_norm_and_near_it(kind, dim):
    for seed in range(5):
        W = _matrix(kind, dim, seed)
        norm = float(torch.linalg.matrix_norm(W, 2))
        assert norm <= _norm_bound(W) <= 1.2 * norm


def test_the_norm_bound_neither_overflows_nor_underflows():
    W = _matrix("norm 2")  # scaled to both ends of float32, the usual dtype of weights
    assert _norm_bound(1e38 * W) == pytest.approx(1e38 * _norm_bound(W))
    assert _norm_bound(1e-38 * W) == pytest.approx(1e-38 * _norm_bound(W))

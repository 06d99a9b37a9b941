from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from guiderec.config import Part, override
from guiderec.diffusion.denoisers import LinearDenoiser, MLPDenoiser
from guiderec.diffusion.guidance import (
    ClassifierFree,
    Conditions,
    GuidanceConfig,
    PositiveNegative,
    Unguided,
)
from guiderec.errors import ConfigError

B, D = 4, 6


def _inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x, toward, null, away = torch.randn(4, B, D, generator=generator, dtype=dtype)
    return x, torch.tensor([0, 3, 50, 99]), Conditions(toward, null=null, away=away)


class _Counting:
    """A network that counts its calls."""

    def __init__(self, network) -> None:
        self.network, self.calls = network, 0

    def __call__(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        self.calls += 1
        return self.network(x_t, t, condition)


@pytest.mark.parametrize(("part", "other"), [(ClassifierFree, "null"), (PositiveNegative, "away")])
@pytest.mark.parametrize("network", [LinearDenoiser, MLPDenoiser])
def test_guidance_is_its_formula(part, other, network):
    x, t, conditions = _inputs()
    net = network(D).double()
    guided = part(scale=3.5)(net, conditions)(x, t)
    expected = 4.5 * net(x, t, conditions.toward) - 3.5 * net(x, t, getattr(conditions, other))
    torch.testing.assert_close(guided, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("part", [ClassifierFree, PositiveNegative])
def test_scale_zero_is_the_unguided_network_bit_for_bit_in_one_call(part):
    x, t, conditions = _inputs(torch.float32)
    net = _Counting(MLPDenoiser(D))
    unguided = Unguided()(net, conditions)(x, t)
    for denoise in (part(scale=0.0)(net, conditions), part(scale=4.0)(net, conditions, 0.0)):
        net.calls = 0
        assert torch.equal(denoise(x, t), unguided)
        assert net.calls == 1
    assert torch.equal(part(scale=0.0).extrapolate(conditions), conditions.toward)


@given(st.floats(0, 20), st.sampled_from([ClassifierFree, PositiveNegative]))
def test_equal_conditions_make_every_scale_the_same(w, part):
    x, t, conditions = _inputs()
    same = Conditions(conditions.toward, null=conditions.toward, away=conditions.toward)
    torch.manual_seed(0)
    net = MLPDenoiser(D).double()
    torch.testing.assert_close(part(scale=w)(net, same)(x, t), net(x, t, same.toward), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(part(scale=w).extrapolate(same), same.toward, rtol=1e-12, atol=1e-12)


def test_both_guidances_are_one_function_of_their_repelling_condition():
    x, t, conditions = _inputs()
    net = MLPDenoiser(D).double()
    swapped = Conditions(conditions.toward, away=conditions.null)
    assert torch.equal(ClassifierFree(scale=2)(net, conditions)(x, t), PositiveNegative(scale=2)(net, swapped)(x, t))


@given(st.floats(0, 20), st.sampled_from([ClassifierFree, PositiveNegative]))
def test_linear_denoiser_under_guidance_is_one_pass_under_the_extrapolated_condition(w, part):
    x, t, conditions = _inputs()
    torch.manual_seed(1)
    net = LinearDenoiser(D).double()
    one_pass = net(x, t, part().extrapolate(conditions, w))
    torch.testing.assert_close(part()(net, conditions, w)(x, t), one_pass, rtol=1e-11, atol=1e-11)


def test_an_mlp_has_no_such_shortcut():
    """The oracle above could not fail if the network ignored its condition; this shows that it can."""
    x, t, conditions = _inputs()
    net, part = MLPDenoiser(D).double(), PositiveNegative(scale=4)
    difference = part(net, conditions)(x, t) - net(x, t, part.extrapolate(conditions))
    assert float(difference.detach().abs().max()) > 1e-3


def test_scale_of_a_request_replaces_that_of_the_part():
    x, t, conditions = _inputs()
    net = MLPDenoiser(D).double()
    for part in (ClassifierFree, PositiveNegative):
        assert torch.equal(part(scale=1)(net, conditions, 5)(x, t), part(scale=5)(net, conditions)(x, t))
        assert torch.equal(part(scale=1).extrapolate(conditions, 5), part(scale=5).extrapolate(conditions))


def test_several_interests_extrapolate_too():
    toward, away = torch.randn(2, B, 3, D)
    g = PositiveNegative(scale=2).extrapolate(Conditions(toward, away=away))
    torch.testing.assert_close(g, 3 * toward - 2 * away)


def test_missing_conditions_are_named():
    net = LinearDenoiser(D)
    only = Conditions(torch.randn(B, D))
    for call in (lambda part: part(net, only), lambda part: part.extrapolate(only)):
        with pytest.raises(ConfigError, match=r"needs a null condition.*Hint: train with the condition dropped"):
            call(ClassifierFree())
        with pytest.raises(ConfigError, match=r"needs a condition to go away from.*Hint: give dislikes"):
            call(PositiveNegative())


def test_a_scale_for_no_guidance_is_refused():
    net, only = LinearDenoiser(D), Conditions(torch.randn(B, D))
    with pytest.raises(ConfigError, match="cannot be given the scale 2"):
        Unguided()(net, only, 2.0)
    with pytest.raises(ConfigError, match="cannot be given the scale 2"):
        Unguided().extrapolate(only, 2.0)
    assert torch.equal(Unguided().extrapolate(only, 0.0), only.toward)


def test_conditions_of_another_shape_stop_at_the_door():
    with pytest.raises(ValueError, match=r"'away' has shape \(6,\), but 'toward' has \(4, 6\)"):
        Conditions(torch.zeros(B, D), away=torch.zeros(D))


class _Model(Part):
    guidance: GuidanceConfig = PositiveNegative()


def test_guidance_is_chosen_by_name():
    model = override(_Model(), {"guidance.name": "cfg", "guidance.scale": "3"})
    assert model == _Model(guidance=ClassifierFree(scale=3))
    assert override(_Model(), {"guidance.name": "none"}) == _Model(guidance=Unguided())
    with pytest.raises(ConfigError, match="scale"):
        PositiveNegative(scale=-1)


def test_conditions_go_through_a_network_together_where_it_can():
    x, t, conditions = _inputs()

    class Batched(_Counting):
        def under_each(self, x_t, t, several):
            self.calls += 1
            return self.network.under_each(x_t, t, several)

    torch.manual_seed(0)
    net = MLPDenoiser(D).double()
    batched, plain = Batched(net), _Counting(net)
    one_batch = ClassifierFree(scale=2.0)(batched, conditions)(x, t)
    two_calls = ClassifierFree(scale=2.0)(plain, conditions)(x, t)
    assert (batched.calls, plain.calls) == (1, 2)
    torch.testing.assert_close(one_batch, two_calls, rtol=1e-12, atol=1e-12)

"""Dropout: torch's own as far as a distribution can tell, and the generator of torch decides."""

import pytest
import torch

from guiderec.nn import dropout
from guiderec.nn.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.4, 0.5, 0.93])
def test_as_many_are_dropped_as_said_and_the_mean_stays(p: float) -> None:
    torch.manual_seed(0)
    n = 1_000_003  # no multiple of the four that a word decides
    out = Dropout(p)(torch.full((n,), 3.0))
    spread = (p * (1 - p) / n) ** 0.5
    assert abs((out == 0).double().mean().item() - p) < 5 * spread
    assert abs(out.double().mean().item() - 3) < 5 * 3 * spread / (1 - p)
    kept = out[out != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 3 / (1 - p)), rtol=3e-4, atol=0)  # p in steps of 2^-16


@pytest.mark.parametrize("p", [1 / 65536, 0.1, 0.5, 0.7, 65535 / 65536])
def test_every_pattern_of_bits_counts_once(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16)
    monkeypatch.setattr(dropout, "_bits", lambda shape: everything.clone().view(shape))
    out = dropout.Dropout(p)(torch.ones(1 << 16, dtype=torch.float64))
    assert (out == 0).sum().item() == round(p * 65536)
    assert out.mean().item() == pytest.approx(1, abs=1e-12)


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(1)
    dropped = (Dropout(0.4)(torch.ones(1_000_000)) == 0).double()
    for distance in range(1, 9):  # four elements share a word
        together = (dropped[:-distance] * dropped[distance:]).mean().item()
        assert abs(together - 0.16) < 5 * 0.4 / 1000


def test_the_gradient_passes_where_the_value_did() -> None:
    torch.manual_seed(2)
    x = torch.randn(40, 7, requires_grad=True)
    out = Dropout(0.3)(x)
    out.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), out.detach())
    assert 0 < (out == 0).sum() < x.numel()


def test_nothing_happens_outside_training_and_everything_is_dropped_at_1() -> None:
    x = torch.randn(5, 3)
    layer = Dropout(0.9).eval()
    assert layer(x) is x or torch.equal(layer(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros_like(x))
    assert torch.equal(Dropout(0.0)(x), x)
    assert Dropout(0.5)(x[:0]).shape == (0, 3)
    with torch.device("meta"):  # of what is made without a device, not of x
        assert Dropout(0.5)(x).device.type == "cpu"


def test_the_generator_of_torch_decides() -> None:
    x = torch.ones(1000)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = Dropout(0.5)(x)
    second = Dropout(0.5)(x)
    torch.set_rng_state(state)
    assert torch.equal(Dropout(0.5)(x), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_stays(dtype: torch.dtype) -> None:
    assert Dropout(0.5)(torch.ones(8, 8, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_what_is_no_probability_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="is no probability: expected 0 to 1"):
        Dropout(p)

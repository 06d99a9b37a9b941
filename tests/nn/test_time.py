"""Time embeddings against diffusers, and against the formula in `math`."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from guiderec.nn.time import TimeEmbedding, sinusoid

STEPS = torch.tensor([0, 1, 2, 17, 999, 3999])


@pytest.mark.parametrize("dim", [4, 64, 3072])
def test_sinusoid_is_that_of_diffusers(dim: int):
    theirs = get_timestep_embedding(STEPS, dim, downscale_freq_shift=1.0)
    torch.testing.assert_close(sinusoid(STEPS, dim), theirs, rtol=0, atol=1e-3)  # 3999 radians in float32


@pytest.mark.parametrize("dim", [2, 4, 10])
def test_sinusoid_is_the_formula(dim: int):
    half = dim // 2
    frequency = [10_000.0 ** (-i / max(half - 1, 1)) for i in range(half)]
    slow = [[wave(t * f) for wave in (math.sin, math.cos) for f in frequency] for t in STEPS.tolist()]
    fast = sinusoid(STEPS, dim, dtype=torch.float64)
    torch.testing.assert_close(fast, torch.tensor(slow, dtype=torch.float64), rtol=0, atol=1e-11)
    torch.testing.assert_close(sinusoid(STEPS, dim).double(), fast, rtol=0, atol=1e-3)


def test_sinusoid_needs_an_even_width():
    with pytest.raises(ValueError, match="even dim, got 7"):
        sinusoid(STEPS, 7)


def test_steps_have_different_embeddings():
    table = sinusoid(torch.arange(2000), 64, dtype=torch.float64)
    distances = torch.cdist(table, table) + 10 * torch.eye(2000)
    assert distances.min() > 0.1


@torch.no_grad()
def test_network_is_two_layers_with_a_gelu():
    torch.manual_seed(0)
    network = TimeEmbedding(6).double()
    assert network.up.weight.shape == (12, 6)
    hidden = sinusoid(STEPS, 6, dtype=torch.float64) @ network.up.weight.T + network.up.bias
    gelu = [[h * 0.5 * (1 + math.erf(h / math.sqrt(2))) for h in row] for row in hidden.tolist()]
    expected = torch.tensor(gelu, dtype=torch.float64) @ network.down.weight.T + network.down.bias
    torch.testing.assert_close(network(STEPS), expected, rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_network_answers_in_the_precision_of_its_weights(dtype: torch.dtype):
    """In float64 the sinusoid is computed in float64: float32 would be 1e-4 off at late steps."""
    torch.manual_seed(0)
    exact = TimeEmbedding(8).double()
    network = TimeEmbedding(8)
    network.load_state_dict(exact.state_dict())
    result = network.to(dtype)(STEPS)
    assert result.dtype == dtype
    tolerance = {torch.bfloat16: 3e-2, torch.float32: 1e-3, torch.float64: 1e-10}[dtype]
    torch.testing.assert_close(result.double(), exact(STEPS), rtol=0, atol=tolerance)


def test_time_embedding_takes_other_widths_and_activations():
    torch.manual_seed(0)
    network, t = TimeEmbedding(4, expansion=3, activation=torch.nn.functional.silu), torch.tensor([0, 5])
    hidden = torch.nn.functional.silu(network.up(sinusoid(t, 4)))
    assert hidden.shape == (2, 12)
    torch.testing.assert_close(network(t), network.down(hidden))

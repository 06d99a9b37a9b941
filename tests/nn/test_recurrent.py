"""The GRU over padded histories against one step of one row at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guiderec.nn.recurrent import GRU


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def states_by_loop(gru: GRU, row: np.ndarray) -> np.ndarray:
    """(n, D) for one row (n, W) without padding: r, z and n as torch documents them."""
    w, u, b, c = (p.detach().numpy() for p in gru.cells.parameters())
    d = u.shape[1]
    h, states = np.zeros(d), []
    for x in row:
        given, kept = w @ x + b, u @ h + c
        r, z = sigmoid(given[:d] + kept[:d]), sigmoid(given[d : 2 * d] + kept[d : 2 * d])
        n = np.tanh(given[2 * d :] + r * kept[2 * d :])
        h = (1 - z) * n + z * h
        states.append(h)
    return np.array(states).reshape(-1, d)


@torch.no_grad()
def test_rows_of_all_lengths_are_those_of_the_loop():
    """Also where there is padding alone; what stands at padding is not read."""
    torch.manual_seed(0)
    gru, lengths, width = GRU(3, 4).double(), [0, 1, 5, 2, 4], 5
    x = torch.randn(len(lengths), width, 3, dtype=torch.float64)
    mask = torch.arange(width) >= width - torch.tensor(lengths)[:, None]
    states = gru(x, mask)
    for row, length in enumerate(lengths):
        expected = states_by_loop(gru, x[row, width - length :].numpy())
        np.testing.assert_allclose(states[row, width - length :], expected, rtol=1e-12)
        assert not states[row, : width - length].any()
    assert torch.equal(gru(x + 7.0 * ~mask[..., None], mask), states)


def test_padding_gets_no_gradient_and_no_rows_no_states():
    gru = GRU(3, 4)
    x = torch.randn(2, 4, 3, requires_grad=True)
    mask = torch.tensor([[False, False, True, True], [False, True, True, True]])
    gru(x, mask).square().sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad.any(dim=2), mask)
    assert gru(x[:0], mask[:0]).shape == (0, 4, 4)


def test_initialisation_is_uniform():
    torch.manual_seed(0)
    for parameter in GRU(50, 64).parameters():
        assert float(parameter.detach().abs().max()) <= 64**-0.5
    assert GRU(50, 64).cells.weight_hh_l0.detach().std().item() == pytest.approx(64**-0.5 / 3**0.5, rel=0.05)

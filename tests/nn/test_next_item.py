"""The softmax over all items in chunks has the loss and gradients of the formula, and a look at all logits at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from guiderec.nn import next_item
from guiderec.nn.next_item import softmax_loss


def problem(positions: int, items: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(positions)
    states = torch.randn(positions, width, generator=generator, dtype=torch.float64, requires_grad=True)
    table = torch.randn(items + 1, width, generator=generator, dtype=torch.float64, requires_grad=True)
    return states, table, torch.randint(items, (positions,), generator=generator)


def gradients(loss: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(3 * loss, of)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_item, "_CHUNK_LOGITS", 100)
    monkeypatch.setattr(next_item, "_LEAST_CHUNK", 8)


@pytest.mark.parametrize("positions", [1, 8, 9, 24, 37])  # below a chunk, whole chunks, and a rest
def test_chunks_have_the_loss_and_the_gradients_of_the_formula(small_chunks: None, positions: int):
    states, table, target = problem(positions, items=29, width=6)
    loss = softmax_loss(states, table[1:], target)
    logits = states @ table[1:].T
    expected = (logits.exp().sum(dim=1).log() - logits[torch.arange(positions), target]).mean()
    torch.testing.assert_close(loss, expected)
    for found, wanted in zip(gradients(loss, states, table), gradients(expected, states, table), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyOptions"), reason="this torch has no softmax in chunks")
def test_all_logits_are_never_there_at_once(small_chunks: None):
    class Products(torch.utils._python_dispatch.TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, Tensor):
                    self.largest = max(self.largest, tensor.numel())
            return out

    states, table, target = problem(400, items=300, width=6)
    with Products() as products:
        softmax_loss(states, table[1:], target)
    assert products.largest < 400 * 300 / 4


def test_autocast_makes_logits_in_its_precision(small_chunks: None):
    states, table, target = (x.detach().float() if x.is_floating_point() else x for x in problem(24, 29, 6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = softmax_loss(states, table[1:], target)
        expected = nn.functional.cross_entropy(states @ table[1:].T, target)
    assert loss == expected
    assert loss != softmax_loss(states, table[1:], target)

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from guiderec.nn.attention import causal_mask, two_sided_mask
from guiderec.nn.disentangled import DisentangledEncoder, DisentangledSelfAttention, relative_positions

MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
DIM, HEADS = 6, 2


def encoder(span: int = 3, layers: int = 2) -> DisentangledEncoder:
    torch.manual_seed(0)
    built = DisentangledEncoder(DIM, layers=layers, heads=HEADS, hidden=8, dropout=0.0, span=span, std=0.7).double()
    with torch.no_grad():  # biases and norms away from where they start, which would hide them
        for p in built.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return built


def states(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 5, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def delta(i: int, j: int, span: int) -> int:
    """Eq. 3 of the paper."""
    if i - j <= -span:
        return 0
    if i - j >= span:
        return 2 * span - 1
    return i - j + span


def by_loop(built: DisentangledEncoder, x: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """States of one row (L, D), one query, key and head at a time; Eq. 4 as it is printed."""
    weights = {name: p.detach().numpy() for name, p in built.named_parameters()}
    length, width = len(x), DIM // HEADS

    def linear(v: np.ndarray, name: str) -> np.ndarray:
        return weights[f"{name}.weight"] @ v + weights.get(f"{name}.bias", 0.0)

    def norm(v: np.ndarray, name: str) -> np.ndarray:
        centred = v - v.mean()
        return weights[f"{name}.weight"] * centred / np.sqrt((centred**2).mean() + 1e-5) + weights[f"{name}.bias"]

    def gelu(v: np.ndarray) -> np.ndarray:
        return np.array([0.5 * a * (1 + math.erf(a / math.sqrt(2))) for a in v])

    for layer in range(len(built.blocks)):
        name = f"blocks.{layer}"
        query = [linear(v, f"{name}.attention.query_value")[:DIM] for v in x]
        value = [linear(v, f"{name}.attention.query_value")[DIM:] for v in x]
        key = [linear(v, f"{name}.attention.key") for v in x]
        query_r = [linear(v, f"{name}.attention.position_query") for v in weights["relative"]]
        key_r = [linear(v, f"{name}.attention.position_key") for v in weights["relative"]]
        following = []
        for i in range(length):
            heads = []
            for head in range(HEADS):
                cut = slice(head * width, (head + 1) * width)
                seen = [j for j in range(length) if visible[i, j]]
                logits = [
                    query[i][cut] @ key[j][cut]
                    + query[i][cut] @ key_r[delta(i, j, built.span)][cut]
                    + key[j][cut] @ query_r[delta(j, i, built.span)][cut]
                    for j in seen
                ]
                share = np.exp(np.array(logits) / math.sqrt(3 * width))
                heads.append(sum(s * value[j][cut] for s, j in zip(share / share.sum(), seen, strict=True)))
            mixed = linear(np.concatenate(heads), f"{name}.attention.output")
            middle = norm(x[i] + mixed, f"{name}.attention_norm")
            wide = gelu(linear(middle, f"{name}.feedforward.expand"))
            following.append(norm(middle + linear(wide, f"{name}.feedforward.contract"), f"{name}.feedforward_norm"))
        x = np.array(following)
    return x


@pytest.mark.parametrize("visible_of", [two_sided_mask, causal_mask])
@pytest.mark.parametrize("span", [1, 3, 9])  # below, within and above the length of the rows
def test_is_equation_4(span: int, visible_of):
    built, x, visible = encoder(span), states(), visible_of(MASK)
    found = built(x, visible)
    for row in range(3):
        expected = by_loop(built, x[row].numpy(), visible[row, 0].numpy())
        torch.testing.assert_close(found[row], torch.tensor(expected))


@pytest.mark.parametrize("span", [1, 2, 5])
def test_relative_positions_are_equation_3(span: int):
    found = relative_positions(4, span)
    assert found.tolist() == [delta(offset, 0, span) for offset in range(-3, 4)]


def test_chosen_positions_are_those_of_the_whole():
    built, x, visible = encoder(), states(), two_sided_mask(MASK)
    where = torch.tensor([[0, 0, 1, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]).bool()
    torch.testing.assert_close(built(x, visible, where), built(x, visible)[where])
    one = encoder(layers=1)
    torch.testing.assert_close(one(x, visible, where), one(x, visible)[where])


def test_padding_reaches_no_item_and_more_of_it_changes_nothing():
    built, x, visible = encoder(span=9), states(), two_sided_mask(MASK)
    expected = built(x, visible)[MASK]
    torch.testing.assert_close(built(torch.where(MASK[..., None], x, 1e3), visible)[MASK], expected)
    wide_mask = torch.cat([torch.zeros(3, 4, dtype=torch.bool), MASK], dim=1)
    wide = torch.cat([torch.zeros(3, 4, DIM, dtype=torch.float64), x], dim=1)
    torch.testing.assert_close(built(wide, two_sided_mask(wide_mask))[wide_mask], expected)


def test_order_is_known_by_relative_positions_alone():
    """With one vector for all offsets a permutation of the row permutes its states; with several it does not."""
    built, x = encoder(), states()[1:2]
    visible, order = two_sided_mask(MASK[1:2]), torch.tensor([3, 0, 4, 2, 1])
    assert (built(x[:, order], visible) - built(x, visible)[:, order]).abs().max() > 0.01
    with torch.no_grad():
        built.relative.copy_(built.relative[0].clone())
    torch.testing.assert_close(built(x[:, order], visible), built(x, visible)[:, order])


def test_both_sides_are_seen():
    built, x = encoder(), states()
    changed = x.clone()
    changed[1, 4] += 1
    moved = (built(changed, two_sided_mask(MASK)) != built(x, two_sided_mask(MASK))).any(dim=-1)
    assert moved.tolist() == [[False] * 5, [True] * 5, [False] * 5]


def test_gradients_are_right_and_finite_for_an_empty_row():
    built = encoder(layers=1)
    named = dict(built.named_parameters())
    x, visible = states().requires_grad_(), two_sided_mask(MASK)

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(built, dict(zip(named, values, strict=True)), (x, visible))

    assert torch.autograd.gradcheck(run, (x, *named.values()), fast_mode=True)
    built(x, visible).square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())


def test_dropout_is_active_in_training_only():
    torch.manual_seed(0)
    built = DisentangledEncoder(DIM, layers=1, heads=2, hidden=8, dropout=0.5, span=3)
    x, visible = states().float(), two_sided_mask(MASK)
    assert not torch.equal(built(x, visible), built(x, visible))
    built.eval()
    torch.testing.assert_close(built(x, visible), built(x, visible), rtol=0, atol=0)


def test_starts_small():
    torch.manual_seed(0)
    built = DisentangledEncoder(64, layers=1, heads=2, hidden=128, dropout=0.0, span=50)
    assert built.relative.shape == (100, 64)
    for name, p in built.named_parameters():
        if p.ndim == 2:
            assert p.std().item() == pytest.approx(0.02, rel=0.05), name
        elif "norm" not in name:
            assert not p.any(), name


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="a width of 10 cannot be split into 4 heads"):
        DisentangledSelfAttention(10, 4)

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from guiderec.nn.sampled_softmax import Proposal, log_probabilities, sampled_softmax, shared_ranks
from guiderec.rng import Noise

I = 20  # noqa: E741


@pytest.mark.parametrize("proposal", ["log_uniform", "uniform"])
def test_draws_have_the_probabilities_that_are_corrected_for(proposal: Proposal):
    """Chi-squared over 200,000 draws; the probabilities sum to 1."""
    q = log_probabilities(proposal, I).exp()
    assert float(q.sum()) == pytest.approx(1)
    drawn = shared_ranks(proposal, I, 200_000, noise=Noise(0), purpose="negatives")
    assert stats.chisquare(drawn.bincount(minlength=I).numpy(), (q * 200_000).numpy()).pvalue > 1e-3


def test_log_uniform_in_numbers():
    q = log_probabilities("log_uniform", 3).exp().tolist()
    assert q == pytest.approx([math.log(2) / math.log(4), math.log(3 / 2) / math.log(4), math.log(4 / 3) / math.log(4)])


def test_draws_change_with_the_step_and_the_seed_alone():
    noises = (Noise(0), Noise(0), Noise(1), Noise(0, 1))
    draw = [shared_ranks("log_uniform", I, 50, noise=noise, purpose="n") for noise in noises]
    assert draw[0].equal(draw[1])
    assert not draw[0].equal(draw[2])
    assert not draw[0].equal(draw[3])


def test_loss_is_the_formula():
    """One row and one negative at a time; the second row's target is among the negatives and does not count there."""
    generator = torch.Generator().manual_seed(0)
    states, table = torch.randn(2, 3, generator=generator), torch.randn(I + 1, 3, generator=generator)
    target, negatives = torch.tensor([4, 7]), torch.tensor([7, 2, 2, 9])
    log_q = torch.cat([torch.zeros(1), log_probabilities("log_uniform", I).float()])
    losses = []
    for row in range(2):
        products = [sum(a * b for a, b in zip(states[row].tolist(), item, strict=True)) for item in table.tolist()]
        wanted = int(target[row])
        others = [j for j in negatives.tolist() if j != wanted]
        total = sum(math.exp(products[j]) / (4 * math.exp(log_q[j])) for j in others)
        losses.append(math.log(math.exp(products[wanted]) + total) - products[wanted])
    found = sampled_softmax(states, target, negatives, table, log_q)
    assert float(found) == pytest.approx(sum(losses) / 2, rel=1e-5)


@pytest.mark.parametrize("proposal", ["log_uniform", "uniform"])
def test_with_many_negatives_loss_and_gradient_are_those_of_the_full_softmax(proposal: Proposal):
    """Within sampling error, for items that all have other logits; without the weights they would not be."""
    generator = torch.Generator().manual_seed(0)
    states, table = torch.randn(6, 3, generator=generator), torch.randn(I + 1, 3, generator=generator)
    target = torch.tensor([1, 2, 5, 9, 14, 20])
    log_q = torch.cat([torch.zeros(1), log_probabilities(proposal, I).float()])
    negatives = shared_ranks(proposal, I, 200_000, noise=Noise(0), purpose="n") + 1
    table.requires_grad_()
    full = F.cross_entropy(states @ table[1:].T, target - 1)
    found = sampled_softmax(states, target, negatives, table, log_q)
    assert found.item() == pytest.approx(full.item(), rel=0.005)
    one, other = (torch.autograd.grad(loss, table)[0] for loss in (full, found))
    torch.testing.assert_close(other, one, rtol=0, atol=0.005)
    assert one.abs().max() > 0.1
    unweighted = sampled_softmax(states, target, negatives, table, torch.full_like(log_q, -math.log(I)))
    assert (unweighted.item() == pytest.approx(full.item(), rel=0.005)) == (proposal == "uniform")

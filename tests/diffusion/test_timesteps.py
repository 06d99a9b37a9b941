"""Drawing of steps and their weights: against loops, exact expectations and the formula in `math`."""

from __future__ import annotations

import pytest
import torch

from guiderec.diffusion.schedule import LinearVariance
from guiderec.diffusion.timesteps import ImportanceTimesteps, UniformTimesteps, snr_drop
from guiderec.rng import Noise


def by_loop(memory: list[list[float]], t: list[int], losses: list[float], remembered: int) -> None:
    """One loss after the other, as in the public code."""
    for step, loss in zip(t, losses, strict=True):
        memory[step].append(loss)
        del memory[step][:-remembered]


def test_memory_is_that_of_a_loop():
    """Batches in which a step comes never, once, or more often than is remembered."""
    generator = torch.Generator().manual_seed(0)
    steps, memory = ImportanceTimesteps(3, remembered=4), [[], [], []]
    for size in (1, 2, 30, 3, 0, 7):
        t = torch.randint(3, (size,), generator=generator)
        losses = torch.rand(size, generator=generator)
        steps.record(t, losses)
        by_loop(memory, t.tolist(), losses.tolist(), 4)
        assert steps.count.tolist() == [len(kept) for kept in memory]
        for row, kept in zip(steps.recent.tolist(), memory, strict=True):
            assert row[4 - len(kept) :] == pytest.approx(kept)


def test_uniform_until_every_step_is_known_and_then_by_the_root_mean_square():
    steps = ImportanceTimesteps(3, remembered=2, floor=0.1)
    steps.record(torch.tensor([0, 0, 1, 1, 2]), torch.tensor([3.0, 4.0, 0.0, 0.0, 1.0]))
    assert steps.probabilities().tolist() == pytest.approx([1 / 3] * 3)
    steps.record(torch.tensor([2]), torch.tensor([1.0]))
    size = [(25 / 2) ** 0.5, 0.0, 1.0]
    expected = [0.9 * s / sum(size) + 0.1 / 3 for s in size]
    assert steps.probabilities().tolist() == pytest.approx(expected)
    key = torch.arange(30_000)
    t, share = steps.draw(Noise(0), key)
    assert share.tolist()[:50] == pytest.approx([3 * expected[step] for step in t.tolist()[:50]])
    for step, p in enumerate(expected):
        assert float((t == step).double().mean()) == pytest.approx(p, abs=5 * (p * (1 - p) / 30_000) ** 0.5)
    # Divided by T p, the losses have the mean that uniform steps would give them: (7 + 20 + 1) / 3.
    losses = torch.tensor([7.0, 20.0, 1.0], dtype=torch.float64)[t] / share
    assert float(losses.mean()) == pytest.approx(28 / 3, abs=5 * float(losses.std()) / 30_000**0.5)


def test_losses_that_are_all_zero_are_no_division_by_zero():
    steps = ImportanceTimesteps(2, remembered=1)
    steps.record(torch.tensor([0, 1]), torch.zeros(2))
    assert steps.probabilities().tolist() == [0.5, 0.5]


def test_nothing_is_remembered_in_evaluation():
    steps = ImportanceTimesteps(2).eval()
    steps.record(torch.tensor([0, 1]), torch.ones(2))
    assert steps.count.tolist() == [0, 0]


def test_a_training_goes_on_with_the_memory_of_its_weights():
    first, second = ImportanceTimesteps(2, remembered=1), ImportanceTimesteps(2, remembered=1)
    first.record(torch.tensor([0, 1]), torch.tensor([1.0, 99.0]))
    second.load_state_dict(first.state_dict())
    key = torch.arange(500)
    assert torch.equal(first.draw(Noise(1), key)[0], second.draw(Noise(1), key)[0])
    assert not torch.equal(first.draw(Noise(1), key)[0], ImportanceTimesteps(2).draw(Noise(1), key)[0])


@pytest.mark.parametrize("steps", [ImportanceTimesteps(5), UniformTimesteps(5)])
def test_a_row_alone_draws_the_step_it_draws_in_a_batch(steps):
    key = torch.tensor([5, 17, 3])
    t, share = steps.draw(Noise(2), key)
    assert [int(steps.draw(Noise(2), key[row : row + 1])[0]) for row in range(3)] == t.tolist()
    assert share.tolist() == [1.0, 1.0, 1.0]
    many, _ = steps.draw(Noise(2), torch.arange(5_000))
    assert torch.bincount(many, minlength=5).tolist() == pytest.approx([1000] * 5, abs=5 * 800**0.5)


def test_weights_are_the_drop_of_the_signal_to_noise_ratio():
    part = LinearVariance(steps=4, scale=0.1, low=0.01, high=0.4)
    alpha_bar = [float(value) for value in part().alpha_bar]
    ratio = [value / (1 - value) for value in alpha_bar]
    expected = [1.0, *(ratio[t - 1] - ratio[t] for t in range(1, 4))]
    assert snr_drop(torch.arange(4), part()).tolist() == pytest.approx(expected)

from __future__ import annotations

from itertools import pairwise

import pytest

from guiderec.training.optim import learning_rate_factor


def factors(schedule, total, warmup):
    return [
        learning_rate_factor(step, total_steps=total, warmup_steps=warmup, schedule=schedule)
        for step in range(1, total + 1)
    ]


def test_by_arithmetic():
    assert factors("constant", 4, 0) == [1, 1, 1, 1]
    assert factors("constant", 4, 2) == [0.5, 1, 1, 1]
    assert factors("linear", 4, 0) == [1, 0.75, 0.5, 0.25]
    assert factors("linear", 6, 2) == [0.5, 1, 1, 0.75, 0.5, 0.25]
    assert factors("cosine", 4, 0) == pytest.approx([1, 0.5 + 0.5 * 2**-0.5, 0.5, 0.5 - 0.5 * 2**-0.5])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3, 10, 20])
def test_within_range_and_without_jumps(schedule, warmup):
    values = factors(schedule, 10, warmup)
    assert all(0 < value <= 1 for value in values)
    assert max(abs(a - b) for a, b in pairwise(values)) <= max(1 / max(warmup, 1), 0.5)

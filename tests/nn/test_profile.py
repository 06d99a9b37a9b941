"""Profiles against a loop over rows and items."""

from __future__ import annotations

import pytest
import torch

from guiderec.errors import ConfigError
from guiderec.nn.profile import MultiHot, TimeWeighted, shown_and_wanted

HISTORY = torch.tensor([[0, 0, 4, 1, 5], [0, 0, 0, 0, 2], [0, 0, 0, 0, 0], [3, 1, 3, 2, 1]])
TARGET = torch.tensor([2, 2, 1, 5])


def by_loop(items: list[int], n_items: int, oldest: float, newest: float) -> list[float]:
    profile = [0.0] * n_items
    items = [item for item in items if item]
    for place, item in enumerate(items):
        profile[item - 1] = oldest + (newest - oldest) * place / (len(items) - 1) if len(items) > 1 else newest
    return profile


@pytest.mark.parametrize(
    ("part", "oldest", "newest"),
    [(MultiHot(), 1.0, 1.0), (TimeWeighted(), 0.1, 1.0), (TimeWeighted(oldest=0.5, newest=2.0), 0.5, 2.0)],
)
@pytest.mark.parametrize("padding", [0, 7])
def test_profiles_are_those_of_a_loop(part, oldest: float, newest: float, padding: int):
    """An item that occurs twice has the weight of its last occurrence, which is the larger one."""
    history = torch.nn.functional.pad(HISTORY, (padding, 0))
    profile = part(history, 5, torch.float64)
    expected = [by_loop(row, 5, oldest, newest) for row in HISTORY.tolist()]
    torch.testing.assert_close(profile, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("answer", "shown", "wanted"),
    [
        ("profile", [0.1, 1.0, 0.0, 0.0, 0.55], [0.1, 1.0, 0.0, 0.0, 0.55]),
        ("next_item", [0.1, 0.0, 0.0, 0.0, 1.0], [0.1, 1.0, 0.0, 0.0, 0.55]),
        ("target", [0.1, 0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0, 0.0]),
    ],
)
def test_what_is_shown_and_what_is_wanted(answer, shown: list[float], wanted: list[float]):
    """History 1 5, target 2: weights 0.1 and 1, and with the target 0.1, 0.55 and 1."""
    pair = shown_and_wanted(answer, TimeWeighted(), torch.tensor([[0, 1, 5]]), torch.tensor([2]), 5, torch.float64)
    torch.testing.assert_close(torch.cat(pair), torch.tensor([shown, wanted], dtype=torch.float64))


def test_the_target_alone_is_wanted_also_where_it_repeats_the_history():
    _, wanted = shown_and_wanted("target", MultiHot(), HISTORY[3:], TARGET[3:], 5, torch.float64)
    assert wanted.tolist() == [[0.0, 0.0, 0.0, 0.0, 1.0]]


def test_weights_that_fall_are_refused():
    with pytest.raises(ConfigError, match=r"oldest = 2.0 must not be above newest = 1.0"):
        TimeWeighted(oldest=2.0)

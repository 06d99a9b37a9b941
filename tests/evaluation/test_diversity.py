"""Re-ranking and diversity of lists, against loops over single items and pairs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guiderec.errors import ConfigError, DataError
from guiderec.evaluation.diversity import (
    UNKNOWN,
    category_codes,
    category_diversity,
    diversify,
    list_diversity,
)


def differ(a: int, b: int) -> bool:
    return a != UNKNOWN and b != UNKNOWN and a != b


def greedy_by_loop(scores: list[float], categories: list[int], k: int, weight: float) -> list[int]:
    """One choice after the other, every candidate looked at anew each time."""
    chosen: list[int] = []
    for _ in range(k):
        left = [i for i in range(len(scores)) if i not in chosen and scores[i] > -math.inf]
        if not left:
            chosen.append(-1)
            continue
        apart = {i: sum(differ(categories[i], categories[j]) for j in chosen if j >= 0) for i in left}
        value = {i: scores[i] + weight * apart[i] for i in left}
        chosen.append(max(left, key=lambda i: (value[i], -i)))
    return chosen


def quality(scores: list[float], categories: list[int], chosen: tuple[int, ...], weight: float) -> float:
    pairs = sum(differ(categories[i], categories[j]) for i in chosen for j in chosen)
    return sum(scores[i] for i in chosen) + weight * pairs


@st.composite
def lists(draw: st.DrawFn) -> tuple[list[float], list[int], int, float]:
    """Scores in quarters, so that sums are exact and ties common; some candidates are missing at the end."""
    scores = sorted(draw(st.lists(st.integers(-8, 8), min_size=1, max_size=9)), reverse=True)
    missing = draw(st.integers(0, 2))
    categories = draw(st.lists(st.integers(-1, 3), min_size=len(scores) + missing, max_size=len(scores) + missing))
    weight = draw(st.sampled_from([0.0, 0.25, 1.0, 100.0]))
    return [s / 4 for s in scores] + [-math.inf] * missing, categories, draw(st.integers(1, 11)), weight


@given(lists())
@settings(max_examples=300, deadline=None)
def test_choices_are_those_of_the_loop(problem: tuple[list[float], list[int], int, float]):
    scores, categories, k, weight = problem
    found = diversify(torch.tensor([scores, scores]), torch.tensor([categories, categories]), k, weight)
    assert found.tolist() == [greedy_by_loop(scores, categories, k, weight)] * 2


@given(lists())
@settings(max_examples=100, deadline=None)
def test_without_weight_it_is_the_list_itself(problem: tuple[list[float], list[int], int, float]):
    scores, categories, k, _ = problem
    there = sum(score > -math.inf for score in scores)
    assert diversify(torch.tensor([scores]), torch.tensor([categories]), k, 0.0)[0].tolist() == [
        place if place < there else -1 for place in range(k)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_the_greedy_list_is_near_the_best_of_all_lists(seed: int):
    """Of all subsets, by brute force: the best where the weight decides alone or not at all, and never below half."""
    generator = np.random.default_rng(seed)
    scores = sorted(generator.random(9).tolist(), reverse=True)
    categories = generator.permutation([0, 0, 0, 1, 1, 1, 2, 2, 2]).tolist()
    for weight in (0.0, 0.1, 1.0, 50.0):
        chosen = diversify(torch.tensor([scores], dtype=torch.float64), torch.tensor([categories]), 3, weight)
        found = quality(scores, categories, tuple(chosen[0].tolist()), weight)
        best = max(quality(scores, categories, subset, weight) for subset in itertools.combinations(range(9), 3))
        assert found >= best / 2
        if weight in (0.0, 50.0):
            assert found == pytest.approx(best)


def test_a_list_of_one_shelf_is_opened_by_the_weight():
    """Three of shelf 0 lead by 0.1 each; at 0.5 the best of another shelf comes second."""
    scores, categories = torch.tensor([[1.0, 0.9, 0.8, 0.6, 0.1]]), torch.tensor([[0, 0, 0, 1, 2]])
    assert diversify(scores, categories, 3, 0.0).tolist() == [[0, 1, 2]]
    assert diversify(scores, categories, 3, 0.5).tolist() == [[0, 3, 1]]
    assert diversify(scores, categories, 3, 1.0).tolist() == [[0, 3, 4]]


def test_an_unknown_category_is_no_variety():
    scores, categories = torch.tensor([[1.0, 0.9, 0.5]]), torch.tensor([[0, 0, UNKNOWN]])
    assert diversify(scores, categories, 2, 10.0).tolist() == [[0, 1]]


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf, True, "1"])
def test_impossible_weights(weight: float):
    with pytest.raises(ConfigError, match=r"diversity must be a number from 0 on, got "):
        diversify(torch.ones(1, 2), torch.zeros(1, 2), 1, weight)
    with pytest.raises(ConfigError, match="k = 0: a list has at least 1 item"):
        diversify(torch.ones(1, 2), torch.zeros(1, 2), 0, 1.0)


# -------------------------------------------------------------------------------------------------- categories


def test_equal_categories_have_equal_codes():
    codes = category_codes(["tea", None, "tea", "rice"]).tolist()
    assert codes[:1] == [UNKNOWN]
    assert codes[2] == UNKNOWN
    assert codes[1] == codes[3] != codes[4]
    assert category_codes([7, 7, 8]).tolist()[1:] == [0, 0, 1]


def test_no_categories_is_an_error():
    with pytest.raises(DataError, match="None of 3 items has a category"):
        category_codes([None] * 3)
    with pytest.raises(DataError, match=r"2 of 3 items have something else \(first: item 2, \['a'\]\)"):
        category_codes(["a", ["a"], 0.5])


# ---------------------------------------------------------------------------------------------------- measures


def test_list_diversity_is_the_mean_over_pairs():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(12, 5, generator=generator)
    items = torch.tensor([[3, 1, 7, 11], [2, 9, 0, 0], [4, 0, 0, 0], [0, 0, 0, 0]])
    found = list_diversity(items, vectors)
    for row, expected in enumerate(items.tolist()):
        chosen = [vectors[i].double() for i in expected if i]
        apart = [1 - float(a @ b / (a.norm() * b.norm())) for a, b in itertools.combinations(chosen, 2)]
        if apart:
            assert float(found[row]) == pytest.approx(sum(apart) / len(apart), rel=1e-6)
        else:
            assert found[row].isnan()


def test_category_diversity_is_the_share_of_pairs():
    categories = torch.tensor([UNKNOWN, 0, 0, 1, 2, UNKNOWN])
    items = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 0], [1, 5, 0, 0], [3, 4, 5, 0]])
    assert category_diversity(items, categories).tolist()[:2] == [5 / 6, 0.0]
    assert category_diversity(items, categories)[2].isnan()
    assert float(category_diversity(items, categories)[3]) == 1.0

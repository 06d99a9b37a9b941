from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from guiderec.errors import DataError, ScoreError
from guiderec.evaluation.diagnostics import effective_rank, item_diagnostics, norm_popularity, uniformity

GENERATOR = torch.Generator().manual_seed(0)


def test_effective_rank_in_closed_form() -> None:
    assert effective_rank(torch.eye(7, dtype=torch.float64)) == pytest.approx(7)
    line = torch.outer(torch.arange(1.0, 9.0), torch.tensor([1.0, -2.0, 0.5]))
    assert effective_rank(line.double()) == pytest.approx(1, abs=1e-6)
    assert effective_rank(torch.zeros(5, 3)) == 0
    p = np.array([3, 1]) / 4
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(math.exp(-(p * np.log(p)).sum()))


def test_uniformity_in_closed_form() -> None:
    assert uniformity(torch.tensor([[1.0, 1.0], [2.0, 2.0], [5.0, 5.0]])) == pytest.approx(0, abs=1e-6)
    assert uniformity(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])) == pytest.approx(-8)  # opposite: ||u - v||^2 = 4
    vectors = torch.randn(30, 5, generator=GENERATOR, dtype=torch.float64)
    unit = (vectors / vectors.norm(dim=1, keepdim=True)).numpy()
    assert uniformity(vectors) == pytest.approx(math.log(np.exp(-2 * pdist(unit) ** 2).mean()))


def test_a_sample_estimates_the_uniformity_of_all() -> None:
    vectors = torch.randn(2_000, 16, generator=GENERATOR)
    assert uniformity(vectors, most_items=500) == pytest.approx(uniformity(vectors), abs=0.05)
    assert uniformity(vectors, most_items=500) == uniformity(vectors, most_items=500)


def test_norms_that_follow_popularity_are_seen() -> None:
    counts = np.random.default_rng(0).permutation(100)
    directions = torch.nn.functional.normalize(torch.randn(100, 4, generator=GENERATOR).double(), dim=1)
    grown = directions * torch.tensor(1.0 + counts)[:, None]
    assert norm_popularity(grown, counts) == pytest.approx(1)
    assert norm_popularity(grown, -counts) == pytest.approx(-1)
    assert norm_popularity(torch.ones(100, 4), counts) == 0
    assert abs(norm_popularity(torch.randn(100, 4, generator=GENERATOR), counts)) < 0.3


def test_padding_is_ignored_and_bad_vectors_are_named() -> None:
    vectors = torch.randn(21, 4, generator=GENERATOR)
    counts = np.arange(21)
    expected = item_diagnostics(vectors, counts)
    assert set(expected) == {"effective_rank", "uniformity", "norm_popularity"}
    vectors[0] = math.nan
    assert item_diagnostics(vectors, counts) == expected
    vectors[13, 2] = math.inf
    with pytest.raises(ScoreError, match="vector of item 13 is not finite"):
        item_diagnostics(vectors)
    with pytest.raises(DataError, match="found 1"):
        item_diagnostics(vectors[:2])

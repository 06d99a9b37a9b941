from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from guiderec.evaluation.intervals import bootstrap_interval, bootstrap_means

RANDOM = np.random.default_rng(0)


def naive_means(values: np.ndarray, clusters: np.ndarray, resamples: int) -> np.ndarray:
    """Draw clusters with replacement, one resample at a time, and average all their rows."""
    generator = np.random.default_rng(1)
    rows_of = [np.flatnonzero(clusters == c) for c in np.unique(clusters)]
    draws = [generator.integers(0, len(rows_of), size=len(rows_of)) for _ in range(resamples)]
    return np.array([values[np.concatenate([rows_of[c] for c in draw])].mean(axis=0) for draw in draws])


def test_interval_of_a_large_sample_is_the_normal_one() -> None:
    """Central limit theorem: mean ± 1.96 sd / sqrt(n), for a rare hit and for a continuous value."""
    values = np.column_stack([RANDOM.random(4_000) < 0.05, RANDOM.normal(3.0, 2.0, size=4_000)]).astype(float)
    low, high = bootstrap_interval(values)
    half = stats.norm.ppf(0.975) * values.std(axis=0) / np.sqrt(len(values))
    assert (low - values.mean(axis=0)) / half == pytest.approx([-1, -1], abs=0.1)
    assert (high - values.mean(axis=0)) / half == pytest.approx([1, 1], abs=0.1)


def test_interval_agrees_with_scipy() -> None:
    values = RANDOM.exponential(size=40)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=50_000, rng=0).confidence_interval
    low, high = bootstrap_interval(values[:, None], resamples=50_000)
    assert [low[0], high[0]] == pytest.approx([expected.low, expected.high], abs=0.01)


@pytest.mark.parametrize("clustered", [False, True])
def test_same_distribution_as_drawing_rows_one_by_one(clustered: bool) -> None:
    """Drawing counts of distinct values is a shortcut for the plain bootstrap, with many equal rows and few."""
    values = np.column_stack([RANDOM.random(60) < 0.2, RANDOM.integers(0, 40, size=60) / 7]).astype(float)
    clusters = RANDOM.integers(0, 20, size=60) if clustered else np.arange(60)
    found = bootstrap_means(values, clusters=clusters if clustered else None, resamples=4_000)
    expected = naive_means(values, clusters, 4_000)
    for m in range(2):
        assert stats.ks_2samp(found[:, m], expected[:, m]).pvalue > 0.001
    assert np.corrcoef(found.T)[0, 1] == pytest.approx(np.corrcoef(expected.T)[0, 1], abs=0.08)


def test_repeating_the_rows_of_users_adds_no_certainty() -> None:
    values = RANDOM.random((50, 1))
    once = bootstrap_interval(values)
    users = np.repeat(np.arange(50), 9)
    repeated = bootstrap_interval(np.repeat(values, 9, axis=0), clusters=users)
    pretended = bootstrap_interval(np.repeat(values, 9, axis=0))
    assert repeated[0] == pytest.approx(once[0], abs=0.01)
    assert (repeated[1] - repeated[0]).item() > 2.5 * (pretended[1] - pretended[0]).item()


def test_seeded_and_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = RANDOM.random((100, 2))
    first = bootstrap_means(values, seed=5)
    assert (bootstrap_means(values, seed=5) == first).all()
    assert (bootstrap_means(values, seed=6) != first).any()
    monkeypatch.setattr("guiderec.evaluation.intervals._DRAWS", 1_234)
    assert bootstrap_means(values, seed=5) == pytest.approx(first)

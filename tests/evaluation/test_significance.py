from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from guiderec.errors import CheckpointError, DataError
from guiderec.evaluation.metrics import parse_metrics
from guiderec.evaluation.significance import (
    PairedTest,
    compare,
    corrected,
    holm,
    paired_tests,
    require_same_rows,
    sign_flip,
)

METRICS = ("recall@5", "ndcg@10")


def write_run(
    run: Path,
    ranks: np.ndarray,
    *,
    users: np.ndarray | None = None,
    sha: str = "abc",
    other: dict[str, np.ndarray] | None = None,
    **record,
) -> Path:
    table = pl.DataFrame(
        {
            "user": np.arange(len(ranks)) if users is None else users,
            "target": np.arange(len(ranks)) + 100,
            "history_length": np.full(len(ranks), 3),
            "rank": ranks,
            **{metric.name: metric(ranks) for metric in parse_metrics(METRICS)},
            **(other or {}),
        }
    )
    (run / "evaluation").mkdir(parents=True)
    table.write_parquet(run / "evaluation" / "test.parquet")
    record = {"part": "test", "seen": "keep", "catalogue": "all", **record}
    (run / "evaluation" / "test.json").write_text(json.dumps(record))
    (run / "data.json").write_text(json.dumps({"fingerprint": {"sha256": sha}, "protocol": {"name": "user-split"}}))
    return run


def ranks_of(seed: int, n: int = 400, scale: float = 20.0) -> np.ndarray:
    return np.random.default_rng(seed).exponential(scale, size=n).astype(np.int64) + 1


def one(a: np.ndarray, b: np.ndarray, users: np.ndarray | None = None, **options) -> PairedTest:
    users = np.arange(len(a)) if users is None else users
    return paired_tests(a[:, None], b[:, None], ["m"], users=users, **options)[0]


@pytest.mark.parametrize("seed", range(3))
def test_sign_flips_agree_with_all_sign_patterns(seed: int) -> None:
    """2^12 patterns, counted one by one; with equal sizes, zeros, and patterns that tie with the observed sum."""
    differences = np.random.default_rng(seed).integers(-3, 5, size=12) / 7
    sums = [abs(np.dot(signs, differences)) for signs in product((-1, 1), repeat=12)]
    exact = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
    assert sign_flip(differences, flips=200_000) == pytest.approx(exact, abs=0.005)


def test_sign_flips_agree_with_scipy() -> None:
    a, b = np.random.default_rng(0).normal([[0.0], [0.3]], size=(2, 50))
    theirs = stats.permutation_test(
        (b, a), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=20_000, vectorized=False, rng=1
    )
    assert sign_flip(b - a, flips=100_000) == pytest.approx(theirs.pvalue, abs=0.01)


def test_t_wilcoxon_and_interval_agree_with_scipy() -> None:
    generator = np.random.default_rng(4)
    a = generator.random(300)
    b = a + generator.normal(0.02, 0.2, size=300)
    b[:40] = a[:40]
    test = one(a, b)
    assert test.difference == pytest.approx((b - a).mean())
    assert test.p_t == pytest.approx(stats.ttest_rel(b, a).pvalue)
    assert test.p_wilcoxon == pytest.approx(stats.wilcoxon(b, a).pvalue)
    expected = stats.bootstrap((b - a,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    assert [test.low, test.high] == pytest.approx([expected.low, expected.high], abs=0.003)


def test_without_a_difference_there_is_no_evidence() -> None:
    """Each p value of equal models keeps its level: about 5% of 400 comparisons fall below 5%."""
    generator = np.random.default_rng(0)
    tests = []
    for seed in range(400):
        a, b = generator.random((2, 80)) < 0.3
        tests.append(one(a.astype(float), b.astype(float), flips=2_000, resamples=200, seed=seed))
    for name in ("p_randomisation", "p_t", "p_wilcoxon"):
        below = np.mean([getattr(test, name) < 0.05 for test in tests])
        assert 0.02 <= below <= 0.08, name
    assert np.mean([test.low <= 0 <= test.high for test in tests]) > 0.9


def test_rows_of_one_user_are_one_piece_of_evidence() -> None:
    """Copying each user's rows must not make a chance difference significant."""
    generator = np.random.default_rng(2)
    a, b = generator.random((2, 30))
    once = one(a, b)
    users = np.repeat(np.arange(30), 20)
    copied = one(np.repeat(a, 20), np.repeat(b, 20), users)
    assert copied.difference == pytest.approx(once.difference)
    for name in ("p_randomisation", "p_t", "p_wilcoxon"):
        assert getattr(copied, name) == pytest.approx(getattr(once, name), abs=0.02)
    assert copied.low == pytest.approx(once.low, abs=0.02)
    assert one(np.repeat(a, 20), np.repeat(b, 20)).p_t < once.p_t / 100  # what pretending would give


def test_equal_and_constant_differences() -> None:
    a = np.random.default_rng(0).random(20)
    same = one(a, a)
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    assert (same.p_randomisation, same.p_t, same.p_wilcoxon) == (1, 1, 1)
    shifted = one(np.zeros(20), np.ones(20))
    assert shifted.p_t == 0
    assert shifted.p_randomisation < 0.001
    assert shifted.p_wilcoxon < 0.001


def test_corrections_of_a_textbook_example() -> None:
    """p = 0.005, 0.01, 0.03, 0.04: Holm multiplies by 4, 3, 2, 1, Benjamini and Hochberg by 4/1, 4/2, 4/3, 4/4."""
    p = np.array([0.01, 0.04, 0.03, 0.005])
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    tests = [PairedTest("a", "b", f"m{i}", 0, 0, 0, 0, 0, value, 1, 1) for i, value in enumerate(p)]
    found = corrected(tests)
    assert [t.p_holm for t in found] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [t.p_benjamini_hochberg for t in found] == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert [t.metric for t in found] == ["m0", "m1", "m2", "m3"]
    assert holm(np.array([0.6, 0.7])).tolist() == [1, 1]


def test_compare_finds_a_planted_difference(tmp_path: Path) -> None:
    ranks = ranks_of(0)
    a = write_run(tmp_path / "a", ranks)
    better = write_run(tmp_path / "better", np.maximum(1, ranks - 3))
    other = write_run(tmp_path / "other", ranks_of(1))
    comparison = compare([a], [better], [other])
    assert [(t.b, t.metric) for t in comparison.tests] == [
        (str(run), metric) for run in (better, other) for metric in METRICS
    ]
    assert (comparison.n_rows, comparison.unit) == (400, "row")
    for test in comparison.tests[:2]:
        assert test.difference > 0
        assert test.low > 0
        assert test.p_holm < 0.01
    for test in comparison.tests[2:]:
        assert test.low < 0 < test.high
        assert test.p_holm > 0.05
    for test in comparison.tests:
        assert test.p_randomisation <= test.p_benjamini_hochberg <= test.p_holm
    assert comparison.tests[0].mean_a == pytest.approx((ranks <= 5).mean())
    json.dumps(comparison.to_plain(), allow_nan=False)


def test_seeds_are_averaged_per_row(tmp_path: Path) -> None:
    sides = [[write_run(tmp_path / f"{side}{s}", ranks_of(10 * side + s)) for s in range(3)] for side in range(2)]
    comparison = compare(*sides, metrics=["hr@5"])
    test = comparison.tests[0]
    hits = [np.mean([ranks_of(10 * side + s) <= 5 for s in range(3)], axis=0) for side in range(2)]
    assert test.difference == pytest.approx((hits[1] - hits[0]).mean())
    assert test.p_t == pytest.approx(stats.ttest_rel(hits[1], hits[0]).pvalue)
    assert comparison.run_means[str(sides[1][2])] == {"recall@5": pytest.approx((ranks_of(12) <= 5).mean())}


def test_an_evaluation_under_a_label_is_a_side_of_its_own(tmp_path: Path) -> None:
    run, other = write_run(tmp_path / "run", ranks_of(0)), write_run(tmp_path / "other", ranks_of(1))
    for kind in ("json", "parquet"):
        (other / "evaluation" / f"test.{kind}").rename(run / "evaluation" / f"test-off.{kind}")
    found = compare([run], [Path(f"{run}@off")], flips=100)
    expected = compare([run], [write_run(tmp_path / "again", ranks_of(1))], flips=100)
    assert [test.difference for test in found.tests] == [test.difference for test in expected.tests]
    assert (found.tests[0].a, found.tests[0].b) == (str(run), f"{run}@off")
    assert list(found.run_means) == [str(run), f"{run}@off"]
    with pytest.raises(CheckpointError, match="no evaluation of part 'test-on'"):
        compare([run], [Path(f"{run}@on")])


def test_either_treatment_of_seen_items_is_compared_whichever_was_asked_for(tmp_path: Path) -> None:
    kept, masked = [ranks_of(0), ranks_of(1)], [ranks_of(2), ranks_of(3)]
    runs = [write_run(tmp_path / str(s), kept[s], other={"rank_if_masked": masked[s]}) for s in range(2)]
    late = write_run(tmp_path / "late", masked[1], seen="mask", other={"rank_if_kept": kept[1]})
    as_masked = [write_run(tmp_path / f"m{s}", masked[s], seen="mask") for s in range(2)]

    def differences(*sides: Path, **options: str) -> list[float]:
        found = compare(*([side] for side in sides), flips=100, **options)
        return [test.difference for test in found.tests]

    assert differences(*runs) == differences(*runs, seen="keep")
    assert differences(*runs, seen="mask") == differences(*as_masked)
    assert differences(*runs, seen="mask") != differences(*runs)
    assert differences(runs[0], late, seen="keep") == differences(*runs)
    assert differences(runs[0], late, seen="mask") == differences(*as_masked)
    assert compare([runs[0]], [late], seen="mask", flips=10).seen == "mask"
    assert compare([runs[0]], [runs[1]], flips=10).seen == "keep"
    with pytest.raises(CheckpointError, match="its rows have not all a number 'rank_if_kept'"):
        compare([as_masked[0]], [late], seen="keep")


def test_users_with_several_rows_make_the_user_the_unit(tmp_path: Path) -> None:
    users = np.arange(400) // 2
    runs = [write_run(tmp_path / str(s), ranks_of(s), users=users) for s in range(2)]
    assert compare(runs[:1], runs[1:]).unit == "user"


def test_other_rows_are_named() -> None:
    a = pl.DataFrame({"user": [1, 2, 3], "target": [4, 5, 6], "history_length": [1, 1, 1]})
    require_same_rows(a, a.clone())
    with pytest.raises(DataError, match=r"x has 3 evaluation rows and y has 2"):
        require_same_rows(a, a.head(2), names=("x", "y"))
    b = a.with_columns(target=pl.Series([4, 9, 8]))
    with pytest.raises(DataError, match=r"Row 1 has target 5 in x and 9 in y; 2 of 3 rows differ"):
        require_same_rows(a, b, names=("x", "y"))


def test_runs_that_answer_other_questions(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", ranks_of(0))
    with pytest.raises(DataError, match=r"the data \(SHA-256\) is 'abc' in one and 'def'") as caught:
        compare([a], [write_run(tmp_path / "data", ranks_of(0), sha="def")])
    assert "--seen" not in str(caught.value)  # it would change nothing
    assert "both must be trained and evaluated on one split" in str(caught.value)
    with pytest.raises(DataError, match=r"the treatment of seen items is 'keep' in one and 'mask'.* --seen mask"):
        compare([a], [write_run(tmp_path / "seen", ranks_of(0), seen="mask")])
    with pytest.raises(DataError, match="what targets are ranked among"):
        compare([a], [write_run(tmp_path / "candidates", ranks_of(0), catalogue="candidates")])
    with pytest.raises(DataError, match=r"has 400 evaluation rows and .* has 399"):
        compare([a], [write_run(tmp_path / "short", ranks_of(0, n=399))])
    with pytest.raises(DataError, match=r"Not every run has mrr@10; all have recall@5, ndcg@10"):
        compare([a], [a], metrics=["mrr@10"])
    with pytest.raises(CheckpointError, match="no evaluation of part 'valid'"):
        compare([a], [a], part="valid")
    with pytest.raises(DataError, match="at least one run on each side"):
        compare([a])
    odd = write_run(tmp_path / "odd", ranks_of(0))
    rows = pl.read_parquet(odd / "evaluation" / "test.parquet")
    for damage in (rows.drop("user"), rows.with_columns(pl.col("recall@5").cast(pl.String))):
        damage.write_parquet(odd / "evaluation" / "test.parquet")
        with pytest.raises(CheckpointError, match=r"odd: its rows have not all a number '(user|recall@5)'"):
            compare([a], [odd])
    (a / "data.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"records of .* cannot be read"):
        compare([a], [write_run(tmp_path / "b", ranks_of(0))])


def test_a_single_row_cannot_be_tested() -> None:
    with pytest.raises(DataError, match="at least 2 rows; found 1"):
        one(np.zeros(1), np.ones(1))

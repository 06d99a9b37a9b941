"""Whether two models differ: paired tests over the rows that both were evaluated on, corrected for many comparisons.

The pair is the row: the same history and the same target under two models. Where a user has several rows these depend
on each other, so that users, not rows, are resampled, flipped and ranked (`Comparison.unit`). The tests answer for the
rows (would other users give the same sign?), for the trained weights at hand. They say nothing of other training seeds;
give several runs per side for that, and look at the means of the single runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from scipy import stats

from guiderec.data.sequences import Ids
from guiderec.errors import CheckpointError, DataError
from guiderec.evaluation.evaluate import LEVEL, RANK_IF, RESAMPLES, read_rows
from guiderec.evaluation.intervals import bootstrap_interval, per_cluster
from guiderec.evaluation.metrics import Values, parse_metrics
from guiderec.evaluation.ranking import Seen
from guiderec.rng import numpy_generator

_TREATMENT = "the treatment of seen items"
FLIPS = 10_000
"""Random sign patterns of the randomisation test: the smallest p value is 1 / 10,001."""


@dataclass(frozen=True)
class PairedTest:
    """Side `b` against side `a` in one metric."""

    a: str
    b: str
    metric: str
    mean_a: float
    mean_b: float
    difference: float
    """mean_b - mean_a; above 0, b is better."""
    low: float
    """Ends of the 95% percentile bootstrap interval of the difference."""
    high: float
    p_randomisation: float
    """Two-sided sign-flip test of the mean difference; the one that is corrected."""
    p_t: float
    """Two-sided paired t test."""
    p_wilcoxon: float
    """Two-sided Wilcoxon signed-rank test, pairs without a difference left out."""
    p_holm: float = 1.0
    """`p_randomisation` after Holm: below 0.05, the chance of any false finding in the whole comparison is below 5%."""
    p_benjamini_hochberg: float = 1.0
    """`p_randomisation` after Benjamini and Hochberg: below 0.05, on average at most 5% of such findings are false."""


@dataclass(frozen=True)
class Comparison:
    """All tests of one comparison; the corrections are over all of them together."""

    part: str
    n_rows: int
    unit: Literal["row", "user"]
    seen: str
    """Whether items of the history were ranked (`keep`) or not (`mask`)."""
    tests: tuple[PairedTest, ...]
    run_means: dict[str, dict[str, float]]
    """The mean of every metric for every single run, by the path of the run: the spread over seeds."""

    def to_plain(self) -> dict[str, Any]:
        """The comparison as plain data."""
        return {**asdict(self), "tests": [asdict(test) for test in self.tests]}


def compare(
    runs_a: Sequence[Path],
    *runs_b: Sequence[Path],
    part: str = "test",
    metrics: Sequence[str] | None = None,
    seen: Seen | None = None,
    resamples: int = RESAMPLES,
    flips: int = FLIPS,
    seed: int = 0,
) -> Comparison:
    """Compare side b with side a, or several sides b with the same a, on what their runs recorded for `part`.

    A side is the runs of one experiment with different seeds; each row counts with its mean over them. `RUN@LABEL` is
    what was evaluated of RUN under that label, with other options. `metrics` None compares every metric that all have;
    `seen` None takes the treatment of seen items that the runs were evaluated under, which must be one, and `keep` or
    `mask` that one, whichever they were: both ranks of every row are recorded.

    Raises
    ------
    CheckpointError
        For a run without an evaluation of `part`.
    DataError
        For runs that did not answer the same question: other rows (naming the first), other data, another treatment of
        seen items or candidates, or without a common metric.
    """
    if not runs_a or not runs_b or not all(runs_b):
        raise DataError("A comparison needs at least one run on each side.", hint="guiderec compare RUN RUN")
    sides = [[Path(run) for run in side] for side in (runs_a, *runs_b)]
    tables = {run: _numbers(run, _rows_under(run, part, seen)) for side in sides for run in side}
    first, *others = tables
    for other in others:
        _require_same_question(first, other, part, seen)
        require_same_rows(tables[first], tables[other], names=(str(first), str(other)))
    names = _common_metrics(tables, metrics)
    values = [np.mean([tables[run].select(names).to_numpy() for run in side], axis=0) for side in sides]
    labels = [" + ".join(map(str, side)) for side in sides]
    users = tables[first]["user"].to_numpy()
    tests = [
        test
        for label, side in zip(labels[1:], values[1:], strict=True)
        for test in paired_tests(
            values[0],
            side,
            names,
            users=users,
            sides=(labels[0], label),
            resamples=resamples,
            flips=flips,
            seed=seed,
        )
    ]
    return Comparison(
        part,
        len(users),
        "user" if len(np.unique(users)) < len(users) else "row",
        seen or _facts(first, part)[_TREATMENT],
        corrected(tests),
        {str(run): table.select(pl.col(names).mean()).row(0, named=True) for run, table in tables.items()},
    )


def paired_tests(
    a: Values,
    b: Values,
    metrics: Sequence[str],
    *,
    users: Ids,
    sides: tuple[str, str] = ("a", "b"),
    resamples: int = RESAMPLES,
    flips: int = FLIPS,
    seed: int = 0,
) -> list[PairedTest]:
    """One uncorrected test per metric for values `a` and `b` (R, M) of the same rows, of the users (R,)."""
    if len(a) < 2:
        raise DataError(f"A paired test needs at least 2 rows; found {len(a)}.")
    difference = b - a
    clusters = users if len(np.unique(users)) < len(users) else None
    low, high = bootstrap_interval(difference, clusters=clusters, level=LEVEL, resamples=resamples, seed=seed)
    sums, _ = per_cluster(difference, clusters)
    units = sums * (len(sums) / len(a))  # their mean over users is the mean difference over rows
    return [
        PairedTest(
            *sides,
            metric,
            mean_a=float(a[:, m].mean()),
            mean_b=float(b[:, m].mean()),
            difference=float(difference[:, m].mean()),
            low=float(low[m]),
            high=float(high[m]),
            p_randomisation=sign_flip(units[:, m], flips=flips, seed=seed),
            p_t=_t(units[:, m]),
            p_wilcoxon=_wilcoxon(units[:, m]),
        )
        for m, metric in enumerate(metrics)
    ]


def sign_flip(differences: Values, *, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided p value of the paired randomisation test (Fisher 1935).

    With N random sign patterns, p = (1 + #{|sum_i s_i d_i| >= |sum_i d_i|}) / (1 + N).

    Under the hypothesis of no difference, the models' names may be swapped in every pair, so each sign s_i is a fair
    coin. Pairs with the same |d| are drawn together: the sum of their signs is 2 Binomial(n, 1/2) - n.
    """
    size, counts = np.unique(np.abs(differences), return_counts=True)
    generator = numpy_generator(seed, "sign flip")
    chunk = max(1, 2**22 // len(size))
    observed = abs(differences.sum())
    rounding = 1e-9 * np.abs(differences).sum()  # equal sums in another order may differ in the last digits
    extreme = 0
    for done in range(0, flips, chunk):
        signs = 2 * generator.binomial(counts, 0.5, size=(min(chunk, flips - done), len(size))) - counts
        extreme += int((np.abs(signs @ size) >= observed - rounding).sum())
    return (1 + extreme) / (1 + flips)


def holm(p: Values) -> Values:
    """Holm's (1979) step-down adjustment of p values (N,): max over j <= i of (N - j + 1) p_(j), at most 1."""
    order = np.argsort(p)
    adjusted = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    result = np.empty(len(p))
    result[order] = adjusted
    return result


def corrected(tests: Iterable[PairedTest]) -> tuple[PairedTest, ...]:
    """The tests with their corrected p values, all of them taken as one family."""
    tests = list(tests)
    p = np.array([test.p_randomisation for test in tests])
    pairs = zip(tests, holm(p), stats.false_discovery_control(p), strict=True)
    return tuple(
        PairedTest(**{**asdict(test), "p_holm": float(family), "p_benjamini_hochberg": float(rate)})
        for test, family, rate in pairs
    )


def require_same_rows(a: pl.DataFrame, b: pl.DataFrame, *, names: tuple[str, str] = ("a", "b")) -> None:
    """Raise DataError, naming the first difference, unless both tables hold the same rows in the same order."""
    if len(a) != len(b):
        raise DataError(
            f"{names[0]} has {len(a):,} evaluation rows and {names[1]} has {len(b):,}.",
            hint="a paired comparison needs the same split and part",
        )
    for column in ("user", "target", "history_length"):
        wrong = np.flatnonzero(a[column].to_numpy() != b[column].to_numpy())
        if len(wrong):
            row = int(wrong[0])
            raise DataError(
                f"Row {row:,} has {column} {a[column][row]} in {names[0]} and {b[column][row]} in {names[1]}; "
                f"{len(wrong):,} of {len(a):,} rows differ.",
                hint="a paired comparison needs the same split, in the same order",
            )


def _rows_under(run: Path, part: str, seen: Seen | None) -> pl.DataFrame:
    """The rows of a run with its metrics under a treatment of seen items; None is that of its evaluation."""
    rows = read_rows(*_located(run, part))
    if seen is None or _facts(run, part)[_TREATMENT] == seen:
        return rows
    other = RANK_IF[seen]
    if other not in rows.columns or not rows.schema[other].is_integer() or rows[other].null_count():
        raise CheckpointError(f"{run}: its rows have not all a number '{other}'.", hint="evaluate the run again")
    ranks = rows[other].to_numpy()
    metrics = parse_metrics([name for name in rows.columns if "@" in name])
    return rows.with_columns([pl.Series(metric.name, metric(ranks)) for metric in metrics])


def _numbers(run: Path, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows, in which all that is compared is a number. CheckpointError for anything else."""
    names = ["user", "target", "history_length", *(name for name in rows.columns if "@" in name)]
    for name in names:
        if name not in rows.columns or not rows.schema[name].is_numeric() or rows[name].null_count():
            raise CheckpointError(f"{run}: its rows have not all a number '{name}'.", hint="evaluate the run again")
    return rows


def _t(differences: Values) -> float:
    if np.ptp(differences) == 0:  # no spread: t is 0 / 0 or infinite
        return 1.0 if differences[0] == 0 else 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _wilcoxon(differences: Values) -> float:
    moved = differences[differences != 0]
    return float(stats.wilcoxon(moved).pvalue) if len(moved) else 1.0


def _common_metrics(tables: dict[Path, pl.DataFrame], wanted: Sequence[str] | None) -> list[str]:
    shared = [
        c for c in next(iter(tables.values())).columns if "@" in c and all(c in t.columns for t in tables.values())
    ]
    if wanted is None:
        if not shared:
            raise DataError("The runs have no metric in common.", hint="evaluate them again with the same metrics")
        return shared
    names = [metric.name for metric in parse_metrics(wanted)]
    missing = [name for name in names if name not in shared]
    if missing:
        raise DataError(
            f"Not every run has {', '.join(missing)}; all have {', '.join(shared) or 'no metric'}.",
            hint=f"guiderec evaluate RUN --data DIR {' '.join(f'--metric {name}' for name in names)}",
        )
    return names


def _require_same_question(a: Path, b: Path, part: str, seen: Seen | None) -> None:
    facts = [_facts(run, part) for run in (a, b)]
    for fact, value in facts[0].items():
        if facts[1][fact] != value and not (fact == _TREATMENT and seen):
            raise DataError(
                f"{a} and {b} cannot be compared: {fact} is {value!r} in one and {facts[1][fact]!r} in the other.",
                hint="--seen keep, or --seen mask, compares both under that treatment"
                if fact == _TREATMENT
                else "rows are paired, so both must be trained and evaluated on one split; `guiderec report` shows "
                "runs of several splits on one page",
            )


def _located(run: Path, part: str) -> tuple[Path, str]:
    """Directory and name of an evaluation: of `RUN` that of the part, of `RUN@LABEL` that of the part under a label."""
    folder, at, label = str(run).rpartition("@")
    return (Path(folder), f"{part}-{label}") if at and not run.exists() else (run, part)


def _facts(run: Path, part: str) -> dict[str, Any]:
    """What must agree for two numbers to answer the same question."""
    folder, name = _located(run, part)
    paths = (folder / "data.json", folder / "evaluation" / f"{name}.json")
    try:
        data, record = (json.loads(path.read_text()) for path in paths)
        return {
            "the data (SHA-256)": data["fingerprint"]["sha256"],
            "the protocol": data["protocol"],
            _TREATMENT: record["seen"],
            "what targets are ranked among": record["catalogue"],
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"The records of {run} cannot be read: {error!r}.", hint=f"expected {paths[0]} and {paths[1]}"
        ) from None

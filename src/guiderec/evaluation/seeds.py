"""Whether two experiments differ beyond the choice of their training seeds: one number per run, Welch's t test.

The paired tests of `significance.py` ask whether other users would give the same sign, for the weights at hand. Here
the unit is the run, as where a paper prints a mean and a deviation over seeds. Few runs are little evidence: with three
on each side, a difference below about 2.3 standard deviations is not significant at 5 %.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from guiderec.errors import CheckpointError, DataError
from guiderec.evaluation.significance import holm


@dataclass(frozen=True)
class SeedTest:
    """Side `b` against side `a` in one number per run."""

    a: str
    b: str
    n_a: int
    n_b: int
    mean_a: float
    mean_b: float
    deviation_a: float
    """Sample standard deviation (n - 1) over the runs of the side."""
    deviation_b: float
    difference: float
    """mean_b - mean_a."""
    p_welch: float
    """Two-sided t test with unequal variances (Welch 1947)."""
    p_holm: float = 1.0
    """`p_welch` after Holm over all tests of the comparison."""


@dataclass(frozen=True)
class SeedComparison:
    """All tests of one comparison over seeds; the correction is over all of them together."""

    part: str
    measure: str
    n_rows: int
    tests: tuple[SeedTest, ...]
    runs: dict[str, float]
    """The measure of every single run, by the path of the run."""

    def to_plain(self) -> dict[str, Any]:
        """The comparison as plain data."""
        return {**asdict(self), "tests": [asdict(test) for test in self.tests]}


def compare_discrepancies(runs_a: Sequence[Path], *runs_b: Sequence[Path], part: str = "test") -> SeedComparison:
    """Compare MMD^2 between generated and true vectors, as `guiderec distribution` recorded it, over training seeds.

    A side is the runs of one experiment with different seeds, at least two; below 0, b is nearer to the true vectors.

    Raises
    ------
    CheckpointError
        For a run without a record of `part`.
    DataError
        For a side with fewer than two runs, or runs on other data, another protocol or other rows.
    """
    sides = [[Path(run) for run in side] for side in (runs_a, *runs_b)]
    if len(sides) < 2 or min(map(len, sides)) < 2:
        raise DataError(
            "A test over seeds needs at least two sides with at least two runs each.",
            hint="train further seeds, and join the runs of a side by commas",
        )
    facts = {run: _facts(run, part) for side in sides for run in side}
    (first, question), *others = ((run, fact[0]) for run, fact in facts.items())
    for other, found in others:
        for name, value in question.items():
            if found[name] != value:
                raise DataError(
                    f"{first} and {other} cannot be compared: {name} is {value!r} in one and {found[name]!r} in the "
                    "other.",
                    hint="measure both under the same protocol",
                )
    labels = [" + ".join(map(str, side)) for side in sides]
    values = [[facts[run][1] for run in side] for side in sides]
    tests = [
        welch(values[0], value, sides=(labels[0], label)) for label, value in zip(labels[1:], values[1:], strict=True)
    ]
    corrected = holm(np.array([test.p_welch for test in tests]))
    return SeedComparison(
        part,
        "mmd2",
        int(question["the number of rows"]),
        tuple(SeedTest(**{**asdict(test), "p_holm": float(p)}) for test, p in zip(tests, corrected, strict=True)),
        {str(run): value for run, (_, value) in facts.items()},
    )


def welch(a: Sequence[float], b: Sequence[float], *, sides: tuple[str, str] = ("a", "b")) -> SeedTest:
    """One uncorrected test for the numbers of single runs, at least two per side.

    Where no side varies, p is 1 for equal means and 0 for others.
    """
    if min(len(a), len(b)) < 2:
        raise DataError(f"A test over seeds needs at least 2 runs per side; found {len(a)} and {len(b)}.")
    difference = statistics.fmean(b) - statistics.fmean(a)
    varies = len(set(a)) > 1 or len(set(b)) > 1
    return SeedTest(
        *sides,
        n_a=len(a),
        n_b=len(b),
        mean_a=statistics.fmean(a),
        mean_b=statistics.fmean(b),
        deviation_a=statistics.stdev(a),
        deviation_b=statistics.stdev(b),
        difference=difference,
        p_welch=float(stats.ttest_ind(b, a, equal_var=False).pvalue) if varies else float(difference == 0),
    )


def _facts(run: Path, part: str) -> tuple[dict[str, Any], float]:
    """What must agree for two numbers to answer the same question, and the number."""
    paths = (run / "data.json", run / "distribution" / f"{part}.json")
    if not paths[1].is_file():
        raise CheckpointError(
            f"{run} has no distribution of part '{part}' ({paths[1]} does not exist).",
            hint="run `guiderec distribution` first",
        )
    try:
        data, record = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
        question = {
            "the data (SHA-256)": data["fingerprint"]["sha256"],
            "the protocol": data["protocol"],
            "the number of rows": record["n_rows"],
        }
        return question, float(record["mmd2"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"The records of {run} cannot be read: {error!r}.", hint=f"expected {paths[0]} and {paths[1]}"
        ) from None

"""Test the models of a study against the one it is about, row by row and all corrected together.

    python results/compare.py STUDY

Input    results/<study>/<run>-seed<k>.json and .ranks.parquet, of the study and of those it is joined by
Output   results/<study>/comparisons.json

Nothing else is needed: neither the data nor the runs. A comparison with tests of runs whose ranks are not kept, because
it is older than the ranks, is not replaced by one without them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from guiderec.errors import DataError
from guiderec.evaluation.metrics import Values
from guiderec.evaluation.significance import PairedTest, corrected, paired_tests
from guiderec.files import read_json, write_json

sys.path.insert(0, str(Path(__file__).parent))  # also when loaded as a module
import ranks
from studies import STUDIES, panels

HERE = Path(__file__).parent


class Side(NamedTuple):
    """A row of the tables, over all seeds."""

    name: str
    """`steerrec`, or `steerrec/without-png` for another evaluation of the same weights."""
    records: dict[int, Path]
    """Seed -> record."""
    evaluation: str
    """`test`, `test-without-png`."""


def sides(name: str, results: Path) -> tuple[list[int], list[Side]]:
    """The seeds that the compared model has, and all that was evaluated for each of them, it first.

    Raises
    ------
    DataError
        When the study names no such model, or there are no ranks of it.
    """
    study = STUDIES[name]
    if study.against is None:
        raise DataError(f"{name} names no run that the others are compared with.")
    found: dict[str, Side] = {}
    for each in (name, *study.joined_by):
        for run in STUDIES[each].runs:
            for record in sorted((results / each).glob(f"{run}-seed*.json")):
                seed = int(record.stem.rpartition("-seed")[2])
                for evaluation in ranks.kept(record) if record.stem == f"{run}-seed{seed}" else ():
                    label = evaluation.removeprefix("test").removeprefix("-")
                    row = f"{run}/{label}" if label else run
                    found.setdefault(row, Side(row, {}, evaluation)).records.setdefault(seed, record)
    if study.against not in found:
        raise DataError(f"{name}: the ranks of {study.against} are not kept.", hint="carry the study out anew")
    first = found.pop(study.against)
    seeds = sorted(seed for seed in first.records if study.seeds is None or seed in study.seeds)
    whole = [side for side in found.values() if set(seeds) <= set(side.records) and side.name not in panels()]
    return seeds, [first, *sorted(whole)]


def compare(study: str, results: Path = HERE) -> dict[str, Any]:
    """Paired tests of every side of a study against one model, all corrected together, as plain data.

    Each row counts with its mean over the seeds. Where every seed has a split of its own, the rows of all splits are
    put together, and the user is the unit, since a user may be a test user more than once. A model that lacks a seed
    is left out.

    Raises
    ------
    DataError
        When nothing can be compared, or the rows are not the same, or were not asked the same question.
    """
    seeds, (baseline, *others) = sides(study, results)
    if not others:
        raise DataError(f"{study}: there is nothing to compare {baseline.name} with, for the seeds {seeds}.")
    put_together = STUDIES[study].redrawn
    metrics = list(ranks.measured(baseline.records[seeds[0]], baseline.evaluation)["metrics"])
    reference = _by_seed(baseline, seeds, metrics)
    users, a = _joined(reference, put_together=put_together)
    tests: list[PairedTest] = []
    for side in others:
        found = _by_seed(side, seeds, metrics)
        for seed, (one, _), (other, _) in zip(seeds, reference, found, strict=True):
            _require_same_rows(one, other, f"{baseline.name} and {side.name}, seed {seed}")
            _require_same_question(baseline, side, seed)
        tests += paired_tests(
            a, _joined(found, put_together=put_together)[1], metrics, users=users, sides=(baseline.name, side.name)
        )
    return {
        "baseline": baseline.name,
        "part": "test",
        "seeds": seeds,
        "n_rows": len(users),
        "unit": "user" if len(np.unique(users)) < len(users) else "row",
        "tests": [asdict(test) for test in corrected(tests)],
    }


Rows = tuple[np.ndarray, Values]
"""Users (R,) and metrics (R, M)."""


def _by_seed(side: Side, seeds: Iterable[int], metrics: Sequence[str]) -> list[Rows]:
    return [ranks.read(side.records[seed], side.evaluation, metrics) for seed in seeds]


def _joined(tables: Sequence[Rows], *, put_together: bool) -> Rows:
    """The mean over tables of the same rows, or the rows of all tables."""
    users, values = zip(*tables, strict=True)
    if put_together:
        return np.concatenate(users), np.concatenate(values)
    for other in users[1:]:
        _require_same_rows(users[0], other, "the first seed and another")
    return users[0], np.mean(values, axis=0)


def _require_same_rows(one: np.ndarray, other: np.ndarray, names: str) -> None:
    if not np.array_equal(one, other):
        raise DataError(f"{names}, are of other rows: {len(one):,} and {len(other):,}, or of other users.")


def _require_same_question(a: Side, b: Side, seed: int) -> None:
    facts = []
    for side in (a, b):
        data, evaluation = read_json(side.records[seed])["data"], ranks.measured(side.records[seed], side.evaluation)
        facts.append((data["split_sha256"], data["protocol"], evaluation["seen"], evaluation["catalogue"]))
    if facts[0] != facts[1]:
        raise DataError(f"{a.name} and {b.name}, seed {seed}, differ in split, protocol, seen items or candidates.")


def replace(path: Path, comparison: dict[str, Any]) -> None:
    """Write a comparison. DataError where the one that is there has tests, or seeds, that this one has not."""
    if path.exists():
        before = read_json(path)
        lost = {test["b"] for test in before["tests"]} - {test["b"] for test in comparison["tests"]}
        if lost or not set(before["seeds"]) <= set(comparison["seeds"]):
            what = f"tests of {', '.join(sorted(lost))}" if lost else f"the seeds {before['seeds']}"
            raise DataError(f"{path}: has {what}; their ranks are not all kept.", hint="carry them out anew first")
    write_json(path, comparison)


def main() -> None:
    """Make the comparisons of a study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(STUDIES))
    study = parser.parse_args().study
    try:
        comparison = compare(study)
        replace(HERE / study / "comparisons.json", comparison)
    except DataError as error:
        sys.exit(str(error))
    print(f"{study}: {len(comparison['tests'])} tests over the seeds {comparison['seeds']}")


if __name__ == "__main__":
    main()

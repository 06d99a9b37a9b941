"""Carry out the studies behind the records in this folder, one run after another; finished runs are not repeated.

    python results/reproduce.py STUDY --data ../shared/data --runs runs [--only RUN] [--no-readings] [--seeds 0 1 2]
    python results/reproduce.py STUDY --data ../shared/data --runs runs --compare

The studies stand in `studies.py`. Every run trains on one split, chooses by its validation metric, and is evaluated
once on the test part. `results/<study>/<name>-seed<k>.json` is the whole record: experiment, data fingerprint,
environment, training summary, metrics with intervals.

`--compare` trains nothing. It makes `results/<study>/comparisons.json` from the per-row tables of the finished runs:
paired tests of everything against the model that the study is about, which the records alone do not allow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from guiderec.api import configure, load
from guiderec.data.dataset import Dataset, Vocabulary
from guiderec.data.dislikes import with_dislikes
from guiderec.data.filters import KCore, MinimumRating
from guiderec.data.impressions import split as divide
from guiderec.data.interactions import Interactions
from guiderec.data.prepared import resplit_users, with_items
from guiderec.data.protocols import Impressions, LeaveOneOut, protocol_from_plain
from guiderec.errors import DataError
from guiderec.evaluation.evaluate import read_rows
from guiderec.evaluation.significance import PairedTest, corrected, paired_tests, require_same_rows
from guiderec.recipes import run as runs
from guiderec.training.record import collect, read_json, write_json

sys.path.insert(0, str(Path(__file__).parent))  # also when loaded as a module
from studies import STUDIES, FromImpressions, FromLog, Part, Run, Study, panels

HERE = Path(__file__).parent


def dataset_for(study: Study, data: Path, seed: int) -> Dataset:
    """The split of a study; a new one for every seed where the study redraws it."""
    if study.redrawn:
        return resplit_users(data / study.data, seed=1000 + seed)
    if study.impressions is not None:
        return split_impressions(data / study.data, study.impressions, study.data)
    if study.log is not None:
        return split_log(data / study.data, study.log, study.data)
    return load(data / study.data)


def split_impressions(folder: Path, how: FromImpressions, name: str) -> Dataset:
    """Impressions, divided, and what items are called."""
    rule = protocol_from_plain(how.protocol)
    assert isinstance(rule, Impressions)
    table = folder / "impressions-sample" / "impressions.parquet"
    return with_items(divide(table, rule, name=f"{name}/{rule.name}"), folder / "items.parquet")


def split_log(folder: Path, how: FromLog, name: str) -> Dataset:
    """Leave-one-out over the high ratings of a log, with the later low ones as dislikes, and what items are called."""
    log = Interactions.read(folder / "raw" / "interactions.parquet", name=name)
    liked = MinimumRating(at_least=how.at_least)(log)
    dataset = LeaveOneOut()(KCore(users=how.k_core, items=how.k_core)(liked))
    table = pl.read_parquet(folder / "items.parquet").select("item", name="title", category="genres")
    known = pl.DataFrame({"item": list(dataset.vocabulary.raw)}, schema_overrides={"item": table.schema["item"]})
    table = known.join(table, on="item", how="left", maintain_order="left")
    named = replace(dataset, vocabulary=Vocabulary(dataset.vocabulary.raw, table))
    return with_dislikes(named, log, at_most=how.dislike_at_most)


Side = tuple[str, Path, str]
"""Name of a row of the tables (`steerrec`, `steerrec/without-png`), folder of its study's runs, part with its label."""


def sides(name: str, folder: Path) -> tuple[list[int], list[Side]]:
    """The seeds that the runs of the compared model have, and all that was evaluated for each of them, it first."""
    study = STUDIES[name]
    if study.against is None:
        raise DataError(f"{name} names no run that the others are compared with.")
    own = [(run, folder / each) for each in (name, *study.joined_by) for run in STUDIES[each].runs]
    found = {
        (run, runs, file.stem, int(file.parents[1].name.rpartition("-seed")[2]))
        for run, runs in own
        for file in runs.glob(f"{run}-seed*/evaluation/test*.json")
        if file.with_suffix(".parquet").exists()
    }
    wanted = range(2**32) if study.seeds is None else study.seeds
    seeds = sorted(seed for run, _, part, seed in found if (run, part) == (study.against, "test") and seed in wanted)
    if not seeds:
        raise DataError(f"{folder / name} holds no finished run of {study.against}.")
    points = panels()
    everywhere = [
        (f"{run}/{part[5:]}" if part[5:] else run, runs, part)
        for run, runs, part in sorted({side[:3] for side in found})
        if all((run, runs, part, seed) in found for seed in seeds) and f"{run}/{part[5:]}" not in points
    ]
    return seeds, sorted(everywhere, key=lambda side: (side[0] != study.against, side[0]))


def compare(study: str, folder: Path) -> dict[str, Any]:
    """Paired tests of every side of a study against one model, all corrected together, as plain data.

    Each row counts with its mean over the seeds. Where every seed has a split of its own, the rows of all splits are
    put together, and the user is the unit, since a user may be a test user more than once. A model that lacks a seed
    is left out.

    Raises
    ------
    DataError
        When nothing can be compared, or the tables are not about the same rows, data or policy.
    """
    seeds, (baseline, *others) = sides(study, folder)
    if not others:
        raise DataError(f"{study}: there is nothing to compare {baseline[0]} with, for the seeds {seeds}.")
    put_together = STUDIES[study].redrawn
    reference = [_table(baseline, seed) for seed in seeds]
    metrics = [column for column in reference[0].columns if "@" in column]
    a, users = _joined(reference, metrics, put_together=put_together)
    tests: list[PairedTest] = []
    for side in others:
        tables = [_table(side, seed) for seed in seeds]
        for seed, one, other in zip(seeds, reference, tables, strict=True):
            require_same_rows(one, other, names=(f"{baseline[0]}-seed{seed}", f"{side[0]}-seed{seed}"))
            _require_same_question(baseline, side, seed)
        b, _ = _joined(tables, metrics, put_together=put_together)
        tests += paired_tests(a, b, metrics, users=users, sides=(baseline[0], side[0]))
    return {
        "baseline": baseline[0],
        "part": "test",
        "seeds": seeds,
        "n_rows": len(users),
        "unit": "user" if len(np.unique(users)) < len(users) else "row",
        "tests": [asdict(test) for test in corrected(tests)],
    }


def _table(side: Side, seed: int) -> pl.DataFrame:
    name, folder, part = side
    return read_rows(folder / f"{name.partition('/')[0]}-seed{seed}", part)


def _joined(
    tables: Sequence[pl.DataFrame], metrics: Sequence[str], *, put_together: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Values (R, M) and users (R,): the mean over tables of the same rows, or the rows of all tables."""
    values = [table.select(metrics).to_numpy() for table in tables]
    users = [table["user"].to_numpy() for table in tables]
    if put_together:
        return np.concatenate(values), np.concatenate(users)
    for table in tables[1:]:
        require_same_rows(tables[0], table, names=("the first seed", "another seed"))
    return np.mean(values, axis=0), users[0]


def _require_same_question(a: Side, b: Side, seed: int) -> None:
    facts = []
    for name, folder, part in (a, b):
        run = folder / f"{name.partition('/')[0]}-seed{seed}"
        data, evaluation = read_json(run / "data.json"), read_json(run / "evaluation" / f"{part}.json")
        facts.append((data["fingerprint"]["sha256"], data["protocol"], evaluation["seen"], evaluation["catalogue"]))
    if facts[0] != facts[1]:
        raise DataError(f"{a[0]} and {b[0]}, seed {seed}, differ in data, protocol, seen items or candidates.")


def main() -> None:
    """Run what is missing of a study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", help="just this run of the study")
    parser.add_argument("--no-readings", action="store_true", help="leave readings and distributions to a later call")
    parser.add_argument("--compare", action="store_true", help="train nothing; test the finished runs")
    arguments = parser.parse_args()
    if arguments.compare:
        comparison = compare(arguments.study, arguments.runs)
        write_json(HERE / arguments.study / "comparisons.json", comparison)
        print(f"{arguments.study}: {len(comparison['tests'])} tests over the seeds {comparison['seeds']}", flush=True)
        return
    study = STUDIES[arguments.study]
    asked = {name: run for name, run in study.runs.items() if arguments.only in (None, name)}
    if arguments.no_readings:
        asked = {name: replace(run, readings={}, distribution=False) for name, run in asked.items()}
    for seed in arguments.seeds:
        dataset = dataset_for(study, arguments.data, seed)
        for name, of_any_seed in asked.items():
            run = of_any_seed.of_seed(seed)
            record = HERE / arguments.study / f"{name}-seed{seed}.json"
            if not _complete(record, run, study.parts):
                folder = arguments.runs / arguments.study / f"{name}-seed{seed}"
                carry_out(run, dataset, study.parts, folder, record, seed)


def _complete(record: Path, run: Run, parts: Sequence[str]) -> bool:
    """Whether a record has all that the study asks of a run now."""
    if not record.exists():
        return False
    content = read_json(record)
    found = content.get("evaluation", {})
    wanted = {f"{part}-{label}" for part in parts for label in run.readings}
    measured = (not run.interests or "interests" in found["test"]) and (
        not run.distribution or "test" in content.get("distribution", {})
    )
    return wanted <= set(found) and measured


def carry_out(run: Run, dataset: Dataset, parts: Sequence[Part], folder: Path, record: Path, seed: int) -> None:
    """Train, or go on training, in `folder`; evaluate what was not evaluated yet; write the record."""
    outcome = runs.train(configure(run.recipe, dict(run.options), seed), dataset, folder, resume=True, progress=False)
    found = collect(folder).get("evaluation", {})
    for part in parts:
        interests = run.interests and part == "test"
        if part not in found or (interests and "interests" not in found[part]):
            runs.evaluate(folder, dataset, part, interests=interests)
        for label, reading in run.readings.items():
            if f"{part}-{label}" not in found:
                runs.evaluate(folder, dataset, part, overrides=reading.options, label=label)
    if run.distribution and not (folder / "distribution" / "test.json").exists():
        runs.distribution(folder, dataset)
    record.parent.mkdir(exist_ok=True)
    write_json(record, collect(folder))
    print(f"{record.parent.name} {record.stem}: best epoch {outcome.best_epoch}, {outcome.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()

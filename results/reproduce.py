"""Carry out the studies behind the records in this folder, one run after another; finished runs are not repeated.

    python results/reproduce.py STUDY --data ../shared/data --runs runs [--seeds 0 1 2]
    python results/reproduce.py STUDY --data ../shared/data --runs runs --compare

A study is a list of (name, recipe, overrides). Every run trains on one split, chooses by its validation metric, and is
evaluated once on the test part. `results/<study>/<name>-seed<k>.json` is the whole record: experiment, data
fingerprint, environment, training summary, metrics with intervals.

`--compare` trains nothing. It makes `results/<study>/comparisons.json` from the per-row tables of the finished runs:
paired tests of everything against SteerRec, which the records alone do not allow.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from guiderec.api import configure, load
from guiderec.data.dataset import Dataset
from guiderec.data.prepared import resplit_users
from guiderec.errors import DataError
from guiderec.evaluation.evaluate import read_rows
from guiderec.evaluation.significance import PairedTest, corrected, paired_tests, require_same_rows
from guiderec.recipes import run as runs
from guiderec.training.record import collect, read_json, write_json

HERE = Path(__file__).parent
USER_SPLIT = "amazon-beauty/user-split"
Entry = tuple[str, str, dict[str, Any]]

WIDE = {"model.dim": 1024, "training.learning_rate": 2e-4}
"""2e-4 is the largest rate of the paper's search: on validation no worse than 1e-4, and there in half the epochs."""
CFG = {"model.guidance.name": "cfg", "model.guidance.scale": 4.0}


def _table(width: int, rate: float = 1e-4) -> list[Entry]:
    """SteerRec, its ablation, and the two diffusion baselines at one width and learning rate."""
    options = {"model.dim": width, "training.learning_rate": rate}
    recipes = {
        "steerrec": "steerrec:beauty",
        "steerrec-without-gal": "steerrec:beauty_without_gal",
        "preferdiff": "preferdiff:beauty",
        "dreamrec": "dreamrec:beauty",
    }
    return [(name, recipe, options) for name, recipe in recipes.items()]


STUDIES: dict[str, list[Entry]] = {
    "beauty-baselines": [
        ("popularity", "popularity:default", {}),
        ("markov", "markov:default", {}),
        ("sasrec-last-position", "sasrec:beauty_last_position", {}),
        ("sasrec-every-position", "sasrec:beauty", {}),
    ],
    "beauty-d256": _table(256),
    "beauty-d512": _table(512),
    "beauty-d1024": _table(1024, rate=2e-4),
    "beauty-d1024-rate-1e-4": _table(1024),
    "beauty-d3072": [("steerrec", "steerrec:beauty", {"training.epochs": 25})],
    "beauty-every-prefix": [("steerrec-every-prefix", "steerrec:beauty_every_prefix", WIDE)],
    "beauty-resplit": [
        ("markov", "markov:default", {}),
        ("sasrec-every-position", "sasrec:beauty", {"model.dim": 64, "training.epochs": 15}),
        ("steerrec", "steerrec:beauty", WIDE),
    ],
}
"""Name of the study -> (name of the run, recipe, overrides)."""


def dataset_for(study: str, data: Path, seed: int) -> Dataset:
    """The split of a study. `beauty-resplit` draws a new user split from the full sequences for every seed."""
    if study == "beauty-resplit":
        return resplit_users(data / "amazon-beauty/leave-one-out", seed=1000 + seed)
    return load(data / USER_SPLIT)


Side = tuple[str, Path, str]
"""Name of a row of the tables (`steerrec`, `steerrec/without-png`), folder of its study's runs, part with its label."""


def sides(study: str, folder: Path) -> tuple[list[int], list[Side]]:
    """The seeds that the runs of SteerRec have, and all that was evaluated for each of them, SteerRec first.

    The studies of one width are compared with the baselines as well: the data are the same.
    """
    own = [(name, folder / study) for name, _, _ in STUDIES[study]]
    if study.startswith("beauty-d"):
        own += [(name, folder / "beauty-baselines") for name, _, _ in STUDIES["beauty-baselines"]]
    baseline = next((name for name, _ in own if name.startswith("steerrec")), None)
    if baseline is None:
        raise DataError(f"{study} has no run of SteerRec to compare with.")
    found = {
        (name, runs, file.stem, int(file.parents[1].name.rpartition("-seed")[2]))
        for name, runs in own
        for file in runs.glob(f"{name}-seed*/evaluation/test*.json")
    }
    seeds = sorted(seed for name, _, part, seed in found if (name, part) == (baseline, "test"))
    if not seeds:
        raise DataError(f"{folder / study} holds no finished run of {baseline}.")
    everywhere = [
        (f"{name}/{part[5:]}" if part[5:] else name, runs, part)
        for name, runs, part in sorted({side[:3] for side in found})
        if all((name, runs, part, seed) in found for seed in seeds)
    ]
    return seeds, sorted(everywhere, key=lambda side: (side[0] != baseline, side[0]))


def compare(study: str, folder: Path) -> dict[str, Any]:
    """Paired tests of every side of a study against SteerRec, all corrected together, as plain data.

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
    put_together = study == "beauty-resplit"
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
    parser.add_argument("--compare", action="store_true", help="train nothing; test the finished runs against SteerRec")
    arguments = parser.parse_args()
    if arguments.compare:
        comparison = compare(arguments.study, arguments.runs)
        write_json(HERE / arguments.study / "comparisons.json", comparison)
        print(f"{arguments.study}: {len(comparison['tests'])} tests over the seeds {comparison['seeds']}", flush=True)
        return
    for seed in arguments.seeds:
        dataset = dataset_for(arguments.study, arguments.data, seed)
        for name, recipe, overrides in STUDIES[arguments.study]:
            record = HERE / arguments.study / f"{name}-seed{seed}.json"
            if record.exists() or (arguments.only and name != arguments.only):
                continue
            run = arguments.runs / arguments.study / f"{name}-seed{seed}"
            outcome = runs.train(configure(recipe, overrides, seed), dataset, run, resume=True, progress=False)
            for part in ("valid", "test"):
                runs.evaluate(run, dataset, part)
                if name == "steerrec":  # "w/o PNG" is the same training under classifier-free guidance
                    runs.evaluate(run, dataset, part, overrides=CFG, label="without-png")
            record.parent.mkdir(exist_ok=True)
            write_json(record, collect(run))
            print(
                f"{arguments.study} {name} seed {seed}: best epoch {outcome.best_epoch}, {outcome.seconds:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()

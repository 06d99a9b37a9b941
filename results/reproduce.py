"""Carry out the studies behind the records in this folder, one run after another; finished runs are not repeated.

    python results/reproduce.py STUDY --data ../shared/data --runs runs/study [--seeds 0 1 2]

A study is a list of (name, recipe, overrides). Every run trains on one split, chooses by its validation metric, and is
evaluated once on the test part. `results/<study>/<name>-seed<k>.json` is the whole record: experiment, data
fingerprint, environment, training summary, metrics with intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from guiderec.api import configure, load
from guiderec.data.dataset import Dataset
from guiderec.data.prepared import resplit_users
from guiderec.recipes import run as runs
from guiderec.training.record import collect, write_json

HERE = Path(__file__).parent
USER_SPLIT = "amazon-beauty/user-split"
Entry = tuple[str, str, dict[str, Any]]

CFG = {"model.guidance.name": "cfg", "model.guidance.scale": 4.0}


def _table(width: int) -> list[Entry]:
    """SteerRec, its ablation, and the two diffusion baselines at one width."""
    options = {"model.dim": width}
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
    "beauty-d512": _table(512),
    "beauty-d1024": _table(1024),
    "beauty-d3072": [("steerrec", "steerrec:beauty", {"training.epochs": 25})],
    "beauty-every-prefix": [("steerrec-every-prefix", "steerrec:beauty_every_prefix", {"model.dim": 256})],
    "beauty-resplit": [
        ("steerrec", "steerrec:beauty", {"model.dim": 256}),
        ("sasrec-every-position", "sasrec:beauty", {}),
    ],
}
"""Name of the study -> (name of the run, recipe, overrides)."""


def dataset_for(study: str, data: Path, seed: int) -> Dataset:
    """The split of a study. `beauty-resplit` draws a new user split from the full sequences for every seed."""
    if study == "beauty-resplit":
        return resplit_users(data / "amazon-beauty/leave-one-out", seed=1000 + seed)
    return load(data / USER_SPLIT)


def main() -> None:
    """Run what is missing of a study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", help="just this run of the study")
    arguments = parser.parse_args()
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

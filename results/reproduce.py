"""Carry out the studies behind the records in this folder, one run after another; finished runs are not repeated.

    python results/reproduce.py STUDY --data ../shared/data --runs runs [--only RUN] [--no-readings] [--seeds 0 1 2]

The studies stand in `studies.py`. Every run trains on one split, chooses by its validation metric, and is evaluated
once on the test part. `results/<study>/<name>-seed<k>.json` is the whole record: experiment, data fingerprint,
environment, training summary, metrics with intervals. Beside it are the ranks that `compare.py` needs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from guiderec.api import configure, load
from guiderec.data.dataset import Dataset, Vocabulary
from guiderec.data.dislikes import with_dislikes
from guiderec.data.filters import KCore, MinimumRating
from guiderec.data.impressions import split as divide
from guiderec.data.interactions import Interactions
from guiderec.data.prepared import resplit_users, with_items
from guiderec.data.protocols import Impressions, LeaveOneOut, protocol_from_plain
from guiderec.files import read_json, write_json
from guiderec.recipes import run as runs
from guiderec.training.record import collect

sys.path.insert(0, str(Path(__file__).parent))  # also when loaded as a module
import ranks
from studies import STUDIES, FromImpressions, FromLog, Part, Run, Study

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


def main() -> None:
    """Run what is missing of a study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", help="just this run of the study")
    parser.add_argument("--no-readings", action="store_true", help="leave readings and distributions to a later call")
    arguments = parser.parse_args()
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
    ranks.keep(folder, record)
    print(f"{record.parent.name} {record.stem}: best epoch {outcome.best_epoch}, {outcome.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()

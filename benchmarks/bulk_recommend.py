"""Recommendations for every user: users per second and peak memory, against one call of `recommend` for all of them.

    python benchmarks/bulk_recommend.py [--users 200000] [--events 4000000] [--items 10000] [--model sasrec]

Writes a Parquet log into a temporary folder; then `guiderec.bulk` and a plain program (histories as lists, one call,
one frame written) recommend in a process of their own, and must arrive at the same rows. `extra_mib` is the peak of the
resident set above what imports and the model took. The model is untrained: its speed is that of a trained one. Run it
with twice the users to see what grows: for `bulk` the log alone, by 16 bytes per event while it is read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

SIDES = ("bulk", "one call")


def write_log(file: Path, users: int, events: int, items: int) -> None:
    """Events of random users, each of whom has at least one; items with a popularity of 1 / rank."""
    random = np.random.default_rng(0)
    popularity = np.cumsum(1 / np.arange(1, items + 1))
    user = np.concatenate([np.arange(users), random.integers(0, users, events - users)])
    item = np.searchsorted(popularity, random.random(events) * popularity[-1]) + 1
    pl.DataFrame({"user": user, "item": item, "time": random.permutation(events)}).write_parquet(file)


def run(side: str, log: Path, out: Path, model_folder: Path, k: int) -> dict[str, Any]:
    """One side, in this process."""
    from guiderec.bulk import Options, People, recommend_all
    from guiderec.data.interactions import Interactions
    from guiderec.model import Model

    model = Model.from_pretrained(model_folder)
    model.recommend([[1]], k=k)
    before, started = _peak_mib(), time.perf_counter()
    if side == "bulk":
        people = People.of(Interactions.read(log), model.vocabulary)
        recommend_all(model, people, out, Options(k=k), progress=False)
    else:
        frame = pl.read_parquet(log).sort("user", "time").group_by("user", maintain_order=True).agg("item")
        listed = model.recommend(frame["item"].to_list(), k=k)
        out.mkdir()
        users = frame["user"].gather(listed["query"])
        listed.select(users.alias("user"), pl.all().exclude("query")).write_parquet(out / "part-0.parquet")
    seconds, peak = time.perf_counter() - started, _peak_mib()
    digest = hashlib.sha256()
    for file in sorted(out.glob("*.parquet")):
        digest.update(pl.read_parquet(file).select("user", "item_id", "rank").to_numpy().tobytes())
    return {"seconds": round(seconds, 2), "extra_mib": round(peak - before), "sha256": digest.hexdigest()}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_model(name: str, items: int, folder: Path) -> None:
    """An untrained model over the raw ids 1..I."""
    from guiderec.data.dataset import Vocabulary
    from guiderec.model import Model
    from guiderec.recipes.registry import build, model_config
    from guiderec.rng import seed_everything

    seed_everything(0)
    recommender = build(model_config({"name": name}), items)
    Model(recommender, Vocabulary(tuple(range(1, items + 1))), max_length=50).save_pretrained(folder)


def main() -> None:
    """Measure both sides and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("users", 200_000), ("events", 4_000_000), ("items", 10_000), ("k", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="sasrec")
    parser.add_argument("--out", type=Path, help="also write the result here")
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side, *paths = options.side
        print(json.dumps(run(side, *map(Path, paths), options.k)))
        return
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_log(folder / "log.parquet", options.users, options.events, options.items)
        make_model(options.model, options.items, folder / "model")
        for side in SIDES:
            paths = [str(folder / name) for name in ("log.parquet", side, "model")]
            command = [sys.executable, __file__, "--k", str(options.k), "--side", side, *paths]
            results[side] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    if len({result["sha256"] for result in results.values()}) != 1:
        sys.exit(f"The sides disagree: {results}")
    for result in results.values():
        result["users_per_second"] = round(options.users / result["seconds"])
    sizes = {name: getattr(options, name) for name in ("users", "events", "items", "k", "model")}
    record = {**sizes, "results": results}
    print(json.dumps(record, indent=2))
    if options.out:
        options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Measure how finished runs steer, and write what was measured as `docs/steering-results.md`.

    python results/steering.py measure STUDY --data DIR --runs DIR --only RUN --seeds 0 1 2
    git add results && python results/steering.py render        (--check: change nothing, fail if it would change)

`measure` adds the curves to the record of a run that `reproduce.py` has made: `results/<study>/<run>-seed<k>.json`, key
`steering`. The page shows means over seeds. Records that git does not track are left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "steering-results.md"
STRENGTHS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 8.0)
"""Fine where similarity acts, coarse where guidance does."""

sys.path.insert(0, str(HERE))  # also when loaded as a module
from studies import STUDIES  # noqa: E402

from guiderec.config import parse_assignments  # noqa: E402

OWN = ("steering", "steering-and-filter")
RIVALS = {
    "unsteered": "unsteered",
    "steering": "own guidance",
    "steering-and-filter": "own guidance and filter",
    "similarity-vectors": "similarity of vectors",
    "similarity-co-occurrence": "similarity in the data",
    "classifier-free": "classifier-free guidance, told nothing",
    "filter": "filter: the disliked item",
    "filter-group": "filter: its neighbours too",
    "oracle": "oracle: filter, and a penalty on exactly its neighbours",
}
SHOWN: Mapping[str, tuple[float | None, ...]] = {
    "unsteered": (None,),
    "steering": (0.2, 0.5, 0.75, 1.0, 1.5, 2.0, 8.0),
    "steering-and-filter": (0.0, 0.5, 1.0, 1.5),
    "similarity-vectors": (0.05, 0.1, 0.2, 0.5),
    "similarity-co-occurrence": (0.02, 0.05, 0.1),
    "classifier-free": (2.0, 8.0),
    "filter": (None,),
    "filter-group": (None,),
    "oracle": (0.2, 0.5, 1.0),
}
"""Points of the page; the records have all."""
MEASURES = ("listed", "exposure", "shift", "overlap", "recall@10")
PROCEDURES = {
    "dislikes item": "One item is disliked, and nothing else is told",
    "real-dislikes item": "One item is disliked that the user really disliked later",
    "dislikes neighbourhood": "The item and its five neighbours are told",
    "dislikes category": "Five items of a category are told",
    "likes item": "One item is liked",
}

VARIANTS = {
    "": "",
    "by-place": "",
    "by-place-neighbourhood": "",
    "mixed": "the dislike as one ninth of the negatives, the rest drawn",
}
"""Label of a measurement -> how it is told from the plain one; empty where it is that, under today's defaults."""

AIMED = ("guided-sasrec",)
"""Runs of our own model: what we wanted of it, and what it does, stand below its table."""
DEFAULT = 1.0
"""The strength that they are served with."""

Point = tuple[str, float | None]
"""Rival and strength."""


@dataclass(frozen=True)
class Curves:
    """The points of a run under one procedure: measure -> one value per seed."""

    study: str
    run: str
    variant: str
    """What was other than in the plain measurement; empty for that."""
    seeds: tuple[int, ...]
    n_rows: int
    n_wishes: tuple[int, ...]
    points: Mapping[Point, Mapping[str, tuple[float, ...]]]

    def at(self, point: Point, measure: str) -> float | None:
        """Mean over seeds; None where the point or the measure is not there."""
        values = self.points.get(point, {}).get(measure)
        return mean(values) if values else None


def tracked() -> list[Path]:
    """The records that git knows."""
    listed = subprocess.run(
        ["git", "ls-files", "*/*-seed*.json"], cwd=HERE, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    return [HERE / name for name in sorted(filter(None, listed)) if (HERE / name).exists()]


def read(paths: Iterable[Path]) -> dict[str, list[Curves]]:
    """Procedure -> curves of each run, in the order of `studies.py`. ValueError where seeds were asked otherwise."""
    found: dict[tuple[str, str, str, str], list[tuple[int, Mapping[str, Any]]]] = {}
    for path in paths:
        content = json.loads(path.read_text(encoding="utf-8"))
        for part, record in content.get("steering", {}).items():
            for procedure in record["procedures"] if part.startswith("test") else []:
                label = part.partition("-")[2]
                if label not in VARIANTS:
                    raise ValueError(f"{path.name}: VARIANTS does not say how the measurement {label!r} differs.")
                key = (procedure["name"], path.parent.name, path.stem.rpartition("-seed")[0], VARIANTS[label])
                asked = {**procedure, "overrides": record.get("overrides", {})}
                found.setdefault(key, []).append((content["experiment"]["seed"], asked))
    order = {(study, run): place for place, (study, run) in enumerate(_all_runs())}
    pages: dict[str, list[Curves]] = {}
    for (name, *whose), parts in sorted(found.items(), key=lambda item: (order[item[0][1:3]], item[0][3])):
        pages.setdefault(name, []).append(_curves(*whose, sorted(parts, key=lambda part: part[0])))
    return pages


def _all_runs() -> list[tuple[str, str]]:
    return [(study, run) for study, content in STUDIES.items() for run in content.runs]


def _curves(study: str, run: str, variant: str, parts: Sequence[tuple[int, Mapping[str, Any]]]) -> Curves:
    first = parts[0][1]
    asked = ("procedure", "seen", "overrides")
    if any(part[each] != first[each] for _, part in parts for each in asked):
        raise ValueError(f"{study}/{run}: the seeds were measured under different procedures.")
    if len({seed for seed, _ in parts}) < len(parts):
        raise ValueError(f"{study}/{run}: a seed was measured twice.")
    tables = [{(p["rival"], p["strength"]): p["measures"] for p in part["points"]} for _, part in parts]
    shared = [point for point in tables[0] if all(point in table for table in tables)]
    points = {
        point: {
            measure: tuple(table[point][measure]["mean"] for table in tables)
            for measure in tables[0][point]
            if all(measure in table[point] for table in tables)
        }
        for point in shared
    }
    seeds, wishes = tuple(seed for seed, _ in parts), tuple(part["n_wishes"] for _, part in parts)
    return Curves(study, run, variant, seeds, first["n_rows"], wishes, points)


def undominated(curves: Curves, rivals: Sequence[str], own: Sequence[str] = OWN) -> list[Point]:
    """Points of rivals that no point of the model's own matches: less exposure and no less Recall@10, or as much."""
    mine = [point for point in curves.points if point[0] in own]
    return [
        point
        for point in curves.points
        if point[0] in rivals
        and not any(
            curves.at(each, "exposure") <= curves.at(point, "exposure")
            and curves.at(each, "recall@10") >= curves.at(point, "recall@10")
            for each in mine
        )
    ]


def render(pages: Mapping[str, Sequence[Curves]]) -> str:
    """The page."""
    parts = [
        "# Steering, measured",
        "Written by `results/steering.py` from the records in `results/`; do not edit. What is asked and what is "
        "measured is told in [steering](steering.md). Every dislike is the first item of the user's own unsteered list "
        "that is not the target, so before steering it is always listed; a real dislike is the best placed of what the "
        "same user rated 2 or less after the history, and mostly is not. Similarity is subtracted for dislikes, and "
        "added for likes. Means over seeds, with the standard deviation "
        "over seeds where there are several. *Listed* is measured before any filter but where the row says filter.",
    ]
    for name, title in PROCEDURES.items():
        if name in pages:
            parts += [f"## {title}", *(_section(curves, name) for curves in pages[name])]
    return "\n\n".join(parts) + "\n"


def _section(curves: Curves, name: str) -> str:
    wishes = mean(curves.n_wishes)
    lines = [
        f"### {STUDIES[curves.study].runs[curves.run].title}{curves.variant and ': '}{curves.variant} "
        f"({STUDIES[curves.study].title})",
        "",
        f"{len(curves.seeds)} {'seeds' if len(curves.seeds) > 1 else 'seed'}; {wishes:,.0f} of {curves.n_rows:,} test "
        "rows have such an item.",
        "",
        "| How | w | Listed, % | Exposure | Shift | Overlap | Recall@10 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for rival, strengths in SHOWN.items():
        for strength in strengths:
            if (rival, strength) in curves.points:
                lines.append(_line(curves, (rival, strength)))
    if "dislikes" in name and any(point[0] in OWN for point in curves.points):
        lines += ["", _verdict(curves)]
    if name == "dislikes item" and curves.run in AIMED and not curves.variant:
        lines += ["", *_aims(curves)]
    return "\n".join(lines)


def _verdict(curves: Curves) -> str:
    """How many points of each rival lie on the wrong side of the model's own."""
    counts = []
    for rival in ("filter", "similarity-vectors", "similarity-co-occurrence"):
        among = [point for point in curves.points if point[0] == rival and point[1] != 0]
        left = [point for point in undominated(curves, [rival]) if point in among]
        if among:
            counts.append(f"{RIVALS[rival]} {len(among) - len(left)} of {len(among)}")
    return (
        "Points of rivals for which some point of the model's own has no more exposure and no less Recall@10: "
        f"{'; '.join(counts)}."
    )


def _aims(curves: Curves) -> list[str]:
    """What we wanted at the default strength, and what was measured. Nothing where a point is missing."""
    own, served = ("steering", DEFAULT), ("steering-and-filter", DEFAULT)
    if not {own, served, ("unsteered", None), ("filter", None)} <= set(curves.points):
        return []
    listed, overlap = curves.at(own, "listed"), curves.at(own, "overlap")
    exposure, before = curves.at(own, "exposure"), curves.at(("unsteered", None), "exposure")
    cost = curves.at(served, "recall@10") / curves.at(("filter", None), "recall@10") - 1
    rivals = [p for p in curves.points if p[0] in ("similarity-vectors", "similarity-co-occurrence") and p[1]]
    matched = len(rivals) - len(undominated(curves, [p[0] for p in rivals]))
    rows = [
        ("disliked item listed, before any filter: at most 1 %", f"{100 * listed:.1f} %", listed <= 0.01),
        ("exposure of its neighbours: at most half", f"{exposure / before:.0%} of what it was", exposure <= before / 2),
        ("Recall@10: at most 5 % below that of the filter", f"{cost:+.1%}", cost >= -0.05),
        ("overlap of the rest: at least 0.7", f"{overlap:.2f}", overlap >= 0.7),
        ("every point of both similarities matched", f"{matched} of {len(rivals)}", matched == len(rivals)),
    ]
    table = ["| Aim, at w = 1 | Measured | |", "| --- | ---: | --- |"]
    table += [f"| {aim} | {found} | {'reached' if reached else '**missed**'} |" for aim, found, reached in rows]
    least = _oracle_at(curves, exposure)
    if least is not None:
        price = least / curves.at(("filter", None), "recall@10") - 1
        table += [
            "",
            f"The oracle, which takes exactly these neighbours down, has {price:+.1%} in Recall@10 where its exposure "
            "is as low: the target is often among them.",
        ]
    return table


def _oracle_at(curves: Curves, exposure: float) -> float | None:
    """Recall@10 of the oracle at an exposure, between its points; None where it was not measured down to it."""
    points = sorted((curves.at(p, "exposure"), curves.at(p, "recall@10")) for p in curves.points if p[0] == "oracle")
    for (low, at_low), (high, at_high) in pairwise(points):
        if low <= exposure <= high and low < high:
            return at_low + (exposure - low) / (high - low) * (at_high - at_low)
    return None


def _line(curves: Curves, point: Point) -> str:
    rival, strength = point
    cells = [RIVALS[rival], "" if strength is None else f"{strength:g}"]
    for measure in MEASURES:
        values = curves.points[point].get(measure)
        cells.append("–" if values is None else _number(values, measure))
    return f"| {' | '.join(cells)} |"


def _number(values: Sequence[float], measure: str) -> str:
    digits, factor = {"listed": (1, 100), "recall@10": (4, 1)}.get(measure, (2, 1))
    spread = f" ± {factor * stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{factor * mean(values):.{digits}f}{spread}"


def measure(
    study: str,
    data: Path,
    folder: Path,
    only: str | None,
    seeds: Sequence[int],
    wishes: Sequence[str],
    options: Mapping[str, Any],
    label: str | None,
) -> None:
    """Measure the finished runs of a study, and add what was found to their records."""
    from reproduce import dataset_for

    from guiderec.files import write_json
    from guiderec.recipes import run as runs
    from guiderec.steering.procedure import parse_procedure
    from guiderec.training.record import collect

    asked = [parse_procedure(wish) for wish in wishes]
    for seed in seeds:
        dataset = dataset_for(STUDIES[study], data, seed)
        for name in STUDIES[study].runs:
            if only in (None, name):
                run = folder / study / f"{name}-seed{seed}"
                found = runs.steering(
                    run, dataset, "test", procedures=asked, strengths=STRENGTHS, overrides=options, label=label
                )
                write_json(HERE / study / f"{name}-seed{seed}.json", collect(run))
                print(f"{study} {name}-seed{seed}: {found['seconds']:.0f} s", flush=True)


def main() -> None:
    """Measure, or render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("study", choices=sorted(STUDIES))
    measuring.add_argument("--data", type=Path, required=True)
    measuring.add_argument("--runs", type=Path, required=True)
    measuring.add_argument("--only")
    measuring.add_argument("--set", nargs="+", default=[], help="options other than those of the training run")
    measuring.add_argument("--label", help="name of the measurement under other options")
    measuring.add_argument("--wish", nargs="+", default=["dislikes:item", "likes:item"])
    measuring.add_argument("--seeds", type=int, nargs="+", default=[0])
    rendering = commands.add_parser("render")
    rendering.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.command == "measure":
        measure(
            arguments.study,
            arguments.data,
            arguments.runs,
            arguments.only,
            arguments.seeds,
            arguments.wish,
            parse_assignments(arguments.set),
            arguments.label,
        )
        return
    text = render(read(tracked()))
    if arguments.check:
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == text else f"{PAGE.name} is not what the records give.")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

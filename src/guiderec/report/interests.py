"""Interests as tables: a column for each measure of `evaluation/interests.py`, a row for each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from guiderec.report.runs import Run
from guiderec.report.tables import Cell, Table, comparable, data_name

TITLES = {
    "effective_interests": "Effective interests",
    "effective_routes": "Effective routes",
    "routing_entropy": "Routing entropy",
    "listed_interests": "Interests in a list",
    "list_diversity": "List diversity",
    "category_diversity": "Category diversity",
}
"""What measures are called, in the order in which they are shown."""

NOTE = (
    "K: vectors that rank. Effective numbers are 1 when all interests are one, K when none resembles another. Routing "
    "entropy is 1 when an interest is the mean of its history, 0 when it is one item. List diversity: mean of "
    "1 - cosine over pairs. Reached: share of the catalogue in anybody's list. In brackets 95 % intervals."
)


def tables(runs: Sequence[Run], part: str = "test") -> list[Table]:
    """One table for each set of comparable runs with measured interests; none where nobody measured them."""
    found = []
    for group, names in comparable(runs, part):
        records = {
            name: run.evaluations[part].record["interests"]
            for run, name in zip(group, names, strict=True)
            if run.evaluations[part].record.get("interests")
        }
        if records:
            found.append(_table(group[0], records, part))
    return found


def _table(run: Run, records: Mapping[str, Mapping[str, Any]], part: str) -> Table:
    measures = [name for name in TITLES if any(name in record["measures"] for record in records.values())]
    lengths = sorted({int(record["k"]) for record in records.values()})
    rows = [
        (
            Cell(name),
            Cell(str(record["n_interests"])),
            *(_cell(record["measures"].get(measure)) for measure in measures),
            Cell(f"{100 * record['coverage']:.1f} %"),
        )
        for name, record in records.items()
    ]
    caption = f"Interests, lists of {', '.join(map(str, lengths))}, {part} part of {data_name(run)}"
    return Table(caption, ("Run", "K", *(TITLES[name] for name in measures), "Reached"), tuple(rows), NOTE)


def _cell(value: Mapping[str, float] | None) -> Cell:
    if value is None:
        return Cell("–")
    return Cell(f"{value['mean']:.3f}", f"{value['low']:.3f}, {value['high']:.3f}")

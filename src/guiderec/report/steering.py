"""Steering as tables: one for each run and procedure, a row for each rival and strength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from guiderec.report.runs import Run, labels
from guiderec.report.tables import Cell, Table, data_name, title

UNSTEERED = "unsteered"
RIVALS = {
    UNSTEERED: "unsteered",
    "steering": "own steering",
    "classifier-free": "guidance without the wish",
    "similarity-vectors": "similarity of vectors",
    "similarity-co-occurrence": "similarity in the data",
    "filter": "filter: the named",
    "filter-group": "filter: the whole group",
    "steering-and-filter": "own steering and filter",
    "oracle": "oracle: exactly the group",
}
"""What rivals are called, in the order in which they are shown."""


def tables(runs: Sequence[Run], part: str = "test") -> list[Table]:
    """What the wishes of every procedure did, run by run, also under other options; runs without any are left out."""
    return [
        table
        for run, name in zip(runs, labels(runs), strict=True)
        for record in records(run, part)
        for table in record_tables(run, name, record)
    ]


def record_tables(run: Run, name: str, record: str) -> list[Table]:
    """The tables of one record of a run, such as `test` or `test-LABEL`; the last says what could not be measured."""
    found = [_table(run, name, where(record), procedure) for procedure in run.steering[record]["procedures"]]
    reasons = run.steering[record].get("not_measured") or {}
    if found and isinstance(reasons, dict):
        told = " ".join(f"Not measured: {procedure}. {reason}" for procedure, reason in reasons.items())
        found[-1] = replace(found[-1], note=f"{found[-1].note} {told}".strip())
    return found


def records(run: Run, part: str) -> list[str]:
    """The names of the records of a part: `PART`, and `PART-LABEL` where it was measured under other options."""
    return [record for record in sorted(run.steering) if record.partition("-")[0] == part]


def where(record: str) -> str:
    """`test part`, or `test part, LABEL`."""
    part, _, label = record.partition("-")
    return f"{part} part, {label}" if label else f"{part} part"


def share_honoured(procedure: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, float]:
    """Share of rows whose disliked item is not in the list, or whose liked item is: mean, low, high."""
    listed = point["measures"]["listed"]
    if procedure["procedure"]["name"] == "likes":
        return {end: listed[end] for end in ("mean", "low", "high")}
    return {"mean": 1 - listed["mean"], "low": 1 - listed["high"], "high": 1 - listed["low"]}


def honoured_title(procedure: Mapping[str, Any]) -> str:
    """`Leaves the top 10` or `Enters the top 10`."""
    verb = "Enters" if procedure["procedure"]["name"] == "likes" else "Leaves"
    return f"{verb} the top {procedure['cutoff']}"


def _table(run: Run, name: str, where: str, procedure: Mapping[str, Any]) -> Table:
    recall = f"recall@{procedure['cutoff']}"
    headings = ("Median\nrank", "Exposure", "Shift", "Overlap", title(recall))
    rows = [
        (
            Cell(_row_name(point)),
            _cell(share_honoured(procedure, point), percent=True),
            Cell(f"{point['median_item_rank']:,.0f}"),
            _cell(point["measures"].get("exposure"), digits=2),
            _cell(point["measures"].get("shift"), digits=2),
            _cell(point["measures"].get("overlap"), digits=2),
            _cell(point["measures"].get(recall)),
        )
        for point in procedure["points"]
    ]
    caption = f"Steering, {procedure['name']}: {name}, {where}, of {data_name(run)}"
    note = (
        f"{procedure['n_wishes']:,} of {procedure['n_rows']:,} rows have a wish. Exposure: items of the group in the "
        "list. Shift: log2 of the rank of the followed items, after over before. Overlap: share of the rest of the "
        "list that stays. Intervals: 95 % bootstrap, over users."
    )
    return Table(caption, ("Rival", honoured_title(procedure).replace(" ", "\n", 1), *headings), tuple(rows), note)


def _row_name(point: Mapping[str, Any]) -> str:
    name = RIVALS.get(point["rival"], point["rival"])
    return name if point["strength"] is None else f"{name}, w = {point['strength']:g}"


def _cell(value: Mapping[str, float] | None, *, percent: bool = False, digits: int = 3) -> Cell:
    if value is None:
        return Cell("–")
    if percent:
        return Cell(f"{100 * value['mean']:.1f} %", f"{100 * value['low']:.1f}–{100 * value['high']:.1f}")
    return Cell(f"{value['mean']:.{digits}f}", f"{value['low']:.{digits}f}–{value['high']:.{digits}f}")

"""Tables and figures of steering show the record, and nothing but the record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from guiderec.errors import CheckpointError
from guiderec.report import figures, steering
from guiderec.report.figures import LIGHT
from guiderec.report.page import write
from guiderec.report.runs import read

from .conftest import MakeRun
from .test_figures import share_of

STRENGTHS = (0.0, 0.5, 2.0)


def measure(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.013, "high": mean + 0.017, "n": 400}


def point(rival: str, strength: float | None, effect: float, cost: float) -> dict[str, Any]:
    measures = {
        "listed": measure(0.95 - 0.9 * effect),
        "exposure": measure(0.74 - 0.6 * effect),
        "shift": measure(3 * effect),
        "overlap": measure(0.97 - cost),
        "recall@10": measure(0.09 - 0.05 * cost),
    }
    return {"rival": rival, "strength": strength, "median_item_rank": 1 + 1200 * effect, "measures": measures}


def write_record(run: Path, kinds: tuple[str, ...] = ("dislikes",)) -> dict[str, Any]:
    points = [point("unsteered", None, 0, 0)]
    for i, rival in enumerate(("steering", "classifier-free", "similarity-vectors", "similarity-co-occurrence")):
        points += [point(rival, w, w / (2 + i), w * (0.1 + 0.05 * i)) for w in STRENGTHS]
    points += [point("filter", None, 0.9, 0.01), point("filter-group", None, 1.0, 0.2)]
    record = {
        "part": "test",
        "strengths": list(STRENGTHS),
        "procedures": [
            {
                "name": f"{kind} item",
                "procedure": {"name": kind, "k": 10},
                "n_rows": 400,
                "n_wishes": 397,
                "cutoff": 10,
                "points": points,
            }
            for kind in kinds
        ],
    }
    (run / "steering").mkdir()
    (run / "steering" / "test.json").write_text(json.dumps(record))
    return record


def test_the_table_has_every_point_and_its_numbers(make_run: MakeRun) -> None:
    run = make_run()
    record = write_record(run, ("dislikes", "likes"))
    disliked, liked = steering.tables([read(run), read(make_run("without", model="sasrec"))])
    heads = [[name.replace("\n", " ") for name in table.columns] for table in (disliked, liked)]
    assert heads[0] == ["Rival", "Leaves the top 10", "Median rank", "Exposure", "Shift", "Overlap", "Recall@10"]
    assert heads[1][1] == "Enters the top 10"
    assert "| Rival | Leaves the top 10 | Median rank |" in disliked.markdown()
    points = record["procedures"][0]["points"]
    assert len(disliked.rows) == len(liked.rows) == len(points)
    for each, row, other in zip(points, disliked.rows, liked.rows, strict=True):
        listed, exposure = each["measures"]["listed"], each["measures"]["exposure"]
        assert row[1].text == f"{100 * (1 - listed['mean']):.1f} %"
        assert row[1].detail == f"{100 * (1 - listed['high']):.1f}–{100 * (1 - listed['low']):.1f}"
        assert other[1].text == f"{100 * listed['mean']:.1f} %"
        assert row[2].text == f"{each['median_item_rank']:,.0f}"
        assert (row[3].text, row[3].detail) == (
            f"{exposure['mean']:.2f}",
            f"{exposure['low']:.2f}–{exposure['high']:.2f}",
        )
        assert row[6].text == f"{each['measures']['recall@10']['mean']:.3f}"
    names = [row[0].text for row in disliked.rows]
    assert names[:3] == ["unsteered", "own steering, w = 0", "own steering, w = 0.5"]
    assert names[-1] == "filter: the whole group"
    assert "397 of 400 rows have a wish" in disliked.note


def test_measurements_under_other_options_stand_beside_those_of_the_run(make_run: MakeRun) -> None:
    run = make_run()
    record = write_record(run)
    (run / "steering" / "test-by-place.json").write_text(json.dumps(record))
    (run / "steering" / "valid.json").write_text(json.dumps(record))
    own, other = steering.tables([read(run)])
    assert "test part, of" in own.caption
    assert "test part, by-place, of" in other.caption
    names = [picture.name for picture in figures.steering_curves(read(run), "mine")]
    assert names == ["steering-dislikes-item", "steering-dislikes-item-by-place"]
    assert len(steering.record_tables(read(run), "mine", "test-by-place")) == 1


def test_what_could_not_be_measured_stands_below_the_last_table(make_run: MakeRun) -> None:
    path = make_run()
    record = write_record(path, ("dislikes", "likes"))
    plain = steering.tables([read(path)])
    record["not_measured"] = {"dislikes category": "No row has an item. Hint: name a category."}
    (path / "steering" / "test.json").write_text(json.dumps(record))
    first, last = steering.tables([read(path)])
    assert first == plain[0]
    told = "Not measured: dislikes category. No row has an item. Hint: name a category."
    assert last.note == f"{plain[1].note} {told}"


def test_the_terminal_shows_the_numbers_uncut_in_80_columns(make_run: MakeRun) -> None:
    run = make_run()
    record = write_record(run)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    (table,) = steering.tables([read(run)])
    console.print(table.rich())
    console.file.close()
    text = console.export_text()
    for each in record["procedures"][0]["points"]:
        exposure = each["measures"]["exposure"]
        assert f"{exposure['low']:.2f}–{exposure['high']:.2f}" in text
    for word in ("Recall@10", "guidance", "similarity", "Exposure"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_figure_draws_every_rival_and_says_the_numbers(make_run: MakeRun) -> None:
    run = make_run()
    record = write_record(run)
    (picture,) = figures.steering_curves(read(run), "mine")
    for i in range(6):  # six rivals, each in its own colour
        assert share_of(picture.light, LIGHT.series[i]) > 0.0005
    last = next(p for p in record["procedures"][0]["points"] if (p["rival"], p["strength"]) == ("steering", 2.0))
    assert f"own steering: {last['measures']['recall@10']['mean']:.4f}" in picture.alt
    assert figures.steering_curves(read(make_run("without")), "none") == []


def test_a_rival_keeps_its_colour_where_others_are_missing(make_run: MakeRun) -> None:
    run = make_run()
    record = write_record(run)
    (procedure,) = record["procedures"]
    procedure["points"] = [p for p in procedure["points"] if p["rival"] in ("unsteered", "similarity-vectors")]
    (run / "steering" / "test.json").write_text(json.dumps(record))
    (picture,) = figures.steering_curves(read(run), "mine")
    assert share_of(picture.light, LIGHT.series[2]) > 0.0005
    assert all(share_of(picture.light, LIGHT.series[i]) < 0.0002 for i in (0, 1, 3, 4, 5))


def test_the_page_shows_tables_and_figures_of_every_run(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("a", epochs=0), make_run("b", model="sasrec", epochs=0)]
    for run in runs:
        write_record(run)
    written = write(runs, tmp_path / "out")
    names = [path.name for path in written.figures]
    assert [n for n in names if n.startswith("steering")] == [
        "steering-dislikes-item-steerrec-demo.png",
        "steering-dislikes-item-sasrec-demo.png",
    ]
    assert all((tmp_path / "out" / name).is_file() for name in names)
    text = written.table.read_text(encoding="utf-8")
    assert text.count("Steering, dislikes item: ") == 2
    assert "Steering, dislikes item: sasrec:demo" in written.page.read_text(encoding="utf-8")


def test_a_damaged_record_is_named(make_run: MakeRun) -> None:
    run = make_run()
    record = write_record(run)
    del record["procedures"][0]["points"][3]["measures"]["exposure"]["low"]
    (run / "steering" / "test.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"steering.test\.json: 'procedures' must list the points of each"):
        read(run)
    (run / "steering" / "test.json").write_text('{"procedures": 3}')
    with pytest.raises(CheckpointError, match="'procedures' must list"):
        read(run)

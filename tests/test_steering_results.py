"""The page of measured steering, against records written by hand and the committed records."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_steering", ROOT / "results" / "steering.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


steering = module()


def record(seed: int, points: list[tuple[str, float | None, float, float]], **changes: Any) -> dict[str, Any]:
    """A record with these points: rival, strength, exposure, Recall@10."""
    procedure = {
        "name": "dislikes item",
        "procedure": {"name": "dislikes"},
        "seen": "keep",
        "n_rows": 100,
        "n_wishes": 90 + seed,
        "points": [
            {
                "rival": rival,
                "strength": strength,
                "measures": {
                    "exposure": {"mean": exposure},
                    "recall@10": {"mean": recall},
                    "listed": {"mean": 0.25},
                },
            }
            for rival, strength, exposure, recall in points
        ],
    }
    return {"experiment": {"seed": seed}, "steering": {"test": {"procedures": [{**procedure, **changes}]}}}


def write(root: Path, *records: dict[str, Any]) -> list[Path]:
    folder = root / "beauty-guided"
    folder.mkdir(parents=True)
    paths = []
    for content in records:
        paths.append(folder / f"guided-sasrec-seed{content['experiment']['seed']}.json")
        paths[-1].write_text(json.dumps(content))
    return paths


POINTS = [
    ("unsteered", None, 1.0, 0.10),
    ("steering", 1.0, 0.4, 0.09),
    ("steering-and-filter", 0.5, 0.8, 0.10),
    ("filter", None, 1.1, 0.09),
    ("similarity-vectors", 0.1, 0.5, 0.08),
    ("similarity-vectors", 0.2, 0.3, 0.05),
]


def test_the_page_shows_means_over_seeds_and_who_is_matched(tmp_path: Path) -> None:
    other = [(rival, strength, exposure + 0.2, recall + 0.02) for rival, strength, exposure, recall in POINTS]
    text = steering.render(steering.read(write(tmp_path, record(0, POINTS), record(1, other))))
    assert "2 seeds; 90 of 100 test rows" in text
    assert "| own guidance | 1 | 25.0 ± 0.0 | 0.50 ± 0.14 | – | – | 0.1000 ± 0.0141 |" in text
    # filter (1.2, 0.10) and similarity 0.1 (0.6, 0.09) are matched; similarity 0.2 has less exposure than any own point
    assert "filter: the disliked item 1 of 1; similarity of vectors 1 of 2." in text


def test_the_page_says_which_aims_are_missed_and_what_the_oracle_pays(tmp_path: Path) -> None:
    points = [
        *POINTS,  # unsteered: exposure 1; steering at 1: 0.4; filter: Recall@10 0.09
        ("steering-and-filter", 1.0, 0.4, 0.081),
        ("oracle", 0.5, 0.6, 0.09),
        ("oracle", 1.0, 0.2, 0.08),
    ]
    content = record(0, points)
    for point in content["steering"]["test"]["procedures"][0]["points"]:
        point["measures"] |= {"listed": {"mean": 0.02}, "overlap": {"mean": 0.7}}
    text = steering.render(steering.read(write(tmp_path, content)))
    assert "| disliked item listed, before any filter: at most 1 % | 2.0 % | **missed** |" in text
    assert "| exposure of its neighbours: at most half | 40% of what it was | reached |" in text
    assert "| Recall@10: at most 5 % below that of the filter | -10.0% | **missed** |" in text
    assert "| overlap of the rest: at least 0.7 | 0.70 | reached |" in text
    assert "| every point of both similarities matched | 1 of 2 | **missed** |" in text
    assert "has -5.6% in Recall@10" in text  # half way between 0.09 and 0.08, against 0.09


def test_seeds_that_were_asked_differently_are_an_error(tmp_path: Path) -> None:
    paths = write(tmp_path, record(0, POINTS), record(1, POINTS, seen="mask"))
    with pytest.raises(ValueError, match="beauty-guided/guided-sasrec: the seeds were measured under different"):
        steering.read(paths)
    stronger = record(1, POINTS)
    stronger["steering"]["test"]["overrides"] = {"model.guidance.kinship": "0.3"}
    with pytest.raises(ValueError, match="the seeds were measured under different"):
        steering.read(write(tmp_path / "options", record(0, POINTS), stronger))


def test_another_way_to_tell_has_a_table_of_its_own(tmp_path: Path) -> None:
    content = record(0, POINTS)
    content["steering"]["test-mixed"] = record(0, [*POINTS, ("steering", 2.0, 0.2, 0.07)])["steering"]["test"]
    text = steering.render(steering.read(write(tmp_path, content)))
    plain, mixed = text.split("### Guided SASRec")[1:]
    assert mixed.startswith(f": {steering.VARIANTS['mixed']} (")
    assert ("| own guidance | 2 |" in plain, "| own guidance | 2 |" in mixed) == (False, True)
    content["steering"]["test-by-place"] = content["steering"]["test"]
    with pytest.raises(ValueError, match="a seed was measured twice"):
        steering.read(write(tmp_path / "twice", content))
    content["steering"] = {"test-half": content["steering"]["test"]}
    with pytest.raises(ValueError, match="VARIANTS does not say how the measurement 'half' differs"):
        steering.read(write(tmp_path / "unknown", content))


def test_aims_are_those_of_the_plain_measurement(tmp_path: Path) -> None:
    content = record(0, [*POINTS, ("steering-and-filter", 1.0, 0.4, 0.081)])
    for point in content["steering"]["test"]["procedures"][0]["points"]:
        point["measures"] |= {"listed": {"mean": 0.02}, "overlap": {"mean": 0.7}}
    content["steering"]["test-mixed"] = content["steering"]["test"]
    text = steering.render(steering.read(write(tmp_path, content)))
    plain, mixed = text.split("### Guided SASRec")[1:]
    assert ("| Aim, at w = 1 |" in plain, "| Aim, at w = 1 |" in mixed) == (True, False)


def test_the_committed_page_is_what_the_committed_records_give() -> None:
    assert steering.PAGE.read_text(encoding="utf-8") == steering.render(steering.read(steering.tracked()))

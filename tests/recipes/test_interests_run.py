"""Interests from training to the report: a run with many interests, measured, shown, compared, and asked for a list."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from guiderec.api import Model, configure
from guiderec.cli.main import main
from guiderec.data import prepared, synthetic
from guiderec.errors import ConfigError
from guiderec.evaluation.interests import MEASURES, read_rows
from guiderec.recipes import run as runs
from guiderec.report import interests as tables
from guiderec.report.runs import read

SMALL = {"model.dim": 16, "training.epochs": 1, "training.max_steps": 30, "metrics": ["recall@5", "ndcg@10"]}


@pytest.fixture(scope="module")
def data():
    return synthetic.make(n_items=400, n_users=203, seed=1).dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data) -> Path:
    folder = tmp_path_factory.mktemp("interests")
    prepared.save(data, folder / "data")
    for name, covariance in (("plain", 0.0), ("spread", 50.0)):
        experiment = configure("comirec:demo", {**SMALL, "model.covariance": covariance}, 0)
        runs.train(experiment, data, folder / name, progress=False)
    runs.train(configure("popularity:default", {}, 0), data, folder / "popular", progress=False)
    return folder


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_they_are_measured_recorded_shown_and_compared(folder: Path, data, capsys):
    asked = ("--data", folder / "data", "--interests")
    records = {name: told(capsys, "evaluate", folder / name, *asked) for name in ("plain", "spread")}
    for name, record in records.items():
        found, rows = record["interests"], read_rows(folder / name, "test")
        assert (found["k"], found["n_interests"]) == (10, 4)
        assert set(found["measures"]) == set(MEASURES)  # the catalogue has categories
        assert len(rows) == record["n_rows"] == len(data.test)
        for measure, value in found["measures"].items():
            assert value["mean"] == pytest.approx(np.nanmean(rows[measure].to_numpy()))
            assert value["low"] <= value["mean"] <= value["high"]
        assert found["coverage"] == pytest.approx(record["beyond"]["coverage@10"])
    again = runs.evaluate(folder / "plain", data, interests=True)
    assert again["interests"] == records["plain"]["interests"]
    (table,) = tables.tables([read(folder / "plain"), read(folder / "spread")])
    assert table.columns == ("Run", "K", *tables.TITLES.values(), "Reached")
    assert f"{records['spread']['interests']['measures']['routing_entropy']['mean']:.3f}" in str(table.rows[1][4])
    changes = told(capsys, "compare", folder / "plain", folder / "spread", "--interests")["changes"]
    by_name = {change["measure"]: change for change in changes}
    means = [records[name]["interests"]["measures"]["routing_entropy"]["mean"] for name in ("plain", "spread")]
    assert by_name["routing_entropy"]["difference"] == pytest.approx(means[1] - means[0])
    assert main(["compare", str(folder / "plain"), str(folder / "spread"), "--interests"]) == 0
    assert "Routing entropy" in capsys.readouterr().out


def test_the_report_has_them(folder: Path, data, tmp_path: Path):
    runs.evaluate(folder / "plain", data, interests=True)
    from guiderec.report import page

    written = page.write([folder / "plain"], tmp_path / "report")
    assert "Effective interests" in written.page.read_text()
    assert "Effective interests" in written.table.read_text()


def test_without_asking_nothing_is_measured(folder: Path, data):
    assert "interests" not in runs.evaluate(folder / "plain", data, "valid")
    assert tables.tables([read(folder / "plain")], "valid") == []
    with pytest.raises(ConfigError, match="Popularity does not rank by vectors"):
        runs.evaluate(folder / "popular", data, interests=True)


def test_a_list_shows_the_interest_of_each_item_and_can_be_diverse(folder: Path, data, capsys):
    model = Model.from_pretrained(folder / "plain")
    history = data.vocabulary.decode([3, 8, 30])
    ids = ",".join(map(str, history))
    plain = told(capsys, "recommend", folder / "plain", "--history", ids)
    assert plain["interests"] == 4
    assert [item["interest"] for item in plain["recommendations"]] == model.recommend([history])["interest"].to_list()
    diverse = told(capsys, "recommend", folder / "plain", "--history", ids, "--diversity", "5")
    assert diverse["diversity"] == 5
    shelves = dict(zip(data.vocabulary.raw, data.vocabulary.table["category"], strict=True))
    count = [len({shelves[item["item_id"]] for item in answer["recommendations"]}) for answer in (plain, diverse)]
    assert count[1] >= count[0]
    expected = model.recommend([history], diversity=5.0)["item_id"].to_list()
    assert [item["item_id"] for item in diverse["recommendations"]] == expected
    assert main(["recommend", str(folder / "plain"), "--history", ids]) == 0
    assert "Interest" in capsys.readouterr().out


def test_dislikes_beside_diversity_are_still_said_to_be_filtered(folder: Path, data, capsys):
    """A diverse list made without a disliked item is not the diverse list with that item removed."""
    model = Model.from_pretrained(folder / "plain")
    history = data.vocabulary.decode([3, 8, 30])
    first = model.recommend([history], diversity=5.0)["item_id"][0]
    asked = ("--history", ",".join(map(str, history)), "--dislike", first, "--diversity", "5")
    assert told(capsys, "recommend", folder / "plain", *asked)["dislikes_honoured"] == "filtered"

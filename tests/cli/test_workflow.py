"""Train, evaluate, recommend, compare and report through the command line on a tiny planted split."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from guiderec.api import Model
from guiderec.cli.recommend import Effect, dislike_effect, split_ids
from guiderec.recipes import registry

from .conftest import ITEMS, Cli


def test_training_prints_what_the_run_holds(cli: Cli, split: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = cli("train", "sasrec:demo", "--data", split, "--set", "training.epochs=1", "--set", "model.dim=8",
               "--seed", 5, "--out", out, "--json")  # fmt: skip
    assert done.status == 0, done.err
    stored = json.loads((out / "experiment.json").read_text())
    assert (stored["recipe"], stored["seed"]) == ("sasrec:demo", 5)
    assert (stored["model"]["dim"], stored["training"]["epochs"]) == (8, 1)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    (validation,) = (event for event in log if event["event"] == "validation")
    assert done.json["best_metrics"] == validation["metrics"]
    assert (done.json["run"], done.json["epochs"], done.json["reason"]) == (str(out), 1, "epochs")


def test_training_into_a_run_is_refused_and_text_says_what_comes_next(cli: Cli, split: Path, tmp_path: Path) -> None:
    command = ["train", "popularity:default", "--data", split, "--out", tmp_path / "run"]
    done = cli(*command)
    assert done.status == 0, done.err
    assert f"guiderec evaluate {tmp_path / 'run'} --data {split}" in done.out
    again = cli(*command)
    assert again.status == 2
    assert "already holds a run" in again.err


def test_without_out_the_run_is_named_after_recipe_and_seed(
    cli: Cli, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("train", "popularity:default", "--data", split, "--seed", 7, "--json")
    assert done.json["run"] == "runs/popularity-default-seed7"
    assert (tmp_path / done.json["run"] / "model" / "model.json").is_file()


def test_evaluation_prints_its_record(cli: Cli, split: Path, runs: dict[str, Path]) -> None:
    run = runs["popularity"]
    done = cli("evaluate", run, "--data", split, "--part", "valid", "--seen", "mask", "--json")
    assert done.status == 0, done.err
    assert done.json == {"run": str(run), **json.loads((run / "evaluation" / "valid.json").read_text())}
    assert done.json["seen"] == "mask"

    refused = cli("evaluate", run, "--data", split, "--part", "valid")
    assert (refused.status, refused.out) == (2, "")
    assert "under other conditions: seen was 'mask', is 'keep'" in refused.err
    text = cli("evaluate", run, "--data", split, "--part", "valid", "--overwrite").out
    stored = json.loads((run / "evaluation" / "valid.json").read_text())
    for value in (*stored["metrics"].values(), *stored["otherwise"]["metrics"].values()):
        assert f"{value['mean']:.4f}" in text
    assert (stored["seen"], stored["otherwise"]["seen"]) == ("keep", "mask")
    assert stored["otherwise"]["metrics"] == done.json["metrics"]
    assert stored["metrics"] == done.json["otherwise"]["metrics"]
    (run / "evaluation" / "valid.json").unlink()


def test_several_runs_are_evaluated_on_one_split(cli: Cli, split: Path, runs: dict[str, Path]) -> None:
    command = ("evaluate", *runs.values(), "--data", split, "--part", "valid", "--label", "together")
    found = cli(*command, "--json").json["runs"]
    assert [each["run"] for each in found] == [str(run) for run in runs.values()]
    assert len({each["metrics"]["recall@10"]["mean"] for each in found}) == len(runs)
    text = cli(*command).out
    assert all(f"{each['metrics']['recall@10']['mean']:.4f}" in text for each in found)
    for run in runs.values():
        for kind in ("json", "parquet"):
            (run / "evaluation" / f"valid-together.{kind}").unlink()


def test_weights_are_evaluated_under_other_options(cli: Cli, split: Path, runs: dict[str, Path]) -> None:
    run = runs["steerrec"]
    before = (run / "evaluation" / "test.json").read_text()
    change = ["--set", "model.guidance.scale=0", "--label", "unguided"]
    done = cli("evaluate", run, "--data", split, *change, "--json")
    assert done.status == 0, done.err
    assert done.json["overrides"] == {"model.guidance.scale": 0}
    assert done.json["metrics"] == json.loads((run / "evaluation" / "test-unguided.json").read_text())["metrics"]
    assert (run / "evaluation" / "test.json").read_text() == before
    assert f"{done.json['metrics']['recall@10']['mean']:.4f}" in cli("evaluate", run, "--data", split, *change).out
    asked = ["--metric", "hr@3", "--metric", "mrr@20"]
    done = cli("evaluate", run, "--data", split, *change, *asked, "--json")
    assert list(done.json["metrics"])[:2] == ["recall@3", "mrr@20"]
    assert done.json["cutoffs"] == [3, 10, 20]
    assert "--metric" in cli("evaluate", run, "--data", split, "--steering", *asked).err
    for kind in ("json", "parquet"):
        (run / "evaluation" / f"test-unguided.{kind}").unlink()


def test_a_distribution_is_measured_and_printed_and_models_without_vectors_say_so(
    cli: Cli, split: Path, runs: dict[str, Path]
) -> None:
    run = runs["steerrec"]
    done = cli("distribution", run, "--data", split, "--json")
    assert done.status == 0, done.err
    assert done.json == {"run": str(run), **json.loads((run / "distribution" / "test.json").read_text())}
    text = cli("distribution", run, "--data", split).out
    assert f"{1e3 * done.json['mmd2']:.3f}" in text
    assert "MMD²" in text
    refused = cli("distribution", runs["popularity"], "--data", split)
    assert (refused.status, refused.out) == (2, "")
    assert "Popularity does not rank by vectors" in refused.err
    assert not (runs["popularity"] / "distribution").exists()
    shutil.rmtree(run / "distribution")


def test_distributions_are_compared_over_seeds(cli: Cli, tmp_path: Path) -> None:
    values = {"a": [0.37e-3, 0.41e-3], "b": [0.30e-3, 0.31e-3]}
    for name, side in values.items():
        for seed, value in enumerate(side):
            run = tmp_path / f"{name}{seed}"
            (run / "distribution").mkdir(parents=True)
            (run / "data.json").write_text(json.dumps({"fingerprint": {"sha256": "0"}, "protocol": {"name": "x"}}))
            (run / "distribution" / "test.json").write_text(json.dumps({"mmd2": value, "n_rows": 1234}))
    sides = [",".join(str(tmp_path / f"{name}{seed}") for seed in range(2)) for name in values]
    (found,) = cli("compare", *sides, "--distribution", "--json").json["tests"]
    assert found["difference"] == pytest.approx(-0.085e-3)
    text = cli("compare", *sides, "--distribution").out
    assert "0.390 ± 0.028" in text
    assert "0.305 ± 0.007" in text
    assert "-0.085" in text
    assert f"{found['p_holm']:.4f}" in text
    assert "1,234 rows of the test part" in " ".join(text.split())


def test_recommendations_are_those_of_the_python_interface(cli: Cli, runs: dict[str, Path]) -> None:
    done = cli("recommend", runs["steerrec"], "--history", "i01,i02", "--history", "i03", "-k", 5, "--json")
    assert done.status == 0, done.err
    frame = Model.from_pretrained(runs["steerrec"]).recommend([["i01", "i02", "i03"]], k=5)
    assert pl.DataFrame(done.json["recommendations"]).equals(frame.select("rank", "item_id", "name", "score"))
    assert [item["name"] for item in done.json["history"]] == ["Thing 1", "Thing 2", "Thing 3"]
    assert done.json["dislikes_honoured"] is None

    text = cli("recommend", runs["steerrec"], "--history", "i01,i02,i03", "-k", 5).out
    assert "History: Thing 1, Thing 2, Thing 3" in text
    assert all(item["name"] in text and f"{item['score']:.4f}" in text for item in done.json["recommendations"])


def test_dislikes_are_never_listed_and_said_to_be_only_filtered_where_that_is_all(
    cli: Cli, runs: dict[str, Path]
) -> None:
    first = cli("recommend", runs["popularity"], "--history", "i01", "-k", 3, "--json").json["recommendations"]
    disliked = first[0]["item_id"]
    command = ["recommend", runs["popularity"], "--history", "i01", "--dislike", disliked, "-k", 3]
    done = cli(*command, "--json").json
    assert disliked not in [item["item_id"] for item in done["recommendations"]]
    assert [item["item_id"] for item in done["recommendations"]][:2] == [item["item_id"] for item in first[1:]]
    assert (done["steers"], done["dislikes_honoured"], done["new_by_steering"]) == (False, "filtered", 0)
    assert "only filtered from the list" in cli(*command).out


def test_a_steering_model_says_that_it_steered_and_at_strength_zero_that_it_did_not(
    cli: Cli, runs: dict[str, Path]
) -> None:
    command = ["recommend", runs["steerrec"], "--history", "i01,i02", "--dislike", "i04,i20", "-k", ITEMS // 3]
    done = cli(*command, "--guidance-scale", 4, "--json").json
    assert (done["steers"], done["dislikes_honoured"]) == (True, "steered")
    assert not {"i04", "i20"} & {item["item_id"] for item in done["recommendations"]}
    assert "The dislikes steered steerrec" in cli(*command, "--guidance-scale", 4).out

    off = cli(*command, "--guidance-scale", 0, "--json").json
    assert (off["dislikes_honoured"], off["new_by_steering"]) == ("filtered", 0)


def test_an_unknown_item_is_named_with_the_nearest(cli: Cli, runs: dict[str, Path]) -> None:
    for option in ("--history", "--like", "--dislike"):
        done = cli("recommend", runs["popularity"], "--history", "i01", option, "i1")
        assert done.status == 2
        assert done.err.startswith("error: Item 'i1' is not in the catalogue of 30 items. Did you mean 'i")
    assert "Item 'i1' is not in the catalogue of 30 items. Did you mean 'i" in done.err


def test_dislike_effect_is_measured_on_the_lists() -> None:
    def listed(*pairs: tuple[str, float]) -> list[dict[str, object]]:
        return [{"item_id": item, "score": score} for item, score in pairs]

    plain = listed(("a", 3.0), ("b", 2.0), ("c", 1.0), ("d", 0.5))
    b = [{"item_id": "b"}]
    assert dislike_effect(listed(("a", 3.0), ("c", 1.0)), plain, b) == Effect("filtered", 0)
    assert dislike_effect(listed(("a", 2.9), ("c", 1.0)), plain, b) == Effect("steered", 0)  # same items, other scores
    assert dislike_effect(listed(("a", 2.9), ("d", 1.1)), plain, b) == Effect("steered", 1)


def test_ids_are_split_at_commas() -> None:
    assert split_ids(["a,b", " c ,", ""]) == ["a", "b", "c"]
    assert split_ids(None) == []
    assert split_ids(['"Tea, green", 7', '" x "']) == ["Tea, green", "7", " x "]
    assert split_ids(['12" single,"say ""hi"", you"', ' , "" ']) == ['12" single', 'say "hi", you']


def test_comparison_prints_the_differences_of_the_records(cli: Cli, runs: dict[str, Path]) -> None:
    done = cli("compare", runs["popularity"], runs["steerrec"], "--metric", "recall@10", "--json")
    assert done.status == 0, done.err
    (found,) = done.json["tests"]
    means = {
        name: json.loads((run / "evaluation" / "test.json").read_text())["metrics"]["recall@10"]["mean"]
        for name, run in runs.items()
    }
    assert found["difference"] == pytest.approx(means["steerrec"] - means["popularity"])
    text = cli("compare", runs["popularity"], runs["steerrec"], "--metric", "recall@10").out
    assert f"{means['steerrec']:.4f}" in text
    assert f"{found['difference']:+.4f}" in text
    assert f"a  {runs['popularity']}" in text


def test_report_writes_the_page_it_names(cli: Cli, runs: dict[str, Path], tmp_path: Path) -> None:
    done = cli("report", *runs.values(), "--out", tmp_path / "report", "--json")
    assert done.status == 0, done.err
    assert Path(done.json["page"]).read_text(encoding="utf-8").lstrip().startswith("<!doctype html>")
    assert "steerrec:demo" in Path(done.json["table"]).read_text(encoding="utf-8")
    numbers = pl.read_csv(done.json["numbers"])
    assert set(numbers["run"]) == {str(run) for run in runs.values()}
    stored = json.loads((runs["steerrec"] / "evaluation" / "test.json").read_text())["metrics"]["recall@10"]
    (line,) = numbers.filter(recipe="steerrec:demo", metric="recall@10", seen="keep").to_dicts()
    assert {end: line[end] for end in stored} == stored
    assert len(done.json["figures"]) == len(list((tmp_path / "report").glob("*.png"))) > 2

    alone = cli("report", runs["steerrec"])
    assert f"{runs['steerrec'] / 'report' / 'index.html'}: open it in a browser." in alone.out


def test_recipes_lists_every_recipe_and_shows_one(cli: Cli) -> None:
    listed = cli("recipes", "--json").json["recipes"]
    assert set(listed) == set(registry.recipes())
    assert all(listed.values())
    shown = cli("recipes", "steerrec:demo", "--json").json
    assert shown["experiment"] == registry.recipe("steerrec:demo").to_plain()
    assert listed["steerrec:demo"] == shown["about"].splitlines()[0]
    printed = cli("recipes").out
    assert all(name in printed for name in listed)
    of_model = cli("recipes", "sasrec", "--json").json["recipes"]
    assert of_model == {name: text for name, text in listed.items() if name.startswith("sasrec:")}
    assert of_model
    (scale,) = (option for option in shown["options"] if option["path"] == "model.guidance.scale")
    assert scale["value"] == shown["experiment"]["model"]["guidance"]["scale"]
    text = " ".join(cli("recipes", "steerrec:demo", "--options").out.split())
    assert f"model.guidance.scale={scale['value']} {scale['type']} {scale['about'][:30]}" in text


def test_steering_is_measured_recorded_and_printed(cli: Cli, split: Path, runs: dict[str, Path]) -> None:
    run, before = runs["steerrec"], sorted((runs["steerrec"] / "evaluation").iterdir())
    options = ["--data", split, "--steering", "--strengths", "0,0.5", "--wish", "dislikes:item", "--wish", "likes:item"]
    done = cli("evaluate", run, *options, "--json")
    assert done.status == 0, done.err
    assert done.json == {"run": str(run), **json.loads((run / "steering" / "test.json").read_text())}
    assert [each["name"] for each in done.json["procedures"]] == ["dislikes item", "likes item"]
    assert done.json["strengths"] == [0, 0.5]
    points = done.json["procedures"][0]["points"]
    assert {point["rival"] for point in points} >= {"steering", "classifier-free", "similarity-vectors", "filter"}
    rows = pl.read_parquet(run / "steering" / "test.parquet")
    (own,) = (point for point in points if (point["rival"], point["strength"]) == ("steering", 0.5))
    kept = rows.filter(procedure="dislikes item", rival="steering", strength=0.5)
    assert own["measures"]["exposure"]["mean"] == pytest.approx(kept["exposure"].mean())
    assert sorted((run / "evaluation").iterdir()) == before
    text = cli("evaluate", run, *options).out
    assert f"{own['measures']['recall@10']['mean']:.3f}" in text
    assert {"unsteered", "steering,", "filter:"} <= set(text.split())
    assert next(line.split() for line in text.splitlines() if "own steering, w = 0.5" in line)[-1] == (
        f"{own['measures']['recall@10']['mean']:.3f}"
    ), "a point takes one line"
    shutil.rmtree(run / "steering")


def test_options_of_steering_are_checked(cli: Cli, split: Path, runs: dict[str, Path]) -> None:
    for options, message in (
        (["--strengths", "0,1"], "belong to --steering"),
        (["--steering", "--strengths", "0,x"], "Strengths are numbers with commas between them, got '0,x'"),
        (["--steering", "--strengths", "0,0"], "different numbers from 0 on"),
        (["--steering", "--wish", "dislikes:itm"], "'dislikes:itm' is no procedure. Did you mean 'dislikes:item'?"),
        (["--steering", "--wish", "dislikes:category"], "The item table has no column 'category': it has name."),
    ):
        done = cli("evaluate", runs["popularity"], "--data", split, *options)
        assert (done.status, done.out) == (2, "")
        assert message in done.err
    assert not (runs["popularity"] / "steering").exists()

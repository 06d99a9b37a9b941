"""The tables of results against records written by hand, and the committed pages against the committed records."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest

from guiderec.api import configure
from guiderec.config import override
from guiderec.errors import DataError
from guiderec.recipes.registry import recipes

ROOT = Path(__file__).resolve().parents[1]
METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"results_{name}", ROOT / "results" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


render = module("render")
reproduce = module("reproduce")
compare = module("compare")
ranks = sys.modules["ranks"]
STUDIES = reproduce.STUDIES
PUBLISHED = json.loads((ROOT / "results/published.json").read_text())

DATA = {
    "name": "amazon-beauty/user-split",
    "protocol": {"name": "user-split", "seed": None, "max_items": 11},
    "seen": "keep",
    "fingerprint": {"users": 22363, "items": 12101, "interactions": 162150, "sha256": "07" * 32},
    "split_sha256": "70" * 32,
    "rows": {"train": 17890, "valid": 2236, "test": 2237},
}


def evaluation(mean: float) -> dict[str, Any]:
    return {
        "n_rows": 2237,
        "seen": "keep",
        "catalogue": "all",
        "cutoffs": [5, 10],
        "metrics": {name: {"mean": mean, "low": mean - 0.01, "high": mean + 0.01} for name in METRICS},
    }


def record(seed: int, test: float, *, dim: int | None = None, **labelled: float) -> dict[str, Any]:
    parts = {"test": test, "valid": test + 0.001, **{f"test-{label}": mean for label, mean in labelled.items()}}
    return {
        "experiment": {"seed": seed, "model": {"name": "m", **({} if dim is None else {"dim": dim})}},
        "data": DATA,
        "environment": {"commit": "0123456789abcdef+dirty", "threads": 1, "hardware": {"cpu": "A CPU", "gpu": None}},
        "training": {"epochs": 30, "best_epoch": 20, "seconds": 600.0, "reason": "patience"},
        "evaluation": {part: evaluation(mean) for part, mean in parts.items()},
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository, not under git, with three runs: SteerRec twice, SASRec once."""
    runs = {
        "beauty-d512/steerrec-seed0": record(0, 0.030, dim=512, **{"without-png": 0.020}),
        "beauty-d512/steerrec-seed1": record(1, 0.040, dim=512, **{"without-png": 0.022}),
        "beauty-baselines/sasrec-every-position-seed0": record(0, 0.060, dim=128),
    }
    for name, content in runs.items():
        path = tmp_path / "results" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    (tmp_path / "results/published.json").write_text(json.dumps(PUBLISHED))
    (tmp_path / "README.md").write_text(f"Before\n{render.MARKS[0]}\nold\n{render.MARKS[1]}\nafter\n")
    return tmp_path


def table_rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table after a heading, without its head."""
    lines = text[text.index(heading) :].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| "))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("| "):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_numbers_of_the_page(root: Path):
    text = render.rendered(root)[root / "docs/results.md"]
    study = text[text.index("diffusion models at width 512") :]
    steerrec, ours, published_png, png = table_rows(study, "### Test")
    assert steerrec == ["SteerRec", "published (SteerRec, Table 1)", "0.0443", "0.0334", "0.0531", "0.0365"]
    assert ours[:2] == ["SteerRec", "ours, width 512, 2 seeds"]
    deviation = math.sqrt((0.005**2 + 0.005**2) / 1)
    assert ours[2:] == [f"0.0350 ± {deviation:.4f}"] * 4
    assert published_png[2:] == ["0.0393", "0.0313", "0.0474", "0.0339"]
    assert png[2] == f"0.0210 ± {statistics.stdev([0.020, 0.022]):.4f}"
    assert table_rows(study, "### Validation")[0][2].startswith("0.0360")
    assert table_rows(study, "### Single runs")[1][:3] == ["SteerRec", "1", "0.0400 (0.0300 to 0.0500)"]
    training = table_rows(study, "### Training")[0]
    assert training == ["SteerRec", "0", "20", "30 (patience)", "10 min", "A CPU, 1 threads", "`0123456789` + changes"]


def test_verdicts_follow_from_the_numbers(root: Path):
    text = render.rendered(root)[root / "docs/results.md"]
    assert "is above every number of SteerRec, Table 1 for Beauty, user split" in text
    assert "at or above it in 1 of 4 metrics" in text  # 0.035 against 0.0443, 0.0334, 0.0531, 0.0365
    assert (
        "SASRec trained on every item of a user (width 128, 1 seed) is above SteerRec (width 512, 2 seeds) in 4 of 4"
        in text
    )
    path = root / "results/beauty-baselines/sasrec-every-position-seed0.json"
    path.write_text(json.dumps(record(0, 0.030, dim=128)))
    text = render.rendered(root)[root / "docs/results.md"]
    assert "is not above the best numbers of SteerRec, Table 1" in text
    assert (
        "SASRec trained on every item of a user (width 128, 1 seed) is above SteerRec (width 512, 2 seeds) in 0 of 4"
        in text
    )
    path.write_text(json.dumps(record(0, 0.035, dim=128)))
    assert "in NDCG@5, and not in the others" in render.rendered(root)[root / "docs/results.md"]


def test_an_ablation_is_set_against_the_model_of_its_own_study(root: Path):
    wider = root / "results/beauty-d3072/steerrec-seed0.json"
    wider.parent.mkdir()
    wider.write_text(json.dumps(record(0, 0.05, dim=3072)))
    ablated = root / "results/beauty-d512/steerrec-without-gal-seed0.json"
    ablated.write_text(json.dumps(record(0, 0.045, dim=512)))
    text = render.rendered(root)[root / "docs/results.md"]
    assert "SteerRec without GAL (width 512, 1 seed) is above SteerRec (width 512, 2 seeds) in 4 of 4 metrics" in text
    assert "(width 128, 1 seed) is above SteerRec (width 3072, 1 seed) in 4 of 4 metrics" in text


def test_readme_has_neither_readings_nor_parts_of_a_model(root: Path):
    ablated = root / "results/zhihu-ablation/adigrec-g2-seed0.json"
    ablated.parent.mkdir()
    ablated.write_text(json.dumps(record(0, 0.045, dim=64)))
    texts = render.rendered(root)
    for title in ("ADIGRec: G2 alone", "SteerRec without PNG"):
        assert title in texts[root / "docs/results.md"]
        assert title not in texts[root / "README.md"]
    assert "| SteerRec | 512 |" in texts[root / "README.md"]


def test_readme_keeps_what_is_outside_the_marks(root: Path):
    text = render.rendered(root)[root / "README.md"]
    assert text.startswith(f"Before\n{render.MARKS[0]}\nBeauty, user split, test part:\n\n| Model |")
    assert text.endswith(f"\n{render.MARKS[1]}\nafter\n")
    assert "old" not in text
    with pytest.raises(ValueError, match="marks"):
        render.between_marks("no marks here", "block")


def test_same_records_same_text_and_missing_ones_are_no_error(root: Path):
    assert render.rendered(root) == render.rendered(root)
    for path in (root / "results").glob("*/*.json"):
        path.unlink()
    texts = render.rendered(root)
    assert "There are no records yet." in texts[root / "docs/results.md"]
    assert "No records yet." in texts[root / "README.md"]


def test_other_splits_are_not_set_beside_published_numbers(root: Path):
    path = root / "results/beauty-resplit/steerrec-seed0.json"
    path.parent.mkdir()
    content = record(0, 0.05, dim=4096)
    protocol = {**DATA["protocol"], "seed": 1000}  # type: ignore[dict-item]
    path.write_text(
        json.dumps({**content, "data": {**DATA, "name": "amazon-beauty/user-split-1000", "protocol": protocol}})
    )
    texts = render.rendered(root)
    page = texts[root / "docs/results.md"]
    assert [row[1] for row in table_rows(page[page.index("other user splits") :], "### Test")] == [
        "ours, width 4096, 1 seed"
    ]
    assert "4096" not in texts[root / "README.md"]


def test_a_record_under_the_name_of_another_seed_is_an_error(root: Path):
    (root / "results/beauty-d512/steerrec-seed7.json").write_text(json.dumps(record(0, 0.03, dim=512)))
    with pytest.raises(ValueError, match=r"steerrec-seed7.json: the record is of seed 0"):
        render.rendered(root)


# --- comparisons --------------------------------------------------------------------------------------------------


def recorded(path: Path, seed: int, parts: dict[str, list[int]], users: list[int] | None = None) -> Path:
    """A record with the ranks that a run directory with these gives."""
    run = path.with_name(f"run of {path.name}-{seed}")
    (run / "evaluation").mkdir(parents=True)
    for part, rank in parts.items():
        pl.DataFrame({"user": users or list(range(len(rank))), "rank": rank}).write_parquet(
            run / f"evaluation/{part}.parquet"
        )
        (run / f"evaluation/{part}.json").write_text(json.dumps(evaluation(0.5)))
    content = record(seed, 0.5)
    content["evaluation"] = {part: evaluation(0.5) for part in parts}
    file = path.with_name(f"{path.name}-seed{seed}.json")
    file.write_text(json.dumps(content))
    ranks.keep(run, file)
    return file


def found_in(comparison: dict[str, Any], metric: str) -> dict[str, dict[str, Any]]:
    return {test["b"]: test for test in comparison["tests"] if test["metric"] == metric}


def test_comparison_averages_seeds_per_row_and_takes_the_baselines_in(tmp_path: Path):
    rows = 40
    found = {0: [1 + 9 * (i % 2) for i in range(rows)], 1: [1 if i % 4 == 0 else 700 for i in range(rows)]}
    for seed in (0, 1):
        parts = {"test": found[seed], "valid": [1] * rows, "test-without-png": [2] * rows}
        recorded(tmp_path / "beauty-d512/steerrec", seed, parts)
        recorded(tmp_path / "beauty-baselines/popularity", seed, {"test": [1] * rows})
    recorded(tmp_path / "beauty-baselines/markov", 0, {"test": [1] * rows})  # a seed is missing: left out
    comparison = compare.compare("beauty-d512", tmp_path)
    facts = [comparison[fact] for fact in ("baseline", "seeds", "n_rows", "unit")]
    assert facts == ["steerrec", [0, 1], rows, "row"]
    at_5, at_10 = found_in(comparison, "recall@5"), found_in(comparison, "ndcg@10")
    assert set(at_5) == {"popularity", "steerrec/without-png"}
    assert at_5["popularity"]["difference"] == pytest.approx(1 - (0.5 + 0.25) / 2)
    tenth = 1 / math.log2(11)
    assert at_10["popularity"]["mean_a"] == pytest.approx((0.5 + 0.5 * tenth + 0.25) / 2)
    assert at_10["steerrec/without-png"]["mean_b"] == pytest.approx(1 / math.log2(3))
    p = sorted(test["p_randomisation"] for test in comparison["tests"])
    assert min(test["p_holm"] for test in comparison["tests"]) == pytest.approx(len(p) * p[0])


def test_comparison_over_other_splits_puts_rows_together(tmp_path: Path):
    users = {0: [*range(20)], 1: [*range(10, 30)]}
    for seed in (0, 1):
        recorded(tmp_path / "beauty-resplit/steerrec", seed, {"test": [90] * 20}, users[seed])
        rank = [1 if seed else 90] * 20
        recorded(tmp_path / "beauty-resplit/sasrec-every-position", seed, {"test": rank}, users[seed])
    comparison = compare.compare("beauty-resplit", tmp_path)
    assert (comparison["n_rows"], comparison["unit"]) == (40, "user")
    assert comparison["tests"][0]["difference"] == pytest.approx(0.5)


def test_comparison_needs_the_same_rows_and_ranks(tmp_path: Path):
    with pytest.raises(DataError, match="the ranks of steerrec are not kept"):
        compare.compare("beauty-d512", tmp_path)
    recorded(tmp_path / "beauty-d512/steerrec", 0, {"test": [1] * 10})
    with pytest.raises(DataError, match="nothing to compare"):
        compare.compare("beauty-d512", tmp_path)
    recorded(tmp_path / "beauty-d512/dreamrec", 0, {"test": [1] * 9})
    with pytest.raises(DataError, match="of other rows: 10 and 9"):
        compare.compare("beauty-d512", tmp_path)
    recorded(tmp_path / "beauty-d512/dreamrec-again", 0, {"test": [1] * 10})
    for suffix in (".json", ".ranks.parquet"):
        (tmp_path / f"beauty-d512/dreamrec-again-seed0{suffix}").replace(
            tmp_path / f"beauty-d512/dreamrec-seed0{suffix}"
        )
    path = tmp_path / "beauty-d512/dreamrec-seed0.json"
    assert compare.compare("beauty-d512", tmp_path)["n_rows"] == 10
    content = json.loads(path.read_text())
    content["data"]["split_sha256"] = "17" * 32
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="steerrec and dreamrec, seed 0, differ in split"):
        compare.compare("beauty-d512", tmp_path)


def test_ranks_are_kept_as_far_as_they_count_and_points_of_panels_not_at_all(tmp_path: Path):
    users = [3, 3, 9, 4]
    parts = {"test": [1, 10, 11, 12101], "test-one-step": [2, 3, 4, 5], "test-omega-0_1": [1] * 4}
    path = recorded(tmp_path / "aligndiff", 0, parts, users)
    assert ranks.kept(path) == ["test", "test-one-step"]
    found, values = ranks.read(path, "test", ["recall@10", "mrr@10"])
    assert found.tolist() == users
    assert values.tolist() == [[1, 1], [1, pytest.approx(0.1)], [0, 0], [0, 0]]
    table = pl.read_parquet(ranks.path_of(path))
    assert table["test"].to_list() == [1, 10, None, None]
    with pytest.raises(DataError, match=r"ranks end at 10, which is too early for recall@20"):
        ranks.read(path, "test", ["recall@5", "recall@20"])


def test_tests_of_runs_without_ranks_are_not_overwritten(tmp_path: Path):
    for name in ("steerrec", "dreamrec"):
        recorded(tmp_path / f"beauty-d512/{name}", 0, {"test": [1] * 10})
    comparison = compare.compare("beauty-d512", tmp_path)
    path = tmp_path / "comparisons.json"
    compare.replace(path, comparison)
    compare.replace(path, comparison)
    older = {**comparison, "tests": [*comparison["tests"], {**comparison["tests"][0], "b": "preferdiff"}]}
    for before in (older, {**comparison, "seeds": [0, 1]}):
        path.write_text(json.dumps(before))
        with pytest.raises(DataError, match=r"tests of preferdiff|the seeds \[0, 1\]"):
            compare.replace(path, comparison)
        assert json.loads(path.read_text()) == before


def test_comparison_is_rendered(root: Path):
    test = {
        "a": "steerrec", "b": "dreamrec", "metric": "recall@5", "difference": -0.0123, "low": -0.02, "high": -0.001,
        "p_randomisation": 0.0001, "p_holm": 0.0104,
    }  # fmt: skip
    comparison = {"baseline": "steerrec", "seeds": [0, 1], "n_rows": 2237, "unit": "row", "tests": [test]}
    (root / "results/beauty-d512/comparisons.json").write_text(json.dumps(comparison))
    text = render.rendered(root)[root / "docs/results.md"]
    row = ["DreamRec", "Recall@5", "-0.0123 (-0.0200 to -0.0010)", "< 0.001", "0.010"]
    assert table_rows(text, "### Paired tests") == [row]


# --- what is committed --------------------------------------------------------------------------------------------


def test_committed_pages_are_what_the_committed_records_give():
    stale = [path.name for path, text in render.rendered(ROOT).items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"{', '.join(stale)}: run `git add results && python results/render.py`"


def test_studies_name_what_exists():
    for study in STUDIES.values():
        assert set(study.joined_by) <= set(STUDIES)
        joined = {name for other in study.joined_by for name in STUDIES[other].runs}
        assert study.against is None or study.against in {*study.runs, *joined}
        assert set(study.beside) <= joined - set(study.runs)
        for run in study.runs.values():
            experiment = configure(run.recipe, dict(run.options), 0)
            for reading in run.readings.values():
                assert override(experiment, reading.options) != experiment
            for row in [
                run.published,
                *(reading.published for reading in run.readings.values()),
                *study.published.values(),
            ]:
                assert row is None or study.redrawn or row in PUBLISHED[study.data]["rows"]


def test_published_tables_are_about_a_model_with_a_run():
    for data, table in PUBLISHED.items():
        if data != "note":
            row = render.RUNS[table["model"]][1]
            assert table["rows"][row]["source"] == table["table"]
            for each in table["rows"].values():
                assert len(each["values"]) == len(each.get("metrics", table["metrics"]))


@pytest.mark.parametrize("data_set", ["zhihu", "yoochoose"])
def test_adigrecs_tables_agree_with_what_the_recipes_say(data_set: str):
    """Typed twice from the paper, here in shares and there in percent."""
    table = PUBLISHED[f"{data_set}/time-split"]
    compared = 0
    for row, found in table["rows"].items():
        if found["source"] == table["table"] and row not in ("GRU4Rec", "DuoRec"):
            names = [f"{row.lower()}:{data_set}"]
        else:
            parts = row.removesuffix(" in Table 3").lower().replace("l_reg", "reg").split(", ")
            names = [f"adigrec:{data_set}_{'_'.join(parts)}"] if found["source"] == "ADIGRec, Table 3" else []
        for name in set(names) & set(recipes()):
            text = recipes()[name].__doc__ or ""
            said = [float(number) for number in re.findall(r"\b\d+\.\d{2}\b", text)]
            said = said[: len(found["values"])]  # after them, options such as lambda_2
            assert said == pytest.approx([100 * value for value in found["values"]]), name
            compared += 1
    assert compared >= 11


def test_a_study_shows_runs_of_another_beside_its_own_and_rows_of_some_metrics(root: Path):
    def write(name: str, seed: int, mean: float) -> None:
        content = record(seed, mean, dim=64)
        content["data"] = {**DATA, "name": "zhihu/time-split"}
        content["experiment"]["training"] = {"metric": "ndcg@20"}
        for each in content["evaluation"].values():
            each["metrics"] = {
                metric: {"mean": mean, "low": mean, "high": mean} for metric in (*METRICS, "recall@20", "ndcg@20")
            }
            each["groups"] = {"history>0": {"n_rows": 1900, "metrics": {"ndcg@20": mean + 0.001}}}
            masked = {"ndcg@20": {"mean": mean + 0.002, "low": mean, "high": mean}}
            each["otherwise"] = {"seen": "mask", "metrics": masked, "groups": {}}
            if name == "zhihu/adigrec":
                measures = {"effective_routes": {"mean": 2.5}, "routing_entropy": {"mean": 0.75}}
                each["interests"] = {"k": 20, "n_interests": 1, "coverage": 0.2, "measures": measures}
        path = root / "results" / f"{name}-seed{seed}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))

    write("zhihu-ablation/adigrec-g2", 0, 0.007)
    write("zhihu/adigrec", 0, 0.010)
    write("zhihu/adigrec", 1, 0.012)
    write("zhihu/popularity", 0, 0.008)
    text = render.rendered(root)[root / "docs/results.md"]
    study = text[text.index("the parts of ADIGRec") :]
    rows = table_rows(study, "### Test")
    assert [row[0] for row in rows[1::2]] == ["ADIGRec", "ADIGRec: G2 alone"]  # each after its published row
    assert rows[1][1:3] == ["ours, width 64, 1 seed", "0.0100"]  # of the seed that the ablation has
    assert rows[2][2:] == ["–", "–", "–", "–", "0.0211", "0.0076"]
    interests = table_rows(study, "### Interests, test")
    assert interests == [["ADIGRec", "1", "1", "2.5000", "0.7500", "0.2000"]]
    groups = table_rows(study, "### Test, some of the rows")
    assert groups[1] == ["ADIGRec: G2 alone", "0.0070", "0.0080", "0.0090"]
    assert "With a history (1,900)" in study


def test_a_record_is_whole_when_it_has_all_readings_and_the_interests(tmp_path: Path):
    run = STUDIES["zhihu"].runs["adigrec"]
    assert run.interests
    content = record(0, 0.01, dim=64, **dict.fromkeys(run.readings, 0.01))
    for label in run.readings:
        content["evaluation"][f"valid-{label}"] = evaluation(0.01)
    path = tmp_path / "adigrec-seed0.json"
    assert not reproduce._complete(path, run, ("valid", "test"))
    path.write_text(json.dumps(content))
    assert not reproduce._complete(path, run, ("valid", "test"))
    content["evaluation"]["test"]["interests"] = {"k": 20}
    path.write_text(json.dumps(content))
    assert reproduce._complete(path, run, ("valid", "test"))
    del content["evaluation"]["valid-ddim-5"]
    path.write_text(json.dumps(content))
    assert not reproduce._complete(path, run, ("valid", "test"))


def test_a_study_of_some_seeds_is_compared_over_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(STUDIES, "zhihu-ablation", replace(STUDIES["zhihu-ablation"], seeds=(0,)))
    for seed in (0, 1):
        recorded(tmp_path / "zhihu/adigrec", seed, {"test": [90] * 20})
    recorded(tmp_path / "zhihu-ablation/adigrec-g2", 0, {"test": [1] * 20})
    found = compare.compare("zhihu-ablation", tmp_path)
    assert (found["baseline"], found["seeds"]) == ("adigrec", [0])
    assert found["tests"][0]["difference"] == pytest.approx(1.0)


def test_distances_between_generated_and_true_embeddings_stand_beside_the_published_ones(root: Path):
    data = {**DATA, "name": "amazon-beauty/leave-one-out", "protocol": {"name": "leave-one-out"}}
    for name, seed, mmd2, p in [("diffurec", 0, 0.0100, 0.001), ("diffurec", 1, 0.0120, 0.25), ("sasrec", 0, None, 0)]:
        content = {**record(seed, 0.05, dim=128), "data": data}
        for each in content["evaluation"].values():
            each["metrics"] |= dict.fromkeys(PUBLISHED[data["name"]]["metrics"], each["metrics"][METRICS[0]])
        if mmd2 is not None:
            content["distribution"] = {"test": {"mmd2": mmd2, "p": p}}
        path = root / "results/beauty-leave-one-out" / f"{name}-seed{seed}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    text = render.rendered(root)[root / "docs/results.md"]
    study = text[text.index("## Beauty, leave-one-out") :]
    rows = table_rows(study, "### Generated and true embeddings, test")
    assert rows == [["DiffuRec", "2", "11.00 ± 1.41", "0.250", "0.37 ± 0.05"]]


def test_a_record_is_whole_when_it_has_the_distribution_that_is_asked_for(tmp_path: Path):
    run = STUDIES["beauty-leave-one-out"].runs["aligndiff"]
    content = record(0, 0.05, **dict.fromkeys(run.readings, 0.05))
    path = tmp_path / "aligndiff-seed0.json"
    path.write_text(json.dumps(content))
    assert not reproduce._complete(path, run, ("test",))
    path.write_text(json.dumps({**content, "distribution": {"test": {"mmd2": 0.01, "p": 0.001}}}))
    assert reproduce._complete(path, run, ("test",))


def test_curves_are_means_where_every_seed_has_the_epoch(root: Path, monkeypatch: pytest.MonkeyPatch):
    study = render.STUDIES["beauty-d512"]
    for seed, values in enumerate(([0.1, 0.3, 0.2], [0.3, 0.4])):
        path = root / f"results/beauty-d512/steerrec-seed{seed}.json"
        content = json.loads(path.read_text())
        content["experiment"]["training"] = {"metric": "recall@5"}
        content["training"]["curve"] = {"metric": "recall@5", "epochs": [1, 2, 3][: len(values)], "values": values}
        path.write_text(json.dumps(content))
    text = render.rendered(root)[root / "docs/results.md"]
    assert "Validation over the epochs" not in text  # no study asks for it but those that say so
    monkeypatch.setitem(render.STUDIES, "beauty-d512", replace(study, curves=True))
    text = render.rendered(root)[root / "docs/results.md"]
    assert table_rows(text, "### Validation over the epochs") == [["SteerRec", "2", "0.2000", "0.3500", "–"]]
    content["training"]["curve"]["metric"] = "ndcg@5"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="different metrics: ndcg@5, recall@5"):
        render.rendered(root)


def test_points_of_a_figure_stand_apart_from_the_models_and_are_not_tested(root: Path, tmp_path: Path):
    name = "beauty-leave-one-out"
    aligndiff = STUDIES[name].runs["aligndiff"]
    assert "corrections-8" in aligndiff.of_seed(0).readings
    assert set(aligndiff.of_seed(1).readings) == {"one-step", "uncorrected", "unguided"}
    points = {"corrections-1": 0.040, "corrections-8": 0.035, "one-step": 0.030}
    content = record(0, 0.041, dim=128, **points)
    content["data"] = {**DATA, "name": "amazon-beauty/leave-one-out"}
    path = root / f"results/{name}/aligndiff-seed0.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    text = render.rendered(root)[root / "docs/results.md"]
    study = text[text.index("## Beauty, leave-one-out") :]
    models = {row[0] for row in table_rows(study, "### Test") if row[1].startswith("ours")}
    assert models == {"AlignDiff", "AlignDiff in one step (same weights)"}
    table = table_rows(study, "### AlignDiff, Table 6: corrections at inference")
    assert [(row[0], row[1], row[-1]) for row in table] == [
        ("1", "0.0400", "0.0813 / 0.0493"),
        ("8", "0.0350", "0.0716 / 0.0408"),
    ]
    parts = {"test": [9] * 20, "test-one-step": [1] * 20, "test-corrections-8": [1] * 20}
    recorded(tmp_path / f"kept/{name}/aligndiff", 0, parts)
    assert {test["b"] for test in compare.compare(name, tmp_path / "kept")["tests"]} == {"aligndiff/one-step"}


def test_readings_can_be_left_to_a_later_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    carried: list[tuple[str, set[str], bool]] = []

    def carry_out(run: Any, dataset: Any, parts: Any, folder: Path, record: Path, seed: int) -> None:
        carried.append((folder.name, set(run.readings), run.distribution))

    monkeypatch.setattr(reproduce, "dataset_for", lambda study, data, seed: None)
    monkeypatch.setattr(reproduce, "carry_out", carry_out)
    monkeypatch.setattr(reproduce, "HERE", tmp_path)
    command = ["reproduce.py", "toys-leave-one-out", "--data", "d", "--runs", "r", "--only", "diffurec", "--seeds", "1"]
    for more in ([], ["--no-readings"]):
        monkeypatch.setattr(sys, "argv", [*command, *more])
        reproduce.main()
    assert carried == [("diffurec-seed1", {"one-step"}, True), ("diffurec-seed1", set(), False)]

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest
from rich.console import Console

from guiderec.errors import DataError
from guiderec.report import tables
from guiderec.report.runs import read

from .conftest import FINGERPRINT, PROTOCOL, MakeRun


def metrics_on_disk(run: Path) -> dict[str, dict[str, float]]:
    return json.loads((run / "evaluation" / "test.json").read_text())["metrics"]


def test_every_number_of_the_markdown_is_the_number_on_disk(make_run: MakeRun) -> None:
    paths = [make_run("a", model="sasrec", skill=0.02), make_run("b", skill=0.06)]
    (table,) = tables.results([read(path) for path in paths])
    head, _, *body = [line for line in table.markdown().splitlines() if line.startswith("|")]
    names = [name.strip().lower() for name in head.strip("|").split("|")][1:]
    for path, line in zip(paths, body, strict=True):
        for name, cell in zip(names, line.strip("|").split("|")[1:], strict=True):
            value = metrics_on_disk(path)[name]
            found = re.fullmatch(r"\**(\d\.\d{4})\** \((\d\.\d{4})–(\d\.\d{4})\)", cell.strip())
            assert found is not None, cell
            assert list(found.groups()) == [f"{value[key]:.4f}" for key in ("mean", "low", "high")]


def test_the_terminal_shows_the_same_numbers_uncut_in_80_columns(make_run: MakeRun) -> None:
    path = make_run()
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    (table,) = tables.results([read(path)])
    console.print(table.rich())
    console.file.close()
    text = console.export_text()
    for value in metrics_on_disk(path).values():
        assert f"{value['mean']:.4f}" in text
        assert f"{value['low']:.4f}–{value['high']:.4f}" in text
    assert max(map(len, text.splitlines())) <= 80


def test_bold_is_the_highest_mean_and_only_where_there_is_a_rival(make_run: MakeRun) -> None:
    weak, strong = make_run("weak", model="sasrec", skill=0.01), make_run("strong", skill=0.08)
    (table,) = tables.results([read(weak), read(strong)])
    assert metrics_on_disk(strong)["recall@5"]["mean"] > metrics_on_disk(weak)["recall@5"]["mean"]
    assert [[cell.strong for cell in row[1:]] for row in table.rows] == [[False] * 4, [True] * 4]
    (alone,) = tables.results([read(strong)])
    assert not any(cell.strong for cell in alone.rows[0])
    assert "Bold" in table.note
    assert "Bold" not in alone.note


def test_runs_on_other_data_or_policy_never_share_a_table(make_run: MakeRun) -> None:
    same = read(make_run("a"))
    other_data = {"name": "other", "protocol": PROTOCOL, "fingerprint": {**FINGERPRINT, "sha256": "00" * 32}}
    other = read(make_run("b", model="sasrec", data=other_data))
    masked = make_run("c", model="dreamrec")
    record = json.loads((masked / "evaluation/test.json").read_text())
    (masked / "evaluation/test.json").write_text(json.dumps({**record, "seen": "mask"}))

    found = tables.results([same, other, read(masked)])
    assert [[str(row[0]) for row in table.rows] for table in found] == [
        ["steerrec:demo"],
        ["sasrec:demo"],
        ["dreamrec:demo"],
    ]
    assert "Items of the history may be recommended." in found[0].note
    assert "Items of the history are masked." in found[2].note


def test_spread_over_seeds_is_the_sample_standard_deviation(make_run: MakeRun) -> None:
    paths = [make_run(f"seed{seed}", seed=seed) for seed in range(3)]
    (table,) = tables.over_seeds([read(path) for path in [*paths, make_run("alone", model="sasrec")]])
    ((name, count, first, *_),) = table.rows
    means = [metrics_on_disk(path)["recall@5"]["mean"] for path in paths]
    assert (name.text, count.text) == ("steerrec:demo", "3")
    assert first.text == f"{sum(means) / 3:.4f}"
    assert first.detail == f"± {statistics.stdev(means):.4f}"
    assert tables.over_seeds([read(paths[0])]) == []


def test_both_treatments_of_seen_items_are_shown_where_they_are_recorded(make_run: MakeRun) -> None:
    paths = [make_run(f"seed{seed}", seed=seed, both_ways=True) for seed in range(2)]
    runs = [read(path) for path in [*paths, make_run("before", model="sasrec")]]
    (kept,), (masked,) = tables.results(runs), tables.otherwise(runs)
    assert kept.caption.endswith("400 rows, seen items kept")
    assert masked.caption.endswith("400 rows, seen items masked")
    assert "Items of the history are masked." in masked.note
    assert [str(row[0]) for row in masked.rows] == ["steerrec:demo (seed 0)", "steerrec:demo (seed 1)"]
    means = []
    for path, row in zip(paths, masked.rows, strict=True):
        value = json.loads((path / "evaluation" / "test.json").read_text())["otherwise"]["metrics"]["recall@5"]
        assert value["mean"] > metrics_on_disk(path)["recall@5"]["mean"]
        assert row[1].text == f"{value['mean']:.4f}"
        means.append(value["mean"])
    main, other = tables.over_seeds(runs)
    assert main.caption.endswith("seen items kept")
    assert other.caption.endswith("seen items masked")
    assert other.rows[0][2].text == f"{statistics.fmean(means):.4f}"
    assert tables.otherwise(runs[2:]) == []


def test_the_same_weights_under_other_options_stand_below_what_was_trained(make_run: MakeRun) -> None:
    run = make_run("a", model="sasrec")
    (plain,) = tables.results([read(run)])
    assert tables.other_options([read(run)]) == []
    record = json.loads((run / "evaluation" / "test.json").read_text())
    for label, changes in (("Off", {"model.guidance.scale": "0"}), ("masked", {"seen": "mask"}), ("again", {})):
        other = {**record, "overrides": {} if "seen" in changes else changes, "seen": changes.get("seen", "keep")}
        (run / "evaluation" / f"test-{label}.json").write_text(json.dumps(other))
    kept, masked = tables.other_options([read(run)])
    assert [row[0].text for row in kept.rows] == ["as trained", "Off: model.guidance.scale=0", "again"]
    assert all(row[1:] == kept.rows[0][1:] for row in kept.rows)
    assert [cell.text for cell in kept.rows[0][1:]] == [cell.text for cell in plain.rows[0][1:]]
    assert [row[0].text for row in masked.rows] == ["masked"]
    assert kept.caption == f"{read(run).name} under other options. {plain.caption}"
    long = tables.numbers([read(run)])
    assert [line["label"] for line in long[:: len(metrics_on_disk(run))]] == ["", "Off", "again", "masked"]
    assert {
        line["metric"]: {end: line[end] for end in ("mean", "low", "high")} for line in long if not line["label"]
    } == (metrics_on_disk(run))
    assert {line["seen"] for line in long if line["label"] == "masked"} == {"mask"}
    (alone,) = tables.results([read(run)], "test-Off")
    assert alone.caption.startswith("Test part, Off, of planted/user-split")


def test_discrepancies_are_in_thousandths_with_their_spread_over_seeds(make_run: MakeRun) -> None:
    values = {"steerrec": [0.33e-3, 0.37e-3], "dreamrec": [-0.02e-3]}
    paths = [
        make_run(f"{model}{seed}", model=model, seed=seed, mmd2=value, n_rows=20)
        for model, side in values.items()
        for seed, value in enumerate(side)
    ]
    (table,) = tables.distributions([read(path) for path in [*paths, make_run("without", model="sasrec")]])
    assert [(row[0].text, row[1].text, row[2].text, row[3].text) for row in table.rows[:3]] == [
        ("steerrec:demo (seed 0)", "0.330", "0.001", "1.250"),
        ("steerrec:demo (seed 1)", "0.370", "0.001", "1.250"),
        ("dreamrec:demo", "-0.020", "0.001", "1.250"),
    ]
    (spread,) = table.rows[3:]
    assert (spread[0].text, spread[1].text) == ("steerrec:demo, 2 seeds", "0.350")
    assert spread[1].detail == f"± {1e3 * statistics.stdev(values['steerrec']):.3f}"
    assert table.caption.endswith("20 rows")
    assert "×10⁻³" in table.markdown()
    assert tables.distributions([read(make_run("none", model="markov"))]) == []


def test_discrepancies_of_other_rows_never_share_a_table(make_run: MakeRun) -> None:
    runs = [read(make_run("a", mmd2=0.1, n_rows=20)), read(make_run("b", model="sasrec", mmd2=0.1, n_rows=21))]
    assert [[row[0].text for row in table.rows] for table in tables.distributions(runs)] == [
        ["steerrec:demo"],
        ["sasrec:demo"],
    ]


def test_beyond_accuracy_and_a_metric_that_one_run_lacks(make_run: MakeRun) -> None:
    full, short = make_run("a"), make_run("b", model="sasrec")
    record = json.loads((short / "evaluation/test.json").read_text())
    del record["metrics"]["ndcg@10"], record["beyond"]
    (short / "evaluation/test.json").write_text(json.dumps(record))
    (results,) = tables.results([read(full), read(short)])
    assert [cell.text for cell in results.rows[1]][-1] == "–"
    (beyond,) = tables.beyond([read(full), read(short)])
    assert [cell.text for cell in beyond.rows[0]] == ["steerrec:demo", "0.3100", "9.2500", "0.0040"]
    assert [cell.text for cell in beyond.rows[1]] == ["sasrec:demo", "–", "–", "–"]
    assert beyond.columns == ("Run", "Coverage@10 (share)", "Novelty@10 (bits)", "Popularity@10 (percentile, 0–1)")
    assert beyond.note.startswith("Coverage: the share of the catalogue")
    assert "0.5 for lists by chance" in beyond.note


def test_what_is_not_recorded_is_not_explained(make_run: MakeRun) -> None:
    run = make_run("a")
    record = json.loads((run / "evaluation/test.json").read_text())
    record["beyond"] = {"coverage@10": 0.5, "surprise@10": 1.0}
    (run / "evaluation/test.json").write_text(json.dumps(record))
    (beyond,) = tables.beyond([read(run)])
    assert beyond.columns == ("Run", "Coverage@10 (share)", "Surprise@10")
    assert beyond.note == "Coverage: the share of the catalogue that is in anybody's list."


def test_a_metric_that_one_run_alone_has_is_not_the_best_of_anything(make_run: MakeRun) -> None:
    """Beside a run without NDCG@10, the one value of the column was bold."""
    full, short = make_run("a"), make_run("b", model="sasrec")
    record = json.loads((short / "evaluation/test.json").read_text())
    del record["metrics"]["ndcg@10"]
    (short / "evaluation/test.json").write_text(json.dumps(record))
    (table,) = tables.results([read(full), read(short)])
    strong = [any(row[column].strong for row in table.rows) for column in range(1, 5)]
    assert dict(zip(table.columns[1:], strong, strict=True)) == {
        "Recall@5": True,
        "NDCG@5": True,
        "Recall@10": True,
        "NDCG@10": False,
    }


def test_without_an_evaluation_the_error_says_what_to_run(make_run: MakeRun) -> None:
    run = read(make_run(parts=("valid",)))
    with pytest.raises(DataError, match=r"No evaluation of the test part in .* Hint: run `guiderec evaluate` first"):
        tables.results([run], "test")
    assert tables.results([run], "valid")[0].caption.startswith("Valid part of planted/user-split, 400 rows")


def test_a_pipe_in_a_name_does_not_break_the_markdown_table(make_run: MakeRun) -> None:
    (table,) = tables.results([read(make_run(model="odd|name"))])
    row = table.markdown().splitlines()[4]
    assert row.startswith("| odd\\|name:demo | ")
    assert len(re.findall(r"(?<!\\)\|", row)) == 6


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "unknown"), (0.25, "0.2 s"), (59.9, "59.9 s"), (75.2, "1 min 15 s"), (3599.7, "1 h 00 min")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert tables.duration(seconds) == text


def test_equal_gpus_are_counted() -> None:
    assert tables.describe_gpu(["NVIDIA H200", "NVIDIA H200"]) == "2 x NVIDIA H200"
    assert tables.describe_gpu(None) is None


def test_metric_titles_and_protocols() -> None:
    assert [tables.title(name) for name in ("recall@5", "ndcg@10", "mrr", "coverage@10")] == [
        "Recall@5",
        "NDCG@10",
        "MRR",
        "Coverage@10",
    ]
    assert tables.describe_protocol({"name": "leave_one_out", "seen": "mask", "min": 5}) == (
        "leave_one_out (seen=mask, min=5)"
    )


def test_latex_has_the_cells_of_the_markdown_and_escapes_what_latex_reads_otherwise(make_run: MakeRun) -> None:
    (table,) = tables.results([read(make_run("a")), read(make_run("b", seed=1, skill=0.2))])
    latex = table.latex()
    assert latex.startswith("\\begin{table}\n")
    assert latex.endswith("\\end{table}\n")
    rows = [line.removesuffix(" \\\\").split(" & ") for line in latex.splitlines() if line.endswith(" \\\\")]
    assert {len(row) for row in rows} == {len(table.columns)}
    plain = [[re.sub(r"\\(textbf|scriptsize) ?|[{}]", "", cell).replace("--", "–") for cell in row] for row in rows]
    assert plain[1:] == [[str(cell) for cell in row] for row in table.rows]
    assert latex.count("\\textbf") == sum(cell.strong for row in table.rows for cell in row)

    odd = tables.Table(
        "50 % of a_b & c", ("#", "±²"), ((tables.Cell("{x}^~\\$<>|"), tables.Cell("1.0 ×10⁻³", "± 2")),), "–"
    )
    text = odd.latex()
    assert "\\caption{50 \\% of a\\_b \\& c}" in text
    assert "\\# & $\\pm$\\textsuperscript{2} \\\\" in text
    assert (
        "\\{x\\}\\textasciicircum{}\\textasciitilde{}\\textbackslash{}\\$\\textless{}\\textgreater{}\\textbar{}" in text
    )
    assert "1.0 $\\times$10\\textsuperscript{$-$}\\textsuperscript{3} {\\scriptsize ($\\pm$ 2)}" in text
    assert "{\\footnotesize --}" in text


def test_every_letter_of_the_tables_can_be_set_by_latex(make_run: MakeRun) -> None:
    """What is left after escaping is ASCII or a letter: LaTeX has no signs such as those of superscripts."""
    runs = [read(make_run("a", both_ways=True, mmd2=0.001)), read(make_run("b", seed=1, both_ways=True, mmd2=0.002))]
    kinds = (tables.results, tables.otherwise, tables.over_seeds, tables.beyond, tables.distributions)
    text = "".join(table.latex() for kind in kinds for table in kind(runs)) + tables.provenance(runs).latex()
    assert {letter for letter in text if ord(letter) > 127 and not letter.isalpha()} == set()

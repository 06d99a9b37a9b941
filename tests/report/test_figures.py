from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest

from guiderec.report import figures
from guiderec.report.figures import DARK, LIGHT
from guiderec.report.runs import read

from .conftest import FINGERPRINT, PROTOCOL, MakeRun


def pixels(png: bytes) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(png), format="png")[..., :3]


def colour(text: str) -> np.ndarray:
    return np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def share_of(png: bytes, text: str) -> float:
    return float((np.abs(pixels(png) - colour(text)).max(axis=-1) < 0.01).mean())


def contrast(a: str, b: str) -> float:
    """WCAG 2.1 contrast ratio."""

    def luminance(text: str) -> float:
        c = colour(text)
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_and_series_can_be_read_on_their_paper(theme: figures.Theme) -> None:
    assert contrast(theme.ink, theme.paper) >= 7  # WCAG AAA text
    assert contrast(theme.muted, theme.paper) >= 4.5  # WCAG AA text
    assert min(contrast(each, theme.paper) for each in theme.series) >= 3  # WCAG graphics


def test_loss_of_an_epoch_weighs_events_by_the_steps_they_cover() -> None:
    events = [
        {"epoch": 1, "step": 30, "loss": 1.0},
        {"epoch": 1, "step": 40, "loss": 5.0},
        {"epoch": 2, "step": 50, "loss": 3.0},
    ]
    x, y = figures.loss_by(events, "loss", "epoch")
    assert x.tolist() == [1, 2]
    assert y.tolist() == pytest.approx([(30 * 1 + 10 * 5) / 40, 3.0])
    x, y = figures.loss_by(events, "loss", "step")
    assert x.tolist() == [30, 40, 50]
    assert y.tolist() == pytest.approx([1, 5, 3])


def test_curves_name_the_best_validation(make_run: MakeRun) -> None:
    run = read(make_run(epochs=12))
    best = max(run.events("validation"), key=lambda event: event["metrics"]["recall@5"])
    picture = figures.training_curves(run, "mine")
    assert picture is not None
    assert picture.name == "curves-mine"
    assert f"best at epoch {best['epoch']}: {best['metrics']['recall@5']:.4f}" in picture.alt
    for series in LIGHT.series[:3]:  # loss, its two parts; the validation shares the third colour
        assert share_of(picture.light, series) > 0


def test_the_legend_of_the_losses_covers_no_curve(make_run: MakeRun) -> None:
    """It was put where matplotlib found most room, and with three curves there was none: it lay on one of them."""
    figure, (panel,) = figures._panels(1, 1, height=3.5)
    flat = {name: (np.arange(1.0, 9), np.full(8, level)) for name, level in (("loss", 3.0), ("a", 2.0), ("b", 1.0))}
    with figures._style(LIGHT):
        figures._draw_losses(panel, flat, LIGHT)
    panel.set_xlabel("Epoch")
    figure.canvas.draw()
    legend = panel.get_legend().get_window_extent()
    assert not legend.overlaps(panel.get_window_extent())
    assert not legend.overlaps(panel.xaxis.label.get_window_extent())
    assert legend.y0 >= 0


def test_figures_of_two_data_sets_say_which_they_are_of(make_run: MakeRun) -> None:
    other = {"name": "other", "protocol": PROTOCOL, "fingerprint": {**FINGERPRINT, "sha256": "00" * 32}}
    options = {"n_rows": 30, "mmd2": 0.1}
    runs = [read(make_run("a", **options)), read(make_run("b", data=other, **options))]
    for kind in (figures.metric_bars, figures.clouds, figures.coverage):
        captions = [picture.caption for picture in kind(runs)]
        assert "planted/user-split" in captions[0]
        assert "other" in captions[1]
    curves = [figures.training_curves(run, "same") for run in runs]
    histograms = [figures.rank_histogram(run, "same") for run in runs]
    for first, second in (curves, histograms):
        assert first is not None
        assert second is not None
        assert first.caption != second.caption


def test_a_model_fitted_in_one_pass_has_no_curves(make_run: MakeRun) -> None:
    assert figures.training_curves(read(make_run(model="popularity", epochs=0)), "pop") is None


def test_short_training_is_drawn_by_step(make_run: MakeRun) -> None:
    picture = figures.training_curves(read(make_run(epochs=2)), "short")
    assert picture is not None
    assert "by step 40" in picture.alt


def test_bars_state_every_value_and_the_theme_fills_the_paper(make_run: MakeRun) -> None:
    runs = [read(make_run("a", model="sasrec", skill=0.02)), read(make_run("b", skill=0.06))]
    (picture,) = figures.metric_bars(runs)
    for run in runs:
        for metric in ("recall@5", "ndcg@5", "recall@10", "ndcg@10"):
            assert f"{run.evaluations['test'].metrics[metric]['mean']:.4f}" in picture.alt
    assert share_of(picture.light, LIGHT.paper) > 0.5
    assert share_of(picture.dark, DARK.paper) > 0.5
    assert share_of(picture.light, LIGHT.series[0]) > 0.005
    assert share_of(picture.light, LIGHT.series[1]) > 0.005


def test_longer_bars_for_higher_values(make_run: MakeRun) -> None:
    """The area of a series colour grows with its value: the drawing follows the numbers, not only the alt text."""
    runs = [read(make_run("a", model="sasrec", skill=0.01)), read(make_run("b", skill=0.08))]
    (picture,) = figures.metric_bars(runs)
    values = [run.evaluations["test"].metrics["recall@5"]["mean"] for run in runs]
    areas = [share_of(picture.light, LIGHT.series[i]) for i in range(2)]
    assert values[1] > 2 * values[0]
    assert areas[1] > 2 * areas[0]


def test_rank_bins_cover_every_rank_once() -> None:
    edges = figures.rank_edges(1200)
    assert edges == [1, 2, 6, 11, 21, 51, 101, 201, 501, 1001]
    bins = [*edges, 1201]
    assert sum(high - low for low, high in pairwise(bins)) == 1200
    assert figures.rank_edges(1) == [1]


def test_rank_histogram_counts_what_the_rows_say(make_run: MakeRun) -> None:
    run = read(make_run(skill=0.05))
    ranks = run.evaluations["test"].ranks
    picture = figures.rank_histogram(run, "mine")
    assert picture is not None
    assert f"{100 * sum(r <= 10 for r in ranks) / len(ranks):.1f} % in the first 10" in picture.caption
    assert f"median rank {np.median(ranks):,.0f} of 1,200" in picture.caption


def test_clouds_show_every_run_in_its_colour_beside_the_true_vectors(make_run: MakeRun) -> None:
    runs = [read(make_run(m, model=m, mmd2=v, n_rows=30)) for m, v in (("diffurec", 0.4e-3), ("aligndiff", 0.3e-3))]
    (picture,) = figures.clouds([*runs, read(make_run("without", model="sasrec"))])
    assert picture.name == "clouds"
    assert "30 rows of the test part" in picture.alt
    assert "diffurec:demo 0.400, aligndiff:demo 0.300" in picture.alt
    for theme, png in ((LIGHT, picture.light), (DARK, picture.dark)):  # the markers of the legend are opaque
        assert all(share_of(png, each) > 0 for each in (theme.muted, theme.series[0], theme.series[1]))
        assert share_of(png, theme.series[2]) == 0
    assert pixels(picture.light).shape[0] > 1.7 * pixels(figures.clouds(runs[:1])[0].light).shape[0]  # a row per run
    assert figures.clouds([read(make_run("none"))]) == []


def test_clouds_of_other_rows_are_another_figure(make_run: MakeRun) -> None:
    runs = [read(make_run("a", mmd2=0.1, n_rows=20)), read(make_run("b", model="sasrec", mmd2=0.1, n_rows=21))]
    assert [picture.name for picture in figures.clouds(runs)] == ["clouds", "clouds-2"]


def test_coverage_states_the_overlap_of_every_run_and_draws_items_under_generated_vectors(make_run: MakeRun) -> None:
    runs = [read(make_run(m, model=m, mmd2=0.1, n_rows=30)) for m in ("dimerec", "adigrec")]
    (picture,) = figures.coverage([*runs, read(make_run("without", model="sasrec"))])
    assert picture.name == "coverage"
    assert "30 generated vectors of the test part and 30 items" in picture.alt
    overlaps = [float(value) for value in re.findall(r"rec:demo (\d\.\d\d)", picture.alt)]
    assert len(overlaps) == 2
    assert max(overlaps) < 0.5  # generated on the other side of the origin
    for theme, png in ((LIGHT, picture.light), (DARK, picture.dark)):
        assert all(share_of(png, each) > 0 for each in (theme.muted, theme.series[0], theme.series[1]))
        assert share_of(png, theme.series[2]) == 0
    assert figures.coverage([read(make_run("none"))]) == []


def test_headline_metrics_are_recall_and_ndcg_at_the_two_smallest_cutoffs() -> None:
    recorded = ["mrr@10", "ndcg@20", "recall@20", "recall@5", "ndcg@5", "recall@10", "ndcg@10"]
    assert figures.headline(recorded, set(recorded)) == ["recall@5", "ndcg@5", "recall@10", "ndcg@10"]
    assert figures.headline(["mrr@10"], {"mrr@10"}) == ["mrr@10"]


def test_drawing_changes_no_global_setting(make_run: MakeRun) -> None:
    before = dict(mpl.rcParams)
    figures.metric_bars([read(make_run())])
    assert dict(mpl.rcParams) == before


def test_report_imports_neither_torch_nor_pyplot() -> None:
    code = (
        "import sys, guiderec.report.page, guiderec.report.figures; "
        "print([name for name in ('torch', 'matplotlib.pyplot') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_slug() -> None:
    assert figures.slug("steerrec:demo (seed 0)") == "steerrec-demo-seed-0"
    assert figures.slug("???") == "run"


# ------------------------------------------------------------------------------------------- one number, many values


def evaluated_under(path: Path, label: str, overrides: dict[str, object], mean: float) -> None:
    """Another evaluation of the test part of a run, in which every metric has this mean."""
    record = json.loads((path / "evaluation" / "test.json").read_text())
    record["overrides"] = overrides
    record["metrics"] = {name: {"mean": mean, "low": mean - 0.01, "high": mean + 0.01} for name in record["metrics"]}
    (path / "evaluation" / f"test-{label}.json").write_text(json.dumps(record))


def test_values_of_one_number_are_a_sweep_with_the_trained_value(make_run: MakeRun) -> None:
    path = make_run("a")
    for label, value in (("d8", "8"), ("d128", 128), ("d32", "32.0")):
        evaluated_under(path, label, {"model.dim": value}, 0.1)
    (sweep,) = figures.sweeps(read(path), "test")
    assert (sweep.option, dict(sweep.fixed), sweep.trained) == ("model.dim", {}, 64)
    assert list(sweep.points.items()) == [(8.0, "test-d8"), (32.0, "test-d32"), (64.0, "test"), (128.0, "test-d128")]


def test_what_else_was_changed_keeps_sweeps_apart(make_run: MakeRun) -> None:
    path = make_run("a")
    for value in (1, 2, 4):
        evaluated_under(path, f"one-{value}", {"model.dim": value, "model.sampler": "ddim"}, 0.1)
        evaluated_under(path, f"two-{value}", {"model.dim": value, "model.sampler": "ddpm"}, 0.1)
    assert not any(sweep.option == "model.sampler" for sweep in figures.sweeps(read(path), "test"))
    one, two = figures.sweeps(read(path), "test")
    assert (dict(one.fixed), dict(two.fixed)) == ({"model.sampler": "ddim"}, {"model.sampler": "ddpm"})
    assert one.trained is None  # the run itself has another sampler
    evaluated_under(path, "plain", {"model.sampler": "ddim"}, 0.1)
    one, two = figures.sweeps(read(path), "test")
    assert (one.trained, one.points[64.0], two.trained) == (64.0, "test-plain", None)
    names = [picture.name for picture in figures.option_curves([read(path)])]
    assert len(set(names)) == 2


def test_two_values_words_and_other_rows_are_no_sweep(make_run: MakeRun) -> None:
    path = make_run("a")
    evaluated_under(path, "d8", {"model.dim": 8}, 0.1)
    for word in ("x", "y", "true"):
        evaluated_under(path, word, {"model.kind": word}, 0.1)
    assert figures.sweeps(read(path), "test") == []
    evaluated_under(path, "d16", {"model.dim": 16}, 0.1)
    assert len(figures.sweeps(read(path), "test")) == 1
    record = json.loads((path / "evaluation" / "test-d16.json").read_text())
    (path / "evaluation" / "test-d16.json").write_text(json.dumps({**record, "seen": "mask"}))
    assert figures.sweeps(read(path), "test") == []


def test_the_curve_shows_the_numbers_of_the_records(make_run: MakeRun) -> None:
    path = make_run("a")
    for value, mean in ((8, 0.123), (16, 0.456), (400, 0.789)):
        evaluated_under(path, f"d{value}", {"model.dim": value}, mean)
    (picture,) = figures.option_curves([read(path)])
    trained = json.loads((path / "evaluation" / "test.json").read_text())["metrics"]["recall@5"]["mean"]
    assert "dim 8: Recall@5 0.1230" in picture.alt
    assert f"dim 64: Recall@5 {trained:.4f}" in picture.alt
    assert "marked, the value they were trained with" in picture.caption
    assert picture.light != picture.dark

"""Figures over runs: training curves, metrics with intervals, ranks of the targets. Each comes in two themes.

Drawn on `matplotlib.figure.Figure` without pyplot, so no global state changes and no display is needed.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from guiderec.errors import ConfigError
from guiderec.report import steering
from guiderec.report.runs import Event, Run, labels
from guiderec.report.tables import comparable, data_name, measured_together, subject, title

if TYPE_CHECKING:
    from guiderec.report.projections import Coverage, Projection

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator, PercentFormatter
except ImportError:  # the only module that needs it
    raise ConfigError("Figures need matplotlib.", hint="pip install 'guiderec[plots]'") from None

DPI = 160
WIDTH = 8.4
"""Inches. At 160 dots per inch a figure is twice the width of the column it is shown in: sharp on dense screens."""


@dataclass(frozen=True)
class Theme:
    """Colours of a figure. The series colours are told apart under the common colour-vision deficiencies."""

    paper: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]


LIGHT = Theme(
    "#ffffff",
    "#1f2328",
    "#656d76",
    "#e3e6ea",
    ("#0069a8", "#c7500b", "#0b7a5b", "#a8437f", "#8a6100", "#4c4fb8", "#4d5a66", "#b3261e"),
)
DARK = Theme(
    "#15191f",
    "#e6e9ed",
    "#99a1ab",
    "#2b323b",
    ("#5cb3ec", "#f29558", "#4cc79e", "#e391c2", "#dcb13f", "#a3a6ff", "#b4bfca", "#ff8a80"),
)


@dataclass(frozen=True)
class Picture:
    """A figure to put on a page: file stem, text for those who do not see it, caption, and the PNG in both themes."""

    name: str
    alt: str
    caption: str
    light: bytes
    dark: bytes


def training_curves(run: Run, name: str) -> Picture | None:
    """Loss parts and validation metric by epoch (by step where there are fewer than three epochs).

    None when no step is recorded (a model fitted in one pass).
    """
    losses, validations = run.events("step"), run.events("validation")
    if not losses:
        return None
    axis = "epoch" if len({event.get("epoch") for event in validations or losses}) >= 3 else "step"
    parts = _loss_parts(losses, axis)
    x, y, metric = _validation_curve(validations, run.metric, axis)

    def draw(theme: Theme) -> Figure:
        figure, (left, right) = _panels(1, 2, height=3.1 + 0.2 * -(-len(parts) // 2))
        _draw_losses(left, parts, theme)
        _draw_validation(right, x, y, metric, theme)
        for panel in (left, right):
            panel.set_xlabel(axis.capitalize())
            panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return figure

    alt = f"Training of {name}. {_describe_losses(parts, axis)} {_describe_validation(x, y, metric, axis)}".strip()
    caption = (
        f"{name} on {data_name(run)}: loss and its parts as means over steps; the marked validation is the one whose "
        "weights were kept."
    )
    return _picture(f"curves-{slug(name)}", alt, caption, draw)


def metric_bars(runs: Sequence[Run], part: str = "test") -> list[Picture]:
    """Means with their 95 % intervals, one panel per metric, one figure for each set of comparable runs.

    Runs without any metric in common have none.
    """
    return [
        _metric_figure(group, names, part, number)
        for number, (group, names) in enumerate(comparable(runs, part))
        if _shared(run.evaluations[part].metrics for run in group)
    ]


def _shared(records: Iterable[Mapping[str, Any]]) -> set[str]:
    """The metrics that all records have."""
    return set.intersection(*map(set, records))


def option_curves(runs: Sequence[Run], part: str = "test") -> list[Picture]:
    """Metrics over the values of one number that the same weights were evaluated under, with 95 % intervals.

    A figure for each run and each option of which three or more values were evaluated with everything else the same;
    `guiderec evaluate --set OPTION=VALUE --label NAME` makes them.
    """
    pictures: list[Picture] = []
    for run, name in zip(runs, labels(runs), strict=True):
        for sweep in sweeps(run, part):
            stem = f"options-{slug(name)}-{slug(sweep.option)}"
            again = sum(picture.name.startswith(stem) for picture in pictures)
            pictures.append(_option_figure(run, name, sweep, part, f"{stem}-{again + 1}" if again else stem))
    return pictures


@dataclass(frozen=True)
class Sweep:
    """Evaluations of one run that differ in one number alone."""

    option: str
    """Its dotted path."""
    fixed: Mapping[str, Any]
    """What else was changed, in all of them."""
    points: Mapping[float, str]
    """Value -> name of the evaluation, values rising."""
    trained: float | None
    """The value that the run was trained with, where it is one of the points."""


def sweeps(run: Run, part: str) -> list[Sweep]:
    """Every number that was varied alone, at three or more values."""
    changes = {
        name: dict(evaluation.record.get("overrides") or {})
        for name, evaluation in run.evaluations.items()
        if name == part or name.startswith(f"{part}-")
    }
    found: dict[str, dict[float, str]] = {}
    facts: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, changed in changes.items():
        for option, given in changed.items():
            value = _as_number(given)
            if value is not None:
                rest = {path: other for path, other in changed.items() if path != option}
                key = json.dumps([option, sorted(rest.items(), key=str), run.comparable(name)])
                facts[key] = (option, rest)
                found.setdefault(key, {})[value] = name
    whole = []
    for key, (option, rest) in facts.items():
        points, trained = found[key], _as_number(_at(run.experiment, option))
        as_trained = next((name for name, changed in changes.items() if changed == rest), None)
        if trained is not None and as_trained is not None and run.comparable(as_trained) == json.loads(key)[2]:
            points.setdefault(trained, as_trained)
        if len(points) > 2:
            kept = trained if trained in points else None
            whole.append(Sweep(option, rest, dict(sorted(points.items())), kept))
    return whole


def _at(plain: Any, path: str) -> Any:
    """What stands at a dotted path of plain data; None where nothing does."""
    for step in path.split("."):
        plain = plain.get(step) if isinstance(plain, Mapping) else None
    return plain


def _as_number(value: Any) -> float | None:
    """A number, or text that a command line gave for one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _option_figure(run: Run, name: str, sweep: Sweep, part: str, stem: str) -> Picture:
    values = list(sweep.points)
    records = [run.evaluations[each].metrics for each in sweep.points.values()]
    metrics = headline(list(records[0]), _shared(records))
    short = " ".join(sweep.option.split(".")[1:][-2:]).replace("_", " ")  # model.guidance.scale: guidance scale
    places = np.arange(len(values)) if _grows_by_factors(values) else np.array(values)

    def draw(theme: Theme) -> Figure:
        rows = -(-len(metrics) // 2)
        figure, panels = _panels(rows, min(len(metrics), 2), height=2.3 * rows)
        for panel, metric in zip(panels, metrics, strict=False):
            mean, low, high = ([record[metric][end] for record in records] for end in ("mean", "low", "high"))
            panel.fill_between(places, low, high, color=theme.series[0], alpha=0.18, linewidth=0)
            panel.plot(places, mean, color=theme.series[0], linewidth=2.0, marker="o", markersize=5)
            if sweep.trained is not None:
                at = values.index(sweep.trained)
                panel.plot(places[at], mean[at], "o", color=theme.series[1], markersize=8, markeredgecolor=theme.paper)
            panel.set_xticks(places, [f"{value:g}" for value in values])
            panel.set_title(title(metric), loc="left")
            panel.set_xlabel(short.capitalize())
            panel.grid(axis="y")
        for panel in panels[len(metrics) :]:
            panel.remove()
        return figure

    facts = "; ".join(
        f"{short} {value:g}: " + ", ".join(f"{title(metric)} {record[metric]['mean']:.4f}" for metric in metrics)
        for value, record in zip(values, records, strict=True)
    )
    fixed = ", ".join(f"{path}={value}" for path, value in sweep.fixed.items())
    caption = "".join(
        [
            f"{name} over {sweep.option}: the same weights at each value",
            f", with {fixed}" if fixed else "",
            "; marked, the value they were trained with" if sweep.trained is not None else "",
            ". Bands: 95 % intervals of each mean; `guiderec compare` tells whether two values differ on these rows.",
        ]
    )
    return _picture(stem, f"Curves on the {part} part. {facts}.", caption, draw)


def _grows_by_factors(values: Sequence[float]) -> bool:
    """Whether places at equal distances show the values better than places in proportion."""
    gaps = np.diff(values)
    return bool(gaps.max() > 4 * gaps.min())


def rank_histogram(run: Run, name: str, part: str = "test") -> Picture | None:
    """Share of rows by rank of the target, beside the share under a random order. None without kept rows."""
    ranks = run.evaluations[part].ranks if part in run.evaluations else np.empty(0, dtype=np.int64)
    if not len(ranks):
        return None
    n_items = max(int((run.data.get("fingerprint") or {}).get("items", 0)), int(ranks.max()))
    edges = rank_edges(n_items)
    share = np.histogram(ranks, bins=[*edges, np.inf])[0] / len(ranks)
    chance = np.diff([*edges, n_items + 1]) / n_items
    texts = [_range_text(low, high) for low, high in zip(edges, [*edges[1:], n_items + 1], strict=True)]

    def draw(theme: Theme) -> Figure:
        figure, (panel,) = _panels(1, 1, height=2.9)
        at = np.arange(len(edges))
        panel.bar(at, share, width=0.72, color=theme.series[0], label="this run")
        panel.hlines(chance, at - 0.44, at + 0.44, color=theme.paper, linewidth=3.6)
        panel.hlines(chance, at - 0.44, at + 0.44, color=theme.ink, linewidth=1.6, label="random order")
        panel.set_xticks(at, texts)
        panel.tick_params(axis="x", labelsize=8 if len(edges) <= 12 else 7, length=0)
        panel.set_xlabel("Rank of the target (1 is the top)")
        panel.set_title("Share of rows", loc="left")
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.legend(loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=2, borderaxespad=0.0)  # clear of any bar
        panel.grid(axis="y")
        return figure

    places = {1: "at rank 1", 10: "in the first 10", 100: "in the first 100"}
    top = [f"{100 * np.mean(ranks <= k):.1f} % {place}" for k, place in places.items() if k < n_items]
    caption = (
        f"Where {name} puts the targets of {len(ranks):,} rows of {data_name(run)}: {', '.join([*top, ''])}"
        f"median rank {np.median(ranks):,.0f} of {n_items:,}."
    )
    alt = f"Histogram of the ranks of the targets of {name} on the {part} part, beside a random order."
    return _picture(f"ranks-{slug(name)}", alt, caption, draw)


def clouds(runs: Sequence[Run], part: str = "test") -> list[Picture]:
    """True beside generated vectors, by PCA and by t-SNE: one row of panels per run, one figure for each set of rows.

    The true vectors are those of the run itself: two models have two tables of items. Both clouds of a panel share its
    axes, and every panel of a figure shows the same rows. No figure where no run kept its vectors.

    Raises ConfigError when scikit-learn is missing.
    """
    pictures: list[Picture] = []
    for group, names in measured_together(runs, part):
        kept = [(run, name) for run, name in zip(group, names, strict=True) if run.distributions[part].vectors]
        if kept:
            pictures.append(_cloud_figure([run for run, _ in kept], [name for _, name in kept], part, len(pictures)))
    return pictures


def coverage(runs: Sequence[Run], part: str = "test") -> list[Picture]:
    """Densities of the generated vectors over those of all items, in the t-SNE of both: a panel for each run.

    One figure for each set of rows; none where no run kept vectors. Raises ConfigError when scikit-learn is missing.
    """
    pictures: list[Picture] = []
    for group, names in measured_together(runs, part):
        kept = {name: run for run, name in zip(group, names, strict=True) if run.distributions[part].vectors}
        if kept:
            pictures.append(_coverage_figure(list(kept.values()), list(kept), part, len(pictures)))
    return pictures


def steering_curves(run: Run, name: str, part: str = "test") -> list[Picture]:
    """For each procedure: exposure of the group against accuracy and overlap, and every measure over strength."""
    return [
        _steering_figure(run, procedure, name, record)
        for record in steering.records(run, part)
        for procedure in run.steering[record]["procedures"]
    ]


def rank_edges(n_items: int) -> list[int]:
    """First ranks of the bins: 1, 2, 6, 11, 21, 51, 101, ... as far as there are items.

    >>> rank_edges(60)
    [1, 2, 6, 11, 21, 51]
    """
    edges = [1, 2, 6]
    for power in range(1, 12):
        edges += [step * 10**power + 1 for step in (1, 2, 5)]
    return [edge for edge in edges if edge <= n_items]


def slug(name: str) -> str:
    """A file name for a label: letters, digits and hyphens."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split()) or "run"


def loss_by(events: Sequence[Event], part: str, axis: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of one loss part at each value of `axis`, weighted by the steps that each event covers."""
    sums: dict[int, float] = {}
    weights: dict[int, float] = {}
    before = 0
    for event in events:
        steps = max(int(event["step"]) - before, 1)
        before = int(event["step"])
        if part in event and event[part] is not None:
            at = int(event[axis])
            sums[at] = sums.get(at, 0.0) + steps * float(event[part])
            weights[at] = weights.get(at, 0.0) + steps
    at_values = sorted(sums)
    return np.array(at_values, dtype=float), np.array([sums[at] / weights[at] for at in at_values])


Curves = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]

_NOT_LOSSES = {"event", "epoch", "step", "seconds", "learning_rate", "gradient_norm", "time"}


def _loss_parts(events: Sequence[Event], axis: str) -> Curves:
    names = dict.fromkeys(
        key for event in events for key, value in event.items() if key not in _NOT_LOSSES and isinstance(value, float)
    )
    ordered = sorted(names, key=lambda name: name != "loss")
    return {name: loss_by(events, name, axis) for name in ordered}


def _validation_curve(
    events: Sequence[Event], metric: str | None, axis: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    measured = [event for event in events if event.get("metrics")]
    if not measured:
        return np.empty(0), np.empty(0), ""
    recorded = measured[0]["metrics"]
    name = metric if metric in recorded else next(iter(recorded))
    used = [event for event in measured if name in event["metrics"]]
    x = np.array([float(event[axis]) for event in used])
    return x, np.array([float(event["metrics"][name]) for event in used]), str(name)


def _draw_losses(panel: Axes, parts: Curves, theme: Theme) -> None:
    panel.set_title("Training loss", loc="left")
    panel.grid(axis="y")
    if not parts:
        _say(panel, "no loss recorded", theme)
        return
    for (name, (x, y)), colour in zip(parts.items(), _cycle(theme), strict=False):
        width = 2.0 if name == "loss" else 1.4
        panel.plot(x, y, color=colour, linewidth=width, label=name.replace("_", " "), marker="o" if len(x) == 1 else "")
    values = np.concatenate([y for _, y in parts.values()])
    if len(values) and values.min() > 0 and values.max() / values.min() > 30:
        panel.set_yscale("log")
        panel.set_title("Training loss (log scale)", loc="left")
    if len(parts) > 1:
        _legend_below(panel)


def _legend_below(panel: Axes) -> None:
    """Under the label of the axis, where no curve can be."""
    panel.legend(loc="upper left", bbox_to_anchor=(0.0, -0.2), ncols=2, borderaxespad=0.0)


def _draw_validation(panel: Axes, x: NDArray[np.float64], y: NDArray[np.float64], metric: str, theme: Theme) -> None:
    panel.grid(axis="y")
    if not len(x):
        panel.set_title("Validation", loc="left")
        _say(panel, "no validation recorded", theme)
        return
    panel.set_title(f"Validation {title(metric)}", loc="left")
    best = int(y.argmax())
    panel.plot(x, y, color=theme.series[2], linewidth=2.0)
    panel.plot(x[best], y[best], "o", color=theme.series[2], markersize=7, markeredgecolor=theme.paper)
    panel.margins(y=0.22)
    right = x[best] > (x[0] + x[-1]) / 2
    panel.annotate(
        f"best {y[best]:.4f}",
        (x[best], y[best]),
        xytext=(-4 if right else 4, 8),
        textcoords="offset points",
        ha="right" if right else "left",
        color=theme.ink,
        fontweight="bold",
    )


def _metric_figure(runs: list[Run], names: list[str], part: str, number: int) -> Picture:
    records = [run.evaluations[part].metrics for run in runs]
    metrics = headline(list(records[0]), _shared(records))
    per_row = min(len(metrics), 2)
    rows = -(-len(metrics) // per_row)

    def draw(theme: Theme) -> Figure:
        figure, panels = _panels(rows, per_row, height=rows * (0.75 + 0.34 * len(runs)), sharey=True)
        for panel, metric in zip(panels, metrics, strict=False):
            _draw_metric(panel, [record[metric] for record in records], names, theme)
            panel.set_title(title(metric), loc="left")
        for panel in panels[len(metrics) :]:
            panel.remove()
        return figure

    facts = "; ".join(
        f"{name}: " + ", ".join(f"{title(metric)} {record[metric]['mean']:.4f}" for metric in metrics)
        for name, record in zip(names, records, strict=True)
    )
    suffix = f"-{number + 1}" if number else ""
    whole = subject(runs[0], runs[0].evaluations[part].record, part)
    alt = f"Bars with 95 % intervals. {whole}. {facts}."
    caption = f"{whole}: means with their 95 % intervals, as in the table."
    return _picture(f"metrics{suffix}", alt, caption, draw)


def headline(metrics: Sequence[str], allowed: set[str]) -> list[str]:
    """At most four metrics that carry the message: recall and NDCG at the two smallest cutoffs that are recorded."""
    usable = [metric for metric in metrics if metric in allowed]
    wanted = [metric for metric in usable if metric.partition("@")[0] in ("recall", "ndcg") and "@" in metric]
    cutoffs = sorted({int(metric.partition("@")[2]) for metric in wanted})
    picked = [f"{name}@{cutoff}" for cutoff in cutoffs[:2] for name in ("recall", "ndcg")]
    return [metric for metric in picked if metric in wanted] or usable[:4]


def _draw_metric(panel: Axes, values: Sequence[Mapping[str, float]], names: Sequence[str], theme: Theme) -> None:
    at = np.arange(len(values))
    mean = np.array([value["mean"] for value in values])
    low = np.array([value["low"] for value in values])
    high = np.array([value["high"] for value in values])
    panel.barh(at, mean, height=0.62, color=[colour for colour, _ in zip(_cycle(theme), values, strict=False)])
    for colour, width in ((theme.paper, 3.4), (theme.ink, 1.3)):  # a halo, since ink on a bar may be hard to see
        panel.hlines(at, low, high, color=colour, linewidth=width)
        for edge in (low, high):
            panel.vlines(edge, at - 0.12, at + 0.12, color=colour, linewidth=width)
    for i, value in enumerate(mean):
        panel.annotate(f"{value:.4f}", (high[i], i), xytext=(5, 0), textcoords="offset points", va="center")
    panel.set_yticks(at, names)
    panel.set_ylim(len(values) - 0.45, -0.55)
    panel.set_xlim(0, max(float(high.max()), 1e-9) * 1.22)
    panel.tick_params(axis="y", length=0)
    panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.grid(axis="x")


def _cloud_figure(runs: list[Run], names: list[str], part: str, number: int) -> Picture:
    from guiderec.report import projections  # scikit-learn takes a second to import, and few reports need it

    rows = []
    for run in runs:
        vectors = run.distributions[part].vectors
        index = projections.sample(vectors["key"])
        pair = vectors["items"][vectors["target"][index]], vectors["generated"][index]
        rows.append([project(*pair) for project in (projections.pca, projections.tsne)])

    def draw(theme: Theme) -> Figure:
        figure, panels = _panels(len(runs), 2, height=4.1 * len(runs))
        drawn = [(name, c, p) for name, c, row in zip(names, _cycle(theme), rows, strict=False) for p in row]
        for panel, (name, colour, projection) in zip(panels, drawn, strict=True):
            _draw_clouds(panel, projection, colour, theme)
            panel.set_title(f"{name}: {projection.name}", loc="left")
        return figure

    count = len(rows[0][0].true)
    values = ", ".join(
        f"{name} {1e3 * run.distributions[part].record['mmd2']:.3f}" for name, run in zip(names, runs, strict=True)
    )
    alt = (
        f"Generated and true vectors of {count:,} rows of the {part} part, projected by PCA and t-SNE. "
        f"MMD² in thousandths: {values}."
    )
    caption = (
        f"Directions of the generated vectors and of the true vectors of the same {count:,} rows of the {part} part of "
        f"{data_name(runs[0])}. Each run in its own embeddings; both clouds of a panel in one projection. Distances "
        "between clusters mean nothing in t-SNE."
    )
    return _picture(f"clouds{f'-{number + 1}' if number else ''}", alt, caption, draw)


def _draw_clouds(panel: Axes, projection: Projection, colour: str, theme: Theme) -> None:
    """Points of the two clouds in turn, so that neither lies on top of the other."""
    n = len(projection.true)
    points = np.stack([projection.true, projection.generated], axis=1).reshape(2 * n, 2)
    panel.scatter(points[:, 0], points[:, 1], s=9, c=[theme.muted, colour] * n, alpha=0.65, linewidths=0)
    panel.set_xticks([])
    panel.set_yticks([])
    if any(projection.axes):
        panel.set_aspect("equal", adjustable="datalim")  # distances mean something
        panel.set_xlabel(projection.axes[0])
        panel.set_ylabel(projection.axes[1])
    else:  # the place of the label is free for the legend, which holds for the whole row
        keys = [panel.scatter([], [], s=28, color=each) for each in (theme.muted, colour)]
        panel.legend(keys, ["true", "generated"], loc="upper right", bbox_to_anchor=(1.0, 0.0), ncols=2)


def _coverage_figure(runs: list[Run], names: list[str], part: str, number: int) -> Picture:
    from guiderec.report import projections

    found = []
    for run in runs:
        vectors = run.distributions[part].vectors
        items, rows = vectors["items"][1:], projections.sample(vectors["key"])
        chosen = projections.sample(np.arange(1, len(items) + 1), projections.ITEMS)
        found.append(projections.coverage(items[chosen], vectors["generated"][rows]))
    columns = min(2, len(runs))

    def draw(theme: Theme) -> Figure:
        lines = -(-len(runs) // columns)
        figure, panels = _panels(lines, columns, height=4.4 * lines)
        for panel, name, colour, each in zip(panels, names, _cycle(theme), found, strict=False):
            _draw_coverage(panel, each, colour, theme)
            panel.set_title(f"{name}: overlap {each.overlap:.2f}", loc="left")
        for panel in panels[len(runs) :]:
            panel.remove()
        return figure

    facts = ", ".join(f"{name} {each.overlap:.2f}" for name, each in zip(names, found, strict=True))
    counts = f"{len(rows):,} generated vectors of the {part} part and {len(chosen):,} items"
    alt = f"Densities of {counts}, in their t-SNE. Mass that the two densities share: {facts}."
    caption = (
        f"{data_name(runs[0])}: Gaussian kernel densities of {counts}, by directions, in the t-SNE of both: grey the "
        "items, lines the generated vectors. Overlap is the mass that the two densities share. Generated vectors "
        "should lie where targets are, not evenly over the catalogue, so that a larger overlap is not better in itself."
    )
    return _picture(f"coverage{f'-{number + 1}' if number else ''}", alt, caption, draw)


def _draw_coverage(panel: Axes, found: Coverage, colour: str, theme: Theme) -> None:
    """Items as filled contours, generated vectors as lines: equal steps of each density, up to its own maximum."""
    steps = np.linspace(0.08, 1.0, 8)
    filled = LinearSegmentedColormap.from_list("items", [theme.grid, theme.muted])
    panel.contourf(found.x, found.y, found.items, levels=steps * found.items.max(), cmap=filled)
    widths = np.linspace(0.7, 1.8, len(steps) - 1)
    panel.contour(
        found.x, found.y, found.generated, levels=steps[:-1] * found.generated.max(), colors=colour, linewidths=widths
    )
    panel.set_xticks([])
    panel.set_yticks([])
    keys = [panel.scatter([], [], s=28, color=each) for each in (theme.muted, colour)]
    panel.legend(keys, ["items", "generated"], loc="upper right", bbox_to_anchor=(1.0, 0.0), ncols=2)


def _steering_figure(run: Run, procedure: Mapping[str, Any], name: str, record: str) -> Picture:
    where, label = steering.where(record), record.partition("-")[2]
    recall = f"recall@{procedure['cutoff']}"
    known = {point["rival"]: point for point in procedure["points"]}
    rivals = [rival for rival in steering.RIVALS if rival in known and rival != steering.UNSTEERED]
    honoured = steering.honoured_title(procedure)
    better = "higher" if procedure["procedure"]["name"] == "likes" else "lower"
    panels = [(title(recall), recall, True), ("Overlap of the rest", "overlap", True)]
    panels += [(honoured, honoured, False), ("Exposure of the group", "exposure", False)]
    panels += [(title(recall), recall, False), ("Overlap of the rest", "overlap", False)]

    def draw(theme: Theme) -> Figure:
        figure, axes = _panels(3, 2, height=8.6)
        for panel, (heading, measure, pareto) in zip(axes, panels, strict=True):
            for rival in rivals:
                _draw_rival(panel, procedure, rival, measure, pareto, theme)
            start = _steered_value(procedure, known[steering.UNSTEERED], measure)
            if pareto:
                at = known[steering.UNSTEERED]["measures"]["exposure"]["mean"]
                panel.plot(at, start, "*", color=theme.ink, markersize=11, label="unsteered", zorder=4)
                panel.set_xlabel(f"Exposure of the group ({better} honours more)")
            else:
                panel.axhline(start, color=theme.ink, linewidth=1, linestyle=":", zorder=1)
                panel.set_xlabel("Strength w")
            panel.set_title(heading, loc="left")
            panel.grid(axis="both" if pareto else "y")
            panel.margins(0.06, 0.08)
        strengths = sorted({p["strength"] for p in procedure["points"] if p["strength"] is not None})
        for panel in axes[2:]:
            panel.set_xticks(range(len(strengths)), [f"{w:g}" for w in strengths])
        handles, texts = axes[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside upper left", ncols=3)
        return figure

    best = {rival: _steered_value(procedure, known[rival], recall) for rival in rivals}  # at the largest strength
    facts = "; ".join(f"{steering.RIVALS[rival]}: {value:.4f}" for rival, value in best.items())
    alt = f"Steering of {name}, {procedure['name']}, {where}. {title(recall)} at the largest strength: {facts}."
    caption = (
        f"{procedure['name'].capitalize()}, {name}, {where}, of {data_name(run)}. Above: what it costs to change the "
        "exposure of the group, a marker for each strength, larger for a larger one. Below: each measure over "
        "strength. Dotted: the unsteered list."
    )
    return _picture("steering-" + slug(f"{procedure['name']} {label}"), alt, caption, draw)


def _draw_rival(
    panel: Axes, procedure: Mapping[str, Any], rival: str, measure: str, pareto: bool, theme: Theme
) -> None:
    """One curve over exposure, or over the number of the strength; a rival without strength is a cross or a line."""
    order = [each for each in steering.RIVALS if each != steering.UNSTEERED]  # a rival keeps its colour in every figure
    colour = theme.series[order.index(rival)]
    points = [point for point in procedure["points"] if point["rival"] == rival]
    y = [_steered_value(procedure, point, measure) for point in points]
    x = [point["measures"]["exposure"]["mean"] for point in points] if pareto else list(range(len(points)))
    label = steering.RIVALS[rival]
    if points[0]["strength"] is None:
        if pareto:
            panel.plot(x, y, "X", color=colour, markersize=8, markeredgecolor=theme.paper, label=label, zorder=3)
        else:
            panel.axhline(y[0], color=colour, linewidth=1.4, linestyle="--")
        return
    panel.plot(x, y, color=colour, linewidth=1.6, label=label, marker="" if pareto else "o", markersize=4)
    if pareto:
        panel.scatter(x, y, s=np.linspace(6, 42, len(points)), color=colour, zorder=3, linewidths=0)


def _steered_value(procedure: Mapping[str, Any], point: Mapping[str, Any], measure: str) -> float:
    if measure == steering.honoured_title(procedure):
        return steering.share_honoured(procedure, point)["mean"]
    return float(point["measures"].get(measure, {"mean": np.nan})["mean"])


def _panels(rows: int, columns: int, *, height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    return figure, list(axes.flat)


def _say(panel: Axes, text: str, theme: Theme) -> None:
    panel.text(0.5, 0.5, text, transform=panel.transAxes, ha="center", va="center", color=theme.muted)


def _describe_losses(parts: Curves, axis: str) -> str:
    if "loss" not in parts or not len(parts["loss"][0]):
        return ""
    x, y = parts["loss"]
    return f"The loss goes from {y[0]:.4g} to {y[-1]:.4g} by {axis} {x[-1]:.0f}."


def _describe_validation(x: NDArray[np.float64], y: NDArray[np.float64], metric: str, axis: str) -> str:
    if not len(x):
        return ""
    best = int(y.argmax())
    return f"Validation {title(metric)} is best at {axis} {x[best]:.0f}: {y[best]:.4f}."


def _range_text(low: int, high: int) -> str:
    """Ranks low..high-1 as a label of two lines; from ten thousand on shortened: `10k–` over `20k`."""
    last = high - 1
    return _short(low) if last == low else f"{_short(low)}–\n{_short(last)}"


def _short(rank: int) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if rank >= 10 * min(size, 1_000) and rank >= size:
            return f"{rank / size:.3g}{letter}"
    return str(rank)


def _cycle(theme: Theme) -> Iterator[str]:
    while True:
        yield from theme.series


def _picture(name: str, alt: str, caption: str, draw: Callable[[Theme], Figure]) -> Picture:
    return Picture(name, alt, caption, light=_render(draw, LIGHT), dark=_render(draw, DARK))


def _render(draw: Callable[[Theme], Figure], theme: Theme) -> bytes:
    buffer = io.BytesIO()
    with _style(theme):
        draw(theme).savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def _style(theme: Theme) -> Iterator[None]:
    settings: dict[str, Any] = {
        "figure.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "axes.facecolor": theme.paper,
        "axes.edgecolor": theme.muted,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlecolor": theme.ink,
        "axes.labelcolor": theme.muted,
        "axes.labelsize": 9,
        "text.color": theme.ink,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.ink,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "ytick.left": False,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "legend.facecolor": theme.paper,
        "legend.edgecolor": theme.paper,
        "legend.framealpha": 1.0,
        "legend.fontsize": 8.5,
        "font.family": "DejaVu Sans",
        "font.size": 8.5,
    }
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        yield

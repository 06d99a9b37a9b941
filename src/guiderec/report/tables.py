"""Tables over runs, for people (rich, HTML) and files (Markdown, LaTeX). Every number is read from a run's records."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import rich.box
import rich.table
import rich.text

from guiderec.errors import DataError
from guiderec.report.runs import Run, labels

_TITLES = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "hr": "HR", "map": "MAP"}


@dataclass(frozen=True)
class Cell:
    """A value with an optional detail beside it, such as its interval."""

    text: str
    detail: str = ""
    strong: bool = False

    def __str__(self) -> str:
        return f"{self.text} ({self.detail})" if self.detail else self.text


@dataclass(frozen=True)
class Table:
    """A caption, column names, rows of cells (the first column names the row) and a note."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """GitHub markdown: caption, table, note."""
        head = "| " + " | ".join(map(_escape, self.columns)) + " |"
        rule = "|---|" + "---:|" * (len(self.columns) - 1)
        body = ["| " + " | ".join(map(_markdown_cell, row)) + " |" for row in self.rows]
        parts = [f"**{_escape(self.caption)}**", "\n".join([head, rule, *body]), _escape(self.note)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def latex(self) -> str:
        r"""A `table` for LaTeX with booktabs: caption, rows, note. Intervals are smaller than what they are about."""
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(self.caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
            r"\toprule",
            " & ".join(map(_latex, self.columns)) + r" \\",
            r"\midrule",
            *(" & ".join(map(_latex_cell, row)) + r" \\" for row in self.rows),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        if self.note:
            lines += [r"\par\smallskip", rf"{{\footnotesize {_latex(self.note)}}}"]
        return "\n".join([*lines, r"\end{table}"]) + "\n"

    def rich(self, *, details: bool = True) -> rich.table.Table:
        """The same table for a terminal; without `details` a row takes one line where there is room."""
        shown = rich.table.Table(
            title=rich.text.Text(self.caption, style="bold"),
            caption=rich.text.Text(self.note, style="dim") if self.note else None,
            title_justify="left",
            caption_justify="left",
            box=rich.box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        for number, name in enumerate(self.columns):
            shown.add_column(rich.text.Text(name), justify="right" if number else "left", overflow="fold")
        for row in self.rows:
            shown.add_row(*(_rich_cell(cell if details else replace(cell, detail="")) for cell in row))
        return shown


def results(runs: Sequence[Run], part: str = "test") -> list[Table]:
    """Metrics with intervals, one table for each set of comparable runs; the highest mean of a column is strong.

    Raises DataError when no run has an evaluation of `part`.
    """
    return [_results_table(group, names, part) for group, names in comparable(runs, part)]


def otherwise(runs: Sequence[Run], part: str = "test") -> list[Table]:
    """`results` under the other treatment of seen items, where it was recorded."""
    tables = []
    for group, names in comparable(runs, part):
        records = {
            name: {**evaluation.record, **evaluation.otherwise}
            for name, evaluation in zip(names, (run.evaluations[part] for run in group), strict=True)
            if evaluation.otherwise
        }
        if records:
            tables.append(_table_of(group[0], list(records.values()), list(records), part))
    return tables


def other_options(runs: Sequence[Run], part: str = "test") -> list[Table]:
    """What the same weights reach under other options (`guiderec evaluate --label`), one table for each run with any.

    The evaluation of the run itself comes first, where it was made under the same treatment of seen items.
    """
    tables = []
    for run, name in zip(runs, labels(runs), strict=True):
        kinds: dict[str, list[str]] = defaultdict(list)
        for each in sorted(run.evaluations):  # the part itself comes first
            if each == part or each.startswith(f"{part}-"):
                kinds[run.comparable(each)].append(each)
        for same in kinds.values():
            if same == [part]:
                continue
            records = [run.evaluations[each].record for each in same]
            names = ["as trained" if each == part else each.removeprefix(f"{part}-") for each in same]
            words = [_settings(record.get("overrides") or {}) for record in records]
            names = [f"{label}: {options}" if options else label for label, options in zip(names, words, strict=True)]
            table = _table_of(run, records, names, part)
            tables.append(replace(table, caption=f"{name} under other options. {table.caption}"))
    return tables


def groups(runs: Sequence[Run], part: str = "test") -> list[Table]:
    """The means over all rows, over those with a history, those whose target training shows, and those with both.

    One table for each set of comparable runs; none where every row has both.
    """
    tables = []
    for group, names in comparable(runs, part):
        records = [run.evaluations[part].record for run in group]
        if any(record.get("groups") for record in records):
            tables.append(_groups_table(group[0], records, names, part))
    return tables


def over_seeds(runs: Sequence[Run], part: str = "test") -> list[Table]:
    """Mean and standard deviation (n - 1) over runs that differ in the seed alone; no table without a repeated run.

    A second table has the other treatment of seen items, where every repeated run recorded it.
    """
    tables = []
    for group, _ in comparable(runs, part):
        repeated = [same for same in _by_experiment(group).values() if len(same) > 1]
        if repeated:
            evaluations = [[run.evaluations[part] for run in same] for same in repeated]
            main = [[evaluation.record for evaluation in same] for same in evaluations]
            tables.append(_seeds_table(repeated, main, part))
            if all(evaluation.otherwise for same in evaluations for evaluation in same):
                other = [[{**e.record, **e.otherwise} for e in same] for same in evaluations]
                tables.append(_seeds_table(repeated, other, part))
    return tables


def beyond(runs: Sequence[Run], part: str = "test") -> list[Table]:
    """What the lists are like apart from being right: coverage, novelty, popularity. None where nothing is recorded."""
    tables = []
    for group, names in comparable(runs, part):
        records = [run.evaluations[part].record.get("beyond") or {} for run in group]
        columns = _union(records)
        if columns:
            rows = [
                (Cell(name), *(_number(record.get(column)) for column in columns))
                for name, record in zip(names, records, strict=True)
            ]
            caption = f"Beyond accuracy. {subject(group[0], group[0].evaluations[part].record, part)}"
            note = " ".join(_BEYOND[kind].about for kind in _BEYOND if kind in map(_kind, columns))
            tables.append(Table(caption, ("Run", *map(_with_unit, columns)), tuple(rows), note))
    return tables


def distributions(runs: Sequence[Run], part: str = "test") -> list[Table]:
    """How near generated vectors are to the true ones, one table for each set of runs on the same rows.

    Runs whose vectors were not measured on `part` are left out; no table where there are no others.
    """
    return [_distribution_table(group, names, part) for group, names in measured_together(runs, part)]


def numbers(runs: Sequence[Run], part: str = "test") -> list[dict[str, Any]]:
    """Every metric of `part` in long form: one line for each run, label, treatment of seen items and metric."""
    return [
        {
            "run": str(run.path),
            "recipe": run.name,
            "seed": run.seed,
            "part": part,
            "label": each.removeprefix(part).removeprefix("-"),
            "seen": record.get("seen"),
            "metric": metric,
            **{end: value[end] for end in ("mean", "low", "high")},
            "n_rows": run.evaluations[each].record.get("n_rows"),
        }
        for run in runs
        for each in sorted(run.evaluations)
        if each == part or each.startswith(f"{part}-")
        for record in (run.evaluations[each].record, run.evaluations[each].otherwise)
        for metric, value in record.get("metrics", {}).items()
    ]


def provenance(runs: Sequence[Run]) -> Table:
    """Where the numbers come from: data, seed, hardware, versions, time. One row per run."""
    columns = ("Run", "Data", "Seed", "Hardware", "GuideRec", "Commit", "Training time")
    rows = [
        (Cell(name), *(Cell(text) for text in _provenance_row(run)))
        for name, run in zip(labels(runs), runs, strict=True)
    ]
    return Table("Provenance", columns, tuple(rows))


def comparable(runs: Sequence[Run], part: str) -> list[tuple[list[Run], list[str]]]:
    """Runs with their labels, in groups whose numbers answer the same question; runs without `part` are left out."""
    names = labels(runs)
    groups: dict[str, list[int]] = defaultdict(list)
    for i, run in enumerate(runs):
        if part in run.evaluations:
            groups[run.comparable(part)].append(i)
    if not groups:
        where = ", ".join(str(run.path) for run in runs)
        raise DataError(f"No evaluation of the {part} part in {where}.", hint="run `guiderec evaluate` first.")
    return [([runs[i] for i in group], [names[i] for i in group]) for group in groups.values()]


def measured_together(runs: Sequence[Run], part: str) -> list[tuple[list[Run], list[str]]]:
    """Runs with their labels whose vectors were measured on the same rows of `part`; the others are left out."""
    names = labels(runs)
    groups: dict[str, list[int]] = defaultdict(list)
    for i, run in enumerate(runs):
        if part in run.distributions:
            facts = [run.data.get("fingerprint"), run.data.get("protocol"), run.distributions[part].record["n_rows"]]
            groups[json.dumps(facts, sort_keys=True)].append(i)
    return [([runs[i] for i in group], [names[i] for i in group]) for group in groups.values()]


def data_name(run: Run) -> str:
    """The name of the data that a run was trained and evaluated on."""
    return str(run.data.get("name", "unnamed data"))


def subject(run: Run, record: Mapping[str, Any], part: str) -> str:
    """What an evaluation is of: `Test part of beauty/user-split, 2,237 rows, seen items kept`."""
    where = f"{_where(part)} of {data_name(run)}"
    return f"{where[0].upper()}{where[1:]}, {record.get('n_rows', 0):,} rows{_seen_words(record)}"


def title(metric: str) -> str:
    """`recall@5` as it is printed: `Recall@5`."""
    name, at, cutoff = metric.partition("@")
    return _TITLES.get(name, name.capitalize()) + at + cutoff


def describe_protocol(protocol: Mapping[str, Any]) -> str:
    """A protocol on one line: its name, then its settings."""
    settings = _settings({key: value for key, value in protocol.items() if key != "name"})
    return f"{protocol.get('name', 'unnamed')} ({settings})" if settings else str(protocol.get("name", "unnamed"))


def describe_gpu(gpu: Sequence[str] | str | None) -> str | None:
    """The GPUs of a machine, equal ones counted: `2 x NVIDIA H200`; None without one."""
    counts = Counter([gpu] if isinstance(gpu, str) else gpu or [])
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items()) or None


def duration(seconds: float | None) -> str:
    """`75.2` -> `1 min 15 s`."""
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _results_table(runs: list[Run], names: list[str], part: str) -> Table:
    return _table_of(runs[0], [run.evaluations[part].record for run in runs], names, part)


def _table_of(run: Run, records: Sequence[Mapping[str, Any]], names: Sequence[str], part: str) -> Table:
    """The metrics of `records`, evaluations that answer the same question as that of `run`."""
    measured = [record["metrics"] for record in records]
    metrics = _union(measured)
    means = {metric: [each[metric]["mean"] for each in measured if metric in each] for metric in metrics}
    best = {metric: max(values) for metric, values in means.items() if len(values) > 1}
    rows = [
        (Cell(name), *(_interval(each.get(metric), best.get(metric)) for metric in metrics))
        for name, each in zip(names, measured, strict=True)
    ]
    first = records[0]
    bold = "Bold: highest mean of the column." if best else ""
    note = " ".join(text for text in (_interval_note(first), _seen_note(first), bold) if text)
    return Table(subject(run, first, part), ("Run", *map(title, metrics)), tuple(rows), note)


@dataclass(frozen=True)
class _Measure:
    """The unit of a measure beyond accuracy, and what it is."""

    unit: str
    about: str


_BEYOND = {
    "coverage": _Measure("share", "Coverage: the share of the catalogue that is in anybody's list."),
    "novelty": _Measure(
        "bits", "Novelty: -log2 of the share of the training events that a listed item has, mean over listed items."
    ),
    "popularity": _Measure(
        "percentile, 0–1",
        "Popularity: percentile of a listed item by its training events, mean over listed items: near 0 for the "
        "rarest, near 1 for the most frequent, 0.5 for lists by chance.",
    ),
}
"""Of `evaluation.beyond_accuracy`."""


def _kind(metric: str) -> str:
    return metric.partition("@")[0]


def _with_unit(metric: str) -> str:
    """`Novelty@10 (bits)`."""
    known = _BEYOND.get(_kind(metric))
    return f"{title(metric)} ({known.unit})" if known else title(metric)


_GROUPS = {"history>0": "with a history", "warm target": "target in training", "history>0, warm target": "with both"}


def _groups_table(run: Run, records: Sequence[Mapping[str, Any]], names: Sequence[str], part: str) -> Table:
    metrics = _union(record["metrics"] for record in records)
    rows = []
    for name, record in zip(names, records, strict=True):
        means = {metric: value["mean"] for metric, value in record["metrics"].items()}
        kept = {"all": {"n_rows": record["n_rows"], "metrics": means}, **(record.get("groups") or {})}
        for label, found in kept.items():
            share = f"{found['n_rows'] / record['n_rows']:.1%}"
            values = (_number(found["metrics"].get(metric)) for metric in metrics)
            rows.append((Cell(name), Cell(_GROUPS.get(label, label)), Cell(f"{found['n_rows']:,}", share), *values))
    caption = f"By kind of row, {_where(part)} of {data_name(run)}{_seen_words(records[0])}"
    return Table(caption, ("Run", "Rows", "Number", *map(title, metrics)), tuple(rows), _ceiling_note(records[0]))


def _ceiling_note(record: Mapping[str, Any]) -> str:
    """How many targets training shows; where all items compete, what this bounds for a model of item ids alone."""
    warm = (record.get("groups") or {}).get("warm target")
    if warm is None:
        return ""
    shown = f"Training shows the targets of {warm['n_rows'] / record['n_rows']:.1%} of the rows."
    if record.get("catalogue") == "candidates":
        return (
            f"{shown} This is no bound on recall here: every target competes with the candidates of its own row alone, "
            "among which even an order by chance finds it now and then."
        )
    return (
        f"{shown} A model of item ids alone finds the others by luck only: its recall cannot be much above this share."
    )


def _distribution_table(runs: list[Run], names: list[str], part: str) -> Table:
    records = [run.distributions[part].record for run in runs]
    rows = [
        (
            Cell(name),
            Cell(_thousandths(record["mmd2"])),
            Cell(f"{record['p']:.3f}"),
            Cell(f"{record['median_distance']:.3f}"),
            Cell(str(record.get("interests", 1))),
        )
        for name, record in zip(names, records, strict=True)
    ]
    for same in _by_experiment(runs).values():
        if len(same) > 1:
            values = [1e3 * run.distributions[part].record["mmd2"] for run in same]
            spread = Cell(f"{statistics.fmean(values):.3f}", f"± {statistics.stdev(values):.3f}")
            rows.append((Cell(f"{same[0].name}, {len(same)} seeds"), spread, Cell("–"), Cell("–"), Cell("–")))
    caption = f"Generated beside true vectors, {_where(part)} of {data_name(runs[0])}, {records[0]['n_rows']:,} rows"
    note = (
        "MMD²: unbiased squared maximum mean discrepancy of directions, in thousandths; 0 for equal distributions. "
        "p: of equality. Every run in its own embeddings. `guiderec compare --distribution` tests over seeds."
    )
    return Table(caption, ("Run", "MMD² (×10⁻³)", "p", "Median distance", "Interests"), tuple(rows), note)


def _thousandths(value: float) -> str:
    return f"{1e3 * value:.3f}"


def _interval_note(record: Mapping[str, Any]) -> str:
    interval = record.get("interval") or {}
    kind = f"{100 * interval.get('level', 0.95):.0f} % {interval.get('method', '')} interval".replace("  ", " ")
    return f"Ranges: {kind} over {interval.get('unit', 'row')}s of the evaluation; the spread over seeds is not in it."


def _seen_words(record: Mapping[str, Any]) -> str:
    return {"keep": ", seen items kept", "mask": ", seen items masked"}.get(str(record.get("seen")), "")


def _seen_note(record: Mapping[str, Any]) -> str:
    ranked = {"candidates": "The target is ranked among its candidates."}.get(str(record.get("catalogue")), "")
    seen = {"keep": "Items of the history may be recommended.", "mask": "Items of the history are masked."}
    return f"{seen.get(str(record.get('seen')), '')} {ranked}".strip()


def _seeds_table(groups: Sequence[list[Run]], records: Sequence[Sequence[Mapping[str, Any]]], part: str) -> Table:
    measured = [[record["metrics"] for record in same] for same in records]
    metrics = [
        metric
        for metric in _union(each for same in measured for each in same)
        if all(metric in each for same in measured for each in same)
    ]
    rows = []
    for group, same in zip(groups, measured, strict=True):
        cells = []
        for metric in metrics:
            means = [each[metric]["mean"] for each in same]
            cells.append(Cell(f"{statistics.fmean(means):.4f}", f"± {statistics.stdev(means):.4f}"))
        rows.append((Cell(group[0].name), Cell(str(len(group))), *cells))
    caption = f"Over seeds, {part} part of {data_name(groups[0][0])}{_seen_words(records[0][0])}"
    note = "Mean ± standard deviation (n - 1) over seeds."
    return Table(caption, ("Recipe", "Seeds", *map(title, metrics)), tuple(rows), note)


def _by_experiment(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs by everything in the experiment except the seed."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        rest = {key: value for key, value in run.experiment.items() if key != "seed"}
        groups[json.dumps(rest, sort_keys=True)].append(run)
    return groups


def _provenance_row(run: Run) -> tuple[str, ...]:
    hardware = run.environment.get("hardware") or {}
    machine = [
        describe_gpu(hardware.get("gpu")),
        hardware.get("cpu"),
        f"{hardware['cores']} cores" if "cores" in hardware else None,
    ]
    stops = run.events("stop")
    return (
        data_name(run),
        "unknown" if run.seed is None else str(run.seed),
        ", ".join(str(fact) for fact in machine if fact) or "unknown",
        str(run.environment.get("guiderec", "unknown")),
        str(run.environment.get("commit") or "unknown")[:12],
        duration(stops[-1].get("seconds") if stops else None),
    )


def _settings(options: Mapping[str, Any]) -> str:
    """`scale=0, name=cfg`: options as they are typed."""
    return ", ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in options.items()
    )


def _where(record: str) -> str:
    """`test part`, or of the record `test-LABEL` `test part, LABEL,`."""
    part, _, label = record.partition("-")
    return f"{part} part, {label}," if label else f"{part} part"


def _interval(value: Mapping[str, float] | None, best: float | None) -> Cell:
    if value is None:
        return Cell("–")
    return Cell(f"{value['mean']:.4f}", f"{value['low']:.4f}–{value['high']:.4f}", strong=value["mean"] == best)


def _number(value: float | None) -> Cell:
    return Cell("–" if value is None or not math.isfinite(value) else f"{value:.4f}")


def _union(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """All keys, in the order in which they first appear."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _markdown_cell(cell: Cell) -> str:
    text = f"**{_escape(cell.text)}**" if cell.strong else _escape(cell.text)
    return f"{text} ({_escape(cell.detail)})" if cell.detail else text


_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "…": r"\dots{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "−": "$-$",
    "²": r"\textsuperscript{2}",
    "³": r"\textsuperscript{3}",
    "⁻": r"\textsuperscript{$-$}",
}
"""What LaTeX reads as something else, or has no letter for, and how it is written."""


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text.replace("\n", " "))


def _latex_cell(cell: Cell) -> str:
    text = rf"\textbf{{{_latex(cell.text)}}}" if cell.strong else _latex(cell.text)
    return rf"{text} {{\scriptsize ({_latex(cell.detail)})}}" if cell.detail else text


def _rich_cell(cell: Cell) -> rich.text.Text:
    text = rich.text.Text(cell.text, style="bold" if cell.strong else "")
    return text.append(f"\n{cell.detail}", style="dim") if cell.detail else text

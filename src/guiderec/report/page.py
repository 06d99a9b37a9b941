"""The report of one or several runs: a page, figures as PNG, tables as Markdown, LaTeX and CSV; from records alone."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from guiderec.errors import CheckpointError, ConfigError
from guiderec.files import read_json, write_json
from guiderec.report import interests, steering, tables
from guiderec.report.runs import Run, labels, read

if TYPE_CHECKING:
    from guiderec.report.figures import Picture


@dataclass(frozen=True)
class Written:
    """Where a report was put."""

    page: Path
    table: Path
    latex: Path
    numbers: Path
    figures: tuple[Path, ...]
    removed: tuple[Path, ...] = ()
    """Figures of the report that was there before, which this one does not have."""


LEDGER = ".guiderec-report.json"
"""In the folder of a report: the figures that it wrote, by name, with the SHA-256 of each."""


@dataclass(frozen=True)
class _Section:
    """One run on the page: its figures and the records behind it."""

    name: str
    anchor: str
    curves: Picture | None
    ranks: Picture | None
    facts: list[tuple[str, str]]
    experiment: str


def write(runs: Sequence[Path], out: Path, *, part: str = "test") -> Written:
    """Write the report of `runs` on `part` into the directory `out`, which is created when needed.

    The page needs no other file and no network: the figures are inside it, in a light and a dark version; beside it
    each figure lies as PNG (`NAME.png`, light), all tables as Markdown and for LaTeX, and every metric in long form
    (`numbers.csv`, see `tables.numbers`).
    An existing report is overwritten. Its figures that the new one lacks are removed, if they are still what was
    written: nothing else that lies in the folder is touched.

    Raises
    ------
    CheckpointError
        When a directory is no run or a record is damaged.
    DataError
        When no run has an evaluation of `part`.
    ConfigError
        When matplotlib, Jinja2 or, where vectors are shown, scikit-learn is missing; the message names the extra.
    """
    records = [read(path) for path in runs]
    kinds = (
        tables.results,
        tables.otherwise,
        tables.other_options,
        tables.groups,
        tables.over_seeds,
        tables.beyond,
        tables.distributions,
    )
    tabulated = [table for kind in kinds for table in kind(records, part)]
    tabulated += [*interests.tables(records, part), *steering.tables(records, part)]
    template = _template()
    from guiderec.report import figures  # matplotlib is an extra: without it this line raises ConfigError

    kinds_of_figures = (figures.metric_bars, figures.option_curves, figures.clouds, figures.coverage)
    summaries = [picture for kind in kinds_of_figures for picture in kind(records, part)]
    sections = _sections(records, part)
    for section, run in zip(sections, records, strict=True):
        for picture in figures.steering_curves(run, section.name, part):
            summaries.append(replace(picture, name=f"{picture.name}-{section.anchor}"))
    shown = [*summaries, *(picture for section in sections for picture in (section.curves, section.ranks) if picture)]

    out.mkdir(parents=True, exist_ok=True)
    page, table, numbers = out / "index.html", out / "table.md", out / "numbers.csv"
    table.write_text(_markdown(records, tabulated), encoding="utf-8")
    latex = out / "table.tex"
    latex.write_text("\n".join(t.latex() for t in (*tabulated, tables.provenance(records))), encoding="utf-8")
    pl.DataFrame(tables.numbers(records, part), infer_schema_length=None).write_csv(numbers)
    removed = _write_figures(out, {f"{picture.name}.png": picture.light for picture in shown})
    page.write_text(
        template.render(
            title=_page_title(records),
            part=part,
            lead=_lead(records, part),
            tables=tabulated,
            provenance=tables.provenance(records),
            summaries=summaries,
            sections=sections,
            missing=[name for name, run in zip(labels(records), records, strict=True) if part not in run.evaluations],
        ),
        encoding="utf-8",
    )
    return Written(page, table, latex, numbers, tuple(out / f"{picture.name}.png" for picture in shown), removed)


def _write_figures(out: Path, pictures: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write figures by their file names, and remove those of the report before that are not among them."""
    stale = tuple(path for path in _figures_before(out) if path.name not in pictures)
    for name, png in pictures.items():
        (out / name).write_bytes(png)
    for path in stale:
        path.unlink()
    write_json(out / LEDGER, {"figures": {name: _sha256(png) for name, png in pictures.items()}})
    return stale


def _figures_before(out: Path) -> list[Path]:
    """The figures that the report in a folder wrote and that nobody changed since; none where no ledger tells."""
    try:
        figures = read_json(out / LEDGER).get("figures")
    except CheckpointError:
        return []
    listed = figures if isinstance(figures, dict) else {}
    paths = [(out / name, sha256) for name, sha256 in listed.items() if Path(name).name == name]
    return [
        path
        for path, sha256 in paths
        if path.is_file() and not path.is_symlink() and _sha256(path.read_bytes()) == sha256
    ]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _template() -> Any:
    try:
        import jinja2
    except ImportError:
        raise ConfigError("The report page needs Jinja2.", hint="pip install 'guiderec[plots]'") from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("guiderec.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    environment.filters["code"] = _with_code
    return environment.get_template("page.html")


def _with_code(text: str) -> Any:
    """HTML of a sentence in which commands stand between backticks, as in Markdown."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _sections(runs: Sequence[Run], part: str) -> list[_Section]:
    from guiderec.report import figures

    sections = []
    taken: Counter[str] = Counter()
    for name, run in zip(labels(runs), runs, strict=True):
        anchor = figures.slug(name)
        taken[anchor] += 1
        if taken[anchor] > 1:  # "a:b" and "a-b" would both be written to a-b
            anchor = f"{anchor}-{taken[anchor]}"
        sections.append(
            _Section(
                name=name,
                anchor=anchor,
                curves=_renamed(figures.training_curves(run, name), f"curves-{anchor}"),
                ranks=_renamed(figures.rank_histogram(run, name, part), f"ranks-{anchor}"),
                facts=facts(run, part),
                experiment=json.dumps(run.experiment, indent=2),
            )
        )
    return sections


def _renamed(picture: Picture | None, name: str) -> Picture | None:
    return None if picture is None else replace(picture, name=name)


def facts(run: Run, part: str) -> list[tuple[str, str]]:
    """Everything somebody needs in order to trust or repeat the numbers: pairs of a term and its value."""
    print_ = run.data.get("fingerprint") or {}
    hardware = run.environment.get("hardware") or {}
    rows = run.data.get("rows") or {}
    record = run.evaluations[part].record if part in run.evaluations else {}
    stops = run.events("stop")
    stop = stops[-1] if stops else {}
    found = [
        ("Data", run.data.get("name")),
        ("Protocol", tables.describe_protocol(run.data.get("protocol") or {})),
        ("Size", _size(print_)),
        ("Rows", ", ".join(f"{count:,} {name}" for name, count in rows.items())),
        ("Fingerprint (SHA-256)", print_.get("sha256")),
        ("Seen items", _seen(record)),
        ("Seed", run.seed),
        ("Noise seed of the evaluation", record.get("noise_seed")),
        ("Best epoch", stop.get("best_epoch")),
        ("Stopped because", stop.get("reason")),
        ("Training time", tables.duration(stop["seconds"]) if "seconds" in stop else None),
        ("Evaluation time", tables.duration(record["seconds"]) if "seconds" in record else None),
        ("GPU", tables.describe_gpu(hardware.get("gpu")) or ("none" if hardware else None)),
        ("CPU", hardware.get("cpu")),
        ("Cores", hardware.get("cores")),
        ("Memory", f"{hardware['memory_gib']:.0f} GiB" if hardware.get("memory_gib") else None),
        ("Threads", run.environment.get("threads")),
        ("GuideRec", run.environment.get("guiderec")),
        ("Commit", run.environment.get("commit")),
        ("PyTorch", run.environment.get("torch")),
        ("Python", run.environment.get("python")),
        ("Started", run.environment.get("started")),
    ]
    return [(term, str(value)) for term, value in found if value not in (None, "")]


def _seen(record: Mapping[str, Any]) -> str | None:
    text = {"keep": "may be recommended", "mask": "masked"}.get(str(record.get("seen")))
    return f"{text}; the other treatment is recorded too" if text and record.get("otherwise") else text


def _size(fingerprint: dict[str, Any]) -> str:
    return ", ".join(f"{fingerprint[key]:,} {key}" for key in ("users", "items", "interactions") if key in fingerprint)


def _page_title(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return labels(runs)[0]
    datasets = {str(run.data.get("name")) for run in runs}
    return f"{len(runs)} runs on {datasets.pop()}" if len(datasets) == 1 else f"{len(runs)} runs"


def _lead(runs: Sequence[Run], part: str) -> list[str]:
    """One sentence per set of comparable runs: the best by the first headline metric, or the single run's numbers."""
    from guiderec.report.figures import headline

    sentences = []
    for group, names in tables.comparable(runs, part):
        shared = set.intersection(*(set(run.evaluations[part].metrics) for run in group))
        if not shared:
            sentences.append(f"{', '.join(names)} have no metric in common.")
            continue
        metric = headline(list(group[0].evaluations[part].metrics), shared)[0]
        values = [run.evaluations[part].metrics[metric] for run in group]
        best = max(range(len(group)), key=lambda i: values[i]["mean"])
        value = values[best]
        number = (
            f"{tables.title(metric)} of {value['mean']:.4f} (95 % interval {value['low']:.4f} to {value['high']:.4f})"
        )
        where = f"on the {part} part of {group[0].data.get('name', 'unnamed data')}"
        if len(group) == 1:
            sentences.append(f"{names[best]} has {number} {where}.")
        else:
            near = [name for name, v in zip(names, values, strict=True) if v is not value and v["high"] >= value["low"]]
            doubt = f" The interval of {', '.join(near)} overlaps: `guiderec compare` tells whether they differ."
            sentence = f"Of {len(group)} runs {where}, {names[best]} is highest: {number}."
            sentences.append(sentence + (doubt if near else ""))
    return sentences


def _markdown(runs: Sequence[Run], tabulated: Sequence[tables.Table]) -> str:
    protocols = []
    for name, run in zip(labels(runs), runs, strict=True):
        sha = (run.data.get("fingerprint") or {}).get("sha256", "unknown")
        protocol = tables.describe_protocol(run.data.get("protocol") or {})
        protocols.append(f"- {name}: {protocol}; data fingerprint {sha}")
    return "\n".join([*(t.markdown() for t in (*tabulated, tables.provenance(runs))), *protocols, ""])

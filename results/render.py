"""Turn the records of this folder into tables: `docs/results.md`, and the block between two marks in `README.md`.

    git add results && python results/render.py        (--check: change nothing, fail if they would change)

Input    results/<study>/<run>-seed<k>.json    one record per run, as `guiderec.training.record.collect` makes it
         results/<study>/comparisons.json      paired tests, as `compare.py` makes them; optional
         results/published.json                what the papers print
Records that git does not track are left out, so that a page never shows a number that is not in the repository.
The same records give the same text, byte by byte. Studies, runs and parts without records are not mentioned.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

HERE = Path(__file__).resolve().parent
SHORT = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
"""The metrics of the README; the page has all that a study has measured."""
MARKS = ("<!-- results: written by results/render.py -->", "<!-- end of results -->")

sys.path.insert(0, str(HERE))  # also when loaded as a module
from studies import AT_INFERENCE, STUDIES, panels, titles  # noqa: E402

RUNS = titles()
PANELS = panels()


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """One run of a study."""

    study: str
    name: str
    seed: int
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record in `<study>/<name>-seed<k>.json`. ValueError where file name and content disagree."""
        match = re.fullmatch(r"(.+)-seed(\d+)", path.stem)
        content = json.loads(path.read_text(encoding="utf-8"))
        seed = content["experiment"]["seed"]
        if match is None or int(match[2]) != seed:
            raise ValueError(f"{path}: the record is of seed {seed}, so the name must be <run>-seed{seed}.json.")
        return cls(path.parent.name, match[1], int(match[2]), content)

    def evaluations(self, part: str) -> dict[str, Mapping[str, Any]]:
        """Evaluations of `part` by the key of their row: `steerrec`, `steerrec/without-png`."""
        found = {}
        for file, evaluation in self.content.get("evaluation", {}).items():
            base, _, label = file.partition("-")
            if base == part:
                found[f"{self.name}/{label}" if label else self.name] = evaluation
        return found


def tracked(folder: Path) -> list[Path]:
    """The records that git tracks or has staged; all of them where there is no git checkout."""
    on_disk = sorted(folder.glob("*/*.json"))
    try:
        command = ["git", "-C", str(folder), "ls-files", "-z", "--", "."]
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split("\0")
    except (OSError, subprocess.SubprocessError):
        return on_disk
    known = {folder / name for name in listed if name}
    return [path for path in on_disk if path in known]


def read(paths: Iterable[Path]) -> tuple[list[Record], dict[str, Mapping[str, Any]]]:
    """Records, and comparisons by study."""
    paths = list(paths)
    records = [Record.read(path) for path in paths if path.name != "comparisons.json"]
    comparisons = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in paths
        if path.name == "comparisons.json"
    }
    return records, comparisons


# --- numbers ------------------------------------------------------------------------------------------------------


def metrics_of(records: Sequence[Record]) -> list[str]:
    """The metrics that all evaluations of the records have, in the order of the first."""
    evaluations = [each["metrics"] for record in records for each in record.content.get("evaluation", {}).values()]
    return [metric for metric in evaluations[0] if all(metric in each for each in evaluations)] if evaluations else []


def over_seeds(records: Sequence[Record], part: str) -> dict[str, dict[str, list[float]]]:
    """Row key of each model -> metric -> the means of the single runs, in the order of their seeds."""
    return {key: values for key, values in _all_over_seeds(records, part).items() if key not in PANELS}


def _all_over_seeds(records: Sequence[Record], part: str) -> dict[str, dict[str, list[float]]]:
    """As `over_seeds`, with the points of panels."""
    found: dict[str, dict[str, list[float]]] = {}
    chosen = metrics_of(records)
    for record in sorted(records, key=lambda record: record.seed):
        for key, evaluation in record.evaluations(part).items():
            metrics = found.setdefault(key, {metric: [] for metric in chosen})
            for metric in chosen:
                metrics[metric].append(float(evaluation["metrics"][metric]["mean"]))
    return dict(sorted(found.items(), key=lambda item: _place(item[0], RUNS)))


def spread(values: Sequence[float]) -> str:
    """`0.0412 ± 0.0006`: mean and sample standard deviation over seeds; one seed has no deviation."""
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def published_for(
    published: Mapping[str, Any], records: Sequence[Record], key: str, study: str | None = None
) -> tuple[str, dict[str, float]] | None:
    """Source and numbers, by metric, that the paper prints for a row on the data of `records`, if it does.

    A study may be about another of the paper's tables than the one that the row stands in first.
    """
    row = RUNS.get(key, (key, None))[1]
    if study in STUDIES:
        row = STUDIES[study].published.get(key, row)
    table = published.get(records[0].content["data"]["name"])
    if row is None or table is None or row not in table["rows"]:
        return None
    found = table["rows"][row]
    return found["source"], dict(zip(found.get("metrics", table["metrics"]), found["values"], strict=True))


# --- text ---------------------------------------------------------------------------------------------------------


def page(records: Sequence[Record], comparisons: Mapping[str, Mapping[str, Any]], published: Mapping[str, Any]) -> str:
    """The whole of `docs/results.md`."""
    parts = [_introduction(), *_findings(records, published)]
    if not records:
        parts.append("There are no records yet.")
    for study in _in_order({record.study for record in records}, STUDIES):
        parts += _study(study, _shown(study, records), comparisons.get(study), published)
    return "\n\n".join(parts) + "\n"


def readme_block(records: Sequence[Record], published: Mapping[str, Any]) -> str:
    """The short tables of the README: for every split with a paper's table, each model at its largest width."""
    shown = {name for study in STUDIES.values() for name, run in study.runs.items() if run.in_readme}
    parts = []
    for data, widest in _by_data(records).items():
        if data not in published:
            continue
        rows = []
        for key, own in widest.items():
            if key not in shown:
                continue
            values = over_seeds(own, "test")[key]
            printed = published_for(published, own, key)
            rows.append(
                (
                    RUNS.get(key, (key,))[0],
                    _width(own[0]),
                    str(len(own)),
                    *(spread(values[metric]) for metric in SHORT),
                    "–" if printed is None else " / ".join(_printed(printed[1], metric) for metric in SHORT),
                )
            )
        table = _table(("Model", "Width", "Seeds", *map(_title, SHORT), "Published"), rows)
        parts += [f"{published[data]['title']}, test part:", table] if rows else []
    return "\n\n".join(parts) or "No records yet."


def _introduction() -> str:
    return """# Results

This page is written by `results/render.py` from the records in [`results/`](../results/README.md). Do not edit it.

How to read it:

- All numbers are means over evaluation rows. Every row is ranked once, against the whole catalogue (where the protocol
  says `candidates = "impression"`, against what was shown), without padding; items of the history compete unless the
  table says otherwise; ties count against the model.
- `a ± s` is the mean and the sample standard deviation over training seeds. A single run is given with its 95 %
  bootstrap interval over rows, which says how much the sample of test users matters, and nothing about seeds.
- Epochs are chosen on the validation part, by the metric that the recipe names. The test part is looked at afterwards
  and chooses nothing.
- "Published" is what the paper prints for its own implementation of that model. SteerRec's paper gives one number per
  model, without interval or number of seeds, at width 3072; AlignDiff's gives means of five runs at width 128,
  ADIGRec's means of runs at width 64. Where our width differs, the table says so."""


def _findings(records: Sequence[Record], published: Mapping[str, Any]) -> list[str]:
    lines = [
        line for data, widest in _by_data(records).items() for line in _findings_for(data, records, widest, published)
    ]
    return ["## In short", _lines(lines)] if lines else []


def _findings_for(
    data: str, records: Sequence[Record], widest: Mapping[str, Sequence[Record]], published: Mapping[str, Any]
) -> list[str]:
    """What follows from the numbers by comparing them, and nothing more."""
    table = published.get(data)
    if table is None:
        return []
    main, order = table["model"], table["metrics"]
    learns_from = {
        name: run.learns_from for study in STUDIES.values() if study.data == data for name, run in study.runs.items()
    }
    baselines = [key for key in widest if key in learns_from and not key.startswith((main, "popularity"))]
    undiffused = [key for key in baselines if key.startswith(WITHOUT_DIFFUSION)]
    lines = [_against_table(key, widest[key], _test_means(key, widest[key], order), table) for key in undiffused]
    if main in widest:
        lines.append(_against_published(main, widest[main], _test_means(main, widest[main], order), published))
        for key in [*baselines, *(key for key in widest if key.startswith(main) and key != main)]:
            same_study = [record for record in records if (record.study, record.name) == (widest[key][0].study, main)]
            lines.append(_against_main(key, main, widest[key], same_study or widest[main], learns_from.get(key), order))
    return lines


def _test_means(key: str, own: Sequence[Record], order: Sequence[str]) -> dict[str, float]:
    """Metric -> mean over seeds on the test part, for those of `order` that were measured."""
    return {metric: mean(over_seeds(own, "test")[key][metric]) for metric in order if metric in metrics_of(own)}


WITHOUT_DIFFUSION = ("markov", "sasrec", "comirec")
"""Beginnings of the names of runs that are set against the whole of a paper's table."""


def _against_table(key: str, own: Sequence[Record], ours: Mapping[str, float], table: Mapping[str, Any]) -> str:
    printed = [row["values"] for row in table["rows"].values() if row["source"] == table["table"]]
    best = dict(zip(table["metrics"], (max(column) for column in zip(*printed, strict=True)), strict=True))
    above = [_title(metric) for metric, value in ours.items() if value > best[metric]]
    where = f"{table['table']} for {table['title']}"
    if len(above) == len(ours):
        verdict = f"above every number of {where}"
    elif above:
        verdict = f"above the best numbers of {where} in {', '.join(above)}, and not in the others"
    else:
        verdict = f"not above the best numbers of {where}"
    return (
        f"{RUNS[key][0]} ({_seeds(own)}) is {verdict}: {_numbers(ours)} against at most "
        f"{_numbers({metric: best[metric] for metric in ours})}."
    )


def _against_published(key: str, own: Sequence[Record], ours: Mapping[str, float], published: Mapping[str, Any]) -> str:
    found = published_for(published, own, key)
    assert found is not None, f"published.json does not have the model {key} that its table is about."
    printed = {metric: found[1][metric] for metric in ours}
    above = sum(ours[metric] >= printed[metric] for metric in ours)
    return (
        f"Our {RUNS[key][0]} at width {_width(own[0])} ({_seeds(own)}) reaches {_numbers(ours)}; its paper prints "
        f"{_numbers(printed)}. Ours is at or above it in {above} of {len(ours)} metrics."
    )


def _against_main(
    key: str, main: str, own: Sequence[Record], other: Sequence[Record], learns_from: str | None, order: Sequence[str]
) -> str:
    """A run against the main model: that of the same study where it has one, else the widest."""
    ours, theirs = _test_means(key, own, order), _test_means(main, other, order)
    both = [metric for metric in theirs if metric in ours]
    above = sum(ours[metric] > theirs[metric] for metric in both)
    source = "" if learns_from is None else f" It learns from {learns_from}."
    return (
        f"In our own runs, {RUNS[key][0]} ({_wide(own[0])}{_seeds(own)}) is above {RUNS[main][0]} "
        f"({_wide(other[0])}{_seeds(other)}) in {above} of {len(both)} metrics.{source}"
    )


def _shown(study: str, records: Sequence[Record]) -> list[Record]:
    """The records of a study, and those of other studies that its tables show beside them, for the same seeds."""
    own = [record for record in records if record.study == study]
    if study not in STUDIES:
        return own
    joined, beside = STUDIES[study].joined_by, STUDIES[study].beside
    seeds = {record.seed for record in own}
    return own + [r for r in records if r.study in joined and r.name in beside and r.seed in seeds]


def _study(
    study: str, records: Sequence[Record], comparison: Mapping[str, Any] | None, published: Mapping[str, Any]
) -> list[str]:
    parts = [f"## {STUDIES[study].title if study in STUDIES else study}", _data(records)]
    parts += [STUDIES[study].note] if study in STUDIES and STUDIES[study].note else []
    parts += ["### Test", _means(records, "test", published, study)] if over_seeds(records, "test") else []
    parts += ["### Test, some of the rows", _groups(records)] if _has_groups(records) else []
    parts += ["### Interests, test", _interests(records)] if _with_interests(records) else []
    if _with_distribution(records):
        parts += ["### Generated and true embeddings, test", _distributions(records, published)]
    parts += ["### Validation", _means(records, "valid", {}, study)] if over_seeds(records, "valid") else []
    parts += ["### Single runs, test, with 95 % intervals", _intervals(records)] if over_seeds(records, "test") else []
    for panel, rows in _points([record for record in records if record.study == study]).items():
        parts += [f"### {panel}", _panel(rows, records, published)]
    parts += ["### Paired tests", _comparison(comparison)] if comparison else []
    if study in STUDIES and STUDIES[study].curves and _with_curves(records):
        parts += ["### Validation over the epochs", _curves(records)]
    return [*parts, "### Training", _training(records)]


def _data(records: Sequence[Record]) -> str:
    data = records[0].content["data"]
    counts, rows, protocol = data["fingerprint"], data["rows"], data["protocol"]
    same = {record.content["data"]["fingerprint"]["sha256"] for record in records}
    splits = {json.dumps(record.content["data"]["protocol"], sort_keys=True) for record in records}
    options = ", ".join(f"{key} = {json.dumps(value)}" for key, value in protocol.items() if key != "name")
    several = "" if len(splits) == 1 else f" One of {len(splits)} splits; the others differ in their seed."
    digest = f"`{counts['sha256'][:16]}`" if len(same) == 1 else f"{len(same)} different"
    return (
        f"Data `{data['name']}`: {counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} "
        f"interactions, fingerprint {digest}. Rows: {rows['train']:,} training, {rows['valid']:,} validation, "
        f"{rows['test']:,} test. Protocol {protocol['name']}: {options}. Items of the history: {data['seen']}.{several}"
    )


def _means(records: Sequence[Record], part: str, published: Mapping[str, Any], study: str) -> str:
    rows = []
    for key, values in over_seeds(records, part).items():
        own = [record for record in records if key in record.evaluations(part)]
        printed = published_for(published, own, key, study)
        title = RUNS.get(key, (key,))[0]
        if printed is not None:
            cells = (_printed(printed[1], metric) for metric in values)
            rows.append((title, f"published ({printed[0]})", *cells))
        rows.append((title, f"ours, {_wide(own[0])}{_seeds(own)}", *map(spread, values.values())))
    return _table(("Model", "Whose", *map(_title, metrics_of(records))), rows)


def _has_groups(records: Sequence[Record]) -> bool:
    """Whether a group of rows leaves out more than one in a hundred, so that it says something of its own."""
    evaluations = [each for record in records for each in record.evaluations("test").values()]
    return any(
        group["n_rows"] < 0.99 * each["n_rows"] for each in evaluations for group in each.get("groups", {}).values()
    )


def _groups(records: Sequence[Record]) -> str:
    """The metric that chose the epochs, over all rows, over groups of them, and with items of the history masked."""
    metric = records[0].content["experiment"]["training"]["metric"]
    parts: dict[str, dict[str, list[float]]] = {}
    counts: dict[str, int] = {}
    for key in over_seeds(records, "test"):
        for evaluation in (r.evaluations("test")[key] for r in records if key in r.evaluations("test")):
            other = evaluation.get("otherwise", {"groups": {}, "metrics": {}})
            found = {"all": evaluation["metrics"][metric]["mean"]}
            found |= {name: group["metrics"][metric] for name, group in evaluation.get("groups", {}).items()}
            found |= {f"{other['seen']} seen": other["metrics"][metric]["mean"]} if other["metrics"] else {}
            counts |= {"all": evaluation["n_rows"]}
            counts |= {name: group["n_rows"] for name, group in evaluation.get("groups", {}).items()}
            for name, value in found.items():
                parts.setdefault(name, {}).setdefault(key, []).append(value)
    rows = [
        (RUNS.get(key, (key,))[0], *(spread(parts[name][key]) if key in parts[name] else "–" for name in parts))
        for key in parts["all"]
    ]
    head = (_GROUPS.get(name, name) + (f" ({counts[name]:,})" if name in counts else "") for name in parts)
    return (
        f"{_title(metric)} over all test rows, the rows with a history, those whose target occurs in training, both, "
        "and all rows with the items of the history masked.\n\n" + _table(("Model", *head), rows)
    )


def _with_interests(records: Sequence[Record]) -> dict[str, list[Mapping[str, Any]]]:
    """Row key -> the interests of each seed, for the runs where they were measured."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda record: (_place(record.name, RUNS), record.seed)):
        for key, evaluation in record.evaluations("test").items():
            if evaluation.get("interests"):
                found.setdefault(key, []).append(evaluation["interests"])
    return found


def _interests(records: Sequence[Record]) -> str:
    measured = _with_interests(records)
    names = [name for name in INTERESTS if any(name in seeds[0]["measures"] for seeds in measured.values())]
    rows = []
    for key, seeds in measured.items():
        cells = [
            spread([each["measures"][name]["mean"] for each in seeds]) if name in seeds[0]["measures"] else "–"
            for name in names
        ]
        reached = spread([each["coverage"] for each in seeds])
        rows.append((RUNS.get(key, (key,))[0], str(len(seeds)), str(seeds[0]["n_interests"]), *cells, reached))
    head = ("Model", "Seeds", "Ranking vectors", *(INTERESTS[name] for name in names), "Catalogue reached")
    length = next(iter(measured.values()))[0]["k"]
    return (
        f"Lists of {length}. Effective routes: how many of the K interests read the history differently, 1 where they "
        "all read it alike. Routing entropy: 1 where an interest is the mean of its history, 0 where it is one item. "
        "List diversity: mean of 1 - cosine over pairs of a list.\n\n" + _table(head, rows)
    )


INTERESTS = {
    "effective_interests": "Effective interests",
    "effective_routes": "Effective routes",
    "routing_entropy": "Routing entropy",
    "list_diversity": "List diversity",
}

_GROUPS = {
    "all": "All rows",
    "history>0": "With a history",
    "warm target": "Target in training",
    "history>0, warm target": "Both",
    "mask seen": "All, history masked",
    "keep seen": "All, history kept",
}


def _with_distribution(records: Sequence[Record]) -> dict[str, list[Mapping[str, Any]]]:
    """Run -> the distances of each seed, for the runs where they were measured."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda record: (_place(record.name, RUNS), record.seed)):
        if "test" in record.content.get("distribution", {}):
            found.setdefault(record.name, []).append(record.content["distribution"]["test"])
    return found


def _distributions(records: Sequence[Record], published: Mapping[str, Any]) -> str:
    printed = published.get(records[0].content["data"]["name"], {}).get("mmd", {})
    rows = []
    for key, seeds in _with_distribution(records).items():
        values = [1e3 * each["mmd2"] for each in seeds]
        spread_over_seeds = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
        largest = max(each["p"] for each in seeds)
        title, name = RUNS.get(key, (key, None))
        cells = (f"{mean(values):.2f}{spread_over_seeds}", _p(largest), printed.get("rows", {}).get(name, "–"))
        rows.append((title, str(len(seeds)), *cells))
    source = f" Published: {printed['source']}." if printed else ""
    return (
        "Squared maximum mean discrepancy of the directions, in thousandths; 0 where generated and true embeddings "
        "have one distribution, and the largest p value over seeds that they do (see [evaluation](evaluation.md)). "
        f"Every model in its own embeddings.{source}\n\n"
        + _table(("Model", "Seeds", "MMD² (10⁻³)", "p", "Published"), rows)
    )


def _intervals(records: Sequence[Record]) -> str:
    rows = []
    for key in over_seeds(records, "test"):
        for record in sorted(records, key=lambda record: record.seed):
            if key not in record.evaluations("test"):
                continue
            evaluation = record.evaluations("test")[key]
            metrics = [evaluation["metrics"][metric] for metric in metrics_of(records)]
            cells = (f"{m['mean']:.4f} ({m['low']:.4f} to {m['high']:.4f})" for m in metrics)
            rows.append((RUNS.get(key, (key,))[0], str(record.seed), *cells))
    return _table(("Model", "Seed", *map(_title, metrics_of(records))), rows)


def _training(records: Sequence[Record]) -> str:
    rows = []
    for record in sorted(records, key=lambda record: (_place(record.name, RUNS), record.seed)):
        training, machine = record.content.get("training", {}), record.content.get("environment", {})
        hardware = machine.get("hardware", {})
        gpu = hardware.get("gpu")
        where = ", ".join(gpu) if gpu else f"{hardware.get('cpu', 'unknown')}, {machine.get('threads', '?')} threads"
        rows.append(
            (
                RUNS.get(record.name, (record.name,))[0],
                str(record.seed),
                str(training.get("best_epoch") or "–"),
                f"{training.get('epochs', '–')} ({training.get('reason') or 'unfinished'})",
                _duration(training.get("seconds")),
                where,
                f"`{(machine.get('commit') or 'unknown')[:10]}`" + (" + changes" if _changed(machine) else ""),
            )
        )
    note = "Time is training and validation, over all resumptions, on a machine that may have been shared."
    return note + "\n\n" + _table(("Run", "Seed", "Best epoch", "Epochs", "Time", "Hardware", "Commit"), rows)


def _points(records: Sequence[Record]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Panel -> row key -> metric -> values over seeds, on the test part."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for key, values in _all_over_seeds(records, "test").items():
        if key in PANELS:
            found.setdefault(PANELS[key][0], {})[key] = values
    return found


def _panel(
    points: Mapping[str, Mapping[str, list[float]]], records: Sequence[Record], published: Mapping[str, Any]
) -> str:
    """A row for each point; a last column where a paper prints the table."""
    printed = {key: found[1] for key in points if (found := published_for(published, records, key))}
    shown = sorted({metric for row in printed.values() for metric in row}, key=metrics_of(records).index)
    head = ["Value", *map(_title, metrics_of(records))]
    head += [f"Published {' / '.join(map(_title, shown))}"] if printed else []
    rows = []
    for key, values in points.items():
        source = [" / ".join(_printed(printed.get(key, {}), metric) for metric in shown)] if printed else []
        rows.append((PANELS[key][1], *map(spread, values.values()), *source))
    n = max(len(seeds) for values in points.values() for seeds in values.values())
    note = f"Test part, {n} seed{'s' if n > 1 else ''}, the weights of the run above. {AT_INFERENCE}"
    return f"{note}\n\n{_table(head, rows)}"


EPOCHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 30, 40, 60, 80, 100)
"""Columns of the curves, as far as somebody was trained."""


def _with_curves(records: Sequence[Record]) -> list[tuple[str, Mapping[str, Any]]]:
    """Run and curve of what was trained; what is counted was validated before any epoch, and has none."""
    ordered = sorted(records, key=lambda record: (_place(record.name, RUNS), record.seed))
    found = [(record.name, record.content.get("training", {}).get("curve")) for record in ordered]
    return [(name, curve) for name, curve in found if curve and max(curve["epochs"]) > 0]


def _curves(records: Sequence[Record]) -> str:
    """What the validated metric was after some epochs."""
    curves: dict[str, list[Mapping[int, float]]] = {}
    metrics = set()
    for name, curve in _with_curves(records):
        metrics.add(curve["metric"])
        curves.setdefault(name, []).append(dict(zip(curve["epochs"], curve["values"], strict=True)))
    measured = {epoch for seeds in curves.values() for curve in seeds for epoch in curve}
    epochs = [epoch for epoch in EPOCHS if epoch in measured]
    rows = []
    for name, seeds in curves.items():
        cells = ([curve[epoch] for curve in seeds if epoch in curve] for epoch in epochs)
        shown = (f"{mean(values):.4f}" if len(values) == len(seeds) else "–" for values in cells)
        rows.append((RUNS.get(name, (name,))[0], str(len(seeds)), *shown))
    if len(metrics) > 1:
        raise ValueError(f"the runs were validated by different metrics: {', '.join(sorted(metrics))}.")
    note = (
        f"{_title(metrics.pop())} on the validation rows after so many epochs, mean over the seeds; – where not all "
        "were validated. `validation_rows` in the records says where these rows are a sample of the part."
    )
    return f"{note}\n\n{_table(('Model', 'Seeds', *map(str, epochs)), rows)}"


def _comparison(comparison: Mapping[str, Any]) -> str:
    rows = [
        (
            RUNS.get(test["b"], (test["b"],))[0],
            _title(test["metric"]),
            f"{test['difference']:+.4f} ({test['low']:+.4f} to {test['high']:+.4f})",
            _p(test["p_randomisation"]),
            _p(test["p_holm"]),
        )
        for test in comparison["tests"]
    ]
    baseline = RUNS.get(comparison["baseline"], (comparison["baseline"],))[0]
    note = (
        f"Every model minus {baseline}, paired over {comparison['n_rows']:,} test rows, each averaged over the seeds "
        f"{', '.join(map(str, comparison['seeds']))}; the unit is the {comparison['unit']}. p: sign-flip randomisation "
        f"test; Holm: corrected over all {len(comparison['tests'])} tests of this table. The tests speak of other "
        "users, not of other seeds."
    )
    return note + "\n\n" + _table(("Model", "Metric", "Difference (95 %)", "p", "p, Holm"), rows)


# --- small things -------------------------------------------------------------------------------------------------


def _by_data(records: Sequence[Record]) -> dict[str, dict[str, list[Record]]]:
    """Name of a released split -> row key -> its runs in the study with the largest width, of equals the first."""
    found: dict[str, dict[str, list[Record]]] = {}
    for study in _in_order({record.study for record in records}, STUDIES):
        own = [record for record in records if record.study == study]
        for key in over_seeds(own, "test"):
            runs = [record for record in own if key in record.evaluations("test")]
            data = runs[0].content["data"]
            if data["protocol"].get("seed") is not None:
                continue
            widest = found.setdefault(data["name"], {})
            if key not in widest or _dim(runs[0]) > _dim(widest[key][0]):
                widest[key] = runs
    return {data: dict(sorted(runs.items(), key=lambda item: _place(item[0], RUNS))) for data, runs in found.items()}


def _dim(record: Record) -> int:
    return int(record.content["experiment"]["model"].get("dim", 0))


def _width(record: Record) -> str:
    return str(_dim(record) or "–")


def _wide(record: Record) -> str:
    return f"width {_dim(record)}, " if _dim(record) else ""


def _seeds(records: Sequence[Record]) -> str:
    return f"{len(records)} seed{'s' if len(records) > 1 else ''}"


def _numbers(values: Mapping[str, float]) -> str:
    return " / ".join(f"{value:.4f}" for value in values.values())


def _lines(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _printed(values: Mapping[str, float], metric: str) -> str:
    """A published number; a dash where the paper's table does not have this metric."""
    return f"{values[metric]:.4f}" if metric in values else "–"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _changed(machine: Mapping[str, Any]) -> bool:
    return str(machine.get("commit")).endswith("+dirty")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"


def _title(metric: str) -> str:
    name, _, k = metric.partition("@")
    return {"recall": "Recall", "ndcg": "NDCG"}.get(name, name) + f"@{k}"


def _place(name: str, order: Mapping[str, Any]) -> tuple[int, str]:
    names = list(order)
    return (names.index(name) if name in order else len(names), name)


def _in_order(names: Iterable[str], order: Mapping[str, Any]) -> list[str]:
    return sorted(names, key=lambda name: _place(name, order))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


# --- writing ------------------------------------------------------------------------------------------------------


def between_marks(text: str, block: str) -> str:
    """`text` with what lies between the marks replaced. ValueError where a mark is missing."""
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise ValueError(f"no place for the results: the marks {MARKS[0]!r} and {MARKS[1]!r} are missing.")
    return f"{before}{begin}\n{block}\n{end}{after}"


def rendered(root: Path) -> dict[Path, str]:
    """The files that follow from the records of the repository at `root`, with their content."""
    records, comparisons = read(tracked(root / "results"))
    published = json.loads((root / "results/published.json").read_text(encoding="utf-8"))
    readme = root / "README.md"
    return {
        root / "docs/results.md": page(records, comparisons, published),
        readme: between_marks(readme.read_text(encoding="utf-8"), readme_block(records, published)),
    }


def main() -> int:
    """Write what changed, or with --check say what would."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if something would change")
    check = parser.parse_args().check
    root = HERE.parent
    stale = {p: text for p, text in rendered(root).items() if not p.exists() or p.read_text(encoding="utf-8") != text}
    for path, text in stale.items():
        print(f"{path.relative_to(root)} {'is out of date' if check else 'written'}")
        if not check:
            path.write_text(text, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())

"""`guiderec evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from guiderec.cli.console import Json, answer
from guiderec.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console


def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Directories of runs on one split.", metavar="RUN...")],
    data: Annotated[Path, typer.Option("--data", help="Folder of the split they were trained on.", metavar="DIR")],
    part: Annotated[Literal["test", "valid"], typer.Option("--part", help="Part of the split.")] = "test",
    seen: Annotated[
        Literal["keep", "mask"] | None,
        typer.Option(
            "--seen",
            help="Whether items of the history compete in the main numbers; the others are recorded beside them.",
            show_default="as the protocol says",
        ),
    ] = None,
    noise_seed: Annotated[int, typer.Option("--noise-seed", min=0, help="Seed of the sampling noise.")] = 0,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="Measure this, as in ndcg@20; may be repeated.",
            show_default="what the recipe names",
            metavar="METRIC",
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Evaluate the same weights under another option; may be repeated.", metavar="X=Y"),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Name of an evaluation with --set: RUN/evaluation/PART-LABEL.json.")
    ] = None,
    steering: Annotated[
        bool,
        typer.Option("--steering", help="Measure instead how dislikes and likes are honoured; in RUN/steering."),
    ] = False,
    strengths: Annotated[
        str | None,
        typer.Option("--strengths", help="With --steering: strengths of guidance, 0 is off.", metavar="W,W,..."),
    ] = None,
    wishes: Annotated[
        list[str] | None,
        typer.Option(
            "--wish",
            help="With --steering: dislikes or likes of an item, neighbourhood or category (dislikes:category:COLUMN "
            "for another column of the item table than 'category'); may be repeated.",
            show_default="all that apply",
            metavar="KIND:WHAT",
        ),
    ] = None,
    interests: Annotated[
        bool,
        typer.Option("--interests", help="Measure the interests of a model beside: how many, how routed, what lists."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a record of this name that was measured otherwise.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure the best model of each run on every row of a part, and record it in RUN/evaluation.

    Example: guiderec evaluate RUN --data DIR --set model.guidance.scale=0 --label unguided
    """
    from guiderec import api
    from guiderec.config import parse_assignments
    from guiderec.recipes.run import evaluate as run_evaluation

    overrides = parse_assignments(assignments or [])
    if steering and interests:
        raise ConfigError("--steering and --interests are two measurements.", hint="ask for one at a time")
    if steering and metric:
        raise ConfigError("--steering has measures of its own.", hint="leave --metric out")
    if steering:
        options = {
            "seen": seen,
            "noise_seed": noise_seed,
            "overrides": overrides,
            "label": label,
            "overwrite": overwrite,
        }
        _steering(runs, data, part, _numbers(strengths), wishes, options, as_json)
        return
    if strengths is not None or wishes:
        raise ConfigError("--strengths and --wish belong to --steering.", hint="add --steering")
    dataset = api.load(data)
    records = [
        run_evaluation(
            run,
            dataset,
            part,
            seen=seen,
            noise_seed=noise_seed,
            metrics=tuple(metric) if metric else None,
            overrides=overrides,
            label=label,
            interests=interests,
            overwrite=overwrite,
        )
        for run in runs
    ]

    def show(console: Console) -> None:
        from guiderec.report import interests as interest_tables
        from guiderec.report import runs as kept
        from guiderec.report import tables

        evaluated, name = [kept.read(run) for run in runs], f"{part}-{label}" if label else part
        for kind in (tables.results, tables.otherwise, tables.groups, interest_tables.tables):
            for table in kind(evaluated, name):
                console.print(table.rich())

    answer(_answered(runs, records), as_json, show)


def _answered(runs: list[Path], records: list[dict[str, Any]]) -> dict[str, Any]:
    """The record of one run, or all of several."""
    found = [{"run": run, **record} for run, record in zip(runs, records, strict=True)]
    return found[0] if len(found) == 1 else {"runs": found}


def _steering(
    runs: list[Path],
    data: Path,
    part: Literal["test", "valid"],
    strengths: list[float] | None,
    wishes: list[str] | None,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """The same for `--steering`: another measurement, kept in another place."""
    from guiderec import api
    from guiderec.recipes.run import steering
    from guiderec.steering.evaluate import STRENGTHS
    from guiderec.steering.procedure import parse_procedure

    procedures = [parse_procedure(wish) for wish in wishes] if wishes else None
    chosen = STRENGTHS if strengths is None else strengths
    dataset = api.load(data)
    records = [steering(run, dataset, part, procedures=procedures, strengths=chosen, **options) for run in runs]

    def show(console: Console) -> None:
        from guiderec.report import runs as kept
        from guiderec.report.steering import record_tables

        measured = [kept.read(run) for run in runs]
        for run, each, name in zip(runs, measured, kept.labels(measured), strict=True):
            for table in record_tables(each, name, f"{part}-{options['label']}" if options["label"] else part):
                console.print(table.rich(details=False))
            console.print(
                f"The intervals are in {run}/steering and on the page of guiderec report {run}.", markup=False
            )

    answer(_answered(runs, records), as_json, show)


def _numbers(text: str | None) -> list[float] | None:
    """`0,0.1,0.2` as numbers."""
    if text is None:
        return None
    try:
        return [float(piece) for piece in text.split(",")]
    except ValueError:
        raise ConfigError(f"Strengths are numbers with commas between them, got '{text}'.") from None

"""`guiderec evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from guiderec.cli.console import Json, answer

if TYPE_CHECKING:
    from rich.console import Console


def evaluate(
    run: Annotated[Path, typer.Argument(help="Directory of a run.", metavar="RUN")],
    data: Annotated[Path, typer.Option("--data", help="Folder of the split that it was trained on.", metavar="DIR")],
    part: Annotated[Literal["test", "valid"], typer.Option("--part", help="Part of the split.")] = "test",
    seen: Annotated[
        Literal["keep", "mask"] | None,
        typer.Option(
            "--seen",
            help="Whether items of the history compete in the main numbers; the others are recorded beside them. "
            "[default: as the protocol says]",
        ),
    ] = None,
    noise_seed: Annotated[int, typer.Option("--noise-seed", min=0, help="Seed of the sampling noise.")] = 0,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Evaluate the same weights under another option; may be repeated.", metavar="X=Y"),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Name of an evaluation with --set: RUN/evaluation/PART-LABEL.json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the best model of a run on every row of a part, and record it in RUN/evaluation.

    Example: guiderec evaluate RUN --data DIR --set model.guidance.scale=0 --label unguided
    """
    from guiderec import api
    from guiderec.config import parse_assignments
    from guiderec.recipes.run import evaluate as run_evaluation

    overrides = parse_assignments(assignments or [])
    record = run_evaluation(
        run, api.load(data), part, seen=seen, noise_seed=noise_seed, overrides=overrides, label=label
    )

    def show(console: Console) -> None:
        from guiderec.report import runs, tables

        evaluated, name = [runs.read(run)], f"{part}-{label}" if label else part
        for kind in (tables.results, tables.otherwise, tables.groups):
            for table in kind(evaluated, name):
                console.print(table.rich())

    answer({"run": run, **record}, as_json, show)

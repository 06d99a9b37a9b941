"""`guiderec distribution`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from guiderec.cli.console import Json, answer

if TYPE_CHECKING:
    from rich.console import Console


def distribution(
    run: Annotated[Path, typer.Argument(help="Directory of a run.", metavar="RUN")],
    data: Annotated[Path, typer.Option("--data", help="Folder of the split that it was trained on.", metavar="DIR")],
    part: Annotated[Literal["test", "valid"], typer.Option("--part", help="Part of the split.")] = "test",
    noise_seed: Annotated[int, typer.Option("--noise-seed", min=0, help="Seed of the sampling noise.")] = 0,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Generate from the same weights under another option; repeatable.", metavar="X=Y"),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Name of a record with --set: RUN/distribution/PART-LABEL.json.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a record of this name that was measured otherwise.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure how the vectors that a run generates are spread beside the true ones, and keep both in RUN/distribution.

    Example: guiderec distribution RUN --data DIR, and then guiderec report RUN
    """
    from guiderec import api
    from guiderec.config import parse_assignments
    from guiderec.recipes.run import distribution as run_distribution

    overrides = parse_assignments(assignments or [])
    record = run_distribution(
        run, api.load(data), part, noise_seed=noise_seed, overrides=overrides, label=label, overwrite=overwrite
    )

    def show(console: Console) -> None:
        from guiderec.report import runs, tables

        for table in tables.distributions([runs.read(run)], f"{part}-{label}" if label else part):
            console.print(table.rich())

    answer({"run": run, **record}, as_json, show)

"""`guiderec report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from guiderec.cli.console import Json, answer

if TYPE_CHECKING:
    from rich.console import Console


def report(
    runs: Annotated[list[Path], typer.Argument(help="Directories of runs.", metavar="RUN...")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Directory to write.", show_default="RUN/report, for one run", metavar="DIR"),
    ] = None,
    part: Annotated[Literal["test", "valid"], typer.Option("--part", help="Part of the split.")] = "test",
    as_json: Json = False,
) -> None:
    """Write an HTML page, figures and tables (Markdown, LaTeX, CSV) about runs that were evaluated.

    Example: guiderec report runs/base-0 runs/new-0 --out runs/report
    """
    if out is None and len(runs) > 1:
        raise typer.BadParameter("a report on several runs needs a directory.", param_hint="--out")
    from guiderec.report.page import write

    written = write(runs, out or runs[0] / "report", part=part)
    result = {
        "page": written.page,
        "table": written.table,
        "latex": written.latex,
        "numbers": written.numbers,
        "figures": list(written.figures),
        "removed": list(written.removed),
    }

    def show(console: Console) -> None:
        console.print(f"{written.page}: open it in a browser.", markup=False, soft_wrap=True)
        console.print(
            f"{written.table}, {written.latex.name}, {written.numbers.name} and {len(written.figures)} figures lie "
            "beside it.",
            markup=False,
            soft_wrap=True,
        )
        if written.removed:
            names = ", ".join(path.name for path in written.removed)
            console.print(f"Removed, figures of the report before: {names}.", markup=False, soft_wrap=True)

    answer(result, as_json, show)

"""`guiderec doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guiderec.cli.console import Json, answer

if TYPE_CHECKING:
    from rich.console import Console

    from guiderec.data.doctor import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "failure": "red", "skipped": "dim"}


def doctor(
    path: Annotated[Path, typer.Argument(help="Folder of a prepared split.", metavar="SPLIT")],
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as failures.")] = False,
    as_json: Json = False,
) -> None:
    """Examine a split for faults that make numbers wrong. Exit status 1 when there are any, 2 if it cannot be read.

    Example: guiderec doctor splits/beauty --strict
    """
    from guiderec.data.doctor import examine, healthy
    from guiderec.data.prepared import load

    dataset = load(path)
    findings = examine(dataset)
    sound = healthy(findings, strict=strict)
    result = {"split": dataset.name, "healthy": sound, "strict": strict, "findings": [asdict(f) for f in findings]}
    answer(result, as_json, lambda console: _show(console, findings, sound))
    if not sound:
        raise typer.Exit(1)


def _show(console: Console, findings: list[Finding], sound: bool) -> None:
    for finding in findings:
        console.print(f"{finding.status:<8}", style=_COLOURS[finding.status], end="  ")
        count = f"{finding.count:,} of {finding.of:,} " if finding.count else ""
        console.print(f"{finding.check:<18} {finding.part:<6} {count}{finding.message}", markup=False, soft_wrap=True)
    console.print("The split is sound." if sound else "The split is not sound.", style="bold")

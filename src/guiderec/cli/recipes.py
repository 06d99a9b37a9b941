"""`guiderec recipes`."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guiderec.cli.console import Json, answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console


def recipes(
    name: Annotated[str | None, typer.Argument(help="Show all about one recipe.")] = None,
    as_json: Json = False,
) -> None:
    """List the recipes, or show one with all its options."""
    from guiderec.recipes import registry

    known = registry.recipes()
    if name is None:
        summaries = {each: summary(function) for each, function in known.items()}
        answer({"recipes": summaries}, as_json, lambda console: _show_all(console, summaries))
        return
    experiment = registry.recipe(name).to_plain()
    about = inspect.getdoc(known[name]) or ""

    def show(console: Console) -> None:
        console.print(name, style="bold", markup=False)
        console.print(about, markup=False)
        console.print(json.dumps(experiment, indent=2), markup=False, soft_wrap=True)

    answer({"recipe": name, "about": about, "experiment": experiment}, as_json, show)


def summary(function: Callable[..., Any]) -> str:
    """The first line of a function's docstring."""
    return next(iter((inspect.getdoc(function) or "").splitlines()), "")


def _show_all(console: Console, summaries: dict[str, str]) -> None:
    import rich.box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Recipe", no_wrap=True)
    table.add_column("What it is")
    for name, text in summaries.items():
        table.add_row(Text(name), Text(text))
    console.print(table)

"""`guiderec recipes`."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guiderec.cli.console import Json, answer
from guiderec.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="A recipe, to show all about it; or a model, to list its recipes.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--options", help="Of one recipe: say what every option means and may be.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the recipes, or show one with all its options.

    Example: guiderec recipes sasrec, and then guiderec recipes sasrec:beauty --options
    """
    from guiderec.config import options
    from guiderec.recipes import registry

    known = registry.recipes()
    of_model = {each: function for each, function in known.items() if name in (None, each.partition(":")[0])}
    if of_model:
        if explain:
            raise ConfigError("--options is about one recipe.", hint=f"for example {next(iter(of_model))}")
        summaries = {each: summary(function) for each, function in of_model.items()}
        answer({"recipes": summaries}, as_json, lambda console: _show_all(console, summaries))
        return
    assert name is not None
    recipe = registry.recipe(name)
    experiment, all_options = recipe.to_plain(), options(recipe)
    about = inspect.getdoc(known[name]) or ""

    def show(console: Console) -> None:
        from rich.padding import Padding
        from rich.text import Text

        console.print(name, style="bold", markup=False)
        console.print(about, markup=False)
        if not explain:
            console.print(json.dumps(experiment, indent=2), markup=False, soft_wrap=True)
            console.print(f"What each option means: guiderec recipes {name} --options", markup=False)
            return
        for option in all_options:
            console.print(f"{option.path}={json.dumps(option.value)}", style="bold", markup=False, end="  ")
            console.print(option.type, style="dim", markup=False, soft_wrap=True)
            if option.about:
                console.print(Padding(Text(option.about), (0, 0, 0, 4)))

    described = [option._asdict() for option in all_options]
    answer({"recipe": name, "about": about, "experiment": experiment, "options": described}, as_json, show)


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

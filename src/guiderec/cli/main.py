"""`guiderec`: the commands, and how their errors end.

Exit status: 0 done, 1 a split that `doctor` finds unsound, 2 a problem with the input (one line on stderr), 130
interrupted. A traceback is a fault of ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from guiderec.cli.compare import compare
from guiderec.cli.console import fail
from guiderec.cli.data import app as data
from guiderec.cli.demo import demo
from guiderec.cli.distribution import distribution
from guiderec.cli.doctor import doctor
from guiderec.cli.evaluate import evaluate
from guiderec.cli.index import index
from guiderec.cli.recipes import recipes
from guiderec.cli.recommend import recommend
from guiderec.cli.report import report
from guiderec.cli.serve import serve
from guiderec.cli.train import train
from guiderec.cli.tune import tune
from guiderec.errors import GuideRecError

app = typer.Typer(
    name="guiderec",
    help="Guided-diffusion sequential recommendation: train, evaluate honestly, and steer at request time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

for command in (train, tune, evaluate, distribution, recommend, compare, report, recipes, index, serve, demo, doctor):
    app.command()(command)
app.add_typer(data, name="data")

_UsageError: type[Exception] = typer.BadParameter.__mro__[2]
"""What unknown options and missing arguments raise: ClickException, which typer itself does not export."""

_INTERRUPTED = 130


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"guiderec {version('guiderec')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Guided-diffusion sequential recommendation: train, evaluate honestly, and steer at request time."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    as_json = "--json" in arguments
    try:
        status = app(arguments, prog_name="guiderec", standalone_mode=False)
        print(end="", flush=True)  # while what cannot be written is still an error like any other
    except GuideRecError as error:
        fail(str(error), kind=type(error).__name__, as_json=as_json)
        return 2
    except _UsageError as error:
        fail(error.format_message(), kind="UsageError", as_json=as_json)  # type: ignore[attr-defined]
        return 2
    except OSError as error:  # permissions, a full disk, a file where a directory should be
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}.", kind=type(error).__name__, as_json=as_json)
        _forget_what_cannot_be_written()
        return 2
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    if status == _INTERRUPTED:  # what typer makes of Ctrl-C inside a command
        fail("interrupted.", kind="Interrupted", as_json=as_json)
    return status if isinstance(status, int) else 0


def _forget_what_cannot_be_written() -> None:
    """Where stdout is a closed pipe or a full disk, Python would try again on exit, and complain over the error."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""`guiderec tune`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from guiderec.cli.console import Json, answer

if TYPE_CHECKING:
    from rich.console import Console

    from guiderec.report.tables import Table
    from guiderec.tuning.search import Trial, Tuned

_SHOWN = 10


def tune(
    what: Annotated[
        str, typer.Argument(help="A recipe, trained for every trial; or a run, whose weights are kept.", metavar="WHAT")
    ],
    data: Annotated[Path, typer.Option("--data", help="Folder of a prepared split.", metavar="DIR")],
    search: Annotated[
        list[str],
        typer.Option(
            "--search",
            metavar="OPTION=VALUES",
            help="What an option may be: 64,128 or 0.1:0.5 or 1e-4:1e-2:log; may be repeated.",
        ),
    ],
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, help="How many.", show_default="20, or all of a grid"),
    ] = None,
    method: Annotated[
        Literal["tpe", "random", "grid"],
        typer.Option("--method", help="tpe learns from the trials before, grid takes every combination."),
    ] = "tpe",
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="What is maximised on the validation part.", show_default="training.metric"),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Replace an option, for all trials; may be repeated.", metavar="OPTION=VALUE"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Of the choice of trials and of every training.")
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Give trainings up that fall behind the median of those before.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of the search.", show_default="runs/tune-WHAT"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a search, or add trials to it.")] = False,
    as_json: Json = False,
) -> None:
    """Search good options by the validation part of a split; the part to test is never looked at.

    Example: guiderec tune sasrec:beauty --data DIR --search model.dropout=0.1:0.6 --search model.dim=64,128 --prune
    """
    from guiderec import api
    from guiderec.config import parse_assignments
    from guiderec.tuning.space import Space

    folder = out or Path("runs") / f"tune-{what.rstrip('/').replace('/', '-').replace(':', '-')}"
    try:
        tuned = api.tune(
            what,
            data,
            Space.parse(search),
            out=folder,
            trials=20 if trials is None and method != "grid" else trials,
            method=method,
            metric=metric,
            overrides=parse_assignments(changes or []),
            seed=seed,
            prune=prune,
            resume=resume,
            progress=not as_json,
            tell=None if as_json else _tell,
        )
    except KeyboardInterrupt:
        typer.echo(f"The same command with --resume --out {folder} goes on where this one stopped.", err=True)
        raise

    def show(console: Console) -> None:
        console.print(_table(tuned).rich())
        console.print(_next(tuned, what, data, changes or []), markup=False, soft_wrap=True)

    found = {
        "out": tuned.out,
        "metric": tuned.metric,
        "best": tuned.best.to_plain(),
        "trials": [trial.to_plain() for trial in tuned.trials],
    }
    answer(found, as_json, show)


def _tell(trial: Trial) -> None:
    """One line for a trial that is done."""
    if trial.state == "failed":
        ended = f"failed: {trial.message}"
    elif trial.same_as is not None:
        ended = f"{trial.value:.4f}, as trial {trial.same_as}"
    else:
        ended = f"{trial.value:.4f}{', given up' * (trial.state == 'given_up')}"
    typer.echo(f"Trial {trial.number}: {_options(trial)}: {ended}", err=True)


def _options(trial: Trial) -> str:
    return ", ".join(f"{path}={_shown(value)}" for path, value in trial.options.items())


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def _table(tuned: Tuned) -> Table:
    """The best trials, each set of options once."""
    from guiderec.report.tables import Cell, Table, duration, title

    different = [trial for trial in tuned.trials if trial.same_as is None]
    measured = [trial for trial in different if trial.value is not None]
    ranked = sorted(measured, key=lambda trial: (-(trial.value or 0.0), trial.number))
    paths = list(tuned.trials[0].options)
    rows = tuple(
        (
            Cell(str(trial.number)),
            *(Cell(_shown(trial.options[path])) for path in paths),
            Cell(f"{trial.value:.4f}", strong=trial is tuned.best),
            Cell("given up" if trial.state == "given_up" else str(trial.epochs or "")),
            Cell(duration(trial.seconds)),
        )
        for trial in ranked[:_SHOWN]
    )
    kinds = {
        f"{len(tuned.trials)} trials": True,
        f"{len(tuned.trials) - len(different)} of them the same again": len(tuned.trials) > len(different),
        f"{len(different) - len(measured)} failed": len(different) > len(measured),
        f"the best {_SHOWN} are shown": len(measured) > _SHOWN,
    }
    note = f"{', '.join(text for text, true in kinds.items() if true)}. All are in {tuned.out / 'trials.csv'}."
    columns = ("Trial", *_short(paths), f"Validation {title(tuned.metric)}", "Epochs", "Time")
    return Table(f"Search of {', '.join(paths)}", columns, rows, note)


def _short(paths: list[str]) -> list[str]:
    """The last part of each path, and all of it where two end alike."""
    ends = [path.rpartition(".")[2] for path in paths]
    return [end if ends.count(end) == 1 else path for path, end in zip(paths, ends, strict=True)]


def _next(tuned: Tuned, what: str, data: Path, changes: list[str]) -> str:
    """What to do with the best options, and how far to trust them."""
    found = " ".join(f"--set {path}={_argument(value)}" for path, value in tuned.best.options.items())
    fixed = [f"--set {shlex.quote(change)}" for change in changes]
    run = tuned.out / "runs" / f"{tuned.best.number:04d}"
    evaluate = (
        f"guiderec evaluate {run} --data {data}"
        if run.is_dir()
        else f"guiderec evaluate {what} --data {data} {' '.join([*fixed, found])} --label tuned"
    )
    return (
        f"Best: trial {tuned.best.number}, {found}\n"
        "The greatest of many values flatters its options. Test them once, when nothing is left to choose:\n"
        f"  {evaluate}"
    )


def _argument(value: object) -> str:
    """A value as a shell takes it."""
    return shlex.quote(value if isinstance(value, str) else json.dumps(value))

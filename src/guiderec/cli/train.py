"""`guiderec train`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guiderec.cli.console import Json, answer
from guiderec.errors import CheckpointError

if TYPE_CHECKING:
    from rich.console import Console

    from guiderec.recipes.experiment import Experiment


def train(
    data: Annotated[Path, typer.Option("--data", help="Folder of a prepared split.", metavar="DIR")],
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="Name of a recipe, as `guiderec recipes` lists them.",
            show_default="guided_sasrec:default; with --resume --out RUN, what RUN was begun with",
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Replace an option of the recipe; may be repeated.", metavar="OPTION=VALUE"),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="METRIC",
            help="Keep the weights that are best by this on the validation rows, as in ndcg@10.",
            show_default="what the recipe names",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Replace the recipe's seed.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="RUN", help="Directory of the run.", show_default="runs/RECIPE-seedSEED"),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with an interrupted run, or with a finished one that is given more steps."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a recipe on a split and keep the best model.

    Example: guiderec train steerrec:beauty --data splits/beauty --set model.dim=256 --seed 0 --out runs/wide
    """
    from guiderec import api
    from guiderec.config import parse_assignments
    from guiderec.recipes.run import train as run_training

    overrides = parse_assignments([*(changes or []), *([f"training.metric={metric}"] if metric else [])])
    base = _begun(out) if resume and recipe is None and out else recipe or api.DEFAULT_RECIPE
    experiment = api.configure(base, overrides, seed)
    dataset = api.load(data)
    run = out or Path("runs") / f"{experiment.recipe.replace(':', '-')}-seed{experiment.seed}"
    try:
        outcome = run_training(experiment, dataset, run, resume=resume, progress=not as_json)
    except KeyboardInterrupt:
        typer.echo(f"The same command with --resume --out {run} goes on where this one stopped.", err=True)
        raise

    def show(console: Console) -> None:
        from guiderec.report.tables import duration, title

        metrics = ", ".join(f"{title(name)} {value:.4f}" for name, value in outcome.best_metrics.items())
        console.print(f"{experiment.recipe}: {outcome.epochs} epochs, {outcome.steps:,} steps, "
                      f"{duration(outcome.seconds)}; stopped: {outcome.reason}.", markup=False)  # fmt: skip
        console.print(f"Best validation (epoch {outcome.best_epoch}): {metrics}.", markup=False)
        console.print(f"Next: guiderec evaluate {run} --data {data}", markup=False, soft_wrap=True)

    answer({"run": run, "recipe": experiment.recipe, "seed": experiment.seed, **asdict(outcome)}, as_json, show)


def _begun(run: Path) -> Experiment:
    """The experiment of a run that is to go on."""
    from guiderec.recipes.run import read_experiment

    if not (run / "experiment.json").exists():
        raise CheckpointError(f"{run}: there is no run to go on with.", hint="name the recipe to begin one")
    return read_experiment(run)

"""`guiderec demo`: the whole way on a small synthetic catalogue, from data to a steered list and a report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guiderec.cli.console import Json, answer
from guiderec.cli.recommend import Effect, Item, dislike_effect, list_table, named, ranked
from guiderec.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from guiderec.api import Model
    from guiderec.data.dataset import Dataset
    from guiderec.data.synthetic import SyntheticData

RECIPES = ("popularity:default", "sasrec:demo", "steerrec:demo")
METRICS = ("recall@10", "ndcg@10")
LENGTH = 10


def demo(
    out: Annotated[Path, typer.Option("--out", help="Directory of the runs and the report.", metavar="DIR")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the data and the models.")] = 0,
    as_json: Json = False,
) -> None:
    """Train three models on an embedded synthetic catalogue, compare them, and steer one person's list."""
    from guiderec.api import Model
    from guiderec.data import prepared, synthetic
    from guiderec.report import runs as records
    from guiderec.report import tables
    from guiderec.report.page import write

    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty.", hint="remove it, or choose another directory with --out")
    begun = time.monotonic()
    data = synthetic.make(seed=seed)
    prepared.save(data.dataset, out / "data")
    runs = [_run(recipe, data.dataset, out, seed, quiet=as_json) for recipe in RECIPES]
    written = write(runs, out / "report")
    visit = meet(data, Model.from_pretrained(runs[-1]))
    evaluated = [records.read(run) for run in runs]
    seconds = time.monotonic() - begun

    def show(console: Console) -> None:
        for table in tables.results(evaluated):
            console.print(table.rich())
        visit.show(console)
        console.print(f"Report: {written.page} (open it in a browser). The runs and the split lie in {out}.",
                      markup=False, soft_wrap=True)  # fmt: skip
        console.print(f"Done in {tables.duration(seconds)}.", style="dim")

    result = {
        "metrics": {name: run.evaluations["test"].metrics for name, run in zip(RECIPES, evaluated, strict=True)},
        "person": visit.to_plain(),
        "runs": runs,
        "report": written.page,
        "seconds": round(seconds, 1),
    }
    answer(result, as_json, show)


@dataclass(frozen=True)
class Visit:
    """One person, their list, and the list after they disliked one item of it."""

    user: int
    model: str
    history: list[Item]
    before: list[Item]
    disliked: Item
    after: list[Item]
    effect: Effect

    def to_plain(self) -> dict[str, object]:
        """The visit as plain data."""
        return asdict(self)

    def show(self, console: Console) -> None:
        """The visit as a story of two lists."""
        console.print(f"One person (user {self.user}) chose, oldest first:", style="bold", markup=False)
        console.print("  " + ", ".join(item["name"] for item in self.history) + "\n", markup=False)
        console.print(f"{self.model} recommends:", style="bold", markup=False)
        console.print(list_table(self.before))
        console.print(f"After a dislike of {self.disliked['name']}:", style="bold", markup=False)
        console.print(list_table(self.after))
        console.print(self.effect.explain(self.model, len(self.after)) + "\n", markup=False)


def meet(data: SyntheticData, model: Model) -> Visit:
    """The first person of the test part whose list holds something they are planted to dislike, and that dislike.

    Where no list does, the first person dislikes the top of their list.
    """
    rows = data.dataset.test
    vocabulary = data.dataset.vocabulary
    for row in range(len(rows)):
        user = int(rows.users()[row])
        history = _history(data.dataset, row)
        before = ranked(model, history, k=LENGTH)
        unwanted = set(vocabulary.decode(sorted(data.dislikes.get(user, ()))))
        hits = [item for item in before if item["item_id"] in unwanted]
        if hits:
            return _visit(model, user, history, before, hits[0])
    first = _history(data.dataset, 0)
    before = ranked(model, first, k=LENGTH)
    return _visit(model, int(rows.users()[0]), first, before, before[0])


def _visit(model: Model, user: int, history: Sequence[str], before: list[Item], disliked: Item) -> Visit:
    after = ranked(model, history, k=LENGTH, dislikes=[disliked["item_id"]])
    plain = ranked(model, history, k=LENGTH + 1)
    effect = dislike_effect(after, plain, [disliked])
    return Visit(user, model.name, named(model, history), before, disliked, after, effect)


def _history(dataset: Dataset, row: int) -> list[str]:
    """Raw ids of the history of a row of the test part, oldest first."""
    rows = dataset.test
    items = rows.sequences[int(rows.sequence[row])][: int(rows.position[row])]
    return list(dataset.vocabulary.decode(items.tolist()))  # type: ignore[arg-type]


def _run(recipe: str, dataset: Dataset, out: Path, seed: int, *, quiet: bool) -> Path:
    """Train and evaluate one recipe; the directory of the run."""
    from guiderec import api
    from guiderec.recipes import run as runs

    if not quiet:
        typer.echo(f"Training {recipe} ...", err=True)
    run = out / recipe.partition(":")[0]
    experiment = api.configure(recipe, {"metrics": METRICS}, seed)
    runs.train(experiment, dataset, run, progress=not quiet)
    runs.evaluate(run, dataset)
    return run

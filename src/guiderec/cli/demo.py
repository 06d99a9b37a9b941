"""`guiderec demo`: the whole way on a small synthetic catalogue, from data to a steered list and a report."""

from __future__ import annotations

import time
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
    from guiderec.data.dataset import Dataset, RawId
    from guiderec.data.synthetic import SyntheticData

RECIPES = ("popularity:default", "sasrec:demo", "steerrec:demo", "guided_sasrec:demo")
METRICS = ("recall@10", "ndcg@10")
LENGTH = 10


def demo(
    out: Annotated[Path, typer.Option("--out", help="Directory of the runs and the report.", metavar="DIR")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the data and the models.")] = 0,
    as_json: Json = False,
) -> None:
    """Train four models on an embedded synthetic catalogue, compare them, and steer one person's list."""
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
    """One person, their list, and the list after they disliked one item of it. Items know their shelf."""

    user: int
    model: str
    avoids: list[str]
    """Shelves that the person is planted to avoid; no model is told."""
    history: list[Item]
    before: list[Item]
    disliked: Item
    after: list[Item]
    effect: Effect

    def to_plain(self) -> dict[str, object]:
        """The visit as plain data."""
        return {**asdict(self), "avoided_before": self.avoided(self.before), "avoided_after": self.avoided(self.after)}

    def avoided(self, items: list[Item]) -> int:
        """How many of `items` stand on a shelf that the person avoids."""
        return sum(item["shelf"] in self.avoids for item in items)

    def show(self, console: Console) -> None:
        """The visit as a story of two lists."""
        console.print(f"Person {self.user} chose, oldest first:", style="bold", markup=False)
        for item in self.history:
            console.print(f"  {item['name']}", markup=False)
        console.print(f"\n{self.model} recommends:", style="bold", markup=False)
        console.print(list_table(self.before, extra=["shelf"]))
        console.print(f"After a dislike of {self.disliked['name']}:", style="bold", markup=False)
        console.print(list_table(self.after, extra=["shelf"]))
        console.print(self.effect.explain(self.model, len(self.after)), markup=False)
        if self.avoids:
            console.print(
                f"This person is made to avoid {' and '.join(self.avoids)}, and no model was told: "
                f"{self.avoided(self.before)} such items before the dislike, {self.avoided(self.after)} after.\n",
                markup=False,
            )


def meet(data: SyntheticData, model: Model) -> Visit:
    """The person of the test part whose list holds most of what they are planted to avoid; they dislike the first such.

    Of several, the first person. Where no list holds any, the first person dislikes the top of their list.
    """
    import numpy as np

    users = data.dataset.test.users()
    histories = [_history(data.dataset, row) for row in range(len(users))]
    lists = model.recommend(histories, k=LENGTH)["item_id"].to_numpy().reshape(len(users), LENGTH)
    avoided = np.array([data.dislikes_of(user, items) for user, items in zip(users, lists, strict=True)])
    row = int(avoided.sum(axis=1).argmax())
    before = ranked(model, histories[row], k=LENGTH)
    return _visit(data, model, row, before, before[int(avoided[row].argmax())])


def _visit(data: SyntheticData, model: Model, row: int, before: list[Item], disliked: Item) -> Visit:
    user = int(data.dataset.test.users()[row])
    history = _history(data.dataset, row)
    after = ranked(model, history, k=LENGTH, dislikes=[disliked["item_id"]])
    effect = dislike_effect(after, ranked(model, history, k=LENGTH + 1), [disliked])
    shelved = [_with_shelves(data, items) for items in (named(model, history), before, [disliked], after)]
    return Visit(
        user=user,
        model=model.name,
        avoids=data.dislikes.names(user),
        history=shelved[0],
        before=shelved[1],
        disliked=shelved[2][0],
        after=shelved[3],
        effect=effect,
    )


def _with_shelves(data: SyntheticData, items: list[Item]) -> list[Item]:
    import numpy as np

    table = data.catalogue.table(np.array([item["item_id"] for item in items], dtype=np.int64))
    shelves = zip(table["category"], table["subcategory"], strict=True)
    return [{**item, "shelf": f"{c} / {s}"} for item, (c, s) in zip(items, shelves, strict=True)]


def _history(dataset: Dataset, row: int) -> list[RawId]:
    """Raw ids of the history of a row of the test part, oldest first."""
    rows = dataset.test
    items = rows.sequences[int(rows.sequence[row])][: int(rows.position[row])]
    return dataset.vocabulary.decode(items.tolist())


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

"""`guiderec recommend`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from guiderec.cli.bulk import Source, recommend_to_everybody
from guiderec.cli.console import Json, answer
from guiderec.cli.data import Item as ItemColumn
from guiderec.cli.data import Order, Time, Unit, User
from guiderec.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from guiderec.api import Model
    from guiderec.data.dataset import RawId

Item = dict[str, Any]
"""`item_id`, `name`, and in a list also `rank`, `score`, and `interest` where the model has several."""

_IDS = "Item ids, comma-separated; may be repeated."


def recommend(
    run: Annotated[Path, typer.Argument(help="Directory of a run or of a saved model.", metavar="RUN")],
    history: Annotated[
        list[str] | None, typer.Option("--history", help=f"Items of the person, oldest first. {_IDS}", metavar="IDS")
    ] = None,
    like: Annotated[
        list[str] | None, typer.Option("--like", help=f"Items to pull towards. {_IDS}", metavar="IDS")
    ] = None,
    dislike: Annotated[
        list[str] | None, typer.Option("--dislike", help=f"Items to push away from. {_IDS}", metavar="IDS")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of recommendations.")] = 10,
    guidance_scale: Annotated[
        float | None,
        typer.Option("--guidance-scale", help="Strength of guidance; 0 is off. [default: the model's own]"),
    ] = None,
    exclude_seen: Annotated[
        bool, typer.Option("--exclude-seen", help="Leave the items of the history out of the list.")
    ] = False,
    diversity: Annotated[
        float | None,
        typer.Option(
            "--diversity",
            help="Choose the list by score + this times the number of chosen items of another category. [default: off]",
            metavar="LAMBDA",
        ),
    ] = None,
    all_users: Annotated[
        Path | None,
        typer.Option("--all-users", help="Recommend to every user of this log or prepared split.", metavar="LOG|SPLIT"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="With --all-users: folder of Parquet files; an interrupted one is completed."),
    ] = None,
    shard_rows: Annotated[
        int | None, typer.Option("--shard-rows", min=1, help="With --all-users: users per file. [default: 16384]")
    ] = None,
    drop_unknown: Annotated[
        bool, typer.Option("--drop-unknown", help="With --all-users: leave out events of items the model lacks.")
    ] = False,
    ray: Annotated[
        int | None,
        typer.Option("--ray", min=1, help="With --all-users: share the work among so many Ray workers.", metavar="N"),
    ] = None,
    user: User = None,
    item: ItemColumn = None,
    time: Time = None,
    time_unit: Unit = "s",
    order: Order = "time",
    as_json: Json = False,
) -> None:
    """Recommend items for one history, and say how dislikes were honoured; or for every user of a log.

    Example: guiderec recommend runs/mine --history B001,B002 --dislike B003 -k 10

    Example: guiderec recommend runs/mine --all-users log.parquet --out lists
    """
    columns = {"user": user, "item": item, "time": time}
    asked = {"k": k, "exclude_seen": exclude_seen, "guidance_scale": guidance_scale, "diversity": diversity}
    if all_users is not None:
        _refuse(
            {"--history": history, "--like": like, "--dislike": dislike},
            "belong to one person, and --all-users takes the histories of the log",
            hint="leave them out",
        )
        if out is None:
            raise ConfigError("--all-users needs a folder to write to.", hint="--out FOLDER")
        sharding = {} if shard_rows is None else {"shard_rows": shard_rows}
        recommend_to_everybody(
            run,
            Source(all_users, columns, time_unit, order),
            out,
            drop_unknown=drop_unknown,
            ray_workers=ray,
            options=asked | sharding,
            as_json=as_json,
        )
        return
    _refuse(
        {"--out": out, "--shard-rows": shard_rows, "--drop-unknown": drop_unknown, "--ray": ray}
        | {f"--{role}": column for role, column in columns.items()},
        "belong to --all-users",
        hint="add --all-users LOG",
    )
    from guiderec.api import Model

    model = Model.from_pretrained(run)
    items, likes, dislikes = split_ids(history), split_ids(like), split_ids(dislike)
    options: dict[str, Any] = {
        "likes": [likes] if likes else None,
        "guidance_scale": guidance_scale,
        "exclude_seen": exclude_seen,
    }
    recommendations = ranked(model, items, k=k, dislikes=dislikes, diversity=diversity, **options)
    effect = None
    if dislikes:  # asked without diversity, which also changes what follows a disliked item
        reach = min(k + len(dislikes), len(model.vocabulary))
        steered = ranked(model, items, k=k, dislikes=dislikes, **options) if diversity else recommendations
        effect = dislike_effect(steered, ranked(model, items, k=reach, **options), named(model, dislikes))
    given = {"history": named(model, items), "likes": named(model, likes), "dislikes": named(model, dislikes)}
    result = {
        "model": model.name,
        "steers": model.steers,
        "dislikes_honoured": effect.honoured if effect else None,
        "new_by_steering": effect.new if effect else None,
        "guidance_scale": guidance_scale,
        "diversity": diversity,
        "interests": model.n_interests,
        **given,
        "recommendations": recommendations,
    }

    def show(console: Console) -> None:
        for what, listed in given.items():
            if listed:
                names = ", ".join(item["name"] for item in listed)
                console.print(f"{what.capitalize()}: {names}", markup=False)
        console.print(list_table(recommendations, extra=["interest"] if model.n_interests > 1 else []))
        if effect:
            console.print(effect.explain(model.name, len(recommendations)), markup=False)

    answer(result, as_json, show)


def _refuse(options: dict[str, Any], why: str, *, hint: str) -> None:
    """ConfigError if any of these options was given."""
    if given := [name for name, value in options.items() if value]:
        raise ConfigError(f"{', '.join(given)} {why}.", hint=hint)


def split_ids(texts: list[str] | None) -> list[str]:
    """`["a,b", "c"]` -> `["a", "b", "c"]`."""
    return [part.strip() for text in texts or [] for part in text.split(",") if part.strip()]


def ranked(
    model: Model, items: Sequence[RawId], *, k: int, dislikes: Sequence[RawId] = (), **options: Any
) -> list[Item]:
    """The k best items for one history: rank, item_id, name, score, and interest where the model has several."""
    frame = model.recommend([items], k=k, dislikes=[list(dislikes)] if dislikes else None, **options)
    return frame.select("rank", "item_id", "name", "score", *(["interest"] * (model.n_interests > 1))).to_dicts()


@dataclass(frozen=True)
class Effect:
    """What dislikes did to a list, seen by comparing it with the list without them."""

    honoured: Literal["steered", "filtered"]
    """`filtered`: the same scores as without the dislikes, only the disliked items are gone."""
    new: int
    """Number of items that filtering alone would not have brought into the list."""

    def explain(self, model: str, length: int) -> str:
        """One sentence or two for a person."""
        if self.honoured == "filtered":
            return f"The dislikes were only filtered from the list: they did not change the scores of {model}."
        return (
            f"The dislikes steered {model}: {self.new} of {length} items differ from what filtering alone would give. "
            "The disliked items themselves are never in the list."
        )


def dislike_effect(steered: list[Item], plain: list[Item], dislikes: list[Item]) -> Effect:
    """What the dislikes did: `steered` is the list with them, `plain` the longer list without them.

    Measured and not asked of the model, so the answer is true for any model, guidance and strength.
    """
    gone = {item["item_id"] for item in dislikes}
    filtered = [item for item in plain if item["item_id"] not in gone][: len(steered)]
    same = [(item["item_id"], item["score"]) for item in steered] == [(i["item_id"], i["score"]) for i in filtered]
    new = len({item["item_id"] for item in steered} - {item["item_id"] for item in filtered})
    return Effect("filtered" if same else "steered", new)


def named(model: Model, items: Sequence[RawId]) -> list[Item]:
    """Ids as the catalogue writes them, with what to call them."""
    known = model.vocabulary.encode(items)
    pairs = zip(model.vocabulary.decode(known), model.vocabulary.names(known), strict=True)
    return [{"item_id": raw, "name": name} for raw, name in pairs]


def list_table(recommendations: list[Item], *, extra: Sequence[str] = ()) -> Any:
    """Recommendations as a table for the terminal; `extra` names further entries to show beside the name."""
    import rich.box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", justify="right")
    for name in ("name", *extra, "item"):
        table.add_column(name.capitalize(), overflow="fold")
    table.add_column("Score", justify="right")
    for row in recommendations:
        words = [Text(str(row[key])) for key in ("name", *extra, "item_id")]
        table.add_row(str(row["rank"]), *words, f"{row['score']:.4f}")
    return table

"""`guiderec recommend`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from guiderec.cli.bulk import recommend_to_everybody
from guiderec.cli.console import Json, answer
from guiderec.cli.data import Columns, Encoding, Order, Separator, Source, TextForm, Time, Unit, User
from guiderec.cli.data import Item as ItemColumn
from guiderec.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from guiderec.api import Model
    from guiderec.data.dataset import RawId
    from guiderec.wishes import Wish

Item = dict[str, Any]
"""`item_id`, `name`, and in a list also `rank`, `score`, and `interest` where the model has several."""

_IDS = "Item ids, comma-separated, one with a comma in double quotes; may be repeated."


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
    like_category: Annotated[
        list[str] | None,
        typer.Option("--like-category", help="Category to pull towards; may be repeated.", metavar="NAME"),
    ] = None,
    dislike_category: Annotated[
        list[str] | None,
        typer.Option("--dislike-category", help="Category to push away from; may be repeated.", metavar="NAME"),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what the history and each wish added to every score.")
    ] = False,
    k: Annotated[
        int | None,
        typer.Option("-k", min=1, help="Number of recommendations.", show_default="10, or all items if they are fewer"),
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option("--guidance-scale", help="Strength of guidance; 0 is off.", show_default="the model's own"),
    ] = None,
    exclude_seen: Annotated[
        bool, typer.Option("--exclude-seen", help="Leave the items of the history out of the list.")
    ] = False,
    diversity: Annotated[
        float | None,
        typer.Option(
            "--diversity",
            help="Choose the list by score + this times the number of chosen items of another category.",
            show_default="off",
            metavar="LAMBDA",
        ),
    ] = None,
    index: Annotated[
        bool, typer.Option("--index", help="Find items through the index that `guiderec index` built in RUN.")
    ] = False,
    all_users: Annotated[
        Path | None,
        typer.Option("--all-users", help="Recommend to every user of this log or prepared split.", metavar="LOG|SPLIT"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="With --all-users: folder of Parquet files; an interrupted one is completed."),
    ] = None,
    shard_rows: Annotated[
        int | None, typer.Option("--shard-rows", min=1, help="With --all-users: users per file.", show_default="16384")
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
    separator: Separator = None,
    columns: Columns = None,
    encoding: Encoding = "utf-8",
    as_json: Json = False,
) -> None:
    """Recommend items for one history, and say how dislikes were honoured; or for every user of a log.

    Example: guiderec recommend runs/mine --history B001,B002 --dislike B003 -k 10

    Example: guiderec recommend runs/mine --all-users log.parquet --out lists
    """
    roles = {"user": user, "item": item, "time": time}
    text = TextForm(separator, columns, encoding)
    asked: dict[str, Any] = {
        "k": k,
        "exclude_seen": exclude_seen,
        "guidance_scale": guidance_scale,
        "diversity": diversity,
    }
    if all_users is not None:
        _refuse(
            {"--history": history, "--like": like, "--dislike": dislike}
            | {"--like-category": like_category, "--dislike-category": dislike_category, "--explain": explain},
            "to one person, and --all-users takes the histories of the log",
            hint="leave them out",
        )
        if out is None:
            raise ConfigError("--all-users needs a folder to write to.", hint="--out FOLDER")
        sharding = {} if shard_rows is None else {"shard_rows": shard_rows}
        recommend_to_everybody(
            run,
            Source(all_users, roles, time_unit, order, text),
            out,
            index=index,
            drop_unknown=drop_unknown,
            ray_workers=ray,
            options=asked | sharding,
            as_json=as_json,
        )
        return
    _refuse(
        {"--out": out, "--shard-rows": shard_rows, "--drop-unknown": drop_unknown, "--ray": ray}
        | {f"--{role}": column for role, column in roles.items()}
        | dict.fromkeys(text.given(), True),
        "to --all-users",
        hint="add --all-users LOG",
    )
    _recommend_to_one(
        run,
        split_ids(history),
        Said(split_ids(like), like_category or []),
        Said(split_ids(dislike), dislike_category or []),
        index=index,
        explain=explain,
        as_json=as_json,
        **asked,
    )


@dataclass(frozen=True)
class Said:
    """What somebody likes or dislikes, as it was typed."""

    items: list[str]
    categories: list[str]

    def wishes(self) -> list[Wish]:
        """As the model takes them."""
        from guiderec.wishes import Category

        return [*self.items, *map(Category, self.categories)]

    def plain(self, model: Model) -> list[Item]:
        """Items with what to call them, and categories."""
        return named(model, self.items) + [{"category": name} for name in self.categories]


def _recommend_to_one(
    run: Path,
    history: list[str],
    likes: Said,
    dislikes: Said,
    *,
    index: bool,
    explain: bool,
    as_json: bool,
    k: int | None,
    exclude_seen: bool,
    guidance_scale: float | None,
    diversity: float | None,
) -> None:
    """What the command does for one history."""
    from guiderec.api import Model

    model = Model.from_pretrained(run, index=index)
    k = model.list_length(k)
    # before the model is asked: it would say of an unknown item which query it was in
    given = {"history": named(model, history), "likes": likes.plain(model), "dislikes": dislikes.plain(model)}
    liked, disliked = likes.wishes(), dislikes.wishes()
    options: dict[str, Any] = {
        "likes": [liked] if liked else None,
        "guidance_scale": guidance_scale,
        "exclude_seen": exclude_seen,
    }
    recommendations = ranked(model, history, k=k, dislikes=disliked, diversity=diversity, explain=explain, **options)
    effect = None
    if disliked:  # asked without diversity, which also changes what follows a disliked item, and of all items
        model.detach_index()
        gone = model.meant(disliked)
        reach = min(k + len(gone), len(model.vocabulary))
        steered = (
            ranked(model, history, k=k, dislikes=disliked, **options)
            if diversity or explain or index
            else recommendations
        )
        effect = dislike_effect(steered, ranked(model, history, k=reach, **options), named(model, gone))
    result = {
        "model": model.name,
        "steers": model.steers,
        "dislikes_honoured": effect.honoured if effect else None,
        "likes_honoured": model.honours.likes if liked else None,
        "new_by_steering": effect.new if effect else None,
        "guidance_scale": guidance_scale,
        "diversity": diversity,
        "interests": model.n_interests,
        "candidates": "index" if index else "all",
        **given,
        "recommendations": recommendations,
    }

    def show(console: Console) -> None:
        for what, listed in given.items():
            if listed:
                names = ", ".join(item.get("name") or f"all of {item['category']}" for item in listed)
                console.print(f"{what.capitalize()}: {names}", markup=False)
        console.print(list_table(recommendations, extra=["interest"] if model.n_interests > 1 else []))
        if index:
            console.print("Found through the index: now and then an item of the best is missed.", markup=False)
        if explain:
            console.print(contribution_table(model, recommendations))
        if effect:
            console.print(effect.explain(model.name, len(recommendations)), markup=False)
        if liked and model.honours.likes == "history":
            console.print(f"{model.name} cannot be pulled: the likes were taken for the newest items of the history.",
                          markup=False)  # fmt: skip

    answer(result, as_json, show)


def _refuse(options: dict[str, Any], whose: str, *, hint: str) -> None:
    """ConfigError if any of these options was given: they belong `whose`."""
    if given := [name for name, value in options.items() if value]:
        raise ConfigError(f"{', '.join(given)} {'belongs' if len(given) == 1 else 'belong'} {whose}.", hint=hint)


def split_ids(texts: list[str] | None) -> list[str]:
    """`["a,b", "c"]` -> `["a", "b", "c"]`; what stands in double quotes is one id, `'"a,b"'` -> `["a,b"]`."""
    found = [_ID.fullmatch(piece) for text in texts or [] for piece in _PIECE.findall(text)]
    ids = [match["bare"] if match["quoted"] is None else match["quoted"].replace('""', '"') for match in found if match]
    return [each for each in ids if each]


_PIECE = re.compile(r'\s*"(?:[^"]|"")*"\s*(?=,|$)|[^,]+')
_ID = re.compile(r'\s*(?:"(?P<quoted>(?:[^"]|"")*)"|(?P<bare>.*?))\s*', re.DOTALL)


def ranked(
    model: Model, items: Sequence[RawId], *, k: int, dislikes: Sequence[Wish] = (), **options: Any
) -> list[Item]:
    """The k best items for one history: rank, item_id, name, score, interest where the model has several.

    With `explain` also the contributions to the score.
    """
    frame = model.recommend([items], k=k, dislikes=[list(dislikes)] if dislikes else None, **options)
    more = [name for name in ("interest", "contributions") if name in frame.columns]
    return frame.select("rank", "item_id", "name", "score", *more).to_dicts()


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


def contribution_table(model: Model, recommendations: list[Item]) -> Any:
    """What the history and each wish added to the scores, one column each."""
    import rich.box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, title="What made the score")
    table.add_column("", justify="right")
    table.add_column("Item", overflow="fold")
    for part in recommendations[0]["contributions"] if recommendations else []:
        table.add_column(Text(_source(model, part)), justify="right", overflow="fold")
    table.add_column("Score", justify="right")
    for row in recommendations:
        amounts = [f"{part['amount']:+.3f}" for part in row["contributions"]]
        table.add_row(str(row["rank"]), Text(str(row["name"])), *amounts, f"{row['score']:.3f}")
    return table


def _source(model: Model, part: dict[str, Any]) -> str:
    if part["item_id"] is not None:
        return f"{part['source']} {named(model, [part['item_id']])[0]['name']}"
    return f"{part['source']} {part['category']}" if part["category"] else str(part["source"])

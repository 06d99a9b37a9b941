"""`guiderec data describe` and `guiderec data prepare`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from guiderec.cli.console import Json, answer

if TYPE_CHECKING:
    from rich.console import Console

    from guiderec.data.dataset import Dataset
    from guiderec.data.interactions import Interactions
    from guiderec.data.prepared import ItemTable
    from guiderec.data.protocols import Protocol

app = typer.Typer(name="data", help="Look at logs and splits; make splits from logs.", no_args_is_help=True)

User = Annotated[
    str | None, typer.Option("--user", help="Column of users.", show_default="recognised", metavar="COLUMN")
]
Item = Annotated[
    str | None, typer.Option("--item", help="Column of items.", show_default="recognised", metavar="COLUMN")
]
Time = Annotated[
    str | None, typer.Option("--time", help="Column of times.", show_default="recognised", metavar="COLUMN")
]
Rating = Annotated[str | None, typer.Option("--rating", help="Column of ratings.", show_default="recognised",
                                            metavar="COLUMN")]  # fmt: skip
Unit = Annotated[Literal["s", "ms", "us", "ns"], typer.Option("--time-unit", help="Unit of times that are numbers.")]
Order = Annotated[Literal["time", "row"], typer.Option("--order", help="What orders the events of a user.")]


Separator = Annotated[
    str | None,
    typer.Option("--separator", help="What separates the fields of a text file: '::', ';', '|', '\\t'.",
                 show_default="from the ending", metavar="TEXT"),
]  # fmt: skip
Columns = Annotated[
    str | None,
    typer.Option("--columns", help="Names of all fields of a text file without a header.",
                 show_default="first line", metavar="NAME,NAME,..."),
]  # fmt: skip
Encoding = Annotated[str, typer.Option("--encoding", help="Encoding of a text file: utf-8, latin-1, ...")]


@dataclass(frozen=True)
class TextForm:
    """How to read a text file, as it was typed."""

    separator: str | None = None
    columns: str | None = None
    encoding: str = "utf-8"

    def options(self) -> dict[str, Any]:
        """The same for the library: a typed backslash and t is a tab, names are a list."""
        separator = None if self.separator is None else self.separator.replace("\\t", "\t")
        columns = None if self.columns is None else [name.strip() for name in self.columns.split(",")]
        return {"separator": separator, "columns": columns, "encoding": self.encoding}

    def given(self, prefix: str = "--") -> list[str]:
        """The options that were given."""
        default = TextForm()
        return [f"{prefix}{name}" for name, value in vars(self).items() if value != getattr(default, name)]


@dataclass(frozen=True)
class Source:
    """A log and how to read it, or a prepared split."""

    path: Path
    columns: dict[str, str | None]
    """Columns of the log by role."""
    time_unit: Any
    order: Any
    text: TextForm

    def read(self) -> Interactions | Dataset:
        """The log, lazily, or the split. ConfigError for columns of a split, which is no log."""
        from guiderec.data.prepared import load
        from guiderec.errors import ConfigError

        if not self.path.is_dir():
            return self.log()
        if given := [*(f"--{role}" for role, column in self.columns.items() if column), *self.text.given()]:
            raise ConfigError(f"{self.path} is a split, not a log: {', '.join(given)} cannot apply to it.")
        return load(self.path)

    def log(self, name: str | None = None) -> Interactions:
        """The log, lazily."""
        from guiderec.data.interactions import Interactions

        options: dict[str, Any] = {**self.columns, **self.text.options()}
        return Interactions.read(self.path, **options, time_unit=self.time_unit, order=self.order, name=name)


@app.command()
def describe(
    path: Annotated[Path, typer.Argument(help="A log, or the folder of a prepared split.", metavar="LOG|SPLIT")],
    user: User = None,
    item: Item = None,
    time: Time = None,
    rating: Rating = None,
    time_unit: Unit = "s",
    order: Order = "time",
    separator: Separator = None,
    columns: Columns = None,
    encoding: Encoding = "utf-8",
    as_json: Json = False,
) -> None:
    """Say what a log or a split is: counts, lengths, density, popularity, cold targets, empty histories.

    Example: guiderec data describe splits/beauty
    """
    from guiderec.data.dataset import Dataset
    from guiderec.data.describe import describe as describe_split
    from guiderec.data.describe import describe_log

    roles = {"user": user, "item": item, "time": time, "rating": rating}
    source = Source(path, roles, time_unit, order, TextForm(separator, columns, encoding)).read()
    if isinstance(source, Dataset):
        split = describe_split(source)
        answer(split, as_json, lambda console: _show_split(console, split))
        return
    log = describe_log(source)
    answer(log, as_json, lambda console: _show_log(console, log))


@app.command()
def prepare(
    source: Annotated[
        Path,
        typer.Argument(
            help="A log (.csv, .tsv, .inter, .txt, .dat, .data, .jsonl, .parquet), or a split to divide anew.",
            metavar="LOG",
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="Folder to write; must not exist or be empty.", metavar="SPLIT")],
    protocol: Annotated[
        Literal["user-split", "leave-one-out", "session-split", "global-time", "impressions", "drawn-impressions"],
        typer.Option("--protocol", help="How the log is divided."),
    ] = "leave-one-out",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Set an option of the protocol; may be repeated.", metavar="OPTION=VALUE"),
    ] = None,
    user: User = None,
    item: Item = None,
    time: Time = None,
    rating: Rating = None,
    time_unit: Unit = "s",
    order: Order = "time",
    separator: Separator = None,
    columns: Columns = None,
    encoding: Encoding = "utf-8",
    drop_duplicates: Annotated[bool, typer.Option("--drop-duplicates", help="Keep the first of equal events.")] = False,
    min_rating: Annotated[float | None, typer.Option("--min-rating", help="Keep events rated at least so.")] = None,
    min_length: Annotated[int | None, typer.Option("--min-length", help="Keep users with so many events.")] = None,
    k_core: Annotated[int | None, typer.Option("--k-core", help="Keep users and items with so many events.")] = None,
    dislike_at_most: Annotated[
        float | None,
        typer.Option("--dislike-at-most", help="Keep as dislikes what is rated so or less after the history."),
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(
            "--items", help="Table of items (Parquet, text, JSON lines): item, name, category.", metavar="FILE"
        ),
    ] = None,
    item_id: Annotated[
        str, typer.Option("--item-id", help="Column of --items with the ids of the log.", metavar="COLUMN")
    ] = "item",
    items_separator: Annotated[
        str | None,
        typer.Option(
            "--items-separator", help="As --separator, for --items.", show_default="from the ending", metavar="TEXT"
        ),
    ] = None,
    items_columns: Annotated[
        str | None,
        typer.Option(
            "--items-columns", help="As --columns, for --items.", show_default="first line", metavar="NAME,NAME,..."
        ),
    ] = None,
    items_encoding: Annotated[str, typer.Option("--items-encoding", help="As --encoding, for --items.")] = "utf-8",
    name: Annotated[str | None, typer.Option("--name", help="Name of the split.", show_default="from LOG")] = None,
    as_json: Json = False,
) -> None:
    """Divide a log into training, validation and test, and write the split.

    Filters apply in this order: duplicates, rating, length, k-core. For the protocols of impressions, LOG is a table of
    them (.parquet, .jsonl) with the columns user, time, history, clicked and unclicked, or MIND's behaviors.tsv.

    Example: guiderec data prepare log.csv splits/mine --protocol user-split --set seed=3 --k-core 5
    """
    from dataclasses import replace

    from guiderec.config import override, parse_assignments
    from guiderec.data import prepared
    from guiderec.data.describe import describe as describe_split
    from guiderec.data.dislikes import with_dislikes
    from guiderec.data.impressions import split as split_impressions
    from guiderec.data.protocols import PROTOCOLS, Impressions
    from guiderec.errors import ConfigError

    rule: Any = override(PROTOCOLS[protocol](), parse_assignments(changes or []))
    filters = _filters(drop_duplicates, min_rating, min_length, k_core)
    roles = {"user": user, "item": item, "time": time, "rating": rating}
    text = TextForm(separator, columns, encoding)
    impressions = isinstance(rule, Impressions)
    if source.is_dir() or impressions:
        given = [f"--{role}" for role, column in roles.items() if column] + text.given()
        given += [part.name for part in filters]
        given += ["--dislike-at-most"] if dislike_at_most is not None else []
        if given:
            what = "a split" if source.is_dir() else "a table of impressions"
            raise ConfigError(f"{source} is {what}, not a log: {', '.join(given)} cannot apply to it.")
    items_text = TextForm(items_separator, items_columns, items_encoding)
    if items is None and (given := items_text.given("--items-")):
        raise ConfigError(f"{', '.join(given)} without --items: there is no table to read.", hint="--items FILE")
    read: dict[str, Any] = {}
    if source.is_dir():
        dataset = prepared.resplit(source, rule)
    elif isinstance(rule, Impressions):
        dataset = split_impressions(source, rule, name=f"{source.stem}/{rule.name}")
    else:
        log = Source(source, roles, time_unit, order, text).log(name)
        dataset = _split(log, rule, filters)
        if dislike_at_most is not None:
            dataset = with_dislikes(dataset, log, at_most=dislike_at_most)
        read["source_columns"] = dict(log.source_columns)
    if name is not None:
        dataset = replace(dataset, name=name)
    if items is not None:
        table = prepared.read_items(items, id_column=item_id, **items_text.options())
        dataset = prepared.with_items(dataset, table)
        read["items_table"] = _covered(table, dataset)
    prepared.save(dataset, folder)
    split = describe_split(dataset)

    def show(console: Console) -> None:
        _show_split(console, {**read, **split})
        console.print(f"Written to {folder}. Next: guiderec doctor {folder}", markup=False, soft_wrap=True)

    answer({"folder": folder, **read, **split}, as_json, show)


def _filters(duplicates: bool, rating: float | None, length: int | None, core: int | None) -> list[Any]:
    from guiderec.data.filters import DropDuplicates, KCore, MinimumLength, MinimumRating

    return [
        *([DropDuplicates()] if duplicates else []),
        *([MinimumRating(at_least=rating)] if rating is not None else []),
        *([MinimumLength(events=length)] if length is not None else []),
        *([KCore(users=core, items=core)] if core is not None else []),
    ]


def _split(log: Interactions, protocol: Protocol, filters: list[Any]) -> Dataset:
    for part in filters:
        log = part(log)
    return protocol(log)


def _show_split(console: Console, split: dict[str, Any]) -> None:
    counts, train = split["fingerprint"], split["train"]
    known = split["known_as"]
    facts = {
        "split": split["name"],
        **({"columns": _columns(split["source_columns"])} if "source_columns" in split else {}),
        "known as": _known(known),
        "protocol": " ".join(f"{key}={value}" for key, value in split["protocol"].items()),
        "filters": "; ".join(" ".join(f"{k}={v}" for k, v in part.items()) for part in split["filters"]) or "none",
        "users": f"{counts['users']:,}",
        "items": f"{counts['items']:,}",
        "interactions": f"{counts['interactions']:,} (density {split['density']:.4%})",
        "sha256": counts["sha256"],
        "train": f"{train['rows']:,} rows from {train['sequences']:,} sequences",
        "lengths": _lengths(train["lengths"]),
        "popularity": _popularity(split["popularity"]),
    }
    for part in ("valid", "test"):
        rows = split[part]
        facts[part] = (
            f"{rows['rows']:,} rows, {rows['cold_targets']:,} cold targets ({rows['cold_share']:.2%}),"
            f" {rows['empty_histories']:,} empty histories"
        )
    if "items_table" in split:
        facts["item table"] = _listed(split["items_table"])
    _print(console, facts)


def _show_log(console: Console, log: dict[str, Any]) -> None:
    time = log["time"]
    _print(
        console,
        {
            "log": log["source"],
            "columns": _columns(log["source_columns"]),
            "users": f"{log['users']:,}",
            "items": f"{log['items']:,}",
            "interactions": f"{log['interactions']:,} (density {log['density']:.4%})",
            "duplicates": f"{log['duplicates']:,} (kept; --drop-duplicates removes them)",
            "lengths": _lengths(log["lengths"]),
            "popularity": _popularity(log["popularity"]),
            "time": "none" if time is None else f"{time['first']} to {time['last']}",
        },
    )


def _columns(read_from: Mapping[str, str]) -> str:
    return ", ".join(f"{role} from '{column}'" for role, column in read_from.items())


def _covered(table: ItemTable, dataset: Dataset) -> dict[str, Any]:
    """How many items of the split a table of items has a row for."""
    missing = table.without_row(dataset.vocabulary)
    return {
        "file": table.source,
        "items": dataset.n_items,
        "without_row": len(missing),
        "first_without_row": missing[0] if missing else None,
    }


def _listed(found: dict[str, Any]) -> str:
    if not found["without_row"]:
        return f"{found['file']} has a row for each of the {found['items']:,} items"
    return (
        f"{found['file']} has no row for {found['without_row']:,} of {found['items']:,} items (first:"
        f" {found['first_without_row']!r}); they have their ids for names"
    )


def _known(known: dict[str, Any] | None) -> str:
    if known is None:
        return "no published split"
    if known["exact"]:
        return f"{known['title']}, {known['form']} (used by {known['used_by']})"
    return f"the counts of {known['title']}, {known['form']}, but not that split"


def _lengths(lengths: dict[str, float]) -> str:
    return f"{lengths['min']} to {lengths['max']}, median {lengths['median']:g}, mean {lengths['mean']:.2f}"


def _popularity(popularity: dict[str, float]) -> str:
    return (
        f"Gini {popularity['gini']:.3f}; the top 10 % of items have {popularity['top_10%']:.1%} of the events;"
        f" {popularity['never']:,} items have none"
    )


def _print(console: Console, facts: dict[str, str]) -> None:
    width = max(map(len, facts))
    for label, fact in facts.items():
        console.print(f"{label:<{width}}  {fact}", markup=False, soft_wrap=True)

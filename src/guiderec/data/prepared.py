"""Splits on disk: read (`load`), written (`save`), and new user splits drawn from full sequences (`resplit_users`).

A prepared split is a folder of Parquet files with raw ids, oldest item first:

    sequences.parquet               user, items [, times]                       leave-one-out
    {train,valid,test}.parquet      user, items [, times] [, first_target]      all other protocols
                                    [, unclicked, shown]                        impressions
    items.parquet                   item [, name, category, ...]                the catalogue (here or one folder up)
    split.json                      protocol, fingerprint, format version       written by `save`; optional

`first_target` is the position of the first item of a sequence that is predicted; without it the protocol decides.
A folder without `split.json` is recognised by its name and files (`LAYOUTS`).

Internal ids are 1..I in ascending order of the raw ids of the catalogue. A raw id of 0 is an id like any other: the
vocabulary moves it, so that no item can become padding.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from guiderec.data import parquet
from guiderec.data.dataset import EVALUATED, PARTS, Dataset, Fingerprint, RawId, Vocabulary
from guiderec.data.delimited import delimited, ending
from guiderec.data.impressions import with_shown
from guiderec.data.interactions import encode, usual_columns
from guiderec.data.protocols import (
    Impressions,
    LeaveOneOut,
    Parts,
    Protocol,
    SessionSplit,
    TrainingRows,
    UserSplit,
    protocol_from_plain,
)
from guiderec.data.sequences import Ids, ItemLists, Rows, Sequences
from guiderec.errors import ConfigError, DataError
from guiderec.files import write_json

FORMAT_VERSION = 1
"""Version of the folder format that `save` writes."""

DISLIKES = "dislikes.parquet"
"""What users of evaluation rows really disliked: part, row in it (from 0), item. Optional."""


@dataclass(frozen=True)
class Layout:
    """How a folder without `split.json` is read."""

    protocol: Protocol
    id_column: str
    """Column of `items.parquet` with the ids that the sequences use."""


LAYOUTS: dict[str, Layout] = {
    "user-split": Layout(UserSplit(seed=None), "user_split_item"),
    "leave-one-out": Layout(LeaveOneOut(), "item"),
    "leave-one-out-5core": Layout(LeaveOneOut(), "item_5core"),
    "time-split": Layout(SessionSplit(), "item"),
}
"""Folder names that are understood without `split.json`."""


def load(path: str | Path, *, training_rows: TrainingRows | None = None, max_items: int | None = None) -> Dataset:
    """The prepared split in the folder `path`.

    Parameters
    ----------
    training_rows
        `last` or `every_prefix` instead of what the protocol says.
    max_items
        Keep only this many newest items of each sequence, target included. For user splits and leave-one-out.

    Raises
    ------
    DataError
        When the folder is no prepared split (the message says what was looked for), a file or column is missing, an
        id is not in the declared catalogue, or the content is not what the fingerprint in `split.json` says.
    """
    folder = Path(path)
    record = _read_record(folder)
    protocol, id_column = _recognise(folder, record)
    changes: dict[str, Any] = {} if training_rows is None else {"training_rows": training_rows}
    if max_items is not None and isinstance(protocol, UserSplit):
        changes["max_items"] = min(max_items, protocol.max_items or max_items)
    protocol = protocol.replace(**changes)
    whole = isinstance(protocol, LeaveOneOut)
    frames = {name: _read_sequences(folder / f"{name}.parquet") for name in (("sequences",) if whole else PARTS)}
    _require_one_kind(frames, folder)
    vocabulary = _vocabulary(folder, id_column, frames)
    users = _text_users(frames)
    read = {name: _sequences(frame, vocabulary, users, folder / f"{name}.parquet") for name, frame in frames.items()}
    name = str(record["name"]) if record else f"{folder.resolve().parent.name}/{folder.resolve().name}"
    if whole:
        sequences = read["sequences"] if max_items is None else read["sequences"].newest(max_items)
        dataset = protocol.dataset(sequences, vocabulary, name=name, users=users)
    else:
        dataset = _dataset_of_parts(
            protocol, read, frames, vocabulary, users, folder=folder, name=name, max_items=max_items
        )
    if record is None:
        return dataset
    if max_items is None:
        _check_fingerprint(folder, record, dataset.fingerprint)
    dataset = replace(dataset, filters=tuple(record.get("filters", ())))
    if isinstance(protocol, Impressions):
        dataset = _with_shown(dataset, frames, folder)
    told = folder / DISLIKES
    return replace(dataset, dislikes=_read_dislikes(dataset, told)) if told.exists() else dataset


def save(dataset: Dataset, folder: str | Path) -> None:
    """Write a split so that `load` gives it back. The folder appears whole or not at all.

    Raises
    ------
    DataError
        When the folder exists and is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists and is not empty.", hint="choose another folder, or remove it first.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(dataset, beside)
        beside.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        beside.replace(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def resplit_users(
    source: str | Path | Dataset,
    seed: int,
    *,
    max_items: int | None = 11,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    training_rows: TrainingRows = "last",
) -> Dataset:
    """A new user split, drawn by `seed` from the full sequences of a split.

    `source` is a prepared split or its folder. Leave-one-out splits hold the full sequences; of user splits only what
    they kept of each user can be divided again.

    Raises
    ------
    DataError
        When the sequences of `source` are sessions and not users.
    """
    protocol = UserSplit(seed=seed, fractions=fractions, max_items=max_items, training_rows=training_rows)
    return resplit(source, protocol)


def resplit(source: str | Path | Dataset, protocol: Protocol) -> Dataset:
    """The users of a split, divided anew by another protocol. As `resplit_users`."""
    dataset = source if isinstance(source, Dataset) else load(source)
    full = full_sequences(dataset)
    seed = f"-{protocol.seed}" if isinstance(protocol, UserSplit) else ""
    name = f"{dataset.name.rsplit('/', 1)[0]}/{protocol.name}{seed}"
    return replace(protocol.dataset(full, dataset.vocabulary, name=name, users=dataset.users), filters=dataset.filters)


@dataclass(frozen=True)
class ItemTable:
    """What a file says about items: `item`, `name` and `category` where known, and its other columns as they are."""

    frame: pl.DataFrame
    source: str
    """For messages: the file."""
    id_column: str
    """What the file calls `item`."""

    def without_row(self, vocabulary: Vocabulary) -> list[RawId]:
        """The items of a catalogue that the table says nothing about, ascending."""
        raw = pl.Series("item", list(vocabulary.raw))
        known = self.frame["item"].cast(raw.dtype, strict=False).drop_nulls()
        return raw.filter(~raw.is_in(known.implode())).to_list()


def read_items(
    file: str | Path,
    *,
    id_column: str = "item",
    separator: str | None = None,
    columns: Sequence[str] | None = None,
    encoding: str = "utf-8",
) -> ItemTable:
    """The table of items in a file.

    Parameters
    ----------
    file
        Parquet, JSON lines (.jsonl, .ndjson) or delimited text (.csv, .tsv, .inter, .txt, .dat, .data), of which every
        column is text.
    id_column
        Column with the ids.
    separator, columns, encoding
        How to read delimited text; as for `Interactions.read`.

    Raises
    ------
    DataError
        For an unreadable file, no such column of ids, or an id that stands in two rows.
    """
    path = Path(file)
    text = delimited(path, separator=separator, columns=columns, encoding=encoding, options="--items-")
    if text is None or not path.is_file():
        frame = _read_json_lines(path) if ending(path) in (".jsonl", ".ndjson") else _read_parquet(path)
    else:
        frame = text.read()
    if id_column not in frame.columns:
        likely = next(iter(usual_columns("item", frame.columns)), "...")
        raise DataError(
            f"{path}: no column '{id_column}' (columns: {', '.join(frame.columns)}).",
            hint=f'name the column of ids: id_column="{likely}" (--item-id {likely}).',
        )
    return ItemTable(_item_table(frame, path, id_column), str(path), id_column)


def with_items(
    dataset: Dataset,
    file: str | Path | ItemTable,
    *,
    id_column: str = "item",
    separator: str | None = None,
    columns: Sequence[str] | None = None,
    encoding: str = "utf-8",
) -> Dataset:
    """The split with what `file` says about its items: `name` or `title`, `category` or `genres`, ...

    `file` and the options are those of `read_items`, or `file` is what that returns. The catalogue stays what it is:
    items of the file that the log never shows are left out, and items without a row have their id for a name
    (`ItemTable.without_row` lists them). Raises DataError when the file has no such column or lists none of the items.
    """
    if isinstance(file, ItemTable):
        table = file
    else:
        table = read_items(file, id_column=id_column, separator=separator, columns=columns, encoding=encoding)
    raw = pl.DataFrame({"item": list(dataset.vocabulary.raw)})
    known = table.frame.with_columns(pl.col("item").cast(raw.schema["item"], strict=False)).drop_nulls("item")
    if (twice := known.filter(pl.col("item").is_duplicated())).height:
        raise DataError(f"{table.source}: '{table.id_column}' {twice['item'][0]!r} stands in more than one row.")
    if not raw["item"].is_in(known["item"].implode()).any():
        raise DataError(
            f"{table.source}: '{table.id_column}' lists none of the {len(raw):,} items of {dataset.name} (the file has"
            f" {table.frame['item'][0]!r}, the log {dataset.vocabulary.raw[0]!r})."
        )
    joined = raw.join(known, on="item", how="left", maintain_order="left")
    return replace(dataset, vocabulary=Vocabulary(dataset.vocabulary.raw, _named(joined)))


def full_sequences(dataset: Dataset) -> Sequences:
    """All events of a split as one sequence per user. Raises DataError for a split of sessions or impressions."""
    protocol = protocol_from_plain(dataset.protocol)
    if protocol.divides in ("sessions", "impressions"):
        raise DataError(f"{dataset.name} divides {protocol.divides}, which have no user to divide anew.")
    if protocol.divides == "events":
        return dataset.test.sequences
    return Sequences.concatenated([part.sequences for part in (dataset.train, dataset.valid, dataset.test)])


# --- recognising a folder -----------------------------------------------------------------------------------------


def _read_record(folder: Path) -> dict[str, Any] | None:
    """What `split.json` says, or None where there is none."""
    file = folder / "split.json"
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        version = record["format_version"]
        missing = {"name", "protocol", "fingerprint"} - record.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{file}: not the record of a prepared split ({type(error).__name__}: {error}).") from None
    if version != FORMAT_VERSION:
        raise DataError(f"{file}: format version {version}, and this version of GuideRec reads {FORMAT_VERSION}.")
    if missing:
        raise DataError(f"{file}: {', '.join(sorted(missing))} missing.")
    filters = record.get("filters", [])
    for entry, value, kind in (
        ("name", record["name"], str),
        ("protocol", record["protocol"], dict),
        ("fingerprint", record["fingerprint"], dict),
        ("filters", filters, list),
        *(("filters", part, dict) for part in (filters if isinstance(filters, list) else [])),
    ):
        if not isinstance(value, kind):
            raise DataError(f"{file}: '{entry}' is or holds {value!r}, expected {_JSON[kind]}.")
    return dict(record)


_JSON = {str: "text", dict: "an object", list: "a list of objects"}


def _recognise(folder: Path, record: Mapping[str, Any] | None) -> tuple[Protocol, str]:
    """Protocol and id column of the folder."""
    if record is not None:
        try:
            return protocol_from_plain(record["protocol"]), "item"
        except ConfigError as error:
            raise DataError(f"{folder / 'split.json'}: {error}") from None
    layout = LAYOUTS.get(folder.resolve().name)
    whole = layout is not None and isinstance(layout.protocol, LeaveOneOut)
    wanted = ["sequences.parquet"] if whole else [f"{part}.parquet" for part in PARTS]
    missing = [file for file in wanted if not (folder / file).is_file()]
    if layout is None or missing:
        raise DataError(_not_recognised(folder, missing if layout else []), hint=_splits_near(folder))
    return layout.protocol, layout.id_column


def _not_recognised(folder: Path, missing: list[str]) -> str:
    if not folder.is_dir():
        return f"{folder}: no such folder."
    if missing:
        return f"{folder}: no prepared split; looked for split.json, or for {', '.join(missing)}."
    names = ", ".join(LAYOUTS)
    return f"{folder}: no prepared split; looked for split.json, or for a folder named {names}."


def _splits_near(folder: Path) -> str:
    """What to do about a folder that is no split: the splits inside it, or how to make one."""
    inside = sorted(child for child in folder.iterdir() if child.name in LAYOUTS) if folder.is_dir() else []
    if inside:
        return f"it contains {', '.join(map(str, inside))}."
    return "`guiderec data prepare LOG FOLDER` writes a split."


# --- reading ------------------------------------------------------------------------------------------------------


def _read_parquet(file: Path) -> pl.DataFrame:
    if not file.is_file():
        raise DataError(f"{file}: no such file.")
    try:
        return pl.read_parquet(file, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file ({str(error).splitlines()[0]}).") from None


def _read_json_lines(file: Path) -> pl.DataFrame:
    if not file.is_file():
        raise DataError(f"{file}: no such file.")
    try:
        with file.open("rb") as lines:
            return pl.read_ndjson(lines, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{file}: not readable as JSON lines ({str(error).splitlines()[0]}).") from None


def _read_sequences(file: Path) -> pl.DataFrame:
    """Columns `user` and `items` of one file, checked: text or int64, no null and no sequence without items."""
    frame = _read_parquet(file)
    for column in ("user", "items"):
        if column not in frame.columns:
            raise DataError(f"{file}: no column '{column}' (columns: {', '.join(frame.columns)}).")
    if not isinstance(frame.schema["items"], pl.List):
        raise DataError(f"{file}: column 'items' holds {frame.schema['items']}, expected a list of ids per row.")
    if not len(frame):
        raise DataError(f"{file}: no rows.")
    faults = {
        "user": frame["user"].is_null(),
        "items": frame["items"].is_null() | (frame["items"].list.len().fill_null(0) == 0),
    }
    faults["items"] |= frame["items"].list.eval(pl.element().is_null()).list.any().fill_null(False)
    for column, bad in faults.items():
        if bad.any():
            first = int(bad.arg_true()[0])
            raise DataError(
                f"{file}: '{column}' is null or empty in {bad.sum():,} of {len(frame):,} rows (first: row {first})."
            )
    for column, kind in (("user", frame.schema["user"]), ("items", frame.schema["items"].inner)):
        if _ids_kind(kind, f"{file}: '{column}'") == "integer":
            frame = frame.with_columns(
                _cast(frame[column], pl.Int64() if column == "user" else pl.List(pl.Int64), file)
            )
    return frame


def _ids_kind(held: Any, where: str) -> Literal["text", "integer"]:
    """Which kind of ids a column is that holds the type `held`. DataError for one of neither."""
    if held.is_integer():
        return "integer"
    if held == pl.String:
        return "text"
    raise DataError(f"{where} holds {held}; ids are text or integers.")


def _require_one_kind(frames: Mapping[str, pl.DataFrame], folder: Path) -> None:
    """DataError where the ids of some files are text and those of others integers."""
    for column in ("user", "items"):
        text = {name: frame.schema[column] in (pl.String, pl.List(pl.String)) for name, frame in frames.items()}
        if len(set(text.values())) > 1:
            one, other = (next(name for name, found in text.items() if found is kind) for kind in (True, False))
            raise DataError(
                f"{folder}: '{column}' holds text in {one}.parquet and integers in {other}.parquet; ids are of one "
                "kind."
            )


def _cast(values: pl.Series, kind: pl.DataType, file: Path) -> pl.Series:
    """The column as another type. DataError where some of it is none of that type."""
    try:
        return values.cast(kind)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{file}: '{values.name}' is not all {kind} ({str(error).splitlines()[0]}).") from None


def _vocabulary(folder: Path, id_column: str, frames: Mapping[str, pl.DataFrame]) -> Vocabulary:
    """The catalogue: the item table where there is one, and else the ids that occur."""
    occurring = pl.concat([frame["items"].explode().unique() for frame in frames.values()]).unique().sort()
    kind = _ids_kind(occurring.dtype, f"{folder}: 'items'")
    table = next((t for place in (folder, folder.parent) if (t := place / "items.parquet").is_file()), None)
    if table is None:
        return Vocabulary(tuple(occurring.to_list()))
    id_column = "item" if table.parent == folder else id_column
    items = _item_table(_read_parquet(table), table, id_column)
    if _ids_kind(items.schema["item"], f"{table}: '{id_column}'") != kind:
        raise DataError(f"{table}: '{id_column}' holds {items.schema['item']}, the sequences hold {occurring.dtype}.")
    return Vocabulary(tuple(items["item"].to_list()), items)


def _item_table(frame: pl.DataFrame, file: Path, id_column: str) -> pl.DataFrame:
    """One row per item of the catalogue in ascending order of `item`, with `name` and `category` where known.

    Rows without an id are items that the sequences never show. Where the ids number a catalogue without gaps, such
    items have the unused numbers: as many as there are rows without an id, or the table is not read that way.
    """
    if id_column not in frame.columns:
        raise DataError(f"{file}: no column '{id_column}' (columns: {', '.join(frame.columns)}).")
    if (held := frame.schema[id_column]).is_nested() or held == pl.Binary:
        raise DataError(f"{file}: '{id_column}' holds {held}; ids are text or integers.")
    renamed = {"item": pl.col(id_column)}
    for column in {"name", "title", "text", "category", "genres"} & set(frame.columns):
        held = frame.schema[column]
        inner = held.inner if isinstance(held, pl.List) and column in ("category", "genres") else held
        if inner.is_nested() or inner == pl.Binary:
            raise DataError(f"{file}: '{column}' holds {held}, expected text.")
    if label := next((c for c in ("name", "title", "text") if c in frame.columns), None):
        renamed["name"] = pl.col(label)
    if group := next((c for c in ("category", "genres") if c in frame.columns), None):
        is_list = isinstance(frame.schema[group], pl.List)
        renamed["category"] = pl.col(group).cast(pl.List(pl.String)).list.join("|") if is_list else pl.col(group)
    extra = [c for c in frame.columns if c not in {"item", *renamed, id_column, label, group}]
    items = frame.select(*(value.alias(name) for name, value in renamed.items()), *extra)
    nameless = items["item"].null_count()
    items = items.filter(pl.col("item").is_not_null()).sort("item")
    if not len(items):
        raise DataError(f"{file}: no row has an id in '{id_column}'.")
    if items.schema["item"].is_integer():
        _cast(items["item"].alias(id_column), pl.Int64(), file)  # they fit; the table keeps its own type
    if (twice := items.filter(pl.col("item").is_duplicated())).height:
        raise DataError(f"{file}: '{id_column}' {twice['item'][0]!r} stands in more than one row.")
    if nameless and items["item"].dtype.is_integer():
        items = _with_unused_numbers(items, nameless)
    return _named(items)


def _named(items: pl.DataFrame) -> pl.DataFrame:
    """The table with the id as the name of an item that has none."""
    if "name" not in items.columns:
        return items
    return items.with_columns(pl.coalesce(pl.col("name"), pl.col("item").cast(pl.String)))


def _with_unused_numbers(items: pl.DataFrame, count: int) -> pl.DataFrame:
    ids = items["item"]
    every = pl.DataFrame({"item": pl.arange(ids[0], ids[-1] + 1, eager=True).cast(ids.dtype)})
    return every.join(items, on="item", how="left").sort("item") if len(every) - len(items) == count else items


def _text_users(frames: Mapping[str, pl.DataFrame]) -> pl.Series | None:
    """Sorted raw user ids where they are text."""
    users = [frame["user"] for frame in frames.values()]
    return pl.concat(users).unique().sort() if users[0].dtype == pl.String else None


def _sequences(frame: pl.DataFrame, vocabulary: Vocabulary, users: pl.Series | None, file: Path) -> Sequences:
    flat = frame["items"].explode()
    items = encode(flat, pl.Series(list(vocabulary.raw), dtype=flat.dtype))
    lengths = frame["items"].list.len().to_numpy().astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    if (unknown := np.flatnonzero(items == 0)).size:
        row = int(np.searchsorted(offsets, unknown[0], side="right")) - 1
        raise DataError(
            f"{file}: {unknown.size:,} of {len(items):,} items are not in the catalogue of {len(vocabulary):,}"
            f" (first: {flat[int(unknown[0])]!r} in row {row}).",
            hint="padding must not be stored, and items.parquet must list every item.",
        )
    owner = frame["user"].cast(pl.Int64).to_numpy() if users is None else encode(frame["user"], users) - 1
    times = None
    if "times" in frame.columns:
        held = frame.schema["times"]
        if not (isinstance(held, pl.List) and held.inner.is_numeric()):
            raise DataError(f"{file}: 'times' holds {held}, expected a list of whole seconds since 1970 per row.")
        if not (frame["times"].list.len() == frame["items"].list.len()).fill_null(False).all():
            raise DataError(f"{file}: 'times' and 'items' differ in length in some rows.")
        seconds = _cast(frame["times"], pl.List(pl.Int64), file).explode()
        if seconds.null_count():
            raise DataError(f"{file}: 'times' holds {seconds.null_count():,} empty times.")
        times = seconds.to_numpy().astype(np.int64)
    return Sequences(items, offsets, owner.astype(np.int64), times)


def _dataset_of_parts(
    protocol: Protocol,
    read: Mapping[str, Sequences],
    frames: Mapping[str, pl.DataFrame],
    vocabulary: Vocabulary,
    users: pl.Series | None,
    *,
    folder: Path,
    name: str,
    max_items: int | None,
) -> Dataset:
    if isinstance(protocol, UserSplit) and protocol.max_items is not None:
        read = {part: sequences.newest(protocol.max_items) for part, sequences in read.items()}
    elif max_items is not None:
        raise DataError(f"{name}: max_items is for user splits and leave-one-out, not for {protocol.name}.")
    if isinstance(protocol, UserSplit | SessionSplit | Impressions):
        parts = protocol.parts(*(read[part] for part in PARTS))
    else:
        evaluated = [_rows_from_file(read[part], frames[part], folder / f"{part}.parquet") for part in EVALUATED]
        parts = Parts(protocol.rows_for_training(read["train"]), *evaluated)
    return protocol.assemble(parts, vocabulary, full=read["test"], name=name, users=users)


def _rows_from_file(sequences: Sequences, frame: pl.DataFrame, file: Path) -> Rows:
    if "first_target" not in frame.columns:
        raise DataError(f"{file}: no column 'first_target' (columns: {', '.join(frame.columns)}).")
    if not frame.schema["first_target"].is_integer():
        raise DataError(f"{file}: 'first_target' holds {frame.schema['first_target']}, expected positions from 0 on.")
    wrong = ~frame["first_target"].is_between(0, frame["items"].list.len()).fill_null(False)
    if wrong.any():
        row = int(wrong.arg_true()[0])
        raise DataError(
            f"{file}: 'first_target' is no position of its sequence in {wrong.sum():,} of {len(frame):,} rows "
            f"(first: {frame['first_target'][row]} of {len(frame['items'][row]):,} items in row {row})."
        )
    return Rows.starting_at(sequences, frame["first_target"].cast(pl.Int64).to_numpy())


def _check_fingerprint(folder: Path, record: Mapping[str, Any], found: Fingerprint) -> None:
    if record["fingerprint"].get("sha256") != found.sha256:
        raise DataError(
            f"{folder}: the files are not those that split.json describes (SHA-256 of the log {found.sha256[:12]}...,"
            f" recorded {str(record['fingerprint'].get('sha256'))[:12]}...).",
            hint="prepare the split again.",
        )


# --- writing ------------------------------------------------------------------------------------------------------


def _write(dataset: Dataset, folder: Path) -> None:
    protocol = protocol_from_plain(dataset.protocol)
    if isinstance(protocol, LeaveOneOut):
        parquet.write(_sequence_frame(dataset, dataset.test.sequences), folder / "sequences.parquet")
    else:
        for part in PARTS:
            rows = dataset.part(part)
            frame = _sequence_frame(dataset, rows.sequences)
            frame = frame.with_columns(first_target=_first_targets(rows))
            if isinstance(protocol, Impressions):
                frame = frame.with_columns(_shown_frame(dataset, part))
            parquet.write(frame, folder / f"{part}.parquet")
    if dataset.dislikes is not None:
        parquet.write(_dislikes_frame(dataset, dataset.dislikes), folder / DISLIKES)
    table = dataset.vocabulary.table
    items = pl.DataFrame({"item": list(dataset.vocabulary.raw)}) if table is None else table
    parquet.write(items, folder / "items.parquet")
    record = {
        "format_version": FORMAT_VERSION,
        "name": dataset.name,
        "protocol": dataset.protocol,
        "filters": list(dataset.filters),
        "fingerprint": vars(dataset.fingerprint),
        "rows": {part: len(dataset.part(part)) for part in PARTS},
    }
    write_json(folder / "split.json", record)


def _dislikes_frame(dataset: Dataset, dislikes: Mapping[str, Ids]) -> pl.DataFrame:
    """One line per dislike, with raw ids."""
    raw = pl.Series("item", list(dataset.vocabulary.raw))
    parts = []
    for part, items in dislikes.items():
        row, column = np.nonzero(items)
        parts.append(pl.DataFrame({"part": [part] * len(row), "row": row, "item": raw.gather(items[row, column] - 1)}))
    return pl.concat(parts)


def _read_dislikes(dataset: Dataset, path: Path) -> dict[str, Ids]:
    try:
        frame = pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}).") from None
    if not {"part", "row", "item"} <= set(frame.columns):
        raise DataError(f"{path}: expected the columns part, row and item, found {', '.join(frame.columns)}.")
    held = frame.schema
    if (
        held["part"] != pl.String
        or not held["row"].is_integer()
        or not (held["item"] == pl.String or held["item"].is_integer())
    ):
        raise DataError(
            f"{path}: part, row and item hold {held['part']}, {held['row']} and {held['item']}, expected text, "
            "whole numbers, and ids of items."
        )
    found = {}
    for part in EVALUATED:
        n = len(dataset.part(part))
        lists: list[list[int]] = [[] for _ in range(n)]
        for row, item in frame.filter(pl.col("part") == part).select("row", "item").iter_rows():
            known = None if item is None else dataset.vocabulary.find(item)
            if known is None or row is None or not 0 <= row < n:
                raise DataError(f"{path}: {part} row {row}, item {item!r}: not in the split of {n:,} such rows.")
            lists[row].append(known)
        found[part] = ItemLists.from_lists(lists).padded(np.arange(n))
    return found


def _shown_frame(dataset: Dataset, part: str) -> pl.DataFrame:
    """Columns `unclicked` and `shown` with raw ids, one line per sequence; see `guiderec.data.impressions`."""
    if dataset.unclicked is None or dataset.shown is None:
        raise DataError(f"{dataset.name}: a split of impressions without what they showed.")
    raw = pl.Series(list(dataset.vocabulary.raw))
    columns = {}
    for name, lists in (("unclicked", dataset.unclicked[part]), ("shown", dataset.shown[part])):
        flat = raw.gather(lists.items - 1).to_list()
        ends = pairwise(lists.offsets.tolist())
        columns[name] = pl.Series(name, [flat[a:b] for a, b in ends], dtype=pl.List(raw.dtype))
    return pl.DataFrame(columns)


def _with_shown(dataset: Dataset, frames: Mapping[str, pl.DataFrame], folder: Path) -> Dataset:
    """The split with what `unclicked` and `shown` say of each sequence."""
    shown, unclicked = (
        {
            part: _item_lists(frame, column, dataset.vocabulary, folder / f"{part}.parquet")
            for part, frame in frames.items()
        }
        for column in ("shown", "unclicked")
    )
    return with_shown(dataset, shown, unclicked)


def _item_lists(frame: pl.DataFrame, column: str, vocabulary: Vocabulary, file: Path) -> ItemLists:
    if column not in frame.columns or not isinstance(frame.schema[column], pl.List):
        raise DataError(f"{file}: no column '{column}' with lists of items (columns: {', '.join(frame.columns)}).")
    if frame[column].null_count():
        raise DataError(f"{file}: '{column}' is null in {frame[column].null_count():,} of {len(frame):,} rows.")
    lengths = frame[column].list.len().to_numpy().astype(np.int64)
    flat = frame[column].filter(pl.Series(lengths > 0)).explode()
    text = isinstance(vocabulary.raw[0], str)
    if (_ids_kind(flat.dtype, f"{file}: '{column}'") == "text") != text:
        raise DataError(f"{file}: '{column}' holds {flat.dtype}, the catalogue {'text' if text else 'integers'}.")
    flat = flat if text else _cast(flat, pl.Int64(), file)
    if flat.null_count():
        raise DataError(f"{file}: '{column}' holds {flat.null_count():,} empty ids.")
    items = encode(flat, pl.Series(list(vocabulary.raw), dtype=flat.dtype))
    if (unknown := np.flatnonzero(items == 0)).size:
        raise DataError(
            f"{file}: {unknown.size:,} of {len(items):,} items in '{column}' are not in the catalogue of"
            f" {len(vocabulary):,} (first: {flat[int(unknown[0])]!r})."
        )
    return ItemLists(items, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def _sequence_frame(dataset: Dataset, sequences: Sequences) -> pl.DataFrame:
    """One row per sequence, with raw ids."""
    raw = pl.Series("items", list(dataset.vocabulary.raw))
    user = pl.Series("user", sequences.users) if dataset.users is None else dataset.users.gather(sequences.users)
    flat = {"items": raw.gather(sequences.items - 1)}
    if sequences.times is not None:
        flat["times"] = pl.Series("times", sequences.times)
    lists = pl.DataFrame({"row": sequences.owners, **flat}).group_by("row", maintain_order=True).agg(pl.all())
    return lists.select(user.alias("user"), pl.all().exclude("row"))


def _first_targets(rows: Rows) -> Ids:
    """(S,) position of the first row of each sequence; its length where it has none."""
    first = rows.sequences.lengths.copy()
    np.minimum.at(first, rows.sequence, rows.position)
    return first

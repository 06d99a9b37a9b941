"""Logs of interactions: read from files and frames, validated once, and turned into sequences.

The only file that sees logs as people keep them. `Interactions.read` finds the columns, checks every value it will use
and raises one error that says where, what, how many and the first place. Everything stays a lazy Polars query until
`sequences`, which streams the log twice and holds, besides its result, one batch of rows.

    user  item  time                sequences (items by time)         vocabulary
    u9    b     3          ->       u7   b -> 2                       a is 1, b is 2, c is 3
    u9    a     1                   u9   a c b -> 1 3 2
    u7    b     1
    u9    c     2
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from guiderec.data.dataset import Vocabulary
from guiderec.data.delimited import (
    BROKEN,
    OTHERS,
    SEPARATORS,
    UNSAID,
    Delimited,
    delimited,
    ending,
    likely_separator,
    refuse_options,
)
from guiderec.data.sequences import Ids, Sequences
from guiderec.errors import DataError, nearest

Role = Literal["user", "item", "time", "rating"]
TimeUnit = Literal["s", "ms", "us", "ns"]

ALIASES: dict[Role, tuple[str, ...]] = {
    "user": (
        "user userid uid reviewerid customerid visitorid accountid memberid profileid playerid viewerid",
        "username reviewername profilename",
        "session sessionid usersession queryid",
    ),
    "item": (
        "item itemid iid movieid filmid animeid productid asin parentasin sku isbn articleid clickarticleid newsid"
        " videoid trackid traid songid bookid gameid recipeid beerid",
        "artistid artid businessid venueid placeid poiid locationid appid",
    ),
    "time": (
        "timestamp ts datetime timems unixtime unixtimestamp unixreviewtime sorttimestamp eventtime eventtimestamp"
        " clicktime clicktimestamp checkintime utctime createdat",
        "time date reviewdate eventdate tdat",
    ),
    "rating": ("rating ratings score stars overall starrating bookrating userrating", "weight"),
}
"""Column names that are understood; case, spaces, `_`, `-` and a RecBole `:type` do not matter.

Names of one group are rivals: a log with two of them is an error. An earlier group is preferred: an event is a user's
before a session's, of a track before its artist's, and `time` and `date` may be halves of what `timestamp` is whole.
"""
RECBOLE: dict[Role, str] = {"user": "userid", "item": "itemid", "time": "timestamp", "rating": "rating"}
"""What RecBole reads by default; among columns with its `:type` these come first."""

SPECIAL_IDS = frozenset({"[pad]", "<pad>", "[padding]", "<padding>", "[mask]", "<mask>", "[unk]", "<unk>"})
"""Texts that other programs use for padding and the like; compared in lower case."""
MISSING_IDS = frozenset({"nan", "null", "none", "nat", "<na>"})
"""Texts that an empty cell turns into on its way through other programs; compared in lower case."""

TICKS: dict[TimeUnit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EARLIEST = -62_135_596_800
"""Seconds from 1970 back to the year 1: earlier times have no date, and overflow."""
_LATEST = 32_503_680_000
"""Seconds from 1970 to the year 3000: later times are a wrong unit."""

_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
_BATCH = 1 << 18
"""Events that are placed or sorted at a time: 2 MiB per column."""


@dataclass(frozen=True)
class Log:
    """A log as sequences: one per user, in ascending order of the raw user ids."""

    sequences: Sequences
    vocabulary: Vocabulary
    users: pl.Series | None
    """Raw user ids where they are text; `sequences.users` counts into it. None: they are the raw integers."""


@dataclass(frozen=True)
class Interactions:
    """A validated log, not yet loaded.

    `frame` has the columns `row`, `user` and `item` (each int64 or text) and, where known, `time` (int64 or float64,
    `ticks` per second since 1970) and `rating` (float64; null where it cannot be read, see `check_ratings`), in the
    order of the source.
    """

    frame: pl.LazyFrame
    source: str
    """For messages: the file, or what kind of frame it was."""
    name: str
    """For records and folders."""
    columns: tuple[str, ...]
    order: Literal["time", "row"] = "time"
    """What orders the events of a user."""
    ticks: int = 1
    filters: tuple[dict[str, Any], ...] = ()
    """Plain data of the filters that were applied, in order."""
    source_columns: Mapping[str, str] = field(default_factory=dict)
    """The column of the source that each role was read from."""
    ratings: _Ratings | None = field(default=None, repr=False)
    """What an error about ratings has to say."""

    @classmethod
    def read(
        cls,
        source: str | Path | pl.DataFrame | pl.LazyFrame | Any,
        *,
        user: str | None = None,
        item: str | None = None,
        time: str | None = None,
        rating: str | None = None,
        time_unit: TimeUnit = "s",
        order: Literal["time", "row"] = "time",
        name: str | None = None,
        separator: str | None = None,
        columns: Sequence[str] | None = None,
        encoding: str = "utf-8",
    ) -> Interactions:
        """The log in a file (.csv, .tsv, .inter, .jsonl, .ndjson, .parquet, text) or a Polars or pandas frame.

        Parameters
        ----------
        user, item, time, rating
            Names of the columns; without them common names are recognised (`ALIASES`). Ratings are checked when they
            are used (`check_ratings`), not before.
        time_unit
            Unit of times that are numbers. Dates and ISO texts need none; without a zone they are UTC.
        order
            `row`: the rows of a user are in order already, and a time column is not looked at.
        separator
            What separates the fields of a text file, if its ending does not say so: `::`, `|`, `;`, a tab.
        columns
            Names of all fields of a text file without a header.
        encoding
            Encoding of a text file: `latin-1`, `cp1252`, ...

        Text that consists of integers throughout, without leading zeros, is read as integers.

        Raises
        ------
        DataError
            For an unreadable or empty source, a missing column or two that could be the same role, a null or empty
            id, an id that stands for padding, a time that cannot be read or lies before the year 1 or beyond the year
            3000, lines of text with too few or too many fields or of another encoding.
        ConfigError
            For a separator, names or an encoding that cannot be, or for a source that is no delimited text.
        """
        frame, place, stem = _open(source, separator, columns, encoding)
        label = place.source
        given: dict[Role, str | None] = {"user": user, "item": item, "time": time, "rating": rating}
        schema = _schema(frame, place)
        found, rivals = _resolve(schema, given, place, skip={"time"} if order == "row" else set())
        _refuse_repeated(found, schema, place)
        _refuse_header(found, place)
        raw = _selected(frame, schema, found, place)
        typed, ticks = _typed(raw, found, place, time_unit)
        ratings = _Ratings(raw, found, rivals, place)
        return cls(typed, label, name or stem, tuple(found), order, ticks, (), found, ratings)

    @property
    def has_time(self) -> bool:
        """Whether the log has a time column."""
        return "time" in self.columns

    def check_ratings(self) -> None:
        """Nothing, or a DataError: no column of ratings, two that could be it, or events without a readable rating."""
        if "rating" not in self.columns:
            raise _no_ratings(self.source, () if self.ratings is None else self.ratings.rivals)
        bad = ~pl.col("rating").is_finite().fill_null(False)
        counts = self.frame.select(rows=pl.len(), bad=bad.sum(), first=pl.col("row").filter(bad).min())
        result = counts.collect(engine="streaming").row(0, named=True)
        if result["bad"]:
            raise self._unreadable_rating(result["rows"], result["bad"], result["first"])

    def _unreadable_rating(self, rows: int, bad: int, first: int) -> DataError:
        fault = "is empty or not a number"
        if self.ratings is None:
            return DataError(f"{self.source}: 'rating' {fault} in {bad:,} of {rows:,} rows.", hint=_HINTS[fault])
        raw, found, place = self.ratings.raw, self.ratings.found, self.ratings.place
        return _fault(raw, found, place, "rating", fault, _Count(rows, bad, first))

    def keep(self, condition: pl.Expr, by: Mapping[str, Any]) -> Interactions:
        """Only the events for which `condition` holds; `by` describes the filter in plain data."""
        return replace(self, frame=self.frame.filter(condition), filters=(*self.filters, dict(by)))

    def count(self) -> int:
        """Number of events."""
        return int(self.frame.select(pl.len()).collect(engine="streaming").item())

    def duplicates(self) -> int:
        """Number of events that repeat an earlier one: same user and item and, where known, same time."""
        keys = [column for column in ("user", "item", "time") if column in self.columns]
        distinct = self.frame.group_by(keys).len().select(pl.len()).collect(engine="streaming").item()
        return self.count() - int(distinct)

    def batches(self, *columns: str) -> Iterator[pl.DataFrame]:
        """The log in pieces, in order."""
        yield from self.frame.select(columns).collect_batches(chunk_size=_BATCH, maintain_order=True)

    def sequences(self, *, needed_by: str | None = None) -> Log:
        """One sequence per user, by time; events with equal times keep the order of the log.

        The log is streamed twice: once to count the events of every user, once to put each event in its place. Memory
        is the result (16 bytes per event) and one batch.

        Raises
        ------
        DataError
            When the log has no time (and was not read with `order="row"`), or no events are left.
        """
        self._check_order(needed_by)
        users, counts = self._users()
        items = self.frame.select(pl.col("item").unique().sort()).collect(engine="streaming")["item"]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        flat, times = self._placed(users, items, offsets)
        if times is not None:
            _sort_inside(flat, times, offsets)
            np.floor_divide(times, self.ticks, out=times)  # in place: a copy would be the peak of the memory
            times = times.astype(np.int64, copy=False)
        text = users.dtype == pl.String
        owner = np.arange(len(users), dtype=np.int64) if text else users.to_numpy().astype(np.int64)
        sequences = Sequences(flat, offsets, owner, times)
        return Log(sequences, Vocabulary(tuple(items.to_list())), users if text else None)

    def _check_order(self, needed_by: str | None) -> None:
        if not self.has_time and self.order == "time":
            who = f"{needed_by} needs" if needed_by else "Sequences need"
            raise DataError(
                f"{self.source}: no time column, and {who} the order of events.",
                hint='name it (time="..."), or read with order="row" if the rows of each user are in order already.',
            )

    def _users(self) -> tuple[pl.Series, Ids]:
        """Raw user ids in ascending order, and their numbers of events."""
        table = self.frame.group_by("user").len().sort("user").collect(engine="streaming")
        if not len(table):
            raise DataError(f"{self.source}: no events are left after the filters.", hint="filter less.")
        return table["user"], table["len"].to_numpy().astype(np.int64)

    def _placed(
        self, users: pl.Series, items: pl.Series, offsets: Ids
    ) -> tuple[Ids, NDArray[np.int64] | NDArray[np.float64] | None]:
        """Items, and times where known, of all events, grouped by user and in the order of the log inside."""
        flat = np.empty(offsets[-1], dtype=np.int64)
        times: NDArray[Any] | None = None
        free = offsets[:-1].copy()  # the next free place of each user
        for batch in self.batches("user", "item", *(["time"] if self.has_time else [])):
            owner = encode(batch["user"], users) - 1
            by_owner = np.argsort(owner, kind="stable")
            owner = owner[by_owner]
            who, first, count = np.unique(owner, return_index=True, return_counts=True)
            place = free[owner] + np.arange(len(owner)) - np.repeat(first, count)
            free[who] += count
            flat[place] = encode(batch["item"], items)[by_owner]
            if self.has_time:
                moment = batch["time"].to_numpy()
                times = np.empty(len(flat), dtype=moment.dtype) if times is None else times
                times[place] = moment[by_owner]
        return flat, times


def encode(values: pl.Series, known: pl.Series) -> Ids:
    """Positions 1.. of `values` in `known` (ascending, distinct); 0 for what is not there."""
    if values.dtype.is_integer():
        ids, wanted = known.cast(pl.Int64).to_numpy(), values.cast(pl.Int64).to_numpy()
        place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        return np.where(ids[place] == wanted, place + 1, 0).astype(np.int64)
    numbered = pl.DataFrame({"id": known, "code": np.arange(1, len(known) + 1, dtype=np.int64)})
    joined = pl.DataFrame({"id": values}).join(numbered, on="id", how="left", maintain_order="left")
    return joined["code"].fill_null(0).to_numpy().astype(np.int64)


def _sort_inside(items: Ids, times: NDArray[Any], offsets: Ids) -> None:
    """Sort the events of each user by time, in place and stably, about `_BATCH` events at a time."""
    start = 0
    while start < len(offsets) - 1:
        stop = max(int(np.searchsorted(offsets, offsets[start] + _BATCH, side="right")) - 1, start + 1)
        part = slice(offsets[start], offsets[stop])
        owner = np.repeat(np.arange(stop - start), np.diff(offsets[start : stop + 1]))
        order = np.lexsort((times[part], owner))
        items[part], times[part] = items[part][order], times[part][order]
        start = stop


# --- opening ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """How to name a row in a message."""

    source: str
    unit: str = "row"
    """Text files are read with an editor, which counts lines from 1; frames are counted from 0."""
    first: int = 0
    text: Delimited | None = None

    def row(self, row: int) -> str:
        return f"{self.unit} {row + self.first if self.text is None else self.text.line(row)}"

    def unreadable(self, error: Exception) -> DataError:
        """The error for what Polars refused to read."""
        if self.text is not None:
            self.text.check()
        return DataError(f"{self.source}: cannot be read ({str(error).splitlines()[0]}).")


@dataclass(frozen=True)
class _Ratings:
    """What an error about ratings has to say: nobody looks at them before they are used."""

    raw: pl.LazyFrame
    found: Mapping[str, str]
    rivals: tuple[str, ...]
    """Columns that could all be the ratings."""
    place: _Place


def _open(
    source: Any, separator: str | None, columns: Sequence[str] | None, encoding: str
) -> tuple[pl.LazyFrame, _Place, str]:
    """A lazy frame, how to name its rows, and a short name."""
    if not isinstance(source, str | Path):
        frame, kind = _frame(source)
        refuse_options(f"A {kind}", separator, columns, encoding)
        return frame, _Place(kind), "log"
    path = Path(source)
    if not path.is_file():
        if path.exists():
            raise DataError(f"{path}: not a regular file.")
        raise DataError(f"{path}: no such file.", hint=_files_near(path))
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty.")
    stem = path.name.split(".")[0]
    text = delimited(path, separator=separator, columns=columns, encoding=encoding)
    if text is None:
        return *_scan(path), stem
    place = _Place(str(path), "line", text.first_line, text)
    try:
        return text.scan(), place, stem
    except (pl.exceptions.PolarsError, *BROKEN) as error:
        raise place.unreadable(error) from None


def _frame(source: Any) -> tuple[pl.LazyFrame, str]:
    """A data frame as a lazy one, and what kind it was."""
    if isinstance(source, pl.LazyFrame):
        return source, "polars LazyFrame"
    if isinstance(source, pl.DataFrame):
        return source.lazy(), "polars DataFrame"
    if type(source).__module__.split(".")[0] == "pandas":
        return pl.from_pandas(source).lazy(), "pandas DataFrame"
    raise DataError(f"A log is a file or a Polars or pandas frame, not {type(source).__name__}.")


def _scan(path: Path) -> tuple[pl.LazyFrame, _Place]:
    """A file that is not delimited text."""
    match ending(path):
        case ".jsonl" | ".ndjson":
            exactly = glob.escape(str(path))  # it takes patterns alone
            return pl.scan_ndjson(exactly, infer_schema_length=None), _Place(str(path), "line", 1)
        case ".parquet":
            return pl.scan_parquet(path, glob=False), _Place(str(path))
        case other:
            known = [*SEPARATORS, *UNSAID, *OTHERS]
            raise DataError(
                f"{path}: logs end in {', '.join(known[:-1])} or {known[-1]}, not {other or 'nothing'!r}.",
                hint='if it is text, say what separates the fields: separator="..." (--separator).',
            )


def _files_near(path: Path) -> str | None:
    names = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
    return nearest(path.name, names).strip() or None


def _schema(frame: pl.LazyFrame, place: _Place) -> pl.Schema:
    try:
        return frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise place.unreadable(error) from None


# --- columns ------------------------------------------------------------------------------------------------------


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", column.split(":")[0].lower())


def _resolve(
    schema: pl.Schema, given: Mapping[Role, str | None], place: _Place, skip: set[str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Column of each role that the log has; and the columns that could all be the ratings, which need no other."""
    columns, source = schema.names(), place.source
    found: dict[str, str] = {}
    rivals: tuple[str, ...] = ()
    for role, wanted in given.items():
        if role in skip:
            continue
        candidates = usual_columns(role, columns) if wanted is None else [_named(wanted, role, columns, source)]
        if len(candidates) == 1:
            found[role] = candidates[0]
        elif role == "rating":
            rivals = tuple(candidates)
        elif candidates:
            raise _ambiguous(candidates, role, source)
    for role in ("user", "item"):
        if role not in found:
            near = nearest(role, [*map(_plain, columns), *columns])
            raise DataError(
                f"{source}: no column for '{role}' (columns: {', '.join(columns)}).{near}",
                hint=_how_to_name(role, columns, place),
            )
    return found, rivals


def _how_to_name(role: str, columns: list[str], place: _Place) -> str:
    """What to do about a missing column; of a text file the separator or the header may be what is missing."""
    if place.text is not None and place.text.columns is None:
        if len(columns) == 1 and (separator := likely_separator(columns[0])):
            return (
                f"say what separates the fields: separator={separator!r} (--separator {quote(ascii(separator)[1:-1])})."
            )
        if any(re.fullmatch(r"-?[0-9.]+(_duplicated_[0-9]+)?", column) for column in columns):
            return "if the file has no header, name its fields: columns=[...] (--columns user,item,... as they come)."
    return f'name it: {role}="..." (--{role} on the command line).'


def _named(wanted: str, role: str, columns: list[str], source: str) -> str:
    if wanted not in columns:
        raise DataError(
            f"{source}: no column '{wanted}' for '{role}' (columns: {', '.join(columns)}).{nearest(wanted, columns)}"
        )
    return wanted


def usual_columns(role: Role, columns: Sequence[str]) -> list[str]:
    """The columns with a name of the most preferred group; more than one is a question for the caller."""
    for group in ALIASES[role]:
        matches = [column for column in columns if _plain(column) in group.split()]
        if matches:
            typed = [column for column in matches if ":" in column and _plain(column) == RECBOLE[role]]
            return typed if len(typed) == 1 else matches
    return []


def _ambiguous(columns: Sequence[str], role: str, source: str) -> DataError:
    names = f"{', '.join(map(repr, columns[:-1]))} and {columns[-1]!r}"
    quantity = "both" if len(columns) == 2 else "all"
    return DataError(
        f"{source}: {names} could {quantity} be '{role}'.",
        hint=f'name the one to read: {role}="{columns[0]}" (--{role} {quote(columns[0])} on the command line).',
    )


def _no_ratings(source: str, rivals: Sequence[str]) -> DataError:
    if rivals:
        return _ambiguous(rivals, "rating", source)
    return DataError(f"{source}: no rating column.", hint='name it: rating="..." (--rating).')


def _refuse_repeated(found: Mapping[str, str], schema: pl.Schema, place: _Place) -> None:
    """DataError where a text file has a column of a role twice: polars renames the second, and takes the first."""
    for role, column in found.items():
        if place.unit == "line" and f"{column}_duplicated_0" in schema:
            raise DataError(
                f"{place.source}: the column '{column}' for '{role}' stands there more than once.",
                hint="rename or remove one of them.",
            )


def _refuse_header(found: Mapping[str, str], place: _Place) -> None:
    """DataError where the fields were named, and yet the first line is a header."""
    if place.text is None or place.text.columns is None:
        return
    first = dict(zip(place.text.columns, place.text.first_record(), strict=False))
    held = {role: first.get(found[role], "") for role in ("user", "item")}
    if all(_plain(held[role]) in " ".join(ALIASES[role]).split() for role in ("user", "item")):
        raise DataError(
            f"{place.source}: line 1 is a header ({', '.join(first.values())}), and the columns are named besides.",
            hint="leave out columns= (--columns), or remove the line.",
        )


_FIELD = "field of the text "


def _selected(frame: pl.LazyFrame, schema: pl.Schema, found: Mapping[str, str], place: _Place) -> pl.LazyFrame:
    """`row` and the columns of the roles; of text all others as well, by number.

    Polars notices a long line only when it reads every field, and a short one leaves the last field empty.
    """
    columns = [pl.col(column).alias(role) for role, column in found.items()]
    if place.text is not None:
        columns += [pl.col(column).alias(f"{_FIELD}{number}") for number, column in enumerate(schema.names())]
    return frame.select(columns).with_row_index("row")


# --- values -------------------------------------------------------------------------------------------------------


def _typed(
    frame: pl.LazyFrame, found: Mapping[str, str], place: _Place, time_unit: TimeUnit
) -> tuple[pl.LazyFrame, int]:
    """Columns in their final types, after every value was checked; and the ticks per second of `time`."""
    schema = _schema(frame, place)
    facts = _facts(frame, schema, place)
    if place.text is not None and facts[schema.names()[-1]]:
        place.text.check()
    if facts["rows"] == 0:
        raise DataError(f"{place.source}: no rows.")
    typed = {role: _id_expression(role, schema[role], facts, found[role], place) for role in ("user", "item")}
    ticks = TICKS[time_unit]
    if "time" in found:
        typed["time"], ticks = _time_expression(schema["time"], facts, ticks, found["time"], place)
    if "rating" in found:
        typed["rating"] = _rating_expression(schema["rating"])
    result = frame.select("row", *(expression.alias(role) for role, expression in typed.items()))
    _check_values(frame, result, found, ticks, place)
    return result, ticks


def _facts(frame: pl.LazyFrame, schema: pl.Schema, place: _Place) -> dict[str, Any]:
    """What all values of a column have in common, in one pass: number of rows, texts that are all integers."""
    wanted = [pl.len().alias("rows")]
    if place.text is not None:
        wanted.append(pl.col(f"^{_FIELD}[0-9]+$").null_count())
    for role in ("user", "item", "time"):
        kind = schema.get(role)
        if kind in (pl.String, pl.Categorical, pl.Enum):
            text = pl.col(role).cast(pl.String).str.strip_chars()
            held = text.filter(text.str.len_chars() > 0)
            wanted.append(pl.col(role).cast(pl.String).str.contains(_INTEGER).all().alias(f"{role} integer"))
            wanted.append(held.cast(pl.Float64, strict=False).is_not_null().all().alias(f"{role} number"))
        elif kind is not None and kind.is_float():
            held = pl.col(role).drop_nulls().drop_nans()
            wanted.append((held == held.round()).all().alias(f"{role} integer"))
    return _collect(frame.select(wanted), place).row(0, named=True)


def _collect(query: pl.LazyFrame, place: _Place) -> pl.DataFrame:
    try:
        return query.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise place.unreadable(error) from None


def _id_expression(role: str, kind: pl.DataType, facts: Mapping[str, Any], column: str, place: _Place) -> pl.Expr:
    value = pl.col(role)
    if kind.is_integer():
        return value.cast(pl.Int64)
    if kind in (pl.String, pl.Categorical, pl.Enum):
        return value.cast(pl.Int64) if facts[f"{role} integer"] else value.cast(pl.String)
    if kind.is_float():  # integers with gaps come out of pandas as floats; the gaps are reported as nulls below
        if not facts[f"{role} integer"]:
            raise DataError(f"{place.source}: '{column}' holds numbers with a fraction; ids are text or integers.")
        return value.fill_nan(None).cast(pl.Int64, strict=False)
    raise DataError(f"{place.source}: '{column}' holds {kind}; ids are text or integers.")


def _rating_expression(kind: pl.DataType) -> pl.Expr:
    """`rating` as float64, null where it cannot be read."""
    value = pl.col("rating")
    if kind in (pl.String, pl.Categorical, pl.Enum):
        return value.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
    if kind.is_numeric() or kind == pl.Boolean:
        return value.cast(pl.Float64, strict=False)
    return pl.lit(None, dtype=pl.Float64)


def _time_expression(
    kind: pl.DataType, facts: Mapping[str, Any], ticks: int, column: str, place: _Place
) -> tuple[pl.Expr, int]:
    """`time` as int64 or float64, null where it cannot be read; and its ticks per second."""
    value = pl.col("time")
    if kind.is_integer():
        return value.cast(pl.Int64, strict=False), ticks
    if kind.is_float():
        return pl.when(value.is_finite()).then(value.cast(pl.Float64)), ticks
    if kind == pl.Date or isinstance(kind, pl.Datetime):
        return value.dt.epoch("us"), TICKS["us"]
    if kind != pl.String:
        raise DataError(f"{place.source}: '{column}' holds {kind}; times are numbers, dates or ISO texts.")
    text = value.str.strip_chars()
    if facts["time integer"]:
        return text.cast(pl.Int64, strict=False), ticks
    if facts["time number"]:
        number = text.cast(pl.Float64, strict=False)
        return pl.when(number.is_finite()).then(number), ticks
    return _iso(text).dt.epoch("us"), TICKS["us"]


def _iso(text: pl.Expr) -> pl.Expr:
    """Dates and times in ISO 8601, in UTC; null for anything else."""
    text = text.str.replace(r"\s*(?:[zZ]|UTC)$", "+00:00").str.replace("T", " ")
    zoned = text.str.replace(r"([+-]\d\d):?(\d\d)$", "$1$2")
    forms = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")
    with_zone = [
        zoned.str.to_datetime(f"{form}%z", time_unit="us", strict=False).dt.replace_time_zone(None) for form in forms
    ]
    naive = [text.str.to_datetime(form, time_unit="us", strict=False) for form in forms]
    day = text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    return pl.coalesce(*with_zone, *naive, day)


def _check_values(raw: pl.LazyFrame, typed: pl.LazyFrame, found: Mapping[str, str], ticks: int, place: _Place) -> None:
    """All values in one pass; the first fault found is the error."""
    schema = typed.collect_schema()
    faults: dict[tuple[str, str], pl.Expr] = {}
    for role in ("user", "item"):
        value = pl.col(role)
        faults[role, "is null or empty"] = value.is_null()
        if schema[role] == pl.String:
            lower = value.str.strip_chars().str.to_lowercase()
            faults[role, "is null or empty"] |= lower == ""
            faults[role, "stands for a missing value"] = lower.is_in(list(MISSING_IDS))
            faults[role, "stands for padding"] = lower.is_in(list(SPECIAL_IDS))
    if "time" in found:
        faults["time", "is empty or cannot be read as a time"] = pl.col("time").is_null()
        faults["time", "lies before the year 1"] = pl.col("time") < _EARLIEST * ticks
        faults["time", "lies beyond the year 3000"] = pl.col("time") > _LATEST * ticks
    counts = [bad.fill_null(True).sum().alias(f"{role}\n{fault}") for (role, fault), bad in faults.items()]
    firsts = [pl.col("row").filter(bad.fill_null(True)).min().alias(f"{r}\n{f}\nrow") for (r, f), bad in faults.items()]
    result = _collect(typed.select(pl.len().alias("rows"), *counts, *firsts), place).row(0, named=True)
    for role, fault in faults:
        if bad := result[f"{role}\n{fault}"]:
            count = _Count(result["rows"], bad, result[f"{role}\n{fault}\nrow"])
            raise _fault(raw, found, place, role, fault, count)


_HINTS = {
    "is null or empty": "remove these events, or name another column.",
    "stands for a missing value": "remove these events, or rename the id if it is real.",
    "stands for padding": "padding is not stored in a log: remove these events, or rename the id if it is real.",
    "is empty or cannot be read as a time": "times are numbers, dates or ISO texts (2014-07-01T12:00:00Z).",
    "lies before the year 1": "remove these events, or read without times (--order row).",
    "lies beyond the year 3000": 'the unit is not seconds: time_unit="ms", "us" or "ns" (--time-unit).',
    "is empty or not a number": "remove these events, or do without the ratings (--min-rating, --dislike-at-most).",
}


@dataclass(frozen=True)
class _Count:
    """How often a fault occurs, and where first."""

    rows: int
    bad: int
    first: int


def _fault(
    raw: pl.LazyFrame, found: Mapping[str, str], place: _Place, role: str, fault: str, count: _Count
) -> DataError:
    """The error for one kind of fault, with the first value as the source has it."""
    first = _collect(raw.filter(pl.col("row") == count.first).head(1).select({"user", role}), place).row(0, named=True)
    whose = "" if role == "user" else f", user {first['user']!r}"
    return DataError(
        f"{place.source}: '{found[role]}' {fault} in {count.bad:,} of {count.rows:,} rows"
        f" (first: {place.row(count.first)}{whose}, value {first[role]!r}).",
        hint=_HINTS[fault],
    )

"""Impressions: lists that were shown to users, with what was clicked and what was passed over.

    user  time  history  clicked  unclicked        a table of impressions, one line each, or MIND's behaviors.tsv
    u1    10    3 1      4 2      5 9

    row (one per click)   3 1 -> 4                 what a model sees and must find
    candidates            2 4 5 9                  what the target is ranked among: all that was shown
    passed over           5 9                      the row's own negatives, for training

What one may know when. That something was passed over is known after the impression, so that a model may learn from
it, and so may later impressions of the same user: `Dataset.dislikes` has, for each evaluation row, what its user had
passed over in **earlier** impressions. What was passed over in the very impression that is ranked is the answer itself:
whoever is told (`Dataset.unclicked`) needs no model. What was shown in it (`Dataset.shown`), without what became of it,
is known to whoever ranks it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from guiderec.data.dataset import EVALUATED, PARTS, Dataset, Vocabulary
from guiderec.data.interactions import encode
from guiderec.data.protocols import Impressions, ImpressionSplit
from guiderec.data.sequences import Ids, ItemLists, Sequences
from guiderec.errors import DataError

COLUMNS = ("user", "time", "history", "clicked", "unclicked")
LISTS = ("history", "clicked", "unclicked")
HINT = "columns: user, time, and lists of items history (oldest first), clicked, unclicked"


def read_impressions(source: str | Path | pl.DataFrame) -> pl.DataFrame:
    """A checked table of impressions, in order of time: `user`, `time` (seconds since 1970) and three lists of items.

    `source` is a frame, or a file: `.parquet`, `.jsonl` or `.ndjson` with the columns named above (others are left
    out), or MIND's `behaviors.tsv`. Times are dates, ISO texts or seconds; without a zone they are UTC. Impressions of
    equal times keep their order. A null history is an empty one; impressions without a click are no rows, but what they
    showed counts as passed over for later ones.

    Raises
    ------
    DataError
        Naming the first place, for missing columns, lists that are none, empty ids or times, and items that one
        impression lists twice.
    """
    table, where = (source, "impressions") if isinstance(source, pl.DataFrame) else (_read(Path(source)), str(source))
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise DataError(f"{where}: no column '{missing[0]}' (columns: {', '.join(table.columns)}).", hint=HINT)
    if not len(table):
        raise DataError(f"{where}: no impressions.")
    table = table.select(COLUMNS)
    for column in LISTS:
        kind = table.schema[column]
        if not isinstance(kind, pl.List) or not (kind.inner == pl.Null or _is_id(kind.inner)):
            raise DataError(f"{where}: '{column}' holds {kind}, expected a list of ids (text or integers).", hint=HINT)
    table = table.with_columns(_same_kind(table, where)).with_columns(pl.col("history").fill_null([]))
    if not _is_id(table.schema["user"]):
        raise DataError(f"{where}: 'user' holds {table.schema['user']}, expected text or integers.")
    if table.schema["user"].is_integer():  # null, and so refused below, where it does not fit
        table = table.with_columns(pl.col("user").cast(pl.Int64, strict=False))
    table = table.with_columns(time=_seconds(table["time"], where))
    _refuse(table, {f"'{column}' is null or cannot be read": pl.col(column).is_null() for column in COLUMNS}, where)
    _refuse(
        table,
        {
            **{f"'{c}' holds an empty id": pl.col(c).list.eval(pl.element().is_null()).list.any() for c in LISTS},
            **{
                f"'{c}' lists an item twice": pl.col(c).list.n_unique() < pl.col(c).list.len()
                for c in ("clicked", "unclicked")
            },
            "an item is both clicked and unclicked": pl.col("clicked").list.set_intersection("unclicked").list.len()
            > 0,
        },
        where,
    )
    return table.sort("time", maintain_order=True)


def split(source: str | Path | pl.DataFrame, protocol: Impressions | None = None, *, name: str) -> Dataset:
    """The split of a table of impressions, or of a file with one; see `read_impressions`.

    The catalogue is every item that is clicked or shown anywhere. The stored time of a history is that of its
    impression, by which it was known at the latest.

    Raises
    ------
    DataError
        For what `read_impressions` refuses, and for a part that would be empty.
    """
    protocol = ImpressionSplit() if protocol is None else protocol
    table = read_impressions(source)
    raw = pl.concat([table[column].explode().drop_nulls() for column in LISTS]).unique().sort()
    users = None if table.schema["user"].is_integer() else table["user"].unique().sort()
    owner = table["user"].cast(pl.Int64).to_numpy() if users is None else encode(table["user"], users) - 1
    lists = {column: _encoded(table[column], raw) for column in LISTS}
    times = table["time"].to_numpy()
    part_of = protocol.part_of(times)
    sequences, unclicked, shown = {}, {}, {}
    for number, part in enumerate(PARTS):
        chosen = [
            (impression, click)
            for impression in np.flatnonzero(part_of == number)
            for click in lists["clicked"][impression]
        ]
        of = np.array([impression for impression, _ in chosen], dtype=np.int64)
        rows = Sequences.from_lists([np.append(lists["history"][i], click) for i, click in chosen], users=owner[of])
        sequences[part] = replace(rows, times=np.repeat(times[of], rows.lengths))
        unclicked[part] = ItemLists.from_lists([lists["unclicked"][i] for i in of])
        shown[part] = ItemLists.from_lists(
            [np.sort(np.concatenate([lists["clicked"][i], lists["unclicked"][i]])) for i in of]
        )
    dataset = protocol.assemble(
        protocol.parts(*(sequences[part] for part in PARTS)),
        Vocabulary(tuple(raw.to_list())),
        full=sequences["test"],
        name=name,
        users=users,
    )
    known = {part: _passed_over_before(dataset, part, owner, times, lists) for part in EVALUATED}
    return replace(with_shown(dataset, shown, unclicked), dislikes=known)


def with_shown(dataset: Dataset, shown: dict[str, ItemLists], unclicked: dict[str, ItemLists]) -> Dataset:
    """The split with what was shown, and what of it was passed over, for each sequence of each part.

    They are the candidates of the evaluation rows where the protocol says so.
    """
    dataset = replace(dataset, shown=shown, unclicked=unclicked)
    if dataset.protocol["candidates"] != "impression":
        return dataset
    return replace(dataset, candidates={part: shown[part].padded(dataset.part(part).sequence) for part in EVALUATED})


def _passed_over_before(dataset: Dataset, part: str, owner: Ids, times: Ids, lists: dict[str, list[Ids]]) -> Ids:
    """(R, K) what the user of each row passed over in earlier impressions, ascending, padded on the right with 0.

    Without what they had clicked by then. The target is not looked at: who clicks today what they passed over
    yesterday has it among their dislikes.
    """
    impressions_of: dict[int, list[int]] = {}
    for impression, user in enumerate(owner.tolist()):
        impressions_of.setdefault(user, []).append(impression)
    rows = dataset.part(part)
    found = []
    for s, user in zip(rows.sequence, rows.users().tolist(), strict=True):
        assert rows.sequences.times is not None
        now = rows.sequences.times[rows.sequences.offsets[s]]
        earlier = [i for i in impressions_of[user] if times[i] < now]
        over = {item for i in earlier for item in lists["unclicked"][i].tolist()}
        taken = {item for i in earlier for item in lists["clicked"][i].tolist()}
        found.append(sorted(over - taken - set(rows.sequences[s][:-1].tolist())))
    return ItemLists.from_lists(found).padded(np.arange(len(found)))


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    readers: dict[str, Callable[[Path], pl.DataFrame]] = {
        ".parquet": partial(pl.read_parquet, glob=False),
        ".jsonl": _read_json_lines,
        ".ndjson": _read_json_lines,
        ".tsv": _read_mind,
    }
    if path.suffix not in readers:
        raise DataError(f"{path}: impressions are read from {', '.join(readers)}, not from '{path.suffix}'.", hint=HINT)
    try:
        return readers[path.suffix](path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not a readable {path.suffix} file ({str(error).splitlines()[0]}).") from None


def _read_json_lines(path: Path) -> pl.DataFrame:
    with path.open("rb") as lines:  # a name would be taken for a pattern
        return pl.read_ndjson(lines)


def _read_mind(path: Path) -> pl.DataFrame:
    """MIND's `behaviors.tsv`: impression, user, time, history and shown items by blanks, `-1` clicked and `-0` not.

    1  U131  11/13/2019 8:36:57 AM  N11 N21  N4-1 N34-0
    """
    columns = ["impression", "user", "time", "history", "shown"]
    table = pl.read_csv(
        path,
        separator="\t",
        has_header=False,
        quote_char=None,
        infer_schema=False,
        truncate_ragged_lines=True,
        glob=False,
    )
    if table.width != len(columns):
        raise DataError(f"{path}: {table.width} columns, and MIND's behaviors.tsv has 5: {', '.join(columns)}.")
    table.columns = columns
    shown = pl.col("shown").str.split(" ")
    malformed = ~pl.col("shown").str.contains(r"^\S+-[01]( \S+-[01])*$")
    _refuse(table, {"the shown items are not of the form N1-0 N2-1": malformed.fill_null(True)}, str(path))
    return table.select(
        "user",
        time=pl.col("time").str.strptime(pl.Datetime("ms"), "%m/%d/%Y %I:%M:%S %p", strict=False),
        history=pl.col("history").str.extract_all(r"\S+"),
        clicked=shown.list.eval(pl.element().filter(pl.element().str.ends_with("-1")).str.head(-2)),
        unclicked=shown.list.eval(pl.element().filter(pl.element().str.ends_with("-0")).str.head(-2)),
    )


def _is_id(kind: Any) -> bool:
    return bool(kind == pl.String or kind.is_integer())


def _same_kind(table: pl.DataFrame, where: str) -> list[pl.Expr]:
    """Casts that give all lists one kind of id. DataError where some hold text and others integers."""
    inner = {column: table.schema[column].inner for column in LISTS}  # type: ignore[attr-defined]
    text = {column for column, kind in inner.items() if kind == pl.String}
    integers = {column for column, kind in inner.items() if kind.is_integer()}
    if text and integers:
        raise DataError(f"{where}: '{min(text)}' holds text and '{min(integers)}' integers; ids are of one kind.")
    return [pl.col(column).cast(pl.List(pl.String if text else pl.Int64), strict=False) for column in LISTS]


def _seconds(times: pl.Series, where: str) -> pl.Series:
    """Whole seconds since 1970; null where a text is no time."""
    if times.dtype == pl.String:
        times = times.str.to_datetime(strict=False, time_unit="ms", time_zone="UTC")
    if isinstance(times.dtype, pl.Datetime | pl.Date) or times.dtype == pl.Date:
        return times.dt.epoch("s")
    if times.dtype.is_numeric():
        return (times.floor() if times.dtype.is_float() else times).cast(pl.Int64, strict=False)
    raise DataError(f"{where}: 'time' holds {times.dtype}, expected times, ISO texts or seconds since 1970.")


def _refuse(table: pl.DataFrame, faults: dict[str, pl.Expr], where: str) -> None:
    """DataError for the first fault that a line has, with how many have it."""
    for fault, expression in faults.items():
        bad = table.select(expression.fill_null(False)).to_series()
        if bad.any():
            first = int(bad.arg_true()[0])
            user = table["user"][first]
            raise DataError(
                f"{where}: {fault} in {bad.sum():,} of {len(table):,} impressions (first: row {first}, user {user!r})."
            )


def _encoded(lists: pl.Series, raw: pl.Series) -> list[Ids]:
    """Each list as internal ids."""
    ends = np.cumsum(lists.list.len().to_numpy())
    filled = lists.filter(lists.list.len() > 0)
    return np.split(encode(filled.explode(), raw).astype(np.int64), ends[:-1])

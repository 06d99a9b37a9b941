from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guiderec.data import interactions as module
from guiderec.data.filters import MinimumRating
from guiderec.data.interactions import Interactions
from guiderec.errors import DataError

MATRIX = {"user": ["u9", "u9", "u7", "u9"], "item": ["b", "a", "b", "c"], "time": [3, 1, 1, 2]}


def lists(log: Interactions) -> dict[object, list[object]]:
    """Raw item ids of every raw user."""
    read = log.sequences()
    names = read.sequences.users if read.users is None else read.users
    return {
        (name if isinstance(name, str) else int(name)): read.vocabulary.decode(list(read.sequences[s]))
        for s, name in enumerate(names)
    }


def test_docstring_matrix():
    read = Interactions.read(pl.DataFrame(MATRIX)).sequences()
    assert read.vocabulary.raw == ("a", "b", "c")
    assert read.users is not None
    assert read.users.to_list() == ["u7", "u9"]
    assert [read.sequences[s].tolist() for s in range(2)] == [[2], [1, 3, 2]]
    assert read.sequences.times is not None
    assert read.sequences.times.tolist() == [1, 1, 2, 3]


def write(frame: pl.DataFrame, file: Path) -> Path:
    match file.name.split(".", 1)[1]:
        case "csv":
            frame.write_csv(file)
        case "csv.gz":
            file.write_bytes(gzip.compress(frame.write_csv().encode()))
        case "tsv" | "inter":
            frame.write_csv(file, separator="\t")
        case "jsonl" | "ndjson":
            frame.write_ndjson(file)
        case "parquet":
            frame.write_parquet(file)
    return file


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "inter", "jsonl", "ndjson", "parquet"])
@pytest.mark.parametrize("ids", ["text", "integer"])
def test_every_format_gives_the_same_log(tmp_path, ending, ids):
    frame = pl.DataFrame(MATRIX)
    if ids == "integer":
        frame = frame.with_columns(user=pl.col("user").str.slice(1).cast(int), item=pl.Series([20, 3, 20, 100]))
    expected = lists(Interactions.read(frame))
    assert lists(Interactions.read(write(frame, tmp_path / f"log.{ending}"))) == expected
    assert lists(Interactions.read(write(frame, tmp_path / f"log[1]*.{ending}"))) == expected  # a name, no pattern
    assert list(expected) == ([7, 9] if ids == "integer" else ["u7", "u9"])
    if ids == "integer":  # by number, not by text: 3 before 20 before 100
        assert Interactions.read(tmp_path / f"log.{ending}").sequences().vocabulary.raw == (3, 20, 100)


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pl.LazyFrame])
def test_frames(make):
    assert lists(Interactions.read(make(MATRIX))) == {"u7": ["b"], "u9": ["a", "c", "b"]}


def test_categories_and_small_integers():
    frame = pl.DataFrame(MATRIX).with_columns(pl.col("item").cast(pl.Categorical), pl.col("time").cast(pl.UInt8))
    assert lists(Interactions.read(frame)) == {"u7": ["b"], "u9": ["a", "c", "b"]}


def test_leading_zeros_stay_text(tmp_path):
    """A reader that guesses types turns 007 into 7, and two items into one."""
    file = tmp_path / "log.csv"
    file.write_text("user,item,time\n1,007,1\n1,7,2\n")
    assert Interactions.read(file).sequences().vocabulary.raw == ("007", "7")


def test_types_are_decided_on_all_rows(tmp_path):
    """Polars looks at the first hundred rows of a CSV file; the first text id is far behind them."""
    file = tmp_path / "log.csv"
    file.write_text("user,item,time\n" + "".join(f"{n},5,1\n" for n in range(300)) + "x,5,1\n")
    read = Interactions.read(file).sequences()
    assert read.users is not None
    assert len(read.users) == 301


def test_raw_id_zero_is_an_item():
    read = Interactions.read(pl.DataFrame({"user": [1, 1], "item": [0, 5], "time": [1, 2]})).sequences()
    assert read.vocabulary.raw == (0, 5)
    assert read.sequences.items.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ([1_400_000_000, 1_400_000_060], "s"),
        ([1_400_000_000.0, 1_400_000_060.5], "s"),
        ([1_400_000_000_000, 1_400_000_060_999], "ms"),
        ([1_400_000_000_000_000, 1_400_000_060_000_001], "us"),
        ([1_400_000_000_000_000_000, 1_400_000_060_000_000_001], "ns"),
        (["1400000000", "1400000060"], "s"),
        (["1400000000.5", "1.40000006e9"], "s"),
        (["2014-05-13T16:53:20Z", "2014-05-13T18:54:20+02:00"], "s"),
        (["2014-05-13 16:53:20.25", "2014-05-13T16:54:20+0000"], "s"),
        (["2014-05-13 16:53:20 UTC", "2014-05-13T16:54:20 UTC"], "s"),
        (["2014-05-13 16:53:20", " 2014-05-13T16:54:20.999999 "], "s"),
    ],
)
def test_times_in_seconds(values, unit):
    log = Interactions.read(pl.DataFrame({"user": [1, 1], "item": [1, 2], "time": values}), time_unit=unit)
    assert log.sequences().sequences.times.tolist() == [1_400_000_000, 1_400_000_060]


def test_dates():
    frame = pl.DataFrame({"user": [1, 1], "item": [1, 2], "date": ["1970-01-02", "1970-01-03"]})
    for form in (frame, frame.with_columns(pl.col("date").str.to_date()), frame.to_pandas()):
        assert Interactions.read(form).sequences().sequences.times.tolist() == [86400, 172800]


def test_fractions_of_a_second_order_events():
    """Times are stored in whole seconds but events are ordered by what the log says."""
    frame = pl.DataFrame({"user": [1, 1, 1], "item": [1, 2, 3], "time": [5.75, 5.5, 5.25]})
    assert lists(Interactions.read(frame)) == {1: [3, 2, 1]}


def test_equal_times_keep_the_order_of_the_log():
    frame = pl.DataFrame({"user": [1] * 6, "item": [5, 3, 9, 1, 7, 2], "time": [2, 1, 2, 1, 2, 1]})
    assert lists(Interactions.read(frame)) == {1: [3, 1, 2, 5, 9, 7]}


def test_row_order_needs_no_time():
    frame = pl.DataFrame({"user": [2, 1, 2], "item": [9, 8, 7], "time": [3, 2, 1]})
    log = Interactions.read(frame, order="row")
    assert lists(log) == {1: [8], 2: [9, 7]}
    assert log.sequences().sequences.times is None


events = st.lists(st.tuples(st.integers(0, 6), st.integers(-4, 9), st.integers(0, 4)), min_size=1, max_size=60)


@settings(max_examples=25, deadline=None)
@given(events=events, batch=st.integers(1, 7))
def test_placing_equals_sorting(events, batch):
    """The oracle is Python's stable sort; small batches force many placings and many sorted stretches."""
    expected: dict[int, list[int]] = {}
    for user, item, _ in sorted(events, key=lambda event: (event[0], event[2])):
        expected.setdefault(user, []).append(item)
    frame = pl.DataFrame(events, schema=["user", "item", "time"], orient="row")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BATCH", batch)
        assert lists(Interactions.read(frame)) == expected
        as_text = frame.with_columns(pl.col("user").cast(pl.String) + "u", pl.col("item").cast(pl.String) + "i")
        found = lists(Interactions.read(as_text))
    assert found == {f"{user}u": [f"{item}i" for item in items] for user, items in expected.items()}


def test_duplicates_are_counted_and_kept():
    frame = pl.DataFrame({"user": [1, 1, 1, 2], "item": [4, 4, 4, 4], "time": [7, 7, 8, 7]})
    log = Interactions.read(frame)
    assert (log.count(), log.duplicates()) == (4, 1)
    assert lists(log) == {1: [4, 4, 4], 2: [4]}
    assert Interactions.read(frame.drop("time"), order="row").duplicates() == 2


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["userId", "movieId", "rating", "timestamp"], ["userId", "movieId", "timestamp", "rating"]),
        (["user_id:token", "item_id:token", "timestamp:float"], ["user_id:token", "item_id:token", "timestamp:float"]),
        (["reviewerID", "asin", "overall", "unixReviewTime"], ["reviewerID", "asin", "unixReviewTime", "overall"]),
        (["session_id", "item_id", "ts"], ["session_id", "item_id", "ts"]),
        (["user_id", "session_id", "item_id"], ["user_id", "item_id"]),
        (["USER ID", "Item-Id", "DateTime", "weight"], ["USER ID", "Item-Id", "DateTime", "weight"]),
        (["userID", "artistID", "weight"], ["userID", "artistID", "weight"]),  # Last.fm of HetRec
        (["userid", "timestamp", "artid", "artname", "traid", "traname"], ["userid", "traid", "timestamp"]),  # LFM-1K
        (["timestamp", "visitorid", "event", "itemid", "transactionid"], ["visitorid", "itemid", "timestamp"]),
        (["sessionId", "userId", "itemId", "timeframe", "eventdate"], ["userId", "itemId", "eventdate"]),  # Diginetica
        (["event_time", "product_id", "price", "user_id", "user_session"], ["user_id", "product_id", "event_time"]),
        (["customer_id", "review_id", "product_id", "product_parent", "star_rating", "review_date"],
         ["customer_id", "product_id", "review_date", "star_rating"]),
        (["user_id", "parent_asin", "rating", "timestamp"], ["user_id", "parent_asin", "timestamp", "rating"]),
        (["review_id", "user_id", "business_id", "stars", "date"], ["user_id", "business_id", "date", "stars"]),  # Yelp
        (["user_id", "video_id", "time", "date", "timestamp"], ["user_id", "video_id", "timestamp"]),  # KuaiRec
        (["user_id", "video_id", "date", "hourmin", "time_ms"], ["user_id", "video_id", "time_ms"]),  # KuaiRand
        (["username", "product_id", "hours", "date"], ["username", "product_id", "date"]),  # Steam
        (["user_id", "item_id", "cat_id", "seller_id", "time_stamp"], ["user_id", "item_id", "time_stamp"]),  # Tmall
        (["User-ID", "ISBN", "Book-Rating"], ["User-ID", "ISBN", "Book-Rating"]),
        (["user_id", "session_id", "click_article_id", "click_timestamp"],
         ["user_id", "click_article_id", "click_timestamp"]),
        (["user_id:token", "uid:token", "item_id:token", "asin:token"], ["user_id:token", "item_id:token"]),
    ],
)  # fmt: skip
def test_aliases(columns, expected):
    found, _ = resolve(columns)
    assert list(found.values()) == expected


def resolve(columns):
    place = module._Place("log")
    return module._resolve(
        pl.Schema(dict.fromkeys(columns, pl.String)), dict.fromkeys(("user", "item", "time", "rating")), place, set()
    )


def test_no_alias_belongs_to_two_roles_or_groups():
    aliases = [alias for groups in module.ALIASES.values() for group in groups for alias in group.split()]
    assert len(aliases) == len(set(aliases))
    assert all(module._plain(alias) == alias for alias in aliases)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            ["user_id", "reviewerID", "asin"],
            "log: 'user_id' and 'reviewerID' could both be 'user'."
            ' Hint: name the one to read: user="user_id" (--user user_id on the command line).',
        ),
        (
            ["user_id", "asin", "parent_asin"],
            "log: 'asin' and 'parent_asin' could both be 'item'."
            ' Hint: name the one to read: item="asin" (--item asin on the command line).',
        ),
        (
            ["user", "item", "time", "date", "review_date"],
            "log: 'time', 'date' and 'review_date' could all be 'time'."
            ' Hint: name the one to read: time="time" (--time time on the command line).',
        ),
    ],
)
def test_two_columns_for_one_role_are_an_error(columns, expected):
    """The first of two usual names used to be read without a word, against what the documentation said."""
    with pytest.raises(DataError) as caught:
        resolve(columns)
    assert str(caught.value) == expected


def test_a_named_column_settles_which(tmp_path):
    frame = pl.DataFrame({"user_id": [1, 1], "reviewerID": [8, 9], "asin": ["p", "q"], "time": [1, 2]})
    log = Interactions.read(frame, user="reviewerID")
    assert lists(log) == {8: ["p"], 9: ["q"]}
    assert log.source_columns == {"user": "reviewerID", "item": "asin", "time": "time"}


# --- ratings: checked when they are used ---------------------------------------------------------------------------

RATED = "user,item,time,rating\n1,2,1,4\n1,3,2,\n2,3,3,good\n2,2,4, 5 \n"


def test_ratings_that_nobody_uses_are_not_looked_at(tmp_path):
    """Events without a rating used to stop an import that does not ask for ratings."""
    (tmp_path / "log.csv").write_text(RATED)
    log = Interactions.read(tmp_path / "log.csv")
    assert lists(log) == {1: [2, 3], 2: [3, 2]}
    with pytest.raises(DataError) as caught:
        MinimumRating(at_least=3)(log)
    assert str(caught.value) == (
        f"{tmp_path / 'log.csv'}: 'rating' is empty or not a number in 2 of 4 rows (first: line 3, user '1', value"
        " None). Hint: remove these events, or do without the ratings (--min-rating, --dislike-at-most)."
    )


def test_only_ratings_that_are_left_are_looked_at(tmp_path):
    (tmp_path / "log.csv").write_text(RATED)
    log = Interactions.read(tmp_path / "log.csv")
    with pytest.raises(DataError, match=r"in 1 of 3 rows \(first: line 4, user '2', value 'good'\)"):
        MinimumRating(at_least=3)(log.keep(pl.col("row") != 1, {}))
    rated = MinimumRating(at_least=4.5)(log.keep(~pl.col("row").is_in([1, 2]), {}))
    assert lists(rated) == {2: [2]}


def test_two_columns_of_ratings_matter_when_one_is_used():
    frame = pl.DataFrame({**MATRIX, "stars": [1, 2, 3, 4], "score": [5, 5, 5, 5]})
    assert lists(Interactions.read(frame)) == {"u7": ["b"], "u9": ["a", "c", "b"]}
    with pytest.raises(DataError) as caught:
        MinimumRating(at_least=3)(Interactions.read(frame))
    assert str(caught.value) == (
        "polars DataFrame: 'stars' and 'score' could both be 'rating'."
        ' Hint: name the one to read: rating="stars" (--rating stars on the command line).'
    )
    assert lists(MinimumRating(at_least=3)(Interactions.read(frame, rating="stars"))) == {"u7": ["b"], "u9": ["c"]}


@pytest.mark.parametrize("values", [[[1], [2], [3], [4]], [float("inf")] * 4])
def test_what_is_no_rating_at_all(values):
    frame = pl.DataFrame({**MATRIX, "rating": values})
    assert lists(Interactions.read(frame))
    with pytest.raises(DataError, match=r"'rating' is empty or not a number in 4 of 4 rows \(first: row 0, user 'u9'"):
        MinimumRating(at_least=3)(Interactions.read(frame))


def test_named_columns_win_over_aliases():
    frame = pl.DataFrame({"user": [1, 1], "item": [1, 2], "time": [1, 2], "who": [8, 9], "what": ["p", "q"]})
    assert lists(Interactions.read(frame, user="who", item="what")) == {8: ["p"], 9: ["q"]}


# --- errors: the whole text, since the text is the interface -------------------------------------------------------

HEAD = "user,item,time\n"


def message(source, **options) -> str:
    with pytest.raises(DataError) as caught:
        Interactions.read(source, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty."),
        (HEAD, "no rows."),
        (
            "users,item,time\n1,2,3\n",
            "no column for 'user' (columns: users, item, time). Did you mean 'users'?"
            ' Hint: name it: user="..." (--user on the command line).',
        ),
        (
            "user,user_,item\n1,2,3\n",
            "'user' and 'user_' could both be 'user'."
            ' Hint: name the one to read: user="user" (--user user on the command line).',
        ),
        (
            HEAD + "1,2,3\n1,,4\n2,,5\n",
            "'item' is null or empty in 2 of 3 rows (first: line 3, user '1', value None)."
            " Hint: remove these events, or name another column.",
        ),
        (
            HEAD + "1,2,3\n  ,2,4\n",
            "'user' is null or empty in 1 of 2 rows (first: line 3, value '  ')."
            " Hint: remove these events, or name another column.",
        ),
        (
            HEAD + "1,2,3\n1,[PAD],4\n",
            "'item' stands for padding in 1 of 2 rows (first: line 3, user '1', value '[PAD]')."
            " Hint: padding is not stored in a log: remove these events, or rename the id if it is real.",
        ),
        (
            HEAD + "NaN,2,3\n1,b,4\n",
            "'user' stands for a missing value in 1 of 2 rows (first: line 2, value 'NaN')."
            " Hint: remove these events, or rename the id if it is real.",
        ),
        (
            HEAD + "u1,2,2014-01-01\nu1,3,yesterday\nu1,4,\n",
            "'time' is empty or cannot be read as a time in 2 of 3 rows (first: line 3, user 'u1', value 'yesterday')."
            " Hint: times are numbers, dates or ISO texts (2014-07-01T12:00:00Z).",
        ),
        (
            HEAD + "u1,2,1400000000000\n",
            "'time' lies beyond the year 3000 in 1 of 1 rows (first: line 2, user 'u1', value '1400000000000')."
            ' Hint: the unit is not seconds: time_unit="ms", "us" or "ns" (--time-unit).',
        ),
        (
            HEAD + "u1,2,-1e308\n",
            "'time' lies before the year 1 in 1 of 1 rows (first: line 2, user 'u1', value '-1e308')."
            " Hint: remove these events, or read without times (--order row).",
        ),
        (
            HEAD + "u1,2,0000-12-31\n",
            "'time' lies before the year 1 in 1 of 1 rows (first: line 2, user 'u1', value '0000-12-31')."
            " Hint: remove these events, or read without times (--order row).",
        ),
        (
            "user,item,time,item\n1,2,3,4\n",
            "the column 'item' for 'item' stands there more than once. Hint: rename or remove one of them.",
        ),
        (
            "user,item_id,itemId\n1,2,3\n",
            "'item_id' and 'itemId' could both be 'item'."
            ' Hint: name the one to read: item="item_id" (--item item_id on the command line).',
        ),
    ],
)
def test_bad_files(tmp_path, text, expected):
    file = tmp_path / "log.csv"
    file.write_text(text)
    assert message(file) == f"{file}: {expected}"


def test_named_column_that_is_missing():
    text = message(pl.DataFrame(MATRIX), time="tim")
    assert text == ("polars DataFrame: no column 'tim' for 'time' (columns: user, item, time). Did you mean 'time'?")


def test_frames_count_rows_from_zero():
    frame = pl.DataFrame({"user": [1, 1], "item": ["a", None], "time": [1, 2]})
    assert "in 1 of 2 rows (first: row 1, user 1, value None)" in message(frame)


def test_gaps_in_pandas_integers_are_nulls():
    frame = pd.DataFrame({"user": [1.0, float("nan")], "item": [1, 2], "time": [1, 2]})
    assert "'user' is null or empty in 1 of 2 rows (first: row 1" in message(frame)


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("item", [1.5, 2.0], "'item' holds numbers with a fraction; ids are text or integers."),
        ("item", [True, False], "'item' holds Boolean; ids are text or integers."),
        ("time", [True, False], "'time' holds Boolean; times are numbers, dates or ISO texts."),
    ],
)
def test_types_that_are_no_ids_or_times(column, values, expected):
    frame = pl.DataFrame({"user": [1, 1], "item": [1, 2], "time": [1, 2]}).with_columns(pl.Series(column, values))
    assert message(frame) == f"polars DataFrame: {expected}"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_times_must_be_finite(value):
    frame = pl.DataFrame({"user": [1, 1], "item": [1, 2], "time": [1.0, value]})
    assert "is empty or cannot be read as a time in 1 of 2 rows (first: row 1" in message(frame)


def test_files_that_are_no_logs(tmp_path):
    (tmp_path / "events.csv").write_text(HEAD)
    assert message(tmp_path / "event.csv") == (
        f"{tmp_path / 'event.csv'}: no such file. Hint: Did you mean 'events.csv'?"
    )
    (tmp_path / "log.xlsx").write_text("x")
    assert message(tmp_path / "log.xlsx") == (
        f"{tmp_path / 'log.xlsx'}: logs end in .csv, .tsv, .inter, .txt, .dat, .data, .jsonl, .ndjson or .parquet, not"
        " '.xlsx'. Hint: if it is text, say what separates the fields: separator=\"...\" (--separator)."
    )
    (tmp_path / "log.parquet").write_text("this is no Parquet")
    assert message(tmp_path / "log.parquet").startswith(f"{tmp_path / 'log.parquet'}: cannot be read (")
    (tmp_path / "log.jsonl").write_text("{not json\n")
    assert message(tmp_path / "log.jsonl").startswith(f"{tmp_path / 'log.jsonl'}: cannot be read (")
    assert message([1, 2]) == "A log is a file or a Polars or pandas frame, not list."


def test_order_is_needed():
    log = Interactions.read(pl.DataFrame(MATRIX).drop("time"))
    with pytest.raises(DataError) as caught:
        log.sequences(needed_by="leave-one-out")
    assert str(caught.value) == (
        "polars DataFrame: no time column, and leave-one-out needs the order of events."
        ' Hint: name it (time="..."), or read with order="row" if the rows of each user are in order already.'
    )


def test_json_lines_with_late_columns(tmp_path):
    """A key that first appears behind the rows that a reader samples."""
    rows = [{"user": n, "item": n % 7} for n in range(500)]
    rows = [{**row, "time": 1} if n > 200 else row for n, row in enumerate(rows)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "'time' is empty or cannot be read as a time in 201 of 500 rows (first: line 1," in message(
        tmp_path / "log.jsonl"
    )


def test_batches_are_in_order():
    values = np.arange(5000)
    log = Interactions.read(pl.DataFrame({"user": values % 3, "item": values}), order="row")
    joined = pl.concat(log.batches("item"))
    assert joined["item"].to_list() == values.tolist()

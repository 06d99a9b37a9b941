"""Logs as people have them: `::` and `;`, no header, Latin-1, short and long lines."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guiderec.data import delimited as module
from guiderec.data.delimited import Delimited, delimited
from guiderec.data.interactions import Interactions
from guiderec.errors import ConfigError, DataError

NAMES = ["user", "item", "rating", "time"]
ML_1M = "1::1193::5::978300760\n1::661::3::978302109\n2::1357::5::978298709\n"


def events(source: Path, **options) -> list[tuple]:
    frame = Interactions.read(source, **options).frame.collect()
    return frame.select([name for name in ("user", "item", "time", "rating") if name in frame.columns]).rows()


def message(source: Path, **options) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        Interactions.read(source, **options)
    return str(caught.value)


@pytest.mark.parametrize("separator", ["::", "\t", "|", ";", ",", " ", "\x01", "¦", "||"])
@pytest.mark.parametrize("name", ["ratings.dat", "u.data", "log.txt", "u1.base", "log.csv", "log.dat.gz"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_every_separator_and_ending(tmp_path, separator, name, newline, encoding):
    text = ML_1M.replace("::", separator).replace("\n", newline)
    raw = text.encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    found = events(tmp_path / name, separator=separator, columns=NAMES, encoding=encoding)
    assert found == [(1, 1193, 978300760, 5.0), (1, 661, 978302109, 3.0), (2, 1357, 978298709, 5.0)]


@pytest.mark.parametrize("separator", ["::", ";"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_a_header_is_read(tmp_path, separator, encoding):
    text = "user::item::time\nzoé::b::2\nzoé::a::1\n".replace("::", separator)
    (tmp_path / "log.txt").write_bytes(text.encode(encoding))
    assert events(tmp_path / "log.txt", separator=separator, encoding=encoding) == [("zoé", "b", 2), ("zoé", "a", 1)]


def test_latin_1_without_its_name_is_an_error_that_names_it(tmp_path):
    (tmp_path / "log.csv").write_bytes("user,item,time\nu,a,1\nu,caf\u00e9,2\nu,th\u00e9,3\n".encode("latin-1"))
    assert message(tmp_path / "log.csv") == (
        f"{tmp_path / 'log.csv'}: 2 of 4 lines are not utf-8 (first: line 3, byte 0xe9 after 'u,caf')."
        ' Hint: name the encoding it has, for example encoding="latin-1" (--encoding latin-1).'
    )
    assert events(tmp_path / "log.csv", encoding="latin-1")[1:] == [("u", "café", 2), ("u", "thé", 3)]
    assert "2 of 4 lines are not ascii (first: line 3," in message(tmp_path / "log.csv", encoding="ascii")
    assert "the text is not utf-16" in message(tmp_path / "log.csv", encoding="utf-16")


HEAD = "user,item,time\n"


WIDTHS = "lines do not have the 3 fields user, item, time between ',' (first:"
QUOTE = "a double quote is not closed, or a quote or carriage return stands inside a field"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2,3\n1,2,3,4,5\n1,5,5,6\n", f"2 of 4 {WIDTHS} line 3 has 5)."),
        ("1,2,3\n1,2\n", f"1 of 3 {WIDTHS} line 3 has 2)."),
        ('1,"2\n2",3\n\n1,2\n', f"1 of 3 {WIDTHS} line 5 has 2)."),
        ('1,2,3\n1,"2,3\n1,4,4\n', f"line 3: {QUOTE} (unexpected end of data)."),
        ('1,2,3\n1,"2"x,3\n', f"line 3: {QUOTE} (',' expected after '\"')."),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_lines_that_do_not_fit_are_named(tmp_path, text, expected, encoding):
    """What Polars says of a long line names no line and no number; of a short one it says nothing."""
    (tmp_path / "log.csv").write_text(HEAD + text)
    assert message(tmp_path / "log.csv", encoding=encoding).startswith(f"{tmp_path / 'log.csv'}: {expected} Hint: ")


@pytest.mark.parametrize("line", ["1,2", "1,2,3,4,5,6"])
def test_lines_that_do_not_fit_count_in_columns_that_are_not_used_too(tmp_path, line):
    """A field lost in the middle shifts the others, and a reader of the first columns alone would not notice."""
    (tmp_path / "log.csv").write_text(f"user,item,time,city,zip\n1,2,3,x,y\n{line}\n")
    assert "1 of 3 lines do not have the 5 fields user, item, time, city, zip between ','" in message(
        tmp_path / "log.csv"
    )


@pytest.mark.parametrize(("line", "fields"), [("1::2::3", 3), ("1::2::3::4::5", 5), ("1:2:3:4", 1)])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_lines_with_long_separators_that_do_not_fit(tmp_path, line, fields, encoding):
    (tmp_path / "ratings.dat").write_text(f"{ML_1M}{line}\n")
    assert message(tmp_path / "ratings.dat", separator="::", columns=NAMES, encoding=encoding) == (
        f"{tmp_path / 'ratings.dat'}: 1 of 4 lines do not have the 4 fields user, item, rating, time between '::'"
        f" (first: line 4 has {fields}). Hint: mend these lines, or say how to read them (--separator, --columns)."
    )


def test_empty_last_fields_are_no_fault(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,time,note\n1,2,3,\n1,4,5,good\n")
    assert events(tmp_path / "log.csv") == [(1, 2, 3), (1, 4, 5)]
    (tmp_path / "log.dat").write_text("1::2::3::\n1::4::5::good\n")
    assert events(tmp_path / "log.dat", separator="::", columns=["user", "item", "time", "note"]) == [
        (1, 2, 3),
        (1, 4, 5),
    ]


def test_lines_are_counted_as_an_editor_does(tmp_path):
    """A quoted field of two lines used to shift every number behind it."""
    (tmp_path / "log.csv").write_text('item,user,time\n"a\nb",1,2\n"c\nd",,3\n')
    assert "'user' is null or empty in 1 of 2 rows (first: line 4, value None)" in message(tmp_path / "log.csv")
    (tmp_path / "log.dat").write_text("1::2::3\n\n1::::4\n")
    assert "'user' is null or empty in 1 of 3 rows (first: line 2, value None)" in message(
        tmp_path / "log.dat", separator="::", columns=["user", "item", "time"]
    )


@pytest.mark.parametrize(
    ("name", "text", "options", "expected"),
    [
        ("ratings.dat", ML_1M, {},
         "ratings.dat: the ending '.dat' does not say what separates the fields; the first line is"
         " '1::1193::5::978300760'. Hint: separator='::' (--separator ::); if the first line is no header, name the"
         " fields too: columns=[...] (--columns A,B,...)."),
        ("u.data", "196\t242\t3\t881250949\n", {}, "separator='\\t' (--separator '\\t');"),
        ("log.txt", "nothing to see\n", {}, "separator='...' (--separator ...);"),
        ("log.csv", "user;item;time\n1;2;3\n", {},
         "no column for 'user' (columns: user;item;time). Hint: say what separates the fields: separator=';'"
         " (--separator ';')."),
        ("log.csv", "1,1,5,97\n1,2,5,98\n", {},
         "no column for 'user' (columns: 1, 1_duplicated_0, 5, 97). Hint: if the file has no header, name its fields:"
         " columns=[...] (--columns user,item,... as they come)."),
        ("log.csv", "1,2,3\n", {"columns": ["user", "item"]},
         "1 of 1 lines do not have the 2 fields user, item between ',' (first: line 1 has 3)."),
        ("log.csv", "user_id,item_id,ts\n1,2,3\n", {"columns": ["user", "item", "time"]},
         "log.csv: line 1 is a header (user_id, item_id, ts), and the columns are named besides."
         " Hint: leave out columns= (--columns), or remove the line."),
        ("log.dat", "user::item::user\n1::2::3\n", {"separator": "::"},
         "log.dat: the column 'user' stands there more than once. Hint: rename one of them."),
        ("log.csv", "x", {"separator": ""}, "separator is '', expected characters that are no line end"),
        ("log.csv", "x", {"separator": "\n"}, "separator is '\\n', expected characters that are no line end"),
        ("log.csv", "x", {"columns": "user,item"}, "columns is the text 'user,item', expected a list of names"),
        ("log.csv", "x", {"columns": ["user", "user"]},
         "columns is ['user', 'user'], expected at least two names, none empty and none twice."),
        ("log.csv", "x", {"columns": ["user", ""]}, "none empty and none twice."),
        ("log.csv", "x", {"encoding": "latin-99"},
         "encoding is 'latin-99', which is none that Python knows. Hint: for example utf-8, latin-1, cp1252."),
        ("log.csv", "x", {"encoding": "base64"}, "encoding is 'base64', which is none that Python knows."),
        ("log.jsonl", "{}", {"encoding": "latin-1", "separator": ";"},
         "log.jsonl is not delimited text: separator, encoding cannot apply to it."),
        ("log.txt", '2;2nan""\r1\n', {"separator": ";", "encoding": "latin-1"},
         "log.txt: line 1: a double quote is not closed, or a quote or carriage return stands inside a field (new-"),
        ("log.txt", "\n1;2\n", {"separator": ";", "encoding": "latin-1"}, "log.txt: the first line is empty"),
        ("log.xlsx", "PK\x03\x04", {"separator": ";"}, "no column for 'user'"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_what_to_do(tmp_path, name, text, options, expected):
    (tmp_path / name).write_text(text)
    assert expected in message(tmp_path / name, **options)


def test_options_of_text_do_not_apply_to_frames():
    with pytest.raises(ConfigError) as caught:
        Interactions.read(pl.DataFrame({"user": [1], "item": [1]}), columns=["user", "item"])
    assert str(caught.value) == "A polars DataFrame is not delimited text: columns cannot apply to it."


@pytest.mark.parametrize("name", ["log.csv.gz", "log.dat.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"no archive at all"])
def test_damaged_archives(tmp_path, name, encoding, damage):
    raw = gzip.compress("".join(f"{n}::{n * n}::{n}\n" for n in range(3000)).encode())
    (tmp_path / name).write_bytes(damage(raw))
    options = {"separator": "::", "columns": ["user", "item", "time"], "encoding": encoding}
    assert message(tmp_path / name, **options).startswith(f"{tmp_path / name}: cannot be read (")


def test_unusual_names_of_files_are_no_patterns(tmp_path):
    (tmp_path / "log[1]*.csv").write_text("user,item,time\n1,2,3\n")
    assert events(tmp_path / "log[1]*.csv") == [(1, 2, 3)]


# --- decoding in blocks --------------------------------------------------------------------------------------------

cell = st.text(st.sampled_from('aé,"\n x'), max_size=6)
tables = st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(rows=tables, block=st.integers(1, 40), header=st.booleans())
def test_blocks_make_the_same_table(rows, block, header, tmp_path_factory):
    """The oracle is the table that was written. Quoted fields hold line ends, quotes and separators."""
    file = tmp_path_factory.mktemp("text") / "t.csv"
    frame = pl.DataFrame([("a", "b", "c"), *rows] if header else rows, schema=["a", "b", "c"], orient="row")
    text = frame.write_csv(include_header=False, quote_style="always")
    file.write_bytes(text.encode("latin-1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        names = None if header else ("a", "b", "c")
        query = Delimited(file, ",", True, names, "latin-1").scan()
        found = query.collect()
        assert query.head(2).collect().rows() == found.rows()[:2]
        assert query.select("c").with_row_index().tail(1).collect().rows() == [(len(found) - 1, found["c"][-1])]
        assert query.filter(pl.col("a") == "a").select("b").collect()["b"].to_list() == [
            b for a, b, _ in found.rows() if a == "a"
        ]
    assert found.rows() == rows


def test_a_text_is_none_where_the_ending_says_otherwise(tmp_path):
    assert delimited(tmp_path / "items.parquet") is None
    assert delimited(tmp_path / "items") is None
    assert delimited(tmp_path / "items", separator="|") is not None

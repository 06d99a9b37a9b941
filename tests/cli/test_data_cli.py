from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from guiderec.cli.main import main
from guiderec.data import prepared
from guiderec.data.protocols import LeaveOneOut
from guiderec.data.sequences import Rows


@pytest.fixture
def log(tmp_path) -> Path:
    """40 users who each take 8 different items of 20, one after the other."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", 1_400_000_000 + 3600 * place, 1 + (user + place) % 5)
        for user in range(40)
        for place, item in enumerate(rng.permutation(20)[:8])
    ]
    file = tmp_path / "shop.csv"
    pl.DataFrame(rows, schema=["userId", "movieId", "timestamp", "rating"], orient="row").write_csv(file)
    return file


def plain(capsys, *arguments) -> dict:
    """The one JSON object that a command prints."""
    assert main([*map(str, arguments), "--json"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    return json.loads(printed)


def test_describe_log(log, capsys):
    facts = plain(capsys, "data", "describe", log)
    assert (facts["users"], facts["items"], facts["interactions"]) == (40, 20, 320)
    assert facts["columns"] == ["user", "item", "time", "rating"]
    names = {"user": "userId", "item": "movieId", "time": "timestamp", "rating": "rating"}
    assert facts["source_columns"] == names
    assert main(["data", "describe", str(log)]) == 0
    text = capsys.readouterr().out
    assert "interactions  320 (density 40.0000%)" in text
    assert "columns       user from 'userId', item from 'movieId', time from 'timestamp', rating from 'rating'" in text
    assert "time          2014-05-13T16:53:20+00:00 to 2014-05-13T23:53:20+00:00" in text


def test_describe_refuses_columns_of_a_split(log, tmp_path, capsys):
    folder = tmp_path / "split"
    assert main(["data", "prepare", str(log), str(folder)]) == 0
    capsys.readouterr()
    assert main(["data", "describe", str(folder), "--user", "userId", "--time", "timestamp"]) == 2
    assert capsys.readouterr().err == f"error: {folder} is a split, not a log: --user, --time cannot apply to it.\n"


def test_prepare_describe_doctor(log, tmp_path, capsys):
    folder = tmp_path / "split"
    options = ["--protocol", "user-split", "--set", "seed=3", "--set", "max_items=5", "--k-core", "2"]
    written = plain(capsys, "data", "prepare", log, folder, *options)
    assert written["folder"] == str(folder)
    assert written["protocol"]["seed"] == 3
    assert written["filters"] == [{"name": "k-core", "users": 2, "items": 2}]
    assert [written[part]["rows"] for part in ("train", "valid", "test")] == [32, 4, 4]
    described = plain(capsys, "data", "describe", folder)
    assert {key: value for key, value in written.items() if key not in ("folder", "source_columns")} == described
    assert written["source_columns"]["user"] == "userId"
    result = plain(capsys, "doctor", folder)
    assert result["healthy"] is True
    assert {finding["check"] for finding in result["findings"]} >= {"target-in-history", "cold-targets"}


def test_filters_are_applied(log, tmp_path, capsys):
    everything = plain(capsys, "data", "prepare", log, tmp_path / "a")
    rated = plain(capsys, "data", "prepare", log, tmp_path / "b", "--min-rating", 3, "--min-length", 4)
    assert everything["fingerprint"]["interactions"] == 320
    kept = pl.read_csv(log).filter(pl.col("rating") >= 3).filter(pl.len().over("userId") >= 4)
    assert rated["fingerprint"]["interactions"] == len(kept)
    assert [part["name"] for part in rated["filters"]] == ["minimum-rating", "minimum-length"]


def test_prepare_says_which_columns_it_read(log, tmp_path, capsys):
    assert main(["data", "prepare", str(log), str(tmp_path / "split"), "--rating", "rating"]) == 0
    text = capsys.readouterr().out
    assert (
        "columns       user from 'userId', item from 'movieId', time from 'timestamp', rating from 'rating'\n" in text
    )


def test_two_columns_of_users_are_an_error(log, tmp_path, capsys):
    two = tmp_path / "two.csv"
    pl.read_csv(log).with_columns(reviewerID=pl.lit("x")).write_csv(two)
    assert main(["data", "prepare", str(two), str(tmp_path / "split")]) == 2
    assert "'userId' and 'reviewerID' could both be 'user'. Hint: " in capsys.readouterr().err
    assert main(["data", "prepare", str(two), str(tmp_path / "split"), "--user", "userId"]) == 0


def test_empty_ratings_stop_only_who_uses_them(log, tmp_path, capsys):
    holes = tmp_path / "holes.csv"
    pl.read_csv(log).with_columns(rating=pl.when(pl.col("rating") > 1).then("rating")).write_csv(holes)
    plain(capsys, "data", "prepare", holes, tmp_path / "split")
    for option in ("--min-rating", "--dislike-at-most"):
        assert main(["data", "prepare", str(holes), str(tmp_path / option), option, "2"]) == 2
        assert "'rating' is empty or not a number in 64 of 320 rows (first: line 2" in capsys.readouterr().err


def test_items_are_named(log, tmp_path, capsys):
    table = tmp_path / "films.parquet"
    pl.DataFrame({"code": [f"i{n}" for n in range(20)], "title": [f"Film {n}" for n in range(20)]}).write_parquet(table)
    plain(capsys, "data", "prepare", log, tmp_path / "split", "--items", table, "--item-id", "code", "--name", "films")
    dataset = prepared.load(tmp_path / "split")
    assert dataset.name == "films"
    assert dataset.vocabulary.names(dataset.vocabulary.encode(["i7"])) == ["Film 7"]


def test_a_log_and_items_as_movielens_has_them(log, tmp_path, capsys):
    """`::`, no header, Latin-1 in the titles; two films have no title."""
    rows = pl.read_csv(log).select(pl.concat_str("userId", "movieId", "rating", "timestamp", separator="::"))
    (tmp_path / "ratings.dat").write_text("\n".join(rows.to_series()) + "\n")
    films = "".join(f"i{n}::Film \xe9 {n}::Drama|War\n" for n in range(18))
    (tmp_path / "movies.dat").write_text(films, encoding="latin-1")
    reading = ["--separator", "::", "--columns", "user,item,rating,time"]
    items = ["--items", tmp_path / "movies.dat", "--items-separator", "::", "--items-columns", "item,title,genres"]
    both = [tmp_path / "ratings.dat", tmp_path / "split", *reading, *items, "--items-encoding", "latin-1"]
    assert main(["data", "prepare", *map(str, both)]) == 0
    text = capsys.readouterr().out
    assert "columns       user from 'user', item from 'item', time from 'time', rating from 'rating'\n" in text
    assert (
        f"item table    {tmp_path / 'movies.dat'} has no row for 2 of 20 items (first: 'i18'); they have their ids for"
        " names\n" in text
    )
    named = prepared.load(tmp_path / "split").vocabulary
    assert named.names(named.encode(["i7", "i18"])) == ["Film \xe9 7", "i18"]
    same = plain(capsys, "data", "prepare", log, tmp_path / "same")
    described = plain(capsys, "data", "describe", tmp_path / "split")
    assert same["fingerprint"] == described["fingerprint"]
    facts = plain(capsys, "data", "describe", tmp_path / "ratings.dat", *reading)
    assert facts["interactions"] == 320
    both[1] = tmp_path / "again"
    found = plain(capsys, "data", "prepare", *both, "--items-encoding", "latin-1")
    assert found["items_table"] == {
        "file": str(tmp_path / "movies.dat"), "items": 20, "without_row": 2, "first_without_row": "i18"
    }  # fmt: skip


def test_a_typed_tab_is_a_tab(log, tmp_path, capsys):
    (tmp_path / "u.data").write_text(log.read_text().replace(",", "\t"))
    assert plain(capsys, "data", "describe", tmp_path / "u.data", "--separator", "\\t")["interactions"] == 320


def test_options_of_text_belong_to_text(log, tmp_path, capsys):
    assert main(["data", "prepare", str(log), str(tmp_path / "x"), "--items-encoding", "latin-1"]) == 2
    assert "error: --items-encoding without --items: there is no table to read." in capsys.readouterr().err
    plain(capsys, "data", "prepare", log, tmp_path / "split")
    for command in (["describe", tmp_path / "split"], ["prepare", tmp_path / "split", tmp_path / "x"]):
        assert main(["data", *map(str, command), "--separator", ";"]) == 2
        assert "is a split, not a log: --separator cannot apply to it." in capsys.readouterr().err


def test_a_split_is_divided_anew(log, tmp_path, capsys):
    plain(capsys, "data", "prepare", log, tmp_path / "whole")
    anew = ["data", "prepare", tmp_path / "whole", tmp_path / "drawn", "--protocol", "user-split", "--set", "seed=9"]
    drawn = plain(capsys, *anew)
    assert [drawn[part]["rows"] for part in ("train", "valid", "test")] == [32, 4, 4]
    assert main(["data", "prepare", str(tmp_path / "whole"), str(tmp_path / "x"), "--k-core", "5"]) == 2
    assert "is a split, not a log: k-core cannot apply to it." in capsys.readouterr().err


def test_doctor_fails_on_a_planted_leak(log, tmp_path, capsys):
    plain(capsys, "data", "prepare", log, tmp_path / "clean", "--protocol", "global-time")
    clean = prepared.load(tmp_path / "clean")
    leak = replace(clean, train=Rows.every_prefix(clean.test.sequences))
    prepared.save(leak, tmp_path / "leak")
    assert main(["doctor", str(tmp_path / "clean")]) == 0
    assert capsys.readouterr().out.endswith("The split is sound.\n")
    assert main(["doctor", str(tmp_path / "leak")]) == 1
    text = capsys.readouterr().out
    assert text.endswith("The split is not sound.\n")
    assert "failure   event-in-two-parts" in text
    assert "failure   future-in-train" in text
    assert main(["doctor", str(tmp_path / "leak"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["healthy"] is False


def test_strict_makes_warnings_count(tmp_path, capsys):
    lists = [[1, 2, 3, 4], [2, 1, 4, 5], [3, 2, 1, 4]]
    pl.DataFrame({"user": [1, 2, 3], "items": lists}).write_parquet(tmp_path / "sequences.parquet")
    folder = tmp_path / "leave-one-out"
    folder.mkdir()
    (tmp_path / "sequences.parquet").rename(folder / "sequences.parquet")
    assert main(["doctor", str(folder)]) == 0  # cold targets, but nothing wrong
    assert main(["doctor", str(folder), "--strict"]) == 1
    assert "warning   cold-targets" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data", "describe", "{tmp}/none.csv"], "none.csv: no such file."),
        (["doctor", "{tmp}"], "no prepared split; looked for split.json, or for a folder named"),
        (["data", "prepare", "{log}", "{tmp}/x", "--set", "sed=1"], "'sed' is not an option"),
        (["data", "prepare", "{log}", "{tmp}/x", "--time", "when"], "no column 'when' for 'time'"),
        (["data", "prepare", "{log}", "{tmp}"], "exists and is not empty."),
    ],
)
def test_errors_are_one_line_and_status_two(log, tmp_path, capsys, arguments, expected):
    filled = [argument.format(tmp=tmp_path, log=log) for argument in arguments]
    assert main(filled) == 2
    printed = capsys.readouterr()
    assert expected in printed.err
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err


def test_protocol_defaults_are_the_documented_ones(log, tmp_path, capsys):
    written = plain(capsys, "data", "prepare", log, tmp_path / "split")
    assert written["protocol"] == LeaveOneOut().to_plain()

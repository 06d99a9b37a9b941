"""Tables of impressions against a slow loop over their lines, and what may be known when."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from guiderec.cli.main import app
from guiderec.data import prepared
from guiderec.data.dataset import Dataset
from guiderec.data.doctor import examine
from guiderec.data.impressions import read_impressions, split
from guiderec.data.interactions import Interactions
from guiderec.data.loader import Loader
from guiderec.data.protocols import DrawnImpressions, ImpressionSplit, LeaveOneOut, UserSplit, protocol_from_plain
from guiderec.data.sequences import ItemLists, Rows, Sequences
from guiderec.errors import ConfigError, DataError

MIND = Path(__file__).parents[3] / "shared" / "data" / "mind-small" / "impressions-sample" / "impressions.parquet"
realdata = [
    pytest.mark.realdata,
    pytest.mark.skipif(not MIND.exists(), reason=f"no real data at {MIND}"),
]

Line = dict[str, Any]
RULE = ImpressionSplit(valid_from=100, test_from=200)

LINES: list[Line] = [  # the matrix of ImpressionSplit's docstring, with a second user
    {"user": "a", "time": 10, "history": [3, 1], "clicked": [4], "unclicked": [5, 9]},
    {"user": "b", "time": 20, "history": [], "clicked": [5], "unclicked": [2]},
    {"user": "a", "time": 100, "history": [3, 1], "clicked": [2, 6], "unclicked": [9]},
    {"user": "b", "time": 199, "history": [7], "clicked": [9], "unclicked": []},
    {"user": "a", "time": 200, "history": [1], "clicked": [9], "unclicked": [2]},
    {"user": "c", "time": 300, "history": None, "clicked": [1], "unclicked": [3]},
]


def table(lines: list[Line] = LINES, **columns: Any) -> pl.DataFrame:
    return pl.DataFrame(
        lines,
        schema={
            "user": pl.String,
            "time": pl.Int64,
            **dict.fromkeys(("history", "clicked", "unclicked"), pl.List(pl.Int64)),
        },
    ).with_columns(**columns)


def random_lines(seed: int, n: int = 60) -> list[Line]:
    """Few users and items, so that impressions of a user repeat items; some without a click, some without the rest."""
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(n):
        shown = random.permutation(15)[: random.integers(2, 9)].tolist()
        clicks = int(random.integers(0, 3))
        lines.append(
            {
                "user": f"u{random.integers(8)}",
                "time": int(random.integers(0, 300)),
                "history": random.integers(0, 15, random.integers(0, 5)).tolist(),
                "clicked": shown[:clicks],
                "unclicked": shown[clicks:],
            }
        )
    return lines


def slowly(lines: list[Line], rule: ImpressionSplit) -> dict[str, list[Line]]:
    """Every row that the split must have, by a loop over the lines in order of time."""
    parts: dict[str, list[Line]] = {"train": [], "valid": [], "test": []}
    for line in sorted(lines, key=lambda line: line["time"]):
        part = "train" if line["time"] < rule.valid_from else "valid" if line["time"] < rule.test_from else "test"
        earlier = [other for other in lines if other["user"] == line["user"] and other["time"] < line["time"]]
        passed = {item for other in earlier for item in other["unclicked"]}
        passed -= {item for other in earlier for item in other["clicked"]} | set(line["history"] or [])
        for click in line["clicked"]:
            row = {"user": line["user"], "time": line["time"], "history": line["history"] or [], "target": click}
            row |= {"shown": sorted(line["clicked"] + line["unclicked"]), "unclicked": line["unclicked"]}
            parts[part].append(row | {"dislikes": sorted(passed)})
    return parts


def rows_of(dataset: Dataset, part: str) -> list[Line]:
    rows = dataset.part(part)
    decode = dataset.vocabulary.decode
    found = []
    for row in range(len(rows)):
        items = decode(rows.sequences[int(rows.sequence[row])].tolist())
        line: Line = {"user": dataset.users[int(rows.users()[row])], "history": items[:-1], "target": items[-1]}
        line["time"] = int(rows.sequences.times[rows.sequences.offsets[rows.sequence[row]]])
        for name in ("shown", "unclicked"):
            line[name] = decode(getattr(dataset, name)[part][int(rows.sequence[row])].tolist())
        if part != "train":
            line["dislikes"] = decode([item for item in dataset.dislikes[part][row].tolist() if item])
            candidates = [item for item in dataset.candidates[part][row].tolist() if item]
            assert decode(candidates) == line["shown"]
        found.append(line)
    return found


def assert_same_rows(dataset: Dataset, expected: dict[str, list[Line]]) -> None:
    for part, rows in expected.items():
        wanted = [{k: v for k, v in row.items() if part != "train" or k != "dislikes"} for row in rows]
        assert rows_of(dataset, part) == wanted


@pytest.mark.parametrize("lines", [LINES, random_lines(0), random_lines(1)], ids=["by hand", "random", "random too"])
def test_rows_are_those_of_a_slow_loop(lines: list[Line]) -> None:
    dataset = split(table(lines), RULE, name="tiny")
    assert_same_rows(dataset, slowly(lines, RULE))
    assert dataset.name == "tiny"
    assert dataset.protocol == RULE.to_plain()
    assert protocol_from_plain(dataset.protocol) == RULE


def test_by_hand() -> None:
    dataset = split(table(), RULE, name="tiny")
    assert dataset.vocabulary.raw == (1, 2, 3, 4, 5, 6, 7, 9)
    assert [(row["history"], row["target"], row["shown"]) for row in rows_of(dataset, "valid")] == [
        ([3, 1], 2, [2, 6, 9]),
        ([3, 1], 6, [2, 6, 9]),
        ([7], 9, [9]),
    ]
    # What a passed over at 10 is known at 100. Item 9 is clicked at 200 and stays among the dislikes: nobody knew.
    assert [row["dislikes"] for row in rows_of(dataset, "valid")] == [[5, 9], [5, 9], [2]]
    assert [row["dislikes"] for row in rows_of(dataset, "test")] == [[5, 9], []]


def test_nothing_that_trains_is_as_late_as_a_target() -> None:
    dataset = split(table(random_lines(2)), RULE, name="tiny")
    assert dataset.train.sequences.times.max() < 100 <= dataset.valid.sequences.times.min()
    assert dataset.valid.sequences.times.max() < 200 <= dataset.test.sequences.times.min()
    found = {finding.check: finding.status for finding in examine(dataset) if finding.check != "target-in-history"}
    assert found["future-in-train"] == found["event-in-two-parts"] == found["special-ids"] == "ok"


def test_the_doctor_finds_a_row_in_two_parts() -> None:
    dataset = split(table(random_lines(2)), RULE, name="tiny")
    twice = replace(dataset, valid=dataset.test)
    (finding,) = (f for f in examine(twice) if f.check == "event-in-two-parts")
    assert finding.status == "failure"
    assert finding.message.startswith("impressions are in valid and in test")


def test_shares_divide_where_no_time_is_given() -> None:
    lines = [{**LINES[0], "time": time} for time in (5, 3, 1, 2, 4, 8, 6, 7, 10, 9)]
    dataset = split(table(lines), ImpressionSplit(fractions=(0.6, 0.2, 0.2)), name="tiny")
    parts = [dataset.part(part).sequences for part in ("train", "valid", "test")]
    assert [sorted(set(part.times.tolist())) for part in parts] == [[1, 2, 3, 4, 5, 6], [7, 8], [9, 10]]


def test_drawn_impressions_are_divided_by_the_seed_alone() -> None:
    lines = [{**line, "time": 7 * n % 61} for n, line in enumerate(random_lines(4))]
    kept = []
    for seed in (0, 0, 1):
        rule = DrawnImpressions(seed=seed, fractions=(0.5, 0.2, 0.3))
        dataset = split(table(lines), rule, name="tiny")
        times = [set(dataset.part(part).sequences.times.tolist()) for part in ("train", "valid", "test")]
        assert not times[0] & times[1] | times[0] & times[2] | times[1] & times[2]
        clicked = [line["time"] for line in lines if line["clicked"]]
        assert sorted(set.union(*times)) == sorted(set(clicked))
        assert max(times[0]) > min(times[2])
        kept.append(times)
        slow = slowly(lines, ImpressionSplit(valid_from=0, test_from=1000))["valid"]  # all lines, as one part
        expected = [row for row in slow if row["time"] in times[2]]
        assert rows_of(dataset, "test") == expected
        found = {finding.check: finding.status for finding in examine(dataset)}
        assert found["future-in-train"] == "warning"
        assert found["event-in-two-parts"] == "ok"
    assert kept[0] == kept[1] != kept[2]


def test_the_whole_catalogue_can_be_ranked() -> None:
    dataset = split(table(), RULE.replace(candidates="catalogue"), name="tiny")
    assert dataset.candidates is None
    assert dataset.shown is not None
    with pytest.raises(ConfigError, match="only protocols of impressions know what was shown"):
        UserSplit(candidates="impression")


@pytest.mark.parametrize("candidates", ["impression", "catalogue"])
def test_a_saved_split_keeps_everything(tmp_path: Path, candidates: str) -> None:
    rule = RULE.replace(candidates=candidates)
    dataset = split(table(random_lines(3)), rule, name="tiny")
    prepared.save(dataset, tmp_path / "split")
    again = prepared.load(tmp_path / "split")
    assert again.split_sha256 == dataset.split_sha256
    assert (again.candidates is None) == (candidates == "catalogue")
    if candidates == "impression":
        assert_same_rows(again, slowly(random_lines(3), rule))
    with pytest.raises(DataError, match="divides impressions, which have no user to divide anew"):
        prepared.resplit(again, LeaveOneOut())


def test_the_split_is_told_apart_by_what_was_shown() -> None:
    other = [{**line, "unclicked": line["unclicked"][:-1] or [3]} for line in LINES[:1]] + LINES[1:]
    one, two = (split(table(lines), RULE, name="tiny") for lines in (LINES, other))
    assert one.fingerprint == two.fingerprint  # the same clicks and histories
    assert one.split_sha256 != two.split_sha256


def test_a_damaged_split_says_where(tmp_path: Path) -> None:
    prepared.save(split(table(), RULE, name="tiny"), tmp_path / "split")
    file = tmp_path / "split" / "valid.parquet"
    whole = pl.read_parquet(file)
    whole.drop("shown").write_parquet(file)
    with pytest.raises(DataError, match=r"valid\.parquet: no column 'shown' with lists of items"):
        prepared.load(tmp_path / "split")
    whole.with_columns(unclicked=pl.Series([[77], [9], []])).write_parquet(file)
    with pytest.raises(DataError, match=r"1 of 2 items in 'unclicked' are not in the catalogue of 8 \(first: 77\)"):
        prepared.load(tmp_path / "split")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"user": pl.lit(1.5)}, "'user' holds Float64, expected text or integers"),
        ({"time": pl.lit("soon")}, r"'time' is null or cannot be read in 6 of 6 impressions \(first: row 0, user 'a'"),
        ({"time": pl.lit(True)}, "'time' holds Boolean"),
        ({"history": pl.lit("3 1")}, "'history' holds String, expected a list of ids"),
        ({"history": pl.lit(["x"])}, "'history' holds text and 'clicked' integers"),
        ({"clicked": pl.lit(None, dtype=pl.List(pl.Int64))}, "'clicked' is null or cannot be read in 6 of 6"),
        ({"clicked": pl.lit([4, 4])}, "'clicked' lists an item twice in 6 of 6"),
        ({"unclicked": pl.lit([4, None])}, "'unclicked' holds an empty id in 6 of 6"),
        ({"unclicked": pl.lit([4])}, r"an item is both clicked and unclicked in 1 of 6 impressions \(first: row 0"),
    ],
)
def test_bad_tables_are_refused(changed: dict[str, pl.Expr], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_impressions(table(**changed))


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'unclicked' \(columns: user, time, history, clicked\)"):
        read_impressions(table().drop("unclicked"))
    with pytest.raises(DataError, match="no impressions"):
        read_impressions(table().head(0))
    with pytest.raises(DataError, match="leaves no row for 'test'"):
        split(table(), ImpressionSplit(valid_from=100, test_from=900), name="tiny")
    with pytest.raises(DataError, match=r"log\.csv: no such file"):
        read_impressions(tmp_path / "log.csv")
    (tmp_path / "log.csv").write_text("user,time\n")
    with pytest.raises(
        DataError, match=r"impressions are read from \.parquet, \.jsonl, \.ndjson, \.tsv, not from '\.csv'"
    ):
        read_impressions(tmp_path / "log.csv")
    (tmp_path / "log.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"not a readable \.parquet file"):
        read_impressions(tmp_path / "log.parquet")
    log = pl.DataFrame({"user": [1, 1, 2], "item": [1, 2, 3], "time": [1, 2, 3]})
    with pytest.raises(DataError, match="a log of events does not say what was shown"):
        ImpressionSplit()(Interactions.read(log))


def test_times_are_read_in_every_form() -> None:
    moments = [datetime(2019, 11, 9, 12, 0, s, tzinfo=UTC) for s in range(6)]
    seconds = [int(moment.timestamp()) for moment in moments]
    for times in (moments, [moment.isoformat() for moment in moments], seconds, [float(s) for s in seconds]):
        assert read_impressions(table(time=pl.Series(times)))["time"].to_list() == seconds


def test_minds_own_file(tmp_path: Path) -> None:
    lines = [
        "1\tU1\t11/9/2019 11:59:59 PM\tN3 N1\tN4-1 N5-0 N9-0",
        "2\tU2\t11/10/2019 12:00:00 AM\t\tN5-1",
        "3\tU1\t11/11/2019 1:02:03 PM\tN3\tN9-0 N2-1 N6-1",
    ]
    (tmp_path / "behaviors.tsv").write_text("\n".join(lines) + "\n")
    rule = ImpressionSplit(valid_from="2019-11-10", test_from="2019-11-11")
    dataset = split(tmp_path / "behaviors.tsv", rule, name="mind")
    (first,), (second,), third = (rows_of(dataset, part) for part in ("train", "valid", "test"))
    assert (first["user"], first["history"], first["target"], first["unclicked"]) == (
        "U1",
        ["N3", "N1"],
        "N4",
        ["N5", "N9"],
    )
    assert (second["user"], second["history"], second["shown"]) == ("U2", [], ["N5"])
    assert [(row["target"], row["shown"], row["dislikes"]) for row in third] == [
        ("N2", ["N2", "N6", "N9"], ["N5", "N9"]),
        ("N6", ["N2", "N6", "N9"], ["N5", "N9"]),
    ]
    (tmp_path / "behaviors.tsv").write_text("1\tU1\t11/9/2019 11:59:59 PM\tN3\tN4 N5-0\n")
    with pytest.raises(DataError, match="the shown items are not of the form N1-0 N2-1 in 1 of 1"):
        read_impressions(tmp_path / "behaviors.tsv")
    (tmp_path / "behaviors.tsv").write_text("1\tU1\n")
    with pytest.raises(DataError, match=r"2 columns, and MIND's behaviors\.tsv has 5"):
        read_impressions(tmp_path / "behaviors.tsv")


def test_batches_carry_the_negatives_of_their_rows() -> None:
    sequences = Sequences.from_lists([[1, 2, 3], [4], [5, 6]])
    passed = ItemLists.from_lists([[7, 8], [], [9]])
    (batch,) = Loader(Rows.last_items(sequences), batch_size=3, max_length=2, shuffle=False, negatives=passed).batches(
        0
    )
    assert batch.negatives.tolist() == [[7, 8], [0, 0], [9, 0]]
    every = Rows.every_prefix(sequences)  # 1 -> 2 is no click of an impression: nothing was passed over
    (batch,) = Loader(every, batch_size=3, max_length=2, shuffle=False, negatives=passed).batches(0)
    assert batch.target.tolist() == [2, 3, 6]
    assert batch.negatives.tolist() == [[0, 0], [7, 8], [9, 0]]
    with pytest.raises(DataError, match="negatives for 3 sequences, and there are 2"):
        Loader(Rows.last_items(Sequences.from_lists([[1, 2], [2, 1]])), batch_size=2, max_length=2, negatives=passed)


def test_padded_lists() -> None:
    lists = ItemLists.from_lists([[], [4, 5], [6]])
    assert lists.padded(np.array([2, 0, 1])).tolist() == [[6, 0], [0, 0], [4, 5]]
    assert lists.padded(np.array([0])).tolist() == [[0]]
    assert ItemLists.from_lists([[], []]).padded(np.array([0, 1])).tolist() == [[0], [0]]
    assert [lists[s].tolist() for s in range(len(lists))] == [[], [4, 5], [6]]


def test_prepare_on_the_command_line(tmp_path: Path) -> None:
    table().write_parquet(tmp_path / "log.parquet")
    pl.DataFrame({"item": [1, 2], "title": ["one", "two"]}).write_parquet(tmp_path / "items.parquet")
    command = ["data", "prepare", str(tmp_path / "log.parquet"), str(tmp_path / "split"), "--protocol", "impressions"]
    command += ["--set", "valid_from=100", "--set", "test_from=200", "--items", str(tmp_path / "items.parquet")]
    refused = CliRunner().invoke(app, [*command, "--k-core", "2"])
    assert refused.exit_code != 0
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["protocol"]["name"] == "impressions"
    dataset = prepared.load(tmp_path / "split")
    assert dataset.vocabulary.names([1, 2, 3]) == ["one", "two", "3"]
    assert_same_rows(dataset, slowly(LINES, RULE))


class TestTheSampleOfMind:
    pytestmark = realdata

    def test_it_has_the_rows_of_its_days(self) -> None:
        rule = ImpressionSplit(valid_from="2019-11-13", test_from="2019-11-14")
        dataset = split(MIND, rule, name="mind-small")
        assert [len(dataset.part(part)) for part in ("train", "valid", "test")] == [4562, 1491, 1489]
        assert dataset.n_items == 22_592
        told = pl.read_parquet(MIND).filter(pl.col("time").dt.day() == 14)
        assert len(dataset.unclicked["test"].items) == int(
            (told["unclicked"].list.len() * told["clicked"].list.len()).sum()
        )
        assert int((dataset.dislikes["test"] > 0).any(axis=1).sum()) > 0


@pytest.mark.parametrize(
    ("column", "fault"),
    [
        ("user", "'user' is null or cannot be read"),
        ("time", "'time' is null or cannot be read"),
        ("clicked", "'clicked' holds an empty id"),
    ],
)
def test_numbers_beyond_64_bits_are_named(column: str, fault: str) -> None:
    lines = table()
    large = [2**63] * len(lines) if column != "clicked" else [[2**63]] * len(lines)
    kind = pl.UInt64 if column != "clicked" else pl.List(pl.UInt64)
    with pytest.raises(DataError, match=rf"{fault} in {len(lines)} of {len(lines)} impressions \(first: row 0"):
        split(lines.with_columns(pl.Series(column, large, dtype=kind)), name="tiny")

"""The two forms in which KuaiRec reaches a session split: its original log, and the padded rows of DreamRec's files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from guiderec.data import padded
from guiderec.data.interactions import Interactions
from guiderec.data.protocols import SessionSplit, at_pauses
from guiderec.data.sources import kuairec
from guiderec.errors import DataError

DATA = Path(__file__).parents[3] / "shared" / "data"
realdata = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not at {DATA}"),
]

Event = tuple[int, int, float, float]
"""User, video, seconds, watch ratio."""


def views(users: int = 60, videos: int = 12) -> list[Event]:
    """Visits of one to six views, one to a hundred hours apart."""
    generator = np.random.default_rng(0)
    events = []
    for user in range(users):
        time = 1_593_878_903.0 + float(generator.integers(10**6))
        for _ in range(6):
            for _ in range(int(generator.integers(1, 7))):
                ratio = float(generator.choice([0.3, 1.99, 2.0, 5.0], p=[0.1, 0.1, 0.4, 0.4]))
                events.append((user, int(generator.integers(videos)), time, ratio))
                time += float(generator.integers(10, 10_801))
            time += float(generator.integers(3_600, 360_000))
    return [events[i] for i in generator.permutation(len(events))]


def write(path: Path, events: list[Event]) -> Path:
    """In the columns of `big_matrix.csv`; `time` is eight hours ahead of `timestamp`, as there."""
    china = [pd.Timestamp(time + 8 * 3600, unit="s") for _, _, time, _ in events]
    frame = pd.DataFrame(
        {
            "user_id": [user for user, *_ in events],
            "video_id": [video for _, video, *_ in events],
            "play_duration": [round(10_000 * ratio) for *_, ratio in events],
            "video_duration": 10_000,
            "time": [moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] for moment in china],
            "date": [int(moment.strftime("%Y%m%d")) for moment in china],
            "timestamp": [time for _, _, time, _ in events],
            "watch_ratio": [ratio for *_, ratio in events],
        }
    )
    frame.to_csv(path, index=False)
    return path


def by_loop(events: list[Event]) -> list[list[int]]:
    """Sessions in the order in which they begin, one event after the other."""
    liked = [event for event in events if event[3] >= 2]
    often = Counter(video for _, video, _, _ in liked)
    sessions: list[tuple[float, int, list[int]]] = []
    last: dict[int, tuple[float, int]] = {}
    for user, video, time, _ in sorted((e for e in liked if often[e[1]] >= 5), key=lambda e: (e[0], e[2])):
        if user not in last or time - last[user][0] > 10_800:
            sessions.append((time, user, []))
        sessions[-1][2].append(video)
        last[user] = (time, 0)
    long = [session for session in sessions if len(session[2]) >= 3]
    return [items for _, _, items in sorted(long, key=lambda session: session[:2])]


def raw(dataset, part: str) -> list[list[int]]:
    sequences = dataset.part(part).sequences
    return [dataset.vocabulary.decode(sequences[s].tolist()) for s in range(len(sequences))]


def test_the_original_log_becomes_sessions(tmp_path):
    events = views()
    events += [(7, 999, 1_593_900_000.0 + k, 9.0) for k in range(4)]  # a video with four events
    dataset = kuairec.load(write(tmp_path / "big_matrix.csv", events))
    expected = by_loop(events)
    n = len(expected)
    assert n > 60
    assert [raw(dataset, part) for part in ("train", "valid", "test")] == [
        expected[: int(0.8 * n)],
        expected[int(0.8 * n) : int(0.9 * n)],
        expected[int(0.9 * n) :],
    ]
    assert 999 not in dataset.vocabulary.raw
    assert dataset.protocol["gap_seconds"] == 10_800
    assert [part["name"] for part in dataset.filters] == ["minimum-rating", "k-core"]
    # every position is a row, the first one with an empty history
    assert len(dataset.test) == len(dataset.test.sequences.items)


def test_a_file_of_another_format_says_what_is_missing(tmp_path):
    pl.DataFrame({"user_id": [1], "video_id": [2], "timestamp": [3.0]}).write_csv(tmp_path / "big_matrix.csv")
    with pytest.raises(DataError, match=r"big_matrix.csv: no column 'watch_ratio'"):
        kuairec.read(tmp_path / "big_matrix.csv")


# --- padded rows --------------------------------------------------------------------------------------------------


def rows_of(sessions: list[list[int]], n_items: int, window: int = 3) -> pd.DataFrame:
    """As DreamRec writes them: padded after the history, an empty one with length 1."""
    table = []
    for items in sessions:
        for place, item in enumerate(items):
            history = items[max(0, place - window) : place]
            table.append((history + [n_items] * (window - len(history)), max(1, len(history)), item))
    return pd.DataFrame(table, columns=["seq", "len_seq", "next"])


SESSIONS = {"train": [[4, 2, 7, 0, 4, 4, 1], [1, 5]], "valid": [[8, 0, 2]], "test": [[3], [0, 1, 2, 3, 4, 5]]}


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_padded_rows_give_their_sessions_back(kind: str):
    tables = [rows_of(sessions, 9) for sessions in SESSIONS.values()]
    if kind == "polars":
        tables = [pl.from_pandas(table) for table in tables]
    dataset = padded.load(*tables, n_items=9, name="x/time-split")
    assert {part: raw(dataset, part) for part in SESSIONS} == SESSIONS
    assert dataset.n_items == 9
    assert dataset.protocol == SessionSplit().to_plain()
    for part, table in zip(SESSIONS, tables, strict=True):
        history, target = dataset.part(part).windows(np.arange(len(table)), 3)
        assert (target - 1).tolist() == list(table["next"])
        shown = [[item - 1 for item in row if item] for row in history.tolist()]
        assert shown == [[item for item in row if item != 9] for row in table["seq"]]


@pytest.mark.parametrize(
    ("row", "seq", "following", "message"),
    [
        (2, [4, 3, 9], 7, r"valid: row 2 does not continue the row before \(1 such rows of 3\)"),
        (0, [4, 9, 9], 7, r"valid: row 0 has a history, and no row before it to have it from"),
        (1, [8, 9, 9], 9, r"valid: row 1 holds an id outside 0..8, of which 9 alone is padding"),
        (1, [8, 10, 9], 0, r"valid: row 1 holds an id outside 0..8"),
        (1, [9, 8, 9], 0, r"valid: row 1 does not continue the row before"),
    ],
)
def test_rows_that_contradict_each_other(row: int, seq: list[int], following: int, message: str):
    tables = {part: rows_of(sessions, 9) for part, sessions in SESSIONS.items()}
    tables["valid"].at[row, "seq"] = seq
    tables["valid"].at[row, "next"] = following
    with pytest.raises(DataError, match=message):
        padded.load(**tables, n_items=9, name="x")


def test_tables_without_the_columns():
    with pytest.raises(DataError, match=r"train: no column 'next' \(columns: seq\).*Hint: padded rows have"):
        padded.load(pl.DataFrame({"seq": [[1]]}), None, None, n_items=3, name="x")


class TestReleased:
    pytestmark = realdata

    def test_a_pause_of_three_hours_gives_the_sessions_of_the_released_test_part(self):
        """Neither DreamRec nor ADIGRec says how sessions were made. All 9,209, item by item."""
        folder = DATA / "kuairec" / "time-split-incomplete"
        events = pl.read_parquet(folder / "test-events.parquet").drop("user")
        assert float(events["watch_ratio"].min()) >= kuairec.POSITIVE.at_least
        log = Interactions.read(events, user="account", item="item", time="time").sequences()
        sessions = at_pauses(log.sequences, kuairec.SESSIONS.gap_seconds)
        found = [log.vocabulary.decode(sessions[s].tolist()) for s in range(len(sessions))]
        released = pl.read_parquet(folder / "test.parquet")["items"].to_list()
        assert len(released) == 9_209
        assert sorted(found) == sorted(released)
        assert min(map(len, found)) == kuairec.SESSIONS.shortest_session

    def test_zhihu_survives_the_way_through_padded_rows(self):
        from guiderec.data import prepared

        known = prepared.load(DATA / "zhihu" / "time-split")
        tables = [rows_of(raw(known, part), 4_838, window=10) for part in ("train", "valid", "test")]
        dataset = padded.load(*tables, n_items=4_838, name="zhihu/time-split")
        assert dataset.fingerprint == known.fingerprint
        assert dataset.split_sha256 == known.split_sha256

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from guiderec.errors import ConfigError, ServingError
from guiderec.serving.feedback import MAX_SEEN, MAX_WISHES, Event, FeedbackStore, Stored


@pytest.fixture
def store(any_database: str) -> Iterator[FeedbackStore]:
    store = FeedbackStore(any_database)
    yield store
    store.close()


def test_the_last_word_on_each_thing_counts(store: FeedbackStore):
    store.append([Event("ada", "like", item="a"), Event("ada", "like", category="Tea")])
    store.append([Event("ada", "dislike", item="b"), Event("bob", "dislike", item="a")])
    store.append([Event("ada", "dislike", item="a"), Event("ada", "clear", category="Tea")])
    store.append([Event("ada", "clear", item="never said"), Event("ada", "like", category="b")])
    found = store.stored(["ada", "bob", "nobody"])
    assert found["ada"].likes == [Event("ada", "like", category="b")]  # a category is not an item of the same name
    assert found["ada"].dislikes == [Event("ada", "dislike", item="b"), Event("ada", "dislike", item="a")]
    assert found["bob"].dislikes == [Event("bob", "dislike", item="a")]
    assert found["nobody"] == Stored()


def test_seen_items_keep_their_order_and_repetitions_whatever_is_said_of_them(store: FeedbackStore):
    store.append([Event("ada", "seen", item=item) for item in ("b", "a", "b")])
    store.append([Event("ada", "dislike", item="b"), Event("ada", "clear", item="b"), Event("ada", "seen", item="c")])
    assert store.stored(["ada"])["ada"] == Stored(seen=["b", "a", "b", "c"])


def test_ids_rise_in_the_order_given(store: FeedbackStore):
    first = store.append([Event("ada", "seen", item=str(n)) for n in range(50)])
    second = store.append([Event("ada", "seen", item="50")])
    ids = [recorded.id for recorded in (*first, *second)]
    assert ids == sorted(set(ids))
    assert [recorded.event.item for recorded in first] == [str(n) for n in range(50)]
    assert store.append([]) == []


def test_only_the_newest_act(store: FeedbackStore):
    store.append([Event("ada", "like", item=str(n)) for n in range(MAX_WISHES + 5)])
    store.append([Event("ada", "seen", item=str(n)) for n in range(MAX_SEEN + 5)])
    found = store.stored(["ada"])["ada"]
    assert [event.item for event in found.likes] == [str(n) for n in range(5, MAX_WISHES + 5)]
    assert found.seen == [str(n) for n in range(5, MAX_SEEN + 5)]


def test_any_text_comes_back_as_it_went_in(store: FeedbackStore):
    for n, text in enumerate(["'; DROP TABLE guiderec_feedback; --", "日本語 🎷", "%_\\", " a ", "é"]):
        store.append([Event(text, "like", item=text), Event(text, "dislike", category=f"{text}{n}")])
        found = store.stored([text])[text]
        assert found.likes == [Event(text, "like", item=text)]
        assert found.dislikes == [Event(text, "dislike", category=f"{text}{n}")]


def test_threads_lose_nothing(store: FeedbackStore):
    def tell(name: str) -> None:
        for n in range(20):
            store.append([Event(name, "seen", item=str(n))])

    threads = [threading.Thread(target=tell, args=(f"user{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.stored([f"user{n}" for n in range(6)])
    assert all(stored.seen == [str(n) for n in range(20)] for stored in found.values())


def test_two_stores_of_one_database_agree_at_once(any_database: str):
    here, there = FeedbackStore(any_database), FeedbackStore(any_database)
    for n in range(10):
        here.append([Event("ada", "like" if n % 2 else "dislike", item="a")])
        found = there.stored(["ada"])["ada"]
        assert [len(found.likes), len(found.dislikes)] == [n % 2, 1 - n % 2]
    here.close()
    there.close()


def test_many_stores_can_open_a_new_database_together(any_database: str):
    problems: list[Exception] = []

    def open_one() -> None:
        try:
            FeedbackStore(any_database).close()
        except ServingError as error:
            problems.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


def test_it_is_all_there_after_closing(any_database: str):
    store = FeedbackStore(any_database)
    store.append([Event("ada", "like", item="a")])
    store.close()
    again = FeedbackStore(any_database)
    assert again.stored(["ada"])["ada"].likes == [Event("ada", "like", item="a")]
    again.close()


def test_sqlite_commits_to_the_disk(tmp_path: Path):
    """FULL: a commit waits for the disk. NORMAL, the usual choice with such a log, may lose it in a power cut."""
    store = FeedbackStore(f"sqlite:///{tmp_path / 'f.sqlite'}")
    with store._engine.connect() as connection:
        pragmas = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    assert pragmas == ["wal", 2]
    store.close()


@pytest.mark.parametrize(
    ("url", "kind", "words"),
    [
        ("feedback.sqlite", ConfigError, "The database is not a URL. Hint: for example sqlite:///feedback.sqlite"),
        ("mysql://host/name", ConfigError, "'mysql' is no database that feedback is kept in. Hint: take sqlite or"),
        ("sqlite://", ConfigError, "A database in memory would lose feedback with the process."),
        ("sqlite:////no/such/folder/f.sqlite", ServingError, "cannot be opened: unable to open database file."),
        ("postgresql://ada:secret@127.0.0.1:1/x", ServingError, "Connection refused"),
    ],
)
def test_wrong_urls_are_one_clear_line_without_the_password(url: str, kind: type[Exception], words: str):
    with pytest.raises(kind) as said:
        FeedbackStore(url)
    assert words in str(said.value)
    assert "\n" not in str(said.value)
    assert "secret" not in str(said.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path):
    (tmp_path / "f.sqlite").write_text("no database " * 100)
    with pytest.raises(ServingError, match="file is not a database"):
        FeedbackStore(f"sqlite:///{tmp_path / 'f.sqlite'}")


def test_a_foreign_table_of_the_same_name_is_refused(tmp_path: Path):
    connection = sqlite3.connect(tmp_path / "f.sqlite")
    connection.execute("CREATE TABLE guiderec_feedback (id INTEGER, kind TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(ServingError, match="the table 'guiderec_feedback' has no column time, user_id, item, category"):
        FeedbackStore(f"sqlite:///{tmp_path / 'f.sqlite'}")


def test_a_database_that_goes_away_is_said_to_and_forgotten_events_are_not_acknowledged(tmp_path: Path):
    store = FeedbackStore(f"sqlite:///{tmp_path / 'f.sqlite'}")
    with store._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE guiderec_feedback")
    with pytest.raises(ServingError, match="did not take the feedback: no such table"):
        store.append([Event("ada", "like", item="a")])
    with pytest.raises(ServingError, match="does not answer: no such table"):
        store.stored(["ada"])
    store.check()  # it answers, after all
    store.close()


def test_what_was_seen_can_be_taken_back_and_seen_again(store: FeedbackStore):
    store.append([Event("ada", "seen", item=item) for item in ("a", "b", "a")])
    store.append([Event("ada", "like", item="a"), Event("ada", "unseen", item="a"), Event("bob", "seen", item="a")])
    found = store.stored(["ada", "bob"])
    assert found["ada"] == Stored(likes=[Event("ada", "like", item="a")], seen=["b"])  # a wish is another matter
    assert found["bob"].seen == ["a"]
    store.append([Event("ada", "seen", item="a"), Event("ada", "unseen", item="never seen")])
    assert store.stored(["ada"])["ada"].seen == ["b", "a"]


# ------------------------------------------------------------------------------------------------ remembered reads


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    return tmp_path / "remembered.sqlite"


def reads_of(store: FeedbackStore, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The users whose rows were read, call by call, from now on."""
    calls: list[list[str]] = []
    real = store._read

    def read(users: Sequence[str]) -> dict[str, Stored]:
        calls.append(list(users))
        return real(users)

    monkeypatch.setattr(store, "_read", read)
    return calls


def test_rows_are_read_again_only_after_a_commit(sqlite_file: Path, monkeypatch: pytest.MonkeyPatch):
    store = FeedbackStore(f"sqlite:///{sqlite_file}")
    calls = reads_of(store, monkeypatch)
    store.append([Event("a", "like", item="1")])
    first = store.stored(["a", "b"])
    assert store.stored(["b", "a"]) == first
    assert store.stored(["a", "c"])["a"] == first["a"]
    assert calls == [["a", "b"], ["c"]]
    store.append([Event("a", "clear", item="1")])
    assert store.stored(["a"]) == {"a": Stored()}
    assert calls == [["a", "b"], ["c"], ["a"]]
    store.close()


def test_what_another_connection_commits_or_deletes_is_seen_at_once(sqlite_file: Path, monkeypatch: pytest.MonkeyPatch):
    """Another server writes; then somebody forgets a user with a tool of their own, which no event announces."""
    here, there = FeedbackStore(f"sqlite:///{sqlite_file}"), FeedbackStore(f"sqlite:///{sqlite_file}")
    calls = reads_of(here, monkeypatch)
    for turn in range(20):
        assert len(here.stored(["a"])["a"].seen) == turn
        assert len(here.stored(["a"])["a"].seen) == turn
        there.append([Event("a", "seen", item=str(turn))])
    assert len(calls) == 20
    assert len(here.stored(["a"])["a"].seen) == 20
    with contextlib.closing(sqlite3.connect(sqlite_file)) as tool, tool:
        tool.execute("DELETE FROM guiderec_feedback WHERE user_id = 'a'")
    assert here.stored(["a"]) == {"a": Stored()}
    here.close()
    there.close()


def test_a_commit_while_rows_are_read_is_not_missed(sqlite_file: Path, monkeypatch: pytest.MonkeyPatch):
    """It falls between the question for the version and the rows, or after the rows and before they are remembered."""
    store = FeedbackStore(f"sqlite:///{sqlite_file}")
    real = store._read

    def read(users: Sequence[str]) -> dict[str, Stored]:
        store.append([Event("a", "seen", item="before")])
        found = real(users)
        store.append([Event("a", "seen", item="after")])
        return found

    monkeypatch.setattr(store, "_read", read)
    assert store.stored(["a"])["a"].seen == ["before"]
    monkeypatch.setattr(store, "_read", real)
    assert store.stored(["a"])["a"].seen == ["before", "after"]
    store.close()


def test_memory_of_users_is_bounded(sqlite_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("guiderec.serving.feedback._REMEMBERED", 3)
    store = FeedbackStore(f"sqlite:///{sqlite_file}")
    for number in range(20):
        assert store.stored([f"u{number}"]) == {f"u{number}": Stored()}
    assert store._remembered is not None
    assert len(store._remembered._found) <= 4
    store.close()


def test_many_threads_agree_while_one_writes(sqlite_file: Path):
    """No reader ever sees less than what was acknowledged before it asked."""
    store, acknowledged = FeedbackStore(f"sqlite:///{sqlite_file}"), [0]
    behind: list[tuple[int, int]] = []

    def look() -> None:
        while acknowledged[0] < 60:
            least = acknowledged[0]
            found = len(store.stored(["a"])["a"].seen)
            if found < least:
                behind.append((least, found))

    readers = [threading.Thread(target=look) for _ in range(4)]
    for reader in readers:
        reader.start()
    for number in range(60):
        store.append([Event("a", "seen", item=str(number))])
        acknowledged[0] = number + 1
    for reader in readers:
        reader.join()
    assert not behind
    store.close()

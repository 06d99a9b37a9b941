"""Feedback in SQL: one append-only table of events. The only file that knows a database.

    guiderec_feedback    id, time (UTC), user_id, kind (like | dislike | clear | seen | unseen), item | category

Nothing is ever changed or deleted. What a user wishes now is the last like or dislike of each item and category that no
later `clear` undid; what they saw is every `seen` that no later `unseen` of the item took back, in order. Every read
asks the database, so feedback acts on the next request of every server that shares it: PostgreSQL is asked for the
rows; SQLite is asked whether anything was committed since the last read, by whatever process, and only then for the
rows (`_Remembered`). `append` returns after the commit: what it returned survives a killed process. SQLite (write-ahead
log, synchronous = FULL: a commit is on the disk) and PostgreSQL.

Items are kept as text, since a later catalogue may number them in another way.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from guiderec.errors import ConfigError, ServingError

try:
    from sqlalchemy import (
        BigInteger,
        Column,
        DateTime,
        Engine,
        Index,
        Integer,
        MetaData,
        Table,
        Text,
        bindparam,
        create_engine,
        event,
        func,
        insert,
        inspect,
        select,
        text,
    )
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError
except ImportError:  # the only module that needs it
    raise ConfigError("Feedback needs SQLAlchemy.", hint="pip install 'guiderec[serve]'") from None

Kind = Literal["like", "dislike", "clear", "seen", "unseen"]

MAX_WISHES = 100
"""Stored likes, and stored dislikes, that act on a request: the newest ones."""
MAX_SEEN = 1000
"""Stored `seen` events that act on a request: the newest ones."""

TABLE = "guiderec_feedback"
_REMEMBERED = 10_000
"""Users whose feedback is kept in memory at most."""
_WAIT = 10
"""Seconds to wait for a connection or for another process to finish writing."""

_id = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by an INTEGER key only
events = Table(
    TABLE,
    MetaData(),
    Column("id", _id, primary_key=True, autoincrement=True),
    Column("time", DateTime(timezone=True), nullable=False),
    Column("user_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("item", Text),
    Column("category", Text),
    Index(f"{TABLE}_by_user", "user_id", "id"),
    sqlite_autoincrement=True,  # no number is ever given twice
)


@dataclass(frozen=True)
class Event:
    """Something that a user said about an item or a category; exactly one of the two."""

    user: str
    kind: Kind
    item: str | None = None
    category: str | None = None


@dataclass(frozen=True)
class Recorded:
    """An event that is in the database for good."""

    id: int
    time: datetime
    event: Event


@dataclass(frozen=True)
class Stored:
    """What the feedback of one user amounts to now, oldest first."""

    likes: list[Event] = field(default_factory=list)
    dislikes: list[Event] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    """Items, as text; an item seen twice is there twice."""


class FeedbackStore:
    """Events in the database of a URL: `sqlite:///feedback.sqlite`, `postgresql://user:password@host/name`.

    Safe to use from many threads and from many processes on one database.

    Raises
    ------
    ConfigError
        For a URL that cannot be meant.
    ServingError
        For a database that cannot be reached or holds another table of the same name.
    """

    def __init__(self, url: str) -> None:
        parsed = _parse(url)
        self.where = parsed.set(drivername=parsed.get_backend_name()).render_as_string(hide_password=True)
        """The URL without its password."""
        self._engine = _engine(parsed)
        self._remembered = _Remembered(self._engine) if parsed.get_backend_name() == "sqlite" else None
        try:
            with self._explained("cannot be opened"):
                self._create_table()
        except ServingError:
            self._engine.dispose()
            raise

    def append(self, new: Sequence[Event]) -> list[Recorded]:
        """Store events in one transaction, committed on return. ServingError stores none of them."""
        if not new:
            return []
        now = datetime.now(UTC)
        rows = [{"time": now, "user_id": e.user, "kind": e.kind, "item": e.item, "category": e.category} for e in new]
        with self._explained("did not take the feedback"), self._engine.begin() as connection:
            ids = connection.scalars(insert(events).returning(events.c.id, sort_by_parameter_order=True), rows).all()
        return [Recorded(id_, now, e) for id_, e in zip(ids, new, strict=True)]

    def stored(self, users: Sequence[str]) -> dict[str, Stored]:
        """What acts for each of these users; users without feedback have an empty `Stored`. Not to be changed."""
        if not users:
            return {}
        with self._explained("does not answer"):
            return self._read(users) if self._remembered is None else self._remembered.stored(users, self._read)

    def _read(self, users: Sequence[str]) -> dict[str, Stored]:
        found = {user: Stored() for user in users}
        with self._engine.connect() as connection:
            for user, kind, item, category in connection.execute(_CURRENT, {"users": list(found)}):
                if kind == "seen":
                    found[user].seen.append(item)
                else:
                    listed = found[user].likes if kind == "like" else found[user].dislikes
                    listed.append(Event(user, kind, item, category))
        return found

    def check(self) -> None:
        """Raise ServingError unless the database answers."""
        with self._explained("does not answer"), self._engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Let go of all connections."""
        if self._remembered is not None:
            self._remembered.close()
        self._engine.dispose()

    def _create_table(self) -> None:
        with contextlib.suppress(SQLAlchemyError):  # another server may be creating it; the check below decides
            events.metadata.create_all(self._engine)
        if not (inspector := inspect(self._engine)).has_table(TABLE):
            events.metadata.create_all(self._engine)
            inspector = inspect(self._engine)
        found = {column["name"] for column in inspector.get_columns(TABLE)}
        if missing := [column.name for column in events.columns if column.name not in found]:
            raise ServingError(
                f"{self.where}: the table '{TABLE}' has no column {', '.join(missing)}.",
                hint="it was not made by this version of guiderec; use another database",
            )

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise ServingError(f"The feedback database {self.where} {what}: {_first_line(error)}.") from error


class _Remembered:
    """What was read from SQLite, for as long as nobody commits anything.

    `PRAGMA data_version` on a connection that never writes changes with every commit of any other connection, of this
    process or another. It is asked before rows are read, so that what is remembered is never older than the version.
    One commit makes all be forgotten, so that deleted rows are too.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asking = threading.Lock()
        self._watcher: Any = None
        self._version: int | None = None
        self._found: dict[str, Stored] = {}

    def stored(self, users: Sequence[str], read: Callable[[Sequence[str]], dict[str, Stored]]) -> dict[str, Stored]:
        """As `read` would answer now, which is called for the users that are not remembered."""
        with self._asking:
            version = self._now()
            if version != self._version or len(self._found) > _REMEMBERED:
                self._found.clear()
                self._version = version
            known = {user: self._found[user] for user in users if user in self._found}
        unknown = [user for user in users if user not in known]
        if unknown:
            known |= read(unknown)
            with self._asking:
                if version == self._version:
                    self._found.update((user, known[user]) for user in unknown)
        return known

    def close(self) -> None:
        """Let go of the connection."""
        with self._asking:
            if self._watcher is not None:
                self._watcher.close()
                self._watcher = None

    def _now(self) -> int:
        if self._watcher is None:
            self._watcher = self._engine.raw_connection()
        try:
            ((version,),) = self._watcher.cursor().execute("PRAGMA data_version").fetchall()  # all: reading is over
        except sqlite3.Error:
            self._watcher.invalidate()
            self._watcher, self._version = None, None  # another connection counts from elsewhere
            raise
        return int(version)


def _current() -> Any:
    """Rows (user, kind, item, category) of all that acts for `users`, in the order of the events."""
    mine = events.c.user_id.in_(bindparam("users", expanding=True))
    thing = [events.c.user_id, events.c.item, events.c.category]
    wishes = events.c.kind.in_(["like", "dislike", "clear"])
    last = select(func.max(events.c.id)).where(mine, wishes).group_by(*thing)
    said = select(events).where(mine, events.c.id.in_(last), events.c.kind != "clear")
    later = events.alias("later")
    same = (later.c.user_id == events.c.user_id) & (later.c.item == events.c.item) & (later.c.id > events.c.id)
    taken_back = select(later.c.id).where(same, later.c.kind == "unseen").exists()
    seen = select(events).where(mine, events.c.kind == "seen", ~taken_back)
    acting = said.union_all(seen).subquery()
    age = func.row_number().over(partition_by=[acting.c.user_id, acting.c.kind], order_by=acting.c.id.desc())
    aged = select(acting, age.label("age")).subquery()
    kept = (aged.c.age <= MAX_WISHES) | ((aged.c.kind == "seen") & (aged.c.age <= MAX_SEEN))
    return select(aged.c.user_id, aged.c.kind, aged.c.item, aged.c.category).where(kept).order_by(aged.c.id)


_CURRENT = _current()


# ------------------------------------------------------------------------------------------------------- the two kinds


def _parse(url: str) -> URL:
    """The URL with a driver that we know."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError(
            "The database is not a URL.", hint="for example sqlite:///feedback.sqlite or postgresql://user@host/name"
        ) from None
    kind = parsed.drivername.partition("+")[0]
    if kind in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise ConfigError(f"'{kind}' is no database that feedback is kept in.", hint="take sqlite or postgresql")
    if parsed.database in (None, "", ":memory:"):
        raise ConfigError(
            "A database in memory would lose feedback with the process.", hint="name a file: sqlite:///feedback.sqlite"
        )
    return parsed.set(drivername="sqlite+pysqlite")


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": _WAIT}, pool_timeout=_WAIT)
        event.listen(engine, "connect", _durable_sqlite)
        return engine
    try:
        engine = create_engine(url, connect_args={"connect_timeout": _WAIT}, pool_pre_ping=True, pool_timeout=_WAIT)
    except ModuleNotFoundError:
        raise ConfigError("PostgreSQL needs psycopg.", hint="pip install 'guiderec[postgres]'") from None
    event.listen(engine, "connect", _bounded_postgresql)
    return engine


def _durable_sqlite(connection: Any, _: object) -> None:
    """Readers do not wait for the writer, and a commit is on the disk, not only in the system's cache."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _bounded_postgresql(connection: Any, _: object) -> None:
    """No statement waits for ever, and so no request does."""
    connection.execute(f"SET statement_timeout = '{_WAIT}s'")
    connection.commit()  # a rollback would undo the setting


def _first_line(error: Exception) -> str:
    """What the database said, without the statement and the links that SQLAlchemy adds."""
    cause = getattr(error, "orig", None) or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0].rstrip(".")

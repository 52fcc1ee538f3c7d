"""Connections and units of work, on SQLite and PostgreSQL.

A unit of work is one transaction: it commits as a whole or leaves nothing. On SQLite a writing one begins
IMMEDIATE, because a deferred transaction that turns to writing fails under contention instead of waiting.

BEGIN and COMMIT go to the driver, as do statements that were prepared; the others through SQLAlchemy's connection,
which believes that the driver commits each one by itself.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, cast, overload

from sqlalchemy import (
    URL,
    Connection,
    CursorResult,
    Engine,
    Executable,
    Table,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.dialects.sqlite.dml import OnConflictDoNothing, OnConflictDoUpdate
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import BigInteger

from dualcert.clock import Clock, to_microseconds
from dualcert.errors import ConfigurationError, StoreError, StoreUnavailable
from dualcert.store.statements import Prepared, Rows

BUSY_TIMEOUT_MS = 5000
_BEGINNINGS = 3
"""How often a unit of work asks for the lock, and waits so long: SQLite serves a crowd of writers in no order."""

_POOL = 64  # idle connections that are kept; more than threads ever hold at once

_BEGIN = {
    "sqlite": {"write": "BEGIN IMMEDIATE", "read": "BEGIN DEFERRED"},
    # A look has to be consistent; a unit that writes compares what it read with what it overwrites.
    "postgresql": {"write": "BEGIN", "read": "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"},
}

# A server that has vanished is noticed in half a minute, also in the middle of a statement.
_POSTGRESQL = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "application_name": "dualcert",
}


class _DatabaseNow(FunctionElement[int]):
    inherit_cache = True
    type = BigInteger()


@compiles(_DatabaseNow, "sqlite")
def _sqlite_now(_element: _DatabaseNow, _compiler: object, **_options: object) -> str:
    # SQLite before 3.42 has no unixepoch('subsec'); a Julian day keeps milliseconds, which is enough for a lease.
    return "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)"


@compiles(_DatabaseNow, "postgresql")
def _postgresql_now(_element: _DatabaseNow, _compiler: object, **_options: object) -> str:
    # The clock of this moment: now() would be that of the transaction's beginning.
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"


database_now = _DatabaseNow()
"""The database's own clock, in microseconds: what leases are measured by."""


def upsert(table: Table) -> Insert:
    """An INSERT that may say what happens ON CONFLICT."""
    return insert(table)


@compiles(OnConflictDoUpdate, "postgresql")
def _update_on_postgresql(clause: Any, compiler: Any, **options: Any) -> str:
    # SQLite borrowed the clause from PostgreSQL; SQLAlchemy's own for the latter takes long to import.
    clause.constraint_target = None
    return str(compiler.visit_on_conflict_do_update(clause, **options))


@compiles(OnConflictDoNothing, "postgresql")
def _nothing_on_postgresql(clause: Any, compiler: Any, **options: Any) -> str:
    clause.constraint_target = None
    return str(compiler.visit_on_conflict_do_nothing(clause, **options))


class Transaction:
    """A unit of work. ``now`` is the process's instant at its beginning; ``actor`` signs its events.

    ``made_due``: it left work that may be due at once, which is told to ``Store.watchers`` when it has committed.
    """

    def __init__(self, connection: Connection, driver: Any, now: datetime, actor: str) -> None:
        self.connection = connection
        self._driver = driver
        self.now = now
        self.at = to_microseconds(now)
        self.actor = actor
        self.made_due = False

    def commit(self) -> None:
        """The end; ``Store`` calls it."""
        self._driver.execute("COMMIT")

    @property
    def database_now(self) -> FunctionElement[int]:
        return database_now

    def upsert(self, table: Table) -> Insert:
        return upsert(table)

    @overload
    def execute(self, statement: Prepared, parameters: Mapping[str, Any] = ...) -> Rows: ...
    @overload
    def execute(
        self,
        statement: Executable,
        parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> CursorResult[Any]: ...
    def execute(
        self,
        statement: Prepared | Executable,
        parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> Rows | CursorResult[Any]:
        """A prepared one whose parameters are all single values goes to the driver, any other through SQLAlchemy."""
        if isinstance(statement, Prepared):
            values = cast("Mapping[str, Any]", parameters or {})
            if list not in map(type, values.values()):
                form = statement.form(self.connection.dialect, tuple(values))
                return form.rows(self._driver.execute(form.text, form.arguments(values)))
            statement = statement.statement
        result: CursorResult[Any] = self.connection.execute(statement, parameters)
        return result


class Store:
    """The database. Knows no clock but the one given, for the instants that events and rows carry.

    ``watchers`` are called, in whichever thread it is, when this process has left work that may be due at once.
    """

    def __init__(self, url: str, clock: Clock, actor: str) -> None:
        self.url = url
        self._clock = clock
        self.actor = actor
        self._engine = _engine(url)
        self._idle: deque[Connection] = deque()
        self.watchers: set[Callable[[], None]] = set()
        # One writer at a time is SQLite's rule; a lock of our own hands over at once, its busy handler sleeps.
        self._writer = threading.Lock() if self.dialect == "sqlite" else None

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._engine.dialect.name

    def write(self) -> AbstractContextManager[Transaction]:
        """A unit of work that may write.

        Raises ``StoreUnavailable`` where the database cannot be reached, is full, or stayed locked; nothing of the
        unit is written then.
        """
        return _Unit(self, "write", self._writer)

    def read(self) -> AbstractContextManager[Transaction]:
        """A consistent look that writes nothing."""
        return _Unit(self, "read", None)

    def begun(self, mode: str) -> Transaction:
        """Over a connection that nobody else uses, from here to ``ended``."""
        while True:
            connection, fresh = self._connection()
            driver = connection.connection.driver_connection
            try:
                _begin(driver, _BEGIN[self.dialect][mode])
            except BaseException as error:
                _abandon(connection)
                # One that was idle may have died meanwhile: that says nothing of the database.
                if fresh or self.dialect == "sqlite" or not isinstance(error, self.driver_error):
                    raise
            else:
                return Transaction(connection, driver, self._clock.now(), self.actor)

    def ended(self, transaction: Transaction) -> None:
        """It has committed."""
        if len(self._idle) < _POOL:
            self._idle.append(transaction.connection)
        else:
            transaction.connection.close()
        if transaction.made_due:
            for watcher in list(self.watchers):
                watcher()

    def _connection(self) -> tuple[Connection, bool]:
        """And whether it is a new one. They are kept here: the engine's pool would roll back what it gets back."""
        try:
            return self._idle.pop(), False
        except IndexError:
            connection = self._engine.connect()
            # For ever: what begins and ends transactions is nothing that SQLAlchemy sees.
            connection.begin()
            return connection, True

    @property
    def driver_error(self) -> type[Exception]:
        """What the driver raises."""
        found: type[Exception] = self._engine.dialect.loaded_dbapi.Error
        return found

    def explained(self, error: Exception) -> Exception:
        """What an exception of SQLAlchemy or of the driver means."""
        said = error.orig if isinstance(error, DBAPIError) else error
        dbapi = self._engine.dialect.loaded_dbapi
        if isinstance(said, dbapi.OperationalError | dbapi.InterfaceError):
            return StoreUnavailable(
                f"the database {self._shown} could not be used: {str(said).strip()}",
                remedy="Nothing of this step was written; it is taken again when the database answers.",
            )
        if getattr(said, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            return ConfigurationError(
                f"what `database` names, {self._shown}, is no SQLite database",
                remedy="Mend the path, or move that file away and run `dualcert init`.",
            )
        return StoreError(f"the database {self._shown} refused a statement: {str(said).strip()}")

    @property
    def _shown(self) -> str:
        return make_url(self.url).render_as_string(hide_password=True)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
        self._engine.dispose()


class _Unit(AbstractContextManager[Transaction]):
    """A unit of work from its beginning to its commit. A class: there are forty of them in the issue of one pair."""

    __slots__ = ("_lock", "_mode", "_store", "_transaction")

    def __init__(self, store: Store, mode: str, lock: threading.Lock | None) -> None:
        self._store = store
        self._mode = mode
        self._lock = lock

    def __enter__(self) -> Transaction:
        if self._lock is not None:
            self._lock.acquire()
        try:
            self._transaction = self._store.begun(self._mode)
        except BaseException as error:
            self._let_go()
            if isinstance(error, DBAPIError | self._store.driver_error):
                raise self._store.explained(error) from error
            raise
        return self._transaction

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        store = self._store
        try:
            if error is None:
                self._transaction.commit()
        except BaseException as failure:
            _abandon(self._transaction.connection)
            if isinstance(failure, store.driver_error):
                raise store.explained(failure) from failure
            raise
        else:
            if error is None:
                store.ended(self._transaction)
            else:
                _abandon(self._transaction.connection)
        finally:
            self._let_go()
        if isinstance(error, DBAPIError | store.driver_error):
            raise store.explained(error) from error

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.release()


def _abandon(connection: Connection) -> None:
    """Closing rolls back, and one that may be broken is not used again."""
    connection.invalidate()
    connection.close()


def database_file(url: str) -> Path | None:
    """The file of a SQLite database; None for a database that a server keeps. Raises ``ConfigurationError``."""
    parsed = _parsed(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError as error:
        raise ConfigurationError("`database` is not a database URL", remedy=_FORMS) from error


_FORMS = 'Write "sqlite:///dualcert.db" or "postgresql://user@host/name".'


def _engine(url: str) -> Engine:
    parsed = _parsed(url)
    match parsed.get_backend_name():
        case "sqlite":
            return _sqlite(parsed)
        case "postgresql":
            return _postgresql(parsed)
        case other:
            raise ConfigurationError(f"`database`: {other} is not supported", remedy=_FORMS)


def _sqlite(parsed: URL) -> Engine:
    if parsed.database and not Path(parsed.database).parent.is_dir():
        raise ConfigurationError(
            f"`database`: the folder {Path(parsed.database).parent} does not exist",
            remedy="Make it, or mend the path.",
        )
    try:
        engine = create_engine(
            parsed,
            pool_size=8,
            max_overflow=-1,
            isolation_level="AUTOCOMMIT",
            connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
        )
    except NoSuchModuleError as error:
        raise ConfigurationError(f"`database`: {error}", remedy=_FORMS) from error
    event.listen(engine, "connect", _on_connect)
    return engine


def _postgresql(parsed: URL) -> Engine:
    try:
        return create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_size=8,
            max_overflow=-1,
            isolation_level="AUTOCOMMIT",
            connect_args=_POSTGRESQL,
        )
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "`database` is on PostgreSQL, and its driver is not installed",
            remedy="Install dualcert[postgresql].",
        ) from error


def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
    # None hands BEGIN and COMMIT to us: the driver's own idea of them leaves DDL outside of transactions.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")


def _begin(driver: Any, begin: str) -> None:
    for left in reversed(range(_BEGINNINGS)):
        try:
            driver.execute(begin)
        except sqlite3.OperationalError as error:
            if not left or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
        else:
            return

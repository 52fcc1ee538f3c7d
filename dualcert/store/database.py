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
    Select,
    Table,
    bindparam,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.dialects.sqlite.dml import OnConflictDoNothing, OnConflictDoUpdate
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import NullPool
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import BigInteger

from dualcert.clock import Clock, to_microseconds
from dualcert.errors import ConfigurationError, StoreError, StoreUnavailable
from dualcert.model.events import Event
from dualcert.store import postgresql
from dualcert.store.statements import Prepared, Rows, prepared

BUSY_TIMEOUT_MS = 5000
_BEGINNINGS = 3
"""How often a unit of work asks for the lock, and waits so long: SQLite serves a crowd of writers in no order."""

_LOCKS = 0x6475616C
"""Sets the locks that have names apart from those of others who use the same PostgreSQL database."""

_POOL = 64  # idle connections that are kept; more than threads ever hold at once

_BEGIN = {
    "sqlite": {"write": "BEGIN IMMEDIATE", "read": "BEGIN DEFERRED"},
    # A look has to be consistent; a unit that writes compares what it read with what it overwrites.
    "postgresql": {"write": "BEGIN", "read": "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"},
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


@prepared
def _alone() -> Select[Any]:
    return select(func.pg_advisory_xact_lock(_LOCKS, func.hashtext(bindparam("name"))))


class Transaction:
    """A unit of work. ``now`` is the process's instant at its beginning; ``actor`` signs its events.

    ``made_due``: it left work that may be due at once. ``recorded``: its events. ``Store.watchers`` hear of both.
    """

    def __init__(self, connection: Connection, driver: Any, now: datetime, actor: str) -> None:
        self.connection = connection
        self._driver = driver
        self.now = now
        self.at = to_microseconds(now)
        self.actor = actor
        self.made_due = False
        self.recorded: list[Event] = []

    def commit(self) -> None:
        """The end; ``Store`` calls it."""
        self._driver.execute("COMMIT")

    @property
    def others_write(self) -> bool:
        """Whether other units of work may write while this one does: what was read may have changed since."""
        return self.connection.dialect.name != "sqlite"

    def alone(self, *names: str) -> None:
        """No other unit of work that names one of the same goes on from here before this one has ended."""
        if self.others_write:
            for name in sorted(names):  # all in one order, so that no two wait for each other
                self.execute(_alone(), {"name": name}).first()

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

    ``watchers`` are called, in whichever thread it is, when a unit of work has committed that left something.
    """

    def __init__(self, url: str, clock: Clock, actor: str) -> None:
        self.url = url
        self._clock = clock
        self.actor = actor
        self._engine = _engine(url)
        self._reached = False
        self._idle: deque[Connection] = deque()
        self._closed = False
        self.watchers: set[Callable[[Transaction], None]] = set()
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
        if len(self._idle) < _POOL and not self._closed:
            self._idle.append(transaction.connection)
        else:
            transaction.connection.close()
        if transaction.made_due or transaction.recorded:
            for watcher in list(self.watchers):
                watcher(transaction)

    def _connection(self) -> tuple[Connection, bool]:
        """And whether it is a new one. They are kept here: the engine's pool would roll back what it gets back."""
        try:
            return self._idle.pop(), False
        except IndexError:
            connection = self._engine.connect()
            self._reached = True
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
        dbapi, parsed = self._engine.dialect.loaded_dbapi, make_url(self.url)
        if self.dialect == "postgresql":
            return postgresql.explained(cast("Exception", said), parsed, dbapi, reached=self._reached)
        if isinstance(said, dbapi.OperationalError | dbapi.InterfaceError):
            return StoreUnavailable(
                f"the database {parsed} could not be used: {str(said).strip()}",
                remedy="Nothing of this step was written; it is taken again when the database answers.",
            )
        if getattr(said, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            return ConfigurationError(
                f"what `database` names, {parsed}, is no SQLite database",
                remedy="Mend the path, or move that file away and run `dualcert init`.",
            )
        return StoreError(f"the database {parsed} refused a statement: {str(said).strip()}")

    def close(self) -> None:
        """Units of work that are under way end as they would, and their connections with them."""
        self._closed = True
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
    except (ArgumentError, ValueError):
        # Its words are not told: they may repeat part of a password.
        raise ConfigurationError("`database` is not a database URL", remedy=_FORMS) from None


_FORMS = 'Write "sqlite:///dualcert.db" or "postgresql://user@host/name".'


def _engine(url: str) -> Engine:
    parsed = _parsed(url)
    match parsed.get_backend_name():
        case "sqlite":
            return _sqlite(parsed)
        case "postgresql":
            return postgresql.engine(parsed)
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
            poolclass=NullPool,  # idle connections are kept by the Store
            isolation_level="AUTOCOMMIT",
            connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
        )
    except NoSuchModuleError as error:
        raise ConfigurationError(f"`database`: {error}", remedy=_FORMS) from error
    event.listen(engine, "connect", _on_connect)
    return engine


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

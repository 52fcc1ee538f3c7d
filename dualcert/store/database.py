"""Connections and units of work.

A unit of work is one transaction: it commits as a whole or leaves nothing. On SQLite a writing one begins
IMMEDIATE, because a deferred transaction that turns to writing fails under contention instead of waiting.

The modules beside this one build a statement that is carried out often once, in a cached function with bound
parameters: SQLAlchemy takes several times as long to put a statement together as to carry it out.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

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
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import BigInteger

from dualcert.clock import Clock, to_microseconds
from dualcert.errors import ConfigurationError, StoreError, StoreUnavailable

BUSY_TIMEOUT_MS = 5000
_BEGINNINGS = 3
"""How often a unit of work asks for the lock, and waits so long: SQLite serves a crowd of writers in no order."""


class _DatabaseNow(FunctionElement[int]):
    inherit_cache = True
    type = BigInteger()


@compiles(_DatabaseNow, "sqlite")
def _sqlite_now(_element: _DatabaseNow, _compiler: object, **_options: object) -> str:
    # SQLite before 3.42 has no unixepoch('subsec'); a Julian day keeps milliseconds, which is enough for a lease.
    return "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)"


database_now = _DatabaseNow()
"""The database's own clock, in microseconds: what leases are measured by."""


def upsert(table: Table) -> Insert:
    """An INSERT that may say what happens ON CONFLICT."""
    return insert(table)


class Transaction:
    """A unit of work. ``now`` is the process's instant at its beginning; ``actor`` signs its events."""

    def __init__(self, connection: Connection, now: datetime, actor: str) -> None:
        self.connection = connection
        self.now = now
        self.actor = actor

    @property
    def at(self) -> int:
        return to_microseconds(self.now)

    @property
    def database_now(self) -> FunctionElement[int]:
        return database_now

    def upsert(self, table: Table) -> Insert:
        return upsert(table)

    def execute(
        self, statement: Executable, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> CursorResult[Any]:
        result: CursorResult[Any] = self.connection.execute(statement, parameters)
        return result


class Store:
    """The database. Knows no clock but the one given, for the instants that events and rows carry."""

    def __init__(self, url: str, clock: Clock, actor: str) -> None:
        self.url = url
        self._clock = clock
        self.actor = actor
        self._engine = _engine(url)
        self._writer = threading.Lock()

    @property
    def engine(self) -> Engine:
        return self._engine

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A unit of work that may write.

        Raises ``StoreUnavailable`` where the database cannot be reached, is full, or stayed locked; nothing of the
        unit is written then.
        """
        # One writer at a time is SQLite's rule; a lock of our own hands over at once, its busy handler sleeps.
        with self._writer, self._unit("IMMEDIATE") as transaction:
            yield transaction

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A consistent look that writes nothing."""
        with self._unit("DEFERRED") as transaction:
            yield transaction

    @contextmanager
    def _unit(self, mode: str) -> Iterator[Transaction]:
        with self._translated(), self._engine.begin() as connection:
            _begin(connection, mode)
            yield Transaction(connection, self._clock.now(), self.actor)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, sqlite3.OperationalError) as error:
            raise StoreUnavailable(
                f"the database {self._shown} could not be used: {_driver_error(error)}",
                remedy="Nothing of this step was written; it is taken again when the database answers.",
            ) from error
        except (DBAPIError, sqlite3.DatabaseError) as error:
            said = _driver_error(error)
            if getattr(said, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
                raise ConfigurationError(
                    f"what `database` names, {self._shown}, is no SQLite database",
                    remedy="Mend the path, or move that file away and run `dualcert init`.",
                ) from error
            raise StoreError(f"the database {self._shown} refused a statement: {said}") from error

    @property
    def _shown(self) -> str:
        return make_url(self.url).render_as_string(hide_password=True)

    def close(self) -> None:
        self._engine.dispose()


def _driver_error(error: BaseException) -> BaseException | None:
    return error.orig if isinstance(error, DBAPIError) else error


def database_file(url: str) -> Path | None:
    """The file of a SQLite database; None for a database that a server keeps. Raises ``ConfigurationError``."""
    parsed = _parsed(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(
            "`database` is not a database URL", remedy='Write "sqlite:///dualcert.db".'
        ) from error


def _engine(url: str) -> Engine:
    parsed = _parsed(url)
    if parsed.get_backend_name() != "sqlite":
        raise ConfigurationError(
            f"`database`: {parsed.get_backend_name()} is not supported by this release",
            remedy='Write "sqlite:///dualcert.db".',
        )
    if parsed.database and not Path(parsed.database).parent.is_dir():
        raise ConfigurationError(
            f"`database`: the folder {Path(parsed.database).parent} does not exist",
            remedy="Make it, or mend the path.",
        )
    try:
        engine = create_engine(
            parsed, pool_size=8, max_overflow=-1, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}
        )
    except NoSuchModuleError as error:
        raise ConfigurationError(f"`database`: {error}") from error
    event.listen(engine, "connect", _on_connect)
    return engine


def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
    # None hands BEGIN and COMMIT to us: the driver's own idea of them leaves DDL outside of transactions.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")


def _begin(connection: Connection, mode: str) -> None:
    # To the driver itself, and not on SQLAlchemy's "begin" event: for every statement of an engine that has a single
    # listener, all of its events are gone through.
    driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
    for left in reversed(range(_BEGINNINGS)):
        try:
            driver.execute(f"BEGIN {mode}")
        except sqlite3.OperationalError as error:
            if not left or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
        else:
            return

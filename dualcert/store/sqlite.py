"""What is SQLite's own: its driver, connections to a file, the wait for its lock, and what its errors mean."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from dualcert.clock import SystemClock
from dualcert.errors import ConfigurationError, DualcertError, StoreError, StoreNotWritable, StoreUnavailable
from dualcert.store.address import Address

BUSY_TIMEOUT_MS = 5000
_clock = SystemClock()  # for how long a file is waited for, which is no matter of the instants in it
_BEGINNINGS = 3
"""How many times as long a unit of work waits for the lock: SQLite serves a crowd of writers in no order."""

_STATEMENTS = 512
"""How many statements a connection keeps ready: more than there are, and 128 where nothing is said."""

_REMEDY = "Nothing of this step was written; it is taken again when the database answers."
_WRITABLE = (
    "Whoever runs dualcert must be able to write the file, those beside it that end in -wal and -shm, and into its "
    "folder."
)
_REMEDIES = {
    sqlite3.SQLITE_CANTOPEN: f"{_WRITABLE} {_REMEDY}",
    sqlite3.SQLITE_IOERR: f"See that its disk is sound and has room. {_REMEDY}",
    sqlite3.SQLITE_FULL: f"Make room on its disk. {_REMEDY}",
}


def driver(address: Address) -> Any:
    """The driver. Raises ``ConfigurationError`` where the folder of the file is not there, or a folder is named."""
    if address.database and not Path(address.database).parent.is_dir():
        raise ConfigurationError(
            f"`database`: the folder {Path(address.database).parent} does not exist",
            remedy="Make it, or mend the path.",
        )
    if address.database and Path(address.database).is_dir():
        raise ConfigurationError(f"`database`: {address.database} is a folder", remedy="Name a file in it.")
    return sqlite3


def connect(address: Address) -> sqlite3.Connection:
    """A connection that commits each statement by itself. Raises the driver's exceptions."""
    # None hands BEGIN and COMMIT to us: the driver's own idea of them leaves DDL outside of transactions.
    connection = sqlite3.connect(
        address.database or ":memory:",
        timeout=BUSY_TIMEOUT_MS / 1000,
        check_same_thread=False,
        isolation_level=None,
        cached_statements=_STATEMENTS,
    )
    try:
        _use_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Several that open a new file at once want to change it at once, and SQLite's busy handler is not asked then."""
    until = _clock.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or _clock.monotonic() > until:
                raise
            _clock.sleep(0.02)
        else:
            return


def begin_writing(connection: Any) -> None:
    """Raises the driver's exception where somebody else writes all the time."""
    until = _clock.monotonic() + _BEGINNINGS * BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or _clock.monotonic() > until:
                raise
        else:
            return


def _is_busy(error: sqlite3.OperationalError) -> bool:
    """The lowest byte is the code itself, the rest tells more: that the file is being recovered, for one."""
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def explained(error: Exception, address: Address) -> DualcertError:
    """What an exception of the driver means."""
    said, code = str(error).strip(), getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_READONLY:
        return StoreNotWritable(f"the database {address} could not be used: {said}", remedy=_WRITABLE)
    if isinstance(error, sqlite3.OperationalError | sqlite3.InterfaceError):
        return StoreUnavailable(
            f"the database {address} could not be used: {said}", remedy=_REMEDIES.get(code, _REMEDY)
        )
    if code == sqlite3.SQLITE_CORRUPT:
        return StoreError(
            f"the database {address} is damaged: {said}",
            remedy="What is served goes on being served. End every dualcert, keep a copy of the file, and bring a "
            "backup back; see docs/security.md.",
        )
    if code == sqlite3.SQLITE_NOTADB:
        return ConfigurationError(
            f"what `database` names, {address}, is no SQLite database",
            remedy="Mend the path, or move that file away and run `dualcert init`.",
        )
    return StoreError(f"the database {address} refused a statement: {said}")

"""Eyes and hands in a project's database, behind the program's back, whichever kind of database it is.

Statements have question marks for their values.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import psycopg

from dualcert.config.loader import load_settings
from dualcert.store import database_file
from dualcert.store.tables import metadata


@lru_cache
def _url_in(config: Path, _text: str) -> str:
    """Remembered as long as the configuration says the same: who waits for something looks many times a second."""
    return load_settings(config).database


@contextmanager
def _connected(config: Path) -> Iterator[Any]:
    """A connection of which all is committed at the end."""
    url = _url_in(config, config.read_text())
    file = database_file(url)
    if file is not None:
        with closing(sqlite3.connect(file, timeout=10)) as connection, connection:
            yield connection
    else:
        with psycopg.connect(url) as server:
            yield server


def is_on_postgres(config: Path) -> bool:
    return database_file(_url_in(config, config.read_text())) is None


def _carried_out(connection: Any, statement: str, values: tuple[Any, ...]) -> Any:
    if isinstance(connection, psycopg.Connection):
        return connection.execute(statement.replace("?", "%s").encode(), values)
    return connection.execute(statement, values)


def rows(config: Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with _connected(config) as connection:
        found: list[tuple[Any, ...]] = _carried_out(connection, query, values).fetchall()
        return found


def named_rows(config: Path, query: str, *values: Any) -> list[dict[str, Any]]:
    with _connected(config) as connection:
        cursor = _carried_out(connection, query, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def change(config: Path, statement: str, *values: Any) -> int:
    """How many rows that were."""
    with _connected(config) as connection:
        return int(_carried_out(connection, statement, values).rowcount)


def all_that_is_kept(config: Path) -> dict[str, bytes]:
    """The bytes of SQLite's files and its log; of PostgreSQL, which packs its own, those of every table's rows."""
    file = database_file(load_settings(config).database)
    if file is not None:
        files = {path.name: path.read_bytes() for path in file.parent.glob(f"{file.name}*")}
        assert {file.name, f"{file.name}-wal"} <= set(files)
        return files
    return {
        table: b"\n".join(_bytes(value) for row in rows(config, f"SELECT * FROM {table}") for value in row)
        for table in metadata.tables
    }


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def empty(config: Path) -> None:
    """As it was before anything was done with it."""
    with _connected(config) as connection:
        for table in metadata.tables:
            connection.execute(f"DELETE FROM {table}")
        if isinstance(connection, psycopg.Connection):
            connection.execute("SELECT setval(seqrelid, 1, false) FROM pg_sequence")
        else:
            connection.execute("DELETE FROM sqlite_sequence")


def somebody_writes(config: Path) -> bool:
    """Whether a process is in the middle of a unit of work."""
    file = database_file(_url_in(config, config.read_text()))
    if file is None:
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND state <> 'idle'"
        )
        return rows(config, query) != [(0,)]
    with closing(sqlite3.connect(file, timeout=0.2)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False

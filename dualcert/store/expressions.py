"""What SQLAlchemy says differently for SQLite and PostgreSQL, or not at all."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, Table, bindparam, func, select
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.dialects.sqlite.dml import OnConflictDoNothing, OnConflictDoUpdate
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import BigInteger, Boolean, Text

from dualcert.store.statements import prepared

_LOCKS = 0x6475616C
"""Sets the locks that have names apart from those of others who use the same PostgreSQL database."""


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


class joined(FunctionElement[str]):  # noqa: N801 - reads as the function that it is
    """The texts of a group one after the other, in the order of a column: what gives them is in that order already."""

    inherit_cache = True
    type = Text()


@compiles(joined, "sqlite")
def _joined_on_sqlite(element: joined, compiler: Any, **options: Any) -> str:
    texts, _by = element.clauses
    return f"group_concat({compiler.process(texts, **options)}, '')"


@compiles(joined, "postgresql")
def _joined_on_postgresql(element: joined, compiler: Any, **options: Any) -> str:
    texts, by = (compiler.process(one, **options) for one in element.clauses)
    return f"string_agg({texts}, '' ORDER BY {by})"


class is_there(FunctionElement[bool]):  # noqa: N801 - reads as the function that it is
    """Whether there is a table of this name."""

    inherit_cache = True
    type = Boolean()

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


@compiles(is_there, "sqlite")
def _there_on_sqlite(element: is_there, _compiler: object, **_options: object) -> str:
    found = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = "
    return f"EXISTS ({found}'{element.name}')"


@compiles(is_there, "postgresql")
def _there_on_postgresql(element: is_there, _compiler: object, **_options: object) -> str:
    return f"to_regclass('{element.name}') IS NOT NULL"


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
def alone() -> Select[Any]:
    return select(func.pg_advisory_xact_lock(_LOCKS, func.hashtext(bindparam("name"))))


@prepared
def abreast() -> Select[Any]:
    return select(func.pg_advisory_xact_lock_shared(_LOCKS, func.hashtext(bindparam("name"))))

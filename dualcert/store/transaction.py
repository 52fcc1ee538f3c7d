"""A unit of work: what statements are carried out on, and what it leaves for others to hear of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast, overload

from sqlalchemy import Connection, CursorResult, Executable, Select, Table, bindparam, func, select
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.dialects.sqlite.dml import OnConflictDoNothing, OnConflictDoUpdate
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import BigInteger

from dualcert.clock import to_microseconds
from dualcert.store.statements import Prepared, Rows, prepared

if TYPE_CHECKING:
    from dualcert.model.events import Event

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

    ``made_due``: the pairs of which it left work that may be due at once; of thousands just one. ``recorded``: its
    events. ``Store.watchers`` hear of both.
    """

    def __init__(self, connection: Connection, driver: Any, now: datetime, actor: str) -> None:
        self.connection = connection
        self._driver = driver
        self._dialect = connection.dialect
        self.now = now
        self.at = to_microseconds(now)
        self.actor = actor
        self.made_due: set[int] = set()
        self.recorded: list[Event] = []

    def commit(self) -> None:
        """The end; ``Store`` calls it."""
        self._driver.execute("COMMIT")

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return str(self._dialect.name)

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
                form = statement.form(self._dialect, tuple(values))
                return form.rows(self._driver.execute(form.text, form.arguments(values)))
            statement = statement.statement
        result: CursorResult[Any] = self.connection.execute(statement, parameters)
        return result


class Glance(Transaction):
    """A single statement, which SQLite is asked for outside of any transaction."""

    _looked = False

    def commit(self) -> None:
        if self.dialect != "sqlite":
            super().commit()

    # The overloads say what it takes and gives.
    def execute(self, *arguments: Any) -> Any:
        if self._looked:
            raise AssertionError("a glance is one statement: what a second one saw might not go with it")
        self._looked = True
        return super().execute(*arguments)

"""Many rows at once into a table of the connection's own, to be matched by one statement.

The tables last as long as the connection; what is in them is for one unit of work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import Column, LargeBinary, MetaData, Select, Table, Text, func, select, text, true

from dualcert.store import postgresql
from dualcert.store.statements import Prepared, prepared
from dualcert.store.tables import Number
from dualcert.store.transaction import Transaction

_apart = MetaData()

incoming = Table(
    "incoming",
    _apart,
    Column("line", Number),
    Column("hash", LargeBinary),
    Column("issuer_hash", LargeBinary),
    Column("word", Text),
    Column("number", Number),
)
"""What a file says: a serial or the hash of a key, a name, or the number of a certificate."""

matched = Table(
    "matched",
    _apart,
    Column("certificate_id", Number),
    Column("pair_id", Number),
    Column("line", Number),
)
"""The certificates of ours that are meant by it; where serials are counted, with the line that says so."""

_COLUMNS = {
    "incoming": "line {number}, hash {bytes}, issuer_hash {bytes}, word TEXT, number {number}",
    "matched": "certificate_id {number}, pair_id {number}, line {number}",
}
_TYPES = {
    "sqlite": {"number": "INTEGER", "bytes": "BLOB"},
    "postgresql": {"number": "BIGINT", "bytes": "BYTEA"},
}


def clear(tx: Transaction) -> None:
    """Both tables are there, and empty."""
    types = _TYPES[tx.dialect]
    for name, columns in _COLUMNS.items():
        ending = "" if tx.dialect == "sqlite" else " ON COMMIT DELETE ROWS"
        tx.execute(text(f"CREATE TEMPORARY TABLE IF NOT EXISTS {name} ({columns.format_map(types)}){ending}"))
        tx.execute(text(f"DELETE FROM {name}"))  # noqa: S608 - our own


def load(tx: Transaction, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Put rows into ``incoming``; on PostgreSQL by COPY."""
    driver: Any = tx.connection.connection.driver_connection
    names = ", ".join(columns)
    if tx.dialect == "sqlite":
        marks = ", ".join("?" * len(columns))
        driver.executemany(f"INSERT INTO incoming ({names}) VALUES ({marks})", rows)  # noqa: S608
        return
    with driver.cursor() as cursor, cursor.copy(f"COPY incoming ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


class Adding(Protocol):
    """An INSERT of many rows. ``alone``: it says nothing of rows that are there already."""

    def __call__(self, *, alone: bool) -> Prepared: ...


def add(tx: Transaction, build: Adding, values: Mapping[str, Any]) -> int:
    """Insert rows of which hardly any is there already; how many.

    PostgreSQL takes twice as long over an INSERT that says what happens ON CONFLICT. Where there is one, be it that it
    came meanwhile, all of it is done again by the one that says so.
    """
    if tx.dialect == "postgresql":
        tx.execute(_MARK)
        try:
            added = tx.execute(build(alone=True), values).rowcount
        except postgresql.conflict():
            tx.execute(_BACK)
        else:
            tx.execute(_ON)
            return added
    return tx.execute(build(alone=False), values).rowcount


_MARK, _BACK, _ON = (Prepared(text(f"{what}SAVEPOINT adding")) for what in ("", "ROLLBACK TO ", "RELEASE "))


def by_index(tx: Transaction) -> None:
    """Until the unit ends, what is matched is looked up: left to itself, PostgreSQL would read a large table whole."""
    if tx.dialect == "postgresql":
        tx.execute(_look_up())


@prepared
def _look_up() -> Select[Any]:
    # Reading a table whole is made dear, not switched off: a temporary one can be read in no other way, and before
    # PostgreSQL 18 what is switched off, and cannot be helped, costs so much that all else makes no difference.
    ways = {"enable_hashjoin": "off", "enable_mergejoin": "off", "seq_page_cost": "100"}
    return select(*(func.set_config(way, value, true()).label(way) for way, value in ways.items()))

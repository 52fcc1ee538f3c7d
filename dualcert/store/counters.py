"""Numbers that are too expensive to count each time, and instants that are remembered for all processes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Delete, Insert, Select, bindparam, delete, func, select

from dualcert.store.expressions import upsert
from dualcert.store.incident_tables import counter
from dualcert.store.statements import prepared
from dualcert.store.transaction import Transaction

PAIRS = "pairs"
"""How many pairs there are."""


@prepared
def _value() -> Select[Any]:
    return select(counter.c.value).where(counter.c.name == bindparam("name"))


def value(tx: Transaction, name: str) -> int | None:
    """None where nobody has counted yet."""
    found: int | None = tx.execute(_value(), {"name": name}).scalar()
    return found


@prepared
def _put() -> Insert:
    statement = upsert(counter)
    return statement.on_conflict_do_update(index_elements=["name"], set_={"value": statement.excluded.value})


def put(tx: Transaction, name: str, number: int) -> None:
    tx.execute(_put(), {"name": name, "value": number})


@prepared
def _add() -> Insert:
    statement = upsert(counter)
    total = counter.c.value + statement.excluded.value
    return statement.on_conflict_do_update(index_elements=["name"], set_={"value": total})


def add(tx: Transaction, name: str, more: int) -> None:
    """Count so many more, or less. The last thing of a unit of work: all who count the same meet here."""
    tx.execute(_add(), {"name": name, "value": more})


@prepared
def _forget() -> Delete:
    return delete(counter).where(counter.c.name == bindparam("of_name"))


def forget(tx: Transaction, name: str) -> bool:
    """It is nothing any more. False where it was not there."""
    return tx.execute(_forget(), {"of_name": name}).rowcount == 1


@prepared
def _named() -> Select[Any]:
    # LIKE would take no index either where the database's language is not C; there are a few dozen.
    begins = func.substr(counter.c.name, 1, func.length(bindparam("kind"))) == bindparam("kind")
    return select(counter.c.name).where(begins).order_by(counter.c.name)


def named(tx: Transaction, kind: str) -> list[str]:
    """The names of all that begin so."""
    return [row.name for row in tx.execute(_named(), {"kind": kind})]

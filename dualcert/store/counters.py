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
def _forget_others() -> Delete:
    of_its_kind = func.substr(counter.c.name, 1, func.length(bindparam("kind"))) == bindparam("kind")
    return delete(counter).where(of_its_kind, counter.c.name != bindparam("but"))


def forget_others(tx: Transaction, kind: str, but: str) -> None:
    """All whose names begin so are nothing any more, but one."""
    tx.execute(_forget_others(), {"kind": kind, "but": but})

"""The seals over the history, and how far it is decided: below that number nothing comes any more.

On PostgreSQL numbers are given before their transactions commit, in any order. Whoever holds a lock that no writer
of events may share has seen all of them end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Select, bindparam, func, select, text

from dualcert.clock import from_microseconds, to_microseconds
from dualcert.errors import StoreUnavailable
from dualcert.model.seal import Seal
from dualcert.store import events
from dualcert.store.expressions import upsert
from dualcert.store.incident_tables import seal, signed_head
from dualcert.store.statements import prepared
from dualcert.store.tables import event
from dualcert.store.transaction import Transaction

if TYPE_CHECKING:
    from dualcert.store.database import Store

_LOCK_NOT_AVAILABLE = "55P03"
_WAIT_MS = 20
"""Who waits for the lock makes every writer behind it wait as well."""

_PAGE = 5000


@cache
def _lock() -> tuple[Any, Any]:
    return text(f"SET LOCAL lock_timeout = {_WAIT_MS}"), text("LOCK TABLE event IN SHARE MODE")


def decided(store: Store) -> int | None:
    """The highest number so far of which all lower ones are in the history or never will be; 0 for none.

    None where writers left no gap of a moment: asked again later, it may come.
    """
    try:
        with store.write() as tx:
            if tx.others_write:
                for statement in _lock():
                    tx.execute(statement)
            return events.last(tx)
    except StoreUnavailable as error:
        if getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            return None
        raise


# --- reading what somebody else may have written -------------------------------------------------------------


@contextmanager
def undecoded(tx: Transaction) -> Iterator[None]:
    """A text that is no UTF-8 comes as ``NoText`` meanwhile: of SQLite's driver it would come as an outage."""
    if tx.dialect != "sqlite":
        yield
        return
    driver = tx.link.driver
    before, driver.text_factory = driver.text_factory, _decoded
    try:
        yield
    finally:
        driver.text_factory = before


class NoText(bytes):
    """What SQLite calls a text, and is none. A type of its own, for bytes have their place in other columns."""


def _decoded(text: bytes) -> str | NoText:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return NoText(text)


_NAMES: dict[type, str] = {int: "whole number", bytes: "bytes", str: "text"}


def typed(row: Any, where: str, kind: type, *names: str) -> None:
    """SQLite takes anything in any column. Raises ``ValueError`` where something of another type stands in these."""
    for name in names:
        if type(getattr(row, name)) is not kind:
            raise ValueError(f"`{name}` of {where} holds no {_NAMES[kind]}")


def moment(row: Any, where: str) -> datetime:
    """When it was made. Raises ``ValueError`` where that is no time."""
    typed(row, where, int, "at")
    try:
        return from_microseconds(row.at)
    except OverflowError:
        raise ValueError(f"`at` of {where} is no time") from None


# --- seals -----------------------------------------------------------------------------------------------


@prepared
def _last() -> Select[Any]:
    return select(seal).where(seal.c.no == select(func.max(seal.c.no)).scalar_subquery())


def _seal(row: Any) -> Seal:
    where = f"seal {row.no}"
    typed(row, where, int, "no", "first_id", "last_id", "count")
    typed(row, where, bytes, "previous", "digest")
    return Seal(
        no=row.no,
        first_id=row.first_id,
        last_id=row.last_id,
        count=row.count,
        previous=row.previous,
        digest=row.digest,
        at=moment(row, where),
    )


def last(tx: Transaction) -> Seal | None:
    """Raises ``ValueError`` where somebody has written into it what nothing here writes."""
    with undecoded(tx):
        row = tx.execute(_last()).first()
    return None if row is None else _seal(row)


@prepared
def _page() -> Select[Any]:
    return select(seal).where(seal.c.no > bindparam("after")).order_by(seal.c.no).limit(bindparam("limit"))


def page(tx: Transaction, after: int, limit: int = 1000) -> list[Seal]:
    """Seals in the order of their numbers, from the one after ``after``. Raises ``ValueError`` as ``last``."""
    with undecoded(tx):
        found = tx.execute(_page(), {"after": after, "limit": limit}).all()
    return [_seal(row) for row in found]


@prepared
def _signed() -> Select[Any]:
    within = seal.c.no.between(bindparam("lowest"), bindparam("highest"))
    return select(seal).where(within, seal.c.no.in_(select(signed_head.c.no)))


def signed(tx: Transaction, lowest: int, highest: int) -> dict[int, Seal]:
    """Those that were signed, of a range of numbers, by their numbers. Raises ``ValueError`` as ``last``."""
    with undecoded(tx):
        found = tx.execute(_signed(), {"lowest": lowest, "highest": highest}).all()
    return {row.no: _seal(row) for row in found}


def add(tx: Transaction, made: Seal) -> bool:
    """False where another sealer has put one there."""
    values = {
        "no": made.no,
        "first_id": made.first_id,
        "last_id": made.last_id,
        "count": made.count,
        "previous": made.previous,
        "digest": made.digest,
        "at": to_microseconds(made.at),
    }
    return tx.execute(upsert(seal).values(**values).on_conflict_do_nothing()).rowcount == 1


@prepared
def _bounds() -> Select[Any]:
    within = (
        select(event.c.id)
        .where(event.c.id > bindparam("after"), event.c.id <= bindparam("up_to"))
        .order_by(event.c.id)
        .limit(bindparam("limit"))
        .subquery()
    )
    found: list[ColumnElement[Any]] = [func.count().label("events"), func.max(within.c.id).label("last")]
    return select(*found).select_from(within)


def bounds(tx: Transaction, after: int, up_to: int, limit: int) -> tuple[int, int | None]:
    """How many events there are behind a number, at most ``limit``, and the number of the last of them."""
    row = tx.execute(_bounds(), {"after": after, "up_to": up_to, "limit": limit}).one()
    return row.events, row.last


@prepared
def _rows() -> Select[Any]:
    columns = [
        *(event.c.id, event.c.at, event.c.kind, event.c.actor, event.c.cause),
        *(event.c.pair_id, event.c.ca, event.c.target, event.c.certificate_id, event.c.previous_id),
    ]
    query = select(*columns).where(event.c.id > bindparam("after"), event.c.id <= bindparam("up_to"))
    return query.order_by(event.c.id).limit(bindparam("limit"))


def rows(store: Store, after: int, up_to: int) -> Iterator[list[Any]]:
    """The events of a range as they are sealed, some thousand at a time, each lot read by itself.

    A text that is none comes as ``NoText``, of which no seal can be made.
    """
    while True:
        found = _lot(store, after, up_to)
        yield found
        if len(found) < _PAGE:
            return
        after = found[-1].id


def _lot(store: Store, after: int, up_to: int) -> list[Any]:
    values = {"after": after, "up_to": up_to, "limit": _PAGE}
    try:
        with store.read() as tx:
            return tx.execute(_rows(), values).all()
    except StoreUnavailable as error:
        if not _is_no_text(error):
            raise
    # Only now: decoded here, a text takes three times as long as in the driver.
    with store.read() as tx, undecoded(tx):
        return tx.execute(_rows(), values).all()


def _is_no_text(error: StoreUnavailable) -> bool:
    """Whether the driver could not decode what it read; what SQLite itself says has a code."""
    cause = error.__cause__
    return isinstance(cause, sqlite3.OperationalError) and not hasattr(cause, "sqlite_errorcode")


@prepared
def _lowest() -> Select[Any]:
    return select(func.min(event.c.id))


def slipped_in(tx: Transaction) -> int | None:
    """The lowest number of an event that stands before the first number, and so in no seal; None for none."""
    found = tx.execute(_lowest()).scalar()
    return None if found is None or found >= 1 else int(found)


@prepared
def _newer() -> Select[Any]:
    count: ColumnElement[Any] = func.count()
    return select(count).select_from(event).where(event.c.id > bindparam("after"))


def newer(tx: Transaction, after: int) -> int:
    """How many events there are behind a number."""
    return int(tx.execute(_newer(), {"after": after}).scalar_one())

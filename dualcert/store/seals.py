"""The seals over the history, and how far it is decided: below that number nothing comes any more.

On PostgreSQL numbers are given before their transactions commit, in any order. Whoever holds a lock that no writer
of events may share has seen all of them end.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Select, bindparam, func, select, text

from dualcert.clock import from_microseconds, to_microseconds
from dualcert.errors import StoreUnavailable
from dualcert.model.seal import Seal
from dualcert.store import events
from dualcert.store.expressions import upsert
from dualcert.store.incident_tables import seal
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


@prepared
def _last() -> Select[Any]:
    return select(seal).where(seal.c.no == select(func.max(seal.c.no)).scalar_subquery())


def _seal(row: Any) -> Seal:
    return Seal(
        no=row.no,
        first_id=row.first_id,
        last_id=row.last_id,
        count=row.count,
        previous=row.previous,
        digest=row.digest,
        at=from_microseconds(row.at),
    )


def last(tx: Transaction) -> Seal | None:
    row = tx.execute(_last()).first()
    return None if row is None else _seal(row)


@prepared
def _page() -> Select[Any]:
    return select(seal).where(seal.c.no > bindparam("after")).order_by(seal.c.no).limit(bindparam("limit"))


def page(tx: Transaction, after: int, limit: int = 1000) -> list[Seal]:
    """Seals in the order of their numbers, from the one after ``after``."""
    return [_seal(row) for row in tx.execute(_page(), {"after": after, "limit": limit})]


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
    """The events of a range as they are sealed, some thousand at a time, each lot read by itself."""
    while True:
        with store.read() as tx:
            found = tx.execute(_rows(), {"after": after, "up_to": up_to, "limit": _PAGE}).all()
        yield found
        if len(found) < _PAGE:
            return
        after = found[-1].id


@prepared
def _newer() -> Select[Any]:
    count: ColumnElement[Any] = func.count()
    return select(count).select_from(event).where(event.c.id > bindparam("after"))


def newer(tx: Transaction, after: int) -> int:
    """How many events there are behind a number."""
    return int(tx.execute(_newer(), {"after": after}).scalar_one())

"""The history: appended, never changed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from sqlalchemy import Insert, Select, bindparam, func, insert, select

from dualcert.clock import from_microseconds
from dualcert.model.events import Event, EventKind
from dualcert.store.statements import for_ids, is_among, prepared
from dualcert.store.tables import event
from dualcert.store.transaction import Transaction


@prepared
def _record() -> Insert:
    return insert(event).inline()


def record(
    tx: Transaction,
    kind: EventKind,
    cause: str,
    *,
    pair: int | None = None,
    ca: str | None = None,
    target: str | None = None,
    certificate: int | None = None,
    previous: int | None = None,
    actor: str | None = None,
) -> None:
    """Leave an event in this unit of work, signed by its actor unless another is named."""
    signed = actor or tx.actor
    tx.execute(
        _record(),
        {
            "at": tx.at,
            "kind": kind.value,
            "actor": signed,
            "cause": cause,
            "pair_id": pair,
            "ca": ca,
            "target": target,
            "certificate_id": certificate,
            "previous_id": previous,
        },
    )
    tx.recorded.append(Event(0, tx.now, kind.value, signed, cause, pair, ca, target, certificate, previous))


def _event(row: Any) -> Event:
    return Event(
        id=row.id,
        at=from_microseconds(row.at),
        kind=row.kind,
        actor=row.actor,
        cause=row.cause,
        pair_id=row.pair_id,
        ca=row.ca,
        target=row.target,
        certificate=row.certificate_id,
        previous=row.previous_id,
    )


@prepared
def _page(*, of_pairs: bool, one: bool) -> Select[Any]:
    query = select(event).where(event.c.id > bindparam("after"))
    query = query.order_by(event.c.id).limit(bindparam("limit"))
    return query.where(is_among(event.c.pair_id, one=one)) if of_pairs else query


def page(
    tx: Transaction, *, pairs: Iterable[int] | None = None, after: int = 0, limit: int = 1000
) -> list[Event]:
    """Events in the order of their numbers, from the one after ``after``; of some pairs, or of all."""
    values: dict[str, Any] = {"after": after, "limit": limit}
    if pairs is None:
        return [_event(row) for row in tx.execute(_page(of_pairs=False, one=False), values)]
    statement, which = for_ids(partial(_page, of_pairs=True), list(pairs))
    return [_event(row) for row in tx.execute(statement, {**values, **which})]


@prepared
def _last() -> Select[Any]:
    return select(func.coalesce(func.max(event.c.id), 0))


def last(tx: Transaction) -> int:
    """The highest number so far; 0 where nothing has happened yet."""
    return int(tx.execute(_last()).scalar_one())


@prepared
def _last_promotion() -> Select[Any]:
    return (
        select(event)
        .where(event.c.pair_id == bindparam("of_pair"), event.c.kind == EventKind.PROMOTED.value)
        .order_by(event.c.id.desc())
        .limit(1)
    )


def last_promotion(tx: Transaction, pair_id: int) -> Event | None:
    row = tx.execute(_last_promotion(), {"of_pair": pair_id}).first()
    return _event(row) if row else None


@prepared
def _last_validation() -> Select[Any]:
    return (
        select(event)
        .where(
            event.c.pair_id == bindparam("of_pair"),
            event.c.kind == EventKind.VALIDATED.value,
            event.c.ca == bindparam("of_ca"),
        )
        .order_by(event.c.id.desc())
        .limit(1)
    )


def last_validation(tx: Transaction, pair_id: int, ca: str) -> Event | None:
    row = tx.execute(_last_validation(), {"of_pair": pair_id, "of_ca": ca}).first()
    return _event(row) if row else None

"""The history: appended, never changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import func, insert, select

from dualcert.clock import from_microseconds
from dualcert.model.events import Event, EventKind
from dualcert.store.database import Transaction
from dualcert.store.tables import event


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
    tx.execute(
        insert(event),
        {
            "at": tx.at,
            "kind": kind.value,
            "actor": actor or tx.actor,
            "cause": cause,
            "pair_id": pair,
            "ca": ca,
            "target": target,
            "certificate_id": certificate,
            "previous_id": previous,
        },
    )


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


def page(
    tx: Transaction, *, pairs: Iterable[int] | None = None, after: int = 0, limit: int = 1000
) -> list[Event]:
    """Events in the order of their numbers, from the one after ``after``; of some pairs, or of all."""
    query = select(event).where(event.c.id > after).order_by(event.c.id).limit(limit)
    if pairs is not None:
        query = query.where(event.c.pair_id.in_(list(pairs)))
    return [_event(row) for row in tx.execute(query)]


def last(tx: Transaction) -> int:
    """The highest number so far; 0 where nothing has happened yet."""
    return int(tx.execute(select(func.coalesce(func.max(event.c.id), 0))).scalar_one())


def last_promotion(tx: Transaction, pair_id: int) -> Event | None:
    row = tx.execute(
        select(event)
        .where(event.c.pair_id == pair_id, event.c.kind == EventKind.PROMOTED.value)
        .order_by(event.c.id.desc())
        .limit(1)
    ).first()
    return _event(row) if row else None

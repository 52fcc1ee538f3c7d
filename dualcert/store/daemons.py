"""Which daemons are at work on this database: each says now and then that it lives."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Delete, Insert, Select, bindparam, delete, select

from dualcert.clock import from_microseconds
from dualcert.store.expressions import database_now, upsert
from dualcert.store.statements import prepared
from dualcert.store.tables import daemon
from dualcert.store.transaction import Transaction


@dataclass(frozen=True)
class Daemon:
    """A daemon as its heartbeat shows it. Instants and ``silent_for`` are told by the database's clock."""

    owner: str
    version: str
    started_at: datetime
    seen_at: datetime
    silent_for: timedelta


@prepared
def _seen() -> Insert:
    statement = upsert(daemon).values(
        owner=bindparam("owner"),
        version=bindparam("version"),
        started_at=database_now,
        seen_at=database_now,
    )
    return statement.on_conflict_do_update(
        index_elements=["owner"], set_={"seen_at": statement.excluded.seen_at}
    )


def seen(tx: Transaction, owner: str, version: str) -> None:
    """The heartbeat of a daemon; the first one tells since when it runs."""
    tx.execute(_seen(), {"owner": owner, "version": version})


@prepared
def _gone() -> Delete:
    return delete(daemon).where(daemon.c.owner == bindparam("gone"))


def gone(tx: Transaction, owners: Collection[str]) -> None:
    """They run no more."""
    for owner in owners:
        tx.execute(_gone(), {"gone": owner})


@prepared
def _everybody() -> Select[Any]:
    now: ColumnElement[int] = database_now.label("now")
    return select(daemon, now).order_by(daemon.c.started_at, daemon.c.owner)


def everybody(tx: Transaction) -> list[Daemon]:
    """Every daemon that has not ended in an orderly way, the oldest first."""
    return [
        Daemon(
            owner=row.owner,
            version=row.version,
            started_at=from_microseconds(row.started_at),
            seen_at=from_microseconds(row.seen_at),
            silent_for=timedelta(microseconds=max(0, row.now - row.seen_at)),
        )
        for row in tx.execute(_everybody())
    ]

"""What a clock that was put back must not delay."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Update, bindparam, not_, or_, update

from dualcert.clock import to_microseconds
from dualcert.store.leases import is_held
from dualcert.store.statements import prepared
from dualcert.store.tables import work
from dualcert.store.transaction import Transaction
from dualcert.store.workrows import Queue


@prepared
def _still_due() -> Update:
    return (
        update(work)
        .where(
            or_(work.c.queue == int(Queue.NONE), work.c.queue == int(Queue.ORDERS)),
            work.c.due_at > bindparam("at"),
            work.c.due_at <= bindparam("was"),
            not_(is_held),
        )
        .values(due_at=bindparam("at"))
    )


def still_due(tx: Transaction, was: datetime) -> int:
    """The clock showed ``was`` before it was put back: steps that were due by then are due still; how many."""
    return tx.execute(_still_due(), {"at": tx.at, "was": to_microseconds(was)}).rowcount

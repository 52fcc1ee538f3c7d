"""What a clock that was put back must not delay."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Update, bindparam, case, not_, or_, select, update

from dualcert.clock import to_microseconds
from dualcert.store.incident_tables import watch_source, watched
from dualcert.store.leases import is_held
from dualcert.store.statements import prepared
from dualcert.store.tables import renewal_info, work
from dualcert.store.transaction import Transaction
from dualcert.store.workrows import Queue

_LONGEST = timedelta(days=1) // timedelta(microseconds=1)
"""So long a step that has failed waits at the most."""

_AT_ONCE = 1000


@prepared
def _still_due() -> Update:
    return (
        update(work)
        .where(
            or_(work.c.queue == int(Queue.NONE), work.c.queue == int(Queue.ORDERS)),
            work.c.due_at > bindparam("at"),
            work.c.due_at <= bindparam("until"),
            not_(is_held),
        )
        .values(due_at=bindparam("at"))
    )


def still_due(tx: Transaction, was: datetime) -> int:
    """The clock showed ``was`` before it was put back: steps that were due by then are due still; how many.

    What failed while it was wrong waits for some time after that. Where it was put back by no more than that takes, it
    waits: nobody knows which of the two clocks was wrong, and it must not be tried sooner than it may be.
    """
    shown = to_microseconds(was)
    until = shown + _LONGEST if shown - tx.at > _LONGEST else shown
    return tx.execute(_still_due(), {"at": tx.at, "until": until}).rowcount


# --- what was asked in the future --------------------------------------------------------------------------


@prepared
def _answers_again() -> Update:
    future = select(watch_source.c.id).where(watch_source.c.asked_at > bindparam("at"))
    asked = or_(watched.c.good_at > bindparam("at"), watched.c.failures > 0)
    return (
        update(watched)
        .where(watched.c.source_id.in_(future), watched.c.due_at > bindparam("at"), asked)
        .values(due_at=bindparam("at"))
    )


@prepared
def _sources_again() -> Update:
    good = watch_source.c.good_at
    return (
        update(watch_source)
        .where(watch_source.c.asked_at > bindparam("at"))
        .values(
            due_at=case((watch_source.c.due_at.is_(None), None), else_=bindparam("at")),
            asked_at=bindparam("at"),
            lease_until=None,  # who is asking it would write down when by the wrong clock
            good_at=case((good > bindparam("at"), bindparam("at")), else_=good),
        )
    )


@prepared
def _renewals_again() -> Update:
    some = select(renewal_info.c.certificate_id).where(renewal_info.c.asked_at > bindparam("at"))
    return (
        update(renewal_info)
        .where(renewal_info.c.certificate_id.in_(some.limit(bindparam("limit"))))
        .values(check_at=bindparam("at"), asked_at=bindparam("at"))
    )


def ask_again(tx: Transaction) -> bool:
    """What was asked while the clock was ahead is due to be asked again: some of it; whether there may be more."""
    tx.execute(_answers_again(), {"at": tx.at})
    tx.execute(_sources_again(), {"at": tx.at})
    return tx.execute(_renewals_again(), {"at": tx.at, "limit": _AT_ONCE}).rowcount == _AT_ONCE

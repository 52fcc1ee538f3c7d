"""Orders that stand in the queue of their CA while it has no permit for them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from sqlalchemy import Select, bindparam, select

from dualcert.model.work import BUDGET, WorkRow
from dualcert.policy.budget import Allowance
from dualcert.store.queue import Allowed, why_later
from dualcert.store.statements import prepared
from dualcert.store.tables import work
from dualcert.store.transaction import Transaction
from dualcert.store.workrows import Queue


@prepared
def _counted() -> Select[Any]:
    return select(work.c.id).where(
        work.c.id.in_(bindparam("ids", expanding=True)), work.c.queue == int(Queue.COUNTED)
    )


def as_they_wait(tx: Transaction, rows: Collection[WorkRow], allowed: Allowed) -> dict[int, WorkRow]:
    """Those of the rows that nobody holds and that may not go now, by number, with when they may and why not sooner.

    Whoever came when there was a permit may have been overtaken since: nothing is written down about that.
    """
    free = {row.id: row for row in rows if row.needed_by is not None and row.owner is None}
    stale = [row for row in free.values() if row.waiting_for is None or (row.due_at or tx.now) <= tx.now]
    if not stale:
        return {}
    counted = [row.id for row in tx.execute(_counted(), {"ids": [row.id for row in stale]})]
    allowances: dict[str, Allowance] = {}
    found = {}
    for row in (free[number] for number in counted):
        if row.ca not in allowances:
            allowances[row.ca] = allowed(row.ca)
        said = allowances[row.ca].decision(row.needed_by or tx.now, tx.now)
        if said.at is not None:
            why = why_later(row.ca, said, said.at)
            found[row.id] = replace(row, due_at=said.at, waiting_for=BUDGET, reason=why)
    return found

"""What goes wrong over and over, and what is served although it must not be: for a look at the whole."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, not_, or_, select

from dualcert.model.work import BUDGET, FROZEN, HELD, WorkKind
from dualcert.store import leases
from dualcert.store.columns import instant
from dualcert.store.tables import blocked_key, certificate, lineage, pair_state, revocation, work
from dualcert.store.transaction import Transaction

_TOLD_ELSEWHERE = (WorkKind.RENEWAL_INFORMATION.value,)
_NO_FAILURE = (BUDGET, FROZEN, HELD)


@dataclass(frozen=True)
class Failing:
    """Steps of one kind that fail at one CA or target: how many, and the one that has failed for the longest time."""

    kind: WorkKind
    ca: str
    target: str
    many: int
    pair_id: int
    since: datetime
    tries: int
    next_try: datetime | None
    reason: str


def failing(tx: Transaction) -> list[Failing]:
    """Steps that have failed, have not succeeded since, and come back by themselves.

    Goes through what is under way, which is nothing in an inventory that is well.
    """
    kind = (work.c.kind, work.c.ca, work.c.target)
    groups = select(*kind, func.count().label("many")).where(_fails()).group_by(*kind).order_by(*kind)
    return [_failing(tx, group) for group in tx.execute(groups).all()]


def _failing(tx: Transaction, group: Any) -> Failing:
    same = (work.c.kind == group.kind, work.c.ca == group.ca, work.c.target == group.target)
    longest = select(work).where(_fails(), *same).order_by(work.c.since, work.c.id).limit(1)
    row = tx.execute(longest).one()
    return Failing(
        WorkKind(row.kind),
        row.ca,
        row.target,
        group.many,
        row.pair_id,
        instant(row.since),
        row.attempts,
        instant(row.due_at),
        row.reason or "",
    )


def _fails() -> ColumnElement[bool]:
    return and_(
        work.c.attempts > 0,
        work.c.since.is_not(None),
        work.c.due_at.is_not(None),
        work.c.kind.not_in(_TOLD_ELSEWHERE),
        or_(work.c.waiting_for.is_(None), work.c.waiting_for.not_in(_NO_FAILURE)),
        not_(leases.is_held),
    )


@dataclass(frozen=True)
class Exposed:
    """A pair whose serving certificate must not be served, and why not."""

    pair_id: int
    ca: str
    why: str


def exposed(tx: Transaction, limit: int) -> list[Exposed]:
    """At most ``limit`` of each kind. To find what has expired, all pairs are gone through: a person asks."""
    serves = (
        select(pair_state.c.pair_id, lineage.c.ca)
        .select_from(certificate)
        .join(
            pair_state,
            and_(pair_state.c.pair_id == certificate.c.pair_id, pair_state.c.serving == certificate.c.id),
        )
        .join(lineage, lineage.c.id == certificate.c.lineage_id)
    )
    kinds: dict[str, Select[Any]] = {
        "expired": serves.where(certificate.c.not_after <= tx.at).order_by(certificate.c.not_after),
        "been revoked": serves.join(revocation, revocation.c.certificate_id == certificate.c.id),
        "a key that is blocked": serves.join(blocked_key, blocked_key.c.spki == certificate.c.spki),
    }
    found: dict[int, Exposed] = {}
    for why, query in kinds.items():
        for row in tx.execute(query.limit(limit)):
            found.setdefault(row.pair_id, Exposed(row.pair_id, row.ca, why))
    return list(found.values())

"""What goes wrong over and over, what pairs need of the configuration, and what serves although it must not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, not_, or_, select

from dualcert.model.work import BUDGET, FROZEN, HELD, WorkKind
from dualcert.store import leases
from dualcert.store.columns import instant
from dualcert.store.incident_tables import incident
from dualcert.store.tables import (
    blocked_key,
    ca_standing,
    certificate,
    lineage,
    pair,
    pair_state,
    pair_target,
    revocation,
    work,
)
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


# --- what is held ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """How many refills are held at a CA. ``incident``: for which; None where that has let go of the CA meanwhile.

    ``closed``: that one is closed, and what follows from its end is not done.
    """

    ca: str
    many: int
    incident: int | None
    closed: bool = False


def held(tx: Transaction) -> list[Held]:
    """What incidents hold. Goes through what is under way."""
    refills = (work.c.kind == WorkKind.REFILL.value, work.c.waiting_for == HELD)
    many = select(work.c.ca, func.count().label("many")).where(*refills).group_by(work.c.ca).subquery()
    query = select(many.c.ca, many.c.many, ca_standing.c.refills_held_for, incident.c.closed_at)
    holding = many.outerjoin(ca_standing, ca_standing.c.ca == many.c.ca)
    holding = holding.outerjoin(incident, incident.c.id == ca_standing.c.refills_held_for)
    found = tx.execute(query.select_from(holding).order_by(many.c.ca))
    return [Held(row.ca, row.many, row.refills_held_for, row.closed_at is not None) for row in found]


# --- what pairs need of the configuration ----------------------------------------------------------------


@dataclass(frozen=True)
class Missing:
    """A table of the configuration that pairs need: how many, and one of them."""

    section: str
    many: int
    pair_id: int


def missing(
    tx: Transaction, cas: Collection[str], dns: Collection[str], targets: Collection[str]
) -> list[Missing]:
    """What pairs need beside these. All pairs are gone through: a person asks."""
    current = or_(lineage.c.id == pair_state.c.primary_lineage, lineage.c.id == pair_state.c.backup_lineage)
    open_ones = lineage.join(pair_state, and_(pair_state.c.pair_id == lineage.c.pair_id, current))
    needs = (
        ("ca", lineage.c.ca, lineage.c.pair_id, open_ones, cas),
        ("dns", pair.c.dns, pair.c.id, pair, dns),
        ("target", pair_target.c.target, pair_target.c.pair_id, pair_target, targets),
    )
    found = []
    for kind, named, number, of, known in needs:
        query = select(named.label("named"), func.count().label("many"), func.min(number).label("first"))
        query = query.select_from(of).where(named.not_in(list(known))).group_by(named).order_by(named)
        found += [Missing(f"{kind}.{row.named}", row.many, row.first) for row in tx.execute(query)]
    return found


# --- what must not be served -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Exposed:
    """A pair whose serving certificate must not be served, and why not."""

    pair_id: int
    ca: str
    why: str


def exposed(tx: Transaction, limit: int) -> list[Exposed]:
    """At most ``limit`` of each kind. To find what has expired, all pairs are gone through: a person asks."""
    held, state = certificate.c, pair_state.c
    serves = select(state.pair_id, held.ca)
    # From the pairs: an index on notAfter would lead through every certificate that was ever replaced.
    all_pairs = serves.select_from(pair_state.join(certificate, held.id == state.serving))
    mine = pair_state.join(certificate, and_(state.pair_id == held.pair_id, state.serving == held.id))
    kinds: dict[str, Select[Any]] = {
        "expired": all_pairs.where(held.not_after <= tx.at).order_by(held.not_after),
        "been revoked": serves.select_from(mine.join(revocation, revocation.c.certificate_id == held.id)),
        "a key that is blocked": serves.select_from(mine.join(blocked_key, blocked_key.c.spki == held.spki)),
    }
    found: dict[int, Exposed] = {}
    for why, query in kinds.items():
        for row in tx.execute(query.limit(limit)):
            found.setdefault(row.pair_id, Exposed(row.pair_id, row.ca, why))
    return list(found.values())

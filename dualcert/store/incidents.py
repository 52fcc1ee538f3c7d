"""Incidents, and whether one names a certificate. Being named is not being revoked: it goes when it is closed.

``incident_members`` names certificates, ``incident_plans`` and ``incident_runs`` say what becomes of their pairs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Select,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from dualcert.model.incident import Counts, Incident, Stray
from dualcert.store import counters
from dualcert.store.columns import instant, micros
from dualcert.store.expressions import upsert
from dualcert.store.incident_tables import incident, incident_member, incident_stray
from dualcert.store.statements import prepared
from dualcert.store.tables import ca_standing
from dualcert.store.transaction import Transaction

_LOADING = -1
"""``incident.plan`` while its members are being written: one whose opening was interrupted stays so."""

_MOST_STRAYS = 10_000


def named(
    certificate_id: ColumnElement[int], *, but: Sequence[BindParameter[int]] = ()
) -> ColumnElement[bool]:
    """Whether a certificate is named by an open incident; by any ``but`` these."""
    member = incident_member.alias("naming")
    opened = incident.alias("naming_incident")
    # Looked up by its number: as a join, each member would be compared with all that are open.
    closed_at = select(opened.c.closed_at).where(opened.c.id == member.c.incident_id).scalar_subquery()
    others = [member.c.incident_id != one for one in but]
    return exists().where(member.c.certificate_id == certificate_id, closed_at.is_(None), *others)


@prepared
def _is_named() -> Select[Any]:
    member = incident_member.c
    return (
        select(member.incident_id)
        .join(incident, incident.c.id == member.incident_id)
        .where(member.certificate_id == bindparam("certificate_id"), incident.c.closed_at.is_(None))
        .order_by(member.incident_id)
        .limit(1)
    )


def naming(tx: Transaction, certificate_id: int) -> int | None:
    """The number of an open incident that names the certificate; None where there is none."""
    found: int | None = tx.execute(_is_named(), {"certificate_id": certificate_id}).scalar()
    return found


# --- incidents -------------------------------------------------------------------------------------------


def create(
    tx: Transaction, *, title: str, cause: str, selector: str, ca: str | None, deadline: datetime
) -> int:
    """Begin an incident; ``loaded`` says that all its members are there."""
    values = {
        "title": title,
        "cause": cause,
        "selector": selector,
        "ca": ca,
        "opened_at": tx.at,
        "opened_by": tx.actor,
        "deadline": micros(deadline),
        "plan": _LOADING,
    }
    statement = insert(incident).values(values).returning(incident.c.id)
    return int(tx.execute(statement).scalar_one())


def count_members(tx: Transaction, incident_id: int) -> int:
    """How many certificates it names, one by one: ``Incident.members`` is known when all are there."""
    members = select(func.count()).where(incident_member.c.incident_id == incident_id)
    return int(tx.execute(members).scalar_one())


def loaded(tx: Transaction, incident_id: int, *, members: int, unknown: int, unreadable: int) -> None:
    """All that was named is written."""
    values = {"plan": 0, "members": members, "unknown": unknown, "unreadable": unreadable}
    tx.execute(update(incident).where(incident.c.id == incident_id).values(values))


def more_members(tx: Transaction, incident_id: int, new: int) -> None:
    """So many members were added to an incident that stands; its plan is none of them."""
    tx.execute(
        update(incident)
        .where(incident.c.id == incident_id)
        .values(members=incident.c.members + new, plan_hash=None, planned_at=None, plan_counts=None)
    )


def _incident(row: Any) -> Incident:
    return Incident(
        id=row.id,
        title=row.title,
        cause=row.cause,
        selector=row.selector,
        ca=row.ca,
        opened_at=instant(row.opened_at),
        opened_by=row.opened_by,
        deadline=instant(row.deadline),
        closed_at=instant(row.closed_at),
        closed_by=row.closed_by,
        members=row.members,
        unknown=row.unknown,
        unreadable=row.unreadable,
        plan=max(row.plan, 0),
        plan_hash=row.plan_hash,
        planned_at=instant(row.planned_at),
        loading=row.plan == _LOADING,
    )


@prepared
def _get(*, lock: bool) -> Select[Any]:
    query = select(incident).where(incident.c.id == bindparam("id"))
    return query.with_for_update() if lock else query


def get(tx: Transaction, incident_id: int, *, lock: bool = False) -> Incident | None:
    """``lock``: nobody plans or closes it before this unit ends."""
    row = tx.execute(_get(lock=lock), {"id": incident_id}).first()
    return _incident(row) if row else None


@prepared
def _page() -> Select[Any]:
    query = select(incident).where(incident.c.id < bindparam("before"))
    return query.order_by(incident.c.id.desc()).limit(bindparam("limit"))


def page(tx: Transaction, *, before: int | None = None, limit: int = 200) -> list[Incident]:
    """The newest first, from the one before ``before``."""
    values = {"before": before if before is not None else 2**62, "limit": limit}
    return [_incident(row) for row in tx.execute(_page(), values)]


def planned_and_open(tx: Transaction) -> list[tuple[int, int]]:
    """Those that name their certificates still and have a plan that is complete: number, and number of the plan."""
    still = (incident.c.closed_at.is_(None), incident.c.plan_hash.is_not(None))
    query = select(incident.c.id, incident.c.plan).where(*still).order_by(incident.c.id)
    return [(row.id, row.plan) for row in tx.execute(query)]


def counts(tx: Transaction, incident_id: int) -> Counts | None:
    """What the newest plan has counted; None where there is no plan."""
    text = tx.execute(select(incident.c.plan_counts).where(incident.c.id == incident_id)).scalar()
    return Counts(**json.loads(text)) if text else None


# --- their end -------------------------------------------------------------------------------------------

_CLOSING = "closing-incident-"


def close(tx: Transaction, incident_id: int) -> bool:
    """From now on it names nothing; what follows is owed until ``ended``. False where it was closed before."""
    tx.alone(_end_of(incident_id))
    statement = update(incident).where(incident.c.id == incident_id, incident.c.closed_at.is_(None))
    closed = tx.execute(statement.values(closed_at=tx.at, closed_by=tx.actor)).rowcount == 1
    if closed:
        counters.put(tx, f"{_CLOSING}{incident_id}", tx.at)
    return closed


def not_to_end(tx: Transaction, incident_id: int) -> None:
    """Nobody closes it before this unit has ended: several may be in the middle of naming something at once."""
    tx.abreast(_end_of(incident_id))


def _end_of(incident_id: int) -> str:
    return f"end of incident {incident_id}"


def ended(tx: Transaction, incident_id: int) -> bool:
    """All that follows from its end is done. False where nothing was owed."""
    return counters.forget(tx, f"{_CLOSING}{incident_id}")


def half_closed(tx: Transaction) -> list[Incident]:
    """Those that are closed and have not ended: somebody is at it, or was cut off."""
    numbers = [int(name.removeprefix(_CLOSING)) for name in counters.named(tx, _CLOSING)]
    # What was cut off before there were marks is known where it holds still.
    holding = select(ca_standing.c.refills_held_for).where(ca_standing.c.refills_held_for.is_not(None))
    owing = or_(incident.c.id.in_(numbers), incident.c.id.in_(holding))
    query = select(incident).where(owing, incident.c.closed_at.is_not(None)).order_by(incident.c.id)
    return [_incident(row) for row in tx.execute(query)]


# --- what is none of ours --------------------------------------------------------------------------------


@prepared
def _strays_kept() -> Select[Any]:
    of = incident_stray.c
    return select(func.count()).where(
        of.incident_id == bindparam("of_incident"), of.line < bindparam("before")
    )


def room_for_strays(tx: Transaction, incident_id: int, before: int) -> int:
    """How many more of its lines are kept that are none of ours, by those that are kept ``before`` a line; beyond that
    they are counted only. Of lines that two units keep at once there may be too many: see ``drop_strays``."""
    kept = tx.execute(_strays_kept(), {"of_incident": incident_id, "before": before}).scalar_one()
    return max(0, _MOST_STRAYS - int(kept))


def add_unreadable(tx: Transaction, incident_id: int, lines: Sequence[tuple[int, str]]) -> None:
    """Remember lines that could not be read, (line, problem), in the order of the lines."""
    some = lines[: room_for_strays(tx, incident_id, lines[0][0])] if lines else ()
    rows = [{"incident_id": incident_id, "line": line, "problem": problem} for line, problem in some]
    if rows:
        tx.execute(upsert(incident_stray).on_conflict_do_nothing(), rows)


def drop_strays(tx: Transaction, incident_id: int) -> None:
    """The first of its lines that are none of ours stay, as many as are kept."""
    of = incident_stray.c
    mine = of.incident_id == incident_id
    last = select(of.line).where(mine).order_by(of.line).offset(_MOST_STRAYS - 1).limit(1)
    tx.execute(delete(incident_stray).where(mine, of.line > last.scalar_subquery()))


@prepared
def _strays() -> Select[Any]:
    query = select(incident_stray).where(
        incident_stray.c.incident_id == bindparam("incident_id"), incident_stray.c.line > bindparam("after")
    )
    return query.order_by(incident_stray.c.line).limit(bindparam("limit"))


def strays(tx: Transaction, incident_id: int, *, after: int = -1, limit: int = 1000) -> list[Stray]:
    """What it named that is none of ours, and what could not be read, in the order of the lines."""
    values = {"incident_id": incident_id, "after": after, "limit": limit}
    return [Stray(row.line, row.serial, row.problem) for row in tx.execute(_strays(), values)]

"""What goes with carrying a plan out: backups ordered anew, refills that are held, and looking what is served."""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Insert,
    Select,
    Update,
    and_,
    bindparam,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    update,
)

from dualcert.model.incident import Action, RowState
from dualcert.model.work import HELD, WorkKind
from dualcert.store import batches
from dualcert.store.expressions import upsert
from dualcert.store.incident_observation import seen
from dualcert.store.incident_runs import Range, in_range
from dualcert.store.incident_tables import incident, plan_row
from dualcert.store.statements import prepared
from dualcert.store.tables import ca_standing, lineage, pair_state, work
from dualcert.store.transaction import Transaction
from dualcert.store.work import or_sooner

_row = plan_row.c
_HELD_FOR = "held for incident "

# --- backups that are ordered anew -------------------------------------------------------------------------

_REFILLED = (Action.ORDER, Action.REFILL)


def _to_refill() -> ColumnElement[bool]:
    return or_(*(_row.action == action.value for action in _REFILLED))


@prepared
def _refill_bound() -> Select[Any]:
    some = (
        select(_row.pair_id)
        .where(
            _row.incident_id == bindparam("of_incident"),
            _row.plan == bindparam("of_plan"),
            _row.state == RowState.PLANNED.value,
            _to_refill(),
            _row.pair_id > bindparam("after"),
        )
        .order_by(_row.pair_id)
        .limit(bindparam("limit"))
    )
    return select(func.max(some.subquery().c.pair_id))


def refills_up_to(tx: Transaction, incident_id: int, plan: int, after: int, limit: int) -> int | None:
    """Where a batch ends of rows whose backup is to be ordered anew; None where there are no more."""
    values = {"of_incident": incident_id, "of_plan": plan, "after": after, "limit": limit}
    found: int | None = tx.execute(_refill_bound(), values).scalar()
    return found


@prepared
def _order_anew(*, held: bool, alone: bool) -> Insert:
    due_at, waiting = (null(), literal(HELD)) if held else (bindparam("now"), null())
    at_held = lineage.c.ca == func.coalesce(bindparam("held_at"), "")
    found = (
        select(
            literal(WorkKind.REFILL.value), _row.pair_id, lineage.c.ca, due_at, bindparam("because"), waiting
        )
        .select_from(plan_row)
        .join(pair_state, pair_state.c.pair_id == _row.pair_id)
        .join(lineage, lineage.c.id == pair_state.c.backup_lineage)
        .where(
            in_range(RowState.PLANNED),
            _to_refill(),
            pair_state.c.epoch == _row.epoch,
            # What only stood by may have a successor by now.
            or_(_row.action == Action.ORDER.value, pair_state.c.standby == _row.standby),
            at_held if held else ~at_held,
        )
        .order_by(_row.pair_id)
    )
    statement = upsert(work).from_select(["kind", "pair_id", "ca", "due_at", "reason", "waiting_for"], found)
    if alone:
        return statement
    return statement.on_conflict_do_nothing() if held else or_sooner(statement)


@prepared
def _ordered() -> Update:
    return (
        update(plan_row)
        .where(in_range(RowState.PLANNED), _to_refill())
        .values(state=RowState.ORDERED.value, at=bindparam("now"))
    )


def order_backups(tx: Transaction, batch: Range, reason: str, held_at: str | None = None) -> int:
    """Refills of backups that are not to be used, or that the incident names, are due now; how many.

    ``held_at``: the CA at which they are held for the incident, where there is one.
    """
    values = {**batch.values, "held_at": held_at}
    batches.by_index(tx)
    batches.add(tx, partial(_order_anew, held=False), {**values, "now": tx.at, "because": reason})
    if held_at is not None:
        because = held_for(batch.incident_id)
        batches.add(tx, partial(_order_anew, held=True), {**values, "because": because})
    tx.made_due.add(batch.up_to)
    return tx.execute(_ordered(), {**batch.values, "now": tx.at}).rowcount


# --- refills that are held ---------------------------------------------------------------------------------


def hold_refills(tx: Transaction, ca: str, incident_id: int) -> None:
    """What an incident empties at a CA is not ordered anew there before somebody says so."""
    statement = upsert(ca_standing).values(ca=ca, refills_held_for=incident_id)
    tx.execute(statement.on_conflict_do_update(index_elements=["ca"], set_={"refills_held_for": incident_id}))


def pass_on(tx: Transaction, ca: str, ended: int, other: int | None) -> None:
    """What was held at a CA for an incident that is over is held for another one; for none, what is emptied there from
    now on is ordered anew at once."""
    mine = (ca_standing.c.ca == ca, ca_standing.c.refills_held_for == ended)
    tx.execute(update(ca_standing).where(*mine).values(refills_held_for=other))


@prepared
def _held_for(*, lock: bool) -> Select[Any]:
    query = (
        select(ca_standing.c.refills_held_for)
        .join(incident, incident.c.id == ca_standing.c.refills_held_for)
        # One that is closed may be the last one to hold still: what is held for it is let go as its end is carried out.
        .where(ca_standing.c.ca == bindparam("at_ca"), incident.c.closed_at.is_(None))
    )
    return query.with_for_update(read=True, of=ca_standing) if lock else query


def refills_held_for(tx: Transaction, ca: str, *, lock: bool = False) -> int | None:
    """The open incident for whose sake nothing is refilled at a CA; None where there is none. ``lock``: nobody lets go
    of what is held there before this unit ends."""
    found: int | None = tx.execute(_held_for(lock=lock), {"at_ca": ca}).scalar()
    return found


def last_holder(tx: Transaction, ca: str) -> int | None:
    """The incident that was the last one to hold at a CA, be it that it was closed since; None once all is let go."""
    query = select(ca_standing.c.refills_held_for).where(ca_standing.c.ca == ca)
    found: int | None = tx.execute(query).scalar()
    return found


def cas_held_for(tx: Transaction, incident_id: int) -> list[str]:
    """The CAs where refills are held for an incident, be it that another one has held there since."""
    mark = ca_standing.c.refills_held_for
    too = exists().where(_held(ca_standing.c.ca), work.c.reason == held_for(incident_id))
    query = select(ca_standing.c.ca).where(or_(mark == incident_id, and_(mark.is_not(None), too)))
    return [row.ca for row in tx.execute(query.order_by(ca_standing.c.ca))]


def last_to_hold(tx: Transaction, incident_id: int) -> list[str]:
    """The CAs where an incident has been the last one to hold."""
    query = select(ca_standing.c.ca).where(ca_standing.c.refills_held_for == incident_id)
    return [row.ca for row in tx.execute(query.order_by(ca_standing.c.ca))]


def held_for(incident_id: int) -> str:
    """What a refill that is held says of it."""
    return f"{_HELD_FOR}{incident_id}"


def others_holding(tx: Transaction, ca: str, incident_id: int) -> int | None:
    """Another open incident for which refills are held at a CA; None where there is none."""
    said = {row.reason for row in tx.execute(select(work.c.reason).distinct().where(_held(ca)))}
    query = select(incident.c.id).where(incident.c.closed_at.is_(None), incident.c.id != incident_id)
    still_open = (row.id for row in tx.execute(query.order_by(incident.c.id)))
    return next((number for number in still_open if held_for(number) in said), None)


def _held(ca: str | ColumnElement[str]) -> ColumnElement[bool]:
    return and_(work.c.kind == WorkKind.REFILL.value, work.c.waiting_for == HELD, work.c.ca == ca)


def release_refills(tx: Transaction, ca: str, after: int = 0, limit: int = 10_000) -> int | None:
    """A batch of the refills that are held at a CA is due now. Where it ends, for the next one; None at the end."""
    some = select(work.c.id, work.c.pair_id).where(_held(ca), work.c.id > after)
    found = some.order_by(work.c.id).limit(limit).subquery()
    last = tx.execute(
        select(func.max(found.c.id).label("id"), func.max(found.c.pair_id).label("pair_id"))
    ).one()
    if last.id is None:
        return None
    batch = (_held(ca), work.c.id > after, work.c.id <= last.id)
    tx.execute(update(work).where(*batch).values(due_at=tx.at, waiting_for=None))
    tx.made_due.add(last.pair_id)
    return int(last.id)


# --- looking whether it is served --------------------------------------------------------------------------


@prepared
def _observe() -> Update:
    return update(plan_row).where(in_range(RowState.PROMOTED), seen()).values(state=RowState.OBSERVED.value)


def observe(tx: Transaction, batch: Range) -> int:
    """Rows whose every target was seen with the new certificate are observed; how many more."""
    batches.by_index(tx)
    return tx.execute(_observe(), batch.values).rowcount


@prepared
def _unfinished() -> Select[Any]:
    query = select(_row.pair_id).where(in_range(RowState.PROMOTED))
    return query.order_by(_row.pair_id).limit(bindparam("limit"))


def unobserved(tx: Transaction, batch: Range, limit: int) -> list[int]:
    """The pairs of a range that are promoted and not yet seen, the first of them."""
    return [row.pair_id for row in tx.execute(_unfinished(), {**batch.values, "limit": limit})]


_of_step = and_(
    work.c.pair_id == _row.pair_id,
    or_(work.c.kind == WorkKind.DEPLOYMENT.value, work.c.kind == WorkKind.VERIFICATION.value),
)


@prepared
def _failed() -> Select[Any]:
    step = exists().where(_of_step, work.c.attempts > 0)
    return select(func.count()).select_from(plan_row).where(in_range(RowState.PROMOTED), step)


def failed(tx: Transaction, batch: Range) -> int:
    """How many pairs of a range are promoted, and a step towards serving it has failed."""
    return int(tx.execute(_failed(), batch.values).scalar_one())


@prepared
def _skipped() -> Select[Any]:
    return select(func.count()).where(in_range(RowState.SKIPPED), _row.action == Action.PROMOTE.value)


def skipped(tx: Transaction, batch: Range) -> int:
    """How many rows of a range were skipped."""
    return int(tx.execute(_skipped(), batch.values).scalar_one())


@prepared
def _unseen_yet() -> Select[Any]:
    return select(func.count()).where(in_range(RowState.PROMOTED))


def unseen(tx: Transaction, batch: Range) -> int:
    """How many pairs of a range are promoted and not yet seen."""
    return int(tx.execute(_unseen_yet(), batch.values).scalar_one())


@prepared
def _hurry(state: RowState) -> Update:
    waiting = or_(work.c.due_at.is_(None), work.c.due_at > bindparam("now"))
    steps = or_(work.c.kind == WorkKind.DEPLOYMENT.value, work.c.kind == WorkKind.VERIFICATION.value)
    return (
        update(work)
        .where(
            work.c.pair_id.in_(select(_row.pair_id).where(in_range(state))),
            steps,
            waiting,
            work.c.owner.is_(None),
        )
        .values(due_at=bindparam("now"), waiting_for=None)
    )


def hurry(tx: Transaction, batch: Range, state: RowState = RowState.PROMOTED) -> None:
    """A person asks again: steps towards serving what was promoted, or turned back, do not back off any longer."""
    batches.by_index(tx)
    tx.execute(_hurry(state), {**batch.values, "now": tx.at})
    tx.made_due.add(batch.up_to)

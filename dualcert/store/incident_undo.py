"""Turning promoted pairs back, where what served before may serve again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Delete,
    Select,
    Update,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)

from dualcert.model.events import EventKind
from dualcert.model.incident import Action, RowState
from dualcert.model.order import OF_A_REFILL, OF_WHAT_WAS_GIVEN_UP, OPEN_STEPS
from dualcert.model.work import WorkKind
from dualcert.store import batches, promotion, proofs
from dualcert.store.columns import micros
from dualcert.store.incident_plans import why_not
from dualcert.store.incident_runs import Range, announce, in_range
from dualcert.store.incident_tables import plan_row
from dualcert.store.proofs import Unproved
from dualcert.store.statements import is_one_of, prepared
from dualcert.store.tables import acme_order, certificate, event, pair_state, work, wrapped_key
from dualcert.store.transaction import Transaction

_row = plan_row.c
_BEFORE = (RowState.PROMOTED, RowState.OBSERVED)


@prepared
def _bound() -> Select[Any]:
    some = (
        select(_row.pair_id)
        .where(
            _row.incident_id == bindparam("of_incident"),
            _row.plan == bindparam("of_plan"),
            _row.pair_id > bindparam("after"),
            is_one_of(_row.state, [state.value for state in _BEFORE]),
        )
        .order_by(_row.pair_id)
        .limit(bindparam("limit"))
        .subquery()
    )
    return select(func.max(some.c.pair_id))


def up_to(tx: Transaction, incident_id: int, plan: int, after: int, limit: int) -> int | None:
    """Where a batch of promoted rows ends that begins after a pair's number; None where there are no more."""
    values = {"of_incident": incident_id, "of_plan": plan, "after": after, "limit": limit}
    found: int | None = tx.execute(_bound(), values).scalar()
    return found


def _as_left() -> ColumnElement[bool]:
    """As the promotion left the pair: whoever has turned it since meant something by it."""
    return and_(
        pair_state.c.pair_id == _row.pair_id,
        pair_state.c.epoch == _row.epoch + 1,
        pair_state.c.serving == _row.standby,
        pair_state.c.standby == _row.serving,
    )


@prepared
def _unproved() -> Select[Any]:
    return (
        select(*proofs.FOUND)
        .select_from(plan_row)
        .join(pair_state, _as_left())
        .join(certificate, certificate.c.id == pair_state.c.standby)
        .join(wrapped_key, wrapped_key.c.spki == certificate.c.spki)
        .where(
            in_range(*_BEFORE),
            pair_state.c.backup_ok_until.is_not(None),
            wrapped_key.c.proved_at <= bindparam("before"),
        )
        .order_by(pair_state.c.pair_id)
    )


def unproved(tx: Transaction, batch: Range, before: datetime) -> list[Unproved]:
    """What served before in a batch's pairs that are as they were left, of which the key was opened ``before`` then for
    the last time."""
    batches.by_index(tx)
    return proofs.read(tx.execute(_unproved(), {**batch.values, "before": micros(before)}))


@prepared
def _lock() -> Select[Any]:
    rows = (
        select(pair_state.c.pair_id)
        .where(pair_state.c.pair_id.in_(select(_row.pair_id).where(in_range(*_BEFORE))))
        .order_by(pair_state.c.pair_id)
        .with_for_update()
    )
    return select(func.count()).select_from(rows.subquery())


@prepared
def _mark() -> Update:
    """Which of them go back: decided once, under the lock."""
    may = exists().where(_as_left(), promotion.standby_usable(bindparam("now")))
    return (
        update(plan_row)
        .where(in_range(*_BEFORE), _row.action == Action.PROMOTE.value, may)
        .values(state=RowState.UNDONE.value, at=bindparam("now"), problem=None)
    )


@prepared
def _swap() -> Update:
    return (
        update(pair_state)
        .where(_as_left(), in_range(RowState.UNDONE), _row.at == bindparam("now"))
        .values(promotion.exchanged())
    )


@prepared
def _explain() -> Update:
    left = exists().where(_as_left()).correlate(plan_row)
    why = select(why_not()).where(pair_state.c.pair_id == _row.pair_id).correlate(plan_row).scalar_subquery()
    problem = case((~left, literal("the pair has changed since")), else_=why)
    return update(plan_row).where(in_range(*_BEFORE)).values(problem=problem)


def turn_back(tx: Transaction, batch: Range) -> tuple[int, int]:
    """Exchange the roles of a batch's promoted pairs again, where they are as they were left and what stands by may
    serve; the others stay, with the reason. How many went back, and how many stayed."""
    values = {**batch.values, "now": tx.at}
    batches.by_index(tx)
    if tx.others_write:
        tx.execute(_lock(), batch.values).all()
    turned = tx.execute(_mark(), values).rowcount
    tx.execute(_swap(), values)
    stayed = tx.execute(_explain(), values).rowcount
    return turned, stayed


def _at_its_ca(kind: WorkKind) -> ColumnElement[bool]:
    """Steps of that kind at the CAs of certificates that this unit has brought back into service."""
    turned = and_(in_range(RowState.UNDONE), _row.at == bindparam("now"))
    ca = select(certificate.c.ca).where(
        certificate.c.id == _row.serving, _row.pair_id == work.c.pair_id, turned
    )
    return and_(
        work.c.pair_id.in_(select(_row.pair_id).where(turned)),
        work.c.kind == kind.value,
        work.c.ca == ca.correlate(work).scalar_subquery(),
    )


@prepared
def _keep() -> Delete:
    return delete(work).where(_at_its_ca(WorkKind.REFILL))


def _ordered_anew() -> ColumnElement[bool]:
    """Orders that came of such refills, and were not begun: of others somebody may need what they bring."""
    last = (
        select(event.c.cause)
        .where(
            event.c.pair_id == work.c.pair_id,
            event.c.kind == EventKind.ORDER_DUE.value,
            event.c.ca == work.c.ca,
        )
        .order_by(event.c.id.desc())
        .limit(1)
        .correlate(work)
        .scalar_subquery()
    )
    begun = exists().where(
        acme_order.c.pair_id == work.c.pair_id,
        acme_order.c.ca == work.c.ca,
        is_one_of(acme_order.c.step, [step.value for step in OPEN_STEPS]),
    )
    return and_(
        _at_its_ca(WorkKind.ORDER),
        work.c.owner.is_(None),
        ~begun.correlate(work),
        or_(last == OF_A_REFILL, last == OF_WHAT_WAS_GIVEN_UP),
    )


@prepared
def _reckon_again() -> Update:
    pairs = select(work.c.pair_id).where(_ordered_anew())
    return (
        update(pair_state)
        .where(pair_state.c.pair_id.in_(pairs))
        .values(next_action_at=bindparam("reckon_at"))
    )


@prepared
def _withdraw() -> Delete:
    return delete(work).where(_ordered_anew())


def follow_up(tx: Transaction, batch: Range, cause: str) -> None:
    """The events and deployments of what this unit has turned back. What was to take the place of a certificate that
    serves again is owed to nobody."""
    announce(tx, batch, cause, RowState.UNDONE, serves="serving", served="standby")
    values = {**batch.values, "now": tx.at}
    tx.execute(_keep(), values)
    # While an order is under way the renewal clock leaves its lineage out: it is set anew when it is next looked at.
    tx.execute(_reckon_again(), {**values, "reckon_at": tx.at})
    tx.execute(_withdraw(), values)


def _waiting() -> ColumnElement[bool]:
    waiting = exists().where(
        work.c.pair_id == _row.pair_id,
        is_one_of(work.c.kind, [WorkKind.DEPLOYMENT.value, WorkKind.VERIFICATION.value]),
    )
    return and_(
        _row.incident_id == bindparam("of_incident"),
        _row.plan == bindparam("of_plan"),
        _row.state == RowState.UNDONE.value,
        waiting.correlate(plan_row),
    )


@prepared
def _undeployed() -> Select[Any]:
    query = select(_row.pair_id).where(_waiting(), _row.pair_id > bindparam("after"))
    return query.order_by(_row.pair_id).limit(bindparam("limit"))


def undeployed(tx: Transaction, incident_id: int, plan: int, after: int, limit: int) -> list[int]:
    """Pairs that were turned back and are not seen at their targets yet."""
    values = {"of_incident": incident_id, "of_plan": plan, "after": after, "limit": limit}
    return [row.pair_id for row in tx.execute(_undeployed(), values)]


@prepared
def _unseen() -> Select[Any]:
    return select(func.count()).select_from(plan_row).where(_waiting())


def unseen(tx: Transaction, incident_id: int, plan: int) -> int:
    """How many such pairs there are."""
    return int(tx.execute(_unseen(), {"of_incident": incident_id, "of_plan": plan}).scalar_one())

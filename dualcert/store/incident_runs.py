"""Carrying a plan out: thousands of pairs and all that follows from it in one unit of work, without a row in Python.

Every statement is bounded by a range of pairs, and goes by what the rows of the plan say.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Insert,
    Select,
    Update,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)

from dualcert.model.events import EventKind
from dualcert.model.incident import Action, RowState, Run
from dualcert.model.work import HELD, WorkKind
from dualcert.store import batches, counters, promotion
from dualcert.store.columns import instant
from dualcert.store.expressions import upsert
from dualcert.store.incident_plans import why_not
from dualcert.store.incident_tables import incident_run, plan_row
from dualcert.store.statements import prepared
from dualcert.store.tables import (
    certificate,
    event,
    pair_state,
    pair_target,
    work,
)
from dualcert.store.transaction import Transaction
from dualcert.store.work import or_sooner

_row = plan_row.c


class Range(NamedTuple):
    """A batch of a plan: the pairs with numbers above ``after`` up to ``up_to``."""

    incident_id: int
    plan: int
    after: int
    up_to: int

    @property
    def values(self) -> dict[str, Any]:
        return {
            "of_incident": self.incident_id,
            "of_plan": self.plan,
            "after": self.after,
            "up_to": self.up_to,
        }


def in_range(*states: RowState) -> ColumnElement[bool]:
    wanted = or_(*(_row.state == state.value for state in states))
    return and_(
        _row.incident_id == bindparam("of_incident"),
        _row.plan == bindparam("of_plan"),
        _row.pair_id > bindparam("after"),
        _row.pair_id <= bindparam("up_to"),
        wanted,
    )


# --- the run itself ----------------------------------------------------------------------------------------


def begin(
    tx: Transaction,
    incident_id: int,
    plan: int,
    *,
    waves: str,
    max_failures: str,
    max_drift: str,
    rate: int | None,
) -> None:
    """Begin to carry out a plan, or go on with it under new limits; of another plan nothing is remembered."""
    said = {"waves": waves, "max_failures": max_failures, "max_drift": max_drift, "rate": rate}
    fresh = {"plan": plan, "wave": 0, "up_to_pair": 0, "started_at": tx.at}
    statement = upsert(incident_run).values(
        incident_id=incident_id, **fresh, **said, ended_at=null(), stopped=null()
    )
    other = incident_run.c.plan != statement.excluded.plan
    kept = {name: case((other, statement.excluded[name]), else_=incident_run.c[name]) for name in fresh}
    tx.execute(
        statement.on_conflict_do_update(
            index_elements=["incident_id"], set_={**kept, **said, "ended_at": None, "stopped": None}
        )
    )


@prepared
def _get(*, lock: bool) -> Select[Any]:
    query = select(incident_run).where(incident_run.c.incident_id == bindparam("of_incident"))
    return query.with_for_update() if lock else query


def get(tx: Transaction, incident_id: int, *, lock: bool = False) -> Run | None:
    """``lock``: nobody else goes on with it before this unit ends."""
    row = tx.execute(_get(lock=lock), {"of_incident": incident_id}).first()
    if row is None:
        return None
    return Run(
        incident_id=row.incident_id,
        plan=row.plan,
        waves=row.waves,
        max_failures=row.max_failures,
        max_drift=row.max_drift,
        rate=row.rate,
        wave=row.wave,
        up_to_pair=row.up_to_pair,
        started_at=instant(row.started_at),
        ended_at=instant(row.ended_at),
        stopped=row.stopped,
    )


def set_wave(tx: Transaction, incident_id: int, wave: int, up_to_pair: int) -> None:
    """How far it has come."""
    values = {"wave": wave, "up_to_pair": up_to_pair}
    tx.execute(update(incident_run).where(incident_run.c.incident_id == incident_id).values(values))


def set_end(tx: Transaction, incident_id: int, plan: int, *, stopped: str | None) -> None:
    """It is through, or was stopped for a reason; of another plan's nothing is said."""
    values = {"ended_at": None if stopped else tx.at, "stopped": stopped}
    mine = (incident_run.c.incident_id == incident_id, incident_run.c.plan == plan)
    if tx.execute(update(incident_run).where(*mine).values(values)).rowcount:
        counters.put(tx, _a_persons(incident_id), int(stopped is not None))


def _a_persons(incident_id: int) -> str:
    return f"run-of-a-person-{incident_id}"


def is_a_persons(tx: Transaction, incident_id: int) -> bool:
    """Whether it was stopped for a reason, and has not been through since: whoever went on with it is a person, also
    where ``begin`` has forgotten the reason, and how far and how fast is theirs to say."""
    return bool(counters.value(tx, _a_persons(incident_id)))


# --- batches -----------------------------------------------------------------------------------------------


@prepared
def _bound() -> Select[Any, Any]:
    some = (
        select(_row.pair_id)
        .where(
            _row.incident_id == bindparam("of_incident"),
            _row.plan == bindparam("of_plan"),
            _row.pair_id > bindparam("after"),
            _row.action == Action.PROMOTE.value,
        )
        .order_by(_row.pair_id)
        .limit(bindparam("limit"))
        .subquery()
    )
    return select(func.max(some.c.pair_id), func.count())


def bound(tx: Transaction, incident_id: int, plan: int, after: int, limit: int) -> tuple[int, int]:
    """Where a batch of at most so many promotions ends that begins after a pair's number, and how many they are."""
    values = {"of_incident": incident_id, "of_plan": plan, "after": after, "limit": limit}
    row = tx.execute(_bound(), values).one()
    return (after if row[0] is None else int(row[0])), int(row[1])


@prepared
def _turned() -> Select[Any]:
    return select(func.count()).where(
        _row.incident_id == bindparam("of_incident"),
        _row.plan == bindparam("of_plan"),
        _row.pair_id > bindparam("after"),
        _row.pair_id <= bindparam("up_to"),
        _row.action == Action.PROMOTE.value,
    )


def turned(tx: Transaction, batch: Range) -> int:
    """How many rows of a range, all of which have had their turn, were to be promoted."""
    return int(tx.execute(_turned(), batch.values).scalar_one())


def _as_planned() -> ColumnElement[bool]:
    return and_(
        pair_state.c.pair_id == _row.pair_id,
        pair_state.c.epoch == _row.epoch,
        pair_state.c.serving.is_not_distinct_from(_row.serving),
        pair_state.c.standby.is_not_distinct_from(_row.standby),
    )


def _to_promote() -> ColumnElement[bool]:
    return and_(in_range(RowState.PLANNED), _row.action == Action.PROMOTE.value)


@prepared
def _planned() -> Select[Any]:
    return select(func.count()).where(_to_promote())


@prepared
def _lock() -> Select[Any]:
    """All pairs, the changed ones as well: what is found of them now stays so. How many are as they were planned."""
    rows = (
        select(case((_as_planned(), literal(1))).label("unchanged"))
        .join_from(plan_row, pair_state, pair_state.c.pair_id == _row.pair_id)
        .where(_to_promote())
        .order_by(pair_state.c.pair_id)
        .with_for_update(of=pair_state)
    )
    return select(func.count(rows.subquery().c.unchanged))


@prepared
def _moved() -> Update:
    """Rows whose pair is not as it was planned."""
    turned = exists().where(
        pair_state.c.pair_id == _row.pair_id,
        pair_state.c.epoch == _row.epoch + 1,
        pair_state.c.serving == _row.standby,
    )
    there = exists().where(pair_state.c.pair_id == _row.pair_id)
    problem = case(
        (turned, literal("somebody else has promoted it")),
        (there, literal("the pair has changed since it was planned")),
        else_=literal("the pair is gone"),
    )
    return (
        update(plan_row)
        .where(_to_promote(), ~exists().where(_as_planned()))
        .values(state=RowState.SKIPPED.value, problem=problem, at=bindparam("now"))
    )


@prepared
def _swap() -> Update:
    return (
        update(pair_state)
        .where(
            pair_state.c.pair_id == _row.pair_id,
            _to_promote(),
            _as_planned(),
            promotion.standby_usable(bindparam("now")),
        )
        # What served is named by this incident, which nobody closes before this unit has ended.
        .values({**promotion.exchanged(), "backup_ok_until": null()})
    )


@prepared
def _mark(*, all_of_them: bool) -> Update:
    """Under the lock, and with what had moved put aside, another epoch is of our own making."""
    turned = exists().where(pair_state.c.pair_id == _row.pair_id, pair_state.c.epoch == _row.epoch + 1)
    conditions = (_to_promote(),) if all_of_them else (_to_promote(), turned)
    return update(plan_row).where(*conditions).values(state=RowState.PROMOTED.value, at=bindparam("now"))


@prepared
def _refuse() -> Update:
    why = select(why_not()).where(pair_state.c.pair_id == _row.pair_id).correlate(plan_row).scalar_subquery()
    return (
        update(plan_row)
        .where(_to_promote())
        .values(state=RowState.SKIPPED.value, problem=why, at=bindparam("now"))
    )


def promote(tx: Transaction, batch: Range) -> tuple[int, int]:
    """Exchange the roles of the pairs of a batch that are as they were planned and whose backup may serve; the rest is
    skipped with the reason. How many were promoted, and how many skipped.

    ``next_action_at`` is not written, so that the update touches no index.
    """
    values = batch.values
    stamped = {**values, "now": tx.at}
    batches.by_index(tx)
    planned, skipped = int(tx.execute(_planned(), values).scalar_one()), 0
    if not tx.others_write or tx.execute(_lock(), values).scalar_one() != planned:
        skipped = tx.execute(_moved(), stamped).rowcount
    turned = tx.execute(_swap(), stamped).rowcount
    tx.execute(_mark(all_of_them=turned == planned), stamped)
    if turned != planned:
        skipped += tx.execute(_refuse(), stamped).rowcount
    return turned, skipped


# --- what follows ------------------------------------------------------------------------------------------


@prepared
def _record(state: RowState, serves: str, served: str) -> Insert:
    found = (
        select(
            bindparam("now"),
            literal(EventKind.PROMOTED.value),
            bindparam("by"),
            bindparam("because"),
            _row.pair_id,
            certificate.c.ca,
            _row[serves],
            _row[served],
        )
        .select_from(plan_row)
        .join(certificate, certificate.c.id == _row[serves])
        .where(in_range(state), _row.at == bindparam("now"))
        .order_by(_row.pair_id)
    )
    columns = ["at", "kind", "actor", "cause", "pair_id", "ca", "certificate_id", "previous_id"]
    return insert(event).from_select(columns, found)


@prepared
def _deployments(state: RowState, *, alone: bool) -> Insert:
    found = (
        select(literal(WorkKind.DEPLOYMENT.value), _row.pair_id, pair_target.c.target, bindparam("now"))
        .select_from(plan_row)
        .join(pair_target, pair_target.c.pair_id == _row.pair_id)
        .where(in_range(state), _row.at == bindparam("now"))
        .order_by(_row.pair_id)
    )
    statement = upsert(work).from_select(["kind", "pair_id", "target", "due_at"], found)
    return statement if alone else or_sooner(statement)


def announce(
    tx: Transaction,
    batch: Range,
    cause: str,
    state: RowState,
    *,
    serves: str = "standby",
    served: str = "serving",
) -> None:
    """An event for each pair that this unit has brought into a state, and a deployment at every target of it.

    ``serves`` and ``served``: the columns of the plan with the certificates that serve now, and did before.
    """
    values = {**batch.values, "now": tx.at}
    tx.execute(_record(state, serves, served), {**values, "by": tx.actor, "because": cause})
    batches.add(tx, partial(_deployments, state), values)
    tx.made_due.add(batch.up_to)


@prepared
def _refills(*, held: bool, alone: bool) -> Insert:
    due_at = null() if held else bindparam("now")
    found = (
        select(
            literal(WorkKind.REFILL.value),
            _row.pair_id,
            certificate.c.ca,
            due_at,
            bindparam("because"),
            literal(HELD) if held else null(),
        )
        .select_from(plan_row)
        .join(certificate, certificate.c.id == _row.serving)
        .where(in_range(RowState.PROMOTED), _row.at == bindparam("now"))
        .order_by(_row.pair_id)
    )
    columns = ["kind", "pair_id", "ca", "due_at", "reason", "waiting_for"]
    statement = upsert(work).from_select(columns, found)
    return statement if alone else statement.on_conflict_do_nothing()


def follow_up(tx: Transaction, batch: Range, cause: str, *, refills_held: str | None) -> None:
    """What the promotions of this unit cause: an event and a refill each, and a deployment at every target.

    ``refills_held``: why what served is not ordered anew yet; None where it is due at once.
    """
    announce(tx, batch, cause, RowState.PROMOTED)
    values = {**batch.values, "now": tx.at, "because": refills_held}
    batches.add(tx, partial(_refills, held=refills_held is not None), values)

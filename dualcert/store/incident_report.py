"""How far an incident is, in numbers and certificate by certificate."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, bindparam, case, func, literal, or_, select

from dualcert.model.incident import Action, RowState
from dualcert.store.incident_observation import is_deployed, is_observed, observed_at, observed_how
from dualcert.store.incident_serving import away
from dualcert.store.incident_stuck import failing, usable
from dualcert.store.incident_tables import incident_member, plan_row
from dualcert.store.statements import prepared
from dualcert.store.tables import (
    certificate,
    pair_state,
    revocation,
)
from dualcert.store.transaction import Transaction

_row = plan_row.c
_PROMOTED = (RowState.PROMOTED, RowState.OBSERVED)


class Funnel(NamedTuple):
    """Pairs, of all plans of an incident, each counted once.

    ``leaving``: served by what it names when they were planned; of these those ``promoted``, whose new certificate lies
    at every target, was seen there, and where a step towards serving it has failed. ``concerned``: all, those as well
    of which only the backup was named; ``protected``: of these those that nothing named serves and that have a usable
    backup. ``away``: of those that were to leave, those that nothing named serves; ``otherwise``: of these those that
    no run has promoted.
    """

    leaving: int
    concerned: int
    promoted: int
    deployed: int
    observed: int
    protected: int
    failed: int
    away: int
    otherwise: int


def _is(states: Collection[RowState]) -> ColumnElement[bool]:
    return or_(*(_row.state == state.value for state in states))


def _leaving() -> ColumnElement[bool]:
    return or_(_row.action == Action.PROMOTE.value, _row.action == Action.ORDER.value)


def _of_incident() -> ColumnElement[bool]:
    return and_(_row.incident_id == bindparam("of_incident"), _row.action == Action.PROMOTE.value)


def _count(*conditions: ColumnElement[bool]) -> Select[Any]:
    # A pair that was planned anew has a row in each plan that has come to something.
    return select(func.count(func.distinct(_row.pair_id))).where(*conditions)


@prepared
def _pairs(*, leaving: bool) -> Select[Any]:
    all_of_them = _row.incident_id == bindparam("of_incident")
    return _count(all_of_them, _leaving()) if leaving else _count(all_of_them)


@prepared
def _in_state(*states: RowState) -> Select[Any]:
    return _count(_of_incident(), _is(states))


@prepared
def _seen() -> Select[Any]:
    return _count(_of_incident(), is_observed())


@prepared
def _deployed() -> Select[Any]:
    return _count(_of_incident(), is_deployed())


@prepared
def _away() -> Select[Any]:
    acted = and_(_row.action == Action.PROMOTE.value, _is(_PROMOTED))
    by_a_run = func.count(func.distinct(case((acted, _row.pair_id))))
    return _count(_row.incident_id == bindparam("of_incident"), _leaving(), away()).add_columns(by_a_run)


@prepared
def _protected() -> Select[Any]:
    # Whoever took it off what is named, and whoever ordered its backup.
    return _count(_row.incident_id == bindparam("of_incident"), away(), usable())


@prepared
def _failed() -> Select[Any]:
    return _count(_of_incident(), failing())


def funnel(tx: Transaction, incident_id: int) -> Funnel:
    values = {"of_incident": incident_id}

    def number(statement: Any, **more: Any) -> int:
        return int(tx.execute(statement, {**values, **more}).scalar_one())

    off, by_a_run = tx.execute(_away(), values).one()
    return Funnel(
        leaving=number(_pairs(leaving=True)),
        concerned=number(_pairs(leaving=False)),
        promoted=number(_in_state(*_PROMOTED)),
        deployed=number(_deployed()),
        observed=number(_seen()),
        protected=number(_protected(), now=tx.at),
        failed=number(_failed()),
        away=off,
        otherwise=off - by_a_run,
    )


@prepared
def _skipped() -> Select[Any]:
    return _count(_of_incident(), _row.plan == bindparam("of_plan"), _row.state == RowState.SKIPPED.value)


def skipped(tx: Transaction, incident_id: int, plan: int) -> int:
    """How many rows of a plan were skipped."""
    return int(tx.execute(_skipped(), {"of_incident": incident_id, "of_plan": plan}).scalar_one())


# --- certificate by certificate ----------------------------------------------------------------------------


class Affected(NamedTuple):
    """A member and what became of its pair. Instants are microseconds, None where it has not come to that.

    ``undone_at``: when the pair was turned back to it; what the promotion had brought is not told then.
    """

    pair_id: int
    ca: str
    serial: bytes
    role: str
    new_ca: str | None
    new_serial: bytes | None
    promoted_at: int | None
    observed_at: int | None
    how: str | None
    revoked_at: int | None
    replaced_at: int | None
    state: str | None
    problem: str | None
    undone_at: int | None


def plans_carried_out(tx: Transaction, incident_id: int) -> list[int]:
    query = select(_row.plan).distinct().where(_row.incident_id == incident_id)
    return [row.plan for row in tx.execute(query.order_by(_row.plan))]


def _replaced_at(held: Any) -> Any:
    later = certificate.alias("later")
    same = (later.c.pair_id == held.c.pair_id, later.c.lineage_id == held.c.lineage_id)
    query = select(func.min(later.c.stored_at)).where(*same, later.c.id > held.c.id)
    return query.correlate(held).scalar_subquery()


def _members(incident_id: int, plans: Collection[int], after: int, up_to: int) -> Select[Any]:
    held, new = certificate.alias("held"), certificate.alias("new")
    left = and_(
        _row.incident_id == incident_id,
        _row.plan.in_(list(plans) or [0]),
        _row.pair_id == incident_member.c.pair_id,
        _row.serving == incident_member.c.certificate_id,
    )
    return (
        select(
            held.c.id,
            held.c.pair_id,
            held.c.ca,
            held.c.serial,
            pair_state.c.serving,
            pair_state.c.standby,
            new.c.ca.label("new_ca"),
            new.c.serial.label("new_serial"),
            _row.plan,
            _row.state,
            _row.at,
            case((is_observed(), literal(1))).label("seen"),
            func.coalesce(_row.problem, _row.why).label("problem"),
            observed_at().label("observed_at"),
            observed_how().label("how"),
            revocation.c.at.label("revoked_at"),
            _replaced_at(held).label("replaced_at"),
        )
        .select_from(incident_member)
        .join(held, held.c.id == incident_member.c.certificate_id)
        .outerjoin(pair_state, pair_state.c.pair_id == held.c.pair_id)
        .outerjoin(plan_row, left)
        .outerjoin(new, new.c.id == _row.standby)
        .outerjoin(revocation, revocation.c.certificate_id == held.c.id)
        .where(
            incident_member.c.incident_id == incident_id,
            incident_member.c.certificate_id > after,
            incident_member.c.certificate_id <= up_to,
        )
        .order_by(held.c.id, func.coalesce(_row.plan, 0))
    )


def affected(
    tx: Transaction, incident_id: int, plans: Collection[int], after: int, up_to: int
) -> list[Affected]:
    """The members with numbers above ``after`` up to ``up_to``, in that order."""
    # Of several plans, what was carried out counts, and otherwise the newest.
    found: dict[int, Any] = {}
    for row in tx.execute(_members(incident_id, plans, after, up_to)):
        known = found.get(row.id)
        if known is None or known.state not in _CARRIED_OUT or row.state in _CARRIED_OUT:
            found[row.id] = row
    return [_affected(row) for row in found.values()]


_ACTED = {state.value for state in _PROMOTED}
_CARRIED_OUT = {*_ACTED, RowState.UNDONE.value}


def _affected(row: Any) -> Affected:
    acted = row.state in _ACTED
    role = "serving" if row.serving == row.id else "standby" if row.standby == row.id else "idle"
    return Affected(
        pair_id=row.pair_id,
        ca=row.ca,
        serial=row.serial,
        role=role,
        new_ca=row.new_ca if acted else None,
        new_serial=row.new_serial if acted else None,
        promoted_at=row.at if acted else None,
        observed_at=row.observed_at if row.seen else None,
        how=row.how if row.seen else None,
        revoked_at=row.revoked_at,
        replaced_at=row.replaced_at,
        state=row.state,
        problem=row.problem,
        undone_at=row.at if row.state == RowState.UNDONE.value else None,
    )


# --- how long it took --------------------------------------------------------------------------------------


def _undone() -> ColumnElement[bool]:
    # Of any of its plans: one that was turned back need not leave anything, whatever was planned for it before.
    return func.max(case((_row.state == RowState.UNDONE.value, 1), else_=0)) == 1


@prepared
def _reached(step: str) -> Select[Any]:
    come, at = (_is(_PROMOTED), _row.at) if step == "promoted" else (is_observed(), observed_at())
    when = func.max(case((come, at)))
    times = (
        select(when.label("at")).where(_of_incident()).group_by(_row.pair_id).having(~_undone()).subquery()
    )
    ranked = select(times.c.at, func.row_number().over(order_by=times.c.at).label("place"))
    come_to_it = ranked.where(times.c.at.is_not(None)).subquery()
    return select(come_to_it.c.at).where(come_to_it.c.place == bindparam("place"))


@prepared
def _wanted() -> Select[Any]:
    leaving = select(_row.pair_id).where(_row.incident_id == bindparam("of_incident"), _leaving())
    return select(func.count()).select_from(leaving.group_by(_row.pair_id).having(~_undone()).subquery())


def reached(tx: Transaction, incident_id: int, step: str, percent: int) -> int | None:
    """When so many percent of the pairs that had to leave a certificate were ``promoted``, or ``observed``
    (microseconds); None where it has not come to that."""
    values = {"of_incident": incident_id}
    total = int(tx.execute(_wanted(), values).scalar_one())
    place = max(1, -(-total * percent // 100))
    found: int | None = tx.execute(_reached(step), {**values, "place": place}).scalar()
    return found

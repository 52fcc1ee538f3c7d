"""Pairs of an incident that do not get to where they should be, and why."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, bindparam, case, exists, func, literal, null, or_, select

from dualcert.model.incident import Action, RowState
from dualcert.model.work import HELD, WorkKind
from dualcert.store.fitness import proved
from dualcert.store.incident_observation import is_observed, without_targets
from dualcert.store.incident_plans import why_not
from dualcert.store.incident_serving import left, left_otherwise
from dualcert.store.incident_tables import plan_row
from dualcert.store.promotion import standby_usable
from dualcert.store.statements import prepared
from dualcert.store.tables import pair_state, work
from dualcert.store.transaction import Transaction

_row = plan_row.c


def _pair() -> ColumnElement[bool]:
    return pair_state.c.pair_id == _row.pair_id


def usable() -> ColumnElement[bool]:
    """Whether the pair of a row has a backup that may take over ``now``."""
    return exists().where(_pair(), standby_usable(bindparam("now"))).correlate(plan_row)


def failing() -> ColumnElement[bool]:
    """Whether a step towards serving a promoted row's pair has failed. Where that was seen, it is one of what came
    later."""
    steps = or_(work.c.kind == WorkKind.DEPLOYMENT.value, work.c.kind == WorkKind.VERIFICATION.value)
    failed = exists().where(work.c.pair_id == _row.pair_id, steps, work.c.attempts > 0).correlate(plan_row)
    # Asked row by row: as a join, PostgreSQL might begin with all work that there is.
    return and_(_row.state == RowState.PROMOTED.value, case((failed, 1), else_=0) == 1, ~is_observed())


class Stuck(NamedTuple):
    """A pair that does not get to where it should be, and why. ``held_at``: the CA at which its backup is held, where
    that is why."""

    pair_id: int
    action: str | None
    state: str
    problem: str | None
    held_at: str | None = None


_SERVING = (WorkKind.DEPLOYMENT, WorkKind.VERIFICATION)
_REFILLING = (WorkKind.REFILL, WorkKind.ORDER, WorkKind.PUBLICATION)


HAS_COME = "its backup has come"
"""Why a pair is stuck whose backup was ordered: the next plan promotes it."""


class _Sort(Enum):
    """Where a pair may be stuck; the gravest first."""

    SKIPPED = "skipped"
    UNSEEN = "not seen"
    GONE = "removed before it was seen"
    NOT_ORDERED = "no backup, none ordered"
    ORDERED = "no backup, one ordered"
    UNPROTECTED = "left, and without a backup"


def _troubles(steps: Collection[WorkKind]) -> tuple[ColumnElement[bool], ...]:
    kinds = or_(*(work.c.kind == kind.value for kind in steps))
    late = or_(work.c.attempts > 0, work.c.due_at.is_(None), work.c.waiting_for.is_not(None))
    return work.c.pair_id == _row.pair_id, kinds, late


def _why(steps: Collection[WorkKind]) -> ColumnElement[str | None]:
    return _of_trouble(work.c.reason, steps)


def _held_at() -> ColumnElement[str | None]:
    return _of_trouble(case((work.c.waiting_for == HELD, work.c.ca)), _REFILLING)


def _of_trouble(what: ColumnElement[Any], steps: Collection[WorkKind]) -> ColumnElement[Any]:
    # One step may wait for another: that which fails says why.
    query = select(what).where(*_troubles(steps)).order_by(work.c.attempts.desc(), work.c.id)
    return query.limit(1).correlate(plan_row).scalar_subquery()


def _against_backup() -> ColumnElement[str | None]:
    return select(why_not()).where(_pair()).correlate(plan_row).scalar_subquery()


def _come_in_vain() -> ColumnElement[bool]:
    """Whether a backup is there whose key is proved, and no other one is under way: what is against it stays so."""
    there = exists().where(_pair(), proved(bindparam("now"))).correlate(plan_row)
    steps = or_(*(work.c.kind == kind.value for kind in _REFILLING))
    return and_(there, ~exists().where(work.c.pair_id == _row.pair_id, steps).correlate(plan_row))


def _sorted(sort: _Sort) -> tuple[ColumnElement[bool], ColumnElement[Any]]:
    """Which rows these are, and why they are stuck."""
    promote, order = _row.action == Action.PROMOTE.value, _row.action == Action.ORDER.value
    told = func.coalesce(_row.problem, _row.why)
    ordered = _row.state == RowState.ORDERED.value
    match sort:
        case _Sort.SKIPPED:
            return and_(promote, _row.state == RowState.SKIPPED.value, ~left()), told
        case _Sort.UNSEEN:
            return and_(promote, failing()), _why(_SERVING)
        case _Sort.GONE:
            unseen = and_(promote, _row.state == RowState.PROMOTED.value, without_targets(), ~is_observed())
            return unseen, literal("it was taken from its targets before it was seen there")
        case _Sort.NOT_ORDERED:
            return and_(order, _row.state == RowState.PLANNED.value, ~left()), told
        case _Sort.ORDERED:
            come = literal(HAS_COME)
            otherwise = func.coalesce(_why(_REFILLING), _against_backup(), told)
            return and_(order, ordered, ~left()), case((usable(), come), else_=otherwise)
        case _Sort.UNPROTECTED:
            refilled = and_(_row.action == Action.REFILL.value, ordered)
            off = or_(and_(promote, is_observed()), refilled, left_otherwise())
            troubled = exists().where(*_troubles(_REFILLING), func.coalesce(work.c.waiting_for, "") != HELD)
            lacking = or_(troubled.correlate(plan_row), _come_in_vain())
            return and_(off, ~usable(), lacking), func.coalesce(_why(_REFILLING), _against_backup())


@prepared
def _stuck(*, sort: _Sort) -> Select[Any]:
    which, why = _sorted(sort)
    # Where its backup has come, what is held besides is not what it waits for.
    at = {_Sort.ORDERED: case((~usable(), _held_at())), _Sort.UNPROTECTED: _held_at()}
    held_at = at.get(sort, null())
    return (
        select(_row.pair_id, _row.action, _row.state, why.label("problem"), held_at.label("held_at"))
        .where(_row.incident_id == bindparam("of_incident"), _row.plan == bindparam("of_plan"), which)
        .order_by(_row.pair_id)
        .limit(bindparam("limit"))
    )


def stuck(tx: Transaction, incident_id: int, plan: int, limit: int) -> list[Stuck]:
    """Pairs of the newest plan that are not off the affected certificate for good, or have no backup again because
    something fails: the first of each sort."""
    values = {"of_incident": incident_id, "of_plan": plan, "limit": limit, "now": tx.at}
    found: list[Stuck] = []
    for sort in _Sort:
        found += [Stuck(*row) for row in tx.execute(_stuck(sort=sort), values)]
    return found[:limit]

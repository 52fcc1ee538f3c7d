"""What serves now of what an incident names: a pair may have come to it, or left it, since it was planned."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, bindparam, case, exists, func, or_, select

from dualcert.model.incident import Action, RowState
from dualcert.store.incident_tables import incident_member, plan_row
from dualcert.store.promotion import standby_usable
from dualcert.store.statements import prepared
from dualcert.store.tables import pair_state
from dualcert.store.transaction import Transaction

_row = plan_row.c
_member = incident_member.c

_TO_COME = (RowState.PLANNED, RowState.SKIPPED, RowState.ORDERED)
"""What a plan has not done yet, and tells of by itself."""


def away() -> ColumnElement[bool]:
    """Whether the pair of a row is there, and nothing that the incident names serves it."""
    named = exists().where(
        _member.certificate_id == pair_state.c.serving, _member.incident_id == _row.incident_id
    )
    serves = pair_state.c.pair_id == _row.pair_id
    return exists().where(serves, ~named.correlate(pair_state, plan_row)).correlate(plan_row)


def left() -> ColumnElement[bool]:
    """Whether what a row has found serving its pair does not serve it any more."""
    return (
        exists()
        .where(pair_state.c.pair_id == _row.pair_id, pair_state.c.serving.is_distinct_from(_row.serving))
        .correlate(plan_row)
    )


def left_otherwise() -> ColumnElement[bool]:
    """The same, of what a plan was to take off it and has not: by a renewal, by name, by another incident."""
    to_leave = or_(_row.action == Action.PROMOTE.value, _row.action == Action.ORDER.value)
    return and_(to_leave, or_(*(_row.state == state.value for state in _TO_COME)), left())


class Served(NamedTuple):
    """How many pairs are served by what an incident names, and of how many of these the newest plan has no row that
    takes them off it."""

    pairs: int
    unplanned: int


def _to_be_left() -> ColumnElement[bool]:
    found = exists().where(
        _row.incident_id == bindparam("of_incident"),
        _row.plan == bindparam("of_plan"),
        _row.pair_id == _member.pair_id,
        or_(*(_row.state == state.value for state in _TO_COME)),
        _row.serving == _member.certificate_id,
        or_(_row.action == Action.PROMOTE.value, _row.action == Action.ORDER.value),
    )
    return found.correlate(incident_member)


def _unplanned() -> ColumnElement[bool]:
    # Asked of each that is found to serve: as a join, every member would be compared with the rows first.
    return case((_to_be_left(), 0), else_=1) == 1


def _serving(*what: ColumnElement[Any]) -> Select[Any]:
    serves = and_(pair_state.c.pair_id == _member.pair_id, pair_state.c.serving == _member.certificate_id)
    found = select(*what).select_from(incident_member).join(pair_state, serves)
    return found.where(_member.incident_id == bindparam("of_incident"))


@prepared
def _counted() -> Select[Any]:
    return _serving(func.count(), func.count(case((_unplanned(), 1))))


def counted(tx: Transaction, incident_id: int, plan: int) -> Served:
    """Goes through the members: where many were named, a person asks."""
    row = tx.execute(_counted(), {"of_incident": incident_id, "of_plan": plan}).one()
    return Served(int(row[0]), int(row[1]))


@prepared
def _pairs() -> Select[Any]:
    return _serving(func.count())


def pairs(tx: Transaction, incident_id: int) -> int:
    """How many pairs are served by what it names. Goes through the members."""
    return int(tx.execute(_pairs(), {"of_incident": incident_id}).scalar_one())


@prepared
def _may_turn() -> Select[Any]:
    return _serving(pair_state.c.pair_id).where(standby_usable(bindparam("now"))).limit(1)


def may_turn(tx: Transaction, incident_id: int) -> bool:
    """Whether any of these has a backup that may take over. Goes through the members up to the first."""
    return tx.execute(_may_turn(), {"of_incident": incident_id, "now": tx.at}).first() is not None


@prepared
def _first() -> Select[Any]:
    query = _serving(_member.pair_id).where(_unplanned())
    return query.order_by(_member.certificate_id).limit(bindparam("limit"))


def unplanned(tx: Transaction, incident_id: int, plan: int, limit: int) -> list[int]:
    """The first pairs that a member serves and that the newest plan does not take off it."""
    values = {"of_incident": incident_id, "of_plan": plan, "limit": limit}
    return [row.pair_id for row in tx.execute(_first(), values)]

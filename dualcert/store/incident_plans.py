"""Plans of incidents: a row for each affected pair, written by the database itself, batch by batch.

A row says what was seen when it was planned: epoch, what served, what stood by. It is compared again when its turn
comes.
"""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Delete,
    Insert,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    true,
    tuple_,
    update,
)

from dualcert.model.incident import Action, Counts, RowState
from dualcert.store import batches, promotion
from dualcert.store.expressions import joined, upsert
from dualcert.store.fitness import distrusted
from dualcert.store.incident_tables import incident, incident_member, plan_row
from dualcert.store.incidents import count_members, named
from dualcert.store.statements import prepared
from dualcert.store.tables import (
    Number,
    blocked_key,
    certificate,
    coverage,
    pair,
    pair_state,
    pair_target,
    revocation,
    revocation_request,
)
from dualcert.store.transaction import Transaction

BATCH = 5_000
"""How many are looked at in one unit of work, at most."""


def begin(tx: Transaction, incident_id: int) -> tuple[int, int]:
    """The number of a new plan, the newest from now on, and of how many members; it has no hash before it is ended."""
    statement = (
        update(incident)
        .where(incident.c.id == incident_id)
        .values(plan=incident.c.plan + 1, plan_hash=None, planned_at=None, plan_counts=None)
        .returning(incident.c.plan, incident.c.members)
    )
    row = tx.execute(statement).one()
    return int(row.plan), int(row.members)


def end(tx: Transaction, incident_id: int, plan: int, members: int, digest: bytes, counts: Counts) -> bool:
    """Its rows are complete. False where a newer one was begun, or members were added, meanwhile."""
    statement = (
        update(incident)
        .where(incident.c.id == incident_id, incident.c.plan == plan, incident.c.members == members)
        .values(plan_hash=digest, planned_at=tx.at, plan_counts=json.dumps(asdict(counts)))
    )
    return tx.execute(statement).rowcount == 1


# --- batches of members ----------------------------------------------------------------------------------


@prepared
def _member_bound() -> Select[Any]:
    of = incident_member.c
    some = (
        select(of.certificate_id)
        .where(of.incident_id == bindparam("of_incident"), of.certificate_id > bindparam("after"))
        .order_by(of.certificate_id)
        .limit(bindparam("limit"))
    )
    return select(func.max(some.subquery().c.certificate_id))


def members_up_to(tx: Transaction, incident_id: int, after: int, limit: int = BATCH) -> int | None:
    """Where a batch of members ends that begins after a certificate's number; None where there are no more."""
    values = {"of_incident": incident_id, "after": after, "limit": limit}
    found: int | None = tx.execute(_member_bound(), values).scalar()
    return found


def _is_member(certificate_id: ColumnElement[int]) -> ColumnElement[bool]:
    other = incident_member.alias("other_member")
    return exists().where(
        other.c.certificate_id == certificate_id, other.c.incident_id == bindparam("of_incident")
    )


def _against(standby: ColumnElement[int]) -> dict[str, ColumnElement[bool]]:
    """What may be held against a backup, the gravest first; ``policy.promotion`` says it for one pair."""
    this = certificate.alias("backup")

    def so(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
        return exists().where(this.c.id == standby, *conditions).correlate(pair_state)

    names = select(pair.c.names_digest).where(pair.c.id == pair_state.c.pair_id).correlate(pair_state)
    digest = names.scalar_subquery()
    # Not EXISTS: PostgreSQL might go through all that has ever expired, for each pair.
    ends = select(this.c.not_after).where(this.c.id == standby).correlate(pair_state).scalar_subquery()
    covered = or_(
        this.c.names_digest == digest,
        exists().where(coverage.c.certificate_id == this.c.id, coverage.c.names_digest == digest),
    )
    return {
        "revoked": exists().where(revocation.c.certificate_id == standby).correlate(pair_state),
        "revocation asked for": exists()
        .where(revocation_request.c.certificate_id == standby)
        .correlate(pair_state),
        "key blocked": so(exists().where(blocked_key.c.spki == this.c.spki)),
        "expired": ends <= bindparam("now"),
        "named by an incident": named(standby),
        "its CA is distrusted": so(distrusted(this.c.ca, this.c.not_before)),
        "names not covered": so(~covered),
    }


def why_not() -> ColumnElement[str]:
    """Why the standby of a ``pair_state`` row may not serve at ``at``, in words, where it may not."""
    standby = pair_state.c.standby
    words: list[tuple[ColumnElement[bool], ColumnElement[str]]] = [(standby.is_(None), literal("no backup"))]
    words += [(bad, literal(word)) for word, bad in _against(standby).items()]
    return case(*words, else_=literal("its key was not opened lately, or did not open"))


@prepared
def _plan(*, alone: bool) -> Insert:
    member, state = incident_member.c, pair_state.c
    serves, stands_by = (held == member.certificate_id for held in (state.serving, state.standby))
    # Of a pair both of whose certificates are members, one writes the row: two batches may be written at once.
    in_use = or_(serves, and_(stands_by, ~_is_member(state.serving)))
    found = (
        select(
            state.pair_id,
            state.epoch,
            state.serving,
            state.standby,
            serves.label("leaves"),
            promotion.standby_usable(bindparam("now")).label("usable"),
        )
        .select_from(incident_member)
        .join(pair_state, and_(state.pair_id == member.pair_id, in_use))
        .where(
            member.incident_id == bindparam("of_incident"),
            member.certificate_id > bindparam("after"),
            member.certificate_id <= bindparam("up_to"),
            # A pair that has a backup and nothing that serves has nothing to leave.
            state.serving.is_not(None),
        )
        .cte("found")
        # What was found is used twice; put in place of its name, it would be asked twice.
        .prefix_with("MATERIALIZED")
    )
    action = case(
        (~found.c.leaves, literal(Action.REFILL.value)),
        (found.c.usable, literal(Action.PROMOTE.value)),
        else_=literal(Action.ORDER.value),
    )
    reason = (
        select(why_not()).where(pair_state.c.pair_id == found.c.pair_id).correlate(found).scalar_subquery()
    )
    why = case((and_(found.c.leaves, ~found.c.usable), reason), else_=None)
    seen = (found.c.pair_id, found.c.epoch, found.c.serving, found.c.standby)
    rows = select(bindparam("of_incident"), bindparam("of_plan"), *seen, action, why).where(true())
    columns = ["incident_id", "plan", "pair_id", "epoch", "serving", "standby", "action", "why"]
    statement = upsert(plan_row).from_select(columns, rows)
    return statement if alone else statement.on_conflict_do_nothing()


def add(tx: Transaction, incident_id: int, plan: int, after: int, up_to: int) -> int:
    """Write the rows of the pairs that a batch of members belongs to; how many."""
    batches.by_index(tx)
    values = {"of_incident": incident_id, "of_plan": plan, "after": after, "up_to": up_to, "now": tx.at}
    return batches.add(tx, _plan, values)


# --- reading it --------------------------------------------------------------------------------------------


@prepared
def _text() -> Select[Any, Any]:
    of = plan_row.c
    numbers = (of.pair_id, of.epoch, of.serving, func.coalesce(of.standby, 0))
    words = [part for one in numbers for part in (cast(one, Text), literal(" "))]
    line = functools.reduce(operator.add, [*words, of.action, literal("\n")])
    some = (
        select(of.pair_id, line.label("line"))
        .where(*_of_plan(), of.pair_id > bindparam("after"))
        .order_by(of.pair_id)
        .limit(bindparam("limit"))
        .subquery()
    )
    return select(joined(some.c.line, some.c.pair_id).label("text"), func.max(some.c.pair_id).label("last"))


def _of_plan() -> tuple[ColumnElement[bool], ...]:
    return plan_row.c.incident_id == bindparam("of_incident"), plan_row.c.plan == bindparam("of_plan")


def lines(tx: Transaction, incident_id: int, plan: int) -> Iterator[str]:
    """What a plan's hash is made of: of each row the pair, its epoch, what served, what stood by (or 0), the action.

    In the order of the pairs' numbers, many of them at a time, written by the database: of a million rows, to make
    Python's of them would take longer than all the rest.
    """
    after = 0
    while True:
        values = {"of_incident": incident_id, "of_plan": plan, "after": after, "limit": BATCH}
        found = tx.execute(_text(), values).one()
        if found.last is None:
            return
        yield found.text
        after = found.last


@prepared
def _counts() -> Select[Any]:
    of = plan_row.c
    return select(of.action, func.count().label("many")).where(*_of_plan()).group_by(of.action)


@prepared
def _standing_by() -> Select[Any]:
    # Asked row by row: as a join it would be planned by what was known of incidents before this one, and PostgreSQL
    # would compare every row with every member.
    members = case((_is_member(plan_row.c.standby), literal(1)))
    return select(func.count(members)).where(*_of_plan())


def actions(tx: Transaction, incident_id: int, plan: int) -> dict[str, int]:
    """How many rows of a plan have each action."""
    values = {"of_incident": incident_id, "of_plan": plan}
    return {row.action: row.many for row in tx.execute(_counts(), values)}


def count(tx: Transaction, incident_id: int, plan: int) -> Counts:
    """What the rows of a plan come to."""
    values = {"of_incident": incident_id, "of_plan": plan}
    found = actions(tx, incident_id, plan)
    usable, not_usable = found.get(Action.PROMOTE.value, 0), found.get(Action.ORDER.value, 0)
    standby = int(tx.execute(_standing_by(), values).scalar_one())
    serving, total = usable + not_usable, count_members(tx, incident_id)
    return Counts(serving, standby, max(0, total - serving - standby), usable, not_usable)


@prepared
def _by_ca() -> Select[Any]:
    # Of a refill it is the backup that is left.
    refilled = plan_row.c.action == Action.REFILL.value
    left = case((refilled, plan_row.c.standby), else_=plan_row.c.serving)
    return (
        select(certificate.c.ca.label("word"), plan_row.c.action, func.count().label("many"))
        .select_from(plan_row)
        .join(certificate, certificate.c.id == left)
        .where(*_of_plan())
        .group_by(certificate.c.ca, plan_row.c.action)
    )


@prepared
def _by_target() -> Select[Any]:
    return (
        select(pair_target.c.target.label("word"), plan_row.c.action, func.count().label("many"))
        .select_from(plan_row)
        .join(pair_target, pair_target.c.pair_id == plan_row.c.pair_id)
        .where(*_of_plan())
        .group_by(pair_target.c.target, plan_row.c.action)
    )


@prepared
def _by_reason() -> Select[Any]:
    of = plan_row.c
    return (
        select(of.why.label("word"), of.action, func.count().label("many"))
        .where(*_of_plan(), of.why.is_not(None))
        .group_by(of.why, of.action)
    )


_GROUPS = {"ca": _by_ca, "target": _by_target, "why": _by_reason}


def grouped(tx: Transaction, incident_id: int, plan: int, by: str) -> dict[str, dict[str, int]]:
    """How many pairs, by the CA that is left, by target, or by why a backup is not to be used: a word to how many of
    each action."""
    found: dict[str, dict[str, int]] = {}
    for row in tx.execute(_GROUPS[by](), {"of_incident": incident_id, "of_plan": plan}):
        found.setdefault(row.word, {})[row.action] = row.many
    return dict(sorted(found.items()))


# --- older plans -------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row of an incident's plans, which are in the order of their numbers."""

    plan: int
    pair_id: int


BEGINNING = Row(0, 0)
"""Before all of them."""


def _older() -> tuple[ColumnElement[bool], ...]:
    of = plan_row.c
    return (
        of.incident_id == bindparam("of_incident"),
        tuple_(of.plan, of.pair_id)
        > tuple_(bindparam("after_plan", type_=Number), bindparam("after", type_=Number)),
        of.plan < bindparam("of_plan"),
    )


@prepared
def _last_older() -> Select[Any]:
    of = plan_row.c
    some = (
        select(of.plan, of.pair_id).where(*_older()).order_by(of.plan, of.pair_id).limit(bindparam("limit"))
    )
    found = some.subquery().c
    return select(found.plan, found.pair_id).order_by(found.plan.desc(), found.pair_id.desc()).limit(1)


@prepared
def _forget() -> Delete:
    of = plan_row.c
    end = tuple_(bindparam("up_to_plan", type_=Number), bindparam("up_to", type_=Number))
    never = of.state == RowState.PLANNED.value
    return delete(plan_row).where(*_older(), tuple_(of.plan, of.pair_id) <= end, never)


def forget_older(tx: Transaction, incident_id: int, plan: int, after: Row) -> Row | None:
    """Of some of the rows of older plans, those whose turn never came go, and what was carried out stays. The last that
    was looked at, where the next ones begin; None where there are no more."""
    batches.by_index(tx)
    values = {"of_incident": incident_id, "of_plan": plan, "after_plan": after.plan, "after": after.pair_id}
    row = tx.execute(_last_older(), {**values, "limit": BATCH}).first()
    if row is None:
        return None
    last = Row(*row)
    tx.execute(_forget(), {**values, "up_to_plan": last.plan, "up_to": last.pair_id})
    return last

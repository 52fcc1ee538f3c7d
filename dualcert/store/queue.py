"""One queue for each CA: orders that are due stand in it by when their pair would stop serving a good certificate.

An order comes into the queue when its time has come, with its place worked out then, many in one statement; whoever
takes from the front looks at nobody behind. Orders that their CA counts as new ones stand apart: they leave only as
far as there are permits, and no renewal waits behind them. What backs off is in no queue.

``policy/urgency.py`` explains the place, ``policy/budget.py`` how many may leave.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.dml import ReturningUpdate
from sqlalchemy.sql.functions import FunctionElement

from dualcert.model.events import EventKind
from dualcert.model.order import OrderStep
from dualcert.model.work import BUDGET
from dualcert.policy.budget import KNOWN_FOR, Allowance, Decision
from dualcert.policy.urgency import SOON
from dualcert.store import events, leases
from dualcert.store.columns import instant, micros
from dualcert.store.fitness import distrusted
from dualcert.store.incident_tables import incident, incident_member
from dualcert.store.leases import is_held
from dualcert.store.picked import ids_of, listed, picked
from dualcert.store.statements import prepared
from dualcert.store.tables import (
    acme_order,
    blocked_key,
    certificate,
    pair,
    pair_state,
    renewal_info,
    revocation,
    revocation_request,
    work,
)
from dualcert.store.transaction import Transaction
from dualcert.store.workrows import Queue

Allowed = Callable[[str], Allowance]
"""What a CA allows to leave its queue of orders that it counts."""

AT_ONCE = 1_000
"""How many come into their queues in one statement."""

_ROUNDS = 4
"""How often so many come in before some are taken: what is not in a queue yet has no place."""

_LOOKED_AT = 100
"""Those who are held stand at the front: that is where they were taken from."""

_SOON = SOON // SOON.resolution
_NEVER = literal_column(str(2**62), BigInteger())
_QUEUES = (Queue.UNCOUNTED, Queue.COUNTED)
_UNCOUNTED, _COUNTED = map(int, _QUEUES)


def anything(_ca: str) -> Allowance:
    """Of a CA that counts nothing."""
    return Allowance()


class _Least(FunctionElement[int]):
    inherit_cache = True
    type = BigInteger()


@compiles(_Least, "sqlite")
def _min(element: _Least, compiler: Any, **options: Any) -> str:
    return f"min({compiler.process(element.clauses, **options)})"


@compiles(_Least, "postgresql")
def _least(element: _Least, compiler: Any, **options: Any) -> str:
    return f"LEAST({compiler.process(element.clauses, **options)})"


# --- into the queue ----------------------------------------------------------------------------------------

_serving, _standby = certificate.alias("serving"), certificate.alias("standby")


def _or_never(moment: Select[Any]) -> ColumnElement[int]:
    return func.coalesce(moment.scalar_subquery(), _NEVER)


def _struck_at() -> ColumnElement[int]:
    """From when on the serving certificate is no good one, although it lives longer."""
    named = incident_member.c.certificate_id == _serving.c.id
    open_one = and_(incident.c.id == incident_member.c.incident_id, incident.c.closed_at.is_(None))
    deadline = select(func.min(incident.c.deadline)).where(named, open_one)
    return _Least(
        _or_never(select(revocation.c.at).where(revocation.c.certificate_id == _serving.c.id)),
        _or_never(select(blocked_key.c.at).where(blocked_key.c.spki == _serving.c.spki)),
        _or_never(
            select(revocation_request.c.revoke_by).where(revocation_request.c.certificate_id == _serving.c.id)
        ),
        _or_never(deadline),
    )


def _needed_by() -> ColumnElement[int]:
    """The twin of ``policy.urgency.needed_by``."""
    trusted = not_(distrusted(_standby.c.ca, _standby.c.not_before))
    usable = and_(pair_state.c.backup_ok_until > bindparam("at"), trusted)
    state = pair_state.outerjoin(_serving, _serving.c.id == pair_state.c.serving).outerjoin(
        _standby, _standby.c.id == pair_state.c.standby
    )
    struck = (
        select(
            pair.c.created_at,
            _serving.c.not_after.label("serving_until"),
            _struck_at().label("struck_at"),
            case((usable, _standby.c.not_after)).label("usable_until"),
        )
        .select_from(state.join(pair, pair.c.id == pair_state.c.pair_id))
        .where(pair_state.c.pair_id == work.c.pair_id)
        .correlate(work)
        .subquery("need")
    )
    need = struck.c
    place = case(
        (need.serving_until.is_(None), need.created_at + _SOON),
        (need.struck_at >= need.serving_until, need.serving_until),
        else_=func.coalesce(need.usable_until, need.struck_at),
    )
    # A pair that is gone: its order is to be dropped.
    return func.coalesce(select(place).scalar_subquery(), work.c.due_at)


def _which() -> ColumnElement[int]:
    """The queue of what the CA counts as a new order, or the other one: for a set that it knows, inside the window
    that it suggested, or where the order is placed already."""
    mine = and_(acme_order.c.pair_id == work.c.pair_id, acme_order.c.ca == work.c.ca)
    placed = or_(acme_order.c.step == OrderStep.PLACED.value, acme_order.c.step == OrderStep.FINALIZING.value)
    known = and_(
        pair.c.id == work.c.pair_id,
        certificate.c.names_digest == pair.c.names_digest,
        certificate.c.ca == work.c.ca,
        certificate.c.stored_at > bindparam("known_since"),
    )
    in_window = and_(
        renewal_info.c.pair_id == work.c.pair_id,
        renewal_info.c.ca == work.c.ca,
        renewal_info.c.window_start <= bindparam("at"),
        renewal_info.c.window_end > bindparam("at"),
    )
    uncounted = or_(
        _any(acme_order.c.id, mine, placed), _any(certificate.c.id, known), _any(renewal_info.c.ca, in_window)
    )
    return case((uncounted, _UNCOUNTED), else_=_COUNTED)


def _any(column: ColumnElement[Any], *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    # Not EXISTS: of that PostgreSQL may make a look through the whole table, once for all.
    return select(column).where(*conditions).limit(1).correlate(work).scalar_subquery().is_not(None)


def _come_due() -> ColumnElement[bool]:
    return and_(work.c.queue == int(Queue.ORDERS), work.c.due_at <= bindparam("at"), not_(is_held))


@prepared
def _line_up() -> ReturningUpdate[Any]:
    due = (
        select(work.c.id)
        .where(_come_due())
        .order_by(work.c.due_at)
        .limit(AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    return (
        update(work)
        .where(picked(work.c.id, due))
        .values(queue=_which(), needed_by=_needed_by())
        .returning(work.c.id, work.c.pair_id, work.c.ca, work.c.queue, work.c.needed_by, work.c.waiting_for)
    )


def line_up(tx: Transaction, allowed: Allowed = anything) -> int:
    """Put orders whose time has come into the queues of their CAs, a thousand of them at the most; how many it were."""
    known_since = micros(tx.now - KNOWN_FOR)
    come = defaultdict(list)
    found = tx.execute(_line_up(), {"at": tx.at, "known_since": known_since}).all()
    for row in found:
        if row.queue == _COUNTED:
            come[row.ca].append(row)
    for ca, rows in come.items():
        allowance = allowed(ca)
        rows.sort(key=lambda row: row.needed_by)
        places = [instant(row.needed_by) for row in rows]
        go = allowance.admitted(places, tx.now)
        if go < len(rows):
            said = allowance.decision(places[go], tx.now)
            _told_to_wait(tx, ca, rows[go:], allowance.afterwards if said.allowed else said)
    return len(found)


@prepared
def _wait() -> Update:
    values = {"due_at": bindparam("next_at"), "waiting_for": BUDGET, "reason": bindparam("why")}
    return update(work).where(listed(work.c.id, bindparam("ids", type_=Text))).values(values)


def _told_to_wait(tx: Transaction, ca: str, rows: Sequence[Any], said: Decision) -> None:
    """What is shown of who stays in the queue; that he waits is an event once, not each time he comes in."""
    at = said.at or tx.now
    why = why_later(ca, said, at)
    tx.execute(_wait(), {"ids": ids_of(tx, rows), "next_at": micros(at), "why": why})
    for row in rows:
        if row.waiting_for != BUDGET:
            events.record(tx, EventKind.WAITING, why, pair=row.pair_id, ca=ca)


def why_later(ca: str, said: Decision, at: datetime) -> str:
    """What is told of who stays in the queue."""
    return f"CA {ca}: {said.reason}; it goes on at {at:%Y-%m-%d %H:%M:%S} UTC at the earliest"


# --- out of it ---------------------------------------------------------------------------------------------


def _stands_in(queue: int | BindParameter[int]) -> ColumnElement[bool]:
    # The index of those who stand in one is used where the statement itself says that it asks for no others.
    return and_(work.c.queue == queue, work.c.queue > literal_column(str(int(Queue.ORDERS))))


@prepared
def _next_ca() -> Select[Any]:
    # By index, from one CA to the next: how long their queues are makes no difference.
    return select(func.min(work.c.ca)).where(
        _stands_in(bindparam("in_queue")), work.c.ca > bindparam("after")
    )


def _cas(tx: Transaction, queue: Queue, after: str = "") -> Iterator[str]:
    while (found := tx.execute(_next_ca(), {"in_queue": int(queue), "after": after}).scalar()) is not None:
        yield found
        after = found


def free() -> ColumnElement[bool]:
    """Of a row of work: nobody holds it. ``new_owner`` is to take it."""
    # What its holder could not renew in time is anybody's but his own: he is at it still.
    return and_(not_(is_held), work.c.owner.is_distinct_from(bindparam("new_owner")))


def _front(lock: bool) -> Select[Any]:
    query = (
        select(work)
        .where(_stands_in(bindparam("in_queue")), work.c.ca == bindparam("of_ca"), free())
        .order_by(work.c.needed_by, work.c.due_at)
        .limit(bindparam("limit"))
    )
    if not lock:
        return query
    return query.add_columns(leases.lasts(bindparam("new_owner", type_=Text))).with_for_update(
        skip_locked=True
    )


@prepared
def _locked_front() -> Select[Any]:
    return _front(lock=True)


@prepared
def _seen_front() -> Select[Any]:
    return _front(lock=False)


def front(
    tx: Transaction, owner: str, limit: int, but_not_at: Collection[str], allowed: Allowed
) -> list[Any]:
    """The most urgent orders of each CA that may go now, locked; at most so many of each.

    Those whose time has come meanwhile come into their queues before.
    """
    found: list[Any] = []
    uncounted, counted = _waiting_at(tx, allowed)
    for ca in sorted((uncounted | counted) - set(but_not_at)):
        values = {"of_ca": ca, "new_owner": owner, "limit": limit}
        rows: list[Any] = []
        if ca in uncounted:
            rows += tx.execute(_locked_front(), {**values, "in_queue": _UNCOUNTED}).all()
        if ca in counted:
            rows += _admitted(tx, values, allowed(ca))
        if ca in uncounted & counted:
            rows.sort(key=lambda row: (row.needed_by, row.due_at or 0))
        found += rows[:limit]
    return found


def _waiting_at(tx: Transaction, allowed: Allowed) -> list[set[str]]:
    """The CAs that have orders in the queue of what they do not count, and in that of what they do."""
    come_due, *first = tx.execute(_anybody(), {"at": tx.at}).one()
    if come_due is not None:
        for _ in range(_ROUNDS):
            if line_up(tx, allowed) < AT_ONCE:
                break
        _, *first = tx.execute(_anybody(), {"at": tx.at}).one()
    queues = zip(_QUEUES, first, strict=True)
    return [set() if ca is None else {ca, *_cas(tx, queue, ca)} for queue, ca in queues]


def _admitted(tx: Transaction, values: dict[str, Any], allowance: Allowance) -> list[Any]:
    """Those that may go, and no more are locked than there are permits: others look at the rest meanwhile."""
    limit = values["limit"] if allowance.permits is None else min(values["limit"], allowance.permits)
    if not limit:
        return []
    rows = tx.execute(_locked_front(), {**values, "in_queue": _COUNTED, "limit": limit}).all()
    return rows[: allowance.admitted([instant(row.needed_by) for row in rows], tx.now)]


@prepared
def _anybody() -> Select[Any]:
    come_due = select(work.c.id).where(_come_due()).limit(1).scalar_subquery()
    lined_up = (
        select(func.min(work.c.ca)).where(_stands_in(queue)).scalar_subquery() for queue in map(int, _QUEUES)
    )
    return select(come_due.label("come_due"), *lined_up)


def moves(tx: Transaction, owner: str, but_not_at: Collection[str], allowed: Allowed) -> bool:
    """Whether an order would come into a queue, or could be taken from one."""
    come_due, *lined_up = tx.execute(_anybody(), {"at": tx.at}).one()
    if come_due is not None or lined_up == [None, None]:
        return come_due is not None
    return any(at <= tx.now for at in _ahead(tx, owner, but_not_at, allowed))


def _ahead(tx: Transaction, owner: str, but_not_at: Collection[str], allowed: Allowed) -> Iterator[datetime]:
    """Of each queue that has anybody in it whom nobody holds: when its first may leave."""
    for queue in _QUEUES:
        for ca in _cas(tx, queue):
            if ca in but_not_at:
                continue
            values = {"in_queue": int(queue), "of_ca": ca, "new_owner": owner, "limit": 1}
            for row in tx.execute(_seen_front(), values):
                counted = queue is Queue.COUNTED
                said = allowed(ca).decision(instant(row.needed_by), tx.now) if counted else None
                yield tx.now if said is None or said.at is None else said.at


@prepared
def _others_at_front() -> Select[Any]:
    return (
        select(is_held.label("held"))
        .where(
            _stands_in(bindparam("in_queue")),
            work.c.ca == bindparam("of_ca"),
            work.c.owner.is_distinct_from(bindparam("but_not_of")),
        )
        .order_by(work.c.needed_by, work.c.due_at)
        .limit(_LOOKED_AT)
    )


def turns(tx: Transaction, but_not_of: str, allowed: Allowed, *, free: bool) -> Iterator[datetime]:
    """Of each queue: when its first may leave; now, where others hold some of it, unless only ``free`` ones count."""
    yield from _ahead(tx, but_not_of, (), allowed)
    if free:
        return
    for queue in _QUEUES:
        for ca in _cas(tx, queue):
            values = {"in_queue": int(queue), "of_ca": ca, "but_not_of": but_not_of}
            if any(row.held for row in tx.execute(_others_at_front(), values)):
                yield tx.now

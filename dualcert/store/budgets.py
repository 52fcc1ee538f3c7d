"""What CAs count, shared by all processes: each take is one statement, measured by the database's clock.

``policy/budget.py`` explains the arithmetic. A bucket without a row is full.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Delete,
    Insert,
    Select,
    Update,
    and_,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningInsert

from dualcert.model.work import BUDGET, WorkRow
from dualcert.policy.budget import MOST, Kind, Limit, Standing, Subject
from dualcert.store.columns import instant, micros
from dualcert.store.expressions import database_now, upsert
from dualcert.store.statements import prepared
from dualcert.store.tables import budget, certificate, renewal_info, work
from dualcert.store.transaction import Transaction

_KEY = ["ca", "kind", "subject"]
_MICROSECOND = timedelta(microseconds=1)
_LOOKED_THROUGH = 20


def _number(name: str) -> ColumnElement[int]:
    return bindparam(name, type_=BigInteger())


def _later(one: ColumnElement[int], other: ColumnElement[int]) -> ColumnElement[int]:
    return case((one > other, one), else_=other)


def _earlier(one: ColumnElement[int], other: ColumnElement[int]) -> ColumnElement[int]:
    return case((one < other, one), else_=other)


_full = _later(budget.c.full_at, database_now)
"""When a bucket will be full, or was by now at the latest."""


def _of(subject: Subject) -> dict[str, str]:
    return {"kind": subject.kind.value, "subject": subject.of}


def _span(time: timedelta) -> int:
    return time // _MICROSECOND


_free = or_(budget.c.held_until.is_(None), budget.c.held_until <= database_now)
_same = and_(
    budget.c.ca == bindparam("of_ca"),
    budget.c.kind == bindparam("of_kind"),
    budget.c.subject == bindparam("of_subject"),
)


def _where(ca: str, subject: Subject) -> dict[str, str]:
    return {"of_ca": ca, "of_kind": subject.kind.value, "of_subject": subject.of}


# --- looking -----------------------------------------------------------------------------------------------


@prepared
def _anything() -> Select[Any]:
    return select(budget.c.kind).where(budget.c.ca == bindparam("ca")).limit(1)


@prepared
def _look() -> Select[Any]:
    return select(budget, database_now.label("now")).where(
        budget.c.ca == bindparam("ca"),
        budget.c.kind.in_(bindparam("kinds", expanding=True)),
        budget.c.subject.in_(bindparam("subjects", expanding=True)),
    )


def look(
    tx: Transaction, ca: str, kinds: Collection[Kind], subjects: Collection[str]
) -> tuple[dict[Subject, Standing], datetime]:
    """What is known of these buckets, and the database's instant; where nothing is known, the process's."""
    found: dict[Subject, Standing] = {}
    now = tx.now
    if tx.execute(_anything(), {"ca": ca}).first() is None:
        return found, now  # as for most, of whom nothing is counted and who have never said stop
    values = {"ca": ca, "kinds": [kind.value for kind in kinds], "subjects": list(subjects)}
    for row in tx.execute(_look(), values):
        now = instant(row.now)
        standing = Standing(instant(row.full_at), instant(row.held_until), row.reason)
        found[Subject(Kind(row.kind), row.subject)] = standing
    return found, now


@prepared
def _known_set() -> Select[Any]:
    return (
        select(certificate.c.id)
        .where(
            certificate.c.names_digest == bindparam("digest"),
            certificate.c.ca == bindparam("ca"),
            certificate.c.stored_at > bindparam("since"),
        )
        .limit(1)
    )


def is_known_set(tx: Transaction, ca: str, digest: bytes, since: datetime) -> bool:
    """Whether the CA has issued for exactly this set of names since then."""
    values = {"ca": ca, "digest": digest, "since": micros(since)}
    return tx.execute(_known_set(), values).first() is not None


@prepared
def _in_window() -> Select[Any]:
    return select(renewal_info.c.ari_id).where(
        renewal_info.c.pair_id == bindparam("pair_id"),
        renewal_info.c.ca == bindparam("ca"),
        renewal_info.c.window_start <= bindparam("at"),
        renewal_info.c.window_end > bindparam("at"),
    )


def is_in_window(tx: Transaction, pair_id: int, ca: str, ari_id: str | None = None) -> bool:
    """Whether a certificate is inside the window that its CA suggests (RFC 9773): this one, or any of the pair's."""
    found = tx.execute(_in_window(), {"pair_id": pair_id, "ca": ca, "at": tx.at}).all()
    return any(ari_id is None or row.ari_id == ari_id for row in found)


# --- taking ------------------------------------------------------------------------------------------------


@prepared
def _take() -> ReturningInsert[Any]:
    cost, room = _number("cost"), _number("room")
    left = _full + cost
    return (
        upsert(budget)
        .values(
            ca=bindparam("ca"),
            kind=bindparam("kind"),
            subject=bindparam("subject"),
            full_at=database_now + cost,
        )
        .on_conflict_do_update(
            index_elements=_KEY, set_={"full_at": left}, where=and_(left <= database_now + room, _free)
        )
        .returning((budget.c.full_at - database_now).label("ahead"))
    )


def take(tx: Transaction, ca: str, subject: Subject, limit: Limit, *, leave: int = 0) -> bool:
    """Take a permit; False where the bucket holds no more than ``leave``, or is held: then nothing has changed."""
    room = limit.depth - limit.interval * leave
    return _taken(tx, ca, subject, limit.interval, room) is not None


def reserve(
    tx: Transaction,
    ca: str,
    subject: Subject,
    limit: Limit,
    count: int,
    patience: timedelta,
    *,
    depth: timedelta | None = None,
) -> timedelta | None:
    """Take ``count`` permits of a bucket of this depth at once, ahead of time if need be; after how long they are good.

    None where that would be longer than ``patience``, or the bucket is held; then nothing has changed.
    """
    deep = limit.depth if depth is None else depth
    ahead = _taken(tx, ca, subject, limit.interval * count, deep + patience)
    return None if ahead is None else max(timedelta(0), ahead - deep)


def _taken(tx: Transaction, ca: str, subject: Subject, cost: timedelta, room: timedelta) -> timedelta | None:
    values = {"ca": ca, **_of(subject), "cost": _span(cost), "room": _span(room)}
    row = tx.execute(_take(), values).first()
    return None if row is None else timedelta(microseconds=row.ahead)


@prepared
def _charge() -> Insert:
    cost, depth = _number("cost"), _number("depth")
    return (
        upsert(budget)
        .values(
            ca=bindparam("ca"),
            kind=bindparam("kind"),
            subject=bindparam("subject"),
            full_at=database_now + cost,
        )
        .on_conflict_do_update(
            index_elements=_KEY,
            set_={"full_at": _earlier(_full + cost, database_now + depth)},
        )
    )


def charge(tx: Transaction, ca: str, subject: Subject, limit: Limit) -> None:
    """Something has happened that the CA counts, whether there was a permit for it or not."""
    values = {"ca": ca, **_of(subject), "cost": _span(limit.interval), "depth": _span(limit.depth)}
    tx.execute(_charge(), values)


@prepared
def _give_back() -> Update:
    return update(budget).where(_same).values(full_at=budget.c.full_at - bindparam("cost"))


def give_back(tx: Transaction, ca: str, subject: Subject, limit: Limit) -> None:
    """A permit was not used. Only within ``limit.interval`` of the take: later the bucket may have been full since."""
    tx.execute(_give_back(), {**_where(ca, subject), "cost": _span(limit.interval)})


# --- waiting -----------------------------------------------------------------------------------------------


@prepared
def _queue() -> ReturningInsert[Any]:
    wait, interval = _number("wait"), _number("interval")
    mine = _later(budget.c.full_at, database_now + wait) + interval
    return (
        upsert(budget)
        .values(
            ca=bindparam("ca"),
            kind=bindparam("kind"),
            subject=bindparam("subject"),
            full_at=database_now + wait + interval,
        )
        .on_conflict_do_update(
            index_elements=_KEY,
            set_={"full_at": mine},
            where=budget.c.full_at < database_now + _number("horizon"),
        )
        .returning((budget.c.full_at - database_now).label("ahead"))
    )


def queue(tx: Transaction, ca: str, subject: Subject, limit: Limit, wait: timedelta) -> timedelta:
    """A place in the queue for a bucket that has its next permit after ``wait``: when to come back, a day at the most.

    Places are as far apart as permits, so that a thousand that wait do not all look whenever one permit is there.
    """
    values = {
        "ca": ca,
        "kind": f"{subject.kind.value} queue",
        "subject": subject.of,
        "wait": _span(wait),
        "interval": _span(limit.interval),
        "horizon": _span(MOST),
    }
    row = tx.execute(_queue(), values).first()
    return MOST if row is None else timedelta(microseconds=row.ahead) - limit.interval


@prepared
def _correct() -> Update:
    empty = database_now + _number("depth")
    return update(budget).where(_same, _free, budget.c.full_at > empty).values(full_at=empty)


def correct(tx: Transaction, ca: str, subject: Subject, limit: Limit) -> None:
    """An empty bucket begins to fill now, whatever was said of it before the clock was put back or the limit raised."""
    tx.execute(_correct(), {**_where(ca, subject), "depth": _span(limit.depth)})


@prepared
def _waits_no_more() -> Update:
    held = and_(work.c.id == bindparam("row_id"), work.c.fence == bindparam("row_fence"))
    return update(work).where(held, work.c.waiting_for == BUDGET).values(waiting_for=None)


def waits_no_more(tx: Transaction, row: WorkRow) -> None:
    """What the row waited for it has been given: from here on it is not shown as waiting."""
    tx.execute(_waits_no_more(), {"row_id": row.id, "row_fence": row.fence})


@prepared
def _hold() -> Insert:
    until = database_now + _number("wait")
    said = {"held_until": until, "full_at": until + _number("debt"), "reason": bindparam("reason")}
    return (
        upsert(budget)
        .values(ca=bindparam("ca"), kind=bindparam("kind"), subject=bindparam("subject"), **said)
        .on_conflict_do_update(index_elements=_KEY, set_=said)
    )


def hold(tx: Transaction, ca: str, subject: Subject, wait: timedelta, debt: timedelta, reason: str) -> None:
    """The CA asks to leave this alone for so long; its last word counts. ``debt``: how far from full it is then."""
    values = {"wait": _span(wait), "debt": _span(debt), "reason": reason}
    tx.execute(_hold(), {"ca": ca, **_of(subject), **values})


@prepared
def _tidy_up() -> Delete:
    after = (
        select(budget.c.subject)
        .where(
            budget.c.ca == bindparam("of_ca"),
            budget.c.kind == bindparam("of_kind"),
            budget.c.subject > bindparam("of_subject"),
        )
        .order_by(budget.c.subject)
        .limit(_LOOKED_THROUGH)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return delete(budget).where(
        budget.c.ca == bindparam("of_ca"),
        budget.c.kind == bindparam("of_kind"),
        budget.c.subject.in_(after),
        budget.c.full_at <= database_now,
        func.coalesce(budget.c.held_until, 0) <= database_now,
    )


def tidy(tx: Transaction, ca: str, subjects: Iterable[Subject]) -> None:
    """A full bucket needs no row: of those that come next to these, the full ones go.

    To be called when everything is written: it locks buckets that others take in an order of their own.
    """
    for subject in subjects:
        if subject.of:
            tx.execute(_tidy_up(), _where(ca, subject))

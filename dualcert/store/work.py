"""The work queue: due steps, their leases and their retries, in one table."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    BindParameter,
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
from sqlalchemy.sql.dml import ReturningUpdate

from dualcert.errors import LeaseLost
from dualcert.model.work import ANOTHER_STEP, WorkKind, WorkRow
from dualcert.store.columns import instant, micros
from dualcert.store.database import Transaction, database_now, upsert
from dualcert.store.leases import LEASE
from dualcert.store.tables import work

_WOKEN = "woken"
"""``waiting_for`` of a held row that another step of its pair has moved on for."""


def _row(row: Any) -> WorkRow:
    return WorkRow(
        id=row.id,
        kind=WorkKind(row.kind),
        pair_id=row.pair_id,
        ca=row.ca,
        target=row.target,
        due_at=instant(row.due_at),
        fence=row.fence,
        attempts=row.attempts,
        since=instant(row.since),
        reason=row.reason,
        waiting_for=row.waiting_for,
        owner=row.owner,
    )


@cache
def _schedule() -> Insert:
    statement = upsert(work)
    wanted = statement.excluded.due_at
    return statement.on_conflict_do_update(
        index_elements=["pair_id", "kind", "ca", "target"],
        set_={
            # Of a held row the time is of no use, but that it has changed is what `put_back` goes by.
            "due_at": case(
                (and_(work.c.due_at < wanted, work.c.owner.is_(None)), work.c.due_at), else_=wanted
            ),
            "waiting_for": None,
        },
    )


def schedule(
    tx: Transaction, kind: WorkKind, pair_id: int, due_at: datetime, *, ca: str = "", target: str = ""
) -> None:
    """Make a step due; one that stands already becomes due sooner, never later.

    A row that somebody holds stays held: every step reads what is wanted again in the transaction that ends it, or the
    row is due at once when it is put back.
    """
    subject = {"kind": kind.value, "pair_id": pair_id, "ca": ca, "target": target}
    tx.execute(_schedule(), {**subject, "due_at": micros(due_at)})


def claim(
    tx: Transaction,
    owner: str,
    *,
    kinds: Collection[WorkKind],
    limit: int,
    pairs: Collection[int] | None = None,
    but_not_at: Collection[str] = (),
) -> list[WorkRow]:
    """Take due rows that nobody holds, in one statement; each is ours until its lease ends.

    Rows of the CAs in ``but_not_at`` are left for later.
    """
    search = _Search(tx.at, kinds, pairs, but_not_at)
    return _taken(tx, owner, search.take(), {**search.values, "limit": limit})


def claim_companions(tx: Transaction, owner: str, target: str, limit: int) -> list[WorkRow]:
    """Take the other due deployments of one target, so that they are switched together."""
    search = _Search(tx.at, (WorkKind.DEPLOYMENT,), None, (), target)
    return _taken(tx, owner, search.take(), {**search.values, "limit": limit})


def claimable(
    tx: Transaction,
    *,
    kinds: Collection[WorkKind],
    pairs: Collection[int] | None = None,
    but_not_at: Collection[str] = (),
) -> bool:
    """Whether ``claim`` would find anything. To look keeps no writer waiting."""
    search = _Search(tx.at, kinds, pairs, but_not_at)
    return tx.execute(search.look(), search.values).first() is not None


class _Search:
    """For due rows that nobody holds: the statements of its form, and what they are carried out with."""

    def __init__(
        self,
        at: int,
        kinds: Collection[WorkKind],
        pairs: Collection[int] | None,
        but_not_at: Collection[str],
        target: str | None = None,
    ) -> None:
        self._form = (pairs is not None, bool(but_not_at), target is not None)
        self.values = {
            "at": at,
            "kinds": [kind.value for kind in kinds],
            "pairs": list(pairs or ()),
            "but_not_at": list(but_not_at),
            "of_target": target,
        }

    def look(self) -> Select[Any]:
        return _look(*self._form)

    def take(self) -> ReturningUpdate[Any]:
        return _take(*self._form)


@cache
def _look(of_pairs: bool, excepting: bool, of_target: bool) -> Select[Any]:
    return select(work.c.id).where(_claimable(of_pairs, excepting, of_target)).limit(1)


@cache
def _take(of_pairs: bool, excepting: bool, of_target: bool) -> ReturningUpdate[Any]:
    due = (
        select(work.c.id)
        .where(_claimable(of_pairs, excepting, of_target))
        .order_by(work.c.due_at)
        .limit(bindparam("limit"))
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return (
        update(work)
        .where(work.c.id.in_(due))
        .values(owner=bindparam("new_owner"), lease_until=database_now + LEASE, fence=work.c.fence + 1)
        .returning(*work.c)
    )


def _claimable(of_pairs: bool, excepting: bool, of_target: bool) -> ColumnElement[bool]:
    conditions = [
        work.c.due_at <= bindparam("at"),
        or_(work.c.lease_until.is_(None), work.c.lease_until <= database_now),
        work.c.kind.in_(_several("kinds")),
    ]
    if of_pairs:
        conditions.append(work.c.pair_id.in_(_several("pairs")))
    if excepting:
        conditions.append(work.c.ca.not_in(_several("but_not_at")))
    if of_target:
        conditions.append(work.c.target == bindparam("of_target"))
    return and_(*conditions)


def _several(name: str) -> BindParameter[Any]:
    return bindparam(name, expanding=True)


def _taken(
    tx: Transaction, owner: str, statement: ReturningUpdate[Any], values: dict[str, Any]
) -> list[WorkRow]:
    return [_row(row) for row in tx.execute(statement, {**values, "new_owner": owner})]


@cache
def _held() -> Select[Any]:
    return select(work.c.id).where(
        work.c.id == bindparam("id"),
        work.c.fence == bindparam("fence"),
        work.c.owner == bindparam("owner"),
    )


def hold(tx: Transaction, row: WorkRow) -> None:
    """Make sure that the row is still ours before anything is written for it. Raises ``LeaseLost``."""
    found = tx.execute(_held(), {"id": row.id, "fence": row.fence, "owner": row.owner}).first()
    if found is None:
        raise LeaseLost(f"{row.kind.value} of pair {row.pair_id} is held by another process now")


@cache
def _finish() -> Delete:
    return delete(work).where(work.c.id == bindparam("row_id"), work.c.fence == bindparam("row_fence"))


def finish(tx: Transaction, row: WorkRow) -> None:
    """The step is done: its row goes."""
    tx.execute(_finish(), {"row_id": row.id, "row_fence": row.fence})


@cache
def _cancel() -> Delete:
    return delete(work).where(work.c.pair_id == bindparam("of_pair"), work.c.kind == bindparam("of_kind"))


def cancel(tx: Transaction, kind: WorkKind, pair_id: int) -> None:
    """A step of a pair has no purpose any more; whoever holds it finds its lease lost."""
    tx.execute(_cancel(), {"of_pair": pair_id, "of_kind": kind.value})


def put_back(
    tx: Transaction,
    row: WorkRow,
    *,
    due_at: datetime | None,
    reason: str | None,
    waiting_for: str | None = None,
    failed: bool = False,
    keep_lease: bool = False,
) -> None:
    """Write down when the row comes back and why, and let go of it unless it is waited for in memory.

    What was made due while we held it stays due: whoever did that knew more than the step that ends now.
    """
    as_claimed = work.c.due_at.is_not_distinct_from(micros(row.due_at))
    ours_goes = as_claimed if due_at is None else or_(as_claimed, work.c.due_at > micros(due_at))
    values: dict[str, Any] = {
        "due_at": case((ours_goes, micros(due_at)), else_=work.c.due_at),
        "reason": reason,
        "waiting_for": case((as_claimed, waiting_for), else_=None),
    }
    if waiting_for == ANOTHER_STEP:
        values["due_at"] = case((work.c.waiting_for == _WOKEN, tx.at), else_=values["due_at"])
    if failed:
        values["attempts"] = work.c.attempts + 1
        values["since"] = func.coalesce(work.c.since, tx.at)
    if not keep_lease:
        values["owner"] = None
        values["lease_until"] = None
    tx.execute(update(work).where(work.c.id == row.id, work.c.fence == row.fence).values(**values))


def release(tx: Transaction, rows: Iterable[WorkRow]) -> None:
    """Let go of rows that nothing happened to; they are due as before. What was waited for is written down."""
    for row in rows:
        tx.execute(
            update(work)
            .where(work.c.id == row.id, work.c.fence == row.fence)
            .values(owner=None, lease_until=None, reason=row.reason)
        )


def of_pairs(
    tx: Transaction, pairs: Collection[int], kinds: Collection[WorkKind] | None = None
) -> list[WorkRow]:
    values = {"pairs": list(pairs), "kinds": [kind.value for kind in kinds or ()]}
    return [_row(row) for row in tx.execute(_of_pairs(of_kinds=kinds is not None), values)]


@cache
def _of_pairs(*, of_kinds: bool) -> Select[Any]:
    query = select(work).where(work.c.pair_id.in_(_several("pairs")))
    if of_kinds:
        query = query.where(work.c.kind.in_(_several("kinds")))
    return query.order_by(work.c.id)


@cache
def _get() -> Select[Any]:
    return select(work).where(
        work.c.pair_id == bindparam("pair_id"),
        work.c.kind == bindparam("kind"),
        work.c.ca == bindparam("ca"),
        work.c.target == bindparam("target"),
    )


def get(tx: Transaction, kind: WorkKind, pair_id: int, *, ca: str = "", target: str = "") -> WorkRow | None:
    subject = {"pair_id": pair_id, "kind": kind.value, "ca": ca, "target": target}
    row = tx.execute(_get(), subject).first()
    return _row(row) if row else None


@cache
def _due_before(*, of_pairs: bool) -> Select[Any]:
    query = select(func.min(work.c.due_at)).where(
        work.c.due_at <= bindparam("until"),
        work.c.kind.in_(_several("kinds")),
        work.c.owner.is_distinct_from(bindparam("but_not_of")),
    )
    return query.where(work.c.pair_id.in_(_several("pairs"))) if of_pairs else query


def due_before(
    tx: Transaction,
    until: datetime,
    kinds: Collection[WorkKind],
    pairs: Collection[int] | None,
    *,
    but_not_of: str,
) -> datetime | None:
    """When the earliest row of these kinds is due that one owner does not hold; None where none is before ``until``.

    Rows that others hold count: what they leave behind may be due then.
    """
    values = {
        "until": micros(until),
        "kinds": [kind.value for kind in kinds],
        "but_not_of": but_not_of,
        "pairs": list(pairs or ()),
    }
    earliest: int | None = tx.execute(_due_before(of_pairs=pairs is not None), values).scalar_one()
    return instant(earliest)


@cache
def _wake() -> Update:
    free = work.c.owner.is_(None)
    return (
        update(work)
        .where(
            work.c.pair_id == bindparam("of_pair"),
            work.c.kind == bindparam("of_kind"),
            work.c.due_at.is_not(None),
            or_(work.c.waiting_for.is_not(None), ~free),
        )
        .values(
            due_at=case((free, bindparam("at")), else_=work.c.due_at),
            waiting_for=case((free, None), else_=_WOKEN),
        )
    )


def wake(tx: Transaction, kind: WorkKind, pair_id: int) -> None:
    """Rows of a kind that wait for another row of their pair are due now.

    One that is held is due when its holder puts it back to wait; what it is put back for otherwise is not shortened.
    """
    tx.execute(_wake(), {"of_pair": pair_id, "of_kind": kind.value, "at": tx.at})


def hurry(tx: Transaction, pair_id: int, kinds: Collection[WorkKind], *, spare: Collection[str] = ()) -> None:
    """A person asks: back-off is over and what waited for a person is due, except what waits for one of ``spare``."""
    tx.execute(
        update(work)
        .where(
            work.c.pair_id == pair_id,
            work.c.kind.in_([kind.value for kind in kinds]),
            work.c.owner.is_(None),
            or_(work.c.due_at.is_(None), work.c.due_at > tx.at),
            or_(work.c.waiting_for.is_(None), work.c.waiting_for.not_in(list(spare) or [""])),
        )
        .values(due_at=tx.at, waiting_for=None)
    )


@cache
def _leased() -> Select[Any]:
    return select(work.c.id).where(
        work.c.pair_id == bindparam("pair_id"),
        work.c.kind == bindparam("kind"),
        work.c.lease_until > database_now,
    )


def held_by_another(tx: Transaction, kind: WorkKind, pair_id: int) -> bool:
    """Whether a row of this kind and pair is under a live lease."""
    return tx.execute(_leased(), {"pair_id": pair_id, "kind": kind.value}).first() is not None


def unfinished(tx: Transaction, limit: int) -> list[WorkRow]:
    """Rows that are due or that have failed, in the order in which they are due."""
    query = (
        select(work)
        .where(or_(work.c.due_at <= tx.at, work.c.attempts > 0))
        .order_by(work.c.due_at)
        .limit(limit)
    )
    return [_row(row) for row in tx.execute(query)]

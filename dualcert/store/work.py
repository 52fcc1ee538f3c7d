"""The work queue: due steps, their leases and their retries, in one table."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, case, delete, func, or_, select, true, update

from dualcert.errors import LeaseLost
from dualcert.model.work import WorkKind, WorkRow
from dualcert.store.columns import instant, micros
from dualcert.store.database import Transaction
from dualcert.store.tables import lease, work

LEASE_SECONDS = 60
_LEASE = LEASE_SECONDS * 1_000_000


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


def schedule(
    tx: Transaction, kind: WorkKind, pair_id: int, due_at: datetime, *, ca: str = "", target: str = ""
) -> None:
    """Make a step due; one that stands already becomes due sooner, never later.

    A row that somebody holds stays held: every step reads what is wanted again in the transaction that ends it, or the
    row is due at once when it is put back.
    """
    statement = tx.upsert(work).values(
        kind=kind.value, pair_id=pair_id, ca=ca, target=target, due_at=micros(due_at)
    )
    wanted = statement.excluded.due_at
    tx.execute(
        statement.on_conflict_do_update(
            index_elements=["pair_id", "kind", "ca", "target"],
            set_={
                # Of a held row the time is of no use, but that it has changed is what `put_back` goes by.
                "due_at": case(
                    (and_(work.c.due_at < wanted, work.c.owner.is_(None)), work.c.due_at), else_=wanted
                ),
                "waiting_for": None,
            },
        )
    )


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
    due = (
        select(work.c.id)
        .where(_claimable(tx, kinds, pairs), work.c.ca.not_in(list(but_not_at)) if but_not_at else true())
        .order_by(work.c.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return _take(tx, owner, work.c.id.in_(due))


def claim_companions(tx: Transaction, owner: str, target: str, limit: int) -> list[WorkRow]:
    """Take the other due deployments of one target, so that they are switched together."""
    due = (
        select(work.c.id)
        .where(_claimable(tx, (WorkKind.DEPLOYMENT,), None), work.c.target == target)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return _take(tx, owner, work.c.id.in_(due))


def _claimable(
    tx: Transaction, kinds: Collection[WorkKind], pairs: Collection[int] | None
) -> ColumnElement[bool]:
    conditions = [
        work.c.due_at <= tx.at,
        or_(work.c.lease_until.is_(None), work.c.lease_until <= tx.database_now),
        work.c.kind.in_([kind.value for kind in kinds]),
    ]
    if pairs is not None:
        conditions.append(work.c.pair_id.in_(list(pairs)))
    return and_(*conditions)


def _take(tx: Transaction, owner: str, which: ColumnElement[bool]) -> list[WorkRow]:
    rows = tx.execute(
        update(work)
        .where(which)
        .values(owner=owner, lease_until=tx.database_now + _LEASE, fence=work.c.fence + 1)
        .returning(*work.c)
    )
    return [_row(row) for row in rows]


def hold(tx: Transaction, row: WorkRow) -> None:
    """Make sure that the row is still ours before anything is written for it. Raises ``LeaseLost``."""
    found = tx.execute(
        select(work.c.id).where(work.c.id == row.id, work.c.fence == row.fence, work.c.owner == row.owner)
    ).first()
    if found is None:
        raise LeaseLost(f"{row.kind.value} of pair {row.pair_id} is held by another process now")


def finish(tx: Transaction, row: WorkRow) -> None:
    """The step is done: its row goes."""
    tx.execute(delete(work).where(work.c.id == row.id, work.c.fence == row.fence))


def cancel(tx: Transaction, kind: WorkKind, pair_id: int) -> None:
    """A step of a pair has no purpose any more; whoever holds it finds its lease lost."""
    tx.execute(delete(work).where(work.c.pair_id == pair_id, work.c.kind == kind.value))


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


def renew_leases(tx: Transaction, owner: str) -> None:
    """Prolong everything that ``owner`` holds."""
    until = tx.database_now + _LEASE
    tx.execute(update(work).where(work.c.owner == owner).values(lease_until=until))
    tx.execute(update(lease).where(lease.c.owner == owner).values(until=until))


def owners(tx: Transaction) -> list[str]:
    """Who holds anything at this moment."""
    held = select(work.c.owner).where(work.c.owner.is_not(None)).union(select(lease.c.owner))
    return [row.owner for row in tx.execute(held)]


def release_owner(tx: Transaction, owner: str) -> None:
    """Take everything from an owner that is known to be dead."""
    tx.execute(update(work).where(work.c.owner == owner).values(owner=None, lease_until=None))
    tx.execute(delete(lease).where(lease.c.owner == owner))


def of_pairs(
    tx: Transaction, pairs: Collection[int], kinds: Collection[WorkKind] | None = None
) -> list[WorkRow]:
    query = select(work).where(work.c.pair_id.in_(list(pairs)))
    if kinds is not None:
        query = query.where(work.c.kind.in_([kind.value for kind in kinds]))
    return [_row(row) for row in tx.execute(query.order_by(work.c.id))]


def get(tx: Transaction, kind: WorkKind, pair_id: int, *, ca: str = "", target: str = "") -> WorkRow | None:
    row = tx.execute(
        select(work).where(
            work.c.pair_id == pair_id, work.c.kind == kind.value, work.c.ca == ca, work.c.target == target
        )
    ).first()
    return _row(row) if row else None


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
    query = select(func.min(work.c.due_at)).where(
        work.c.due_at <= micros(until),
        work.c.kind.in_([kind.value for kind in kinds]),
        work.c.owner.is_distinct_from(but_not_of),
    )
    if pairs is not None:
        query = query.where(work.c.pair_id.in_(list(pairs)))
    earliest: int | None = tx.execute(query).scalar_one()
    return instant(earliest)


def wake(tx: Transaction, kind: WorkKind, pair_id: int) -> None:
    """Rows of a kind that wait for another row of their pair are due now, or when their holder puts them back."""
    tx.execute(
        update(work)
        .where(work.c.pair_id == pair_id, work.c.kind == kind.value)
        .where(or_(work.c.waiting_for.is_not(None), work.c.owner.is_not(None)))
        .where(work.c.due_at.is_not(None))
        .values(due_at=tx.at, waiting_for=None)
    )


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


def take_lease(tx: Transaction, name: str, owner: str) -> bool:
    """Take or prolong a named lease; False where somebody else holds it."""
    until = tx.database_now + _LEASE
    statement = tx.upsert(lease).values(name=name, owner=owner, until=until)
    result = tx.execute(
        statement.on_conflict_do_update(
            index_elements=["name"],
            set_={"owner": owner, "until": until},
            where=or_(lease.c.owner == owner, lease.c.until <= tx.database_now),
        )
    )
    return result.rowcount == 1


def drop_lease(tx: Transaction, name: str, owner: str) -> None:
    tx.execute(delete(lease).where(lease.c.name == name, lease.c.owner == owner))


def held_by_another(tx: Transaction, kind: WorkKind, pair_id: int) -> bool:
    """Whether a row of this kind and pair is under a live lease."""
    found = tx.execute(
        select(work.c.id).where(
            work.c.pair_id == pair_id, work.c.kind == kind.value, work.c.lease_until > tx.database_now
        )
    ).first()
    return found is not None


def unfinished(tx: Transaction, limit: int) -> list[WorkRow]:
    """Rows that are due or that have failed, in the order in which they are due."""
    query = (
        select(work)
        .where(or_(work.c.due_at <= tx.at, work.c.attempts > 0))
        .order_by(work.c.due_at)
        .limit(limit)
    )
    return [_row(row) for row in tx.execute(query)]

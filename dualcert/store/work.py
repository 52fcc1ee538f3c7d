"""The work queue: due steps, their leases and their retries, in one table."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import (
    BindParameter,
    Delete,
    Insert,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    case,
    delete,
    func,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import Insert as Upsert
from sqlalchemy.sql.dml import ReturningUpdate

from dualcert.errors import LeaseLost
from dualcert.model.work import ANOTHER_STEP, BUDGET, DAY, NO_PAIR, WorkKind, WorkRow
from dualcert.store.columns import micros
from dualcert.store.expressions import upsert
from dualcert.store.leases import is_held
from dualcert.store.pairs import lock
from dualcert.store.statements import for_ids, is_among, is_one_of, prepared
from dualcert.store.tables import Number, work
from dualcert.store.transaction import Transaction
from dualcert.store.workrows import Queue, rows_of

AWAY = (WorkKind.PROMOTION, WorkKind.SIGNAL)
"""Steps that turn a pair away from the certificate that serves, by themselves."""

_WOKEN = "woken"
"""``waiting_for`` of a held row that another step of its pair has moved on for."""


out_of_turn = case((work.c.queue > int(Queue.ORDERS), int(Queue.ORDERS)), else_=work.c.queue)
"""Out of the queue of its CA, if it stands there; it comes in again at its time, at the place that it has then."""


@prepared
def _reorder() -> Update:
    return (
        update(work)
        .where(
            work.c.pair_id == bindparam("of_pair"),
            work.c.kind == WorkKind.ORDER.value,
            work.c.queue > int(Queue.ORDERS),
            not_(is_held),
        )
        .values(queue=out_of_turn, due_at=bindparam("at"))
    )


def reorder(tx: Transaction, pair_id: int) -> None:
    """What a pair serves has changed, or is no good any more: its orders get another place in their CAs' queues."""
    tx.execute(_reorder(), {"of_pair": pair_id, "at": tx.at})


def or_sooner(statement: Upsert) -> Upsert:
    """Rows of work to be inserted: where one stands already, it becomes due sooner, never later."""
    wanted = statement.excluded.due_at
    return statement.on_conflict_do_update(
        index_elements=["pair_id", "kind", "ca", "target"],
        set_={
            # Of a held row the time is of no use, but that it has changed is what `put_back` goes by.
            "due_at": case((and_(work.c.due_at < wanted, not_(is_held)), work.c.due_at), else_=wanted),
            "waiting_for": None,
            "queue": out_of_turn,
        },
    )


@prepared
def _schedule() -> Insert:
    return or_sooner(upsert(work))


def schedule(
    tx: Transaction, kind: WorkKind, pair_id: int, due_at: datetime, *, ca: str = "", target: str = ""
) -> None:
    """Make a step due; one that stands already becomes due sooner, never later.

    A row that somebody holds stays held: every step reads what is wanted again in the transaction that ends it, or the
    row is due at once when it is put back.
    """
    subject = {"kind": kind.value, "pair_id": pair_id, "ca": ca, "target": target}
    queue = Queue.ORDERS if kind is WorkKind.ORDER else Queue.NONE
    tx.execute(_schedule(), {**subject, "due_at": micros(due_at), "queue": int(queue)})
    if due_at <= tx.now:
        tx.made_due.add(pair_id)


@prepared
def _held() -> Select[Any]:
    return (
        select(work.c.id)
        .where(
            work.c.id == bindparam("id"),
            work.c.fence == bindparam("fence"),
            work.c.owner == bindparam("owner"),
        )
        .with_for_update()
    )


def hold(tx: Transaction, row: WorkRow) -> None:
    """Make sure that the row is still ours before anything is written for it. Raises ``LeaseLost``.

    From here on nobody else decides anything for its pair, and what is read now stays as it is.
    """
    if row.pair_id != NO_PAIR:
        lock(tx, [row.pair_id])
    found = tx.execute(_held(), {"id": row.id, "fence": row.fence, "owner": row.owner}).first()
    if found is None:
        raise LeaseLost(f"{row.kind.value} of pair {row.pair_id} is held by another process now")


@prepared
def _finish() -> Delete:
    return delete(work).where(work.c.id == bindparam("row_id"), work.c.fence == bindparam("row_fence"))


def finish(tx: Transaction, row: WorkRow) -> None:
    """The step is done: its row goes."""
    tx.execute(_finish(), {"row_id": row.id, "row_fence": row.fence})


@prepared
def _finish_order(*, primary: bool) -> Delete:
    mine = and_(work.c.id == bindparam("row_id"), work.c.fence == bindparam("row_fence"))
    over = [and_(work.c.kind == WorkKind.REFILL.value, work.c.ca == bindparam("of_ca"))]
    if primary:
        over.append(is_one_of(work.c.kind, [kind.value for kind in (WorkKind.FALLBACK, *AWAY)]))
    return delete(work).where(or_(mine, and_(work.c.pair_id == bindparam("of_pair"), or_(*over))))


def finish_order(tx: Transaction, row: WorkRow, *, primary: bool) -> None:
    """The lineage has another certificate, the ``primary`` one perhaps.

    A refill that is still due was for the one before, a fallback for there being none, and what was to turn the pair
    away from it was for that: they go as well.
    """
    values = {"row_id": row.id, "row_fence": row.fence, "of_pair": row.pair_id, "of_ca": row.ca}
    tx.execute(_finish_order(primary=primary), values)


@prepared
def _reconsider() -> Update:
    mine = (work.c.pair_id == bindparam("of_pair"), is_one_of(work.c.kind, [kind.value for kind in AWAY]))
    return update(work).where(*mine).values(due_at=bindparam("at"))


def reconsider(tx: Transaction, pair_id: int) -> None:
    """The pair has another backup, or serves another certificate: what could not turn it away looks again.

    One that is held, too: it may have looked before.
    """
    if tx.execute(_reconsider(), {"of_pair": pair_id, "at": tx.at}).rowcount:
        tx.made_due.add(pair_id)


@prepared
def _cancel() -> Delete:
    subject = (work.c.pair_id == bindparam("of_pair"), work.c.kind == bindparam("of_kind"))
    return delete(work).where(*subject, work.c.ca == bindparam("of_ca"))


def cancel(tx: Transaction, kind: WorkKind, pair_id: int, *, ca: str = "") -> None:
    """A step of a pair has no purpose any more; whoever holds it finds its lease lost."""
    tx.execute(_cancel(), {"of_pair": pair_id, "of_kind": kind.value, "of_ca": ca})


@prepared
def _put_back(*, waits: bool, failed: bool, keep_lease: bool) -> Update:
    as_claimed = work.c.due_at.is_not_distinct_from(bindparam("as_claimed"))
    new: BindParameter[int] = bindparam("new_due_at", type_=Number)
    ours_goes = or_(as_claimed, and_(new.is_not(None), work.c.due_at > new))
    due_at = case((ours_goes, new), else_=work.c.due_at)
    values: dict[str, Any] = {
        "due_at": case((work.c.waiting_for == _WOKEN, bindparam("at")), else_=due_at) if waits else due_at,
        "reason": bindparam("new_reason"),
        "waiting_for": case((as_claimed, bindparam("new_waiting_for", type_=Text)), else_=None),
        "queue": out_of_turn,
    }
    if failed:
        values["attempts"] = work.c.attempts + 1
        values["since"] = func.coalesce(work.c.since, bindparam("at"))
    if not keep_lease:
        values["owner"] = None
    return (
        update(work)
        .where(work.c.id == bindparam("row_id"), work.c.fence == bindparam("row_fence"))
        .values(values)
    )


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
    waits = waiting_for == ANOTHER_STEP
    values = {
        "row_id": row.id,
        "row_fence": row.fence,
        "as_claimed": micros(row.due_at),
        "new_due_at": micros(due_at),
        "new_reason": reason,
        "new_waiting_for": waiting_for,
    }
    at = {"at": tx.at} if waits or failed else {}
    tx.execute(_put_back(waits=waits, failed=failed, keep_lease=keep_lease), {**values, **at})
    tx.made_due.add(row.pair_id)


@prepared
def _release() -> Update:
    ours = (work.c.id == bindparam("row_id"), work.c.fence == bindparam("row_fence"))
    return update(work).where(*ours).values(owner=None, reason=bindparam("new_reason"))


def release(tx: Transaction, rows: Iterable[WorkRow]) -> None:
    """Let go of rows that nothing happened to; they are due as before. What was waited for is written down."""
    for row in rows:
        tx.execute(_release(), {"row_id": row.id, "row_fence": row.fence, "new_reason": row.reason})


def of_pairs(
    tx: Transaction, pairs: Collection[int], kinds: Collection[WorkKind] | None = None
) -> list[WorkRow]:
    form = partial(_of_pairs, kinds=None if kinds is None else tuple(kinds))
    return rows_of(tx.execute(*for_ids(form, pairs)))


@prepared
def _of_pairs(*, one: bool, kinds: tuple[WorkKind, ...] | None) -> Select[Any]:
    query = select(work).where(is_among(work.c.pair_id, one=one))
    if kinds is not None:
        query = query.where(is_one_of(work.c.kind, [kind.value for kind in kinds]))
    return query.order_by(work.c.id)


@prepared
def _get() -> Select[Any]:
    return select(work).where(
        work.c.pair_id == bindparam("pair_id"),
        work.c.kind == bindparam("kind"),
        work.c.ca == bindparam("ca"),
        work.c.target == bindparam("target"),
    )


def get(tx: Transaction, kind: WorkKind, pair_id: int, *, ca: str = "", target: str = "") -> WorkRow | None:
    subject = {"pair_id": pair_id, "kind": kind.value, "ca": ca, "target": target}
    return next(iter(rows_of(tx.execute(_get(), subject))), None)


@prepared
def _wake() -> ReturningUpdate[Any]:
    free = not_(is_held)
    return (
        update(work)
        .where(
            work.c.pair_id == bindparam("of_pair"),
            work.c.kind == bindparam("of_kind"),
            work.c.due_at.is_not(None),
            or_(and_(work.c.waiting_for != DAY, work.c.waiting_for != BUDGET), is_held),
        )
        .values(
            due_at=case((free, bindparam("at")), else_=work.c.due_at),
            waiting_for=case((free, None), else_=_WOKEN),
        )
        .returning(work.c.waiting_for)
    )


def wake(tx: Transaction, kind: WorkKind, pair_id: int) -> None:
    """Rows of a kind that wait for another row of their pair are due now.

    One that is held is due when its holder puts it back to wait; what it is put back for otherwise is not shortened.
    """
    woken = tx.execute(_wake(), {"of_pair": pair_id, "of_kind": kind.value, "at": tx.at})
    if any(one.waiting_for is None for one in woken):
        tx.made_due.add(pair_id)


def hurry(tx: Transaction, pair_id: int, kinds: Collection[WorkKind], *, spare: Collection[str] = ()) -> None:
    """A person asks: back-off is over and what waited for a person is due, except what waits for one of ``spare``."""
    tx.execute(
        update(work)
        .where(
            work.c.pair_id == pair_id,
            work.c.kind.in_([kind.value for kind in kinds]),
            not_(is_held),
            or_(work.c.due_at.is_(None), work.c.due_at > tx.at, work.c.queue > int(Queue.ORDERS)),
            or_(work.c.waiting_for.is_(None), work.c.waiting_for.not_in(list(spare) or [""])),
        )
        .values(due_at=tx.at, waiting_for=None, queue=out_of_turn)
    )


@prepared
def _leased() -> Select[Any]:
    return select(work.c.id).where(
        work.c.pair_id == bindparam("pair_id"),
        work.c.kind == bindparam("kind"),
        is_held,
    )


def held_by_another(tx: Transaction, kind: WorkKind, pair_id: int) -> bool:
    """Whether a row of this kind and pair is under a live lease."""
    return tx.execute(_leased(), {"pair_id": pair_id, "kind": kind.value}).first() is not None


def unfinished(tx: Transaction, limit: int) -> list[WorkRow]:
    """Rows that are due, that have failed, or that were begun and wait, in the order in which they are due.

    What is held for an incident has no time, and waits for a person who knows it.
    """
    waits = and_(work.c.reason.is_not(None), work.c.due_at.is_not(None))
    query = (
        select(work)
        .where(or_(work.c.due_at <= tx.at, work.c.attempts > 0, waits))
        .order_by(work.c.due_at)
        .limit(limit)
    )
    return rows_of(tx.execute(query))

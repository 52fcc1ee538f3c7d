"""Due rows of work that nobody holds: found, and taken under a lease."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, bindparam, func, or_, select, true, update
from sqlalchemy.sql.dml import ReturningUpdate

from dualcert.model.work import WorkKind, WorkRow
from dualcert.store import work
from dualcert.store.columns import instant, micros
from dualcert.store.leases import LEASE
from dualcert.store.picked import picked
from dualcert.store.statements import Prepared, is_among, is_one_of, prepared
from dualcert.store.tables import work as table
from dualcert.store.transaction import Transaction, database_now


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
    statement, values = _search(_take, tx, kinds, pairs, but_not_at)
    return _taken(tx, owner, statement, {**values, "limit": limit})


def claim_companions(tx: Transaction, owner: str, target: str, limit: int) -> list[WorkRow]:
    """Take the other due deployments of one target, so that they are switched together."""
    form = _Form((WorkKind.DEPLOYMENT,), of_target=True)
    return _taken(tx, owner, _take(form), {"at": tx.at, "of_target": target, "limit": limit})


def claimable(
    tx: Transaction,
    owner: str,
    *,
    kinds: Collection[WorkKind],
    pairs: Collection[int] | None = None,
    but_not_at: Collection[str] = (),
) -> bool:
    """Whether ``claim`` would find anything. To look keeps no writer waiting."""
    statement, values = _search(_look, tx, kinds, pairs, but_not_at)
    return tx.execute(statement, {**values, "new_owner": owner}).first() is not None


class _Form(NamedTuple):
    """What tells one search for due rows from another: each has a text of its own. ``one``: for one pair only."""

    kinds: tuple[WorkKind, ...]
    of_pairs: bool = False
    one: bool = False
    but_not_at: tuple[str, ...] = ()
    of_target: bool = False


def _search(
    build: Callable[[_Form], Prepared],
    tx: Transaction,
    kinds: Collection[WorkKind],
    pairs: Collection[int] | None,
    but_not_at: Collection[str],
) -> tuple[Prepared, dict[str, Any]]:
    form = _Form(tuple(kinds), pairs is not None, pairs is not None and len(pairs) == 1, tuple(but_not_at))
    if pairs is None:
        return build(form), {"at": tx.at}
    ids = next(iter(pairs)) if form.one else list(pairs)
    return build(form), {"at": tx.at, "ids": ids}


@prepared
def _look(form: _Form) -> Select[Any]:
    return select(table.c.id).where(_claimable(form)).limit(1)


@prepared
def _take(form: _Form) -> ReturningUpdate[Any]:
    due = (
        select(table.c.id)
        .where(_claimable(form))
        .order_by(table.c.due_at)
        .limit(bindparam("limit"))
        .with_for_update(skip_locked=True)
        .cte("due")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    return (
        update(table)
        .where(picked(table.c.id, select(due.c.id)))
        .values(owner=bindparam("new_owner"), lease_until=database_now + LEASE, fence=table.c.fence + 1)
        .returning(*table.c)
    )


# A lease that its holder could not renew in time is anybody's but his own: he is at it still.
_free = or_(
    table.c.lease_until.is_(None),
    and_(table.c.lease_until <= database_now, table.c.owner != bindparam("new_owner")),
)


def _claimable(form: _Form) -> ColumnElement[bool]:
    conditions = [
        table.c.due_at <= bindparam("at"),
        _free,
        _of_kind(form),
    ]
    if form.of_pairs:
        conditions.append(is_among(table.c.pair_id, one=form.one))
    conditions += [table.c.ca != name for name in form.but_not_at]
    if form.of_target:
        conditions.append(table.c.target == bindparam("of_target"))
    return and_(*conditions)


def _of_kind(form: _Form) -> ColumnElement[bool]:
    """Of all pairs, said by the kinds that are not wanted: nearly every row is, so it is the time that finds them.

    Told the wanted ones, PostgreSQL looks them all up by kind and sorts them, a hundred thousand for a handful.
    """
    if form.of_pairs or form.of_target:
        return is_one_of(table.c.kind, [kind.value for kind in form.kinds])
    return and_(true(), *(table.c.kind != kind.value for kind in WorkKind if kind not in form.kinds))


def _taken(tx: Transaction, owner: str, statement: Prepared, values: dict[str, Any]) -> list[WorkRow]:
    return [work.row_of(row) for row in tx.execute(statement, {**values, "new_owner": owner})]


@prepared
def _due_before(form: _Form, *, free: bool) -> Select[Any]:
    query = select(func.min(table.c.due_at)).where(
        table.c.due_at <= bindparam("at"),
        _of_kind(form),
        table.c.owner.is_distinct_from(bindparam("but_not_of")),
    )
    if free:
        query = query.where(table.c.owner.is_(None))
    return query.where(is_among(table.c.pair_id, one=form.one)) if form.of_pairs else query


def due_before(
    tx: Transaction,
    until: datetime,
    kinds: Collection[WorkKind],
    pairs: Collection[int] | None,
    *,
    but_not_of: str,
    free: bool = False,
) -> datetime | None:
    """When the earliest row of these kinds is due that one owner does not hold; None where none is before ``until``.

    Rows that others hold count, unless only ``free`` ones are asked for: what they leave behind may be due then.
    """
    statement, values = _search(partial(_due_before, free=free), tx, kinds, pairs, ())
    earliest: int | None = tx.execute(
        statement, {**values, "at": micros(until), "but_not_of": but_not_of}
    ).scalar_one()
    return instant(earliest)

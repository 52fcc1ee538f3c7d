"""Due rows of work that nobody holds: found, and taken under the lease of an engine.

On PostgreSQL what has no owner is taken by the statement that finds it. What has one costs two statements more: he is
asked for again once the row is locked. Whoever began to look before an engine's first claim does not see its lease, and
sees its rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
    update,
)

from dualcert.model.work import WorkKind, WorkRow
from dualcert.store import leases, queue
from dualcert.store.columns import instant, micros
from dualcert.store.leases import is_held
from dualcert.store.picked import ids_of, listed, named, picked
from dualcert.store.statements import Prepared, is_among, is_one_of, prepared
from dualcert.store.tables import work as table
from dualcert.store.transaction import Transaction
from dualcert.store.workrows import Queue, rows_of


def claim(
    tx: Transaction,
    owner: str,
    *,
    kinds: Collection[WorkKind],
    limit: int,
    pairs: Collection[int] | None = None,
    but_not_at: Collection[str] = (),
    but_not_to: Collection[str] = (),
    allowed: queue.Allowed = queue.anything,
    may_take_over: Callable[[str], bool] = lambda _: True,
) -> list[WorkRow]:
    """Take due rows that nobody holds; they are ours as long as our lease is renewed.

    Of all pairs, orders leave the queue of their CA, as far as they are ``allowed`` to; of some pairs, at once. At most
    ``limit`` of each queue, and of all else. Rows of the CAs in ``but_not_at`` and deployments to the targets in
    ``but_not_to`` are left for later. ``may_take_over`` is asked of each whose lease has ended, once that was looked
    up, whether the clock may be believed that told it.
    """
    statement, values = _search(_find_for(tx), tx, kinds, pairs, but_not_at, but_not_to)
    found = tx.execute(statement, {**values, "limit": limit, "new_owner": owner}).all()
    lined_up: Sequence[Any] = ()
    if pairs is None and WorkKind.ORDER in kinds:
        lined_up = queue.front(tx, owner, limit, but_not_at, allowed)
    return _taken(tx, owner, found, may_take_over, lined_up)


def claim_companions(
    tx: Transaction,
    owner: str,
    target: str,
    limit: int,
    may_take_over: Callable[[str], bool] = lambda _: True,
) -> list[WorkRow]:
    """Take the other due deployments of one target, so that they are switched together."""
    form = _Form((WorkKind.DEPLOYMENT,), of_target=True)
    values = {"at": tx.at, "of_target": target, "limit": limit, "new_owner": owner}
    return _taken(tx, owner, tx.execute(_find_for(tx)(form), values).all(), may_take_over)


def claimable(
    tx: Transaction,
    owner: str,
    *,
    kinds: Collection[WorkKind],
    pairs: Collection[int] | None = None,
    but_not_at: Collection[str] = (),
    but_not_to: Collection[str] = (),
    allowed: queue.Allowed = queue.anything,
) -> bool:
    """Whether ``claim`` would find anything, or put an order into a queue. To look keeps no writer waiting."""
    statement, values = _search(_look, tx, kinds, pairs, but_not_at, but_not_to)
    if tx.execute(statement, {**values, "new_owner": owner}).first() is not None:
        return True
    return pairs is None and WorkKind.ORDER in kinds and queue.moves(tx, owner, but_not_at, allowed)


class _Form(NamedTuple):
    """What tells one search for due rows from another: each has a text of its own. ``one``: for one pair only."""

    kinds: tuple[WorkKind, ...]
    of_pairs: bool = False
    one: bool = False
    but_not_at: tuple[str, ...] = ()
    of_target: bool = False
    not_to_all: bool = False


def _search(
    build: Callable[[_Form], Prepared],
    tx: Transaction,
    kinds: Collection[WorkKind],
    pairs: Collection[int] | None,
    but_not_at: Collection[str],
    but_not_to: Collection[str] = (),
) -> tuple[Prepared, dict[str, Any]]:
    form = _Form(
        tuple(kinds),
        pairs is not None,
        pairs is not None and len(pairs) == 1,
        tuple(but_not_at),
        not_to_all=bool(but_not_to),
    )
    values: dict[str, Any] = {"at": tx.at}
    if pairs is not None:
        values["ids"] = next(iter(pairs)) if form.one else list(pairs)
    if but_not_to:
        values["to_none_of"] = json.dumps([*but_not_to])
    return build(form), values


@prepared
def _look(form: _Form) -> Select[Any]:
    return select(table.c.id).where(_claimable(form)).limit(1)


def _find_for(tx: Transaction) -> Callable[[_Form], Prepared]:
    """How claimable rows are found, and locked. Where that takes a while, what has no owner is taken at once."""
    return _find_and_take if tx.others_write else _find


@prepared
def _find(form: _Form) -> Select[Any]:
    return _due(form)


@prepared
def _find_and_take(form: _Form) -> Select[Any]:
    found = _due(form).cte("found").prefix_with("MATERIALIZED")
    ownerless = select(found.c.id).where(found.c.owner.is_(None))
    taken = _become_mine().where(picked(table.c.id, ownerless)).cte("taken")
    return select(found).add_cte(taken)


def _due(form: _Form) -> Select[Any]:
    return (
        select(table, leases.lasts(bindparam("new_owner", type_=Text)))
        .where(_claimable(form))
        .order_by(table.c.due_at)
        .limit(bindparam("limit"))
        .with_for_update(skip_locked=True)
    )


@prepared
def _take() -> Update:
    return _become_mine().where(listed(table.c.id, bindparam("ids", type_=Text)))


def _become_mine() -> Update:
    return update(table).values(owner=bindparam("new_owner"), fence=table.c.fence + 1)


def _claimable(form: _Form) -> ColumnElement[bool]:
    conditions = [
        table.c.due_at <= bindparam("at"),
        queue.free(),
        _of_kind(form),
    ]
    if form.of_pairs:
        conditions.append(is_among(table.c.pair_id, one=form.one))
    elif not form.of_target:
        conditions.append(table.c.queue == int(Queue.NONE))
    conditions += [table.c.ca != name for name in form.but_not_at]
    if form.of_target:
        conditions += [table.c.target == bindparam("of_target"), table.c.target > literal_column("''")]
    if form.not_to_all:
        elsewhere = not_(named(table.c.target, bindparam("to_none_of", type_=Text)))
        conditions.append(or_(table.c.kind != WorkKind.DEPLOYMENT.value, elsewhere))
    return and_(*conditions)


def _of_kind(form: _Form) -> ColumnElement[bool]:
    """Of all pairs, said by the kinds that are not wanted: nearly every row is, so it is the time that finds them.

    Told the wanted ones, PostgreSQL looks them all up by kind and sorts them, a hundred thousand for a handful.
    """
    if form.of_pairs or form.of_target:
        return is_one_of(table.c.kind, [kind.value for kind in form.kinds])
    return and_(true(), *(table.c.kind != kind.value for kind in WorkKind if kind not in form.kinds))


def _taken(
    tx: Transaction,
    owner: str,
    found: Sequence[Any],
    may_take_over: Callable[[str], bool],
    lined_up: Sequence[Any] = (),
) -> list[WorkRow]:
    """Locked rows that may be taken; of those that were ``found``, what had no owner is, where it is taken at once."""
    free = _still_free(tx, [*found, *lined_up])
    left_by = {row.owner for row in free if row.owner is not None}
    spared = {owner for owner in left_by if not may_take_over(owner)}
    if spared:
        free = [row for row in free if row.owner not in spared]
    if free:
        if not free[0].lease_lasts:
            leases.begin(tx, owner)
        taken = {row.id for row in found if row.owner is None} if tx.others_write else ()
        left = [row for row in free if row.id not in taken]
        if left:
            tx.execute(_take(), {"new_owner": owner, "ids": ids_of(tx, left)})
    return rows_of(free, taken_by=owner)


def _still_free(tx: Transaction, found: Sequence[Any]) -> Sequence[Any]:
    """Without what was taken between the first look and the lock, by somebody whose lease that look did not see."""
    if all(row.owner is None for row in found):
        return found
    living = leases.living(tx)
    return [row for row in found if row.owner not in living]


@prepared
def _of_owner() -> Select[Any]:
    return select(table).where(table.c.owner == bindparam("of"))


def of_owner(tx: Transaction, owner: str) -> list[WorkRow]:
    """All that an owner holds. No index knows that: every row is looked at."""
    return rows_of(tx.execute(_of_owner(), {"of": owner}))


@prepared
def _due_before(form: _Form, *, free: bool) -> Select[Any]:
    query = select(func.min(table.c.due_at)).where(
        table.c.due_at <= bindparam("at"),
        _of_kind(form),
        table.c.owner.is_distinct_from(bindparam("but_not_of")),
    )
    if free:
        query = query.where(not_(is_held))
    if form.of_pairs:
        return query.where(is_among(table.c.pair_id, one=form.one))
    return query.where(table.c.queue == bindparam("in_queue"))


def due_before(
    tx: Transaction,
    until: datetime,
    kinds: Collection[WorkKind],
    pairs: Collection[int] | None,
    *,
    but_not_of: str,
    free: bool = False,
    allowed: queue.Allowed = queue.anything,
) -> datetime | None:
    """When the earliest row of these kinds is due that one owner does not hold; None where none is before ``until``.

    Rows that others hold count, unless only ``free`` ones are asked for: what they leave behind may be due then. Of
    those that are in a queue, the first counts, from when on it is ``allowed`` to leave.
    """
    statement, values = _search(partial(_due_before, free=free), tx, kinds, pairs, ())
    values |= {"at": micros(until), "but_not_of": but_not_of}
    if pairs is not None:
        earliest: int | None = tx.execute(statement, values).scalar_one()
        return instant(earliest)
    found = [tx.execute(statement, {**values, "in_queue": one}).scalar_one() for one in _BY_TIME]
    times = [instant(one) for one in found if one is not None]
    if WorkKind.ORDER in kinds:
        times += queue.turns(tx, but_not_of, allowed, free=free)
    return min((one for one in times if one <= until), default=None)


_BY_TIME = (int(Queue.NONE), int(Queue.ORDERS))

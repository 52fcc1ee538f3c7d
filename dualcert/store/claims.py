"""Due rows of work that nobody holds: found, and taken under the lease of an engine.

On PostgreSQL two statements more than it takes: what has an owner is asked for again once it is locked. Whoever began
to look before an engine's first claim does not see its lease, and sees its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, Text, Update, and_, bindparam, func, not_, select, true, update

from dualcert.model.work import WorkKind, WorkRow
from dualcert.store import leases, work
from dualcert.store.columns import instant, micros
from dualcert.store.leases import is_held
from dualcert.store.picked import ids_of, listed
from dualcert.store.statements import Prepared, is_among, is_one_of, prepared
from dualcert.store.tables import work as table
from dualcert.store.transaction import Transaction


def claim(
    tx: Transaction,
    owner: str,
    *,
    kinds: Collection[WorkKind],
    limit: int,
    pairs: Collection[int] | None = None,
    but_not_at: Collection[str] = (),
) -> list[WorkRow]:
    """Take due rows that nobody holds; they are ours as long as our lease is renewed.

    Rows of the CAs in ``but_not_at`` are left for later.
    """
    statement, values = _search(_find, tx, kinds, pairs, but_not_at)
    return _taken(tx, owner, statement, {**values, "limit": limit})


def claim_companions(tx: Transaction, owner: str, target: str, limit: int) -> list[WorkRow]:
    """Take the other due deployments of one target, so that they are switched together."""
    form = _Form((WorkKind.DEPLOYMENT,), of_target=True)
    return _taken(tx, owner, _find(form), {"at": tx.at, "of_target": target, "limit": limit})


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
def _find(form: _Form) -> Select[Any]:
    return (
        select(table)
        .where(_claimable(form))
        .order_by(table.c.due_at)
        .limit(bindparam("limit"))
        .with_for_update(skip_locked=True)
    )


@prepared
def _take() -> Update:
    return (
        update(table)
        .where(listed(table.c.id, bindparam("ids", type_=Text)))
        .values(owner=bindparam("new_owner"), fence=table.c.fence + 1)
    )


# What its holder could not renew in time is anybody's but his own: he is at it still.
_free = and_(not_(is_held), table.c.owner.is_distinct_from(bindparam("new_owner")))


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
    found = tx.execute(statement, {**values, "new_owner": owner}).all()
    free = _still_free(tx, found)
    if free:
        leases.begin(tx, owner)
        tx.execute(_take(), {"new_owner": owner, "ids": ids_of(tx, free)})
    return [work.row_of(row, taken_by=owner) for row in free]


def _still_free(tx: Transaction, found: Sequence[Any]) -> Sequence[Any]:
    """Without what was taken between the first look and the lock, by somebody whose lease that look did not see."""
    if all(row.owner is None for row in found):
        return found
    living = leases.living(tx)
    return [row for row in found if row.owner not in living]


@prepared
def _due_before(form: _Form, *, free: bool) -> Select[Any]:
    query = select(func.min(table.c.due_at)).where(
        table.c.due_at <= bindparam("at"),
        _of_kind(form),
        table.c.owner.is_distinct_from(bindparam("but_not_of")),
    )
    if free:
        query = query.where(not_(is_held))
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

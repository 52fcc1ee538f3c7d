"""The TXT values that orders need, written down before they are published and until they are gone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    Delete,
    Insert,
    Select,
    Text,
    Update,
    bindparam,
    delete,
    func,
    select,
    update,
)

from dualcert.model.order import ChallengeRecord, Order, RecordState
from dualcert.store.columns import instant, micros
from dualcert.store.expressions import upsert
from dualcert.store.picked import listed, listing
from dualcert.store.statements import for_ids, is_among, is_one_of, prepared
from dualcert.store.tables import challenge_record
from dualcert.store.transaction import Transaction

_SUBJECT = (
    "order_id",
    "pair_id",
    "ca",
    "dns",
    "zone",
    "record",
    "value",
    "identifier",
    "authorization",
    "challenge",
)


def _record(row: Any) -> ChallengeRecord:
    return ChallengeRecord(
        id=row.id,
        order_id=row.order_id,
        pair_id=row.pair_id,
        ca=row.ca,
        dns=row.dns,
        zone=row.zone,
        record=row.record,
        value=row.value,
        identifier=row.identifier,
        authorization=row.authorization,
        challenge=row.challenge,
        state=RecordState(row.state),
        since=instant(row.since),
    )


@prepared
def _remember() -> Insert:
    statement = upsert(challenge_record)
    names = (*_SUBJECT, "state", "since")
    return statement.on_conflict_do_update(
        index_elements=["record", "value"], set_={name: statement.excluded[name] for name in names}
    )


def remember(tx: Transaction, order: Order, dns: str, values: Sequence[dict[str, str]]) -> None:
    """Write down TXT values before they are published.

    Each has zone, record, value, identifier, authorization and challenge. A value that an earlier order left (a CA
    may hand out one order twice) belongs to this one from now on, and is published again.
    """
    for value in values:
        row = {
            **value,
            "order_id": order.id,
            "pair_id": order.pair_id,
            "ca": order.ca,
            "dns": dns,
            "state": RecordState.REMEMBERED.value,
            "since": tx.at,
        }
        tx.execute(_remember(), row)


@prepared
def _records(*, of_pair: bool, of_order: bool, states: tuple[RecordState, ...]) -> Select[Any]:
    query = select(challenge_record).order_by(challenge_record.c.id)
    if of_pair:
        query = query.where(challenge_record.c.pair_id == bindparam("pair_id"))
    if of_order:
        query = query.where(challenge_record.c.order_id == bindparam("order_id"))
    if states:
        query = query.where(is_one_of(challenge_record.c.state, [state.value for state in states]))
    return query


def records(
    tx: Transaction,
    *,
    pair_id: int | None = None,
    order_id: int | None = None,
    states: Collection[RecordState] = (),
) -> list[ChallengeRecord]:
    query = _records(of_pair=pair_id is not None, of_order=order_id is not None, states=tuple(states))
    return [_record(row) for row in tx.execute(query, {"pair_id": pair_id, "order_id": order_id})]


def unpublished(tx: Transaction, pair_id: int) -> list[ChallengeRecord]:
    """Values of a pair that not every server shows yet, as far as is known."""
    return records(tx, pair_id=pair_id, states=(RecordState.REMEMBERED, RecordState.ADDED))


@prepared
def _values_at(*, one: bool) -> Select[Any]:
    live = [
        RecordState.ADDED.value,
        RecordState.PUBLISHED.value,
        RecordState.ANSWERED.value,
        RecordState.SPENT.value,
    ]
    return (
        select(challenge_record.c.record, func.count().label("number"))
        .where(is_among(challenge_record.c.record, one=one), is_one_of(challenge_record.c.state, live))
        .group_by(challenge_record.c.record)
    )


def values_at(tx: Transaction, names: Collection[str]) -> dict[str, int]:
    """How many values of ours stand, or are about to, at each of the owner names, of whichever pair."""
    return {row.record: int(row.number) for row in tx.execute(*for_ids(_values_at, names))}


@prepared
def _waiting_at(*, one: bool) -> Select[Any]:
    remembered = challenge_record.c.state == RecordState.REMEMBERED.value
    return (
        select(challenge_record.c.pair_id)
        .where(is_among(challenge_record.c.record, one=one), remembered)
        .distinct()
        .order_by(challenge_record.c.pair_id)
    )


def waiting_at(tx: Transaction, names: Collection[str]) -> list[int]:
    """The pairs that have values for these owner names which have not gone out yet."""
    return [row.pair_id for row in tx.execute(*for_ids(_waiting_at, names))]


@prepared
def _set_state(only: tuple[RecordState, ...]) -> Update:
    return update(challenge_record).where(
        listed(challenge_record.c.id, bindparam("records", type_=Text)),
        is_one_of(challenge_record.c.state, [state.value for state in only]),
    )


def set_state(
    tx: Transaction,
    ids: Collection[int],
    state: RecordState,
    *,
    only: Collection[RecordState] = tuple(RecordState),
) -> int:
    """Move records on; those that are in none of ``only`` stay. Returns how many moved."""
    if not ids:
        return 0
    values = {"records": listing(tx, ids), "state": state.value, "since": tx.at}
    return int(tx.execute(_set_state(tuple(only)), values).rowcount)


@prepared
def _spend() -> Update:
    return update(challenge_record).where(challenge_record.c.order_id == bindparam("of_order"))


def spend(tx: Transaction, order_id: int) -> int:
    """Every value of an order is to be withdrawn. Returns how many there are."""
    result = tx.execute(_spend(), {"of_order": order_id, "state": RecordState.SPENT.value, "since": tx.at})
    return int(result.rowcount)


@prepared
def _in_use(*, one: bool) -> Select[Any]:
    return select(challenge_record.c.record, challenge_record.c.value).where(
        is_among(challenge_record.c.record, one=one), challenge_record.c.state != RecordState.SPENT.value
    )


def spend_again(tx: Transaction, subjects: Collection[ChallengeRecord]) -> int:
    """Remember those of the values anew, to be withdrawn, that no order needs any more. Returns how many."""
    if not subjects:
        return 0
    rows = tx.execute(*for_ids(_in_use, {one.record for one in subjects}))
    in_use = {(row.record, row.value) for row in rows}
    late = [one for one in subjects if (one.record, one.value) not in in_use]
    for one in late:
        row = {name: getattr(one, name) for name in _SUBJECT}
        statement = upsert(challenge_record).values(**row, state=RecordState.SPENT.value, since=tx.at)
        tx.execute(statement.on_conflict_do_update(index_elements=["record", "value"], set_={"since": tx.at}))
    return len(late)


@prepared
def _needed() -> Select[Any]:
    return select(func.count()).where(
        challenge_record.c.pair_id == bindparam("pair_id"),
        challenge_record.c.state != RecordState.SPENT.value,
    )


def needed(tx: Transaction, pair_id: int) -> int:
    """How many values of the pair are still in use."""
    return int(tx.execute(_needed(), {"pair_id": pair_id}).scalar_one())


@prepared
def _forget() -> Delete:
    return delete(challenge_record).where(
        listed(challenge_record.c.id, bindparam("records", type_=Text)),
        challenge_record.c.state == RecordState.SPENT.value,
        challenge_record.c.since <= bindparam("as_read"),
    )


def forget(tx: Transaction, withdrawn: Collection[ChallengeRecord]) -> None:
    """Withdrawn: the rows go, unless an order has taken the value over, or it was spent again, since they were read."""
    if withdrawn:
        as_read = micros(max(one.since for one in withdrawn))
        records = listing(tx, [one.id for one in withdrawn])
        tx.execute(_forget(), {"records": records, "as_read": as_read})

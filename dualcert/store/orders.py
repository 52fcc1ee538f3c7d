"""Issuances, the orders that fill them, and the TXT values that orders need."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    Delete,
    Insert,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningInsert

from dualcert.errors import LeaseLost
from dualcert.model.certificate import WrappedKey
from dualcert.model.order import OPEN_STEPS, ChallengeRecord, Order, OrderStep, RecordState
from dualcert.model.pair import Lineage
from dualcert.model.work import WorkKind
from dualcert.store.columns import instant, micros
from dualcert.store.expressions import upsert
from dualcert.store.leases import is_held
from dualcert.store.picked import listed, listing
from dualcert.store.statements import for_ids, is_among, is_one_of, prepared
from dualcert.store.tables import acme_order, challenge_record, issuance, public_key, work, wrapped_key
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
_OPEN = [step.value for step in OPEN_STEPS]


@prepared
def _open_issuance() -> ReturningInsert[Any]:
    return insert(issuance).returning(issuance.c.id)


def open_issuance(tx: Transaction, pair_id: int, cause: str) -> int:
    values = {"pair_id": pair_id, "cause": cause, "opened_at": tx.at}
    return int(tx.execute(_open_issuance(), values).scalar_one())


@prepared
def _last_issuance() -> Select[Any]:
    return select(func.max(issuance.c.id)).where(issuance.c.pair_id == bindparam("pair_id"))


def last_issuance(tx: Transaction, pair_id: int) -> int | None:
    found = tx.execute(_last_issuance(), {"pair_id": pair_id}).scalar_one()
    return None if found is None else int(found)


def _order(row: Any) -> Order:
    return Order(
        id=row.id,
        issuance_id=row.issuance_id,
        pair_id=row.pair_id,
        lineage_id=row.lineage_id,
        ca=row.ca,
        step=OrderStep(row.step),
        names=tuple(row.names.split("\n")),
        spki=row.spki,
        csr=row.csr,
        url=row.url,
        finalize=row.finalize,
        authorizations=tuple((row.authorizations or "").split()),
        created_at=instant(row.created_at),
    )


@prepared
def _keep_public_key() -> Insert:
    return insert(public_key).inline()


@prepared
def _keep_wrapped_key() -> Insert:
    return insert(wrapped_key).inline()


@prepared
def _begin() -> ReturningInsert[Any]:
    return insert(acme_order).returning(acme_order.c.id)


def begin(
    tx: Transaction, lineage: Lineage, issuance_id: int, names: Sequence[str], csr: bytes, key: WrappedKey
) -> Order:
    """Write down an order before it leaves: the wrapped key, the hash of its public key for ever, the signed CSR."""
    made_for = {"pair_id": lineage.pair_id, "ca": lineage.ca, "issuance_id": issuance_id, "created_at": tx.at}
    tx.execute(_keep_public_key(), {"spki": key.spki, **made_for})
    tx.execute(
        _keep_wrapped_key(),
        {
            "spki": key.spki,
            "domain": key.domain,
            "key_id": key.key_id,
            "wrapped": key.wrapped,
            "proved_at": tx.at,
        },
    )
    number = tx.execute(
        _begin(),
        {
            "lineage_id": lineage.id,
            "step": OrderStep.PLACING.value,
            "names": "\n".join(names),
            "spki": key.spki,
            "csr": csr,
            **made_for,
        },
    ).scalar_one()
    return Order(
        id=int(number),
        issuance_id=issuance_id,
        pair_id=lineage.pair_id,
        lineage_id=lineage.id,
        ca=lineage.ca,
        step=OrderStep.PLACING,
        names=tuple(names),
        spki=key.spki,
        csr=csr,
        url=None,
        finalize=None,
        authorizations=(),
        created_at=tx.now,
    )


@prepared
def _open_order() -> Select[Any]:
    return (
        select(acme_order)
        .where(
            acme_order.c.pair_id == bindparam("pair_id"),
            acme_order.c.ca == bindparam("ca"),
            is_one_of(acme_order.c.step, _OPEN),
        )
        .order_by(acme_order.c.id.desc())
        .limit(1)
    )


def open_order(tx: Transaction, pair_id: int, ca: str) -> Order | None:
    """The order under way at a CA, if there is one."""
    row = tx.execute(_open_order(), {"pair_id": pair_id, "ca": ca}).first()
    return _order(row) if row else None


@prepared
def _update(*, after: OrderStep | None = None) -> Update:
    mine = update(acme_order).where(acme_order.c.id == bindparam("order_id"))
    return mine if after is None else mine.where(acme_order.c.step == after.value)


def _go_on(tx: Transaction, order_id: int, after: OrderStep, **values: str) -> None:
    if tx.execute(_update(after=after), {"order_id": order_id, **values}).rowcount != 1:
        raise LeaseLost(f"order {order_id} has ended, or another process has moved it on")


def placed(tx: Transaction, order_id: int, url: str, finalize: str, authorizations: Sequence[str]) -> None:
    """The CA has taken it. Raises ``LeaseLost`` where it was given up meanwhile."""
    answer = {"url": url, "finalize": finalize, "authorizations": "\n".join(authorizations)}
    _go_on(tx, order_id, OrderStep.PLACING, step=OrderStep.PLACED.value, **answer)


def finalizing(tx: Transaction, order_id: int) -> None:
    """Its CSR is about to leave. Raises ``LeaseLost`` where it was given up meanwhile: then it must not."""
    _go_on(tx, order_id, OrderStep.PLACED, step=OrderStep.FINALIZING.value)


def set_step(tx: Transaction, order_id: int, step: OrderStep, error: str | None = None) -> None:
    tx.execute(_update(), {"order_id": order_id, "step": step.value, "error": error})


@prepared
def _unanswered() -> Select[Any]:
    known = exists().where(challenge_record.c.order_id == acme_order.c.id).correlate(acme_order)
    answered = exists().where(
        acme_order.c.pair_id == work.c.pair_id,
        acme_order.c.ca == work.c.ca,
        or_(
            acme_order.c.step == OrderStep.FINALIZING.value,
            and_(acme_order.c.step == OrderStep.PLACED.value, known),
        ),
    )
    moving = or_(work.c.due_at <= bindparam("at"), is_held)
    return select(func.count()).where(
        work.c.pair_id == bindparam("pair_id"), work.c.kind == WorkKind.ORDER.value, and_(moving, ~answered)
    )


def unanswered(tx: Transaction, pair_id: int) -> int:
    """How many orders of the pair are being placed now whose values the CA has not told yet."""
    return int(tx.execute(_unanswered(), {"at": tx.at, "pair_id": pair_id}).scalar_one())


# --- challenge records -----------------------------------------------------------------------------------


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

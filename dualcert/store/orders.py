"""Issuances, the orders that fill them, and the TXT values that orders need."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    Delete,
    Insert,
    Select,
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

from dualcert.model.certificate import WrappedKey
from dualcert.model.order import OPEN_STEPS, ChallengeRecord, Order, OrderStep, RecordState
from dualcert.model.pair import Lineage
from dualcert.model.work import WorkKind
from dualcert.store.columns import instant, micros
from dualcert.store.database import Transaction, database_now, upsert
from dualcert.store.tables import acme_order, challenge_record, issuance, public_key, work, wrapped_key

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


def open_issuance(tx: Transaction, pair_id: int, cause: str) -> int:
    result = tx.execute(insert(issuance), {"pair_id": pair_id, "cause": cause, "opened_at": tx.at})
    return int(result.inserted_primary_key[0])  # type: ignore[index]


@cache
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


def begin(
    tx: Transaction, lineage: Lineage, issuance_id: int, names: Sequence[str], csr: bytes, key: WrappedKey
) -> Order:
    """Write down an order before it leaves: the wrapped key, the hash of its public key for ever, the signed CSR."""
    made_for = {"pair_id": lineage.pair_id, "ca": lineage.ca, "issuance_id": issuance_id, "created_at": tx.at}
    tx.execute(insert(public_key), {"spki": key.spki, **made_for})
    tx.execute(
        insert(wrapped_key),
        {
            "spki": key.spki,
            "domain": key.domain,
            "key_id": key.key_id,
            "wrapped": key.wrapped,
            "proved_at": tx.at,
        },
    )
    result = tx.execute(
        insert(acme_order),
        {
            "lineage_id": lineage.id,
            "step": OrderStep.PLACING.value,
            "names": "\n".join(names),
            "spki": key.spki,
            "csr": csr,
            **made_for,
        },
    )
    return Order(
        id=int(result.inserted_primary_key[0]),  # type: ignore[index]
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


@cache
def _open_order() -> Select[Any]:
    return (
        select(acme_order)
        .where(
            acme_order.c.pair_id == bindparam("pair_id"),
            acme_order.c.ca == bindparam("ca"),
            acme_order.c.step.in_(_OPEN),
        )
        .order_by(acme_order.c.id.desc())
        .limit(1)
    )


def open_order(tx: Transaction, pair_id: int, ca: str) -> Order | None:
    """The order under way at a CA, if there is one."""
    row = tx.execute(_open_order(), {"pair_id": pair_id, "ca": ca}).first()
    return _order(row) if row else None


@cache
def _update() -> Update:
    return update(acme_order).where(acme_order.c.id == bindparam("order_id"))


def placed(tx: Transaction, order_id: int, url: str, finalize: str, authorizations: Sequence[str]) -> None:
    answer = {"url": url, "finalize": finalize, "authorizations": "\n".join(authorizations)}
    tx.execute(_update(), {"order_id": order_id, "step": OrderStep.PLACED.value, **answer})


def set_step(tx: Transaction, order_id: int, step: OrderStep, error: str | None = None) -> None:
    tx.execute(_update(), {"order_id": order_id, "step": step.value, "error": error})


@cache
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
    moving = or_(work.c.due_at <= bindparam("at"), work.c.lease_until > database_now)
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


@cache
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


@cache
def _records(*, of_pair: bool, of_order: bool, in_states: bool) -> Select[Any]:
    query = select(challenge_record).order_by(challenge_record.c.id)
    if of_pair:
        query = query.where(challenge_record.c.pair_id == bindparam("pair_id"))
    if of_order:
        query = query.where(challenge_record.c.order_id == bindparam("order_id"))
    if in_states:
        query = query.where(challenge_record.c.state.in_(bindparam("states", expanding=True)))
    return query


def records(
    tx: Transaction,
    *,
    pair_id: int | None = None,
    order_id: int | None = None,
    states: Collection[RecordState] = (),
) -> list[ChallengeRecord]:
    query = _records(of_pair=pair_id is not None, of_order=order_id is not None, in_states=bool(states))
    parameters = {"pair_id": pair_id, "order_id": order_id, "states": [state.value for state in states]}
    return [_record(row) for row in tx.execute(query, parameters)]


@cache
def _values_at() -> Select[Any]:
    live = [
        RecordState.ADDED.value,
        RecordState.PUBLISHED.value,
        RecordState.ANSWERED.value,
        RecordState.SPENT.value,
    ]
    return (
        select(challenge_record.c.record, func.count().label("number"))
        .where(
            challenge_record.c.record.in_(bindparam("names", expanding=True)),
            challenge_record.c.state.in_(live),
        )
        .group_by(challenge_record.c.record)
    )


def values_at(tx: Transaction, names: Collection[str]) -> dict[str, int]:
    """How many values of ours stand, or are about to, at each of the owner names, of whichever pair."""
    return {row.record: int(row.number) for row in tx.execute(_values_at(), {"names": list(names)})}


@cache
def _set_state() -> Update:
    return update(challenge_record).where(
        challenge_record.c.id.in_(bindparam("ids", expanding=True)),
        challenge_record.c.state.in_(bindparam("only", expanding=True)),
    )


def set_state(
    tx: Transaction,
    ids: Iterable[int],
    state: RecordState,
    *,
    only: Collection[RecordState] = tuple(RecordState),
) -> int:
    """Move records on; those that are in none of ``only`` stay. Returns how many moved."""
    numbers = list(ids)
    if not numbers:
        return 0
    which = {"ids": numbers, "only": [one.value for one in only]}
    result = tx.execute(_set_state(), {**which, "state": state.value, "since": tx.at})
    return int(result.rowcount)


@cache
def _spend() -> Update:
    return update(challenge_record).where(challenge_record.c.order_id == bindparam("of_order"))


def spend(tx: Transaction, order_id: int) -> int:
    """Every value of an order is to be withdrawn. Returns how many there are."""
    result = tx.execute(_spend(), {"of_order": order_id, "state": RecordState.SPENT.value, "since": tx.at})
    return int(result.rowcount)


def spend_again(tx: Transaction, subjects: Collection[ChallengeRecord]) -> int:
    """Remember those of the values anew, to be withdrawn, that no order needs any more. Returns how many."""
    query = select(challenge_record.c.record, challenge_record.c.value).where(
        challenge_record.c.record.in_({one.record for one in subjects}),
        challenge_record.c.state != RecordState.SPENT.value,
    )
    in_use = {(row.record, row.value) for row in tx.execute(query)}
    late = [one for one in subjects if (one.record, one.value) not in in_use]
    for one in late:
        row = {name: getattr(one, name) for name in _SUBJECT}
        statement = tx.upsert(challenge_record).values(**row, state=RecordState.SPENT.value, since=tx.at)
        tx.execute(statement.on_conflict_do_update(index_elements=["record", "value"], set_={"since": tx.at}))
    return len(late)


@cache
def _needed() -> Select[Any]:
    return select(func.count()).where(
        challenge_record.c.pair_id == bindparam("pair_id"),
        challenge_record.c.state != RecordState.SPENT.value,
    )


def needed(tx: Transaction, pair_id: int) -> int:
    """How many values of the pair are still in use."""
    return int(tx.execute(_needed(), {"pair_id": pair_id}).scalar_one())


@cache
def _forget() -> Delete:
    return delete(challenge_record).where(
        challenge_record.c.id.in_(bindparam("ids", expanding=True)),
        challenge_record.c.state == RecordState.SPENT.value,
        challenge_record.c.since <= bindparam("as_read"),
    )


def forget(tx: Transaction, withdrawn: Collection[ChallengeRecord]) -> None:
    """Withdrawn: the rows go, unless an order has taken the value over, or it was spent again, since they were read."""
    as_read = micros(max((one.since for one in withdrawn), default=tx.now))
    tx.execute(_forget(), {"ids": [one.id for one in withdrawn], "as_read": as_read})

"""Issuances, the orders that fill them, and the TXT values that orders need."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import and_, delete, exists, func, insert, or_, select, update

from dualcert.model.certificate import WrappedKey
from dualcert.model.order import OPEN_STEPS, ChallengeRecord, Order, OrderStep, RecordState
from dualcert.model.pair import Lineage
from dualcert.model.work import WorkKind
from dualcert.store.columns import instant, micros
from dualcert.store.database import Transaction
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
    result = tx.execute(insert(issuance).values(pair_id=pair_id, cause=cause, opened_at=tx.at))
    return int(result.inserted_primary_key[0])  # type: ignore[index]


def last_issuance(tx: Transaction, pair_id: int) -> int | None:
    query = select(func.max(issuance.c.id)).where(issuance.c.pair_id == pair_id)
    found = tx.execute(query).scalar_one()
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
    tx.execute(insert(public_key).values(spki=key.spki, **made_for))
    tx.execute(
        insert(wrapped_key).values(
            spki=key.spki, domain=key.domain, key_id=key.key_id, wrapped=key.wrapped, proved_at=tx.at
        )
    )
    result = tx.execute(
        insert(acme_order).values(
            lineage_id=lineage.id,
            step=OrderStep.PLACING.value,
            names="\n".join(names),
            spki=key.spki,
            csr=csr,
            **made_for,
        )
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


def open_order(tx: Transaction, pair_id: int, ca: str) -> Order | None:
    """The order under way at a CA, if there is one."""
    row = tx.execute(
        select(acme_order)
        .where(acme_order.c.pair_id == pair_id, acme_order.c.ca == ca, acme_order.c.step.in_(_OPEN))
        .order_by(acme_order.c.id.desc())
        .limit(1)
    ).first()
    return _order(row) if row else None


def placed(tx: Transaction, order_id: int, url: str, finalize: str, authorizations: Sequence[str]) -> None:
    tx.execute(
        update(acme_order)
        .where(acme_order.c.id == order_id)
        .values(
            step=OrderStep.PLACED.value, url=url, finalize=finalize, authorizations="\n".join(authorizations)
        )
    )


def set_step(tx: Transaction, order_id: int, step: OrderStep, error: str | None = None) -> None:
    tx.execute(update(acme_order).where(acme_order.c.id == order_id).values(step=step.value, error=error))


def unanswered(tx: Transaction, pair_id: int) -> int:
    """How many orders of the pair are being placed now and have not been answered by their CA yet."""
    answered = exists().where(
        acme_order.c.pair_id == work.c.pair_id,
        acme_order.c.ca == work.c.ca,
        acme_order.c.step.in_([OrderStep.PLACED.value, OrderStep.FINALIZING.value]),
    )
    moving = or_(work.c.due_at <= tx.at, work.c.lease_until > tx.database_now)
    query = select(func.count()).where(
        work.c.pair_id == pair_id, work.c.kind == WorkKind.ORDER.value, and_(moving, ~answered)
    )
    return int(tx.execute(query).scalar_one())


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
        statement = tx.upsert(challenge_record).values(**row)
        tx.execute(statement.on_conflict_do_update(index_elements=["record", "value"], set_=row))


def records(
    tx: Transaction,
    *,
    pair_id: int | None = None,
    order_id: int | None = None,
    states: Collection[RecordState] = (),
) -> list[ChallengeRecord]:
    query = select(challenge_record).order_by(challenge_record.c.id)
    if pair_id is not None:
        query = query.where(challenge_record.c.pair_id == pair_id)
    if order_id is not None:
        query = query.where(challenge_record.c.order_id == order_id)
    if states:
        query = query.where(challenge_record.c.state.in_([state.value for state in states]))
    return [_record(row) for row in tx.execute(query)]


def values_at(tx: Transaction, names: Collection[str]) -> dict[str, int]:
    """How many values of ours stand, or are about to, at each of the owner names, of whichever pair."""
    live = [
        RecordState.ADDED.value,
        RecordState.PUBLISHED.value,
        RecordState.ANSWERED.value,
        RecordState.SPENT.value,
    ]
    query = (
        select(challenge_record.c.record, func.count().label("number"))
        .where(challenge_record.c.record.in_(list(names)), challenge_record.c.state.in_(live))
        .group_by(challenge_record.c.record)
    )
    return {row.record: int(row.number) for row in tx.execute(query)}


def set_state(
    tx: Transaction,
    ids: Iterable[int],
    state: RecordState,
    *,
    only: Collection[RecordState] = tuple(RecordState),
) -> int:
    """Move records on; those that are in none of ``only`` stay. Returns how many moved."""
    result = tx.execute(
        update(challenge_record)
        .where(
            challenge_record.c.id.in_(list(ids)), challenge_record.c.state.in_([one.value for one in only])
        )
        .values(state=state.value, since=tx.at)
    )
    return int(result.rowcount)


def spend(tx: Transaction, order_id: int) -> int:
    """Every value of an order is to be withdrawn. Returns how many there are."""
    result = tx.execute(
        update(challenge_record)
        .where(challenge_record.c.order_id == order_id)
        .values(state=RecordState.SPENT.value, since=tx.at)
    )
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


def needed(tx: Transaction, pair_id: int) -> int:
    """How many values of the pair are still in use."""
    query = select(func.count()).where(
        challenge_record.c.pair_id == pair_id, challenge_record.c.state != RecordState.SPENT.value
    )
    return int(tx.execute(query).scalar_one())


def forget(tx: Transaction, withdrawn: Collection[ChallengeRecord]) -> None:
    """Withdrawn: the rows go, unless an order has taken the value over, or it was spent again, since they were read."""
    tx.execute(
        delete(challenge_record).where(
            challenge_record.c.id.in_([one.id for one in withdrawn]),
            challenge_record.c.state == RecordState.SPENT.value,
            challenge_record.c.since <= micros(max((one.since for one in withdrawn), default=tx.now)),
        )
    )

"""Issuances, and the orders that fill them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    Insert,
    Select,
    Update,
    and_,
    bindparam,
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
from dualcert.model.order import OPEN_STEPS, Order, OrderStep
from dualcert.model.pair import Lineage
from dualcert.model.work import WorkKind
from dualcert.store.columns import instant
from dualcert.store.leases import is_held
from dualcert.store.statements import is_one_of, prepared
from dualcert.store.tables import acme_order, challenge_record, issuance, public_key, work, wrapped_key
from dualcert.store.transaction import Transaction

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

"""What was put where, and what was seen there."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Insert,
    Select,
    Update,
    and_,
    bindparam,
    func,
    insert,
    or_,
    select,
    update,
)

from dualcert.model.deployment import How, Observation
from dualcert.store.columns import instant
from dualcert.store.expressions import upsert
from dualcert.store.statements import for_ids, is_among, prepared
from dualcert.store.tables import deployment, observation
from dualcert.store.transaction import Transaction


def _of(*columns: str) -> tuple[ColumnElement[bool], ...]:
    """Each of the columns equal to the parameter of its name behind ``of_``."""
    return tuple(deployment.c[name] == bindparam(f"of_{name}") for name in columns)


@prepared
def _there() -> Select[Any]:
    this = _of("pair_id", "target", "certificate_id", "epoch")
    return select(deployment.c.id).where(*this, deployment.c.left_at.is_(None))


@prepared
def _arrive() -> Insert:
    return insert(deployment).inline()


def arrived(tx: Transaction, pair_id: int, target: str, epoch: int, certificate_id: int) -> bool:
    """A certificate with its key is at a target from now on. False where that was recorded before."""
    this = {"pair_id": pair_id, "target": target, "epoch": epoch, "certificate_id": certificate_id}
    known = tx.execute(_there(), {f"of_{name}": value for name, value in this.items()}).first()
    if known is None:
        tx.execute(_arrive(), {**this, "arrived_at": tx.at})
    return known is None


@prepared
def _verified() -> Update:
    this = _of("pair_id", "target", "certificate_id", "epoch")
    return update(deployment).where(*this, deployment.c.verified_at.is_(None))


def verified(tx: Transaction, pair_id: int, target: str, epoch: int, certificate_id: int, how: How) -> bool:
    """The certificate was seen to be served at the target in this epoch; the first time counts.

    False where that was recorded before.
    """
    this = {
        "of_pair_id": pair_id,
        "of_target": target,
        "of_epoch": epoch,
        "of_certificate_id": certificate_id,
    }
    return tx.execute(_verified(), {**this, "verified_at": tx.at, "how": how.value}).rowcount > 0


@prepared
def _verified_in() -> Select[Any]:
    before = deployment.alias("before")
    last = select(func.coalesce(func.max(before.c.id), 0)).where(
        before.c.pair_id == deployment.c.pair_id,
        before.c.target == deployment.c.target,
        before.c.certificate_id == bindparam("after"),
    )
    later = deployment.c.id > last.correlate(deployment).scalar_subquery()
    return (
        select(deployment.c.target, func.min(deployment.c.verified_at).label("at"))
        .where(*_of("pair_id", "epoch"), later, deployment.c.verified_at.is_not(None))
        .group_by(deployment.c.target)
    )


def verified_in(tx: Transaction, pair_id: int, epoch: int, *, after: int = 0) -> dict[str, datetime]:
    """When each target was first seen to serve what this epoch serves; targets never seen so are missing.

    ``after``: a certificate that has been replaced in its place. A target counts when it was seen with what came there
    later; neither with that one, nor with what it had replaced itself.
    """
    rows = tx.execute(_verified_in(), {"of_pair_id": pair_id, "of_epoch": epoch, "after": after})
    return {row.target: instant(row.at) for row in rows}


def _replaced() -> tuple[ColumnElement[bool], ...]:
    """What came before the certificate, in the order of ``dualcert.ports.deploy.Version``, and has not left."""
    this: BindParameter[int] = bindparam("this")
    epoch: BindParameter[int] = bindparam("in_epoch")
    before = and_(deployment.c.epoch == epoch, deployment.c.certificate_id < this)
    earlier = or_(deployment.c.epoch < epoch, before)
    other = deployment.c.certificate_id != this
    return (*_of("pair_id", "target"), earlier, other, deployment.c.left_at.is_(None))


def _after(pair_id: int, target: str, epoch: int, certificate_id: int) -> dict[str, Any]:
    return {"of_pair_id": pair_id, "of_target": target, "in_epoch": epoch, "this": certificate_id}


@prepared
def _replaced_there() -> Select[Any]:
    return select(deployment.c.id).where(*_replaced())


def replaced_there(tx: Transaction, pair_id: int, target: str, epoch: int, certificate_id: int) -> bool:
    """Whether a key that the certificate has replaced in this epoch has not left the target yet."""
    return tx.execute(_replaced_there(), _after(pair_id, target, epoch, certificate_id)).first() is not None


@prepared
def _leave() -> Update:
    return update(deployment).where(*_replaced())


def replaced_left(tx: Transaction, pair_id: int, target: str, epoch: int, certificate_id: int) -> None:
    """The keys that the certificate has replaced in this epoch have left the target; what came later has not."""
    tx.execute(_leave(), {**_after(pair_id, target, epoch, certificate_id), "left_at": tx.at})


@prepared
def _observe() -> Insert:
    statement = upsert(observation)
    seen = {name: statement.excluded[name] for name in ("sha256", "how", "at", "problem")}
    return statement.on_conflict_do_update(index_elements=["pair_id", "target"], set_=seen)


def observe(
    tx: Transaction, pair_id: int, target: str, sha256: bytes | None, how: How, problem: str | None = None
) -> None:
    """What a look has shown just now; the last look counts."""
    seen = {"sha256": sha256, "how": how.value, "at": tx.at, "problem": problem}
    tx.execute(_observe(), {"pair_id": pair_id, "target": target, **seen})


@prepared
def _held() -> Select[Any]:
    here = (observation.c[name] == bindparam(f"of_{name}") for name in ("pair_id", "target", "sha256"))
    came = select(func.max(deployment.c.arrived_at)).where(
        *_of("pair_id", "target", "certificate_id", "epoch")
    )
    return select(observation.c.at).where(*here, observation.c.at >= came.scalar_subquery())


def is_held(
    tx: Transaction, pair_id: int, target: str, epoch: int, certificate_id: int, sha256: bytes
) -> bool:
    """Whether the last look has shown the certificate, and was taken since it came to the target in this epoch."""
    values = {"of_pair_id": pair_id, "of_target": target, "of_sha256": sha256}
    this = {"of_epoch": epoch, "of_certificate_id": certificate_id}
    return tx.execute(_held(), {**values, **this}).first() is not None


@prepared
def _observations(*, one: bool) -> Select[Any]:
    return (
        select(observation)
        .where(is_among(observation.c.pair_id, one=one))
        .order_by(observation.c.pair_id, observation.c.target)
    )


def observations(tx: Transaction, pairs: Collection[int]) -> list[Observation]:
    rows = tx.execute(*for_ids(_observations, pairs))
    return [
        Observation(row.pair_id, row.target, row.sha256, How(row.how), instant(row.at), row.problem)
        for row in rows
    ]


def was_deployed(tx: Transaction, pair_id: int, certificate_id: int) -> bool:
    """Whether the certificate ever was at a target of its pair."""
    query = select(deployment.c.id).where(
        deployment.c.pair_id == pair_id, deployment.c.certificate_id == certificate_id
    )
    return tx.execute(query).first() is not None

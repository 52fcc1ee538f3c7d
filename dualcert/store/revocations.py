"""Revocations that are wanted, and those that are certain."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Select, bindparam, delete, select

from dualcert.model.signal import Reason, RevocationRequest
from dualcert.store.columns import instant, micros
from dualcert.store.expressions import upsert
from dualcert.store.statements import prepared
from dualcert.store.tables import revocation, revocation_request
from dualcert.store.transaction import Transaction


def want(
    tx: Transaction,
    certificate_id: int,
    pair_id: int,
    reason: Reason,
    revoke_by: datetime,
    *,
    unverified: bool,
) -> None:
    """Ask for a revocation; asked again, the later words count."""
    values = {
        "pair_id": pair_id,
        "reason": reason.value,
        "requested_at": tx.at,
        "revoke_by": micros(revoke_by),
        "unverified": unverified,
        "actor": tx.actor,
    }
    statement = upsert(revocation_request).values(certificate_id=certificate_id, **values)
    tx.execute(statement.on_conflict_do_update(index_elements=["certificate_id"], set_=values))


def _request(row: Any) -> RevocationRequest:
    return RevocationRequest(
        certificate_id=row.certificate_id,
        pair_id=row.pair_id,
        reason=Reason(row.reason),
        requested_at=instant(row.requested_at),
        revoke_by=instant(row.revoke_by),
        unverified=bool(row.unverified),
        actor=row.actor,
    )


@prepared
def _wanted() -> Select[Any]:
    return select(revocation_request).where(revocation_request.c.pair_id == bindparam("of_pair"))


def wanted(tx: Transaction, pair_id: int) -> list[RevocationRequest]:
    return [_request(row) for row in tx.execute(_wanted(), {"of_pair": pair_id})]


def is_wanted(tx: Transaction, certificate_id: int) -> bool:
    """Whether the certificate's revocation has been asked for and is not answered yet."""
    query = select(revocation_request.c.certificate_id).where(
        revocation_request.c.certificate_id == certificate_id
    )
    return tx.execute(query).first() is not None


def settle(tx: Transaction, certificate_id: int) -> None:
    """The request is answered, or void."""
    tx.execute(delete(revocation_request).where(revocation_request.c.certificate_id == certificate_id))


def revoked(tx: Transaction, certificate_id: int, reason: str, source: str) -> bool:
    """The certificate is revoked for certain; ``source`` says how that is known. False where it was known before."""
    statement = upsert(revocation).values(
        certificate_id=certificate_id, at=tx.at, reason=reason, source=source
    )
    return tx.execute(statement.on_conflict_do_nothing()).rowcount == 1


def is_revoked(tx: Transaction, certificate_id: int) -> bool:
    query = select(revocation.c.certificate_id).where(revocation.c.certificate_id == certificate_id)
    return tx.execute(query).first() is not None

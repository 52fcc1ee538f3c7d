"""What was put where, and what was seen there."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import func, insert, select, update

from dualcert.model.deployment import How, Observation
from dualcert.store.columns import instant
from dualcert.store.database import Transaction
from dualcert.store.tables import deployment, observation


def arrived(tx: Transaction, pair_id: int, target: str, epoch: int, certificate_id: int) -> bool:
    """A certificate with its key is at a target from now on. False where that was recorded before."""
    known = tx.execute(
        select(deployment.c.id).where(
            deployment.c.pair_id == pair_id,
            deployment.c.target == target,
            deployment.c.certificate_id == certificate_id,
            deployment.c.epoch == epoch,
            deployment.c.left_at.is_(None),
        )
    ).first()
    if known is None:
        tx.execute(
            insert(deployment).values(
                pair_id=pair_id, target=target, epoch=epoch, certificate_id=certificate_id, arrived_at=tx.at
            )
        )
    return known is None


def verified(tx: Transaction, pair_id: int, target: str, epoch: int, certificate_id: int) -> None:
    """The certificate was seen to be served at the target in this epoch."""
    tx.execute(
        update(deployment)
        .where(
            deployment.c.pair_id == pair_id,
            deployment.c.target == target,
            deployment.c.certificate_id == certificate_id,
            deployment.c.epoch == epoch,
            deployment.c.verified_at.is_(None),
        )
        .values(verified_at=tx.at)
    )


def verified_in(tx: Transaction, pair_id: int, epoch: int) -> dict[str, datetime]:
    """When each target was first seen to serve what this epoch serves; targets never seen so are missing."""
    rows = tx.execute(
        select(deployment.c.target, func.min(deployment.c.verified_at).label("at"))
        .where(
            deployment.c.pair_id == pair_id,
            deployment.c.epoch == epoch,
            deployment.c.verified_at.is_not(None),
        )
        .group_by(deployment.c.target)
    )
    return {row.target: instant(row.at) for row in rows}


def others_there(tx: Transaction, pair_id: int, target: str, certificate_id: int) -> bool:
    """Whether another certificate's key of the pair has not left the target yet."""
    query = select(deployment.c.id).where(
        deployment.c.pair_id == pair_id,
        deployment.c.target == target,
        deployment.c.certificate_id != certificate_id,
        deployment.c.left_at.is_(None),
    )
    return tx.execute(query).first() is not None


def others_left(tx: Transaction, pair_id: int, target: str, certificate_id: int) -> None:
    """Every other certificate's key of the pair has left the target."""
    tx.execute(
        update(deployment)
        .where(
            deployment.c.pair_id == pair_id,
            deployment.c.target == target,
            deployment.c.certificate_id != certificate_id,
            deployment.c.left_at.is_(None),
        )
        .values(left_at=tx.at)
    )


def observe(
    tx: Transaction, pair_id: int, target: str, sha256: bytes | None, how: How, problem: str | None = None
) -> None:
    """What a look has shown just now; the last look counts."""
    values = {"sha256": sha256, "how": how.value, "at": tx.at, "problem": problem}
    statement = tx.upsert(observation).values(pair_id=pair_id, target=target, **values)
    tx.execute(statement.on_conflict_do_update(index_elements=["pair_id", "target"], set_=values))


def observations(tx: Transaction, pairs: Collection[int]) -> list[Observation]:
    rows = tx.execute(
        select(observation)
        .where(observation.c.pair_id.in_(list(pairs)))
        .order_by(observation.c.pair_id, observation.c.target)
    )
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

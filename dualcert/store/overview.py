"""What a line about a pair needs, for many pairs in one statement."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, exists, or_, select

from dualcert.store.database import Transaction
from dualcert.store.promotion import standby_usable
from dualcert.store.tables import (
    blocked_key,
    certificate,
    lineage,
    observation,
    pair,
    pair_state,
    pair_target,
    revocation,
)


class Line(NamedTuple):
    """A pair and its two certificates; what there is none of is None. Times in microseconds, flags as 0 and 1.

    ``..._bad``: revoked, or its key blocked. ``usable``: the standby may serve. ``served``: every target was last
    seen with the serving certificate, and nothing is wrong there.
    """

    id: int
    name: str
    primary: str
    backup: str
    serving_until: int | None
    serving_bad: int
    standby_until: int | None
    standby_bad: int
    usable: int
    served: int


def page(tx: Transaction, after: str, limit: int) -> list[Line]:
    """Lines in the order of the pairs' names, from the one after ``after``."""
    rows = tx.execute(_query(tx.at).where(pair.c.name > after).order_by(pair.c.name).limit(limit)).all()
    return [Line._make(row) for row in rows]


def _query(at: int) -> Select[Any]:
    primary, backup = lineage.alias("primary_lineage"), lineage.alias("backup_lineage")
    serving, standby = certificate.alias("serving"), certificate.alias("standby")
    elsewhere = (
        exists()
        .select_from(
            pair_target.outerjoin(
                observation,
                and_(
                    observation.c.pair_id == pair_target.c.pair_id,
                    observation.c.target == pair_target.c.target,
                ),
            )
        )
        .where(
            pair_target.c.pair_id == pair.c.id,
            or_(
                observation.c.sha256.is_distinct_from(serving.c.sha256),
                observation.c.problem.is_not(None),
            ),
        )
        .correlate(pair, serving)
    )
    return (
        select(
            pair.c.id,
            pair.c.name,
            primary.c.ca,
            backup.c.ca,
            serving.c.not_after,
            _bad(serving),
            standby.c.not_after,
            _bad(standby),
            standby_usable(at),
            ~elsewhere,
        )
        .select_from(pair)
        .join(pair_state, pair_state.c.pair_id == pair.c.id)
        .join(primary, primary.c.id == pair_state.c.primary_lineage)
        .join(backup, backup.c.id == pair_state.c.backup_lineage)
        .outerjoin(serving, serving.c.id == pair_state.c.serving)
        .outerjoin(standby, standby.c.id == pair_state.c.standby)
    )


def _bad(held: Any) -> ColumnElement[bool]:
    revoked = exists().where(revocation.c.certificate_id == held.c.id).correlate(held)
    blocked = exists().where(blocked_key.c.spki == held.c.spki).correlate(held)
    return or_(revoked, blocked)

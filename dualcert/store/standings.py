"""CAs that get no orders, or whose certificates are not to be relied on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, Update, bindparam, select, update

from dualcert.model.work import FROZEN, WorkKind
from dualcert.store.columns import instant, micros
from dualcert.store.expressions import upsert
from dualcert.store.statements import prepared
from dualcert.store.tables import ca_standing, work
from dualcert.store.transaction import Transaction


@dataclass(frozen=True)
class CaStanding:
    """``distrust_after``: only certificates that begin later are not relied on; None for all of them."""

    ca: str
    frozen_at: datetime | None = None
    frozen_by: str | None = None
    distrusted_at: datetime | None = None
    distrusted_by: str | None = None
    distrust_after: datetime | None = None

    @property
    def closed(self) -> str | None:
        """Why no order goes there, in words; None where orders do."""
        if self.distrusted_at is not None:
            return f"CA {self.ca} is distrusted since {self.distrusted_at:%Y-%m-%d %H:%M} UTC, by {self.distrusted_by}"
        if self.frozen_at is not None:
            return f"CA {self.ca} is frozen since {self.frozen_at:%Y-%m-%d %H:%M} UTC, by {self.frozen_by}"
        return None

    @property
    def reopening(self) -> str:
        """What is typed so that orders go there again, where they do not."""
        return f"distrust {self.ca} --lift" if self.distrusted_at is not None else f"thaw {self.ca}"


@prepared
def _get() -> Select[Any]:
    return select(ca_standing).where(ca_standing.c.ca == bindparam("of_ca"))


def get(tx: Transaction, ca: str) -> CaStanding:
    row = tx.execute(_get(), {"of_ca": ca}).first()
    if row is None:
        return CaStanding(ca)
    return CaStanding(
        ca=ca,
        frozen_at=instant(row.frozen_at),
        frozen_by=row.frozen_by,
        distrusted_at=instant(row.distrusted_at),
        distrusted_by=row.distrusted_by,
        distrust_after=instant(row.distrust_after),
    )


def freeze(tx: Transaction, ca: str) -> None:
    _set(tx, ca, frozen_at=tx.at, frozen_by=tx.actor)


def thaw(tx: Transaction, ca: str) -> None:
    _set(tx, ca, frozen_at=None, frozen_by=None)


def distrust(tx: Transaction, ca: str, after: datetime | None) -> None:
    _set(tx, ca, distrusted_at=tx.at, distrusted_by=tx.actor, distrust_after=micros(after))


def trust(tx: Transaction, ca: str) -> None:
    _set(tx, ca, distrusted_at=None, distrusted_by=None, distrust_after=None)


def _set(tx: Transaction, ca: str, **values: object) -> None:
    statement = upsert(ca_standing).values(ca=ca, **values)
    tx.execute(statement.on_conflict_do_update(index_elements=["ca"], set_=values))


def counts(standing: CaStanding, not_before: datetime) -> bool:
    """Whether a certificate of the CA, which began then, may be relied on; in SQL ``fitness.distrusted`` says it."""
    if standing.distrusted_at is None:
        return True
    return standing.distrust_after is not None and not_before <= standing.distrust_after


# --- orders that wait ------------------------------------------------------------------------------------


@prepared
def _waiting() -> Select[Any]:
    return (
        select(work.c.id, work.c.pair_id)
        .where(
            work.c.id > bindparam("after"),
            work.c.kind == WorkKind.ORDER.value,
            work.c.ca == bindparam("of_ca"),
            work.c.waiting_for == FROZEN,
        )
        .order_by(work.c.id)
        .limit(bindparam("limit"))
    )


@prepared
def _due_now() -> Update:
    return update(work).where(
        work.c.id == bindparam("row_id"), work.c.waiting_for == FROZEN, work.c.owner.is_(None)
    )


def wake(tx: Transaction, ca: str, after: int, limit: int) -> int | None:
    """Orders that waited for the CA are due now, so many behind a number; the last one's number, None at the end."""
    found = tx.execute(_waiting(), {"after": after, "of_ca": ca, "limit": limit}).all()
    for row in found:
        tx.execute(_due_now(), {"row_id": row.id, "due_at": tx.at, "waiting_for": None})
        tx.made_due.add(row.pair_id)
    return found[-1].id if found else None

"""Who holds what, and until when, by the database's own clock."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CompoundSelect, Insert, bindparam, delete, or_, select, update

from dualcert.store.database import Transaction, database_now, upsert
from dualcert.store.statements import prepared
from dualcert.store.tables import lease, work

LEASE_SECONDS = 60
LEASE = LEASE_SECONDS * 1_000_000
"""In microseconds, as the database counts."""


def renew(tx: Transaction, owner: str) -> None:
    """Prolong everything that ``owner`` holds."""
    until = database_now + LEASE
    tx.execute(update(work).where(work.c.owner == owner).values(lease_until=until))
    tx.execute(update(lease).where(lease.c.owner == owner).values(until=until))


@prepared
def _owners() -> CompoundSelect[Any]:
    return select(work.c.owner).where(work.c.owner.is_not(None)).union(select(lease.c.owner))


def owners(tx: Transaction) -> list[str]:
    """Who holds anything at this moment."""
    return [row.owner for row in tx.execute(_owners())]


def release_owner(tx: Transaction, owner: str) -> None:
    """Take everything from an owner that is known to be dead."""
    tx.execute(update(work).where(work.c.owner == owner).values(owner=None, lease_until=None))
    tx.execute(delete(lease).where(lease.c.owner == owner))


@prepared
def _take() -> Insert:
    statement = upsert(lease)
    return statement.values(
        name=bindparam("name"), owner=bindparam("owner"), until=database_now + LEASE
    ).on_conflict_do_update(
        index_elements=["name"],
        set_={"owner": statement.excluded.owner, "until": statement.excluded.until},
        where=or_(lease.c.owner == statement.excluded.owner, lease.c.until <= database_now),
    )


def take(tx: Transaction, name: str, owner: str) -> bool:
    """Take or prolong a named lease; False where somebody else holds it."""
    return tx.execute(_take(), {"name": name, "owner": owner}).rowcount == 1


def drop(tx: Transaction, name: str, owner: str) -> None:
    tx.execute(delete(lease).where(lease.c.name == name, lease.c.owner == owner))

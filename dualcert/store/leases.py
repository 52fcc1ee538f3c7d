"""Who holds what, and until when, by the database's own clock."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    CompoundSelect,
    Delete,
    Insert,
    Update,
    bindparam,
    delete,
    or_,
    select,
    update,
)

from dualcert.store.picked import picked
from dualcert.store.statements import prepared
from dualcert.store.tables import lease, work
from dualcert.store.transaction import Transaction, database_now, upsert

LEASE_SECONDS = 60
LEASE = LEASE_SECONDS * 1_000_000
"""In microseconds, as the database counts."""


def _of(column: Column[Any]) -> ColumnElement[bool]:
    """The rows of an owner, but not those that somebody is writing at this moment.

    Who takes many rows at once must not wait for one while he holds another: its writer may wait for that.
    """
    table = column.table
    held = select(column).where(table.c.owner == bindparam("of")).with_for_update(skip_locked=True)
    return picked(column, held)


@prepared
def _renew_work() -> Update:
    return update(work).where(_of(work.c.id)).values(lease_until=database_now + LEASE)


@prepared
def _renew_leases() -> Update:
    return update(lease).where(_of(lease.c.name)).values(until=database_now + LEASE)


def renew(tx: Transaction, owner: str) -> None:
    """Prolong everything that ``owner`` holds; what is being written at this moment has its turn the next time."""
    tx.execute(_renew_work(), {"of": owner})
    tx.execute(_renew_leases(), {"of": owner})


@prepared
def _owners() -> CompoundSelect[Any]:
    return select(work.c.owner).where(work.c.owner.is_not(None)).union(select(lease.c.owner))


def owners(tx: Transaction) -> list[str]:
    """Who holds anything at this moment."""
    return [row.owner for row in tx.execute(_owners())]


def release_owner(tx: Transaction, owner: str) -> None:
    """Take everything from an owner that is known to be dead."""
    tx.execute(_release_work(), {"of": owner})
    tx.execute(_release_leases(), {"of": owner})


@prepared
def _release_work() -> Update:
    return update(work).where(_of(work.c.id)).values(owner=None, lease_until=None)


@prepared
def _release_leases() -> Delete:
    return delete(lease).where(_of(lease.c.name))


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

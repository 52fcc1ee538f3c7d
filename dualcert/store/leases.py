"""Who holds what, and until when, by the database's own clock.

An engine has one lease for all rows of work that it holds, so that a claim writes nothing but the rows, and to prolong
them is one row's update. What names an owner without such a lease is nobody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Delete,
    Insert,
    Label,
    Select,
    Update,
    and_,
    bindparam,
    case,
    delete,
    func,
    literal_column,
    or_,
    select,
    update,
)

from dualcert.model.lease import LEASE_SECONDS
from dualcert.store.expressions import database_now, upsert
from dualcert.store.picked import picked
from dualcert.store.statements import prepared
from dualcert.store.tables import lease, work
from dualcert.store.transaction import Transaction

LEASE = LEASE_SECONDS * 1_000_000
"""In microseconds, as the database counts."""

_LONG_ENOUGH = LEASE // 2

_ENGINE = "engine:"
_of_an_engine = lease.c.name == literal_column(f"'{_ENGINE}'").concat(lease.c.owner)
_has_ended = and_(_of_an_engine, lease.c.until <= database_now)
_at_work = select(lease.c.owner).where(_of_an_engine, lease.c.until > database_now)

is_held: ColumnElement[bool] = and_(work.c.owner.is_not(None), picked(work.c.owner, _at_work))
"""Whether somebody who lives holds a row of work; never null. The living are looked up once for all rows."""


def _of_owner() -> ColumnElement[bool]:
    """An owner's leases, but not those that somebody is writing at this moment.

    Who takes several rows at once must not wait for one while he holds another: its writer may wait for that.
    """
    held = select(lease.c.name).where(lease.c.owner == bindparam("of")).with_for_update(skip_locked=True)
    return picked(lease.c.name, held)


# --- engines -----------------------------------------------------------------------------------------------


def lasts(owner: BindParameter[str]) -> Label[bool | None]:
    """Whether an engine's lease has half its life before it: a claim need not prolong it. Null where it has none.

    One that ends in more than a minute is of a time at which this machine's clock stood elsewhere: that is prolonged.
    """
    name = literal_column(f"'{_ENGINE}'").concat(owner)
    long_enough = and_(lease.c.until > database_now + _LONG_ENOUGH, lease.c.until <= database_now + LEASE)
    return select(long_enough).where(lease.c.name == name).label("lease_lasts")


def begin(tx: Transaction, owner: str) -> None:
    """What ``owner`` holds is his for a minute from now on."""
    tx.execute(_take(), {"name": _ENGINE + owner, "owner": owner})


def renew(tx: Transaction, owner: str, *, at_work: bool = True) -> None:
    """Prolong everything that ``owner`` holds; a named lease that is being written has its turn the next time.

    Who could not do so in time, and was forgotten meanwhile, has again what nobody took. ``at_work``: he may hold rows.
    """
    if at_work:
        begin(tx, owner)
    tx.execute(_renew(), {"of": owner})


@prepared
def _renew() -> Update:
    return update(lease).where(_of_owner()).values(until=database_now + LEASE)


def end(tx: Transaction, owner: str) -> None:
    """The engine holds nothing any more."""
    drop(tx, _ENGINE + owner, owner)


@prepared
def _living() -> Select[Any]:
    return _at_work


def living(tx: Transaction) -> set[str]:
    """Whose rows are held at this moment."""
    return {row.owner for row in tx.execute(_living())}


@dataclass(frozen=True)
class Holder:
    """``ended``: his lease as an engine has. ``silent_for``: how long ago he last took or prolonged any."""

    ended: bool
    silent_for: timedelta


def owners(tx: Transaction) -> list[str]:
    """Who has a lease of any kind, or had one that nobody has taken away yet."""
    return list(known(tx))


def known(tx: Transaction) -> dict[str, Holder]:
    """The same, and what is known of each."""
    return {
        row.owner: Holder(bool(row.ended), timedelta(microseconds=max(0, row.silent_for)))
        for row in tx.execute(_owners())
    }


@prepared
def _owners() -> Select[Any]:
    ended = func.max(case((_has_ended, 1), else_=0)).label("ended")
    silent_for = (database_now - (func.max(lease.c.until) - LEASE)).label("silent_for")
    return select(lease.c.owner, ended, silent_for).group_by(lease.c.owner).order_by(lease.c.owner)


def release_owner(tx: Transaction, owner: str) -> None:
    """Take everything from an owner that is known to be dead."""
    tx.execute(_release(), {"of": owner})


@prepared
def _release() -> Delete:
    return delete(lease).where(_of_owner())


def forget_ended(tx: Transaction) -> None:
    """Engines that ended without a word, on another machine perhaps: what they held is anybody's already."""
    tx.execute(_forget_ended())


@prepared
def _forget_ended() -> Delete:
    ended = select(lease.c.name).where(_has_ended).with_for_update(skip_locked=True)
    return delete(lease).where(picked(lease.c.name, ended))


# --- leases that have names --------------------------------------------------------------------------------


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
    """Give a named lease back; nothing happens where somebody else has it by now."""
    tx.execute(_drop(), {"of_name": name, "of": owner})


@prepared
def _drop() -> Delete:
    return delete(lease).where(lease.c.name == bindparam("of_name"), lease.c.owner == bindparam("of"))

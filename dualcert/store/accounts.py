"""Our accounts at CAs, and what was recorded of a CA when it was first used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, func, select, update

from dualcert.model.certificate import WrappedKey
from dualcert.model.order import OrderStep
from dualcert.model.work import PERSON, WorkKind
from dualcert.store.columns import instant
from dualcert.store.expressions import upsert
from dualcert.store.statements import prepared
from dualcert.store.tables import account, acme_order, lineage, work
from dualcert.store.transaction import Transaction


@dataclass(frozen=True)
class StoredAccount:
    """``url`` is None until the CA has answered; ``key`` signs every request there.

    ``contact`` is what was sent last with ``account update``, ``deactivated_at`` when we ended the account.
    ``next_key`` is set while a key change is under way: the CA may know that key already.
    """

    ca: str
    directory: str
    key: WrappedKey
    url: str | None
    caa_identities: frozenset[str]
    created_at: datetime | None = None
    contact: tuple[str, ...] | None = None
    deactivated_at: datetime | None = None
    next_key: WrappedKey | None = None


@prepared
def _at() -> Select[Any]:
    return select(account).where(account.c.ca == bindparam("ca"))


def get(tx: Transaction, ca: str) -> StoredAccount | None:
    row = tx.execute(_at(), {"ca": ca}).first()
    return None if row is None else _account(row)


@prepared
def _of_pair() -> Select[Any]:
    open_ones = select(lineage.c.ca).where(
        lineage.c.pair_id == bindparam("pair_id"), lineage.c.retired_at.is_(None)
    )
    return select(account).where(account.c.ca.in_(open_ones))


def of_pair(tx: Transaction, pair_id: int) -> dict[str, StoredAccount]:
    """The accounts at the CAs of a pair's open lineages, by CA; where there is none yet, its CA is missing."""
    return {row.ca: _account(row) for row in tx.execute(_of_pair(), {"pair_id": pair_id})}


def _account(row: Any) -> StoredAccount:
    key = WrappedKey(row.spki, row.domain, row.key_id, row.wrapped)
    coming = None
    if row.next_spki is not None:
        coming = WrappedKey(row.next_spki, row.domain, row.next_key_id, row.next_wrapped)
    return StoredAccount(
        ca=row.ca,
        directory=row.directory,
        key=key,
        url=row.url,
        caa_identities=frozenset(row.caa_identities.split()),
        created_at=instant(row.created_at),
        contact=None if row.contact is None else tuple(row.contact.split()),
        deactivated_at=instant(row.deactivated_at),
        next_key=coming,
    )


def create_or_get(tx: Transaction, mine: StoredAccount) -> StoredAccount:
    """Write an account's key down before the CA hears of it; where one stands already, that one counts."""
    known = get(tx, mine.ca)
    if known is not None:
        return known
    made = tx.execute(
        upsert(account)
        .values(
            ca=mine.ca,
            directory=mine.directory,
            domain=mine.key.domain,
            spki=mine.key.spki,
            key_id=mine.key.key_id,
            wrapped=mine.key.wrapped,
            url=mine.url,
            caa_identities=" ".join(sorted(mine.caa_identities)),
            created_at=tx.at,
        )
        .on_conflict_do_nothing()
    )
    # Another may have been faster between the look and the writing.
    return mine if made.rowcount == 1 else get(tx, mine.ca) or mine


def set_url(tx: Transaction, ca: str, url: str) -> None:
    """The CA has answered: this is where the account is, and it may be used."""
    tx.execute(update(account).where(account.c.ca == ca).values(url=url, deactivated_at=None))


def set_contact(tx: Transaction, ca: str, contact: Sequence[str]) -> None:
    tx.execute(update(account).where(account.c.ca == ca).values(contact=" ".join(contact)))


def deactivate(tx: Transaction, ca: str) -> None:
    """Nothing speaks for this account any more."""
    tx.execute(
        update(account)
        .where(account.c.ca == ca, account.c.deactivated_at.is_(None))
        .values(deactivated_at=tx.at)
    )


def begin_anew(tx: Transaction, old: StoredAccount, key: WrappedKey) -> bool:
    """Give a CA's account that is over another key, under which it is to be registered; the old key is forgotten.

    False where the account is another by now.
    """
    return _changed(
        tx,
        old,
        spki=key.spki,
        key_id=key.key_id,
        wrapped=key.wrapped,
        url=None,
        contact=None,
        deactivated_at=None,
        created_at=tx.at,
        next_spki=None,
        next_key_id=None,
        next_wrapped=None,
    )


def _changed(tx: Transaction, old: StoredAccount, *conditions: ColumnElement[bool], **values: Any) -> bool:
    mine = update(account).where(account.c.ca == old.ca, account.c.spki == old.key.spki, *conditions)
    return tx.execute(mine.values(**values)).rowcount == 1


# --- another key for the same account --------------------------------------------------------------------


def want_key(tx: Transaction, old: StoredAccount, key: WrappedKey) -> bool:
    """Write down the key that the account is to have, before the CA hears of it; False where one stands already."""
    none_yet = account.c.next_spki.is_(None)
    return _changed(tx, old, none_yet, next_spki=key.spki, next_key_id=key.key_id, next_wrapped=key.wrapped)


def take_key(tx: Transaction, old: StoredAccount, key: WrappedKey) -> bool:
    """The CA has taken the key: it signs from now on, and the old one is forgotten. False where that was so before."""
    # From column to column: the key may have been wrapped anew meanwhile.
    mine = update(account).where(
        account.c.ca == old.ca, account.c.spki == old.key.spki, account.c.next_spki == key.spki
    )
    change = mine.values(
        spki=account.c.next_spki,
        key_id=account.c.next_key_id,
        wrapped=account.c.next_wrapped,
        next_spki=None,
        next_key_id=None,
        next_wrapped=None,
    )
    return tx.execute(change).rowcount == 1


def drop_key(tx: Transaction, old: StoredAccount) -> bool:
    """The CA has refused the key that was to come. False where another one is to come by now."""
    this = account.c.next_spki == (old.next_key.spki if old.next_key else None)
    return _changed(tx, old, this, next_spki=None, next_key_id=None, next_wrapped=None)


# --- what hangs on an account ----------------------------------------------------------------------------


def between_challenges(tx: Transaction, ca: str) -> int:
    """How many orders at a CA are under way whose challenges hang on the account's key."""
    orders = (
        select(func.count())
        .select_from(work)
        .join(acme_order, (acme_order.c.pair_id == work.c.pair_id) & (acme_order.c.ca == work.c.ca))
        .where(
            work.c.kind == WorkKind.ORDER.value,
            work.c.ca == ca,
            acme_order.c.step.in_([OrderStep.PLACING.value, OrderStep.PLACED.value]),
        )
    )
    return int(tx.execute(orders).scalar_one())


def lineages_at(tx: Transaction, ca: str) -> int:
    """How many open lineages a CA has."""
    open_ones = select(func.count()).where(lineage.c.ca == ca, lineage.c.retired_at.is_(None))
    return int(tx.execute(open_ones).scalar_one())


def wake(tx: Transaction, ca: str) -> int:
    """The account is well again: orders at this CA that waited for a person go on; how many those are."""
    waiting = update(work).where(
        work.c.kind == WorkKind.ORDER.value,
        work.c.ca == ca,
        work.c.waiting_for == PERSON,
        work.c.owner.is_(None),
    )
    return int(tx.execute(waiting.values(due_at=tx.at, waiting_for=None)).rowcount)

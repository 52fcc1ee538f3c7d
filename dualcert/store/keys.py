"""Wrapped private keys as a whole: under which KEK they lie, when they go, and that they are gone then."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    Update,
    and_,
    bindparam,
    delete,
    exists,
    func,
    not_,
    or_,
    select,
    text,
    union,
    update,
)
from sqlalchemy.exc import DBAPIError

from dualcert.errors import StoreUnavailable
from dualcert.model.certificate import WrappedKey
from dualcert.model.order import OrderStep
from dualcert.store.columns import instant, micros
from dualcert.store.database import Store
from dualcert.store.expressions import database_now
from dualcert.store.picked import there_is
from dualcert.store.statements import prepared
from dualcert.store.tables import (
    account,
    acme_order,
    certificate,
    pair,
    pair_state,
    public_key,
    revocation_request,
    wrapped_key,
)
from dualcert.store.transaction import Transaction

_AT_ONCE = 500
"""How many values one IN takes: SQLite of old allows 999 parameters."""


_WITHOUT_END = 2000
"""How many keys of orders under way are gone through in one look for those that were given up."""


# --- under which KEK --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AccountKey:
    """An account's key, or (``next``) the one that it is being changed to."""

    ca: str
    key: WrappedKey
    next: bool


def keks(tx: Transaction, domain: str) -> list[str]:
    """The ids of the KEKs that keys of a domain lie under: a look into the index for each, however many keys."""
    found = []
    last = ""
    column = wrapped_key.c.key_id
    while True:
        query = select(func.min(column)).where(wrapped_key.c.domain == domain, column > last)
        following: str | None = tx.execute(query).scalar_one()
        if following is None:
            break
        found.append(last := following)
    of_accounts = union(
        select(account.c.key_id).where(account.c.domain == domain),
        select(account.c.next_key_id).where(account.c.domain == domain, account.c.next_key_id.is_not(None)),
    )
    return sorted({*found, *tx.execute(of_accounts).scalars()})


def count(tx: Transaction, domain: str, kek: str) -> int:
    """How many certificate keys of a domain lie under a KEK."""
    query = select(func.count()).where(wrapped_key.c.domain == domain, wrapped_key.c.key_id == kek)
    return int(tx.execute(query).scalar_one())


def under(tx: Transaction, domain: str, kek: str, limit: int) -> list[WrappedKey]:
    """Some of the certificate keys of a domain that lie under a KEK, in no order."""
    query = select(wrapped_key).where(wrapped_key.c.domain == domain, wrapped_key.c.key_id == kek)
    return [
        WrappedKey(row.spki, row.domain, row.key_id, row.wrapped) for row in tx.execute(query.limit(limit))
    ]


def accounts_under(tx: Transaction, domain: str, kek: str) -> list[AccountKey]:
    """The account keys of a domain that lie under a KEK, those of a change under way among them."""
    found = []
    # A row for each CA: few, and in no index.
    for row in tx.execute(select(account).where(account.c.domain == domain)):
        if row.key_id == kek:
            found.append(AccountKey(row.ca, WrappedKey(row.spki, domain, kek, row.wrapped), next=False))
        if row.next_key_id == kek:
            key = WrappedKey(row.next_spki, domain, kek, row.next_wrapped)
            found.append(AccountKey(row.ca, key, next=True))
    return found


def find(tx: Transaction, spki: bytes) -> WrappedKey | None:
    """The private key to a public one, a certificate's or an account's, as it lies now."""
    row = tx.execute(select(wrapped_key).where(wrapped_key.c.spki == spki)).first()
    if row is not None:
        return WrappedKey(row.spki, row.domain, row.key_id, row.wrapped)
    for row in tx.execute(select(account).where(or_(account.c.spki == spki, account.c.next_spki == spki))):
        if row.spki == spki:
            return WrappedKey(spki, row.domain, row.key_id, row.wrapped)
        return WrappedKey(spki, row.domain, row.next_key_id, row.next_wrapped)
    return None


def rewrap(tx: Transaction, pairs: Sequence[tuple[WrappedKey, WrappedKey]]) -> int:
    """Put each second one in the place of the first, where that still stands; how many did."""
    statement = (
        update(wrapped_key)
        .where(wrapped_key.c.spki == bindparam("of_key"), wrapped_key.c.key_id == bindparam("old_kek"))
        .values(key_id=bindparam("new_kek"), wrapped=bindparam("new_wrapped"))
    )
    values = [
        {
            "of_key": old.spki,
            "old_kek": old.key_id,
            "new_kek": fresh.key_id,
            "new_wrapped": fresh.wrapped,
        }
        for old, fresh in pairs
    ]
    if not values:
        return 0
    with _overwriting(tx):
        return int(tx.execute(statement, values).rowcount)


def rewrap_account(tx: Transaction, old: AccountKey, fresh: WrappedKey) -> bool:
    """The same for the key of an account."""
    prefix = "next_" if old.next else ""
    spki, kek = account.c[f"{prefix}spki"], account.c[f"{prefix}key_id"]
    statement = (
        update(account)
        .where(account.c.ca == old.ca, spki == old.key.spki, kek == old.key.key_id)
        .values({f"{prefix}key_id": fresh.key_id, f"{prefix}wrapped": fresh.wrapped})
    )
    with _overwriting(tx):
        return tx.execute(statement).rowcount == 1


def wait_for_writers(tx: Transaction) -> None:
    """See in this unit of work what every other one has written of keys, and let nobody write until it ends."""
    if tx.connection.dialect.name == "postgresql":
        tx.execute(text("LOCK TABLE wrapped_key, account IN SHARE MODE"))
    # On SQLite this unit is the only one that writes.


def is_named(tx: Transaction, domain: str, kek: str) -> bool:
    """Whether any key lies under a KEK."""
    row = tx.execute(
        select(wrapped_key.c.spki).where(wrapped_key.c.domain == domain, wrapped_key.c.key_id == kek).limit(1)
    ).first()
    return row is not None or bool(accounts_under(tx, domain, kek))


def whose(tx: Transaction, spkis: Collection[bytes]) -> dict[bytes, tuple[str | None, str]]:
    """Of which pair (None where it is gone) and which CA the attempts with these public keys were."""
    found: dict[bytes, tuple[str | None, str]] = {}
    wanted = list(spkis)
    for start in range(0, len(wanted), _AT_ONCE):
        query = (
            select(public_key.c.spki, public_key.c.ca, pair.c.name)
            .outerjoin(pair, pair.c.id == public_key.c.pair_id)
            .where(public_key.c.spki.in_(wanted[start : start + _AT_ONCE]))
        )
        found |= {row.spki: (row.name, row.ca) for row in tx.execute(query)}
    return found


# --- when they go -----------------------------------------------------------------------------------------


@prepared
def _ends_at() -> Update:
    return update(wrapped_key).where(wrapped_key.c.spki == bindparam("of_key"))


def ends_at(tx: Transaction, spki: bytes, at: datetime) -> None:
    """A key has a certificate now, and goes when that ends."""
    tx.execute(_ends_at(), {"of_key": spki, "destroy_at": micros(at)})


@dataclass(frozen=True)
class EndedAttempt:
    """A key whose order was given up without a certificate. ``placed``: the CA had answered it."""

    spki: bytes
    placed: bool


def ended_attempts(tx: Transaction, limit: int) -> list[EndedAttempt]:
    """Keys that will have no certificate, and of which nobody has said yet when they go.

    Looked for among the keys without an end, found by index: all others of those are of orders under way. Of them a
    bounded number is gone through.
    """
    rows = tx.execute(_ended_attempts(), {"limit": limit})
    return [EndedAttempt(row.spki, row.url is not None) for row in rows]


@prepared
def _ended_attempts() -> Select[Any]:
    without_end = (
        select(wrapped_key.c.spki).where(wrapped_key.c.destroy_at.is_(None)).limit(_WITHOUT_END).subquery()
    )
    return (
        select(without_end.c.spki, acme_order.c.url)
        .join(public_key, public_key.c.spki == without_end.c.spki)
        .join(
            acme_order,
            (acme_order.c.pair_id == public_key.c.pair_id)
            & (acme_order.c.ca == public_key.c.ca)
            & (acme_order.c.spki == without_end.c.spki),
        )
        .where(acme_order.c.step == OrderStep.ABANDONED.value)
        .limit(bindparam("limit"))
    )


@dataclass(frozen=True)
class EndedKey:
    """A key whose end has come, and whose it was. Without a certificate, ``certificate`` and ``not_after`` are None."""

    spki: bytes
    pair_id: int
    ca: str
    certificate: int | None
    not_after: datetime | None


def _over(*, by_both_clocks: bool) -> tuple[ColumnElement[bool], ...]:
    """At the instant that the parameter ``at`` gives. ``by_both_clocks``: and by the database's own clock, too.

    What is destroyed by a clock that is a year ahead does not come back when that is put right. So one machine's clock
    alone destroys nothing where the database has another, and nothing does that a pair serves or holds ready.
    """
    subject = certificate.alias()
    needed = exists().where(
        subject.c.spki == wrapped_key.c.spki, revocation_request.c.certificate_id == subject.c.id
    )
    in_use = there_is(
        subject.c.spki == wrapped_key.c.spki,
        pair_state.c.pair_id == subject.c.pair_id,
        or_(pair_state.c.serving == subject.c.id, pair_state.c.standby == subject.c.id),
        beside=(wrapped_key,),
    )
    due = wrapped_key.c.destroy_at <= bindparam("at")
    if by_both_clocks:
        due = and_(due, wrapped_key.c.destroy_at <= database_now)
    return due, ~needed.correlate(wrapped_key), not_(in_use)


def ended(tx: Transaction, limit: int) -> list[EndedKey]:
    """Keys whose end has come, the earliest first; not those that a revocation still waits for, nor those of what a
    pair serves or holds ready still: they go when another takes its place."""
    statement = _ended(by_both_clocks=tx.others_write)
    rows = tx.execute(statement, {"at": tx.at, "limit": min(limit, _AT_ONCE)})
    return [EndedKey(row.spki, row.pair_id, row.ca, row.number, instant(row.not_after)) for row in rows]


@prepared
def _ended(*, by_both_clocks: bool) -> Select[Any]:
    return (
        select(
            wrapped_key.c.spki,
            public_key.c.pair_id,
            public_key.c.ca,
            certificate.c.id.label("number"),
            certificate.c.not_after,
        )
        .join(public_key, public_key.c.spki == wrapped_key.c.spki)
        .outerjoin(certificate, certificate.c.spki == wrapped_key.c.spki)
        .where(*_over(by_both_clocks=by_both_clocks))
        .order_by(wrapped_key.c.destroy_at)
        .limit(bindparam("limit"))
    )


def destroy(tx: Transaction, subjects: Collection[EndedKey]) -> list[EndedKey]:
    """Delete those of the keys, as ``ended`` found them, whose end has still come; returns them."""
    if not subjects:
        return []
    spkis = [one.spki for one in subjects]
    over = _over(by_both_clocks=tx.others_write)
    statement = delete(wrapped_key).where(wrapped_key.c.spki.in_(spkis), *over)
    with _overwriting(tx):
        # Another process may have been first with some of them.
        gone = {row.spki for row in tx.execute(statement.returning(wrapped_key.c.spki), {"at": tx.at})}
    return [one for one in subjects if one.spki in gone]


# --- what is left of old bytes -----------------------------------------------------------------------------


@contextmanager
def _overwriting(tx: Transaction) -> Iterator[None]:
    """On SQLite what is deleted or replaced is overwritten with zeros in its page, and not only given free."""
    if tx.connection.dialect.name != "sqlite":
        yield
        return
    before = _secure_delete(tx)
    _secure_delete(tx, 1)
    try:
        yield
    finally:
        _secure_delete(tx, before)


def _secure_delete(tx: Transaction, value: int | None = None) -> int:
    setting = "" if value is None else f" = {value}"
    found: Any = tx.connection.exec_driver_sql(f"PRAGMA secure_delete{setting}").scalar_one()
    return int(found)


def empty_log(store: Store) -> bool:
    """Bring all that was written into SQLite's database file and cut its write-ahead log, which holds older pages.

    False where others were reading or writing; theirs is cut when they end. PostgreSQL has nothing like it: True.
    """
    if store.dialect != "sqlite":
        return True
    try:
        with store.engine.connect() as connection:
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
    except DBAPIError as error:
        raise StoreUnavailable(f"the database's log could not be emptied: {error.orig}") from error
    return not busy

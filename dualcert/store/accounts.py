"""Our accounts at CAs, and what was recorded of a CA when it was first used."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import insert, select, update

from dualcert.store.database import Transaction
from dualcert.store.tables import account


@dataclass(frozen=True)
class StoredAccount:
    """``url`` is None until the CA has answered; the key is wrapped in ``domain``."""

    ca: str
    directory: str
    domain: str
    spki: bytes
    key_id: str
    wrapped: bytes = field(repr=False)
    url: str | None
    caa_identities: frozenset[str]


def get(tx: Transaction, ca: str) -> StoredAccount | None:
    row = tx.execute(select(account).where(account.c.ca == ca)).first()
    if row is None:
        return None
    return StoredAccount(
        ca=row.ca,
        directory=row.directory,
        domain=row.domain,
        spki=row.spki,
        key_id=row.key_id,
        wrapped=row.wrapped,
        url=row.url,
        caa_identities=frozenset(row.caa_identities.split()),
    )


def create_or_get(tx: Transaction, mine: StoredAccount) -> StoredAccount:
    """Write an account's key down before the CA hears of it; where one stands already, that one counts."""
    known = get(tx, mine.ca)
    if known is not None:
        return known
    tx.execute(
        insert(account).values(
            ca=mine.ca,
            directory=mine.directory,
            domain=mine.domain,
            spki=mine.spki,
            key_id=mine.key_id,
            wrapped=mine.wrapped,
            url=mine.url,
            caa_identities=" ".join(sorted(mine.caa_identities)),
            created_at=tx.at,
        )
    )
    return mine


def set_url(tx: Transaction, ca: str, url: str) -> None:
    tx.execute(update(account).where(account.c.ca == ca).values(url=url))

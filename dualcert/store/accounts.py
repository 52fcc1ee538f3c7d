"""Our accounts at CAs, and what was recorded of a CA when it was first used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, bindparam, insert, select, update

from dualcert.model.certificate import WrappedKey
from dualcert.store.database import Transaction
from dualcert.store.statements import prepared
from dualcert.store.tables import account


@dataclass(frozen=True)
class StoredAccount:
    """``url`` is None until the CA has answered; ``key`` signs every request there."""

    ca: str
    directory: str
    key: WrappedKey
    url: str | None
    caa_identities: frozenset[str]


@prepared
def _at() -> Select[Any]:
    return select(account).where(account.c.ca == bindparam("ca"))


def get(tx: Transaction, ca: str) -> StoredAccount | None:
    row = tx.execute(_at(), {"ca": ca}).first()
    if row is None:
        return None
    key = WrappedKey(row.spki, row.domain, row.key_id, row.wrapped)
    return StoredAccount(row.ca, row.directory, key, row.url, frozenset(row.caa_identities.split()))


def create_or_get(tx: Transaction, mine: StoredAccount) -> StoredAccount:
    """Write an account's key down before the CA hears of it; where one stands already, that one counts."""
    known = get(tx, mine.ca)
    if known is not None:
        return known
    tx.execute(
        insert(account).values(
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
    )
    return mine


def set_url(tx: Transaction, ca: str, url: str) -> None:
    tx.execute(update(account).where(account.c.ca == ca).values(url=url))

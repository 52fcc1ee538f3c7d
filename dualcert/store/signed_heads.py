"""Signatures over the head of the history, and the keys that they are made with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import exists, insert, select

from dualcert.clock import from_microseconds, to_microseconds
from dualcert.model.certificate import WrappedKey
from dualcert.store.expressions import upsert
from dualcert.store.incident_tables import signed_head, signing_key
from dualcert.store.tables import blocked_key, wrapped_key
from dualcert.store.transaction import Transaction

SIGNING = "signing"
"""The purpose that such a key is wrapped for: that of no certificate opens in its place."""


@dataclass(frozen=True)
class Signature:
    """That of seal ``no``, by the key with this hash."""

    no: int
    spki: bytes
    at: datetime
    signature: bytes


def key(tx: Transaction, domains: Collection[str]) -> WrappedKey | None:
    """The key to sign with: the newest one that lies in one of these domains and is not blocked."""
    query = (
        select(wrapped_key)
        .join(signing_key, signing_key.c.spki == wrapped_key.c.spki)
        .where(wrapped_key.c.domain.in_(domains), ~exists().where(blocked_key.c.spki == signing_key.c.spki))
        .order_by(signing_key.c.made_at.desc(), signing_key.c.spki)
        .limit(1)
    )
    row = tx.execute(query).first()
    return None if row is None else WrappedKey(row.spki, row.domain, row.key_id, row.wrapped)


def keys_in(tx: Transaction, domain: str) -> list[bytes]:
    """The hashes of all such keys that lie in an isolation domain."""
    query = select(signing_key.c.spki).join(wrapped_key, wrapped_key.c.spki == signing_key.c.spki)
    return [bytes(row.spki) for row in tx.execute(query.where(wrapped_key.c.domain == domain))]


def keep_key(tx: Transaction, made: WrappedKey) -> None:
    """A new key to sign with. It has no end."""
    where = {"spki": made.spki, "domain": made.domain, "key_id": made.key_id}
    tx.execute(insert(wrapped_key), {**where, "wrapped": made.wrapped, "proved_at": tx.at})
    tx.execute(insert(signing_key), {"spki": made.spki, "made_at": tx.at})


def _signature(row: Any) -> Signature:
    return Signature(row.no, bytes(row.spki), from_microseconds(row.at), bytes(row.signature))


def get(tx: Transaction, no: int, spki: bytes) -> Signature | None:
    row = tx.execute(select(signed_head).where(signed_head.c.no == no, signed_head.c.spki == spki)).first()
    return None if row is None else _signature(row)


def add(tx: Transaction, made: Signature) -> Signature:
    """Keep a signature; where there is one of this seal by this key, that one stands. Returns what stands."""
    values = {"no": made.no, "spki": made.spki, "at": to_microseconds(made.at), "signature": made.signature}
    tx.execute(upsert(signed_head).values(**values).on_conflict_do_nothing())
    kept = get(tx, made.no, made.spki)
    if kept is None:
        raise AssertionError("what was just written is not there")
    return kept


def last(tx: Transaction) -> Signature | None:
    """That of the newest seal that was signed."""
    query = select(signed_head).order_by(signed_head.c.no.desc(), signed_head.c.at.desc()).limit(1)
    row = tx.execute(query).first()
    return None if row is None else _signature(row)

"""Signatures over the head of the history, and the keys that they are made with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, bindparam, exists, insert, or_, select

from dualcert.clock import to_microseconds
from dualcert.model.certificate import WrappedKey
from dualcert.model.seal import Seal
from dualcert.store import seals
from dualcert.store.expressions import upsert
from dualcert.store.incident_tables import signed_head, signing_key
from dualcert.store.statements import prepared
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


@prepared
def _keys() -> Select[Any]:
    blocked = exists().where(blocked_key.c.spki == signing_key.c.spki)
    return (
        select(wrapped_key.c.spki, wrapped_key.c.domain, wrapped_key.c.key_id, wrapped_key.c.wrapped)
        .join(signing_key, signing_key.c.spki == wrapped_key.c.spki)
        .where(~blocked)
        .order_by(signing_key.c.made_at.desc(), signing_key.c.spki)
    )


def key(tx: Transaction, domains: Collection[str]) -> WrappedKey | None:
    """The key to sign with: the newest one that lies in one of these domains and is not blocked.

    Raises ``ValueError`` where somebody has written into its row what nothing here writes.
    """
    with seals.undecoded(tx):
        rows = tx.execute(_keys()).all()  # one for each KEK that has leaked
    return next((_wrapped(row) for row in rows if row.domain in domains), None)


def _wrapped(row: Any) -> WrappedKey:
    where = "a key that heads are signed with"
    seals.typed(row, where, bytes, "spki", "wrapped")
    seals.typed(row, where, str, "domain", "key_id")
    return WrappedKey(row.spki, row.domain, row.key_id, row.wrapped)


@prepared
def _key_of() -> Select[Any]:
    columns = [wrapped_key.c.spki, wrapped_key.c.domain, wrapped_key.c.key_id, wrapped_key.c.wrapped]
    return select(*columns).where(wrapped_key.c.spki == bindparam("spki"))


def key_of(tx: Transaction, spki: bytes) -> WrappedKey | None:
    """The one with this hash, wherever it lies. Raises ``ValueError`` as ``key``."""
    with seals.undecoded(tx):
        row = tx.execute(_key_of(), {"spki": spki}).first()
    return None if row is None else _wrapped(row)


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
    seals.typed(row, "a signature", int, "no")
    where = f"the signature of seal {row.no}"
    seals.typed(row, where, bytes, "spki", "signature")
    return Signature(row.no, row.spki, seals.moment(row, where), row.signature)


@prepared
def _get() -> Select[Any]:
    return select(signed_head).where(
        signed_head.c.no == bindparam("no"), signed_head.c.spki == bindparam("spki")
    )


def get(tx: Transaction, no: int, spki: bytes) -> Signature | None:
    """Raises ``ValueError`` where somebody has written into it what nothing here writes."""
    with seals.undecoded(tx):
        row = tx.execute(_get(), {"no": no, "spki": spki}).first()
    return None if row is None else _signature(row)


def add(tx: Transaction, made: Signature) -> Signature:
    """Keep a signature; where there is one of this seal by this key, that one stands. Returns what stands."""
    values = {"no": made.no, "spki": made.spki, "at": to_microseconds(made.at), "signature": made.signature}
    tx.execute(upsert(signed_head).values(**values).on_conflict_do_nothing())
    kept = get(tx, made.no, made.spki)
    if kept is None:
        raise AssertionError("what was just written is not there")
    return kept


@prepared
def _last() -> Select[Any]:
    return select(signed_head).order_by(signed_head.c.no.desc(), signed_head.c.at.desc()).limit(1)


def last(tx: Transaction) -> tuple[Signature, Seal | None] | None:
    """That of the newest seal that was signed, with the seal if there is one. Raises ``ValueError`` as ``get``."""
    with seals.undecoded(tx):
        row = tx.execute(_last()).first()
    if row is None:
        return None
    found = _signature(row)
    return found, seals.signed(tx, found.no, found.no).get(found.no)


@prepared
def _page() -> Select[Any]:
    behind = or_(
        signed_head.c.no > bindparam("no"),
        and_(signed_head.c.no == bindparam("no"), signed_head.c.spki > bindparam("spki")),
    )
    query = select(signed_head).where(behind).order_by(signed_head.c.no, signed_head.c.spki)
    return query.limit(bindparam("limit"))


_LOWEST = -(2**63)


def page(tx: Transaction, after: Signature | None, limit: int = 1000) -> list[tuple[Signature, Seal | None]]:
    """Signatures in the order of their seals, each with its seal if there is one. Raises ``ValueError`` as ``get``."""
    no, spki = (after.no, after.spki) if after else (_LOWEST, b"")
    with seals.undecoded(tx):
        rows = tx.execute(_page(), {"no": no, "spki": spki, "limit": limit}).all()
    found = [_signature(row) for row in rows]
    its = seals.signed(tx, found[0].no, found[-1].no) if found else {}
    return [(one, its.get(one.no)) for one in found]

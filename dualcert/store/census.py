"""Certificates that may not be watched yet, those of earlier releases above all, and the chains that tell who signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, bindparam, case, select

from dualcert.store.statements import prepared
from dualcert.store.tables import certificate, chain, leaf
from dualcert.store.transaction import Transaction
from dualcert.store.watching import is_current


@dataclass(frozen=True)
class Unseen:
    """A certificate that may not have been registered yet. ``current``: it serves or stands by, and has not expired."""

    id: int
    ca: str
    issuing_key: bytes
    issuer_hash: bytes
    der: bytes
    chain_hash: bytes
    current: bool


@prepared
def _following() -> Select[Any]:
    return (
        select(
            certificate.c.id,
            certificate.c.ca,
            certificate.c.issuing_key,
            certificate.c.issuer_hash,
            certificate.c.chain_hash,
            leaf.c.der,
            case((is_current(bindparam("at")), 1), else_=0).label("current"),
        )
        .join(leaf, leaf.c.certificate_id == certificate.c.id)
        .where(certificate.c.id > bindparam("after"))
        .order_by(certificate.c.id)
        .limit(bindparam("limit"))
    )


def following(tx: Transaction, after: int, limit: int) -> list[Unseen]:
    """The certificates that follow a number, in the order of their numbers."""
    rows = tx.execute(_following(), {"after": after, "limit": limit, "at": tx.at})
    return [
        Unseen(
            row.id,
            row.ca,
            row.issuing_key,
            row.issuer_hash,
            bytes(row.der),
            row.chain_hash,
            bool(row.current),
        )
        for row in rows
    ]


def chains(tx: Transaction) -> dict[bytes, str]:
    """Every chain that is kept, PEM by its hash: a few for each CA, however many certificates there are."""
    return {row.hash: row.pem for row in tx.execute(select(chain))}

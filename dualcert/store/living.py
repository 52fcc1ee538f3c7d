"""Certificates that have not ended, one after another: for whoever looks at all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, bindparam, select

from dualcert.store.statements import prepared
from dualcert.store.tables import certificate, leaf
from dualcert.store.transaction import Transaction


@dataclass(frozen=True)
class Living:
    """A certificate that has not ended, as its key is looked at."""

    id: int
    pair_id: int
    ca: str
    spki: bytes
    der: bytes


@prepared
def _page() -> Select[Any]:
    return (
        select(certificate.c.id, certificate.c.pair_id, certificate.c.ca, certificate.c.spki, leaf.c.der)
        .join(leaf, leaf.c.certificate_id == certificate.c.id)
        .where(certificate.c.id > bindparam("after"), certificate.c.not_after > bindparam("at"))
        .order_by(certificate.c.id)
        .limit(bindparam("limit"))
    )


def page(tx: Transaction, after: int, limit: int) -> list[Living]:
    """The certificates that have not ended and follow a number, in the order of their numbers."""
    rows = tx.execute(_page(), {"after": after, "limit": limit, "at": tx.at})
    return [Living(row.id, row.pair_id, row.ca, bytes(row.spki), bytes(row.der)) for row in rows]

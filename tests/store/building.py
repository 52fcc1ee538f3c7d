"""Rows to start from, made by the store's own functions."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import count

from dualcert.model import names as naming
from dualcert.model.certificate import Certificate, WrappedKey
from dualcert.model.order import Order
from dualcert.model.pair import KeyType, Lineage, Pair
from dualcert.store import Store, Transaction, certificates, orders, pairs

_numbers = count(1)

PRIMARY, BACKUP = "alpha", "beta"


def fresh_hash() -> bytes:
    """32 bytes that no other call returns."""
    return hashlib.sha256(f"{next(_numbers)}".encode()).digest()


def a_pair(
    tx: Transaction,
    *names: str,
    name: str | None = None,
    targets: Sequence[str] = ("web",),
    cas: tuple[str, str] = (PRIMARY, BACKUP),
) -> Pair:
    """A pair at CAs alpha and beta; for a name of its own where none is given."""
    held = names or (f"pair{next(_numbers)}.example.com",)
    return pairs.create(
        tx,
        name=name or held[0],
        names=held,
        key_type=KeyType.EC_P256,
        dns="zone",
        targets=targets,
        first_wait=600,
        lineages=((cas[0], "one"), (cas[1], "two")),
    )


def lineage_of(tx: Transaction, pair: Pair, ca: str) -> Lineage:
    found = pairs.lineage_at(tx, pair.id, ca)
    assert found is not None
    return found


def an_order(tx: Transaction, pair: Pair, ca: str = PRIMARY) -> Order:
    """An order about to be placed, under a new key."""
    lineage = lineage_of(tx, pair, ca)
    key = WrappedKey(fresh_hash(), lineage.domain, "kek", b"a wrapped key")
    issuance = orders.open_issuance(tx, pair.id, "a test")
    return orders.begin(tx, lineage, issuance, pair.names, b"a CSR", key)


def a_certificate(
    tx: Transaction,
    pair: Pair,
    ca: str = PRIMARY,
    *,
    names: Collection[str] | None = None,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
    serial: bytes | None = None,
    flaw: str | None = None,
) -> Certificate:
    """A stored certificate whose wrapped key was proved at the transaction's instant; it holds no role yet."""
    order = an_order(tx, pair, ca)
    arrived = Certificate(
        id=0,
        pair_id=pair.id,
        lineage_id=order.lineage_id,
        ca=ca,
        serial=serial or fresh_hash()[:16],
        issuer=f"CN={ca}",
        issuer_hash=hashlib.sha256(ca.encode()).digest(),
        issuing_key=hashlib.sha256(f"key of {ca}".encode()).digest(),
        root_key=hashlib.sha256(f"root of {ca}".encode()).digest(),
        sha256=fresh_hash(),
        spki=order.spki,
        names_digest=naming.digest(names if names is not None else pair.names),
        key_type="ec-p256",
        not_before=not_before or tx.now - timedelta(days=1),
        not_after=not_after or tx.now + timedelta(days=89),
        chain_hash=hashlib.sha256(ca.encode()).digest(),
        stored_at=tx.now,
        flaw=flaw,
    )
    number = certificates.insert_certificate(tx, arrived, b"DER of " + arrived.sha256, f"chain of {ca}")
    return certificates.get(tx, number)


def give_role(
    tx: Transaction, pair: Pair, held: Certificate, ok_until: datetime | None = None
) -> Certificate:
    """Make a certificate its lineage's current one."""
    seen = pairs.state(tx, pair.id)
    until = ok_until or tx.now + timedelta(days=20)
    assert pairs.put_certificate(tx, seen, held.lineage_id, held.id, until)
    return held


def a_full_pair(tx: Transaction, *names: str) -> tuple[Pair, Certificate, Certificate]:
    """A pair with a serving and a usable standby certificate."""
    pair = a_pair(tx, *names)
    serving = give_role(tx, pair, a_certificate(tx, pair, PRIMARY))
    standby = give_role(tx, pair, a_certificate(tx, pair, BACKUP))
    return pair, serving, standby


class _Undone(Exception):
    pass


@contextmanager
def undone(store: Store) -> Iterator[Transaction]:
    """A unit of work that leaves nothing: for many examples against one database."""
    try:
        with store.write() as tx:
            yield tx
            raise _Undone
    except _Undone:
        pass

"""The chains that CAs offer for certificates: kept by their hash, each once."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace

from sqlalchemy import select, update

from dualcert.model.certificate import Certificate
from dualcert.store.expressions import upsert
from dualcert.store.tables import acme_order, certificate, certificate_chain, chain
from dualcert.store.transaction import Transaction


def hash_of(pem: str) -> bytes:
    """By what a chain (PEM, without the leaf) is known."""
    return hashlib.sha256(pem.encode("ascii")).digest()


def keep(tx: Transaction, certificate_id: int, pems: Collection[str]) -> None:
    """Remember chains, each without the leaf, for a certificate. The one in use need not be among them."""
    for pem in pems:
        digest = hash_of(pem)
        tx.execute(upsert(chain).values(hash=digest, pem=pem).on_conflict_do_nothing())
        link = {"certificate_id": certificate_id, "hash": digest}
        tx.execute(upsert(certificate_chain).values(**link).on_conflict_do_nothing())


def known(tx: Transaction, subject: Certificate) -> dict[bytes, str]:
    """Every chain that is kept for a certificate, by its hash, the one in use first."""
    others = select(certificate_chain.c.hash).where(certificate_chain.c.certificate_id == subject.id)
    found = tx.execute(
        select(chain).where(chain.c.hash.in_(others) | (chain.c.hash == subject.chain_hash))
    ).all()
    return {row.hash: row.pem for row in sorted(found, key=lambda row: row.hash != subject.chain_hash)}


def use(tx: Transaction, subject: Certificate, pem: str, root_key: bytes) -> Certificate | None:
    """Let a certificate be served with another chain from now on; None where it has another than ``subject`` by now."""
    keep(
        tx,
        subject.id,
        [str(tx.execute(select(chain.c.pem).where(chain.c.hash == subject.chain_hash)).scalar()), pem],
    )
    digest = hash_of(pem)
    changed = tx.execute(
        update(certificate)
        .where(certificate.c.id == subject.id, certificate.c.chain_hash == subject.chain_hash)
        .values(chain_hash=digest, root_key=root_key)
    )
    return replace(subject, chain_hash=digest, root_key=root_key) if changed.rowcount else None


def order_url(tx: Transaction, subject: Certificate) -> str | None:
    """Where the CA keeps the order that a certificate came from."""
    row = tx.execute(
        select(acme_order.c.url).where(
            acme_order.c.pair_id == subject.pair_id,
            acme_order.c.ca == subject.ca,
            acme_order.c.spki == subject.spki,
        )
    ).first()
    return row.url if row else None


def offered(tx: Transaction, ids: Collection[int]) -> dict[int, set[bytes]]:
    """The hashes of the chains that are kept for some certificates, besides the one in use."""
    found: dict[int, set[bytes]] = {}
    query = select(certificate_chain).where(certificate_chain.c.certificate_id.in_(list(ids)))
    for row in tx.execute(query):
        found.setdefault(row.certificate_id, set()).add(bytes(row.hash))
    return found

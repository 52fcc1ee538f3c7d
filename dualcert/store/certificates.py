"""Certificates, their bytes, and the keys that belong to them."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

from sqlalchemy import Insert, Select, Update, bindparam, insert, select, update

from dualcert.errors import StoreError
from dualcert.model.certificate import Certificate, Standing, WrappedKey
from dualcert.store.columns import instant, micros
from dualcert.store.database import Transaction, upsert
from dualcert.store.tables import (
    blocked_key,
    certificate,
    chain,
    coverage,
    leaf,
    revocation,
    wrapped_key,
)


def _certificate(row: Any) -> Certificate:
    return Certificate(
        id=row.id,
        pair_id=row.pair_id,
        lineage_id=row.lineage_id,
        ca=row.ca,
        serial=row.serial,
        issuer=row.issuer,
        issuer_hash=row.issuer_hash,
        issuing_key=row.issuing_key,
        root_key=row.root_key,
        sha256=row.sha256,
        spki=row.spki,
        names_digest=row.names_digest,
        key_type=row.key_type,
        not_before=instant(row.not_before),
        not_after=instant(row.not_after),
        chain_hash=row.chain_hash,
        stored_at=instant(row.stored_at),
        flaw=row.flaw,
    )


@cache
def _same() -> Select[Any]:
    return select(certificate.c.id).where(
        certificate.c.sha256 == bindparam("sha256"), certificate.c.spki == bindparam("spki")
    )


@cache
def _keep_chain() -> Insert:
    return upsert(chain).on_conflict_do_nothing()


def insert_certificate(tx: Transaction, arrived: Certificate, der: bytes, chain_pem: str) -> int:
    """Store what has arrived; its number. The same certificate again keeps the number it has."""
    known = tx.execute(_same(), {"sha256": arrived.sha256, "spki": arrived.spki}).scalar()
    if known is not None:
        return int(known)
    tx.execute(_keep_chain(), {"hash": arrived.chain_hash, "pem": chain_pem})
    result = tx.execute(
        insert(certificate),
        {
            "pair_id": arrived.pair_id,
            "lineage_id": arrived.lineage_id,
            "ca": arrived.ca,
            "serial": arrived.serial,
            "issuer": arrived.issuer,
            "issuer_hash": arrived.issuer_hash,
            "issuing_key": arrived.issuing_key,
            "root_key": arrived.root_key,
            "sha256": arrived.sha256,
            "spki": arrived.spki,
            "names_digest": arrived.names_digest,
            "key_type": arrived.key_type,
            "not_before": micros(arrived.not_before),
            "not_after": micros(arrived.not_after),
            "chain_hash": arrived.chain_hash,
            "stored_at": tx.at,
            "flaw": arrived.flaw,
        },
    )
    number = int(result.inserted_primary_key[0])  # type: ignore[index]
    tx.execute(insert(leaf), {"certificate_id": number, "der": der})
    return number


@cache
def _get() -> Select[Any]:
    return select(certificate).where(certificate.c.id == bindparam("id"))


def get(tx: Transaction, certificate_id: int) -> Certificate:
    row = tx.execute(_get(), {"id": certificate_id}).first()
    if row is None:
        raise StoreError(f"certificate {certificate_id} is not in the database")
    return _certificate(row)


@cache
def _standings() -> Select[Any]:
    return (
        select(certificate, revocation.c.at.label("revoked_at"), blocked_key.c.at.label("blocked_at"))
        .outerjoin(revocation, revocation.c.certificate_id == certificate.c.id)
        .outerjoin(blocked_key, blocked_key.c.spki == certificate.c.spki)
        .where(certificate.c.id.in_(bindparam("ids", expanding=True)))
    )


def standings(tx: Transaction, ids: Collection[int]) -> dict[int, Standing]:
    """Certificates with what is recorded against them."""
    if not ids:
        return {}
    return {
        row.id: Standing(_certificate(row), row.revoked_at is not None, row.blocked_at is not None)
        for row in tx.execute(_standings(), {"ids": list(ids)})
    }


def standing(tx: Transaction, certificate_id: int | None) -> Standing | None:
    return None if certificate_id is None else standings(tx, [certificate_id]).get(certificate_id)


def covers(tx: Transaction, subject: Certificate, names_digest: bytes) -> bool:
    """Whether a certificate is for the set of names with this digest, or is known to cover it."""
    return subject.names_digest == names_digest or bool(covering(tx, [subject.id], [names_digest]))


def covering(tx: Transaction, ids: Collection[int], digests: Collection[bytes]) -> set[tuple[int, bytes]]:
    rows = tx.execute(
        select(coverage).where(
            coverage.c.certificate_id.in_(list(ids)), coverage.c.names_digest.in_(list(digests))
        )
    )
    return {(row.certificate_id, row.names_digest) for row in rows}


def also_covers(tx: Transaction, certificate_id: int, names_digest: bytes) -> None:
    """Remember that a certificate covers a set of names that is not its own."""
    values = {"certificate_id": certificate_id, "names_digest": names_digest}
    tx.execute(tx.upsert(coverage).values(**values).on_conflict_do_nothing())


@cache
def _der() -> Select[Any]:
    return select(leaf.c.der).where(leaf.c.certificate_id == bindparam("id"))


def der_of(tx: Transaction, certificate_id: int) -> bytes:
    return bytes(tx.execute(_der(), {"id": certificate_id}).scalar_one())


@cache
def _chain() -> Select[Any]:
    return select(chain.c.pem).where(chain.c.hash == bindparam("hash"))


def chain_of(tx: Transaction, subject: Certificate) -> str:
    return str(tx.execute(_chain(), {"hash": subject.chain_hash}).scalar_one())


@cache
def _wrapped() -> Select[Any]:
    return select(wrapped_key).where(wrapped_key.c.spki == bindparam("spki"))


def wrapped(tx: Transaction, spki: bytes) -> WrappedKey | None:
    row = tx.execute(_wrapped(), {"spki": spki}).first()
    return WrappedKey(row.spki, row.domain, row.key_id, row.wrapped) if row else None


@cache
def _proved() -> Update:
    return update(wrapped_key).where(wrapped_key.c.spki == bindparam("of_key"))


def proved(tx: Transaction, spki: bytes) -> None:
    """The key was opened and matched just now."""
    tx.execute(_proved(), {"of_key": spki, "proved_at": tx.at})


def block_key(tx: Transaction, spki: bytes, cause: str) -> bool:
    """Never again. False where the key was blocked before."""
    statement = tx.upsert(blocked_key).values(spki=spki, at=tx.at, cause=cause)
    return tx.execute(statement.on_conflict_do_nothing()).rowcount == 1


def find_serial(tx: Transaction, serial: bytes, issuer_hash: bytes) -> Certificate | None:
    """The certificate with this serial from this issuer; serials of different issuers may be equal."""
    row = tx.execute(
        select(certificate).where(certificate.c.serial == serial, certificate.c.issuer_hash == issuer_hash)
    ).first()
    return _certificate(row) if row else None

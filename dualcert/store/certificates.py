"""Certificates, their bytes, and the keys that belong to them."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from sqlalchemy import BindParameter, Insert, Select, Update, bindparam, insert, select, update
from sqlalchemy.sql.dml import ReturningInsert

from dualcert.errors import StoreError
from dualcert.model.certificate import Certificate, Standing, WrappedKey
from dualcert.store.columns import instant, micros
from dualcert.store.expressions import upsert
from dualcert.store.statements import for_ids, is_among, prepared
from dualcert.store.tables import (
    blocked_key,
    certificate,
    chain,
    coverage,
    leaf,
    revocation,
    wrapped_key,
)
from dualcert.store.transaction import Transaction


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


@prepared
def _same() -> Select[Any]:
    return select(certificate.c.id).where(
        certificate.c.sha256 == bindparam("sha256"), certificate.c.spki == bindparam("spki")
    )


@prepared
def _keep_chain() -> Insert:
    return upsert(chain).on_conflict_do_nothing()


@prepared
def _insert() -> ReturningInsert[Any]:
    return upsert(certificate).on_conflict_do_nothing().returning(certificate.c.id)


@prepared
def _insert_leaf() -> Insert:
    return insert(leaf).inline()


def insert_certificate(tx: Transaction, arrived: Certificate, der: bytes, chain_pem: str) -> int:
    """Store what has arrived; its number. The same certificate again keeps the number it has."""
    same = {"sha256": arrived.sha256, "spki": arrived.spki}
    tx.execute(_keep_chain(), {"hash": arrived.chain_hash, "pem": chain_pem})
    number = tx.execute(
        _insert(),
        {
            **same,
            "pair_id": arrived.pair_id,
            "lineage_id": arrived.lineage_id,
            "ca": arrived.ca,
            "serial": arrived.serial,
            "issuer": arrived.issuer,
            "issuer_hash": arrived.issuer_hash,
            "issuing_key": arrived.issuing_key,
            "root_key": arrived.root_key,
            "names_digest": arrived.names_digest,
            "key_type": arrived.key_type,
            "not_before": micros(arrived.not_before),
            "not_after": micros(arrived.not_after),
            "chain_hash": arrived.chain_hash,
            "stored_at": tx.at,
            "flaw": arrived.flaw,
        },
    ).scalar()
    if number is None:
        return _known(tx, same)
    tx.execute(_insert_leaf(), {"certificate_id": number, "der": der})
    return int(number)


def _known(tx: Transaction, same: dict[str, bytes]) -> int:
    known = tx.execute(_same(), same).scalar()
    if known is None:
        raise StoreError(
            "another certificate with this serial number of this CA, or for this key, is kept already"
        )
    return int(known)


@prepared
def _get() -> Select[Any]:
    return select(certificate).where(certificate.c.id == bindparam("id"))


def get(tx: Transaction, certificate_id: int) -> Certificate:
    row = tx.execute(_get(), {"id": certificate_id}).first()
    if row is None:
        raise StoreError(f"certificate {certificate_id} is not in the database")
    return _certificate(row)


@prepared
def _both() -> Select[Any]:
    return select(certificate).where(certificate.c.id.in_([bindparam("one"), bindparam("other")]))


def both(
    tx: Transaction, one: int | None, other: int | None
) -> tuple[Certificate | None, Certificate | None]:
    """Two at once, None where there is no number."""
    held = {row.id: _certificate(row) for row in tx.execute(_both(), {"one": one, "other": other})}
    return held.get(one), held.get(other)


@prepared
def _standings(*, one: bool) -> Select[Any]:
    return (
        select(certificate, revocation.c.at.label("revoked_at"), blocked_key.c.at.label("blocked_at"))
        .outerjoin(revocation, revocation.c.certificate_id == certificate.c.id)
        .outerjoin(blocked_key, blocked_key.c.spki == certificate.c.spki)
        .where(is_among(certificate.c.id, one=one))
    )


def standings(tx: Transaction, ids: Collection[int]) -> dict[int, Standing]:
    """Certificates with what is recorded against them."""
    if not ids:
        return {}
    return {
        row.id: Standing(_certificate(row), row.revoked_at is not None, row.blocked_at is not None)
        for row in tx.execute(*for_ids(_standings, ids))
    }


def standing(tx: Transaction, certificate_id: int | None) -> Standing | None:
    return None if certificate_id is None else standings(tx, [certificate_id]).get(certificate_id)


def covers(tx: Transaction, subject: Certificate, names_digest: bytes) -> bool:
    """Whether a certificate is for the set of names with this digest, or is known to cover it."""
    return subject.names_digest == names_digest or bool(covering(tx, [subject.id], [names_digest]))


@prepared
def _covering(*, one: bool, one_digest: bool) -> Select[Any]:
    digests: BindParameter[Any] = bindparam("digests", expanding=not one_digest)
    digest = coverage.c.names_digest
    return select(coverage).where(
        is_among(coverage.c.certificate_id, one=one),
        digest == digests if one_digest else digest.in_(digests),
    )


def covering(tx: Transaction, ids: Collection[int], digests: Collection[bytes]) -> set[tuple[int, bytes]]:
    statement, values = for_ids(partial(_covering, one_digest=len(digests) == 1), ids)
    digest = next(iter(digests)) if len(digests) == 1 else list(digests)
    rows = tx.execute(statement, {**values, "digests": digest})
    return {(row.certificate_id, row.names_digest) for row in rows}


def also_covers(tx: Transaction, certificate_id: int, names_digest: bytes) -> None:
    """Remember that a certificate covers a set of names that is not its own."""
    values = {"certificate_id": certificate_id, "names_digest": names_digest}
    tx.execute(upsert(coverage).values(**values).on_conflict_do_nothing())


@prepared
def _der() -> Select[Any]:
    return select(leaf.c.der).where(leaf.c.certificate_id == bindparam("id"))


def der_of(tx: Transaction, certificate_id: int) -> bytes:
    return bytes(tx.execute(_der(), {"id": certificate_id}).scalar_one())


@prepared
def _chain() -> Select[Any]:
    return select(chain.c.pem).where(chain.c.hash == bindparam("hash"))


def chain_of(tx: Transaction, subject: Certificate) -> str:
    return str(tx.execute(_chain(), {"hash": subject.chain_hash}).scalar_one())


@prepared
def _wrapped() -> Select[Any]:
    return select(wrapped_key).where(wrapped_key.c.spki == bindparam("spki"))


def wrapped(tx: Transaction, spki: bytes) -> WrappedKey | None:
    row = tx.execute(_wrapped(), {"spki": spki}).first()
    return WrappedKey(row.spki, row.domain, row.key_id, row.wrapped) if row else None


@prepared
def _proved() -> Update:
    return update(wrapped_key).where(wrapped_key.c.spki == bindparam("of_key"))


def proved(tx: Transaction, spki: bytes) -> None:
    """The key was opened and matched just now."""
    tx.execute(_proved(), {"of_key": spki, "proved_at": tx.at})


def block_key(tx: Transaction, spki: bytes, cause: str) -> bool:
    """Never again. False where the key was blocked before."""
    statement = upsert(blocked_key).values(spki=spki, at=tx.at, cause=cause)
    return tx.execute(statement.on_conflict_do_nothing()).rowcount == 1


def find_serial(tx: Transaction, serial: bytes, issuer_hash: bytes) -> Certificate | None:
    """The certificate with this serial from this issuer; serials of different issuers may be equal."""
    row = tx.execute(
        select(certificate).where(certificate.c.serial == serial, certificate.c.issuer_hash == issuer_hash)
    ).first()
    return _certificate(row) if row else None

"""Pairs whose certificates a tiny CA has issued, which publishes what it has revoked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import update

from dualcert.clock import Clock, SystemClock
from dualcert.evidence import EvidenceReader, Fetcher, Limits
from dualcert.lifecycle import inspection
from dualcert.lifecycle.watching import places
from dualcert.lifecycle.world import Lazy, WatchRules, World
from dualcert.model.certificate import Certificate
from dualcert.model.pair import Pair
from dualcert.policy.watching import SourceKind
from dualcert.store import Store, Transaction, certificates, pairs, watching
from dualcert.store import tables as t
from dualcert.store.expressions import upsert
from dualcert.store.watching import Place
from dualcert.testing.clock import FakeClock
from tests.store.building import PRIMARY, a_full_pair, give_role
from tests.store.worlds import Setting, a_world, ordered
from tests.tinyca import TinyCa


def a_watching_world(
    store: Store, clock: FakeClock, rules: WatchRules | None = None, *, private: bool = True
) -> World:
    """It reaches what is on loopback, with little patience."""
    real: Clock = SystemClock()
    fetcher = Fetcher(real, "test", private=private, limits=Limits(size=80 << 20, seconds=20, pause=5))
    world = a_world(store, clock, Setting())
    return replace(world, watch=rules or WatchRules(), evidence=Lazy(lambda: EvidenceReader(fetcher)))


def spki_of(certificate: x509.Certificate) -> bytes:
    key = certificate.public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def issue(
    tx: Transaction,
    world: World,
    tiny: TinyCa,
    pair: Pair,
    ca: str = PRIMARY,
    **leaf: object,
) -> Certificate:
    """A real certificate of a real key that opens; it takes its lineage's role, and is watched."""
    order = ordered(tx, world, pair, ca)
    request = x509.load_der_x509_csr(order.csr)
    made = tiny.leaf(*pair.names, began=tx.now, key=_Public(request.public_key()), **leaf)  # type: ignore[arg-type]
    arrival = inspection.parse(made.public_bytes(Encoding.PEM).decode() + tiny.chain)
    arrived = Certificate(
        id=0,
        pair_id=pair.id,
        lineage_id=order.lineage_id,
        ca=ca,
        serial=arrival.serial,
        issuer=made.issuer.rfc4514_string(),
        issuer_hash=arrival.issuer_hash,
        issuing_key=arrival.issuing_key,
        root_key=None,
        sha256=arrival.sha256,
        spki=order.spki,
        names_digest=pair.names_digest,
        key_type=arrival.key_type,
        not_before=made.not_valid_before_utc,
        not_after=made.not_valid_after_utc,
        chain_hash=hashlib.sha256(arrival.chain_pem.encode()).digest(),
        stored_at=tx.now,
        flaw=None,
    )
    number = certificates.insert_certificate(tx, arrived, arrival.der, arrival.chain_pem)
    kept = certificates.get(tx, number)
    before = pairs.state(tx, pair.id).certificate_of(order.lineage_id)
    give_role(tx, pair, kept)
    places.begin(world, tx, kept, number, arrival, before)
    return kept


class _Public:
    """A key of which only the public half is known: all that a CA has."""

    def __init__(self, key: object) -> None:
        self._key = key

    def public_key(self) -> object:
        return self._key


def many(store: Store, tiny: TinyCa, how_many: int, place: str) -> list[Certificate]:
    """So many full pairs whose serving certificates, as far as the database knows, are the tiny CA's."""
    with store.write() as tx:
        served = [a_full_pair(tx)[1] for _ in range(how_many)]
        adopt(tx, tiny, served, place)
        # No serial that a CA has given begins with a zero byte.
        return [certificates.get(tx, one.id) for one in served]


def adopt(tx: Transaction, tiny: TinyCa, held: Sequence[Certificate], place: str) -> None:
    by = tiny.intermediate.certificate
    signed = {"issuing_key": spki_of(by), "issuer_hash": hashlib.sha256(by.subject.public_bytes()).digest()}
    pem = tiny.chain
    chain_hash = hashlib.sha256(pem.encode()).digest()
    tx.execute(upsert(t.chain).values(hash=chain_hash, pem=pem).on_conflict_do_nothing())
    for one in held:
        tx.execute(
            update(t.certificate)
            .where(t.certificate.c.id == one.id)
            .values(**signed, chain_hash=chain_hash, serial=b"\x01" + one.serial[1:])
        )
        where = Place(SourceKind.CRL, place, signed["issuing_key"], signed["issuer_hash"], one.ca)
        watching.watch(tx, one.id, [where])

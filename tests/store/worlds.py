"""A world over a real database, with CAs and targets in memory: for driving the engine without a network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from dualcert.clock import Clock
from dualcert.errors import DualcertError
from dualcert.lifecycle import inspection, keymaking
from dualcert.lifecycle.world import CaBinding, Lazy, NewPairs, TargetBinding, World
from dualcert.model import names as naming
from dualcert.model.certificate import Certificate
from dualcert.model.order import Order
from dualcert.model.pair import KeyType, Pair
from dualcert.ports.ca import CertificateAuthority
from dualcert.ports.deploy import Deployer
from dualcert.ports.keys import KeyProtector
from dualcert.store import Store, Transaction, certificates, orders
from dualcert.testing.fakes_deploy import FakeDeployer, FakeDeployerOptions, FakeTarget
from dualcert.testing.fakes_keys import FakeKeyProtector, FakeKeyProtectorOptions
from tests.store.building import BACKUP, PRIMARY, lineage_of

DOMAINS = {PRIMARY: "one", BACKUP: "two"}


def _nobody(ca: str) -> CertificateAuthority:
    raise DualcertError("nobody speaks to a CA in this test", ca=ca)


@dataclass
class Setting:
    """What a test may turn in its world. ``meet`` is what happens to whoever first speaks to a CA."""

    targets: dict[str, FakeTarget] = field(
        default_factory=lambda: {"web": FakeTarget(), "mail": FakeTarget()}
    )
    meet: Callable[[str], CertificateAuthority] = field(default=_nobody)
    max_concurrency: int = 4
    trust_roots: dict[str, Path] = field(default_factory=dict)


def a_world(store: Store, clock: Clock, setting: Setting) -> World:
    return World(
        clock=clock,
        store=store,
        cas={name: _ca(name, setting) for name in DOMAINS},
        dns={},
        targets={
            name: TargetBinding(name, _deployer(target), ()) for name, target in setting.targets.items()
        },
        protectors=_protectors(),
        new_pairs=NewPairs(PRIMARY, BACKUP, "zone", tuple(setting.targets), KeyType.EC_P256, 600),
        draw=lambda: 0.0,
    )


def _ca(name: str, setting: Setting) -> CaBinding:
    return CaBinding(
        name=name,
        directory=f"https://{name}/dir",
        domain=DOMAINS[name],
        operator=None,
        trust_roots=setting.trust_roots.get(name),
        max_concurrency=setting.max_concurrency,
        authority=Lazy(lambda: setting.meet(name)),
    )


def _deployer(target: FakeTarget) -> Lazy[Deployer]:
    return Lazy(lambda: FakeDeployer(FakeDeployerOptions(target=target)))


def _protectors() -> Mapping[str, Lazy[KeyProtector]]:
    return {name: _protector(name) for name in DOMAINS.values()}


def _protector(name: str) -> Lazy[KeyProtector]:
    return Lazy(lambda: FakeKeyProtector(name, FakeKeyProtectorOptions()))


@cache
def _root(ca: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"root of {ca}")])
    usage = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
            *("key_agreement", "encipher_only", "decipher_only"),
        ),
        False,
    )
    return key, (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2046, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def root_pem(ca: str) -> bytes:
    return _root(ca)[1].public_bytes(Encoding.PEM)


def signed(csr: bytes, ca: str, now: datetime) -> str:
    """What a CA makes of a CSR: a certificate of 90 days that is a day old."""
    request = x509.load_der_x509_csr(csr)
    key, root = _root(ca)
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(root.subject)
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=89))
        .add_extension(names.value, critical=True)
        .add_extension(authority, critical=False)
        .sign(key, hashes.SHA256())
    )
    return leaf.public_bytes(Encoding.PEM).decode()


def ordered(tx: Transaction, world: World, pair: Pair, ca: str) -> Order:
    """An order under way, for a real key that is wrapped in the CA's domain."""
    made = keymaking.make(pair.key_type, pair.names)
    lineage = lineage_of(tx, pair, ca)
    wrapped = keymaking.wrap(world, lineage.domain, made)
    return orders.begin(
        tx, lineage, orders.open_issuance(tx, pair.id, "a test"), pair.names, made.csr, wrapped
    )


def issued(tx: Transaction, world: World, pair: Pair, ca: str) -> Certificate:
    """A real certificate of a real key, stored; it holds no role yet."""
    order = ordered(tx, world, pair, ca)
    arrival = inspection.parse(signed(order.csr, ca, tx.now))
    arrived = Certificate(
        id=0,
        pair_id=pair.id,
        lineage_id=order.lineage_id,
        ca=ca,
        serial=arrival.serial,
        issuer=arrival.leaf.issuer.rfc4514_string(),
        issuer_hash=arrival.issuer_hash,
        issuing_key=arrival.issuing_key,
        root_key=None,
        sha256=arrival.sha256,
        spki=order.spki,
        names_digest=naming.digest(pair.names),
        key_type=arrival.key_type,
        not_before=arrival.leaf.not_valid_before_utc,
        not_after=arrival.leaf.not_valid_after_utc,
        chain_hash=hashlib.sha256(arrival.chain_pem.encode()).digest(),
        stored_at=tx.now,
        flaw=None,
    )
    number = certificates.insert_certificate(tx, arrived, arrival.der, arrival.chain_pem)
    return certificates.get(tx, number)

"""Private keys: made, wrapped, and opened only where they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from dualcert.errors import KeyProblem, KeyUnreadable, Refused
from dualcert.lifecycle.plugged import kek_of, protecting
from dualcert.lifecycle.world import World
from dualcert.model.certificate import WrappedKey
from dualcert.model.pair import KeyType
from dualcert.onecpu import one_cpu
from dualcert.ports.keys import KeyContext, KeyProtector, rotation_of
from dualcert.store import Store, keys

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True)
class NewKey:
    """A key before it is wrapped: PKCS#8 PEM, its signed CSR in DER, and its SubjectPublicKeyInfo in DER."""

    pem: bytes = field(repr=False)
    csr: bytes
    public: bytes

    @cached_property
    def spki(self) -> bytes:
        """The hash by which the key is known everywhere."""
        return hashlib.sha256(self.public).digest()


def make(key_type: KeyType, names: Sequence[str]) -> NewKey:
    """A fresh key with a CSR for ``names`` and an empty subject (CAs fill in what they want)."""
    key = _generate(key_type)
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=True)
        .sign(key, hashes.SHA384() if key_type is KeyType.EC_P384 else hashes.SHA256())
    )
    return NewKey(private_pem(key), request.public_bytes(Encoding.DER), _public_der(key.public_key()))


def _generate(key_type: KeyType) -> PrivateKey:
    match key_type:
        case KeyType.EC_P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyType.EC_P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyType.RSA_2048 | KeyType.RSA_3072 | KeyType.RSA_4096:
            with one_cpu.elsewhere():  # it takes up to seconds, and needs no turn
                return rsa.generate_private_key(65537, int(key_type.value.removeprefix("rsa-")))


def account_key() -> NewKey:
    """A fresh P-256 key for an ACME account; it has no CSR."""
    key = ec.generate_private_key(ec.SECP256R1())
    return NewKey(private_pem(key), b"", _public_der(key.public_key()))


def private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def spki_hash(key: PublicKey) -> bytes:
    """SHA-256 of the DER SubjectPublicKeyInfo: how a key is known everywhere."""
    return hashlib.sha256(_public_der(key)).digest()


def _public_der(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_type_of(key: object) -> str:
    """In the words of :class:`KeyType` where there is one."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return {"secp256r1": "ec-p256", "secp384r1": "ec-p384"}.get(key.curve.name, key.curve.name)
    if isinstance(key, rsa.RSAPublicKey):
        return f"rsa-{key.key_size}"
    return type(key).__name__


def wrap(world: World, domain: str, key: NewKey, purpose: str = "certificate") -> WrappedKey:
    """Keep the answer until it is stored: as long as it lives, a rotation does not drop the KEK that it names."""
    return _wrapped(world.protector(domain), key.pem, key.spki, KeyContext(domain, key.spki.hex(), purpose))


def rewrap(world: World, key: WrappedKey, purpose: str) -> WrappedKey:
    """The same private key under the KEK that wraps now. Raises ``KeyUnreadable`` where it does not open."""
    protector = world.protector(key.domain)
    context = KeyContext(key.domain, key.spki.hex(), purpose)
    secret = _unwrapped(protector, key.wrapped, context)
    fresh = _wrapped(protector, secret, key.spki, context)
    if _unwrapped(protector, fresh.wrapped, context) != secret:
        raise KeyUnreadable("its private key does not open again after it was wrapped anew")
    return fresh


def _wrapped(protector: KeyProtector, secret: bytes, spki: bytes, context: KeyContext) -> WrappedKey:
    with protecting(context.domain):
        rotation = rotation_of(protector)
        while True:
            hold = rotation.hold_kek() if rotation is not None else None
            wrapped, kek = protector.wrap(secret, context), kek_of(context.domain, protector)
            # Another id now: the KEK was replaced in between, and which of the two has wrapped is not known.
            if hold is None or kek == hold.key_id:
                break
    _demand_sound(context, secret, wrapped)
    return WrappedKey(spki, context.domain, kek, wrapped, hold)


def _demand_sound(context: KeyContext, secret: bytes, wrapped: object) -> None:
    """Whether it opens again is not tried: who orders need not have the right to open anything."""
    if not isinstance(wrapped, bytes):
        raise _odd_answer(context, f"wrapped a key into a {type(wrapped).__name__}, not into bytes")
    if not wrapped:
        raise _odd_answer(context, "wrapped a key into nothing")
    if secret in wrapped:
        raise _odd_answer(context, "gave a key back as it is, instead of wrapping it")


def _unwrapped(protector: KeyProtector, wrapped: bytes, context: KeyContext) -> bytes:
    with protecting(context.domain):
        secret: object = protector.unwrap(wrapped, context)
    if not isinstance(secret, bytes):
        raise _odd_answer(context, f"opened a key into a {type(secret).__name__}, not into bytes")
    return secret


def _odd_answer(context: KeyContext, what: str) -> KeyProblem:
    return KeyProblem(
        f"the plugin of [keys.{context.domain}] {what}", remedy="That is a defect of the plugin."
    )


def unwrap(world: World, wrapped: WrappedKey | None, purpose: str = "certificate") -> bytes:
    """The private key as PKCS#8 PEM, proved to belong to the public key it is kept for.

    Raises ``KeyProblem``, or ``ConfigurationError`` where the domain's KEK is not to be had.
    """
    if wrapped is None:
        raise KeyUnreadable(
            "its private key is not kept any more", remedy="Order a new certificate: dualcert renew."
        )
    pem = opened(world, wrapped, purpose)
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Without the cause: it may quote what is not a key, and is a secret all the same.
        raise KeyUnreadable("its private key opened, but is no private key") from None
    if not isinstance(key, PrivateKey) or spki_hash(key.public_key()) != wrapped.spki:
        raise KeyUnreadable("its private key opened, but belongs to another certificate")
    return pem


def opened(world: World, key: WrappedKey, purpose: str) -> bytes:
    """The private key as PKCS#8 PEM, as it was wrapped. Raises ``KeyProblem``."""
    protector = world.protector(key.domain)
    context = KeyContext(key.domain, key.spki.hex(), purpose)
    try:
        return _unwrapped(protector, key.wrapped, context)
    except KeyUnreadable:
        if rotation_of(protector) is None:
            raise
        # A rotation may have wrapped it anew, and dropped its old KEK, after it was read.
        with world.store.read() as tx:
            now = keys.find(tx, key.spki)
        if now is None or now.key_id == key.key_id:
            raise
        return _unwrapped(protector, now.wrapped, context)


def demand_none_under(store: Store, missing: Mapping[str, Path]) -> None:
    """``missing``: the places of KEKs that are not there, by isolation domain. Raises ``Refused`` where keys lie under
    one: whatever was made in its place would open none of them, and would hide what is wrong."""
    with store.read() as tx:
        for domain, path in missing.items():
            if lost := keys.keks(tx, domain):
                raise Refused(
                    f"the KEK of domain {domain!r} is missing: {path}; the database holds keys that only "
                    f"{' or '.join(lost)} opens",
                    remedy="Bring the file back from its backup. Only if it is lost for good: leave what was wrapped "
                    f"under it (dualcert compromise --domain {domain}), as docs/security.md says.",
                )

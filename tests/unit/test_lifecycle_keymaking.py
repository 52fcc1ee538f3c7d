from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from dualcert.errors import ConfigurationError, KeyUnreadable
from dualcert.lifecycle import keymaking
from dualcert.lifecycle.keymaking import NewKey
from dualcert.lifecycle.world import Lazy, NewPairs, World
from dualcert.model.pair import KeyType
from dualcert.ports.keys import KeyContext
from dualcert.testing.clock import FakeClock
from dualcert.testing.fakes_keys import FakeKeyProtector, FakeKeyProtectorOptions

NAMES = ("example.com", "*.example.com", "xn--bcher-kva.example")
DOMAINS = ("one", "two")


@pytest.fixture
def world() -> World:
    """Two isolation domains, and nothing else that could be asked."""
    protectors = {name: FakeKeyProtector(name, FakeKeyProtectorOptions()) for name in DOMAINS}
    return World(
        clock=FakeClock(),
        store=cast("Any", None),
        cas={},
        dns={},
        targets={},
        protectors={name: Lazy(lambda made=made: made) for name, made in protectors.items()},  # type: ignore[misc]
        new_pairs=NewPairs("alpha", "beta", "corp", (), KeyType.EC_P256, 600),
        draw=lambda: 0.0,
    )


def pkcs8(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.EC_P384, KeyType.RSA_2048, KeyType.RSA_3072])
def test_a_key_has_the_type_that_was_asked_for(key_type: KeyType) -> None:
    made = keymaking.make(key_type, NAMES)
    key = load_pem_private_key(made.pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    assert keymaking.key_type_of(key.public_key()) == key_type.value
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert made.spki == hashlib.sha256(der).digest() == keymaking.spki_hash(key.public_key())
    if isinstance(key, rsa.RSAPrivateKey):
        assert key.public_key().public_numbers().e == 65537


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.EC_P384])
def test_a_csr_names_everything_once_and_is_signed_by_its_key(key_type: KeyType) -> None:
    made = keymaking.make(key_type, NAMES)
    csr = x509.load_der_x509_csr(made.csr)
    assert csr.is_signature_valid
    assert csr.subject == x509.Name([])
    san = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.critical
    assert tuple(san.value.get_values_for_type(x509.DNSName)) == NAMES
    public = csr.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert keymaking.spki_hash(public) == made.spki


def test_a_hundred_names_fit() -> None:
    names = tuple(f"host{number}.example.com" for number in range(100))
    san = x509.load_der_x509_csr(keymaking.make(KeyType.EC_P256, names).csr).extensions[0].value
    assert isinstance(san, x509.SubjectAlternativeName)
    assert tuple(san.get_values_for_type(x509.DNSName)) == names


def test_no_two_keys_are_the_same() -> None:
    made = {keymaking.make(KeyType.EC_P256, NAMES).spki for _ in range(20)}
    assert len(made | {keymaking.account_key().spki}) == 21


def test_a_key_does_not_show_itself() -> None:
    made = keymaking.make(KeyType.EC_P256, NAMES)
    assert "PRIVATE" not in repr(made)
    assert made.pem.decode().splitlines()[1] not in repr(made)


def test_an_account_key_is_p256_and_has_no_csr() -> None:
    made = keymaking.account_key()
    assert made.csr == b""
    key = load_pem_private_key(made.pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp256r1"


@pytest.mark.parametrize(
    ("key", "word"),
    [
        (ec.generate_private_key(ec.SECP521R1()).public_key(), "secp521r1"),
        (ed25519.Ed25519PrivateKey.generate().public_key(), "Ed25519PublicKey"),
    ],
    ids=["another curve", "no EC and no RSA"],
)
def test_a_key_of_a_type_that_has_no_word_is_called_by_its_own(key: object, word: str) -> None:
    assert word in keymaking.key_type_of(key)


# --- wrapping and opening --------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_wrapped_key_opens_in_its_domain(world: World, domain: str) -> None:
    made = keymaking.make(KeyType.EC_P256, NAMES)
    wrapped = keymaking.wrap(world, domain, made)
    assert (wrapped.spki, wrapped.domain) == (made.spki, domain)
    assert wrapped.key_id == world.protector(domain).key_id
    assert made.pem not in wrapped.wrapped
    assert keymaking.unwrap(world, wrapped) == made.pem


def test_a_key_that_is_not_kept_any_more_cannot_be_opened(world: World) -> None:
    with pytest.raises(KeyUnreadable, match="not kept any more") as caught:
        keymaking.unwrap(world, None)
    assert caught.value.remedy is not None


def test_a_key_does_not_open_for_another_key_or_in_another_domain(world: World) -> None:
    wrapped = keymaking.wrap(world, "one", keymaking.make(KeyType.EC_P256, NAMES))
    other = keymaking.make(KeyType.EC_P256, NAMES)
    for changed in (
        replace(wrapped, spki=other.spki),
        replace(wrapped, domain="two"),
        replace(wrapped, wrapped=wrapped.wrapped[:-1] + bytes([wrapped.wrapped[-1] ^ 1])),
        replace(wrapped, wrapped=b""),
    ):
        with pytest.raises(KeyUnreadable):
            keymaking.unwrap(world, changed)


def test_an_accounts_key_does_not_open_as_a_certificates(world: World) -> None:
    wrapped = keymaking.wrap(world, "one", keymaking.account_key(), "account")
    with pytest.raises(KeyUnreadable):
        keymaking.unwrap(world, wrapped)


def test_a_domain_that_is_not_configured_is_named(world: World) -> None:
    wrapped = keymaking.wrap(world, "one", keymaking.make(KeyType.EC_P256, NAMES))
    with pytest.raises(ConfigurationError, match=r"\[keys.gone\] is not configured"):
        keymaking.unwrap(world, replace(wrapped, domain="gone"))


@pytest.mark.parametrize(
    ("pem", "word"),
    [
        (b"no key at all", "is no private key"),
        (pkcs8(ec.generate_private_key(ec.SECP256R1())), "belongs to another certificate"),
        (pkcs8(ed25519.Ed25519PrivateKey.generate()), "belongs to another certificate"),
    ],
    ids=["garbage", "another key", "another type"],
)
def test_what_opens_and_is_not_the_key_is_refused(world: World, pem: bytes, word: str) -> None:
    made = NewKey(pem, b"", keymaking.account_key().public)
    wrapped = keymaking.wrap(world, "one", made)
    assert (
        world.protector("one").unwrap(wrapped.wrapped, KeyContext("one", made.spki.hex(), "certificate"))
        == pem
    )
    with pytest.raises(KeyUnreadable, match=word) as caught:
        keymaking.unwrap(world, wrapped)
    assert pem.decode() not in str(caught.value)

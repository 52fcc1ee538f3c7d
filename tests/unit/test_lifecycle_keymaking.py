from __future__ import annotations

import hashlib
import logging
import traceback
from collections.abc import Callable
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

from dualcert.errors import ConfigurationError, KeyProblem, KeyUnreadable
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


class _Forgetful(FakeKeyProtector):
    """From some time on it wraps something else than what it is given."""

    instead: bytes | None = None

    def wrap(self, secret: bytes, context: KeyContext) -> bytes:
        return super().wrap(self.instead or secret, context)


def test_a_key_that_was_wrapped_anew_is_opened_once_before_the_old_one_goes(world: World) -> None:
    protector = _Forgetful("one", FakeKeyProtectorOptions())
    world = replace(world, protectors={"one": Lazy(lambda: protector)})
    made = keymaking.make(KeyType.EC_P256, NAMES)
    wrapped = keymaking.wrap(world, "one", made)
    fresh = keymaking.rewrap(world, wrapped, "certificate")
    assert fresh.wrapped != wrapped.wrapped
    assert keymaking.unwrap(world, fresh) == made.pem

    protector.instead = keymaking.make(KeyType.EC_P256, NAMES).pem
    with pytest.raises(KeyUnreadable, match="does not open again"):
        keymaking.rewrap(world, wrapped, "certificate")


# --- protectors that do what their port does not allow ----------------------------------------------------


class OddProtector(FakeKeyProtector):
    """``odd`` is what each method does instead of what it should."""

    def __init__(self, **odd: Callable[[bytes], Any]) -> None:
        super().__init__("one", FakeKeyProtectorOptions())
        self.odd = odd
        self.opened = 0

    @property
    def key_id(self) -> str:
        return cast("str", self.odd["key_id"](b"")) if "key_id" in self.odd else super().key_id

    def wrap(self, secret: bytes, context: KeyContext) -> bytes:
        return (
            cast("bytes", self.odd["wrap"](secret)) if "wrap" in self.odd else super().wrap(secret, context)
        )

    def unwrap(self, wrapped: bytes, context: KeyContext) -> bytes:
        self.opened += 1
        secret = super().unwrap(wrapped, context)
        return cast("bytes", self.odd["unwrap"](secret)) if "unwrap" in self.odd else secret


def with_protector(world: World, protector: OddProtector) -> World:
    return replace(world, protectors={"one": Lazy(lambda: protector)})


def stumble(_secret: bytes) -> None:
    raise ConnectionError("the safe is closed")


def quote(secret: bytes) -> None:
    raise ValueError(f"what is {secret!r}?")


def quote_before(secret: bytes) -> None:
    try:
        quote(secret)
    except ValueError as error:
        raise RuntimeError("it did not work") from error


def quote_as_known(secret: bytes) -> None:
    raise KeyUnreadable(f"what is {secret!r}?")


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"wrap": lambda _: "text"}, "wrapped a key into a str, not into bytes"),
        ({"wrap": lambda _: 7}, "wrapped a key into a int, not into bytes"),
        ({"wrap": lambda _: None}, "wrapped a key into a NoneType, not into bytes"),
        ({"wrap": lambda _: b""}, "wrapped a key into nothing"),
        ({"wrap": lambda secret: b"v1:" + secret}, "gave a key back as it is"),
        ({"wrap": stumble}, "failed unforeseen: ConnectionError"),
        ({"key_id": lambda _: b"id"}, "names its KEK by b'id'"),
        ({"key_id": stumble}, "failed unforeseen: ConnectionError"),
    ],
)
def test_a_key_that_was_not_wrapped_is_not_used(
    world: World, odd: dict[str, Callable[[bytes], Any]], words: str
) -> None:
    protector = OddProtector(**odd)
    with pytest.raises(KeyProblem, match=rf"the plugin of \[keys.one\] {words}"):
        keymaking.wrap(with_protector(world, protector), "one", keymaking.account_key())


def test_a_new_key_is_wrapped_without_opening_any(world: World) -> None:
    """Who orders need not have the right to."""
    protector = OddProtector()
    keymaking.wrap(with_protector(world, protector), "one", keymaking.account_key())
    assert protector.opened == 0


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (lambda _: "text", r"\[keys.one\] opened a key into a str, not into bytes"),
        (stumble, r"\[keys.one\] failed unforeseen: ConnectionError"),
        (lambda _: b"no key", "opened, but is no private key"),
    ],
)
def test_a_key_that_was_not_opened_is_a_problem_of_that_key(
    world: World, odd: Callable[[bytes], Any], words: str
) -> None:
    made = keymaking.account_key()
    world = with_protector(world, OddProtector(unwrap=odd))
    with pytest.raises(KeyProblem, match=words):
        keymaking.unwrap(world, keymaking.wrap(world, "one", made))


@pytest.mark.parametrize("odd", [quote, quote_before, quote_as_known])
def test_an_exception_that_quotes_a_key_is_neither_told_nor_logged(
    world: World, odd: Callable[[bytes], Any], caplog: pytest.LogCaptureFixture
) -> None:
    made = keymaking.account_key()
    caplog.set_level(logging.DEBUG, logger="dualcert")
    world = with_protector(world, OddProtector(unwrap=odd))
    with pytest.raises(KeyProblem) as caught:
        keymaking.unwrap(world, keymaking.wrap(world, "one", made))
    told = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "the plugin of [keys.one] failed unforeseen: " in told
    assert "PRIVATE KEY" not in told


def test_what_a_protector_said_is_in_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="dualcert")
    with pytest.raises(KeyProblem):
        keymaking.wrap(with_protector(world, OddProtector(wrap=stumble)), "one", keymaking.account_key())
    assert "the safe is closed" in caplog.text


def test_an_exception_that_is_its_own_cause_comes_to_an_end(world: World) -> None:
    def circular(_: bytes) -> bytes:
        error = RuntimeError("round and round")
        raise error from error

    with pytest.raises(KeyProblem, match="RuntimeError"):
        keymaking.wrap(with_protector(world, OddProtector(wrap=circular)), "one", keymaking.account_key())

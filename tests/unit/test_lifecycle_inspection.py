"""Certificates as a CA might send them: the good ones pass, each bad one is told by its own words."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dualcert.errors import CertificateUnfit, ConfigurationError
from dualcert.lifecycle import inspection

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAMES = ("example.com", "*.example.com")
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@cache
def rsa_key(number: int) -> rsa.RSAPrivateKey:
    """One of a few keys; making one takes a while."""
    return rsa.generate_private_key(65537, 2048)


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def spki(key: Key | ed25519.Ed25519PrivateKey) -> bytes:
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).digest()


@dataclass(frozen=True)
class Authority:
    key: Key
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()


def authority(name: str, key: Key, above: Authority | None = None) -> Authority:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = above.key if above else key
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above.certificate.subject if above else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=365))
        .not_valid_after(NOW + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    return Authority(key, certificate)


@dataclass(frozen=True)
class Hierarchy:
    root: Authority
    middle: Authority
    issuer: Authority
    roots: Path

    def sign(
        self,
        key: Key | ed25519.Ed25519PrivateKey,
        names: Sequence[str] = NAMES,
        *,
        not_before: datetime = NOW - timedelta(hours=1),
        not_after: datetime = NOW + timedelta(days=90),
        by: Authority | None = None,
        serial: int | None = None,
    ) -> x509.Certificate:
        by = by or self.issuer
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(by.certificate.subject)
            .public_key(key.public_key())
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key()), critical=False
            )
        )
        if names:
            san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            builder = builder.add_extension(san, critical=True)
        return builder.sign(by.key, hashes.SHA256())

    def sent(self, leaf: x509.Certificate, *chain: Authority) -> str:
        parts = [leaf.public_bytes(Encoding.PEM).decode()]
        return "".join(parts + [one.pem for one in chain or (self.issuer, self.middle)])


@pytest.fixture(scope="module", params=["EC", "RSA"])
def ca(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Hierarchy:
    """A root that is trusted, and two intermediates below it."""
    keys = [ec_key() if request.param == "EC" else rsa_key(number) for number in range(3)]
    root = authority("root", keys[0])
    middle = authority("middle", keys[1], root)
    issuer = authority("issuer", keys[2], middle)
    roots = tmp_path_factory.mktemp("roots") / "roots.pem"
    roots.write_text(root.pem)
    return Hierarchy(root, middle, issuer, roots)


def check(
    ca: Hierarchy, pem: str, key: Key, *, now: datetime = NOW, names: Sequence[str] = NAMES
) -> list[str]:
    found, root_key = inspection.flaws(
        inspection.parse(pem), spki=spki(key), names=names, now=now, trust_roots=ca.roots
    )
    trusted = not any("chain" in one for one in found)
    assert root_key == (spki(ca.root.key) if trusted else None)
    return list(found)


# --- what may be used ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [ec_key(), rsa_key(3)], ids=["EC", "RSA"])
def test_a_certificate_as_ordered_has_no_flaw(ca: Hierarchy, key: Key) -> None:
    assert check(ca, ca.sent(ca.sign(key)), key) == []


@pytest.mark.parametrize(
    "names",
    [
        ("example.com",),
        ("*.example.com",),
        ("www.example.com", "example.net"),
        ("xn--bcher-kva.example.com",),
    ],
)
def test_names_of_every_kind_pass(ca: Hierarchy, names: tuple[str, ...]) -> None:
    key = ec_key()
    assert check(ca, ca.sent(ca.sign(key, names)), key, names=names) == []


def test_more_names_than_ordered_and_upper_case_are_no_flaw(ca: Hierarchy) -> None:
    key = ec_key()
    leaf = ca.sign(key, ["EXAMPLE.com", "www.example.com", "*.example.com"])
    assert check(ca, ca.sent(leaf), key) == []


@pytest.mark.parametrize("ahead", [timedelta(seconds=2), timedelta(minutes=59)])
def test_a_cas_clock_may_be_ahead_of_ours(ca: Hierarchy, ahead: timedelta) -> None:
    key = ec_key()
    assert check(ca, ca.sent(ca.sign(key, not_before=NOW + ahead)), key) == []


def test_an_instant_is_the_same_in_every_zone(ca: Hierarchy) -> None:
    key = ec_key()
    leaf = ca.sign(key, not_before=NOW - timedelta(minutes=1), not_after=NOW + timedelta(minutes=1))
    for hours in (-11, 0, 13):
        there = NOW.astimezone(timezone(timedelta(hours=hours)))
        assert check(ca, ca.sent(leaf), key, now=there) == []


def test_a_chain_in_another_order_or_with_its_root_passes(ca: Hierarchy) -> None:
    key = ec_key()
    leaf = ca.sign(key)
    for chain in ((ca.middle, ca.issuer), (ca.issuer, ca.middle, ca.root), (ca.root, ca.middle, ca.issuer)):
        assert check(ca, ca.sent(leaf, *chain), key) == []


# --- what may not ----------------------------------------------------------------------------------------


def test_another_key_than_the_one_that_was_sent(ca: Hierarchy) -> None:
    assert check(ca, ca.sent(ca.sign(ec_key())), ec_key()) == [
        "it is for another key than the one that was sent"
    ]


def test_a_name_that_is_missing_is_named(ca: Hierarchy) -> None:
    key = ec_key()
    wanted = (*NAMES, "www.example.net", "mail.example.net")
    [flaw] = check(ca, ca.sent(ca.sign(key)), key, names=wanted)
    assert flaw == "it does not name mail.example.net, www.example.net"


def test_a_wildcard_does_not_stand_for_the_name_that_was_ordered(ca: Hierarchy) -> None:
    key = ec_key()
    leaf = ca.sign(key, ["*.example.com"])
    assert check(ca, ca.sent(leaf), key, names=("www.example.com",)) == ["it does not name www.example.com"]


def test_no_names_at_all(ca: Hierarchy) -> None:
    key = ec_key()
    found = check(ca, ca.sent(ca.sign(key, [])), key)
    assert found[0] == "it does not name *.example.com, example.com"


def test_an_expired_one(ca: Hierarchy) -> None:
    key = ec_key()
    leaf = ca.sign(key, not_after=NOW)
    found = check(ca, ca.sent(leaf), key)
    assert "it expired on 2026-03-01 12:00 UTC" in found
    assert not any("expired" in one for one in check(ca, ca.sent(leaf), key, now=NOW - timedelta(seconds=1)))


def test_one_that_begins_when_it_ends(ca: Hierarchy) -> None:
    key = ec_key()
    moment = NOW + timedelta(minutes=30)
    leaf = ca.sign(key, not_before=moment, not_after=moment)
    assert "it is never valid" in check(ca, ca.sent(leaf), key)


def test_one_of_the_far_future(ca: Hierarchy) -> None:
    key = ec_key()
    leaf = ca.sign(key, not_before=NOW + timedelta(hours=1, seconds=1))
    assert check(ca, ca.sent(leaf), key) == ["it is not valid before 2026-03-01 13:00 UTC"]


def test_a_root_that_is_not_trusted(ca: Hierarchy) -> None:
    key = ec_key()
    stranger = authority("stranger", ec_key())
    [flaw] = check(ca, ca.sent(ca.sign(key, by=stranger), stranger), key)
    assert "does not lead to a trusted root" in flaw


def test_a_namesake_of_the_issuer(ca: Hierarchy) -> None:
    key = ec_key()
    [flaw] = check(ca, ca.sent(ca.sign(key, by=authority("issuer", ec_key()))), key)
    assert "does not lead to a trusted root" in flaw


def test_a_chain_with_a_link_missing(ca: Hierarchy) -> None:
    key = ec_key()
    [flaw] = check(ca, ca.sent(ca.sign(key), ca.issuer), key)
    assert "does not lead to a trusted root" in flaw


def test_public_roots_do_not_vouch_for_a_private_ca(ca: Hierarchy) -> None:
    key = ec_key()
    arrival = inspection.parse(ca.sent(ca.sign(key)))
    found, root_key = inspection.flaws(arrival, spki=spki(key), names=NAMES, now=NOW, trust_roots=None)
    assert "does not lead to a trusted root" in found[0]
    assert root_key is None


def test_a_key_of_a_type_that_nobody_asked_for(ca: Hierarchy) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    arrival = inspection.parse(ca.sent(ca.sign(key)))
    found, _ = inspection.flaws(arrival, spki=spki(key), names=NAMES, now=NOW, trust_roots=ca.roots)
    assert "it has a key of an unknown type" in found


def test_everything_that_is_wrong_is_said(ca: Hierarchy) -> None:
    stranger = authority("stranger", ec_key())
    leaf = ca.sign(ec_key(), ["other.example.com"], not_after=NOW - timedelta(minutes=1), by=stranger)
    assert len(check(ca, ca.sent(leaf, stranger), ec_key())) == 4


# --- what cannot be read ---------------------------------------------------------------------------------

GARBAGE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("text", ["", "<html>503</html>", GARBAGE, "-----BEGIN CERTIFICATE-----", "é"])
def test_what_is_no_certificate_is_unfit(text: str) -> None:
    with pytest.raises(CertificateUnfit, match="cannot be read"):
        inspection.parse(text)


def test_garbage_behind_the_leaf_is_unfit(ca: Hierarchy) -> None:
    with pytest.raises(CertificateUnfit, match="cannot be read"):
        inspection.parse(ca.sent(ca.sign(ec_key())) + GARBAGE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # The curve's object identifier, secp256r1, made one that does not exist; likewise the key's algorithm.
        (bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d03017f")),
        (bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d027f")),
        # subjectAltName turned into a second authorityKeyIdentifier.
        (bytes.fromhex("0603551d11"), bytes.fromhex("0603551d23")),
    ],
    ids=["an unknown curve", "an unknown algorithm", "an extension twice"],
)
def test_what_is_strange_inside_is_unfit_and_no_crash(ca: Hierarchy, old: bytes, new: bytes) -> None:
    key = ec_key()
    der = ca.sign(key).public_bytes(Encoding.DER)
    assert old in der
    strange = x509.load_der_x509_certificate(der.replace(old, new))
    with pytest.raises(CertificateUnfit, match="cannot be read"):
        inspection.parse(ca.sent(strange))


@pytest.mark.parametrize("text", ["", GARBAGE])
def test_trust_roots_that_cannot_be_read_are_a_matter_of_configuration(
    ca: Hierarchy, tmp_path: Path, text: str
) -> None:
    key = ec_key()
    arrival = inspection.parse(ca.sent(ca.sign(key)))
    file = tmp_path / "roots.pem"
    file.write_text(text)
    for path in (file, tmp_path / "absent.pem"):
        with pytest.raises(ConfigurationError, match=r"trust_roots .* cannot be read"):
            inspection.flaws(arrival, spki=spki(key), names=NAMES, now=NOW, trust_roots=path)


# --- what is read from it --------------------------------------------------------------------------------


def test_what_identifies_a_certificate_is_read_from_it(ca: Hierarchy) -> None:
    key = ec_key()
    leaf = ca.sign(key)
    arrival = inspection.parse(ca.sent(leaf))
    assert arrival.der == leaf.public_bytes(Encoding.DER)
    assert arrival.sha256 == hashlib.sha256(arrival.der).digest()
    assert arrival.spki == spki(key)
    assert int.from_bytes(arrival.serial, "big") == leaf.serial_number
    assert arrival.issuer_hash == hashlib.sha256(ca.issuer.certificate.subject.public_bytes()).digest()
    assert arrival.issuing_key == spki(ca.issuer.key)
    assert arrival.key_type == "ec-p256"
    assert arrival.names == NAMES
    assert arrival.chain_pem == ca.issuer.pem + ca.middle.pem
    assert inspection.pem_of(arrival.der) == leaf.public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize("order", ["middle first", "root first"])
def test_the_issuing_key_is_that_of_who_signed_wherever_it_stands(ca: Hierarchy, order: str) -> None:
    chain = (ca.middle, ca.issuer) if order == "middle first" else (ca.root, ca.middle, ca.issuer)
    assert inspection.parse(ca.sent(ca.sign(ec_key()), *chain)).issuing_key == spki(ca.issuer.key)


def test_who_signed_is_not_known_where_the_ca_does_not_send_it(ca: Hierarchy) -> None:
    leaf = ca.sign(ec_key(), by=ca.root)
    assert inspection.parse(leaf.public_bytes(Encoding.PEM).decode()).issuing_key == b""


@pytest.mark.parametrize("key", [rsa_key(3), ec_key(), ec.generate_private_key(ec.SECP384R1())])
def test_a_key_type_has_the_word_of_the_configuration(ca: Hierarchy, key: Key) -> None:
    words = {"rsa-2048", "ec-p256", "ec-p384"}
    assert inspection.parse(ca.sent(ca.sign(key))).key_type in words


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, b"\x00"),
        (1, b"\x01"),
        (0x7F, b"\x7f"),
        (0x80, b"\x80"),
        (0x0100, b"\x01\x00"),
        (2**159, b"\x80" + bytes(19)),
        (2**160 - 1, b"\xff" * 20),
    ],
)
def test_a_serial_has_neither_a_sign_byte_nor_leading_zeros(number: int, expected: bytes) -> None:
    assert inspection.serial_bytes(number) == expected


def test_a_serial_of_twenty_bytes_with_the_high_bit_set_is_read(ca: Hierarchy) -> None:
    leaf = ca.sign(ec_key(), serial=int.from_bytes(b"\x73" + bytes(range(19)), "big"))
    arrival = inspection.parse(with_high_bit(leaf.public_bytes(Encoding.DER)))
    assert arrival.serial == b"\xf3" + bytes(range(19))
    assert arrival.names == NAMES


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_serial_that_is_not_positive_is_unfit(ca: Hierarchy) -> None:
    der = ca.sign(ec_key(), serial=0x73112233).public_bytes(Encoding.DER)
    negative = der.replace(bytes.fromhex("020473112233"), bytes.fromhex("0204f3112233"))
    with pytest.raises(CertificateUnfit, match="serial number is not positive"):
        inspection.parse(ca.sent(x509.load_der_x509_certificate(negative)))


def with_high_bit(der: bytes) -> str:
    """The same with the serial's high bit set, which cryptography's builder refuses to write."""
    at = der.index(b"\x02\x14\x73")
    longer = bytearray(der[:at] + b"\x02\x15\x00\xf3" + der[at + 3 :])
    for length in (2, 6):  # of the certificate, and of what is signed in it: both are longer by one byte
        longer[length : length + 2] = (int.from_bytes(longer[length : length + 2], "big") + 1).to_bytes(
            2, "big"
        )
    return x509.load_der_x509_certificate(bytes(longer)).public_bytes(Encoding.PEM).decode()

"""Keys and certificates of an invented inventory: real ones, and forms that are filled in a hundred times as fast.

What is filled in has the size and the structure of a real certificate, and its hashes are its own; only its signature
is another one's, its public key no point of the curve, and its private key noise.
"""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from random import Random

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import (
    AuthorityInformationAccessOID,
    ExtendedKeyUsageOID,
    NameOID,
    ObjectIdentifier,
)

from dualcert.clock import from_microseconds
from dualcert.lifecycle import keymaking
from dualcert.lifecycle.world import World
from dualcert.model.pair import KeyType

_SERIALS = range(16, 21)
_POINT = 65
_FILLING = ObjectIdentifier("2.999.1")
"""Of the size that the timestamps of two logs have, under the arc for examples."""

_ORDER_OF_P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True)
class Specimen:
    """One CA's side of a pair: the key as it is kept, its CSR, the certificate and the name it has for its CA."""

    serial: bytes
    spki: bytes
    wrapped: bytes
    csr: bytes
    der: bytes
    ari_id: str

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.der).digest()


@dataclass(frozen=True)
class Places:
    """Where the blanks of a CA's forms are; they count from 0. ``spki``: what stands in front of a public point.

    ``blanks``, of a certificate: the two ends of its validity, the point, and the name as often as it is there; so many
    octets later as its serial, which stands before them, is long.
    """

    spki: bytes
    csr_point: int
    csr_names: tuple[int, ...]
    serial: int
    blanks: tuple[int, ...]


class InventedCa:
    """A root that signs an issuing certificate that signs leaves."""

    def __init__(self, name: str, random: Random, now: datetime) -> None:
        self.key = _key(random)
        root_key = _key(random)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Invented issuing CA {name}")])
        root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Invented root {name}")])
        issuing = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(root)
            .public_key(self.key.public_key())
            .serial_number(random.getrandbits(150) | 1)
            .not_valid_before(now - timedelta(days=365))
            .not_valid_after(now + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(root_key, hashes.SHA256())
        )
        self.name = name
        self.crl = f"http://{name}.invalid/7.crl"
        self.subject = subject
        self.issuer = subject.rfc4514_string()
        self.issuer_hash = hashlib.sha256(subject.public_bytes()).digest()
        self.issuing_key = keymaking.spki_hash(self.key.public_key())
        self.root_key = keymaking.spki_hash(root_key.public_key())
        self.chain_pem = issuing.public_bytes(Encoding.PEM).decode("ascii")
        self.chain_hash = hashlib.sha256(self.chain_pem.encode("ascii")).digest()
        self._filling = random.randbytes(242)
        signer = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()).digest
        self._signer = _base64url(signer)

    def ari_id(self, serial: bytes) -> str:
        """RFC 9773 section 4.1, for a serial whose first bit is not set."""
        return f"{self._signer}.{_base64url(serial)}"

    def sign(
        self,
        key: ec.EllipticCurvePublicKey,
        names: Sequence[str],
        serial: bytes,
        since: datetime,
        until: datetime,
    ) -> bytes:
        """A leaf with all that a public CA puts into one."""
        usage = dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "key_cert_sign",
                "crl_sign",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        point = x509.DistributionPoint([x509.UniformResourceIdentifier(self.crl)], None, None, None)
        issuer = x509.AccessDescription(
            AuthorityInformationAccessOID.CA_ISSUERS,
            x509.UniformResourceIdentifier(f"http://{self.name}.invalid/issuing.der"),
        )
        policy = x509.PolicyInformation(ObjectIdentifier("2.23.140.1.2.1"), None)
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.subject)
            .public_key(key)
            .serial_number(int.from_bytes(serial, "big"))
            .not_valid_before(since)
            .not_valid_after(until)
            .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier(self._filling[:20]), critical=False)
            .add_extension(authority, critical=False)
            .add_extension(x509.AuthorityInformationAccess([issuer]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=True)
            .add_extension(x509.CertificatePolicies([policy]), critical=False)
            .add_extension(x509.CRLDistributionPoints([point]), critical=False)
            .add_extension(x509.UnrecognizedExtension(_FILLING, self._filling), critical=False)
        )
        return leaf.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)


class Specimens:
    """Makes what one CA has issued. ``forms``: how the names of every pair are written, from one name of one length."""

    def __init__(self, world: World, ca: str, forms: Sequence[str], example: str, random: Random) -> None:
        self.ca = InventedCa(ca, random, world.clock.now())
        self.domain = world.ca(ca).domain
        self.key_id = world.protector(self.domain).key_id
        self._world = world
        self._random = random
        self._forms = forms
        self._form = _Form(world, self.ca, self.domain, forms, example)

    @property
    def places(self) -> Places:
        return self._form.places

    def real(self, name: str, since: int, until: int) -> Specimen:
        """Its key opens and its certificate is signed. Times in microseconds, whole seconds."""
        names = [form.format(name) for form in self._forms]
        key = keymaking.make(KeyType.EC_P256, names)
        private = load_pem_private_key(key.pem, None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        serial = self._serial()
        der = self.ca.sign(
            private.public_key(), names, serial, from_microseconds(since), from_microseconds(until)
        )
        wrapped = keymaking.wrap(self._world, self.domain, key).wrapped
        return Specimen(serial, key.spki, wrapped, key.csr, der, self.ca.ari_id(serial))

    def filled_in(self, name: str, since: int, until: int) -> Specimen:
        serial = self._serial()
        spki, csr, der = self._form.fill_in(
            serial, b"\x04" + self._random.randbytes(_POINT - 1), name.encode("ascii"), since, until
        )
        wrapped = self._form.wrapped_head + self._random.randbytes(self._form.wrapped_rest)
        return Specimen(serial, spki, wrapped, csr, der, self.ca.ari_id(serial))

    def _serial(self) -> bytes:
        """Sixteen to twenty octets, of which the first has no sign."""
        drawn = self._random.randbytes(_SERIALS[-1])
        return drawn[: _SERIALS[drawn[-1] % len(_SERIALS)]] if 0 < drawn[0] < 0x80 else self._serial()


class _Form:
    """A CSR and, for each length of a serial, a certificate, with blanks."""

    def __init__(self, world: World, ca: InventedCa, domain: str, forms: Sequence[str], example: str) -> None:
        names = [form.format(example) for form in forms]
        key = keymaking.make(KeyType.EC_P256, names)
        private = load_pem_private_key(key.pem, None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        public = private.public_key()
        point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        name = example.encode("ascii")
        self._name, self._times = len(name), len(forms)
        every = (name,) * len(forms)
        self._csr = _blanks(key.csr, (point, *every))
        self._spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)[:-_POINT]
        # Dates that no other certificate here has.
        since, until = datetime(2001, 2, 3, 4, 5, 6), datetime(2049, 8, 9, 10, 11, 12)  # noqa: DTZ001 - as X.509's
        times = [_utc_time(f"{one:%y%m%d%H%M%S}") for one in (since, until)]
        self._leaves = {}
        places = set()
        for length in _SERIALS:
            serial = b"\x5a" * length
            der = ca.sign(public, names, serial, since, until)
            self._leaves[length] = _blanks(der, (serial, *times, point, *every))
            later = [*(der.index(one) for one in (*times, point)), *_all_places(der, name)]
            places.add((der.index(serial), *(at - length for at in later)))
        [(at_serial, *blanks)] = places  # the same for all lengths
        self.places = Places(
            self._spki, key.csr.index(point), tuple(_all_places(key.csr, name)), at_serial, tuple(blanks)
        )
        wrapped = keymaking.wrap(world, domain, key).wrapped
        self.wrapped_head = wrapped[:9]
        """The format's number and the KEK's id."""
        self.wrapped_rest = len(wrapped) - len(self.wrapped_head)

    def fill_in(
        self, serial: bytes, point: bytes, name: bytes, since: int, until: int
    ) -> tuple[bytes, bytes, bytes]:
        """The public key's hash, the CSR, the certificate."""
        assert len(name) == self._name
        every = (name,) * self._times
        blanks = (serial, _at(since), _at(until), point, *every)
        spki = hashlib.sha256(self._spki + point).digest()
        return spki, self._csr % (point, *every), self._leaves[len(serial)] % blanks


def _blanks(der: bytes, values: Sequence[bytes]) -> bytes:
    """A text for ``%`` that has a blank in place of each of the values, which stand in it in this order."""
    text = der.replace(b"%", b"%%")
    for value in set(values):
        sought = value.replace(b"%", b"%%")
        if text.count(sought) != values.count(value):
            raise AssertionError("what is to be filled in stands elsewhere, too")
        text = text.replace(sought, b"%b")
    return text


def _all_places(der: bytes, value: bytes) -> list[int]:
    return [found.start() for found in re.finditer(re.escape(value), der)]


@lru_cache(maxsize=8)
def _at(at: int) -> bytes:
    """The sides of a pair have the same times."""
    days, second = divmod(at // 1_000_000, 86_400)
    minutes, seconds = divmod(second, 60)
    return _utc_time(f"{_day(days)}{minutes // 60:02}{minutes % 60:02}{seconds:02}")


@lru_cache(maxsize=8)
def _day(days: int) -> str:
    return f"{from_microseconds(days * 86_400_000_000):%y%m%d}"


def _utc_time(digits: str) -> bytes:
    return f"{digits}Z".encode("ascii")


def _key(random: Random) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(random.randrange(1, _ORDER_OF_P256), ec.SECP256R1())


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")

"""What arrived, read and checked before anything trusts it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509 import verification

from dualcert.errors import CertificateUnfit, ConfigurationError
from dualcert.lifecycle.keymaking import key_type_of
from dualcert.model import names as naming

_AHEAD = timedelta(hours=1)
"""How far a CA's clock may be ahead of ours."""

_UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True)
class Arrival:
    """A certificate as it came from its CA. ``chain_pem`` holds what came after the leaf, ``intermediates`` parsed.

    What is asked for several times on the way into the database is computed once.
    """

    leaf: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    chain_pem: str

    @cached_property
    def der(self) -> bytes:
        return self.leaf.public_bytes(Encoding.DER)

    @cached_property
    def sha256(self) -> bytes:
        return self.leaf.fingerprint(hashes.SHA256())

    @cached_property
    def spki(self) -> bytes:
        return _spki(self.leaf)

    @property
    def serial(self) -> bytes:
        return serial_bytes(self.leaf.serial_number)

    @cached_property
    def issuer_hash(self) -> bytes:
        return hashlib.sha256(self.leaf.issuer.public_bytes()).digest()

    @cached_property
    def issuing_key(self) -> bytes:
        """Empty where the CA did not send the certificate of who signed; it may stand anywhere in what was sent."""
        issuers = (one for one in self.intermediates if one.subject == self.leaf.issuer)
        return next(map(spki_of_ca, issuers), b"")

    @property
    def key_type(self) -> str:
        return key_type_of(self.leaf.public_key())

    @cached_property
    def names(self) -> tuple[str, ...]:
        try:
            extension = self.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (x509.ExtensionNotFound, ValueError):
            return ()
        return tuple(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))


def serial_bytes(serial: int) -> bytes:
    """The number without sign byte or leading zeros; RFC 5280 allows twenty octets."""
    return serial.to_bytes(max(1, (serial.bit_length() + 7) // 8), "big")


def _spki(certificate: x509.Certificate) -> bytes:
    key = certificate.public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


@lru_cache(maxsize=256)
def spki_of_ca(certificate: x509.Certificate) -> bytes:
    """The SHA-256 of its SubjectPublicKeyInfo. The same few certificates of CAs come with all others."""
    return _spki(certificate)


def parse(pem: str) -> Arrival:
    """Raises ``CertificateUnfit`` where it cannot be read."""
    try:
        leaf, *intermediates = x509.load_pem_x509_certificates(pem.encode("ascii"))
        chain_pem = "".join(one.public_bytes(Encoding.PEM).decode("ascii") for one in intermediates)
        arrival = Arrival(leaf, tuple(intermediates), chain_pem)
        # Keys and extensions are decoded when first asked for: that is to fail here, where it can be told.
        _ = arrival.spki, arrival.issuing_key, leaf.extensions
        if leaf.serial_number <= 0:
            raise ValueError("its serial number is not positive (RFC 5280 section 4.1.2.2)")
    except _UNREADABLE as error:
        raise CertificateUnfit(f"what the CA sent cannot be read as certificates: {error}") from error
    return arrival


def pem_of(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode("ascii")


def flaws(
    arrival: Arrival, *, spki: bytes, names: Sequence[str], now: datetime, trust_roots: Path | None
) -> tuple[tuple[str, ...], bytes | None]:
    """What speaks against using it (empty: nothing), and the hash of the root key that its chain leads to."""
    found = []
    if arrival.spki != spki:
        found.append("it is for another key than the one that was sent")
    if not isinstance(arrival.leaf.public_key(), rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        found.append("it has a key of an unknown type")
    missing = sorted(set(names) - set(arrival.names))
    if missing:
        found.append(f"it does not name {', '.join(missing[:5])}")
    if arrival.leaf.not_valid_after_utc <= now:
        found.append(f"it expired on {arrival.leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if arrival.leaf.not_valid_before_utc > now + _AHEAD:
        found.append(f"it is not valid before {arrival.leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    if arrival.leaf.not_valid_before_utc >= arrival.leaf.not_valid_after_utc:
        found.append("it is never valid")
    try:
        root_key = _root_key(arrival, names, now, trust_roots)
    except verification.VerificationError as error:
        found.append(f"its chain does not lead to a trusted root ({error})")
        root_key = None
    return tuple(found), root_key


def _root_key(arrival: Arrival, names: Sequence[str], now: datetime, trust_roots: Path | None) -> bytes:
    # A CA's clock may be ahead of ours by seconds: what starts in a moment is looked at as it will be then.
    instant = max(now, arrival.leaf.not_valid_before_utc)
    verifier = (
        verification.PolicyBuilder()
        .store(_store(trust_roots, stamp(trust_roots)))
        .time(instant)
        .build_server_verifier(x509.DNSName(naming.probe_name(tuple(names))))
    )
    return spki_of_ca(verifier.verify(arrival.leaf, list(arrival.intermediates))[-1])


def stamp(path: Path | None) -> tuple[int, int] | None:
    """Changes whenever the file does."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None  # it is told by whoever opens it
    return None if found is None else (found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=32)
def _store(path: Path | None, _stamp: tuple[int, int] | None) -> verification.Store:
    return verification.Store(_roots(path))


def trusted_roots(path: Path | None) -> list[x509.Certificate]:
    """The roots of a PEM file, or the public ones. Raises ``ConfigurationError``."""
    return _roots(path)


def _roots(path: Path | None) -> list[x509.Certificate]:
    if path is None:
        return _public_roots()
    try:
        roots = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        # What the library says of a file that is no PEM is a page for programmers.
        why = error.strerror if isinstance(error, OSError) else "it holds no certificate in PEM"
        raise ConfigurationError(
            f"trust_roots {path} cannot be read: {why}", remedy="Put PEM certificates there."
        ) from error
    return roots


@lru_cache(maxsize=1)
def _public_roots() -> list[x509.Certificate]:
    import certifi

    with warnings.catch_warnings():
        # Some of the older roots have the serial number 0, which helps nobody to know.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        return x509.load_pem_x509_certificates(Path(certifi.where()).read_bytes())

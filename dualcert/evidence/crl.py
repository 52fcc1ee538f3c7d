"""A certificate revocation list, read and verified (RFC 5280 sections 5 and 6.3)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from dualcert.errors import EvidenceRejected
from dualcert.evidence import der
from dualcert.evidence.signatures import verify
from dualcert.ports.evidence import KnownCrl, RevokedEntry

APART = timedelta(minutes=90)
"""How far this host's clock may be off from the CA's."""

_UNREADABLE = (
    ValueError,
    IndexError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_NAMED = 200
_CERTIFICATE_ISSUER = bytes.fromhex("0603551d1d")
_UNDERSTOOD = {x509.IssuingDistributionPoint.oid}


@dataclass(frozen=True)
class VerifiedCrl:
    """See ``ports.evidence.Crl``."""

    number: int | None
    this_update: datetime
    next_update: datetime
    etag: str | None
    modified: str | None
    digest: bytes
    _data: bytes = field(repr=False)
    _entries: tuple[int, int] = field(repr=False)

    def batches(self, size: int) -> Iterator[tuple[Sequence[bytes], Sequence[int]]]:
        try:
            yield from der.serials(self._data, *self._entries, size)
        except (ValueError, IndexError) as error:
            raise EvidenceRejected(f"its entries cannot be read: {error}") from None

    def entry(self, position: int) -> RevokedEntry:
        end = der.header(self._data, position)[2]
        return _entry(self._data[position:end])


def read(
    data: bytes, place: str, issuer: x509.Certificate, known: KnownCrl, now: datetime, *, of_cas: bool
) -> VerifiedCrl:
    """Verify what a distribution point gave. Raises ``EvidenceRejected`` for all that proves nothing."""
    try:
        crl = x509.load_der_x509_crl(data)
        parts = der.layout(data)
        extensions = crl.extensions
        issuer_name, this_update, next_update = crl.issuer, crl.last_update_utc, crl.next_update_utc
    except _UNREADABLE as error:
        raise EvidenceRejected(f"it cannot be read as a CRL: {error}") from None
    if issuer_name.public_bytes() != issuer.subject.public_bytes():
        told = issuer_name.rfc4514_string()[:_NAMED]  # nobody has vouched for it: it may be anything
        raise EvidenceRejected(f"it is the CRL of another CA, {told!r}")
    # That the issuer's certificate allows cRLSign is not demanded: some CAs of private networks leave it out, and
    # whoever holds the key that signs certificates can do no worse with a CRL.
    begin, end = parts.signed
    verify(issuer.public_key(), crl.signature, memoryview(data)[begin:end], crl)
    number = _number(extensions)
    _check_scope(extensions, data, place, of_cas=of_cas)
    if next_update is None:
        raise EvidenceRejected("it does not say until when it is good (nextUpdate)")
    if this_update > now + APART:
        raise EvidenceRejected(f"it is of the future: {this_update:%Y-%m-%d %H:%M} UTC")
    if next_update < now - APART:
        raise EvidenceRejected(f"it is stale since {next_update:%Y-%m-%d %H:%M} UTC")
    _check_order(known, number, this_update)
    digest = hashlib.sha256(data).digest()
    return VerifiedCrl(number, this_update, next_update, None, None, digest, data, parts.entries)


def _number(extensions: x509.Extensions) -> int | None:
    for one in extensions:
        if isinstance(one.value, x509.CRLNumber):
            return one.value.crl_number
    return None


def _check_scope(extensions: x509.Extensions, data: bytes, place: str, *, of_cas: bool) -> None:
    """Whether it is the whole list of what was asked for."""
    for one in extensions:
        if isinstance(one.value, x509.DeltaCRLIndicator):
            raise EvidenceRejected("it is a delta CRL, which says only what has changed")
        if one.critical and one.oid not in _UNDERSTOOD:
            raise EvidenceRejected(
                f"it has a critical extension that is not understood, {one.oid.dotted_string}"
            )
        if isinstance(one.value, x509.IssuingDistributionPoint):
            _check_point(one.value, place, of_cas=of_cas)
    if _CERTIFICATE_ISSUER in data:
        raise EvidenceRejected("it is an indirect CRL, which tells of several CAs")


def _check_point(point: x509.IssuingDistributionPoint, place: str, *, of_cas: bool) -> None:
    if point.indirect_crl:
        raise EvidenceRejected("it is an indirect CRL, which tells of several CAs")
    if point.only_contains_attribute_certs or point.only_some_reasons:
        raise EvidenceRejected("it tells of some certificates or reasons only")
    if point.only_contains_user_certs if of_cas else point.only_contains_ca_certs:
        raise EvidenceRejected("it does not tell of certificates of this kind")
    if point.relative_name is not None:
        raise EvidenceRejected("it is for another distribution point")
    if point.full_name is not None and place not in [
        name.value for name in point.full_name if isinstance(name, x509.UniformResourceIdentifier)
    ]:
        raise EvidenceRejected("it is for another distribution point")


def _check_order(known: KnownCrl, number: int | None, this_update: datetime) -> None:
    """An old list that is still fresh would hide what was revoked since."""
    if known.number is not None and (number is None or number < known.number):
        raise EvidenceRejected(f"it is older than what was there: number {number} after {known.number}")
    if known.this_update is not None and this_update < known.this_update:
        raise EvidenceRejected(f"it is older than what was there: of {this_update:%Y-%m-%d %H:%M} UTC")


_REASONS = {
    1: "keyCompromise",
    2: "cACompromise",
    3: "affiliationChanged",
    4: "superseded",
    5: "cessationOfOperation",
    6: "certificateHold",
    8: "removeFromCRL",
    9: "privilegeWithdrawn",
    10: "aACompromise",
}
_REASON_CODE = bytes.fromhex("0603551d15")


def _entry(data: bytes) -> RevokedEntry:
    """An entry's date and reason. What else it says, critical or not, only narrows what a revocation means."""
    try:
        _, begin, end = der.header(data, 0)
        at = der.header(data, begin)[2]
        tag, inner, stop = der.header(data, at)
        text = data[inner:stop].decode("ascii")
        if tag == der.UTC_TIME:
            text = ("20" if int(text[:2]) < 50 else "19") + text
        since = datetime.strptime(text.removesuffix("Z") + "+0000", "%Y%m%d%H%M%S%z")
        code = _reason(data, stop, end)
    except (ValueError, IndexError) as error:
        raise EvidenceRejected(f"an entry cannot be read: {error}") from None
    return RevokedEntry(since, _REASONS.get(code, "unspecified"))


def _reason(data: bytes, at: int, end: int) -> int:
    if at >= end:
        return 0
    _, at, end = der.header(data, at)
    while at < end:
        _, inner, stop = der.header(data, at)
        if data[inner : inner + 5] == _REASON_CODE:
            return data[stop - 1]  # OCTET STRING of an ENUMERATED of one byte
        at = stop
    return 0

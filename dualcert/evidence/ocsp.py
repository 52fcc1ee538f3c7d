"""The online status of one certificate (RFC 6960): who may answer, for what, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from dualcert.errors import EvidenceRejected
from dualcert.evidence.crl import APART
from dualcert.evidence.signatures import verify
from dualcert.ports.evidence import OcspAnswer, OcspStatus

_LASTS = timedelta(days=1)
"""How long an answer counts that does not say it."""

_STATUS = {
    ocsp.OCSPCertStatus.GOOD: OcspStatus.GOOD,
    ocsp.OCSPCertStatus.REVOKED: OcspStatus.REVOKED,
    ocsp.OCSPCertStatus.UNKNOWN: OcspStatus.UNKNOWN,
}


def request(certificate: x509.Certificate, issuer: x509.Certificate) -> ocsp.OCSPRequest:
    # SHA-1 names the issuer here and secures nothing; it is what every responder knows (RFC 5019).
    return ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA1()).build()  # noqa: S303


def read(data: bytes, asked: ocsp.OCSPRequest, issuer: x509.Certificate, now: datetime) -> OcspAnswer:
    """Verify a responder's answer. Raises ``EvidenceRejected`` for all that proves nothing."""
    try:
        response = ocsp.load_der_ocsp_response(data)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise EvidenceRejected(f"the responder says {response.response_status.name.lower()}")
        key = _responder(response, issuer, now)
        verify(key, response.signature, response.tbs_response_bytes, response)
        one = next(_about(response, asked), None)
        if one is None:
            raise EvidenceRejected("it does not tell of the certificate that was asked about")
        return _fresh(one, now)
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise EvidenceRejected(f"it cannot be read as an OCSP response: {error}") from None


def _about(response: ocsp.OCSPResponse, asked: ocsp.OCSPRequest) -> Iterator[Any]:
    for one in response.responses:
        same_hash = isinstance(one.hash_algorithm, hashes.SHA1)
        if (
            same_hash
            and one.serial_number == asked.serial_number
            and one.issuer_key_hash == asked.issuer_key_hash
            and one.issuer_name_hash == asked.issuer_name_hash
        ):
            yield one


def _responder(response: ocsp.OCSPResponse, issuer: x509.Certificate, now: datetime) -> Any:
    """The key that may sign: the issuer's own, or one that the issuer has set to it (RFC 6960 section 4.2.2.2)."""
    if _is(response, issuer):
        return issuer.public_key()
    for one in response.certificates:
        if _is(response, one) and _delegated(one, issuer, now):
            return one.public_key()
    raise EvidenceRejected("whoever signed it may not speak for the CA")


def _is(response: ocsp.OCSPResponse, subject: x509.Certificate) -> bool:
    if response.responder_name is not None:
        return response.responder_name == subject.subject
    return response.responder_key_hash == _key_hash(subject)


def _key_hash(subject: x509.Certificate) -> bytes:
    digest: bytes = x509.SubjectKeyIdentifier.from_public_key(subject.public_key()).digest
    return digest


def _delegated(one: x509.Certificate, issuer: x509.Certificate, now: datetime) -> bool:
    try:
        one.verify_directly_issued_by(issuer)
        usage = one.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
        return False
    in_time = one.not_valid_before_utc - APART <= now <= one.not_valid_after_utc + APART
    return in_time and ExtendedKeyUsageOID.OCSP_SIGNING in usage


def _fresh(one: Any, now: datetime) -> OcspAnswer:
    this_update, next_update = one.this_update_utc, one.next_update_utc
    if this_update > now + APART:
        raise EvidenceRejected(f"it is of the future: {this_update:%Y-%m-%d %H:%M} UTC")
    if (next_update or this_update + _LASTS) < now - APART:
        raise EvidenceRejected(f"it is stale: of {this_update:%Y-%m-%d %H:%M} UTC")
    reason = one.revocation_reason
    return OcspAnswer(
        status=_STATUS[one.certificate_status],
        this_update=this_update,
        next_update=next_update,
        since=one.revocation_time_utc,
        reason=reason.value if reason is not None else "unspecified",
    )

"""Fetching and verifying together: the port's implementation."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from dualcert.errors import EvidenceRejected, SourceUnreachable
from dualcert.evidence import crl, ocsp
from dualcert.evidence.fetching import Fetched, Fetcher
from dualcert.ports.evidence import Crl, KnownCrl, OcspAnswer

_NOT_MODIFIED = 304


class EvidenceReader:
    """See ``ports.evidence.Evidence``."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    def crl(self, place: str, issuer: bytes, known: KnownCrl, now: datetime, *, of_cas: bool) -> Crl | None:
        headers = {
            name: value
            for name, value in (("If-None-Match", known.etag), ("If-Modified-Since", known.modified))
            if value is not None
        }
        answer = self._fetcher.get(place, headers)
        if answer.status == _NOT_MODIFIED and headers:
            return None
        _require_ok(answer)
        read = crl.read(answer.body, place, x509.load_der_x509_certificate(issuer), known, now, of_cas=of_cas)
        return replace(read, etag=answer.headers.get("etag"), modified=answer.headers.get("last-modified"))

    def ocsp(self, place: str, issuer: bytes, certificate: bytes, now: datetime) -> OcspAnswer:
        signer = x509.load_der_x509_certificate(issuer)
        asked = ocsp.request(x509.load_der_x509_certificate(certificate), signer)
        body = asked.public_bytes(Encoding.DER)
        answer = self._fetcher.post(place, body, {"Content-Type": "application/ocsp-request"})
        _require_ok(answer)
        return ocsp.read(answer.body, asked, signer, now)


def _require_ok(answer: Fetched) -> None:
    if answer.status >= 500:
        raise SourceUnreachable(f"the answer was {answer.status}")
    if answer.status != 200:
        raise EvidenceRejected(f"the answer was {answer.status}")

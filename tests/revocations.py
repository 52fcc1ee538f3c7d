"""A CA's word about what it has revoked, for tests: CRLs and OCSP answers, and a server that hands them out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import ocsp

from dualcert.clock import SystemClock
from dualcert.lab.https import fetch
from dualcert.lab.pebble import PebbleServer


@dataclass(frozen=True)
class Signer:
    """Who signs certificates, CRLs and OCSP answers."""

    certificate: x509.Certificate
    key: Any = field(repr=False)

    @classmethod
    def of(cls, pebble: PebbleServer) -> Signer:
        """Pebble's intermediate, whose key it gives away."""
        _, pem = fetch(f"{pebble.management_url}/intermediates/0", pebble.api_ca_pem)
        _, key = fetch(f"{pebble.management_url}/intermediate-keys/0", pebble.api_ca_pem)
        return cls(x509.load_pem_x509_certificate(pem), serialization.load_pem_private_key(key, None))


# --- CRLs, byte by byte: cryptography makes none with a million entries, or with serials of twenty full bytes ------


def tlv(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    digits = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(digits)]) + digits + content


def parts(content: bytes) -> list[bytes]:
    """The elements of a constructed value's content."""
    found, at = [], 0
    while at < len(content):
        begin, length = at + 2, content[at + 1]
        if length > 0x7F:
            digits = length & 0x7F
            length, begin = int.from_bytes(content[begin : begin + digits], "big"), begin + digits
        found.append(content[at : begin + length])
        at = begin + length
    return found


def inside(element: bytes) -> bytes:
    length = element[1]
    return element[2:] if length < 0x80 else element[2 + (length & 0x7F) :]


def entry(serial: bytes, since: datetime, reason: int | None = None) -> bytes:
    number = (b"\0" if serial[0] & 0x80 else b"") + serial
    code = b""
    if reason is not None:
        wrapped = tlv(0x04, tlv(0x0A, bytes([reason])))
        code = tlv(0x30, tlv(0x30, bytes.fromhex("0603551d15") + wrapped))
    return tlv(0x30, tlv(0x02, number) + tlv(0x17, f"{since:%y%m%d%H%M%SZ}".encode()) + code)


def crl(
    signer: Signer,
    revoked: Collection[bytes] | Mapping[bytes, int | None] = (),
    *,
    now: datetime | None = None,
    number: int | None = 1,
    lasts: timedelta = timedelta(days=1),
    extensions: Collection[tuple[x509.ExtensionType, bool]] = (),
    key: Any = None,
    name: x509.Name | None = None,
    entries: bytes | None = None,
) -> bytes:
    """A CRL (DER) of some serials, or of serials with their reasons."""
    at = (now or SystemClock().now()).replace(microsecond=0)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name or signer.certificate.subject)
        .last_update(at)
        .next_update(at + lasts)
    )
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for one, critical in extensions:
        builder = builder.add_extension(one, critical)
    signing = key or signer.key
    small = builder.sign(signing, hashes.SHA256())
    reasons = revoked if isinstance(revoked, Mapping) else dict.fromkeys(revoked)
    body = entries or b"".join(entry(serial, at, reason) for serial, reason in reasons.items())
    elements = parts(inside(small.tbs_certlist_bytes))
    # version, algorithm, issuer, thisUpdate, nextUpdate; then the entries; then the extensions
    listed = [tlv(0x30, body)] if body else []
    signed = tlv(0x30, b"".join([*elements[:5], *listed, *elements[5:]]))
    signature = (
        signing.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        if isinstance(signing, rsa.RSAPrivateKey)
        else signing.sign(signed, ec.ECDSA(hashes.SHA256()))
    )
    return tlv(0x30, signed + elements[1] + tlv(0x03, b"\0" + signature))


# --- OCSP ------------------------------------------------------------------------------------------------


def ocsp_answer(
    request: bytes,
    signer: Signer,
    leaf: x509.Certificate,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    *,
    now: datetime | None = None,
    lasts: timedelta = timedelta(hours=12),
    by: Signer | None = None,
) -> bytes:
    """What a responder says of ``leaf``, signed by its CA, or ``by`` another."""
    ocsp.load_der_ocsp_request(request)
    at = (now or SystemClock().now()).replace(microsecond=0)
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    speaker = by or signer
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=leaf,
            issuer=signer.certificate,
            algorithm=hashes.SHA1(),
            cert_status=status,
            this_update=at,
            next_update=at + lasts,
            revocation_time=at if revoked else None,
            revocation_reason=x509.ReasonFlags.superseded if revoked else None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, speaker.certificate)
    )
    if by is not None:
        builder = builder.certificates([by.certificate])
    return builder.sign(speaker.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


# --- a server --------------------------------------------------------------------------------------------


@dataclass
class Told:
    """What stands at a path: a body, or what makes one of the request's."""

    body: bytes | Callable[[bytes], bytes]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Publisher:
    """A server of CRLs and OCSP answers on loopback; ``asked`` has (path, status) of every request."""

    def __init__(self) -> None:
        self.at: dict[str, Told] = {}
        self.asked: list[tuple[str, int]] = []
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher._answer(self, b"")

            def do_POST(self) -> None:
                publisher._answer(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def put(self, path: str, body: bytes | Callable[[bytes], bytes], **headers: str) -> str:
        """Have something stand at a path from now on; its URL."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.at[path] = Told(body, headers=named)
        return f"{self.url}{path}"

    def _answer(self, request: Any, body: bytes) -> None:
        told = self.at.get(request.path, Told(b"", 404))
        content = told.body(body) if callable(told.body) else told.body
        etag = told.headers.get("ETag")
        status = 304 if etag is not None and request.headers.get("If-None-Match") == etag else told.status
        self.asked.append((request.path, status))
        request.send_response(status)
        for name, value in told.headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0" if status == 304 else str(len(content)))
        request.end_headers()
        if status != 304:
            request.wfile.write(content)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def publishing() -> Iterator[Publisher]:
    publisher = Publisher()
    try:
        yield publisher
    finally:
        publisher.close()

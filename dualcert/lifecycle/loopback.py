"""A handshake with a certificate that serves nowhere: a server on loopback for as long as it takes."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import threading
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from dualcert.errors import ProbeFailed, ProbeHindered
from dualcert.lifecycle import inspection

_TIMEOUT = 5.0
_ANYWHERE = ("127.0.0.1", 0)


def handshake(
    fullchain_pem: str, key_pem: bytes, server_name: str, trust_roots: Path | None
) -> tuple[bytes, str]:
    """The SHA-256 of the leaf that a client was shown and has accepted, and the version of TLS.

    ``trust_roots``: what the client trusts, as at the arrival of a certificate. The key lies in memory alone. Raises
    ``ProbeFailed``; ``ProbeHindered`` where this machine cannot hold such a handshake, and ``ConfigurationError`` where
    the roots cannot be read, which says nothing of the certificate.
    """
    client = _client(trust_roots, inspection.stamp(trust_roots))
    try:
        server = _server(fullchain_pem, key_pem)
        with socket.create_server(_ANYWHERE) as listening:
            listening.settimeout(_TIMEOUT)
            serving = threading.Thread(target=_serve, args=(listening, server), daemon=True)
            serving.start()
            try:
                return _look(client, listening.getsockname(), server_name)
            finally:
                serving.join(_TIMEOUT)
    except ssl.SSLError as error:
        raise ProbeFailed(f"no handshake with it: {error}", name=server_name) from error
    except OSError as error:
        raise ProbeHindered(f"no handshake could be held here: {error}", name=server_name) from error


@lru_cache(maxsize=32)
def _client(trust_roots: Path | None, _stamp: tuple[int, int] | None) -> ssl.SSLContext:
    """As a certificate is looked at when it arrives: with the same roots, and whichever of them ends its chain."""
    roots = inspection.trusted_roots(trust_roots)
    context = ssl.create_default_context(cadata=b"".join(one.public_bytes(Encoding.DER) for one in roots))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # how well the chain is made has been judged before
    return context


def _server(fullchain_pem: str, key_pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    held = os.memfd_create("dualcert", os.MFD_CLOEXEC)
    try:
        with os.fdopen(held, "wb", closefd=False) as file:
            file.write(key_pem)
            if not key_pem.endswith(b"\n"):
                file.write(b"\n")
            file.write(fullchain_pem.encode("ascii"))
        context.load_cert_chain(f"/proc/self/fd/{held}")
    finally:
        os.close(held)
    return context


def _serve(listening: socket.socket, context: ssl.SSLContext) -> None:
    """One client; what goes wrong here, the other end tells."""
    try:
        plain, _ = listening.accept()
        with plain:
            plain.settimeout(_TIMEOUT)
            with context.wrap_socket(plain, server_side=True) as tls:
                tls.recv(1)
    except OSError:
        return


def _look(context: ssl.SSLContext, address: tuple[str, int], server_name: str) -> tuple[bytes, str]:
    with (
        socket.create_connection(address, timeout=_TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=server_name) as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
        return hashlib.sha256(shown or b"").digest(), tls.version() or ""

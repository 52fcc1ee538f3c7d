"""A handshake with a certificate that serves nowhere: a server on loopback for as long as it takes."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import threading
from pathlib import Path

from dualcert.errors import ProbeFailed

_TIMEOUT = 5.0
_ANYWHERE = ("127.0.0.1", 0)


def handshake(
    fullchain_pem: str, key_pem: bytes, server_name: str, trust_roots: Path | None
) -> tuple[bytes, str]:
    """The SHA-256 of the leaf that a client was shown and has accepted, and the version of TLS.

    ``trust_roots``: what the client trusts; None for what this machine trusts. Raises ``ProbeFailed``. The key lies in
    memory alone.
    """
    try:
        server = _server(fullchain_pem, key_pem)
        client = ssl.create_default_context(cafile=None if trust_roots is None else str(trust_roots))
        with socket.create_server(_ANYWHERE) as listening:
            listening.settimeout(_TIMEOUT)
            serving = threading.Thread(target=_serve, args=(listening, server), daemon=True)
            serving.start()
            try:
                return _look(client, listening.getsockname(), server_name)
            finally:
                serving.join(_TIMEOUT)
    except OSError as error:  # of which ssl.SSLError is one
        raise ProbeFailed(f"no handshake with it: {error}", name=server_name) from error


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

"""A look at what an endpoint serves: a full TLS handshake, nothing resumed."""

from __future__ import annotations

import hashlib
import socket
import ssl

from dualcert.errors import ProbeFailed

TIMEOUT = 5.0


def served(host: str, port: int, server_name: str) -> bytes:
    """The SHA-256 of the leaf that the endpoint presents for ``server_name``. Raises ``ProbeFailed``.

    The chain is not judged: what is asked is which certificate is there, a wrong one above all.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.options |= ssl.OP_NO_TICKET
    try:
        with (
            socket.create_connection((host, port), timeout=TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname=server_name) as tls,
        ):
            der = tls.getpeercert(binary_form=True)
    except OSError as error:
        raise ProbeFailed(
            f"no handshake with {host}:{port} for {server_name}: {error.strerror or error}",
            remedy="See that the server runs and knows the name.",
            name=server_name,
        ) from error
    if not der:
        raise ProbeFailed(f"{host}:{port} presented no certificate for {server_name}", name=server_name)
    return hashlib.sha256(der).digest()

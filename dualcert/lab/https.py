"""Asking the lab's own HTTPS endpoints, and looking at what a TLS server presents."""

from __future__ import annotations

import http.client
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from dualcert.lab.errors import LabError

DEFAULT_SECONDS = 5.0


def fetch(url: str, trusted: Path, seconds: float = DEFAULT_SECONDS) -> tuple[int, bytes]:
    """GET ``url`` without proxies and trusting ``trusted`` alone; status and body.

    OSError if nobody answers in time, http.client.HTTPException if it is not HTTP.
    """
    parts = urlsplit(url)
    context = ssl.create_default_context(cafile=trusted)
    connection = http.client.HTTPSConnection(parts.netloc, timeout=seconds, context=context)
    try:
        connection.request("GET", parts.path, headers={"User-Agent": "dualcert-lab"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def answers(url: str, trusted: Path, seconds: float = DEFAULT_SECONDS) -> bool:
    """Whether somebody answers ``url`` with less than 500."""
    try:
        status, _ = fetch(url, trusted, seconds)
    except (OSError, http.client.HTTPException):
        return False
    return status < 500


def presented_leaf(address: tuple[str, int], server_name: str, seconds: float = DEFAULT_SECONDS) -> bytes:
    """The leaf (DER) that ``address`` presents for ``server_name``, by a full handshake.

    Nothing is verified: the question is what is served, not whether it is good. A fresh context without
    tickets cannot resume a session, which would show the certificate of the day before.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.options |= ssl.OP_NO_TICKET
    with (
        socket.create_connection(address, seconds) as plain,
        context.wrap_socket(plain, server_hostname=server_name) as secured,
    ):
        leaf = secured.getpeercert(binary_form=True)
    if leaf is None:
        raise LabError("the server presented no certificate", name=server_name)
    return leaf

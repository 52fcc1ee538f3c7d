"""Why no answer came, in words for a person."""

from __future__ import annotations

import socket
import ssl
from http.client import HTTPException
from urllib.parse import urlsplit

from dualcert.acmeclient.problems import plain
from dualcert.acmeclient.settings import AcmeCaSettings
from dualcert.errors import CaUnreachable


class ConnectTimeout(TimeoutError):
    """The time ran out before there was a connection, its TLS handshake included."""


class NotConnected(Exception):
    """There was no connection to send anything by; its cause says why."""


class ProxyFailed(NotConnected):
    """The proxy that the environment names could not be used; its cause says why."""


NO_ANSWER = (OSError, HTTPException, NotConnected)
_NEVER_LEFT = (
    NotConnected,
    ConnectTimeout,
    ConnectionRefusedError,
    socket.gaierror,
    ssl.SSLCertVerificationError,
)


def explain(error: Exception, url: str, settings: AcmeCaSettings) -> CaUnreachable:
    """The CaUnreachable that one of ``NO_ANSWER`` means."""
    server, remedy = urlsplit(url).netloc, "It is tried again."
    first: BaseException = error
    if isinstance(error, NotConnected):
        first = error.__cause__ or error
    if isinstance(error, ProxyFailed):
        server += " (through the environment's proxy)"
    match first:
        case ssl.SSLCertVerificationError():
            reason = f"the TLS certificate of {server} is not trusted: {plain(first.verify_message, 200)}"
            remedy = f"If the CA's HTTPS is not public, set `ca_bundle` in [ca.{settings.name}] to its roots."
        case socket.gaierror():
            reason = f"the name of {server} does not resolve: {_said(first)}"
            remedy = f"Look at `directory` in [ca.{settings.name}] and at this machine's resolver."
        case ConnectionRefusedError():
            reason = f"{server} refused the connection"
        case ConnectTimeout():
            reason = f"{server} accepts no connection (timed out)"
        case TimeoutError():
            reason = f"{server} did not answer in time ({settings.timeout:g} s)"
        case ConnectionError():
            reason = f"{server} cut the connection"
        case ssl.SSLError():
            reason = f"{server} does not speak TLS as it should: {plain(first.reason or str(first), 200)}"
        case OSError():
            reason = f"{server} cannot be reached: {_said(first)}"
        case _:
            # The class only: its words may quote the answer.
            reason = f"the answer of {server} broke off or is not HTTP ({type(first).__name__})"
    made = CaUnreachable(reason, remedy=remedy, ca=settings.name)
    made.sent = not isinstance(error, _NEVER_LEFT)
    return made


def _said(error: OSError) -> str:
    return plain(error.strerror or str(error), 200)

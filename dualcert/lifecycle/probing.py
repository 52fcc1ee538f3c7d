"""A look at what an endpoint serves: a full TLS handshake, nothing resumed, at each address that its name has."""

from __future__ import annotations

import errno
import hashlib
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, TypeVar

from dualcert.errors import ProbeFailed

TIMEOUT = 5.0
"""Seconds for one address; the first that fails ends a look."""

# Of a connection by UDP, which sends nothing: the routing table has no way to there. EINVAL: a link-local address.
_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL}

T = TypeVar("T")


def served(host: str, port: int, server_name: str) -> Iterator[tuple[str, bytes]]:
    """The place, and the SHA-256 of the leaf that is presented there for ``server_name``. Raises ``ProbeFailed``.

    One of each address: some may be other machines, or other servers. The chain is not judged: what is asked is which
    certificate is there, a wrong one above all.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.options |= ssl.OP_NO_TICKET

    def leaf(plain: socket.socket) -> bytes:
        with context.wrap_socket(plain, server_hostname=server_name) as tls:
            return tls.getpeercert(binary_form=True) or b""

    for place, der in _asked(host, port, leaf, "no handshake with", server_name):
        if not der:
            raise ProbeFailed(f"{place} presented no certificate for {server_name}", name=server_name)
        yield place, hashlib.sha256(der).digest()


def reached(host: str, port: int) -> list[str]:
    """The places that somebody listens at. Raises ``ProbeFailed`` where that is not every one."""
    return [place for place, _ in _asked(host, port, lambda _: None, "nobody answers at")]


@dataclass(frozen=True)
class _Address:
    family: int
    address: Any
    place: str

    @property
    def is_loopback(self) -> bool:
        return ip_address(self.address[0].partition("%")[0]).is_loopback

    def has_route(self) -> bool:
        try:
            with socket.socket(self.family, socket.SOCK_DGRAM) as plain:
                plain.connect(self.address)
        except OSError as error:
            return error.errno not in _NO_ROUTE
        return True

    def ask(self, question: Callable[[socket.socket], T]) -> T:
        with socket.socket(self.family, socket.SOCK_STREAM) as plain:
            plain.settimeout(TIMEOUT)
            plain.connect(self.address)
            return question(plain)


def _asked(
    host: str, port: int, question: Callable[[socket.socket], T], failure: str, name: str | None = None
) -> Iterator[tuple[str, T]]:
    place, refused, answered = f"{host}:{port}", None, False
    try:
        for one in _addresses(host, port):
            place = one.place
            try:
                answer = one.ask(question)
            except ConnectionRefusedError as error:
                # `localhost` is an address of each family, and many a server listens on one of them.
                if not one.is_loopback:
                    raise
                refused = error
                continue
            answered = True
            yield place, answer
        if refused is not None and not answered:
            raise refused
    except OSError as error:
        about = f" for {name}" if name else ""
        raise ProbeFailed(
            f"{failure} {place}{about}: {error.strerror or error}",
            remedy="See that the server runs and knows the name; where an address is not the target's, write in "
            "`endpoint` those that are.",
            name=name,
        ) from error


def _addresses(host: str, port: int) -> list[_Address]:
    """Those that this machine could send to; all where that is none, so that whoever asks hears why."""
    found = []
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        place = f"{host}:{port}" if address[0] == host else f"{host}:{port} ({address[0]})"
        found.append(_Address(family, address, place))
    if len(found) == 1:
        return found
    return [one for one in found if one.has_route()] or found

"""``HOST:PORT`` of DNS servers, and the machine's own resolvers."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from dualcert.errors import ConfigurationError

DNS_PORT = 53
_RESOLV_CONF = Path("/etc/resolv.conf")
_MOST_RESOLVERS = 3  # resolv.conf(5): further ones are not asked
# EINVAL: a link-local address, which means something only on its own network.
_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL}


def split(server: str) -> tuple[str, int]:
    """``192.0.2.1:53``, ``[2001:db8::1]:53``, ``ns.example.com:53``; port 53 where none is said.

    ConfigurationError where it is none of these.
    """
    host, colon, port = server.rpartition(":")
    if not colon or "]" in port or (":" in host and not host.startswith("[")):
        host, port = server, str(DNS_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigurationError(
            f"{server!r} is not the address of a DNS server",
            remedy='Write "HOST:PORT", such as "192.0.2.1:53".',
        )
    return host, int(port)


def join(host: str, port: int = DNS_PORT) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolve(server: str, kind: socket.SocketKind) -> tuple[socket.AddressFamily, Any]:
    """Family and socket address of ``server``; OSError where its host name is unknown."""
    host, port = split(server)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=kind)[0]
    except UnicodeError as error:
        raise OSError(errno.EINVAL, f"{host} is not a host name") from error
    return family, address


def with_a_route(servers: Iterable[str]) -> tuple[str, ...]:
    """Those that this machine could send to at all.

    A machine without IPv6 cannot tell what a server shows there; the same server's IPv4 address speaks for it.
    """
    return tuple(server for server in servers if _has_route(server))


def _has_route(server: str) -> bool:
    try:
        family, address = resolve(server, socket.SOCK_DGRAM)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # asks the routing table; nothing is sent
    except OSError as error:
        return error.errno not in _NO_ROUTE
    return True


def system_resolvers(path: Path = _RESOLV_CONF) -> tuple[str, ...]:
    """The resolvers that resolv.conf(5) names; as there, loopback where it names none or is missing."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    words = (line.split() for line in lines)
    found = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver" and _is_address(word[1])]
    return tuple(join(host) for host in found[:_MOST_RESOLVERS]) or (join("127.0.0.1"),)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True

"""Which addresses may be connected to: a certificate must not send us into a network of our own."""

from __future__ import annotations

import ipaddress
import socket

from dualcert.errors import EvidenceRejected, SourceUnreachable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_IN_PRIVATE = "To ask in networks of your own: [watch] private_networks = true"


def resolve(host: str, port: int, *, private: bool) -> list[tuple[int, tuple[str, int]]]:
    """The addresses of a host, each with its family, to be connected to as they are: asking for the name again could
    give others. Raises ``EvidenceRejected`` where any of them lies in a private network and that is not allowed."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SourceUnreachable(f"{host} has no address: {error}") from None
    places: list[tuple[int, tuple[str, int]]] = []
    for family, _, _, _, place in found:
        address = str(place[0])
        if not private and not is_public(ipaddress.ip_address(address.partition("%")[0])):
            raise EvidenceRejected(f"{host} is at {address}, which is no public address", remedy=_IN_PRIVATE)
        places.append((family, (address, port)))
    if not places:
        raise SourceUnreachable(f"{host} has no address")
    return places


def is_public(address: Address) -> bool:
    """Whether anybody on the Internet may have it; an IPv4 address inside an IPv6 one counts as itself."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved

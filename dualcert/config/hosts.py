"""Places in a network, as a configuration names them."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_IPV6_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\]:(\d{1,5})")
_HOST_PORT = re.compile(r"([A-Za-z0-9._-]+):(\d{1,5})")


def host_port(value: str) -> str:
    """``HOST:PORT``, an IPv6 address in brackets. Raises ValueError."""
    if match := _IPV6_PORT.fullmatch(value):
        ipaddress.IPv6Address(match[1])
    elif (match := _HOST_PORT.fullmatch(value)) is None or not _is_host(match[1]):
        raise ValueError(f'"{value}" is not HOST:PORT')
    if not 1 <= int(match[2]) <= 65535:
        raise ValueError(f'"{value}" has no port between 1 and 65535')
    return value


def is_url(value: str, scheme: str) -> bool:
    """Whether it is one of this scheme that can be asked."""
    try:
        url = urlsplit(value)
        reachable = url.hostname is not None and _is_host(url.hostname) and url.port != 0
    except ValueError:
        return False
    return url.scheme == scheme and reachable and not any(c.isspace() for c in value)


def names_user(value: str) -> bool:
    """Whether a URL holds a user's name, and a password perhaps."""
    try:
        return "@" in urlsplit(value).netloc
    except ValueError:
        return False


def _is_host(name: str) -> bool:
    """Whether it can be looked up at all: no label is empty or longer than 63 characters."""
    return all(0 < len(label) < 64 for label in name.removesuffix(".").split("."))

"""Names of challenge records (RFC 8555 section 8.4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dualcert.errors import InvalidName

_PREFIX = "_acme-challenge."
_LONGEST = 253  # RFC 1035 section 2.3.4: 255 octets on the wire are 253 characters without the final dot


@dataclass(frozen=True)
class Location:
    """Where a challenge record is written; CNAMEs are followed.

    Both names are absolute and lower case, without the final dot.
    """

    zone: str
    record: str


def challenge_name(identifier: str) -> str:
    """The record that validates ``identifier``; a wildcard and the name under it share one.

    InvalidName where no such record can exist, because the prefix makes the name too long for the DNS.
    """
    name = _PREFIX + identifier.lower().removesuffix(".").removeprefix("*.")
    if len(name) > _LONGEST:
        raise InvalidName(
            f"{name} would have {len(name)} characters, and the DNS allows {_LONGEST}",
            remedy=f"Names of more than {_LONGEST - len(_PREFIX)} characters cannot be validated by dns-01.",
            name=identifier,
        )
    return name


def parents(name: str) -> Iterator[str]:
    """``b.c`` and ``c`` for ``a.b.c``; the root is not among them."""
    while "." in name:
        name = name.partition(".")[2]
        yield name


def is_under(name: str, zone: str) -> bool:
    """Whether ``name`` is ``zone`` or below it."""
    return zone in {".", name} or name.endswith(f".{zone}")

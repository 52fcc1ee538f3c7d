"""As much of DER as it takes to walk through a CRL: cryptography makes an object of each entry, which takes long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SEQUENCE, INTEGER, UTC_TIME, GENERALIZED_TIME = 0x30, 0x02, 0x17, 0x18


def header(data: bytes, at: int) -> tuple[int, int, int]:
    """The tag at a position, where its content begins, and where that ends. Raises ValueError, IndexError."""
    tag, length = data[at], data[at + 1]
    begin = at + 2
    if length > 0x7F:
        digits = length & 0x7F
        if not 1 <= digits <= 8:
            raise ValueError("a length that DER does not know")
        length = int.from_bytes(data[begin : begin + digits], "big")
        begin += digits
    if begin + length > len(data):
        raise ValueError("it is cut off")
    return tag, begin, begin + length


@dataclass(frozen=True)
class Layout:
    """Where the parts of a CRL stand (RFC 5280 section 5.1): what is signed, and its entries."""

    signed: tuple[int, int]
    entries: tuple[int, int]


def layout(data: bytes) -> Layout:
    """Raises ValueError, IndexError for what is not the DER of a CRL, or names two signature algorithms."""
    _, outer, _ = header(data, 0)
    tag, begin, end = header(data, outer)
    if tag != SEQUENCE:
        raise ValueError("it is no CRL")
    at = begin
    tag, inner, stop = header(data, at)
    if tag == INTEGER:  # version
        at = stop
        tag, inner, stop = header(data, at)
    _, _, other = header(data, end)
    if tag != SEQUENCE or data[at:stop] != data[end:other]:
        raise ValueError("it names two signature algorithms")
    at = header(data, stop)[2]  # past the issuer
    at = header(data, at)[2]  # past thisUpdate
    entries = (end, end)
    while at < end:
        tag, inner, stop = header(data, at)
        if tag == SEQUENCE:
            entries = (inner, stop)
            break
        if tag not in {UTC_TIME, GENERALIZED_TIME}:
            break
        at = stop
    return Layout((outer, end), entries)


def serials(data: bytes, begin: int, end: int, size: int) -> Iterator[tuple[list[bytes], list[int]]]:
    """The serials of a CRL's entries and where the entries stand, so many at a time. Raises ValueError."""
    found: list[bytes] = []
    places: list[int] = []
    at = begin
    while at < end:
        length, inner = data[at + 1], at + 2
        if length > 0x7F:
            digits = length & 0x7F
            length = int.from_bytes(data[inner : inner + digits], "big")
            inner += digits
        width = data[inner + 1]
        if data[at] != SEQUENCE or data[inner] != INTEGER or not 0 < width < 0x80 or width + 2 > length:
            raise ValueError("an entry is no entry")
        found.append(data[inner + 2 : inner + 2 + width].lstrip(b"\0"))
        places.append(at)
        at = inner + length
        if len(found) == size:
            yield found, places
            found, places = [], []
    if at != end:
        raise ValueError("its last entry is cut off")
    if found:
        yield found, places

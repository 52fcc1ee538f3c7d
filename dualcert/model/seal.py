"""A seal over a range of the history, and the bytes that its digest is made of.

What is hashed is one JSON array in the form of RFC 8785: a head, then each event of the range in the order of its
number. ``docs/audit.md`` says the same to auditors, and is what this must agree with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

BEGINNING = bytes(32)
"""What the first seal stands on."""

_COLUMNS = (
    *("id", "at", "kind", "actor", "cause"),
    *("pair_id", "ca", "target", "certificate_id", "previous_id"),
)

# Strings as RFC 8785 writes them; of numbers there are only whole ones, far below 2^53.
_TEXT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


@dataclass(frozen=True)
class Seal:
    """Covers the events numbered ``first_id`` to ``last_id``, of which there were ``count``, and the seal before."""

    no: int
    first_id: int
    last_id: int
    count: int
    previous: bytes
    digest: bytes
    at: datetime


# What a signature is of: strings of ASCII and whole numbers, the names in order, as RFC 8785 has it.
_SORTED = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


def statement(seal: Seal, history: bytes, key: bytes, signed_at: datetime) -> dict[str, Any]:
    """What is said of the head of a history: ``history`` is the digest of its first seal, ``key`` the SHA-256 of the
    SubjectPublicKeyInfo of who says it."""
    return {
        "what": "head of a dualcert history",
        "history": history.hex(),
        "no": seal.no,
        "last_id": seal.last_id,
        "digest": seal.digest.hex(),
        "at": _instant(seal.at),
        "key": key.hex(),
        "signed_at": _instant(signed_at),
    }


def _instant(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def text_of(said: Mapping[str, Any]) -> bytes:
    """The bytes that are signed."""
    return _SORTED(said).encode()


def digest(
    no: int,
    first_id: int,
    last_id: int,
    count: int,
    previous: bytes,
    at: int,
    events: Iterable[Sequence[Sequence[Any]]],
) -> bytes:
    """SHA-256 over a seal's head (``at`` in UTC microseconds) and its events, which come in lists of rows.

    A row is id, at, kind, actor, cause, pair_id, ca, target, certificate_id, previous_id. Raises ``TypeError`` where
    a row has what no event has; it names the event.
    """
    head = [no, first_id, last_id, count, previous.hex(), at]
    hashed = hashlib.sha256(f"[{_TEXT(head)}".encode())
    for rows in events:
        if rows:
            hashed.update(f",{_text(rows)[1:-1]}".encode())
    hashed.update(b"]")
    return hashed.digest()


def _text(rows: Sequence[Sequence[Any]]) -> str:
    try:
        return _TEXT(rows)
    except TypeError as error:
        # Looked for only now: to look at each value of each event would take as long as to hash it.
        odd = (
            (row[0], name)
            for row in rows
            for name, value in zip(_COLUMNS, row, strict=True)
            if value is not None and type(value) not in {int, str}
        )
        for event, name in odd:
            raise TypeError(f"`{name}` of event {event} is neither a text nor a whole number") from error
        raise

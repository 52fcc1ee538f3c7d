"""The port to the places where CAs say what they have revoked: CRLs and OCSP responders.

Whoever implements it fetches and verifies: what comes through here was signed by whom it must be signed by, is for
what was asked, and is fresh.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True)
class KnownCrl:
    """What is known of a CRL since it was read last. ``etag`` and ``modified`` are the header values of that answer
    (RFC 9110 section 8.8)."""

    etag: str | None = None
    modified: str | None = None
    number: int | None = None
    this_update: datetime | None = None


@dataclass(frozen=True)
class RevokedEntry:
    """What a CRL says of one certificate. ``reason`` by its name in RFC 5280 section 5.3.1."""

    since: datetime
    reason: str


class Crl(Protocol):
    """A CRL that was verified. It holds the whole list's bytes; let go of it before the next one is fetched."""

    @property
    def number(self) -> int | None: ...

    @property
    def this_update(self) -> datetime: ...

    @property
    def next_update(self) -> datetime: ...

    @property
    def etag(self) -> str | None: ...

    @property
    def modified(self) -> str | None: ...

    @property
    def digest(self) -> bytes:
        """SHA-256 of the CRL as it came."""
        ...

    def batches(self, size: int) -> Iterator[tuple[Sequence[bytes], Sequence[int]]]:
        """Every entry once: serials (unsigned, without leading zeros) and, in the same order, where they stand.

        Raises ``EvidenceRejected`` where an entry cannot be read; what came before stands all the same.
        """
        ...

    def entry(self, position: int) -> RevokedEntry:
        """The entry that stands there. Raises ``EvidenceRejected``."""
        ...


class OcspStatus(StrEnum):
    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class OcspAnswer:
    """What a responder says of a certificate. ``since`` and ``reason`` belong to one that is revoked."""

    status: OcspStatus
    this_update: datetime
    next_update: datetime | None
    since: datetime | None = None
    reason: str = "unspecified"


class Evidence(Protocol):
    """Calls may come from several threads. Each ends within two minutes.

    Errors: ``SourceUnreachable`` where no answer is to be had, ``EvidenceRejected`` where the answer proves nothing.
    """

    def crl(self, place: str, issuer: bytes, known: KnownCrl, now: datetime, *, of_cas: bool) -> Crl | None:
        """The CRL at a distribution point, signed by the CA whose certificate (DER) is ``issuer``; None where it has
        not changed since. ``of_cas``: it is to tell of CA certificates, and not of those of subscribers."""
        ...

    def ocsp(self, place: str, issuer: bytes, certificate: bytes, now: datetime) -> OcspAnswer:
        """What a responder says of a certificate (both DER; RFC 6960)."""
        ...

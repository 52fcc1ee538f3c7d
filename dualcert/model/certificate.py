"""Certificates as they are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class Certificate:
    """An issued certificate. Once stored it never changes, but for the chain that it is served with.

    ``serial`` is the unsigned number's bytes without leading zeros. ``issuer_hash`` is the SHA-256 of the issuer's
    DER name, ``issuing_key`` and ``root_key`` of the SubjectPublicKeyInfo that signed it and of the root its chain
    leads to. ``flaw`` says why a certificate that arrived must not be used.
    """

    id: int
    pair_id: int
    lineage_id: int
    ca: str
    serial: bytes
    issuer: str
    issuer_hash: bytes
    issuing_key: bytes
    root_key: bytes | None
    sha256: bytes
    spki: bytes
    names_digest: bytes
    key_type: str
    not_before: datetime
    not_after: datetime
    chain_hash: bytes
    stored_at: datetime
    flaw: str | None


@dataclass(frozen=True)
class WrappedKey:
    """A private key as it lies in the database; opens only in its domain and for its public key.

    One that was wrapped just now has a ``hold``: its KEK is not dropped while this object lives, so it must live until
    the key is stored.
    """

    spki: bytes
    domain: str
    key_id: str
    wrapped: bytes = field(repr=False)
    hold: object = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Standing:
    """A certificate with what recorded signals say of it now."""

    certificate: Certificate
    revoked: bool
    blocked: bool

    def bad(self, now: datetime) -> str | None:
        """Why it must not serve, in words; None where nothing speaks against it."""
        if self.revoked:
            return "it is revoked"
        if self.blocked:
            return "its key is blocked"
        if self.certificate.not_after <= now:
            return f"it expired on {self.certificate.not_after:%Y-%m-%d %H:%M} UTC"
        return None

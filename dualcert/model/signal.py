"""Outside evidence about a certificate, and what is asked of its CA."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Reason(StrEnum):
    """The RFC 5280 reasons that a subscriber may give (CA/Browser Forum BR 7.2.2)."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"

    @property
    def code(self) -> int:
        """CRLReason, RFC 5280 section 5.3.1."""
        return _CODES[self]


_CODES = {
    Reason.UNSPECIFIED: 0,
    Reason.KEY_COMPROMISE: 1,
    Reason.AFFILIATION_CHANGED: 3,
    Reason.SUPERSEDED: 4,
    Reason.CESSATION_OF_OPERATION: 5,
}


@dataclass(frozen=True)
class RevocationRequest:
    """A revocation that is wanted; it waits for what rule it must until ``revoke_by``."""

    certificate_id: int
    pair_id: int
    reason: Reason
    requested_at: datetime
    revoke_by: datetime
    unverified: bool
    actor: str


class SignalKind(StrEnum):
    """What outside evidence says. A warning is not a revocation: some are never followed by one."""

    REVOKED = "revoked"
    WARNING = "warning"
    WEAK_KEY = "weak-key"


@dataclass(frozen=True)
class Suspect:
    """A certificate against which there is evidence. ``reason`` as in RFC 5280 section 5.3.1; ``since`` when the CA
    says it happened. ``evidence`` is what a person needs to find it again."""

    certificate_id: int
    pair_id: int
    ca: str
    spki: bytes
    reason: str
    evidence: str
    since: datetime | None = None
    url: str | None = None


@dataclass(frozen=True)
class Turning:
    """A pair that is to be moved off what serves, because of a signal; ``fresh``: that was not known before."""

    pair_id: int
    certificate_id: int
    signal_id: int
    fresh: bool

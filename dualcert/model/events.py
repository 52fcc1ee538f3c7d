"""What happened: who, what, why, when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class EventKind(StrEnum):
    CREATED = "created"
    NAMES_REPLACED = "names-replaced"
    CHANGED = "changed"
    GIVEN_TARGET = "given-target"
    REMOVED = "removed"
    LEFT_TARGET = "left-target"
    ACCOUNT_REGISTERED = "account-registered"
    ACCOUNT_UPDATED = "account-updated"
    ACCOUNT_DEACTIVATED = "account-deactivated"
    KEY_CHANGE_WANTED = "key-change-wanted"
    KEY_CHANGE_DROPPED = "key-change-dropped"
    KEY_CHANGED = "key-changed"
    RENEWAL_SUGGESTED = "renewal-suggested"
    ORDER_DUE = "order-due"
    WAITING = "waiting"
    ORDERING = "ordering"
    PLACED = "placed"
    ABANDONED = "abandoned"
    PUBLISHED = "published"
    ANSWERED = "answered"
    VALIDATED = "validated"
    WITHDRAWN = "withdrawn"
    STORED = "stored"
    CHAIN_REPLACED = "chain-replaced"
    UNFIT = "unfit"
    FAILED = "failed"
    PROMOTED = "promoted"
    PROOF_FAILED = "proof-failed"
    DRILLED = "drilled"
    DEPLOYED = "deployed"
    VERIFIED = "verified"
    KEY_PURGED = "key-purged"
    KEY_EXPORTED = "key-exported"
    KEY_DESTROYED = "key-destroyed"
    KEK_REPLACED = "kek-replaced"
    KEYS_REWRAPPED = "keys-rewrapped"
    KEK_DROPPED = "kek-dropped"
    REVOCATION_WANTED = "revocation-wanted"
    REVOKED = "revoked"
    WARNED = "warned"
    PROMOTION_WANTED = "promotion-wanted"
    BRAKED = "braked"
    COMPROMISED = "compromised"
    FROZEN = "frozen"
    THAWED = "thawed"
    DISTRUSTED = "distrusted"
    TRUSTED = "trusted"
    MOVED = "moved"
    KEY_BLOCKED = "key-blocked"
    REFILL_SCHEDULED = "refill-scheduled"
    INCIDENT_OPENED = "incident-opened"
    INCIDENT_CLOSED = "incident-closed"
    INCIDENT_RUN = "incident-run"
    SIGNING_KEY_MADE = "signing-key-made"


@dataclass(frozen=True)
class Event:
    """One change of state. ``certificate`` and ``previous`` are certificate numbers where the change has them."""

    id: int
    at: datetime
    kind: str
    actor: str
    cause: str
    pair_id: int | None = None
    ca: str | None = None
    target: str | None = None
    certificate: int | None = None
    previous: int | None = None

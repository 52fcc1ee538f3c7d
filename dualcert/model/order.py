"""One attempt at one CA, and the TXT values that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class OrderStep(StrEnum):
    """How far an order has come, as committed; what the CA thinks of it is asked."""

    PLACING = "placing"
    PLACED = "placed"
    FINALIZING = "finalizing"
    STORED = "stored"
    ABANDONED = "abandoned"


OF_A_REFILL = "a new certificate under a new key, after a promotion or revocation"
OF_WHAT_WAS_GIVEN_UP = "its certificate was given up"
"""Why something is ordered in the place of a certificate that was emptied: nobody needs it where that serves again."""

OPEN_STEPS = (OrderStep.PLACING, OrderStep.PLACED, OrderStep.FINALIZING)


@dataclass(frozen=True)
class Order:
    """An order of ours. ``csr`` is DER, signed before the order left; ``spki`` is its public key's SHA-256."""

    id: int
    issuance_id: int
    pair_id: int
    lineage_id: int
    ca: str
    step: OrderStep
    names: tuple[str, ...]
    spki: bytes
    csr: bytes
    url: str | None
    finalize: str | None
    authorizations: tuple[str, ...]
    created_at: datetime


class RecordState(StrEnum):
    """``remembered`` before it goes out, ``added`` when the provider took it, ``published`` when every server shows
    it, ``answered`` when the CA was told, ``spent`` when it is to be withdrawn; then the row is deleted."""

    REMEMBERED = "remembered"
    ADDED = "added"
    PUBLISHED = "published"
    ANSWERED = "answered"
    SPENT = "spent"


@dataclass(frozen=True)
class ChallengeRecord:
    """A TXT value published for a challenge. ``record`` is the owner name with CNAMEs followed."""

    id: int
    order_id: int
    pair_id: int
    ca: str
    dns: str
    zone: str
    record: str
    value: str
    identifier: str
    authorization: str
    challenge: str
    state: RecordState
    since: datetime

"""Whatever moves on its own is a row of work; a step says what becomes of its row."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class WorkKind(StrEnum):
    ORDER = "order"
    PUBLICATION = "publication"
    WITHDRAWAL = "withdrawal"
    DEPLOYMENT = "deployment"
    VERIFICATION = "verification"
    REVOCATION = "revocation"
    REFILL = "refill"
    FALLBACK = "fallback"
    REMOVAL = "removal"
    PROMOTION = "promotion"
    SIGNAL = "signal"
    RENEWAL_INFORMATION = "renewal-information"


NO_PAIR = 0
"""``pair_id`` of a step that concerns a CA as a whole."""


@dataclass(frozen=True)
class WorkRow:
    """A step that is due. ``due_at`` is None while a person must act.

    ``attempts`` counts failures since ``since``; ``reason`` is the last one's words. ``fence`` grows with every claim.
    ``needed_by``: in the queue of its CA, where an order stands by when its pair would stop serving a good certificate.
    ``looks``, ``continued`` and ``known`` exist in memory alone: how often in a row the step has only looked, whether
    this process has already taken a step of the row under the lease it holds, and what that step has left for the next
    one to know.
    """

    id: int
    kind: WorkKind
    pair_id: int
    ca: str
    target: str
    due_at: datetime | None
    fence: int
    attempts: int
    since: datetime | None
    reason: str | None
    waiting_for: str | None
    owner: str | None
    needed_by: datetime | None = None
    looks: int = 0
    continued: bool = False
    known: object = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Done:
    """The row is finished; the step has deleted it in its own transaction."""


@dataclass(frozen=True)
class Later:
    """Come back at ``at``. ``failed`` says that something went wrong, which counts towards backing off; ``looks`` how
    often in a row the step only looked, and nothing went on. ``waiting_for`` marks what a repeated command must not
    hurry. ``known``: what the row's next step need not read, should it be taken under the same lease.
    """

    at: datetime
    reason: str
    failed: bool = False
    looks: int = 0
    waiting_for: str | None = None
    known: object = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Waiting:
    """Another row of the pair must move first; looked at again when it has, or ``until`` then: it waits no longer.
    ``known`` as of ``Later``."""

    for_whom: str
    reason: str
    known: object = field(default=None, repr=False, compare=False)
    until: datetime | None = None


@dataclass(frozen=True)
class Failed:
    """Nothing more happens by itself: a person must act."""

    reason: str


Outcome = Done | Later | Waiting | Failed
PERSON = "person"
ANOTHER_STEP = "another step"
DAY = "day"
"""``waiting_for`` of an order whose certificate was unfit: a repeated ``issue`` does not hurry it."""

FROZEN = "frozen"
"""``waiting_for`` of an order whose CA gets no orders until a person says so."""

BUDGET = "budget"
"""``waiting_for`` of what its CA does not allow yet: a person who asks again is heard, and may be told the same."""

HELD = "incident"
"""``waiting_for`` of a refill at a CA in trouble, which is not ordered before somebody says so."""

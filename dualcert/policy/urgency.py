"""Which order of a CA goes first: the one whose pair would stop serving a good certificate the soonest.

``store/queue.py`` says the same in SQL, for as many orders as there are; a test demands that both agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

SOON = timedelta(days=3)
"""What is needed within this time is urgent: a part of each budget is kept for it."""


@dataclass(frozen=True)
class Need:
    """What a pair serves, and what it could serve instead.

    ``struck_at``: from when on the serving certificate is no good one, although it lives longer: it was revoked or
    its key blocked, its revocation is wanted by then, or an open incident has this deadline. ``usable_until``: the end
    of a standby that may be promoted.
    """

    created_at: datetime
    serving_until: datetime | None
    struck_at: datetime | None = None
    usable_until: datetime | None = None


def needed_by(need: Need) -> datetime:
    """When the pair would stop serving a good certificate if no order of it came to anything.

    A pair that serves nothing yet has lost nothing: it is urgent, and goes behind what breaks within three days of its
    making. A serving certificate that is struck has its standby in its place in no time, if that may be used.
    """
    if need.serving_until is None:
        return need.created_at + SOON
    if need.struck_at is None or need.struck_at >= need.serving_until:
        return need.serving_until
    return need.struck_at if need.usable_until is None else need.usable_until


def is_urgent(needed_by: datetime, now: datetime) -> bool:
    return needed_by <= now + SOON

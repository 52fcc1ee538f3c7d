"""When a lineage wants its next certificate."""

from __future__ import annotations

from datetime import datetime, timedelta

_SHORT_LIFE = timedelta(days=10)
_MOST_MARGIN = timedelta(days=1)
PROOF_LASTS = timedelta(days=30)
"""How long an opened key counts as proof that it can be opened."""


def renew_at(not_before: datetime, not_after: datetime) -> datetime:
    """Two thirds into the certificate's life; half way where it lives less than ten days."""
    life = not_after - not_before
    return not_before + (life / 2 if life < _SHORT_LIFE else life * 2 / 3)


def usable_until(not_before: datetime, not_after: datetime, proved_at: datetime) -> datetime:
    """Until when a standby may be trusted unseen: its end less a margin, or the proof's end, whichever is first."""
    margin = min(_MOST_MARGIN, (not_after - not_before) // 10)
    return min(not_after - margin, proved_at + PROOF_LASTS)

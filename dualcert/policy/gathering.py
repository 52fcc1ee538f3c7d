"""When the values known so far go out as one change."""

from __future__ import annotations

from datetime import datetime, timedelta

GATHERING = timedelta(seconds=3)
WITHDRAWAL_GATHERING = timedelta(seconds=10)
"""A value that has served its purpose does no harm meanwhile, and the other CA's last answer ends the wait."""


def publish_at(now: datetime, first_known: datetime, unanswered_orders: int) -> datetime:
    """At once when every order that is being placed has been answered; else when the gathering time is over."""
    return now if unanswered_orders == 0 else max(now, first_known + GATHERING)


def withdraw_at(now: datetime, values_in_use: int) -> datetime:
    """At once when no other value of the pair is still needed; else later, to take both in one change."""
    return now if values_in_use == 0 else now + WITHDRAWAL_GATHERING


def fitting(known: dict[str, int], wanted: list[tuple[int, str]], capacity: int | None) -> frozenset[int]:
    """Which of the ``wanted`` (id, name) fit beside the ``known`` number of values per name; the rest take turns."""
    room: dict[str, int] = {}
    chosen = []
    for identity, name in wanted:
        room.setdefault(name, (capacity or len(wanted)) - (known.get(name, 0) if capacity else 0))
        if room[name] > 0:
            room[name] -= 1
            chosen.append(identity)
    return frozenset(chosen)

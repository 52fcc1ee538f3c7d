"""How much may turn by itself: a false alarm must not take a whole inventory along."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

WITHIN = timedelta(hours=1)
"""Promotions of this time are counted together; and so long nothing turns by itself once the brake has taken hold."""

FEW = 10
SHARE = 5
"""Percent of the inventory."""

MANY = 100


@dataclass(frozen=True)
class Numbers:
    """What is counted, all over the database: promotions that nobody ordered of the last hour, pairs that are to follow
    now, and pairs there are. ``held_at``: when the brake took hold last."""

    made: int
    wanted: int
    pairs: int
    held_at: datetime | None = None


@dataclass(frozen=True)
class Go:
    """They may turn."""


@dataclass(frozen=True)
class Hold:
    """None of them turns by itself; ``reason`` says why."""

    reason: str


def decide(numbers: Numbers, now: datetime) -> Go | Hold:
    """Whether those that are wanted may turn: all of them, or none."""
    # An instant that lies ahead was told by a clock that was wrong.
    if numbers.held_at is not None and abs(now - numbers.held_at) < WITHIN:
        return Hold(f"the brake took hold at {numbers.held_at:%Y-%m-%d %H:%M} UTC, and holds for an hour")
    together = numbers.made + numbers.wanted
    said = f"{numbers.wanted} of {numbers.pairs} pairs are to turn, {numbers.made} have within an hour"
    if together > MANY:
        return Hold(f"{said}: more than {MANY}")
    if together > FEW and together * 100 > SHARE * numbers.pairs:
        return Hold(f"{said}: more than {FEW}, and more than {SHARE} %")
    return Go()

"""How long to leave something alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

IN_MEMORY = timedelta(seconds=2)
"""What is due sooner than this is waited for under the lease; anything later goes back to the table."""

QUICK_LOOKS = 128
"""So many make two minutes."""

_SLOW_LOOK, _SLOWEST_LOOK = timedelta(seconds=10), timedelta(minutes=10)
_FIRST = timedelta(minutes=5)
MOST = timedelta(hours=24)
AT_A_TARGET = timedelta(hours=1)
"""The longest pause where a target fails: no CA is asked, and what is served is wrong until it succeeds."""

BY_CONFIGURATION = _FIRST
"""The longest pause where nobody was asked at all: once the configuration is mended, it goes on."""
_JITTER = 0.1
_QUICK = (timedelta(seconds=0.5), timedelta(seconds=1), timedelta(seconds=1.5))
_QUICK_WITHIN = timedelta(seconds=10)
_WISHES_WITHIN = timedelta(seconds=30)


@dataclass(frozen=True)
class Failure:
    """What a step knows when it fails: when it began, how often it failed before, since when, and a draw in [0, 1)."""

    began: datetime
    attempts: int
    since: datetime | None
    draw: float


def next_look(
    now: datetime, looks: int, wished: timedelta | None = None, lasted: timedelta = timedelta(0)
) -> datetime:
    """When to look again at something under way: as the other side wished, else at once, then 5 ms doubling to 1 s.

    After two minutes of looking every second, every ten seconds is enough, and the row goes back to the table; what has
    ``lasted`` for hours is left alone for a twentieth of that, ten minutes at the most. Who wishes us back at once, or
    whose clock is behind ours, is looked at in our own rhythm: it may never be ready.
    """
    if wished is not None and wished > timedelta(0):
        return now + wished
    if looks == 0:
        return now
    if looks > QUICK_LOOKS:
        return now + max(_SLOW_LOOK, min(lasted / 20, _SLOWEST_LOOK))
    return now + min(timedelta(milliseconds=5 * 2 ** min(looks - 1, 10)), timedelta(seconds=1))


def after_failure(
    now: datetime,
    failure: Failure,
    *,
    passing: bool,
    wished: timedelta | None = None,
    most: timedelta = MOST,
) -> datetime:
    """When to try again.

    A failure that may pass by itself is tried again at once, three times at the most and only while the whole trouble
    is seconds old: one that has hung for long would hang again. Otherwise 5 minutes doubling to ``most``, up to a tenth
    less or more, but never less than 5 minutes: a command that waits so long would sit out the first pause.
    """
    began = min(failure.began, failure.since or failure.began)
    if wished is not None:
        return now + min(max(wished, _least(failure.attempts, now - began)), MOST)
    if passing and failure.attempts < len(_QUICK) and now - began < _QUICK_WITHIN:
        return now + _QUICK[failure.attempts]
    doublings = max(0, failure.attempts - len(_QUICK)) if passing else failure.attempts
    delay: timedelta = min(_FIRST * int(2 ** min(doublings, 12)), most)
    return now + max(_FIRST, delay * (1 + _JITTER * (2 * failure.draw - 1)))


def _least(attempts: int, age: timedelta) -> timedelta:
    """The shortest wish that is granted: who keeps asking us back within seconds does not know when it will be well."""
    return timedelta(seconds=0.5) * int(2 ** min(attempts, 9)) if age < _WISHES_WITHIN else _FIRST


def next_day(now: datetime) -> datetime:
    """When a set of names whose certificate was unfit may be ordered again."""
    return now + timedelta(days=1)

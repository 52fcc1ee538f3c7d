"""The only place of the process that reads a clock or sleeps.

Everything else is handed a ``Clock``, so that a test can move time, and a policy is handed plain instants.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """What may be asked about time."""

    def now(self) -> datetime:
        """The current instant, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start that never go backwards: for deadlines inside this process only."""
        ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def uptime() -> float | None:
    """For how many seconds this machine has been running; None where the system does not say."""
    since_boot = getattr(time, "CLOCK_BOOTTIME", None)
    return None if since_boot is None else time.clock_gettime(since_boot)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(instant: datetime) -> int:
    """UTC microseconds since 1970, exact (a float would lose the last digits)."""
    return (instant - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    return _EPOCH + value * _MICROSECOND


def rfc3339(instant: datetime) -> str:
    """``2026-03-01T12:00:00Z``; a fraction only where there is one."""
    text = instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="auto")
    return f"{text}Z"


def rfc3339_of(value: int) -> str:
    """The same of UTC microseconds since 1970, several times as fast: long lists are made of these.

    Put together from texts: to make an instant of the number, and to have that written, takes most of a line's time.
    """
    seconds, fraction = divmod(value, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    text = f"{_date(days)}T{_TWO_DIGITS[hour]}:{_TWO_DIGITS[minute]}:{_TWO_DIGITS[second]}"
    return f"{text}.{fraction:06}Z" if fraction else f"{text}Z"


_TWO_DIGITS = [f"{number:02}" for number in range(60)]


@lru_cache(1000)
def _date(days: int) -> str:
    return (_EPOCH + timedelta(days)).date().isoformat()

"""A clock that a test moves by hand."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

_START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """Stands still until it is moved. ``sleep`` moves it and returns at once; ``slept`` lists what was asked for."""

    def __init__(self, now: datetime = _START) -> None:
        if now.tzinfo is None:
            raise ValueError("a clock tells aware instants")
        self._now = now.astimezone(UTC)
        self._monotonic = 0.0
        self._lock = threading.Lock()
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("nobody sleeps backwards")
        with self._lock:
            self.slept.append(seconds)
        self.advance(seconds)

    def advance(self, by: timedelta | float) -> None:
        """Let time pass: a timedelta, or seconds."""
        step = by if isinstance(by, timedelta) else timedelta(seconds=by)
        if step < timedelta(0):
            raise ValueError("time passes forwards; `set` puts the wall clock anywhere")
        with self._lock:
            self._now += step
            self._monotonic += step.total_seconds()

    def set(self, now: datetime) -> None:
        """Put the wall clock right, or wrong, as an administrator does: the monotonic one does not notice."""
        if now.tzinfo is None:
            raise ValueError("a clock tells aware instants")
        with self._lock:
            self._now = now.astimezone(UTC)

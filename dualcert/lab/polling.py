"""Waiting for something to become true, with a deadline."""

from __future__ import annotations

from collections.abc import Callable

from dualcert.clock import Clock, SystemClock

_FIRST_PAUSE = 0.002
_LONGEST_PAUSE = 0.05


def wait_for(condition: Callable[[], bool], seconds: float, clock: Clock | None = None) -> bool:
    """Ask ``condition`` again and again until it holds or ``seconds`` have passed; says which it was."""
    clock = clock or SystemClock()
    deadline = clock.monotonic() + seconds
    pause = _FIRST_PAUSE
    while not condition():
        if clock.monotonic() >= deadline:
            return False
        clock.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)
    return True

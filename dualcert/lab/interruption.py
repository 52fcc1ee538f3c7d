"""Ctrl-C, SIGTERM and SIGHUP: each unwinds the program, but not in the middle of starting or ending a server.

An exception can come between any two bytecodes: between a server's start and the line that remembers it, or inside a
lock of the standard library that is then never released.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_TERMINATING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(SystemExit):
    """By a signal; a class of its own, so that nobody takes it for the ``sys.exit`` of something that was called."""


class _State:
    """Signals belong to the process, and Python delivers them to its main thread only."""

    depth = 0
    pending: int | None = None


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP unwind as Ctrl-C does, so that ``with`` blocks tidy up; main thread only.

    One that is ignored (as SIGINT is by what a shell has put into the background) stays so.
    """
    before = {number: signal.getsignal(number) for number in _TERMINATING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _arrived)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """The first such signal that arrives inside takes effect at the end, a second one at once.

    Without ``ending_on_signals``, and in other threads than the main one, this changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
        if _State.depth == 0 and _State.pending is not None:
            number, _State.pending = _State.pending, None
            _unwind(number)


def _arrived(number: int, _frame: FrameType | None) -> None:
    if _State.depth and _State.pending is None:
        _State.pending = number
    else:
        _State.pending = None
        _unwind(number)


def _unwind(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Ended(128 + number)

"""One CPU for all threads that take steps.

Only one thread of a process runs Python at a time, and a step hands that turn on at each statement, each request and
each wait. From one CPU to another the turn takes longer than most of what is done with it: on one, four orders that are
under way at once take seven tenths of the time. What works without that turn, a program or the making of an RSA key,
goes ``elsewhere``.

Which CPU that is, the kernel chooses, and chooses again every minute: somebody else may have moved in there. Linux
alone lets a thread stay on a CPU; on other systems, and where there is but one, nothing here does anything.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MINUTE = 60.0
_MOMENT = 0.05
"""Seconds in which threads that were let go find their places: several turns of the scheduler."""

_STAT = Path("/proc/thread-self/stat")
_PROCESSOR = 36
"""Which field it is of a thread's stat, of those behind its name (man 5 proc_pid_stat)."""


class OneCpu:
    """Where the threads of a process that stay together are. Safe to use from all of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._staying = Counter[int]()
        self._everywhere = _allowed()
        self._cpu: int | None = None
        self._loose = False
        self._next_at: float | None = None

    @contextmanager
    def stays(self) -> Iterator[None]:
        """The calling thread is where the others are."""
        thread = threading.get_native_id()
        with self._lock:
            self._staying[thread] += 1
            self._settle(thread)
        try:
            yield
        finally:
            with self._lock:
                self._staying[thread] -= 1
                if not self._staying[thread]:
                    del self._staying[thread]
                    self._let_go(thread)

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Meanwhile the calling thread, and what it starts, goes wherever there is room."""
        thread = threading.get_native_id()
        with self._lock:
            stayed = self._staying.pop(thread, 0)
            if stayed:
                self._let_go(thread)
        try:
            yield
        finally:
            if stayed:
                with self._lock:
                    self._staying[thread] = stayed
                    self._settle(thread)

    def look_round(self, now: float) -> None:
        """Every minute, by the monotonic clock, all are let go for a moment, and stay where the caller is then."""
        if self._next_at is not None and now < self._next_at:
            return
        with self._lock:
            if self._next_at is not None and now < self._next_at:
                return  # somebody else has, meanwhile
            self._loose = self._next_at is not None and not self._loose
            self._next_at = now + (_MOMENT if self._loose else _MINUTE)
            if self._loose:
                self._cpu = None
            for thread in self._staying:
                if self._loose:
                    self._let_go(thread)
                else:
                    self._settle(thread)

    def _settle(self, thread: int) -> None:
        if self._loose or len(self._everywhere) < 2:
            return
        try:
            self._cpu = _current() if self._cpu is None else self._cpu
        except OSError:
            # Nothing of /proc is to be seen: all go wherever there is room.
            self._everywhere = frozenset()
            return
        self._put(thread, frozenset([self._cpu]))

    def _let_go(self, thread: int) -> None:
        if self._everywhere:
            self._put(thread, self._everywhere)

    def _put(self, thread: int, cpus: frozenset[int]) -> None:
        if sys.platform != "linux":
            return
        try:
            os.sched_setaffinity(thread, cpus)
        except ProcessLookupError:
            return  # it has ended
        except OSError:
            # The system does not let us, or has taken this CPU away: from now on all go wherever there is room.
            self._everywhere = frozenset()


def _allowed() -> frozenset[int]:
    return frozenset(os.sched_getaffinity(0)) if sys.platform == "linux" else frozenset()


def _current() -> int:
    """On which CPU the calling thread is."""
    return int(_STAT.read_text().rpartition(")")[2].split()[_PROCESSOR])


one_cpu = OneCpu()
"""Of this process."""

"""What was found a moment ago, so that two CAs validating one name do not look it up twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from dualcert.clock import Clock

_V = TypeVar("_V")
_SWEEP_ABOVE = 1000


class Remembered(Generic[_V]):
    """Remembers findings for ``seconds``; failures never. Threads that want the same one wait for a single look."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._lock = threading.Lock()
        self._found: dict[str, tuple[float, _V]] = {}
        self._looking: dict[str, threading.Lock] = {}

    def get(self, key: str, look: Callable[[], _V]) -> _V:
        fresh = self._fresh(key)
        if fresh is not None:
            return fresh[1]
        with self._lock:
            mine = self._looking.setdefault(key, threading.Lock())
        with mine:
            fresh = self._fresh(key)  # another thread may have found it while this one waited
            if fresh is None:
                fresh = (self._clock.monotonic() + self._seconds, look())
                self._keep(key, fresh)
            return fresh[1]

    def _fresh(self, key: str) -> tuple[float, _V] | None:
        with self._lock:
            entry = self._found.get(key)
        return entry if entry and self._clock.monotonic() < entry[0] else None

    def _keep(self, key: str, entry: tuple[float, _V]) -> None:
        with self._lock:
            self._found[key] = entry
            if len(self._looking) > _SWEEP_ABOVE:
                now = self._clock.monotonic()
                self._found = {k: e for k, e in self._found.items() if now < e[0]}
                self._looking = {
                    k: lock for k, lock in self._looking.items() if k in self._found or lock.locked()
                }

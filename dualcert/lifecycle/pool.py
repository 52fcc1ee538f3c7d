"""Threads for steps: a fixed number per kind of work, started when needed, never in the way of an exit."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

from dualcert.onecpu import one_cpu

log = logging.getLogger(__name__)


class Pool:
    """Runs what is submitted in at most ``size`` threads, in the order of submission.

    The threads are daemons: a step may be cut off at any point (that is what the lifecycle is built for), so an
    interrupted command need not wait half a minute for a CA that hangs.
    """

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._waiting = 0
        self._lock = threading.Lock()

    def submit(self, act: Callable[[], None]) -> None:
        """What ``act`` raises is logged, and nobody else hears of it."""
        with self._lock:
            self._waiting += 1
            if self._waiting > len(self._threads) and len(self._threads) < self._size:
                thread = threading.Thread(
                    target=self._serve, name=f"{self._name}-{len(self._threads)}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
        self._queue.put(act)

    def _serve(self) -> None:
        with one_cpu.stays():
            while (act := self._queue.get()) is not None:
                try:
                    act()
                except BaseException:
                    # Nobody starts another thread in place of one that ends: what waits for it would wait for ever.
                    log.exception("what %s was doing has failed", threading.current_thread().name)
                finally:
                    with self._lock:
                        self._waiting -= 1

    def close(self) -> None:
        """Let idle threads end; those inside a step end after it."""
        for _ in self._threads:
            self._queue.put(None)


class Pools:
    """One pool for each kind of work; its threads stay for the next command of this process."""

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._pools)

    def get(self, name: str, size: int) -> Pool:
        """The pool of that name; of ``size`` threads, should it not be there yet."""
        found = self._pools.get(name)
        if found is None:
            with self._lock:
                found = self._pools.setdefault(name, Pool(name, size))
        return found

    def close(self) -> None:
        """Let all idle threads end."""
        with self._lock:
            _close_all(self._pools)


def _close_all(pools: dict[str, Pool]) -> None:
    while pools:
        pools.popitem()[1].close()

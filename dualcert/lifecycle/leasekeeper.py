"""One thread that renews the leases of everything that works in this process."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable

from dualcert.clock import Clock
from dualcert.model.lease import LEASE_SECONDS

log = logging.getLogger(__name__)

_RENEW_EVERY = LEASE_SECONDS / 3
_LOOK_EVERY = 1.0
STEP = 2.0
"""By how many seconds the clock must have been put right at once to have been put right at all."""

_Renewals = dict[str, Callable[[], None]]


class LeaseKeeper:
    """Its thread starts with the first owner of leases. Safe to use from several threads.

    A thread of its own: whoever holds leases may be held up, by a database or by a terminal that takes no line. On
    SQLite leases go by this machine's clock: when that is put forward, all of them seem to have ended, and are renewed
    at once.
    """

    def __init__(self) -> None:
        self._renewals: _Renewals = {}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._started = False
        weakref.finalize(self, self._over.set)

    def keep(self, owner: str, renew: Callable[[], None], clock: Clock) -> None:
        """Call ``renew`` three times in the life of a lease. The first one's clock counts."""
        with self._lock:
            self._renewals[owner] = renew
            if not self._started:
                self._started = True
                threading.Thread(
                    target=_renew, args=(self._renewals, self._over, clock), name="leases", daemon=True
                ).start()

    def leave(self, owner: str) -> None:
        with self._lock:
            self._renewals.pop(owner, None)

    def close(self) -> None:
        """Nobody's leases are renewed any more."""
        self._over.set()


def _renew(renewals: _Renewals, over: threading.Event, clock: Clock) -> None:
    renewed = clock.monotonic()
    stood = ahead(clock)
    while not over.wait(min(_LOOK_EVERY, _RENEW_EVERY)):
        then, stood = stood, ahead(clock)
        now = clock.monotonic()
        if now - renewed >= _RENEW_EVERY or abs(stood - then) > STEP:
            renewed = now
            for owner, renew in list(renewals.items()):
                try:
                    renew()
                except Exception:
                    # What ends this thread ends the leases of all that works here, and nobody hears of it.
                    log.exception(
                        "the leases of %s could not be renewed; again in %.0f s", owner, _RENEW_EVERY
                    )


def ahead(clock: Clock) -> float:
    """By how many seconds the wall clock is ahead of the monotonic one, whatever that says."""
    return clock.now().timestamp() - clock.monotonic()

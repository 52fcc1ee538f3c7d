"""One thread that renews the leases of everything that works in this process."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from dualcert.store import leases

_RENEW_EVERY = leases.LEASE_SECONDS / 3
_Renewals = dict[str, Callable[[], None]]


class LeaseKeeper:
    """Its thread starts with the first owner of leases. Safe to use from several threads.

    A thread of its own: whoever holds leases may be held up, by a database or by a terminal that takes no line.
    """

    def __init__(self) -> None:
        self._renewals: _Renewals = {}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._started = False
        weakref.finalize(self, self._over.set)

    def keep(self, owner: str, renew: Callable[[], None]) -> None:
        """Call ``renew``, which must not raise, three times in the life of a lease."""
        with self._lock:
            self._renewals[owner] = renew
            if not self._started:
                self._started = True
                threading.Thread(
                    target=_renew, args=(self._renewals, self._over), name="leases", daemon=True
                ).start()

    def leave(self, owner: str) -> None:
        with self._lock:
            self._renewals.pop(owner, None)

    def close(self) -> None:
        """Nobody's leases are renewed any more."""
        self._over.set()


def _renew(renewals: _Renewals, over: threading.Event) -> None:
    while not over.wait(_RENEW_EVERY):
        for renew in list(renewals.values()):
            renew()

"""Permits for single requests to a CA: taken from the database a few at a time, spent in memory.

A write for every request would cost more than the request. So a process takes what 50 ms allow at once, and lets go of
what it has not spent 200 ms later: the CA sees no more than the bucket holds, however many processes there are.
"""

from __future__ import annotations

import threading
from datetime import timedelta

from dualcert.clock import Clock
from dualcert.errors import DualcertError
from dualcert.policy import budget
from dualcert.policy.budget import Decision, Kind, Limit, Subject
from dualcert.store import Store, budgets

_REQUESTS = Subject(Kind.REQUESTS)
_BLOCK = timedelta(milliseconds=50)
_LASTS = 0.2
_PATIENCE = timedelta(seconds=1)
_SHARE = 4


class BudgetSpent(DualcertError):
    """What a CA counts is used up, or the CA has asked us to wait. ``retry_after`` says how long; nothing was taken."""

    sent = False

    def __init__(self, ca: str, decision: Decision, wait: timedelta) -> None:
        super().__init__(decision.reason, ca=ca, retry_after=wait)
        self.decision = decision


class RequestPermits:
    """The permits of one process for one CA; shared by its threads."""

    def __init__(self, store: Store, clock: Clock, ca: str, limit: Limit) -> None:
        self._store = store
        self._clock = clock
        self._ca = ca
        self._limit = limit
        # A quarter of the bucket at the most: the front of a CA takes less in one go than in a whole second.
        burst = max(1, limit.count // _SHARE)
        self._depth = limit.interval * burst
        self._block = min(max(1, _BLOCK // limit.interval), burst)
        self._lock = threading.Lock()
        self._left = 0
        self._from = 0.0

    def __call__(self) -> float:
        """A permit for a request: in how many seconds, at most one, it may be sent. Raises ``BudgetSpent``."""
        with self._lock:
            self._refill()
            self._left -= 1
            return max(0.0, self._from - self._clock.monotonic())

    def ready(self) -> None:
        """See that there is a permit, before something is written down that a request must follow."""
        with self._lock:
            self._refill()

    def _refill(self) -> None:
        if self._left and self._clock.monotonic() < self._from + _LASTS:
            return
        with self._store.write() as tx:
            wait = budgets.reserve(
                tx, self._ca, _REQUESTS, self._limit, self._block, _PATIENCE, depth=self._depth
            )
        if wait is None:
            raise self._refused()
        self._left = self._block
        self._from = self._clock.monotonic() + wait.total_seconds()

    def _refused(self) -> BudgetSpent:
        with self._store.read() as tx:
            standings, now = budgets.look(tx, self._ca, [_REQUESTS.kind], [_REQUESTS.of])
        standing = standings.get(_REQUESTS)
        held = budget.decide(_REQUESTS, None, standing, now)
        if held.at is not None:
            return BudgetSpent(self._ca, held, held.at - now)
        # Until all are back: with the next one alone a step that needs several would begin again for ever.
        wait = max(_PATIENCE if standing is None else standing.full_at - now, _PATIENCE)
        spent = Decision(now + wait, f"requests ({self._limit}) are used up by those that came first")
        return BudgetSpent(self._ca, spent, wait)

"""APScheduler as the daemon's clock, and the daemon's life: from its start to the signal that ends it.

The scheduler says that it is time and does nothing else: no job is stored, no work runs in its threads.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC
from queue import Empty, SimpleQueue
from typing import Protocol

from apscheduler.executors.debug import DebugExecutor
from apscheduler.job import Job
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from dualcert.clock import Clock
from dualcert.lifecycle.daemon import Daemon

log = logging.getLogger(__name__)

TICK = 1.0
_LOOK = 1.0
_MISSED = 5.0
_TOLD_EVERY = 10.0
_STOPS_WITHIN = 8.0
_HANGS_AFTER = 120.0


class Supervisor(Protocol):
    """Whoever started the process and wants to know how it goes; for systemd, ``cli.systemd``."""

    def ready(self) -> None: ...

    def alive(self) -> None:
        """Called about once a second, unless the daemon hangs."""
        ...

    def status(self, text: str) -> None: ...

    def stopping(self) -> None: ...


def serve(daemon: Daemon, clock: Clock, signals: SimpleQueue[int], supervisor: Supervisor) -> None:
    """Run the daemon until a signal to end arrives in the queue; it ends within ten seconds then.

    Raises what ended the daemon, if it was not a signal.
    """
    with ticking(daemon.tick_soon, clock) as ticker:
        daemon.start()
        supervisor.ready()
        number = _until_told(daemon, clock, signals, supervisor, ticker)
    supervisor.stopping()
    under_way, held = daemon.load
    log.info("%s: stopping; %d steps under way, %d held", signal.Signals(number).name, under_way, held)
    if daemon.stop(_STOPS_WITHIN):
        log.info("stopped; nothing is held")
    else:
        log.warning("stopped; steps that were under way are taken up by whoever comes next")


def _until_told(
    daemon: Daemon, clock: Clock, signals: SimpleQueue[int], supervisor: Supervisor, ticker: Ticker
) -> int:
    told_at = clock.monotonic()
    while True:
        try:
            number = signals.get(timeout=_LOOK)
        except Empty:
            number = 0
        if number == signal.SIGHUP:
            log.warning("SIGHUP: the configuration is read at the start only; restart to have it read again")
        elif number:
            return number
        daemon.check()
        ticker.see_to_it()
        if daemon.turned_within(_HANGS_AFTER):
            supervisor.alive()
        if clock.monotonic() >= told_at:
            told_at = clock.monotonic() + _TOLD_EVERY
            supervisor.status("{} steps under way, {} held".format(*daemon.load))


class Ticker:
    """A scheduler with its one job."""

    def __init__(self, tick: Callable[[], None], clock: Clock, seconds: float = TICK) -> None:
        self._tick = tick
        self._clock = clock
        self._ticked = clock.monotonic()
        # The job hands a message over; a thread of its own would be wasted on it.
        self._scheduler = BackgroundScheduler(timezone=UTC, executors={"default": DebugExecutor()})
        self._seconds = seconds
        self._job: Job = self._scheduler.add_job(
            self._act,
            self._trigger(),
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
        )

    def _trigger(self) -> IntervalTrigger:
        """From now on: a trigger remembers when it began."""
        return IntervalTrigger(seconds=self._seconds, timezone=UTC)

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        self._scheduler.shutdown()

    def _act(self) -> None:
        self._ticked = self._clock.monotonic()
        self._tick()

    def see_to_it(self) -> None:
        """The scheduler goes by the wall clock; where that was put back, it would sleep until the old time comes."""
        if self._clock.monotonic() - self._ticked > _MISSED:
            self._job.reschedule(self._trigger())
            self._act()


@contextmanager
def ticking(tick: Callable[[], None], clock: Clock) -> Iterator[Ticker]:
    """``tick`` is called every second, in a thread of its own, and must return at once."""
    ticker = Ticker(tick, clock)
    ticker.start()
    try:
        yield ticker
    finally:
        ticker.stop()

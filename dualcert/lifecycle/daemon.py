"""The daemon: moves on whatever is due in a database, for as long as its process runs.

``tick`` is what the clock calls: it opens what time has made due and takes due steps into free slots. It waits for no
step. Between two ticks the daemon's own thread goes on with the steps that it holds, and takes what they make due.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from dualcert.errors import StoreUnavailable
from dualcert.lifecycle import destruction, proving, renewal, sealing
from dualcert.lifecycle.beside import Job
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.incidents.opening import finish_closes
from dualcert.lifecycle.owner import is_dead
from dualcert.lifecycle.runner import DAEMON, Runner, Scope
from dualcert.lifecycle.watching import job as watching
from dualcert.lifecycle.world import World
from dualcert.store import clockwork, daemons

log = logging.getLogger(__name__)

_OPENINGS: dict[Callable[[World], int], float] = {
    renewal.open_due: 0.0,
    destruction.destroy_ended: 60.0,
}
"""What time alone makes due, found by index and a few hundred at once; how many seconds after nothing was found one
looks again. Where something was, the rest follows at the next tick."""

_FOR_GOOD = frozenset({destruction.destroy_ended})
_UNDISTURBED = 3600.0
"""For how many seconds the clock must have run as it should before anything is done by it that cannot be undone: a
machine that starts with a wrong one, or whose clock is put wrong, usually has it right again by then."""

BESIDE: dict[str, Callable[[World], float]] = {
    "watching": watching.watch,
    "waves": watching.waves,
    "sealing": sealing.seal,
    "proving": proving.prove,
    "closing": finish_closes,
}
"""What takes its time: a list of a million entries, a history of as many events, keys that are opened by a program, an
incident that names millions and was closed by somebody who died meanwhile."""

_IDLE = 1.0
_HEARTBEAT = 10.0
_MISHAP_PAUSE = 60.0
_FORGOTTEN = timedelta(days=1)
"""When a daemon of another machine that says nothing any more is struck off."""

_STEP = timedelta(seconds=2)
_OTHERS_NOTICE = 2.0
"""Seconds in which other daemons have noticed as well that the clock was put, and have prolonged their leases."""


class Daemon:
    """Start it once, then stop it once. Everything but ``tick`` may be called from any thread."""

    def __init__(self, world: World, version: str) -> None:
        self._world = world
        self._version = version
        self._engine = Engine(world)
        self._runner = Runner(self._engine, Scope(), DAEMON, look_every=float("inf"))
        self._jobs = [Job(world, name, act) for name, act in BESIDE.items()]
        self._thread = threading.Thread(target=self._run, name="daemon", daemon=True)
        self._tick_wanted = False
        self._stopping: float | None = None
        self._clean = False
        self._error: BaseException | None = None
        now = self._world.clock.monotonic()
        self._turned = now
        self._beat_at = now
        self._open_at = dict.fromkeys(_OPENINGS, now)
        self._nothing_for_good_before(now + _UNDISTURBED)
        self._clock = (world.clock.now(), now)
        # What the clock showed before it was put back, as long as nobody has written down what that must not delay.
        self._put_back_from: datetime | None = None

    @property
    def owner(self) -> str:
        """Who holds the leases."""
        return self._engine.owner

    def start(self) -> None:
        self._thread.start()
        self.tick_soon()

    def tick_soon(self) -> None:
        """Have the daemon's thread tick; it costs the caller no time. What was asked for twice is done once."""
        if not self._tick_wanted:
            self._tick_wanted = True
            self._runner.nudge()

    def stop(self, seconds: float) -> bool:
        """Begin nothing any more, give the steps under way so long to end, then let go of everything.

        False where a step was cut off: whoever comes next takes it up. Raises what has ended the daemon before.
        """
        self._stopping = seconds
        self._runner.nudge()
        self._thread.join(seconds + 1)
        self.check()
        return self._clean

    def check(self) -> None:
        """Raises what has ended the daemon, if anything has."""
        if self._error is not None:
            raise self._error

    def turned_within(self, seconds: float) -> bool:
        """Whether its thread has come round lately: a database that does not answer holds it up for a while."""
        return self._world.clock.monotonic() - self._turned < seconds

    @property
    def load(self) -> tuple[int, int]:
        """How many rows are in a step, and how many are held between two steps."""
        return self._runner.busy, self._runner.kept

    # --- its thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - the main thread finds it and ends the process by it
            self._error = error

    def _work(self) -> None:
        try:
            with self._runner:
                while self._stopping is None:
                    self._turn()
                self._clean = self._runner.finish(self._stopping)
            with self._world.store.write() as tx:
                daemons.gone(tx, [self.owner])
        except StoreUnavailable as error:
            # The leases of a process that has ended are taken from it as soon as somebody looks.
            log.warning("what was held could not be given back: %s", error.reason)
            self._clean = False

    def _turn(self) -> None:
        self._runner.wait(_IDLE)
        try:
            self._mind_the_clock()
            if self._tick_wanted:
                self._tick_wanted = False
                self.tick()
            self._runner.turn()
            self._runner.answered()
        except StoreUnavailable as error:
            self._runner.met_outage(error)
        self._turned = self._world.clock.monotonic()

    def tick(self) -> None:
        """Open what time has made due, take what dead processes held, and fill the free slots."""
        self._engine.take_from_the_dead()
        now = self._world.clock.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + _HEARTBEAT
            self._beat()
        for opening, at in self._open_at.items():
            if now >= at:
                self._open_at[opening] = now + self._open(opening)
        for job in self._jobs:
            job.look()
        self._runner.claim()

    def _open(self, opening: Callable[[World], int]) -> float:
        """In how many seconds to look again."""
        try:
            return 0.0 if opening(self._world) else _OPENINGS[opening]
        except StoreUnavailable:
            raise
        except Exception:
            # What is under way goes on; whatever this is, it is told again and again.
            log.exception("what is due could not be opened; again in %.0f s", _MISHAP_PAUSE)
            return _MISHAP_PAUSE

    def _beat(self) -> None:
        """Say that this one lives, and strike off those that do not."""
        with self._world.store.read() as tx:
            others = [one for one in daemons.everybody(tx) if one.owner != self.owner]
        alone = self._world.store.goes_by_our_clock
        ended = [
            one.owner
            for one in others
            if one.silent_for > _FORGOTTEN or is_dead(one.owner, None if alone else one.silent_for)
        ]
        with self._world.store.write() as tx:
            daemons.seen(tx, self.owner, self._version)
            daemons.gone(tx, ended)

    # --- a clock that was put right ----------------------------------------------------------------------

    def _mind_the_clock(self) -> None:
        """Leases and the waiting in memory do not go by the wall clock; what stands in the table does."""
        then, since = self._clock
        now, monotonic = self._world.clock.now(), self._world.clock.monotonic()
        self._clock = (now, monotonic)
        expected = then + timedelta(seconds=monotonic - since)
        if abs(now - expected) > _STEP:
            self._clock_was_put(now, expected)
        if self._put_back_from is not None:
            with self._world.store.write() as tx:
                clockwork.still_due(tx, self._put_back_from)
                more = clockwork.ask_again(tx)
            self._put_back_from = self._put_back_from if more else None

    def _clock_was_put(self, now: datetime, expected: datetime) -> None:
        way = "forward" if now > expected else "back"
        log.warning("the clock has gone %s by %s", way, abs(now - expected))
        self._nothing_for_good_before(self._world.clock.monotonic() + _UNDISTURBED)
        # On SQLite leases go by this machine's clock, too.
        self._runner.renew_leases()
        if now < expected:
            # Put back once more: what was due by the latest instant is due still.
            self._put_back_from = max(expected, self._put_back_from or expected)
        else:
            # Those of others seem to have run out as well: they prolong them before we look for work.
            self._world.clock.sleep(_OTHERS_NOTICE)
        self._tick_wanted = True

    def _nothing_for_good_before(self, at: float) -> None:
        """An instant of the monotonic clock."""
        for opening in _FOR_GOOD & self._open_at.keys():
            self._open_at[opening] = at

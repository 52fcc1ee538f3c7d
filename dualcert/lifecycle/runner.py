"""Steps under way in this process: due rows are taken into free slots, run in threads, and waited for in between.

One thread turns a runner, a command's own or the daemon's. Steps run in the pools' threads, which hand in what came of
them; nobody waits for a step but the runner's ``wait``.

It measures time by the monotonic clock: an administrator who puts the other one right neither hurries nor delays what
is under way. When rows of the table are due is told by their own instants.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from dualcert.errors import StoreUnavailable
from dualcert.lifecycle.engine import ALL_KINDS, Engine, Held
from dualcert.lifecycle.nextswitch import NextSwitch
from dualcert.lifecycle.stepping import STORE_AGAIN, Ended, Stepper
from dualcert.lifecycle.telling import EventLog
from dualcert.model.work import WorkKind, WorkRow
from dualcert.onecpu import one_cpu
from dualcert.store import Transaction

log = logging.getLogger(__name__)

_AT_ONCE = 16
_MOST_KEPT = 256
"""How many rows of one pool are kept between two steps, before more of them are taken."""

_ROWS_A_THREAD = 4
_LEAST_SLOTS = 16
_AT_A_CA = frozenset({WorkKind.ORDER, WorkKind.REVOCATION, WorkKind.RENEWAL_INFORMATION})
_POOLS = {
    WorkKind.PUBLICATION: "dns",
    WorkKind.WITHDRAWAL: "dns",
    WorkKind.DEPLOYMENT: "deploy",
    WorkKind.VERIFICATION: "deploy",
    WorkKind.REMOVAL: "deploy",
    WorkKind.REFILL: "local",
    WorkKind.FALLBACK: "local",
    WorkKind.PROMOTION: "local",
    WorkKind.SIGNAL: "local",
}
_THREADS = {"dns": 8, "deploy": 4}


def _pool_name(row: WorkRow) -> str:
    return f"ca-{row.ca}" if row.kind in _AT_A_CA else _POOLS[row.kind]


@dataclass(frozen=True)
class Scope:
    """Which work is driven; ``pairs`` None stands for all pairs."""

    pairs: frozenset[int] | None = None
    kinds: tuple[WorkKind, ...] = ALL_KINDS


@dataclass(frozen=True)
class Patience:
    """``outage``: seconds for which a database may be away. ``waiting``: seconds for which a row that waits for
    another is kept; longer, it goes back to the table, and whoever moves the other makes it due. ``mishaps``: the level
    at which what nobody foresaw in a step is logged, with its traceback."""

    outage: float
    waiting: float
    mishaps: int


# A command tells at its end, in words, what has become of its steps; nobody but the log's readers hears of a daemon's.
COMMAND = Patience(outage=60.0, waiting=float("inf"), mishaps=logging.DEBUG)
DAEMON = Patience(outage=float("inf"), waiting=10.0, mishaps=logging.ERROR)


@dataclass(frozen=True)
class _Kept:
    """``wake``: when it is looked at again, ``since``: from when on it has done nothing but wait; both monotonic."""

    held: Held
    wake: float
    since: float


class Runner:
    """A context manager: at its end what is still held is given back, and nobody waits for the steps under way.

    ``look_every``: after how many seconds the table is looked at without anybody's nudge. ``unheard``: rows may have
    been claimed whose claim was not heard of; the next one gives them back.
    """

    def __init__(self, engine: Engine, scope: Scope, patience: Patience, look_every: float) -> None:
        self._engine = engine
        self._world = engine.world
        self._scope = scope
        self._patience = patience
        self._look_every = look_every
        self._kept: dict[int, _Kept] = {}
        # By number and fence: a row that is put back and due at once may be claimed anew before its step is taken in.
        self._busy: dict[tuple[int, int], WorkRow] = {}
        self._waiting_since: dict[int, float] = {}
        self._last_looks: set[int] = set()
        self._running: Counter[str] = Counter()
        self._switching = NextSwitch()
        self._finished: SimpleQueue[Ended | None] = SimpleQueue()
        self._nudged = threading.Event()
        self._expected = False
        self._stepper = Stepper(engine, mishaps=patience.mishaps)
        self._look_at = self._now()
        self._more = False
        self.unheard = False
        self._away_since: float | None = None
        self._events = EventLog(engine.names)
        self._tells = self._events.wanted()
        self._undo = ExitStack()

    def _now(self) -> float:
        return self._world.clock.monotonic()

    # --- from beginning to end ---------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._world.store.watchers.add(self._committed)
        self._world.leases.keep(self._engine.owner, self.renew_leases, self._world.clock)
        self._undo.enter_context(one_cpu.stays())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stepper.ending = True
        self._stepper.over.set()
        now = self._world.clock.now()
        held = [one.held for one in self._kept.values()]
        held += [Held(row, now, "") for row in self._busy.values()]
        away = False
        try:
            if held:
                self._engine.release(held)
        except StoreUnavailable:
            away = True
            raise
        finally:
            self._undo.close()
            self._world.leases.leave(self._engine.owner)
            self._world.store.watchers.discard(self._committed)
            if not away:
                # What could not be given back row by row is anybody's without the lease. Where the database is away
                # just now, that ends by itself.
                with contextlib.suppress(StoreUnavailable):
                    self._engine.end()

    def finish(self, seconds: float) -> bool:
        """Begin nothing any more, and give the steps under way so long to end; whether they did."""
        self._stepper.ending = True
        until = self._now() + seconds
        while self._busy and self._now() < until:
            # What was to go with the next switch of a target has not begun.
            self.wait(until - self._now(), begins=False)
        return not self._busy

    def renew_leases(self) -> None:
        # A database that is away for a moment is met by the steps themselves; the lease outlives two misses.
        with contextlib.suppress(StoreUnavailable):
            self._engine.renew_leases()

    # --- what there is -----------------------------------------------------------------------------------

    @property
    def busy(self) -> int:
        """How many rows are in a step, or about to be."""
        return len(self._busy)

    @property
    def kept(self) -> int:
        """How many rows are held between two steps."""
        return len(self._kept)

    def returns_before(self, until: float) -> bool:
        """Whether a row that is held goes on by itself before an instant of the monotonic clock."""
        return any(not one.held.waiting and one.wake <= until for one in self._kept.values())

    def looked_at_last(self) -> bool:
        """Whether all that waits for another step was looked at since anything moved; looks at the rest now.

        Whoever was waited for may have taken that step just now, and be gone.
        """
        unseen = {number for number, one in self._kept.items() if one.held.waiting} - self._last_looks
        self._last_looks |= unseen
        for number in unseen:
            self._start([self._kept.pop(number).held.row])
        return not unseen

    def others_move(self) -> None:
        """Somebody else is at work: what waits may wait for him."""
        self._last_looks.clear()

    def _committed(self, transaction: Transaction) -> None:
        ours = self._scope.pairs
        if transaction.made_due and (ours is None or not ours.isdisjoint(transaction.made_due)):
            self._expected = True
            self.nudge()
        if self._tells:
            self._events(transaction.recorded)

    # --- one turn ----------------------------------------------------------------------------------------

    def nudge(self) -> None:
        """Work has become due, perhaps; one nudge is enough until it is looked for. From any thread."""
        if not self._nudged.is_set():
            self._nudged.set()
            self._finished.put(None)

    def look_by(self, at: float) -> None:
        """Look at the table at that instant of the monotonic clock at the latest."""
        self._look_at = min(self._look_at, at)

    def turn(self) -> None:
        """Start what is due of what is held already, then look for more."""
        one_cpu.look_round(self._now())
        self._dispatch()
        if self._now() >= self._look_at:
            self.claim()

    def _dispatch(self) -> None:
        now = self._now()
        for number, one in list(self._kept.items()):
            if one.wake <= now:
                del self._kept[number]
                self._start([one.held.row])
        self._give_up_waiting(now)

    def _give_up_waiting(self, now: float) -> None:
        """Back to the table with rows that have waited for others too long."""
        long = [
            one
            for one in self._kept.values()
            if one.held.waiting and one.since < now - self._patience.waiting
        ]
        if long:
            self._engine.release([one.held for one in long])
            for one in long:
                del self._kept[one.held.row.id]
                self._waiting_since.pop(one.held.row.id, None)

    def claim(self) -> None:
        """Take due rows into the free slots. What is full is left out: what hangs holds up nobody else."""
        self._look_at = self._now() + self._look_every
        self._nudged.clear()
        expected, self._expected = self._expected, False
        kept = Counter[str]()
        if len(self._kept) >= _MOST_KEPT:
            kept.update(_pool_name(one.held.row) for one in self._kept.values())
        cas = {name: self._free(f"ca-{name}", kept) for name in self._world.cas}
        free = {name: self._free(name, kept) for name in sorted(set(_POOLS.values()))}
        kinds = [kind for kind in self._scope.kinds if kind in _AT_A_CA or free[_POOLS[kind]]]
        full = [name for name, slots in cas.items() if not slots]
        enough = self._switching.full()
        # All that is taken at once may be for one pool: it must not get much more than it has room for.
        limit = min(_AT_ONCE, max([*cas.values(), *free.values()]))
        taken = 0
        if limit:
            for batch in self._claimed(kinds, limit, full, enough, expected):
                taken += len(batch)
                self._start(batch)
        self._more = bool(full or enough) or len(kinds) < len(self._scope.kinds)
        if limit and taken >= limit:
            self._look_at = self._now()

    def _claimed(
        self, kinds: list[WorkKind], limit: int, full: list[str], enough: list[str], expected: bool
    ) -> list[list[WorkRow]]:
        if self.unheard:
            held = {one.held.row.id for one in self._kept.values()}
            self._engine.release_all_but(held | {number for number, _ in self._busy})
            self.unheard = False
        try:
            return self._engine.claim(kinds, limit, self._scope.pairs, full, enough, expected=expected)
        except StoreUnavailable:
            self.unheard = True
            raise

    def _free(self, name: str, kept: Counter[str]) -> int:
        """The slots of a pool that has run half empty, so that rows are taken by the handful and threads never lack."""
        slots = max(_LEAST_SLOTS, _ROWS_A_THREAD * self._threads(name))
        running = self._running[name]
        return 0 if running > slots // 2 or kept[name] >= _MOST_KEPT else slots - running

    def _threads(self, name: str) -> int:
        ca = self._world.cas.get(name.removeprefix("ca-")) if name.startswith("ca-") else None
        return ca.max_concurrency if ca is not None else _THREADS.get(name, 1)

    # --- waiting -----------------------------------------------------------------------------------------

    def wait(self, seconds: float, *, begins: bool = True) -> None:
        """Until a step ends, the next thing is due, or so many seconds have passed; takes in all that has ended.

        Who ``begins`` nothing any more does not wait for what is due: it would be due again and again.
        """
        now = self._now()
        wakes = [self._look_at, *(one.wake for one in self._kept.values())] if begins else []
        with contextlib.suppress(Empty):
            self._take_in(self._finished.get(timeout=max(0.0, min([*wakes, now + seconds]) - now)))
            while True:
                self._take_in(self._finished.get_nowait())

    def _take_in(self, ended: Ended | None) -> None:
        if ended is None:
            self._look_at = self._now()
            return
        if ended.error is not None:
            raise ended.error  # its rows are among the busy ones still, and are given back with them
        name = _pool_name(ended.rows[0])
        self._running[name] -= 1
        for row in ended.rows:
            del self._busy[row.id, row.fence]
        for row, one in zip(ended.rows, ended.held, strict=True):
            self._keep(row, one)
        self._go_on_switching(ended.rows[0])
        if ended.away is not None:
            self.met_outage(ended.away)
            return
        self.answered()
        if ended.moved:
            self._last_looks.clear()
            self._wake_siblings(ended.rows)
        if self._more and self._free(name, Counter()):
            self._look_at = self._now()

    def _keep(self, row: WorkRow, one: Held | None) -> None:
        now = self._now()
        since = self._waiting_since.pop(row.id, now)
        if one is None:
            return
        if one.waiting:
            self._waiting_since[row.id] = since
        seconds = (one.wake_at - self._world.clock.now()).total_seconds()
        self._kept[row.id] = _Kept(one, now + seconds, since)

    def _wake_siblings(self, rows: list[WorkRow]) -> None:
        """A step that has ended may be what rows of its pairs waited for."""
        now, moved, just_now = self._now(), {row.pair_id for row in rows}, {row.id for row in rows}
        for number, one in self._kept.items():
            if one.held.waiting and one.held.row.pair_id in moved and number not in just_now:
                self._kept[number] = _Kept(one.held, now, one.since)

    def met_outage(self, error: StoreUnavailable) -> None:
        """The database is away: told once, and put up with as long as patience lasts. Raises the error after that."""
        now = self._now()
        if self._away_since is None:
            self._away_since = now
            log.warning("%s", error.reason)
        elif now - self._away_since > self._patience.outage:
            raise error
        self._look_at = now + STORE_AGAIN.total_seconds()

    def answered(self) -> None:
        """The database has answered."""
        if self._away_since is not None:
            log.warning("the database answers again, after %.0f s", self._now() - self._away_since)
            self._away_since = None

    # --- steps in their threads --------------------------------------------------------------------------

    def _start(self, rows: list[WorkRow]) -> None:
        for row in rows:
            self._busy[row.id, row.fence] = row
        if rows[0].kind is WorkKind.DEPLOYMENT:
            rows = self._switching.come(rows)
        if rows:
            self._submit(rows)

    def _submit(self, rows: list[WorkRow]) -> None:
        name = _pool_name(rows[0])
        self._running[name] += 1
        pool = self._world.pools.get(name, self._threads(name))
        pool.submit(lambda: self._finished.put(self._stepper(rows)))

    def _go_on_switching(self, row: WorkRow) -> None:
        if row.kind is not WorkKind.DEPLOYMENT:
            return
        if not self._stepper.ending:
            if rows := self._switching.follow(row.target):
                self._submit(rows)
            return
        now = self._world.clock.now()
        for one in self._switching.leave(row.target):
            del self._busy[one.id, one.fence]
            self._keep(one, Held(one, now, ""))

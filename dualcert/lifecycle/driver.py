"""Drives the engine for a command: claims what is due, runs steps in pools, waits, follows other processes."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from queue import Empty, SimpleQueue

from dualcert.errors import StoreUnavailable
from dualcert.lifecycle.engine import ALL_KINDS, Engine, Held
from dualcert.lifecycle.pool import Pool
from dualcert.model.events import Event
from dualcert.model.work import Later, WorkKind, WorkRow
from dualcert.store import events, leases, work

_POLL = timedelta(milliseconds=250)
_FOLLOW = timedelta(milliseconds=50)
_AT_ONCE = 64
_GRACE = timedelta(seconds=35)
"""How long after the deadline a step that is under way may still end: a request ends in 30 s."""

_RENEW_EVERY = leases.LEASE_SECONDS / 3
_AT_A_CA = frozenset({WorkKind.ORDER, WorkKind.REVOCATION})
_POOLS = {
    WorkKind.PUBLICATION: "dns",
    WorkKind.WITHDRAWAL: "dns",
    WorkKind.DEPLOYMENT: "deploy",
    WorkKind.VERIFICATION: "deploy",
    WorkKind.REFILL: "local",
    WorkKind.FALLBACK: "local",
}
_THREADS = {"dns": 8, "deploy": 4}


def _pool_name(row: WorkRow) -> str:
    return f"ca-{row.ca}" if row.kind in _AT_A_CA else _POOLS[row.kind]


@dataclass(frozen=True)
class Scope:
    """Which work a command drives; ``pairs`` None stands for all pairs."""

    pairs: frozenset[int] | None = None
    kinds: tuple[WorkKind, ...] = ALL_KINDS


def run_until(
    engine: Engine, scope: Scope, deadline: datetime, on_event: Callable[[Event], None] | None = None
) -> None:
    """Move everything in ``scope`` on until nothing of it is due before ``deadline``, or the deadline has passed.

    Rows that another live process holds are followed: this returns when they are done or the deadline has passed.
    What is left is resumable. Exceptions of steps that are not dualcert's own end the run.
    """
    _Run(engine, scope, deadline, on_event).run()


@dataclass(frozen=True)
class _Ended:
    """What came of one or more steps. ``moved`` is False where a row was only found to wait still: two that wait must
    not wake each other for ever. ``error`` ends the run."""

    rows: list[WorkRow]
    held: list[Held | None]
    moved: bool
    error: BaseException | None = None


class _Run:
    def __init__(
        self, engine: Engine, scope: Scope, deadline: datetime, on_event: Callable[[Event], None] | None
    ) -> None:
        self._engine = engine
        self._world = engine.world
        self._scope = scope
        self._deadline = deadline
        self._on_event = on_event
        self._held: dict[int, Held] = {}
        # By number and fence: a row that is put back and due at once may be claimed anew before its step is taken in.
        self._busy: dict[tuple[int, int], WorkRow] = {}
        self._last_looks: set[int] = set()
        self._finished: SimpleQueue[_Ended | None] = SimpleQueue()
        self._nudged = threading.Event()
        self._pools: dict[str, Pool] = {}
        self._claim_at = self._now()
        self._seen = 0

    def _now(self) -> datetime:
        return self._world.clock.now()

    def _nudge(self) -> None:
        """Work has become due, perhaps; one nudge is enough until it is looked for."""
        if not self._nudged.is_set():
            self._nudged.set()
            self._finished.put(None)

    def run(self) -> None:
        self._engine.take_from_the_dead()
        self._begin_following()
        self._world.store.watchers.add(self._nudge)
        stop = threading.Event()
        keeper = threading.Thread(target=self._keep_leases, args=(stop,), name="leases", daemon=True)
        keeper.start()
        try:
            while not self._over():
                self._collect()
                self._tell()
            self._tell()
        finally:
            self._world.store.watchers.discard(self._nudge)
            stop.set()
            for pool in self._pools.values():
                pool.close()
            self._release()

    # --- one round ---------------------------------------------------------------------------------------

    def _over(self) -> bool:
        """Claim and start what is due; True when nothing is left to wait for."""
        now = self._now()
        if now >= self._deadline:
            return not self._busy or now >= self._deadline + _GRACE
        # What is held already goes on in its threads while more is looked for.
        self._dispatch(now)
        if now >= self._claim_at:
            self._claim(now)
        if self._busy or any(
            not one.waiting and one.wake_at <= self._deadline for one in self._held.values()
        ):
            return False
        if self._others_at_work():
            self._last_looks.clear()
            return False
        return self._looked_at_last(now)

    def _looked_at_last(self, now: datetime) -> bool:
        """Whether all that waits for another step was looked at since nobody is at work: he may have just taken it."""
        unseen = self._held.keys() - self._last_looks
        self._last_looks |= unseen
        for number in unseen:
            self._held[number] = replace(self._held[number], wake_at=now)
        self._dispatch(now)
        return not unseen

    def _claim(self, now: datetime) -> None:
        """Take what is due, but no more of a CA whose threads have enough: what hangs there holds up nobody else."""
        self._claim_at = now + _POLL
        self._nudged.clear()
        busy = Counter(_pool_name(row) for row in self._busy.values())
        kinds = [kind for kind in self._scope.kinds if kind in _AT_A_CA or busy[_POOLS[kind]] < _AT_ONCE]
        full = [name for name in self._world.cas if busy[f"ca-{name}"] >= _AT_ONCE]
        for batch in self._engine.claim(kinds, _AT_ONCE, self._scope.pairs, full):
            self._start(batch)

    def _dispatch(self, now: datetime) -> None:
        for number, one in list(self._held.items()):
            if one.wake_at <= now:
                del self._held[number]
                self._start([one.row])

    def _others_at_work(self) -> bool:
        """Whether rows of the scope are due soon that this process does not hold."""
        now = self._now()
        with self._world.store.read() as tx:
            earliest = work.due_before(
                tx, self._deadline, self._scope.kinds, self._scope.pairs, but_not_of=self._engine.owner
            )
        if earliest is None:
            return False
        self._claim_at = min(self._claim_at, max(earliest, now + _FOLLOW))
        if earliest <= now:
            self._engine.take_from_the_dead()
        return True

    def _collect(self) -> None:
        """Wait until a step ends or the next thing is due; take in every step that has ended."""
        timeout = max(0.0, (self._next_wake() - self._now()).total_seconds())
        with contextlib.suppress(Empty):
            self._take_in(self._finished.get(timeout=timeout))
            while True:
                self._take_in(self._finished.get_nowait())

    def _next_wake(self) -> datetime:
        wakes = [one.wake_at for one in self._held.values()]
        return min([*wakes, self._claim_at, self._now() + _POLL])

    def _take_in(self, ended: _Ended | None) -> None:
        if ended is None:
            self._claim_at = self._now()
            return
        if ended.error is not None:
            raise ended.error  # its rows are among the busy ones still, and are given back with them
        for row in ended.rows:
            del self._busy[row.id, row.fence]
        for one in ended.held:
            if one is not None:
                self._held[one.row.id] = one
        if ended.moved:
            self._last_looks.clear()
        # A step that has ended may be what rows of its pairs waited for.
        now = self._now()
        moved = {row.pair_id for row in ended.rows if ended.moved}
        just_now = {row.id for row in ended.rows}
        for number, one in self._held.items():
            if one.waiting and one.row.pair_id in moved and number not in just_now:
                self._held[number] = replace(one, wake_at=now)

    # --- steps in their threads --------------------------------------------------------------------------

    def _start(self, rows: list[WorkRow]) -> None:
        for row in rows:
            self._busy[row.id, row.fence] = row
        self._pool(rows[0]).submit(lambda: self._finished.put(self._steps(rows)))

    def _pool(self, row: WorkRow) -> Pool:
        name = _pool_name(row)
        if name not in self._pools:
            ca = self._world.cas.get(row.ca)
            size = ca.max_concurrency if ca is not None and row.kind in _AT_A_CA else _THREADS.get(name, 1)
            self._pools[name] = Pool(name, size)
        return self._pools[name]

    def _steps(self, rows: list[WorkRow]) -> _Ended:
        """Step after step of the rows, as long as the next one is due at once."""
        moved = False
        try:
            while True:
                outcomes = self._engine.advance(rows)
                held = [self._engine.settle(row, one) for row, one in zip(rows, outcomes, strict=True)]
                only = held[0] if len(held) == 1 else None
                at_once = isinstance(outcomes[0], Later) and not outcomes[0].failed
                if only is None or not at_once or only.waiting or only.wake_at > self._now():
                    return _Ended(rows, held, moved or only is None or not only.waiting)
                rows, moved = [only.row], True
        except BaseException as error:  # noqa: BLE001 - carried to the thread that waits, which raises it
            return _Ended(rows, [], moved, error)

    def _keep_leases(self, stop: threading.Event) -> None:
        while not stop.wait(_RENEW_EVERY):
            # A database that is away for a moment is met by the steps themselves; the lease outlives two misses.
            with contextlib.suppress(StoreUnavailable), self._world.store.write() as tx:
                leases.renew(tx, self._engine.owner)

    def _release(self) -> None:
        busy = [Held(row, self._now(), "") for row in self._busy.values()]
        held = [*self._held.values(), *busy]
        if held:
            self._engine.release(held)

    # --- events ------------------------------------------------------------------------------------------

    def _begin_following(self) -> None:
        if self._on_event is not None:
            with self._world.store.read() as tx:
                self._seen = events.last(tx)

    def _tell(self) -> None:
        if self._on_event is None:
            return
        with self._world.store.read() as tx:
            found = events.page(tx, pairs=self._scope.pairs, after=self._seen)
        for event in found:
            self._seen = event.id
            self._on_event(event)

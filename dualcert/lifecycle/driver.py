"""Drives the engine for a command: until nothing of its work is due, following what other processes do of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from dualcert.errors import StoreNotWritable, StoreUnavailable
from dualcert.lifecycle import budgeting
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.runner import COMMAND, Runner, Scope
from dualcert.lifecycle.world import World
from dualcert.model.events import Event
from dualcert.store import claims, events
from dualcert.store.following import Follower

__all__ = ["Scope", "patiently", "run_until"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_POLL = 0.25
_FOLLOW = 0.05
_AGAIN = 1.0
_LATE = 1.0
GRACE = 35.0
"""Seconds after the deadline in which a step that is under way may still end: a request ends in 30. Help says so."""


def run_until(
    engine: Engine,
    scope: Scope,
    deadline: datetime,
    on_event: Callable[[Event], None] | None = None,
    *,
    follow: bool = True,
) -> None:
    """Move everything in ``scope`` on until nothing of it is due before ``deadline``, or the deadline has passed.

    Rows that another live process holds are followed: this returns when they are done or the deadline has passed;
    with ``follow`` False they are left to it. What is left is resumable.
    """
    _Run(engine, scope, deadline, on_event, follow).run()


_OF_ITSELF = 60.0
"""A lock, a connection that is dead or one that does not come about are waited for, too, before they fail."""


def patiently(world: World, seconds: float, act: Callable[[], T]) -> T:
    """What ``act`` gives; taken again while the database is away, for at most so many seconds.

    For what a command does beside its steps, and what may be done twice. Raises ``StoreUnavailable`` after that. What
    has gone on for longer before it failed, and for longer than an outage is waited for by itself, has met another one.
    """
    until: float | None = None
    while True:
        began = world.clock.monotonic()
        try:
            result = act()
        except StoreUnavailable as error:
            now = world.clock.monotonic()
            fresh = until is None or now - began > max(seconds, _OF_ITSELF)
            if until is None or fresh:
                # What was waited for in the try itself counts; what was done before the outage does not.
                until = seconds + (began if now - began <= _OF_ITSELF else now)
            if now >= until or isinstance(error, StoreNotWritable):
                raise
            if fresh:
                log.warning("%s", error.reason)
            world.clock.sleep(_AGAIN)
        else:
            if until is not None:
                log.warning("the database answers again")
            return result


class _Run:
    def __init__(
        self,
        engine: Engine,
        scope: Scope,
        deadline: datetime,
        on_event: Callable[[Event], None] | None,
        follow: bool,
    ) -> None:
        self._engine = engine
        self._world = engine.world
        self._scope = scope
        self._until = self._now() + (deadline - self._world.clock.now()).total_seconds()
        self._on_event = on_event
        self._follow = follow
        self._runner = Runner(engine, scope, COMMAND, _POLL)
        self._follower = Follower(scope.pairs)

    def _now(self) -> float:
        return self._world.clock.monotonic()

    def run(self) -> None:
        with self._runner:
            self._patiently(self._engine.take_from_the_dead)
            self._patiently(self._begin_following)
            while not self._over():
                self._runner.wait(_POLL, begins=self._now() < self._until)
                self._tell()
            self._tell_the_rest()

    def _patiently(self, act: Callable[[], None]) -> None:
        """Do something as soon as the database answers, if it does in time."""
        while self._now() < self._until:
            try:
                act()
            except StoreUnavailable as error:
                self._met(error)
                self._runner.wait(_AGAIN)
            else:
                return

    def _met(self, error: StoreUnavailable) -> None:
        if isinstance(error, StoreNotWritable):
            raise error
        self._runner.met_outage(error)

    def _over(self) -> bool:
        """Start what is due; True when nothing is left to wait for."""
        now = self._now()
        if now >= self._until:
            return not self._runner.busy or now >= self._until + GRACE
        try:
            # What is held already goes on in its threads while more is looked for.
            self._runner.turn()
            if self._runner.busy or self._runner.unheard or self._runner.returns_before(self._until):
                return False
            if self._others_at_work():
                self._runner.others_move()
                return False
        except StoreUnavailable as error:
            self._met(error)
            return False
        self._runner.answered()
        return self._runner.looked_at_last()

    def _others_at_work(self) -> bool:
        """Whether rows of the scope are due soon that this process does not hold."""
        now = self._world.clock.now()
        until = now + timedelta(seconds=self._until - self._now())
        store = self._world.store
        with store.read() if self._scope.pairs is None else store.glance() as tx:
            earliest = claims.due_before(
                tx,
                until,
                self._scope.kinds,
                self._scope.pairs,
                but_not_of=self._engine.owner,
                free=not self._follow,
                allowed=partial(budgeting.allowance, self._world, tx),
            )
        if earliest is None:
            return False
        self._runner.look_by(self._now() + max(_FOLLOW, (earliest - now).total_seconds()))
        if earliest <= now:
            self._engine.take_from_the_dead()
        return True

    # --- events ------------------------------------------------------------------------------------------

    def _begin_following(self) -> None:
        if self._on_event is not None:
            with self._world.store.read() as tx:
                self._follower.begin(tx)

    def _tell(self, *, all_of_it: bool = False) -> None:
        if self._on_event is None:
            return
        try:
            found = self._follower.new(self._world.store, all_of_it=all_of_it)
        except StoreUnavailable as error:
            self._met(error)
            return
        for event in found:
            self._on_event(event)

    def _tell_the_rest(self) -> None:
        """What this run has done is told in any case; those who write at the same time have a moment to end."""
        if self._on_event is None:
            return
        goal, until = self._last(), self._now() + _LATE
        self._tell()
        while self._follower.seen < goal and self._now() < until:
            self._runner.wait(_FOLLOW, begins=False)
            self._tell()
        if self._follower.seen < goal:
            self._tell(all_of_it=True)

    def _last(self) -> int:
        try:
            with self._world.store.read() as tx:
                return events.last(tx)
        except StoreUnavailable as error:
            self._met(error)
            return 0

"""What the daemon costs while nothing is due, and what it takes to find what is, with few pairs and with many."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.databases import Both, Databases, Inventory, change, worlds
from bench.results import Goal, Result, result
from bench.stage import environ, in_turns, seconds
from dualcert.clock import SystemClock
from dualcert.lifecycle.daemon import Daemon
from dualcert.lifecycle.engine import ALL_KINDS, Engine
from dualcert.lifecycle.world import World
from dualcert.model.work import WorkKind
from dualcert.store import claims, daemons, queue, renewals
from dualcert.store.workrows import Queue

_BATCH = 1_000
_BACKLOG = 100_000
_LONGEST = 120.0


# --- a tick with nothing due -----------------------------------------------------------------------------


def ticks(databases: Databases, rounds: int) -> list[Result]:
    """The usual one, and the one with the heartbeat and the look for keys to destroy."""
    return [one for both in databases.all for one in _ticks(both, rounds)]


def _ticks(both: Both, rounds: int) -> Iterator[Result]:
    with worlds(both.small, both.large) as pair:
        small, large = (_Ticking(world) for world in pair)
        for name, leap in (("a tick with nothing due", 0.0), ("  the fullest, once a minute", 120.0)):
            sides = [lambda _, one=one, leap=leap: one.tick(leap) for one in (large, small)]
            in_turns(3, *sides)
            many, few = (1000 * took for took in in_turns(rounds, *sides))
            goal = Goal.at_most(many, 10, "ms").and_also(Goal.at_most(max(many / few, few / many), 2, "x"))
            against = (f"{both.small.pairs:,} pairs", few)
            yield result(f"{name}, {both.large}", many, "ms", against=against, goal=goal)
        for one in (small, large):
            one.end()


class _Ticking:
    """A daemon whose thread does not run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._clock = _Leaping()
        self._daemon = Daemon(replace(world, clock=self._clock), "bench")

    def tick(self, leap: float) -> float:
        """Seconds; after so many on the clock that were not waited for."""
        self._clock.ahead += leap
        return seconds(self._daemon.tick)

    def end(self) -> None:
        if self._daemon.load != (0, 0):
            raise RuntimeError("there was something to do")
        with self._world.store.write() as tx:
            daemons.gone(tx, [self._daemon.owner])


class _Leaping(SystemClock):
    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


# --- claiming what is due --------------------------------------------------------------------------------


def claiming(databases: Databases, rounds: int) -> list[Result]:
    """A thousand rows of work, and a thousand pairs whose renewal clock has run out, behind which there are more."""
    return [one for both in databases.all for one in _claims(both.large, rounds)]


def _claims(inventory: Inventory, rounds: int) -> Iterator[Result]:
    with worlds(inventory) as (world,):
        for what, due, act in (
            ("rows of work", _rows_due, _claim_rows),
            ("orders in their queue", _orders_lined_up, _claim_rows),
            ("pairs", _pairs_due, _claim_pairs),
        ):
            backlog = min(_BACKLOG, inventory.pairs)
            with due(world, _BATCH):
                few = _usual(world, act, rounds)
            with due(world, backlog):
                many = _usual(world, act, rounds)
            goal = Goal.at_most(max(few, many), 15, "ms").and_also(Goal.at_most(many / few, 2, "x"))
            name = f"claim of {_BATCH:,} {what} of {backlog:,} due, {inventory}"
            yield result(name, many, "ms", against=(f"{_BATCH:,} due", few), goal=goal)
        yield _lining_up(world, rounds, inventory)


def _lining_up(world: World, rounds: int, inventory: Inventory) -> Result:
    """What an order costs once, however often it is claimed."""
    backlog = min(_BACKLOG, inventory.pairs)
    with _orders_due(world, _BATCH):
        few = _usual(world, _line_up, rounds)
    with _orders_due(world, backlog):
        many = _usual(world, _line_up, rounds)
    name = f"{_BATCH:,} orders of {backlog:,} due put into their queue, {inventory}"
    goal = Goal.at_most(many / few, 2, "x")
    return result(name, many, "ms", against=(f"{_BATCH:,} due", few), goal=goal)


def _usual(world: World, act: Callable[[World], float], rounds: int) -> float:
    in_turns(3, lambda _: act(world))
    (took,) = in_turns(rounds, lambda _: 1000 * act(world))
    return took


def _claim_rows(world: World) -> float:
    owner = Engine(world).owner

    def act() -> int:
        with world.store.write() as tx:
            return len(claims.claim(tx, owner, kinds=ALL_KINDS, limit=_BATCH))

    took = _taking_all(act)
    change(world, "UPDATE work SET owner = NULL WHERE owner = :owner", owner=owner)
    return took


def _line_up(world: World) -> float:
    def act() -> int:
        with world.store.write() as tx:
            return queue.line_up(tx)

    took = _taking_all(act)
    change(world, "UPDATE work SET queue = 1 WHERE queue > 1")
    return took


def _claim_pairs(world: World) -> float:
    def act() -> int:
        with world.store.write() as tx:
            return len(renewals.due(tx, _BATCH))

    return _taking_all(act)


def _taking_all(act: Callable[[], int]) -> float:
    began = time.perf_counter()
    found = act()
    took = time.perf_counter() - began
    if found != _BATCH:
        raise RuntimeError(f"{found} were found")
    return took


@contextmanager
def _rows_due(
    world: World, number: int, kind: WorkKind = WorkKind.REFILL, queue: Queue = Queue.NONE
) -> Iterator[None]:
    change(
        world,
        "INSERT INTO work (kind, pair_id, ca, target, due_at, fence, attempts, queue, needed_by)"
        " SELECT :kind, pair_id, 'alpha', '', :at - pair_id, 0, 0, :queue, :at - pair_id"
        " FROM pair_state WHERE pair_id <= :number",
        kind=kind.value,
        queue=int(queue),
        at=_now(world),
        number=number,
    )
    yield
    change(world, "DELETE FROM work")


_orders_due = partial(_rows_due, kind=WorkKind.ORDER, queue=Queue.ORDERS)
_orders_lined_up = partial(_rows_due, kind=WorkKind.ORDER, queue=Queue.COUNTED)


@contextmanager
def _pairs_due(world: World, number: int) -> Iterator[None]:
    clock = "UPDATE pair_state SET next_action_at = {} WHERE pair_id <= :number"
    change(world, clock.format(":at - pair_id"), at=_now(world), number=number)
    yield
    first = "(SELECT min(renew_at) FROM lineage WHERE lineage.pair_id = pair_state.pair_id)"
    change(world, clock.format(first), number=number)


def _now(world: World) -> int:
    with world.store.read() as tx:
        return tx.at


# --- memory ----------------------------------------------------------------------------------------------


def memory(databases: Databases) -> list[Result]:
    """The most that a daemon's process ever held in memory, from its start to its second heartbeat."""
    with ExitStack() as stack:
        running = [
            (both, [stack.enter_context(_Process.of(one)) for one in (both.large, both.small)])
            for both in databases.all
        ]
        return [_compared(both, *(one.most() for one in processes)) for both, processes in running]


def _compared(both: Both, many: float, few: float) -> Result:
    goal = Goal.at_most(many / few, 1.2, "x")
    against = (f"{both.small.pairs:,} pairs", few)
    return result(f"memory of the daemon, {both.large}", many, "MB", against=against, goal=goal)


class _Process:
    """`dualcert run`."""

    def __init__(self, inventory: Inventory, process: subprocess.Popen[bytes]) -> None:
        self._inventory = inventory
        self._process = process

    @classmethod
    @contextmanager
    def of(cls, inventory: Inventory) -> Iterator[_Process]:
        with subprocess.Popen(
            inventory.command("run"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environ(),
        ) as process:
            try:
                yield cls(inventory, process)
            finally:
                process.send_signal(signal.SIGTERM)

    def most(self) -> float:
        """MB, once its heart has beaten twice."""
        with worlds(self._inventory) as (world,):
            deadline = time.perf_counter() + _LONGEST
            while not self._has_ticked(world):
                if self._process.poll() is not None or time.perf_counter() > deadline:
                    raise RuntimeError(f"the daemon has not come to its second heartbeat: {self._inventory}")
                time.sleep(0.2)
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        if found is None:
            raise RuntimeError("this system does not tell how much memory a process has used")
        return int(found[1]) / 1024

    def _has_ticked(self, world: World) -> bool:
        with world.store.read() as tx:
            return any(one.seen_at > one.started_at for one in daemons.everybody(tx))

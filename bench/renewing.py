"""A thousand pairs renewed by one daemon, against the bare script that has as much under way at a time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from sqlalchemy import text

from bench.databases import change
from bench.floor import Floor
from bench.inventory import Made, fill
from bench.issuance import AT_ONCE, floors, fresh_name, issue
from bench.results import Goal, Result, result
from bench.stage import Project, Stage, environ, seconds
from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.model.work import WorkKind

_LOOK = 0.25
_STANDSTILL = 90.0
"""Seconds after which a daemon that has ended nothing is not waited for any more."""


def renewing(stage: Stage, pairs: int) -> list[Result]:
    """The floor runs before and after it, in both of its ways; the faster one counts."""
    each = max(AT_ONCE, pairs // 8)
    with (
        stage.project("renewing") as project,
        project.application() as application,
        floors(stage, AT_ONCE) as made,
    ):
        world = application.world
        fill(application, Made(pairs, real=0, targets=(), wildcards=False))
        issue(world, fresh_name("registers"))
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for way in _WAYS:
                _floor(made, threads, way, AT_ONCE)
            before = [_floor(made, threads, way, each) for way in _WAYS]
            _make_due(world)
            with _daemon(project) as process:
                mine = pairs / _renewed(world, process, pairs)
            after = [_floor(made, threads, way, each) for way in _WAYS]
    rates = {way: 2 / (1 / one + 1 / two) for way, one, two in zip(_WAYS, before, after, strict=True)}
    best = max(rates, key=lambda way: rates[way])
    return [
        result(
            f"{pairs:,} pairs renewed by one daemon",
            mine,
            "pairs/s",
            against=(f"floor.py in {AT_ONCE} threads, both orders {best}", rates[best]),
            goal=Goal.at_least(round(100 * mine / rates[best], 1), 70, "%"),
        )
    ]


_WAYS: dict[str, Callable[[Floor, str], object]] = {"in turn": Floor.in_turn, "in threads": Floor.in_threads}


def _floor(made: list[Floor], threads: ThreadPoolExecutor, way: str, pairs: int) -> float:
    """Pairs a second."""
    free = list(made)

    def bare(name: str) -> None:
        floor = free.pop()
        _WAYS[way](floor, name)
        free.append(floor)

    names = [fresh_name("bare") for _ in range(pairs)]
    return pairs / seconds(lambda: list(threads.map(bare, names)))


def _make_due(world: World) -> None:
    with world.store.read() as tx:
        at = tx.at
    change(world, "UPDATE lineage SET renew_at = :at", at=at)
    change(world, "UPDATE pair_state SET next_action_at = :at", at=at)


@contextmanager
def _daemon(project: Project) -> Iterator[subprocess.Popen[bytes]]:
    log = project.config.with_name("daemon.log")
    with (
        log.open("wb") as said,
        subprocess.Popen(
            project.command("run"), stdin=subprocess.DEVNULL, stderr=said, env=environ()
        ) as process,
    ):
        try:
            yield process
        except BaseException:
            print(log.read_text()[-3000:], file=sys.stderr)
            raise
        finally:
            process.send_signal(signal.SIGTERM)


_LEFT = f"SELECT count(*) FROM work WHERE kind <> '{WorkKind.RENEWAL_INFORMATION.value}'"
_STORED = f"SELECT count(*) FROM event WHERE kind = '{EventKind.STORED.value}' AND id > :last"
_FROM_TO = "SELECT min(at), max(at) FROM event WHERE id > :last"


def _renewed(world: World, process: subprocess.Popen[bytes], pairs: int) -> float:
    """Seconds from the first order that was opened to the last trace of the last one."""
    last = _asked(world, "SELECT max(id) FROM event")[0]
    known, since = -1, time.perf_counter()
    while True:
        stored = _asked(world, _STORED, last=last)[0]
        left = _asked(world, _LEFT)[0]
        if stored >= 2 * pairs and not left:
            begun, ended = _asked(world, _FROM_TO, last=last)
            return (ended - begun) / 1_000_000
        if stored > known:
            known, since = stored, time.perf_counter()
        if process.poll() is not None or time.perf_counter() - since > _STANDSTILL:
            raise TimeoutError(f"{stored} of {2 * pairs} certificates have come, {left} steps are left")
        time.sleep(_LOOK)


def _asked(world: World, query: str, **values: int) -> tuple[int, ...]:
    with world.store.read() as tx:
        return tuple(tx.connection.execute(text(query), values).one())

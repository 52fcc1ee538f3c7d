"""How fast the history is sealed and verified, and how long a writer of it is held up meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from sqlalchemy import delete, insert

from bench.results import Goal, Result, result
from bench.stage import Stage, in_turns, seconds
from dualcert import bootstrap
from dualcert.lifecycle import sealing
from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.store import events, seals
from dualcert.store.incident_tables import seal
from dualcert.store.tables import event
from tests import postgres

EVENTS = 500_000
_BATCH = 50_000
_LOOKS = 200


def seal_and_verify(stage: Stage, rounds: int) -> list[Result]:
    """All at once, on both databases; then the moments of the lock, against a writer who never rests."""
    results: list[Result] = []
    for name, world in _worlds(stage):
        _fill(world)
        sealed, verified = _taken(world, rounds)
        for what, took in (("sealed", sealed), ("verified", verified)):
            rate = EVENTS / took
            goal = Goal.at_least(rate, 100_000, "/s")
            results.append(result(f"events {what}, {name}", rate, "/s", goal=goal))
        longest = _longest_wait(world) * 1000
        results.append(
            result(f"  longest wait of a writer, {name}", longest, "ms", goal=Goal.at_most(longest, 50, "ms"))
        )
    return results


def _taken(world: World, rounds: int) -> tuple[float, float]:
    sealed, verified = in_turns(rounds, lambda _: _seal(world), lambda _: _verify(world))
    return sealed, verified


def _worlds(stage: Stage) -> Iterator[tuple[str, World]]:
    with stage.project("sealed") as project:
        with project.application() as application:
            yield "SQLite", application.world
        with postgres.running() as server:
            text = project.config.read_text()
            project.config.write_text(text.replace("sqlite:///dualcert.db", server.url(server.create())))
            settings = bootstrap.load_settings(project.config)
            bootstrap.upgrade_database(settings)
            with project.application() as application:
                yield "PostgreSQL", application.world


def _fill(world: World) -> None:
    row = {
        "kind": "promoted",
        "actor": "operator@host.example.test",
        "cause": "incident 7, wave 2 of 3",
        "ca": "beta",
    }
    for first in range(0, EVENTS, _BATCH):
        with world.store.write() as tx:
            rows = [
                {
                    **row,
                    "at": tx.at,
                    "pair_id": number,
                    "certificate_id": 2 * number,
                    "previous_id": 2 * number - 1,
                }
                for number in range(first, first + _BATCH)
            ]
            tx.execute(insert(event), rows)


def _seal(world: World) -> float:
    with world.store.write() as tx:
        tx.execute(delete(seal))
    return seconds(lambda: sealing.seal_everything(world))


def _verify(world: World) -> float:
    def act() -> None:
        if (broken := sealing.verify(world).broken) is not None:
            raise RuntimeError(broken)

    return seconds(act)


def _longest_wait(world: World) -> float:
    """What asking for the decided number adds to the slowest of many small units of work."""
    over = threading.Event()
    asked = threading.Thread(target=_ask, args=(world, over))
    alone = max(_write(world) for _ in range(_LOOKS))
    asked.start()
    try:
        beside = max(_write(world) for _ in range(_LOOKS))
    finally:
        over.set()
        asked.join()
    return max(0.0, beside - alone)


def _ask(world: World, over: threading.Event) -> None:
    while not over.wait(0.01):
        seals.decided(world.store)


def _write(world: World) -> float:
    began = time.perf_counter()
    with world.store.write() as tx:
        events.record(tx, EventKind.CHANGED, "a measurement")
    return time.perf_counter() - began

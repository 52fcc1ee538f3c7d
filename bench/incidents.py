"""Mass promotion among many pairs: against SQL written by hand, and what others notice of it meanwhile.

``python -m bench giant`` measures at the full size, 1,000,000 of 10,000,000 on PostgreSQL. ``python -m bench.incidents
--config FILE --affected N`` does it on an inventory that ``bench.inventory`` has made and that nobody needs afterwards.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from sqlalchemy import func, select, text

from bench.databases import Databases, Inventory, giant
from bench.results import Goal, Result, result, table
from bench.stage import environ, in_turns, run, seconds
from dualcert.lifecycle import inventory as lifecycle_inventory
from dualcert.lifecycle import promotion
from dualcert.lifecycle.promotion import Wish
from dualcert.lifecycle.world import World
from dualcert.store.tables import pair_state

_REAL = 100
"""So many pairs have keys that open; they are failed over by name and are in no file but one."""

_SHARES = 10
_FEW = 10_000
_HUNDRED_THOUSAND = 100_000
_MILLION = 1_000_000
_PAUSE = 0.01
_ROUNDS = 2
_NAMES = "SELECT name FROM pair WHERE id <= :real AND id % 2 = :rest ORDER BY id"
_STANDING_BY = """
    SELECT lineage.ca FROM pair JOIN pair_state ON pair_state.pair_id = pair.id
    JOIN lineage ON lineage.id = backup_lineage
    WHERE pair.name = :name
"""
_BACKUP = "beta"
_SERIALS = "SELECT serial FROM certificate WHERE ca = 'alpha' AND {}"


def masses(databases: Databases) -> list[Result]:
    """On both databases, a tenth of the pairs at a time. Their pairs are good for nothing else afterwards."""
    return [one for both in databases.all for one in measure(both.large, both.large.pairs // _SHARES)]


def full_size(pairs: int) -> Iterator[Result]:
    """A tenth of ten million pairs on a PostgreSQL with 4 GB of shared buffers, which have been read once before."""
    with giant(pairs) as inventory:
        yield from measure(inventory, pairs // _SHARES)


def measure(inventory: Inventory, affected: int) -> Iterator[Result]:
    """``affected``: at most a tenth of its pairs; each time it is others that are."""
    files = _Files(inventory, affected)
    of = f"of {inventory}"
    full = affected >= _MILLION
    if full:
        _read(inventory)
    yield from _against_bare(inventory, files, of, rounds=1 if full else _ROUNDS)
    for few, most in {_FEW: 2.0, **({_HUNDRED_THOUSAND: 6.0} if full else {})}.items():
        some = min(few, affected)
        took = median(_whole(inventory, files.next(some)) for _ in range(_ROUNDS))
        goal = Goal.at_most(took, most, "s")
        yield result(f"{some:,} {of}, file to committed work rows", took, "s", goal=goal)
    yield from _beside(inventory, files, of)
    yield _flat(inventory, files, of) if full else _memory(inventory, files, of)


def _read(inventory: Inventory) -> None:
    """Once, so that whoever comes first finds as much of it in memory as the others do."""
    with inventory.application() as application, application.world.store.read() as tx:
        tx.connection.execute(text("SET LOCAL max_parallel_workers_per_gather = 0"))
        for column in (
            "certificate.stored_at",
            "pair.created_at",
            "pair_state.standby",
            "pair_target.target",
        ):
            tx.connection.execute(text(f"SELECT max({column}) FROM {column.partition('.')[0]}"))
        tx.connection.execute(text("SET LOCAL enable_seqscan = off"))
        tx.connection.execute(text("SELECT count(*) FROM certificate WHERE serial > ''"))


def _against_bare(inventory: Inventory, files: _Files, of: str, *, rounds: int) -> Iterator[Result]:
    affected = files.affected
    planning: list[float] = []

    def mine(_: int) -> float:
        steps = _mass(inventory, files.next())
        planning.append(steps["plan"]["seconds"])
        return _total(steps)

    on_postgresql = inventory.kind == "PostgreSQL"
    sides: list[Callable[[int], float]] = [mine, lambda _: _bare(inventory, files.next())]
    if on_postgresql:
        sides.append(lambda _: _bare(inventory, files.next(), "--unplanned"))
    ours, bare, *unplanned = in_turns(rounds, *sides)
    goal = (
        Goal.at_least(round(100 * bare / ours, 1), 80, "%").and_also(
            Goal.at_most(ours, max(6.0, 30 * affected / _MILLION), "s")
        )
        if on_postgresql
        else Goal.at_most(ours, max(2.0, 2 * affected / 100_000), "s")
    )
    against = ("SQL by hand that leaves the same rows", bare)
    yield result(f"{affected:,} {of}, file to committed work rows", ours, "s", against=against, goal=goal)
    for least in unplanned:
        against = ("SQL by hand that keeps no plan", least)
        goal = Goal.at_most(round(ours / least, 2), 1.76, "x")
        yield result("  the same", ours, "s", against=against, goal=goal)
    took = median(planning)
    yield result("  its plan", took, "s", goal=Goal.at_most(took, max(1.0, 10 * affected / _MILLION), "s"))


# --- files of serials ----------------------------------------------------------------------------------------


class _Files:
    """Each names pairs that no other one does, in no order; the last one names all."""

    def __init__(self, inventory: Inventory, affected: int) -> None:
        self._inventory = inventory
        self.affected = affected
        self._after = _REAL
        with inventory.application() as application, application.world.store.read() as tx:
            self._last: int = tx.execute(select(func.max(pair_state.c.pair_id))).scalar_one()
        # Those of one file lie scattered among a range of pairs ten times as large.
        self._rests = iter(range(_SHARES))

    def next(self, most: int | None = None, *, with_real: bool = False) -> Path:
        which = "pair_id > :real AND pair_id % :shares = :rest"
        if with_real:
            which = f"({which} OR pair_id <= :real AND pair_id % 2 = 1)"
        limit = self.affected if most is None else most
        return self._write(f"{which} ORDER BY pair_id LIMIT {limit}", rest=next(self._rests))

    def every(self) -> Path:
        return self._write("pair_id > :real", rest=0)

    def _write(self, which: str, rest: int) -> Path:
        values = {"real": _REAL, "shares": _SHARES, "rest": rest}
        used = {name: value for name, value in values.items() if f":{name}" in which}
        with self._inventory.application() as application, application.world.store.read() as tx:
            found = tx.connection.execute(text(_SERIALS.format(which)), used)
            serials = [bytes(row.serial).hex() for row in found]
        Random(0).shuffle(serials)
        file = self._inventory.config.with_name("serials.txt")
        file.write_text("".join(f"{one}\n" for one in serials))
        return file


# --- one at a time -------------------------------------------------------------------------------------------


def _bare(inventory: Inventory, serials: Path, *more: str) -> float:
    told = run([*_module("bench.bare", inventory, serials), *more]).stdout
    return float(json.loads(told)["seconds"])


def _whole(inventory: Inventory, serials: Path) -> float:
    return _total(_mass(inventory, serials))


def _total(steps: dict[str, dict[str, Any]]) -> float:
    return sum(float(one.get("seconds", 0)) for one in steps.values())


def _mass(inventory: Inventory, serials: Path) -> dict[str, dict[str, Any]]:
    """What ``bench.masses`` tells, step by step."""
    with _started(inventory, serials) as going:
        going.over.wait()
    return going.steps


def _module(name: str, inventory: Inventory, serials: Path) -> list[str]:
    return [sys.executable, "-m", name, "--config", str(inventory.config), "--serials", str(serials)]


@dataclass
class _Going:
    """A mass promotion in a process of its own, and the steps that it has taken."""

    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def listen(self, process: subprocess.Popen[bytes]) -> None:
        try:
            for line in process.stdout or ():
                told = json.loads(line)
                self.steps[told["step"]] = told
        finally:
            self.over.set()


@contextmanager
def _started(inventory: Inventory, serials: Path) -> Iterator[_Going]:
    going = _Going()
    with subprocess.Popen(
        _module("bench.masses", inventory, serials),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environ(),
    ) as process:
        listener = threading.Thread(target=going.listen, args=(process,))
        listener.start()
        try:
            yield going
        finally:
            if not going.over.is_set():
                process.kill()
            listener.join()
    if "end" not in going.steps:
        raise RuntimeError(f"the mass promotion on {inventory} ended with {process.returncode}")


# --- what others notice --------------------------------------------------------------------------------------


def _beside(inventory: Inventory, files: _Files, of: str) -> Iterator[Result]:
    """Failovers by name, one after another, all the time: of pairs that the incident is not about, and, while these
    are promoted, of pairs that it is about."""
    serials = files.next(with_real=True)
    with inventory.application() as application:
        world = application.world
        free, meant = (_names(world, rest) for rest in (0, 1))
        alone = [_failover(world, name, _standing_by(world, name)) for name in free]
        with _started(inventory, serials) as going:
            took = list(_failovers(world, going, free, meant))
    longest = max(one.get("longest", 0.0) for one in going.steps.values())
    yield result(f"  its longest unit of work, {of}", longest, "s", goal=Goal.at_most(longest, 0.3, "s"))
    usual, most = 1000 * median(took), 1000 * max(took)
    name, against = f"  a failover by name meanwhile, {of}", ("alone", 1000 * median(alone))
    yield result(name, usual, "ms", against=against, goal=Goal.at_most(usual, 5, "ms"))
    yield result(f"    the longest of {len(took)}", most, "ms", goal=Goal.at_most(most, 500, "ms"))


def _names(world: World, rest: int) -> list[str]:
    with world.store.read() as tx:
        found = tx.connection.execute(text(_NAMES), {"real": _REAL, "rest": rest})
        return [row.name for row in found]


def _failovers(world: World, going: _Going, free: Sequence[str], meant: Sequence[str]) -> Iterator[float]:
    left = list(meant)
    for name in cycle(free):
        if going.over.is_set():
            return
        while "plan" in going.steps and left:
            yield _failover(world, left.pop(), _BACKUP)
        yield _failover(world, name, _standing_by(world, name))
        time.sleep(_PAUSE)


def _failover(world: World, name: str, to: str) -> float:
    """From the name to what is committed; in seconds."""
    return seconds(lambda: promotion.failover(world, lifecycle_inventory.resolve(world, name), Wish(to=to)))


def _standing_by(world: World, name: str) -> str:
    with world.store.read() as tx:
        return str(tx.connection.execute(text(_STANDING_BY), {"name": name}).scalar_one())


# --- memory --------------------------------------------------------------------------------------------------


def _memory(inventory: Inventory, files: _Files, of: str) -> Result:
    few = _mass(inventory, files.next())["end"]["memory"]
    all_of_them = _mass(inventory, files.every())["end"]["memory"]
    goal = Goal.at_most(all_of_them / few, 1.2, "x")
    against = (f"{files.affected:,}", few)
    return result(f"  memory of a run for all {of}", all_of_them, "MB", against=against, goal=goal)


def _flat(inventory: Inventory, files: _Files, of: str) -> Result:
    few = _mass(inventory, files.next(_HUNDRED_THOUSAND))["end"]["memory"]
    many = _mass(inventory, files.next())["end"]["memory"]
    against = (f"{_HUNDRED_THOUSAND:,}", few)
    goal = Goal.at_most(many / few, 1.2, "x")
    return result(f"  memory of a run for {files.affected:,} {of}", many, "MB", against=against, goal=goal)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.incidents", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="dualcert.toml")
    parser.add_argument(
        "--affected", type=int, metavar="N", help="how many at a time, at most a tenth; unsaid: a tenth"
    )
    chosen = parser.parse_args()
    inventory = _existing(chosen.config)
    affected = min(chosen.affected or inventory.pairs, inventory.pairs // _SHARES)
    found: list[Result] = []
    try:
        for one in measure(inventory, affected):
            found.append(one)
            print(one.name, file=sys.stderr)
    finally:
        print(table(found))
    return 0


def _existing(config: Path) -> Inventory:
    found = Inventory(config, "", 0)
    with found.application() as application, application.world.store.read() as tx:
        pairs: int = tx.execute(select(func.count()).select_from(pair_state)).scalar_one()
        return Inventory(config, "SQLite" if tx.dialect == "sqlite" else "PostgreSQL", pairs)


if __name__ == "__main__":
    sys.exit(main())

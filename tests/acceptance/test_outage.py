"""A database that goes away in the middle of a command costs time, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import rawdatabase
from tests.daemons import Process, begin, clock, daemon, wait_for, wait_until_protected
from tests.faults import AFTER, BEFORE, UNHEARD, Death, Life, Nursery, Outage, Point
from tests.labfixture import ProjectLab
from tests.postgres import Postgres
from tests.program import Program

CAS = ("alpha", "beta")
SHORT, HALF_A_MINUTE = 0.7, 30.0


@dataclass
class Scene:
    """A project whose database goes away, and what came of its commands."""

    lab: ProjectLab
    program: Program
    nursery: Nursery
    begin: Callable[[], None]
    end: Callable[[], None]
    _names: int = field(default=0)

    def new_pair(self) -> str:
        self._names += 1
        return f"o{self._names}.{self.lab.domain}"

    def run(self, *argv: str, at: Death | None = None, seconds: float = SHORT) -> Life:
        outage = Outage(self.begin, self.end, seconds) if at else None
        return self.nursery.run(self.program.config, *argv, death=at, outage=outage)

    def issue(self, name: str, at: Death, seconds: float = SHORT) -> bool:
        """Whether it came to the point at all: two CAs take turns as they like."""
        life = self.run("issue", name, f"*.{name}", "--json", at=at, seconds=seconds)
        assert life.status == 0, life
        self.was_told(life, at, seconds)
        if at.point.what == "commit main: engine.end":
            # The lease that could not be given back ends by itself; the next process here does not wait for that.
            assert self.run("renew", "--due").status == 0
        self.is_whole(life.json)
        self.ordered(life, name, 1)
        return struck(life, at)

    def fail_over(self, name: str, at: Death, seconds: float = SHORT) -> bool:
        self.run("issue", name)
        life = self.run("failover", name, "--revoke", "--json", at=at, seconds=seconds)
        assert life.status == 0, life
        self.was_told(life, at, seconds)
        said = life.json
        assert (said["epoch"], said["to"]["ca"], said["revoked"]) == (1, "beta", True)
        assert [one["verified"] for one in said["targets"]] == ["wire"]
        kinds = [one["kind"] for one in self.program.events(name)]
        assert kinds.count("promoted") == 1
        assert kinds.count("revoked") == 1
        assert self.run("renew", "--due").status == 0
        return struck(life, at)

    def was_told(self, life: Life, at: Death, seconds: float) -> None:
        if struck(life, at):
            assert life.seconds > min(seconds, HALF_A_MINUTE)
            assert "could not be used" in life.err
            assert "the database answers again" in life.err

    def is_whole(self, pair: Any) -> None:
        assert (pair["protection"], pair["epoch"]) == ("protected", 0)
        assert [one["observed"] for one in pair["targets"]] == ["wire"]
        assert self.lab.leftovers() == {}
        for table in ("work", "challenge_record", "lease"):
            assert rawdatabase.rows(self.program.config, f"SELECT * FROM {table}") == [], table

    def ordered(self, life: Life, name: str, number: int) -> None:
        """Each CA was asked for so many orders, which came to their end; nothing was thrown away."""
        query = "SELECT o.ca, o.step FROM acme_order o JOIN pair p ON p.id = o.pair_id WHERE p.name = ? ORDER BY ca"
        steps = rawdatabase.rows(self.program.config, query, name)
        assert steps == [(ca, "stored") for ca in CAS for _ in range(number)]
        for ca in CAS:
            for what in ("new_order", "finalize"):
                asked = sum(m.point.what == f"ca {ca}: {what}" and m.side == AFTER for m in life.marks)
                assert asked == number, (ca, what)


def struck(life: Life, at: Death) -> bool:
    return any(Death(mark.point, mark.side) == at for mark in life.marks)


@pytest.fixture
def on_postgresql(lab: ProjectLab, server: Postgres, on_postgres: str, nursery: Nursery) -> Scene:
    """The server is stopped as by a power cut, and started again."""
    program = Program(lab.config_path)
    program.move_to(on_postgres)
    program.done("init")
    return Scene(lab, program, nursery, server.stop, server.start)


@pytest.fixture
def on_sqlite(lab: ProjectLab, program: Program, nursery: Nursery) -> Iterator[Scene]:
    """Another program keeps the file locked."""
    file = lab.directory / "dualcert.db"
    with locking(file) as (begin, end):
        yield Scene(lab, program, nursery, begin, end)


@contextmanager
def locking(file: Path) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    held: list[sqlite3.Connection] = []

    def begin() -> None:
        connection = sqlite3.connect(file, isolation_level=None, timeout=20, check_same_thread=False)
        connection.execute("BEGIN IMMEDIATE")
        held.append(connection)

    def end() -> None:
        held.pop().close()

    yield begin, end
    while held:
        end()


def at(side: str, what: str, number: int = 1) -> Death:
    return Death(Point(what, number), side)


def each(deaths: Sequence[Death], strike: Callable[[Death], bool]) -> list[str]:
    """An outage at every point in turn; the points that the process never came to."""
    missed = []
    for one in deaths:
        try:
            if not strike(one):
                missed.append(str(one))
        except AssertionError as error:
            error.add_note(f"where the database went away: {one}")
            raise
    return missed


IN_AN_ISSUANCE = [
    at(UNHEARD, "commit main: engine.claim"),
    at(AFTER, "ca alpha: new_order"),
    at(UNHEARD, "commit ca-alpha: ordering._intend"),
    at(BEFORE, "commit ca-beta: ordering._place"),
    at(AFTER, "ca beta: answer"),
    at(AFTER, "ca alpha: finalize"),
    at(BEFORE, "dns lab: remove"),
    at(AFTER, "files: rename"),
    at(BEFORE, "commit deploy: deployment._seen"),
]

IN_A_FAILOVER = [
    at(BEFORE, "commit main: promotion._turned"),
    at(UNHEARD, "commit main: promotion._turned"),
    at(AFTER, "files: rename"),
    at(AFTER, "ca alpha: revoke"),
]

# Where nobody is in the middle of a unit of work, which would keep the other program from locking.
WHILE_THE_FILE_IS_FREE = [at(AFTER, "ca beta: answer"), at(AFTER, "files: rename")]


def test_a_server_that_goes_away_during_an_issuance(on_postgresql: Scene) -> None:
    scene = on_postgresql
    assert each(IN_AN_ISSUANCE, lambda one: scene.issue(scene.new_pair(), one)) == []


def test_a_server_that_goes_away_during_a_failover(on_postgresql: Scene) -> None:
    scene = on_postgresql
    assert each(IN_A_FAILOVER, lambda one: scene.fail_over(scene.new_pair(), one)) == []


def test_a_file_that_is_locked_during_an_issuance(on_sqlite: Scene) -> None:
    scene = on_sqlite
    assert each(WHILE_THE_FILE_IS_FREE, lambda one: scene.issue(scene.new_pair(), one)) == []


def test_a_command_that_finds_no_database_fails_at_once_and_changes_nothing(
    on_postgresql: Scene, server: Postgres
) -> None:
    scene = on_postgresql
    server.stop()
    for command in (("issue", scene.new_pair()), ("list",), ("renew", "--due")):
        result = scene.program.run(*command)
        assert result.status == 1, result
        assert "the database postgresql://postgres@/" in result.err
        assert "could not be used" in result.err
        assert "Traceback" not in result.err


def _said_since(process: Process, text: str, before: str) -> bool:
    """Several threads may each meet one outage, and each says so. Jobs beside the steps do it for themselves."""

    def times(log: str) -> int:
        return sum(text in line and "waits for the database" not in line for line in log.splitlines())

    return times(process.log) > times(before)


def daemon_outlives(scene: Scene, server: Postgres, log: Path, seconds: float) -> None:
    """Once while it has nothing to do, and once in the middle of four issuances."""
    program = scene.program
    names = [scene.new_pair() for _ in range(4)]
    with daemon(program, log) as process:
        wait_for(lambda: rawdatabase.rows(program.config, "SELECT 1 FROM daemon"))
        for number in (1, 2):
            before = process.log
            server.stop()
            wait_for(partial(_said_since, process, "could not be used", before))
            clock.sleep(seconds)
            server.start()
            wait_for(partial(_said_since, process, "the database answers again", before))
            if number == 1:
                begin(program, *names)
                wait_for(lambda: rawdatabase.rows(program.config, "SELECT 1 FROM acme_order"))
        wait_until_protected(program, names)
        assert process.end() == 0
        assert "Traceback" not in process.log
    query = "SELECT step, count(*) FROM acme_order GROUP BY step"
    assert rawdatabase.rows(program.config, query) == [("stored", 8)], "nothing was ordered twice"
    assert scene.lab.leftovers() == {}


def test_a_daemon_outlives_its_database(on_postgresql: Scene, server: Postgres, tmp_path: Path) -> None:
    daemon_outlives(on_postgresql, server, tmp_path / "log", SHORT)


# --- half a minute, everywhere ---------------------------------------------------------------------------


MORE_IN_AN_ISSUANCE = [
    at(BEFORE, "ca alpha: register"),
    at(AFTER, "commit ca-beta: ordering._place"),
    at(AFTER, "dns lab: add"),
    at(BEFORE, "commit ca-alpha: ordering._finalize"),
    at(AFTER, "ca beta: certificate"),
]

MORE_IN_A_FAILOVER = [
    at(AFTER, "commit main: promotion._turned"),
    at(AFTER, "target web: purge"),
]


@pytest.mark.long
def test_a_server_that_is_away_for_half_a_minute_during_an_issuance(on_postgresql: Scene) -> None:
    scene = on_postgresql
    points = [*MORE_IN_AN_ISSUANCE, *IN_AN_ISSUANCE]  # an account is registered in the first one alone
    assert each(points, lambda one: scene.issue(scene.new_pair(), one, HALF_A_MINUTE)) == []


@pytest.mark.long
def test_a_server_that_is_away_for_half_a_minute_during_a_failover(on_postgresql: Scene) -> None:
    scene = on_postgresql
    points = [*IN_A_FAILOVER, *MORE_IN_A_FAILOVER]
    assert each(points, lambda one: scene.fail_over(scene.new_pair(), one, HALF_A_MINUTE)) == []


@pytest.mark.long
def test_a_daemon_outlives_half_a_minute(on_postgresql: Scene, server: Postgres, tmp_path: Path) -> None:
    daemon_outlives(on_postgresql, server, tmp_path / "log", HALF_A_MINUTE)


@pytest.mark.long
def test_a_file_that_is_locked_for_half_a_minute(on_sqlite: Scene) -> None:
    scene = on_sqlite
    points = [*WHILE_THE_FILE_IS_FREE, at(AFTER, "ca alpha: new_order"), at(AFTER, "dns lab: add")]
    assert each(points, lambda one: scene.issue(scene.new_pair(), one, HALF_A_MINUTE)) == []


@pytest.mark.long
@pytest.mark.parametrize("side", [BEFORE, AFTER, UNHEARD])
def test_a_server_that_goes_away_at_every_point_of_an_issuance(on_postgresql: Scene, side: str) -> None:
    scene = on_postgresql
    scene.run("issue", scene.new_pair())  # accounts are registered once, and have points of their own above
    name = scene.new_pair()
    points = scene.run("issue", name, f"*.{name}").deaths(side)
    assert len(points) > (20 if side == UNHEARD else 50)
    missed = each(points, lambda one: scene.issue(scene.new_pair(), one, 0.5))
    assert len(missed) < len(points) / 10, missed


@pytest.mark.long
@pytest.mark.parametrize("side", [BEFORE, AFTER, UNHEARD])
def test_a_server_that_goes_away_at_every_point_of_a_failover(on_postgresql: Scene, side: str) -> None:
    scene = on_postgresql
    name = scene.new_pair()
    scene.run("issue", name)
    points = scene.run("failover", name, "--revoke").deaths(side)
    assert len(points) > {BEFORE: 30, AFTER: 25, UNHEARD: 10}[side]
    missed = each(points, lambda one: scene.fail_over(scene.new_pair(), one, 0.5))
    assert len(missed) < len(points) / 10, missed

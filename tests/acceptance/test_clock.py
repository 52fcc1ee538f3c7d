"""The machine's clock is put an hour forward or back while orders are under way, and while daemons wait.

Both databases: SQLite reads the clock of the machine, so it jumps, too; a PostgreSQL elsewhere keeps its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from dualcert import bootstrap
from dualcert.bootstrap import Application
from dualcert.clock import from_microseconds
from dualcert.lifecycle.daemon import Daemon
from tests.brokenca import FINALIZE, NEW_ORDER, Broken, broken
from tests.daemons import begin, clock, protected, rows, wait_for
from tests.faultproxy import Hang, problem
from tests.labfixture import ProjectLab
from tests.program import Program
from tests.shifted import ShiftedClock, built_on
from tests.store import databaseclock

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
NOTICED = "the clock has gone"


class Machine:
    """Daemons on one machine, whose clock can be put."""

    def __init__(
        self,
        program: Program,
        clock: ShiftedClock,
        build: Callable[[], Application],
        log: pytest.LogCaptureFixture,
    ) -> None:
        self.program = program
        self._clock = clock
        self._build = build
        self._log = log
        self._daemons: list[Daemon] = []

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """One more, with connections of its own."""
        with closing(self._build()) as application:
            daemon = Daemon(application.world, "1.2.3")
            daemon.start()
            self._daemons.append(daemon)
            try:
                yield
            finally:
                self._daemons.remove(daemon)
                daemon.stop(8)

    def put(self, step: timedelta) -> None:
        """Put the clock. The daemon that was started last is the first to notice; all have when this returns."""
        before = self._log.text.count(NOTICED)
        self._clock.advance(step)
        self._daemons[-1].tick_soon()
        wait_for(lambda: self._log.text.count(NOTICED) == before + len(self._daemons))
        self.look()

    def look(self) -> None:
        """Every daemon looks for work several times."""
        for _ in range(3):
            for daemon in self._daemons:
                daemon.tick_soon()
            wait_for(lambda: not any(daemon._tick_wanted for daemon in self._daemons))


@pytest.fixture(params=["sqlite", "postgresql"])
def machine(
    request: pytest.FixtureRequest,
    lab: ProjectLab,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Machine:
    program, put = Program(lab.config_path), ShiftedClock()
    if request.param == "postgresql":
        program.move_to(request.getfixturevalue("on_postgres"))
    program.done("init")

    def build() -> Application:
        application = built_on(put, monkeypatch)(bootstrap.load_settings(program.config))
        store = application.world.store
        if store.dialect == "sqlite":
            databaseclock.follow(store, put)
            while store._idle:  # they tell the real time
                store._idle.pop().close()
        return application

    caplog.set_level(logging.INFO, logger="dualcert")
    return Machine(program, put, build, caplog)


@pytest.fixture
def alpha(lab: ProjectLab, machine: Machine, tmp_path: Path) -> Iterator[Broken]:
    """The primary's CA behind a proxy."""
    with broken(lab, machine.program, "alpha", tmp_path) as scene:
        yield scene


def posts(scene: Broken, path: str) -> int:
    return sum(path in one.path and one.method == "POST" for one in scene.proxy.seen)


def whole(machine: Machine, name: str) -> bool:
    machine.look()
    return protected(machine.program, [name])


@pytest.mark.parametrize(
    ("under_way", "step"),
    [(NEW_ORDER, HOUR), (NEW_ORDER, -HOUR), (FINALIZE, HOUR)],
    ids=["placed, forward", "placed, back", "finalized, forward"],
)
def test_an_order_under_way_is_neither_taken_over_nor_placed_again(
    machine: Machine, alpha: Broken, under_way: str, step: timedelta
) -> None:
    alpha.proxy.on(under_way, Hang(forward=True))
    begin(machine.program, alpha.name)
    with machine.daemon():
        wait_for(lambda: posts(alpha, under_way) == 1)
        with machine.daemon():
            machine.put(step)
            assert posts(alpha, under_way) == 1
            alpha.proxy.release()
            wait_for(lambda: whole(machine, alpha.name))
    orders = rows(machine.program, "SELECT ca, step FROM acme_order ORDER BY ca")
    assert orders == [("alpha", "stored"), ("beta", "stored")]
    assert (posts(alpha, NEW_ORDER), posts(alpha, FINALIZE)) == (1, 1)


def test_a_daemon_that_waits_renews_nothing(machine: Machine, alpha: Broken) -> None:
    """Its CAs may be asked a little sooner when they would like a renewal, and say that it is weeks away."""
    begin(machine.program, alpha.name)
    with machine.daemon():
        wait_for(lambda: whole(machine, alpha.name))
        for step in (HOUR, -HOUR):
            machine.put(step)
            wait_for(lambda: whole(machine, alpha.name))
    due = [from_microseconds(at) for (at,) in rows(machine.program, "SELECT renew_at FROM lineage")]
    assert all(50 * DAY < at - clock.now() < 61 * DAY for at in due)
    assert rows(machine.program, "SELECT count(*) FROM acme_order") == [(2,)]
    assert rows(machine.program, "SELECT epoch FROM pair_state") == [(0,)]


def test_a_failed_order_is_tried_neither_sooner_nor_twice(machine: Machine, alpha: Broken) -> None:
    alpha.proxy.on(NEW_ORDER, problem(400, "malformed"), times=None)
    begin(machine.program, alpha.name)

    def tries() -> int:
        machine.look()
        [(number,)] = rows(machine.program, "SELECT sum(attempts) FROM work WHERE kind = 'order'")
        return int(number or 0)

    with machine.daemon(), machine.daemon():
        wait_for(lambda: tries() == 1)
        machine.put(-HOUR)
        assert (tries(), posts(alpha, NEW_ORDER)) == (1, 1)
        machine.put(HOUR)
        assert (tries(), posts(alpha, NEW_ORDER)) == (1, 1), "five minutes have not passed"
        machine.put(HOUR)
        wait_for(lambda: tries() == 2)
        assert posts(alpha, NEW_ORDER) == 2

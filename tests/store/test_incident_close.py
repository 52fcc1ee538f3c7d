"""An incident that somebody has closed, and then did not come back to."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dualcert.errors import Refused
from dualcert.lifecycle import checking_work
from dualcert.lifecycle.incidents import close, opening, plan, refills, running
from dualcert.lifecycle.incidents.running import Terms
from dualcert.lifecycle.world import World
from dualcert.model.incident import Incident
from dualcert.model.work import HELD, Done, Later, WorkKind
from dualcert.store import Store, counters, incidents, pairs, tables, work
from dualcert.testing.clock import FakeClock
from tests.shifted import ShiftedClock
from tests.store import masses
from tests.store.building import BACKUP, PRIMARY
from tests.store.renewing import DAY, MINUTE, step
from tests.store.test_daemon import running as daemon_running
from tests.store.test_driver import soon
from tests.store.worlds import Setting, a_world

MANY = 20
TERMS = Terms(waves="100%", max_failures="100%", max_drift="100%")


@pytest.fixture
def world(store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> World:
    """Whole pairs, which a run only promotes, because they have no real keys."""
    with store.write() as tx:
        masses.fill(tx, MANY)
    monkeypatch.setattr(running._Run, "_see_all", lambda self, batch, wave: None)
    return a_world(store, clock, Setting())


def carried_out(world: World, first: int = 1, last: int = 10, ca: str = PRIMARY) -> Incident:
    incident = masses.an_incident(world, first, last, ca)
    running.run(world, incident.id, plan(world, incident.id).hash, TERMS)
    return incident


def cut_off(world: World, incident: Incident) -> None:
    """All that ``close`` has done when it dies after its first unit of work."""
    refills.hand_over(world, incident.id)
    with world.store.write() as tx:
        assert incidents.close(tx, incident.id)


def held(world: World) -> int:
    with world.store.read() as tx:
        rows = work.of_pairs(tx, range(1, MANY + 1), [WorkKind.REFILL])
    return len([row for row in rows if row.waiting_for == HELD])


def without_backup(world: World) -> int:
    with world.store.read() as tx:
        states = pairs.states(tx, range(1, MANY + 1)).values()
    return len([one for one in states if one.backup_ok_until is None])


def test_it_is_finished_by_whoever_does_what_is_due(world: World, clock: FakeClock) -> None:
    incident = carried_out(world)
    cut_off(world, incident)
    assert (held(world), without_backup(world)) == (10, 10)

    opening.finish_closes(world)
    assert held(world) == 10, "whoever has closed it may be at it still"
    clock.advance(2 * MINUTE)
    opening.finish_closes(world)

    assert (held(world), without_backup(world)) == (0, 0)
    with pytest.raises(Refused, match="closed already"):
        close(world, incident.id)


def test_backups_are_trusted_again_though_nothing_was_held(world: World, clock: FakeClock) -> None:
    incident = masses.an_incident(world, 1, 10, BACKUP)
    assert without_backup(world) == 10
    cut_off(world, incident)
    clock.advance(2 * MINUTE)
    opening.finish_closes(world)
    assert without_backup(world) == 0


def test_it_is_finished_by_the_same_command_at_once(world: World) -> None:
    incident = carried_out(world)
    cut_off(world, incident)
    close(world, incident.id)
    assert (held(world), without_backup(world)) == (0, 0)
    with pytest.raises(Refused, match="closed already"):
        close(world, incident.id)


def test_a_clock_that_was_ahead_does_not_put_it_off(world: World, clock: FakeClock) -> None:
    right = clock.now()
    incident = carried_out(world)
    clock.set(right + 365 * DAY)
    cut_off(world, incident)
    clock.set(right)
    opening.finish_closes(world)
    assert held(world) == 0


def test_what_was_cut_off_before_that_was_written_down_is_known_by_what_it_holds(
    world: World, clock: FakeClock
) -> None:
    incident = carried_out(world)
    cut_off(world, incident)
    with world.store.write() as tx:
        tx.execute(tables.metadata.tables["counter"].delete())
        counters.put(tx, counters.PAIRS, MANY)
    clock.advance(2 * MINUTE)
    opening.finish_closes(world)
    assert (held(world), without_backup(world)) == (0, 0)


def test_nothing_new_is_held_for_it(world: World, store: Store) -> None:
    cut_off(world, carried_out(world))
    with store.write() as tx:
        work.schedule(tx, WorkKind.REFILL, 15, tx.now, ca=PRIMARY)
    assert [type(one) for one in step(world, WorkKind.REFILL)] == [Done]
    with store.read() as tx:
        assert work.get(tx, WorkKind.ORDER, 15, ca=PRIMARY) is not None


def test_what_another_open_incident_holds_stays_held_meanwhile(
    world: World, store: Store, clock: FakeClock
) -> None:
    first, second = carried_out(world, 1, 10), carried_out(world, 11, 14)
    cut_off(world, second)
    with store.write() as tx:
        work.schedule(tx, WorkKind.REFILL, 15, tx.now, ca=PRIMARY)
    assert [type(one) for one in step(world, WorkKind.REFILL)] == [Later]
    clock.advance(2 * MINUTE)
    opening.finish_closes(world)
    assert held(world) == 15
    with store.read() as tx:
        assert incidents.half_closed(tx) == []

    close(world, first.id)
    assert held(world) == 0


def test_check_names_what_finishes_it(world: World) -> None:
    incident = carried_out(world)
    cut_off(world, incident)
    [told] = [one for one in checking_work.late(world) if one.problem is not None]
    assert told.problem == (
        f"10 backups are not ordered anew at alpha: incident {incident.id} was closed, and not to its end"
    )
    assert told.remedy == f"dualcert run finishes that, or: dualcert incident close {incident.id}"
    close(world, incident.id)
    assert [one for one in checking_work.late(world) if one.problem is not None] == []


def test_the_daemon_finishes_it(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running._Run, "_see_all", lambda self, batch, wave: None)
    clock = ShiftedClock()
    store = Store(database_url, clock, "tester")
    with store.write() as tx:
        masses.fill(tx, MANY)
    world = a_world(store, clock, Setting())
    cut_off(world, carried_out(world))
    clock.advance(timedelta(minutes=2))
    with daemon_running(world):
        soon(lambda: without_backup(world) == 0 and held(world) == 0)
    store.close()

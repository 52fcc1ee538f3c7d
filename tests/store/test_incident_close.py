"""The end of an incident: what follows from it, also where whoever has closed it did not come back."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from dualcert.errors import Refused
from dualcert.lifecycle import checking_work, proving, renewal, views
from dualcert.lifecycle.incidents import close, opening, plan, refills, running, undoing
from dualcert.lifecycle.incidents.running import Terms
from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.model.incident import Incident
from dualcert.model.pair import Pair
from dualcert.model.work import HELD, Done, Later, WorkKind
from dualcert.policy import due
from dualcert.store import (
    Store,
    Transaction,
    counters,
    events,
    incident_tables,
    incidents,
    pairs,
    proofs,
    tables,
    work,
)
from dualcert.testing.clock import FakeClock
from tests.shifted import ShiftedClock
from tests.store import masses
from tests.store.building import BACKUP, PRIMARY, a_pair, give_role
from tests.store.overhearing import overheard
from tests.store.renewing import DAY, MINUTE, step
from tests.store.test_daemon import running as daemon_running
from tests.store.test_driver import soon
from tests.store.worlds import Setting, a_world, issued

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


# --- keys that were not opened for long ------------------------------------------------------------------

SPOILT = 2


def real_pairs(world: World) -> list[Pair]:
    """Pairs with two certificates of 90 days that have just come, and real keys."""
    made = []
    with world.store.write() as tx:
        for _ in range(5):
            pair = a_pair(tx, targets=())
            for ca in (PRIMARY, BACKUP):
                one = issued(tx, world, pair, ca)
                give_role(tx, pair, one, due.usable_until(one.not_before, one.not_after, tx.now))
            for lineage in pairs.lineages(tx, [pair.id]):
                pairs.set_renew_at(tx, lineage.id, tx.now + 80 * DAY)
            renewal.reckon(tx, pair.id)
            made.append(pair)
    return made


def walked(world: World, clock: FakeClock, days: int) -> None:
    """A daemon proves backups for so many days; what serves it does not open."""
    for _ in range(days):
        clock.advance(DAY)
        while proving.prove(world) == 0.0:
            pass


def of_false_alarm(world: World, made: list[Pair]) -> Incident:
    """All of them are promoted, and the incident is open still. Of one the key of what served is spoilt by then."""
    with world.store.read() as tx:
        serving = [pairs.state(tx, pair.id).serving for pair in made]
        [spoilt] = tx.execute(
            select(tables.certificate.c.spki).where(tables.certificate.c.id == serving[SPOILT])
        ).scalars()
    named = [one for one in serving if one is not None]
    incident = opening.open_incident(
        world, "a test", "a test", world.clock.now() + DAY, PRIMARY, certificates=named
    )
    running.run(world, incident.id, plan(world, incident.id).hash, TERMS)
    with world.store.write() as tx:
        wrapped = tables.wrapped_key
        tx.execute(update(wrapped).where(wrapped.c.spki == spoilt).values(wrapped=b"spoilt" * 9))
    return incident


def protections(world: World, made: list[Pair]) -> list[str]:
    return [str(views.describe(world, pair)["protection"]) for pair in made]


PROTECTED = ["protected", "protected", "unprotected", "protected", "protected"]


@pytest.fixture
def alone(store: Store, clock: FakeClock) -> World:
    return a_world(store, clock, Setting())


def test_the_end_of_a_false_alarm_opens_what_nobody_has_opened_while_it_served(
    alone: World, clock: FakeClock
) -> None:
    made = real_pairs(alone)
    walked(alone, clock, 45)
    incident = of_false_alarm(alone, made)
    assert protections(alone, made) == ["unprotected"] * 5

    close(alone, incident.id)

    assert protections(alone, made) == PROTECTED
    with alone.store.read() as tx:
        told = [one for one in events.page(tx, pairs=[made[SPOILT].id]) if one.kind == EventKind.PROOF_FAILED]
    assert len(told) == 1


def test_what_takes_too_long_at_the_end_is_gone_on_with_by_whoever_does_what_is_due(
    alone: World, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = real_pairs(alone)
    walked(alone, clock, 45)
    incident = of_false_alarm(alone, made)
    with monkeypatch.context() as patch:
        patch.setattr(opening, "_OPENING", timedelta(0))
        close(alone, incident.id)
        assert protections(alone, made) == ["unprotected"] * 5
        clock.advance(2 * MINUTE)
        assert opening.finish_closes(alone) == 0.0, "there is more to do"
    assert opening.finish_closes(alone) == 60.0
    assert protections(alone, made) == PROTECTED
    with pytest.raises(Refused, match="closed already"):
        close(alone, incident.id)


@pytest.mark.parametrize("state", ["closed", "cut off", "closed long ago"])
def test_undo_opens_what_was_not_opened_lately_and_what_does_not_open_stays(
    alone: World, clock: FakeClock, state: str
) -> None:
    made = real_pairs(alone)
    walked(alone, clock, 20 if state == "closed long ago" else 45)
    incident = of_false_alarm(alone, made)
    if state == "cut off":
        cut_off(alone, incident)
    else:
        close(alone, incident.id)
    if state == "closed long ago":
        clock.advance(35 * DAY)  # and no daemon was at work

    assert undoing.undo(alone, incident.id) == (4, 1, 0)

    with alone.store.read() as tx:
        rows = why_they_stay(tx, incident)
        assert [pairs.state(tx, pair.id).epoch for pair in made] == [2, 2, 1, 2, 2]
    assert rows == {made[SPOILT].id: "its key was not opened lately, or did not open"}


def why_they_stay(tx: Transaction, incident: Incident) -> dict[int, str]:
    of = incident_tables.plan_row.c
    query = select(of.pair_id, of.problem).where(of.incident_id == incident.id, of.problem.is_not(None))
    return {row.pair_id: row.problem for row in tx.execute(query)}


def test_it_takes_as_many_statements_for_many_as_for_few(world: World, store: Store) -> None:
    said = []
    for first, last in ((1, 2), (3, 20)):
        incident = carried_out(world, first, last)
        cut_off(world, incident)
        with store.write() as tx:
            states = tables.pair_state
            tx.execute(update(states).where(states.c.pair_id.between(first, last)).values(backup_ok_until=0))
        with store.read() as tx, overheard(tx) as statements:
            found = proofs.unproved_named(tx, incident.id, 0, 10**9, tx.now)
        assert len(found) == last - first + 1
        said.append(len(statements))
    assert said[0] == said[1]

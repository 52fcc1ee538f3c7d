"""What a mass meets: rows that are there already, batches that go at once, plans of before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from dualcert.lifecycle.incidents import open_incident, opening, plan, running
from dualcert.lifecycle.incidents.opening import Entry, Selection
from dualcert.lifecycle.incidents.running import Terms
from dualcert.lifecycle.world import World
from dualcert.model.incident import Incident
from dualcert.model.work import WorkKind
from dualcert.store import (
    Store,
    incident_members,
    incident_plans,
    incident_runs,
    incidents,
    tables,
    work,
)
from dualcert.store.incident_runs import Range
from dualcert.store.incident_tables import plan_row
from dualcert.testing.clock import FakeClock
from tests.store import masses
from tests.store.building import PRIMARY
from tests.store.worlds import Setting, a_world

MANY = 60
ALL_AT_ONCE = Terms(waves="100%", max_failures="100%", max_drift="100%")


@pytest.fixture
def world(store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> World:
    """Whole pairs, which a run only promotes."""
    with store.write() as tx:
        masses.fill(tx, MANY)
    monkeypatch.setattr(running._Run, "_see_all", lambda self, batch, wave: None)
    return a_world(store, clock, Setting())


@pytest.fixture
def incident(world: World) -> Incident:
    return masses.an_incident(world, 1, MANY)


def epochs(store: Store) -> list[int]:
    with store.read() as tx:
        query = select(tables.pair_state.c.epoch).order_by(tables.pair_state.c.pair_id)
        return list(tx.execute(query).scalars())


# --- rows that are there already -------------------------------------------------------------------------


def test_a_batch_keeps_to_the_steps_that_some_of_its_pairs_have_already(
    world: World, store: Store, incident: Incident, clock: FakeClock
) -> None:
    made = plan(world, incident.id)
    later = clock.now() + timedelta(hours=1)
    with store.write() as tx:
        work.schedule(tx, WorkKind.DEPLOYMENT, 3, later, target="web")
        work.schedule(tx, WorkKind.REFILL, 4, later, ca=PRIMARY)

    running.run(world, incident.id, made.hash, ALL_AT_ONCE)

    assert epochs(store) == [1] * MANY
    with store.read() as tx:
        steps = work.of_pairs(tx, range(1, MANY + 1))
        deployment = work.get(tx, WorkKind.DEPLOYMENT, 3, target="web")
        refill = work.get(tx, WorkKind.REFILL, 4, ca=PRIMARY)
    assert len(steps) == 2 * MANY
    assert [one and one.due_at for one in (deployment, refill)] == [clock.now(), later]


# --- opening and planning --------------------------------------------------------------------------------


@pytest.fixture
def both_at_once(monkeypatch: pytest.MonkeyPatch, store: Store) -> Iterator[None]:
    """Of PostgreSQL: the first two units that name certificates have both begun before either goes on."""
    meet = threading.Barrier(2)
    add, met = incident_members.add_serials, list[int]()

    def added(*arguments: Any, **named: Any) -> tuple[int, int]:
        if store.dialect != "sqlite" and len(met) < 2:
            met.append(meet.wait(20))
        return add(*arguments, **named)

    monkeypatch.setattr(incident_members, "add_serials", added)
    yield
    assert len(met) == (0 if store.dialect == "sqlite" else 2)


@pytest.mark.usefixtures("both_at_once")
def test_what_two_batches_of_a_file_name_is_named_once(
    world: World, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_BATCH", 20)
    numbers = [*range(1, 31), *range(30, 0, -1)]
    entries = [Entry(line, serial=masses.serial(2 * n - 1)) for line, n in enumerate(numbers, 1)]
    entries += [Entry(61, serial=b"\x01"), Entry(62, problem="rubbish"), Entry(63, serial=b"\x02")]

    found = open_incident(
        world,
        "a test",
        "a test",
        world.clock.now() + timedelta(hours=1),
        PRIMARY,
        Selection("serials", entries, ca=PRIMARY),
    )

    assert (found.members, found.unknown, found.unreadable) == (30, 2, 1)
    with store.read() as tx:
        assert incidents.count_members(tx, found.id) == 30
        assert [one.line for one in incidents.strays(tx, found.id)] == [61, 62, 63]


@pytest.mark.usefixtures("both_at_once")
def test_of_lines_that_are_none_of_ours_the_first_ones_are_kept_whichever_batch_comes_first(
    world: World, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_BATCH", 20)
    monkeypatch.setattr(incidents, "_MOST_STRAYS", 15)
    entries: list[Entry] = []
    for line in range(1, 61):
        bad = line % 2 == 0
        entries.append(
            Entry(line, problem="rubbish") if bad else Entry(line, serial=b"\x01" + line.to_bytes(2))
        )

    found = open_incident(
        world,
        "a test",
        "a test",
        world.clock.now() + timedelta(hours=1),
        PRIMARY,
        Selection("serials", entries, ca=PRIMARY),
    )

    assert (found.unknown, found.unreadable) == (30, 30)
    with store.read() as tx:
        assert [one.line for one in incidents.strays(tx, found.id)] == [*range(1, 16)]


def test_of_older_plans_what_was_carried_out_is_all_that_stays(
    world: World, store: Store, incident: Incident, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incident_plans, "BATCH", 3)
    carried_out = {1: range(1, 11), 2: range(11, 13)}
    for number, some in carried_out.items():
        made = plan(world, incident.id)
        assert made.number == number
        with store.write() as tx:
            batch = Range(incident.id, number, some[0] - 1, some[-1])
            assert incident_runs.promote(tx, batch) == (len(some), 0)

    newest = plan(world, incident.id)

    with store.read() as tx:
        rows = tx.execute(select(plan_row.c.plan, plan_row.c.pair_id).order_by(*plan_row.primary_key)).all()
    left = {plan: [row.pair_id for row in rows if row.plan == plan] for plan in (1, 2, newest.number)}
    assert left == {1: [*carried_out[1]], 2: [*carried_out[2]], newest.number: [*range(1, MANY + 1)]}

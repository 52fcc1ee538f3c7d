"""A mass promotion and others who want the same pairs at the same time: none of them aborts the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dualcert.errors import Refused
from dualcert.lifecycle import promotion, storing
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.incidents import close, open_incident, plan, refills, running, telling
from dualcert.lifecycle.incidents.opening import Entry, Selection
from dualcert.lifecycle.incidents.planning import Plan
from dualcert.lifecycle.incidents.running import Ended, Terms
from dualcert.lifecycle.promotion import Turn, Wish
from dualcert.lifecycle.world import World
from dualcert.model.incident import Incident
from dualcert.model.order import Order
from dualcert.model.pair import Pair
from dualcert.model.work import Done, WorkKind
from dualcert.ports.ca import IssuedCertificate
from dualcert.store import certificates, incident_runs, incidents, pairs, revocations, tables, work
from dualcert.store import promotion as promotion_sql
from dualcert.store.incident_runs import Range
from dualcert.testing.clock import FakeClock
from tests.postgres import Postgres
from tests.store.building import BACKUP, PRIMARY, a_pair, give_role
from tests.store.racing import Arena
from tests.store.worlds import Setting, issued, ordered, signed

COUNT = 4
_PROMOTE = 2
"""Which unit of a run's promotes: before it is its beginning."""


@pytest.fixture
def arena(server: Postgres, on_postgres: str, clock: FakeClock, tmp_path: Path) -> Iterator[Arena]:
    made = Arena(server, on_postgres, clock, Setting(), tmp_path)
    yield made
    made.close()


@pytest.fixture
def held(arena: Arena) -> list[Pair]:
    """Pairs with real certificates, whose keys open."""
    found = []
    with arena.second.store.write() as tx:
        for _ in range(COUNT):
            pair = a_pair(tx)
            for ca in (PRIMARY, BACKUP):
                give_role(tx, pair, issued(tx, arena.second, pair, ca))
            found.append(pair)
    return found


@pytest.fixture
def planned(arena: Arena, held: list[Pair]) -> Plan:
    world = arena.second
    with world.store.read() as tx:
        serving = [pairs.state(tx, pair.id).serving or 0 for pair in held]
    deadline = world.clock.now() + timedelta(hours=1)
    incident = open_incident(world, "a test", "a test", deadline, PRIMARY, serving)
    return plan(world, incident.id)


def promote(planned: Plan) -> Any:
    def act(world: World) -> tuple[int, int]:
        batch = Range(planned.incident.id, planned.number, 0, 10**6)
        with world.store.write() as tx:
            found = incident_runs.promote(tx, batch)
            incident_runs.follow_up(tx, batch, "a test", refills_held=None)
        return found

    return act


def epochs(world: World, held: list[Pair]) -> list[int]:
    with world.store.read() as tx:
        return [pairs.state(tx, pair.id).epoch for pair in held]


def test_a_failover_that_comes_during_a_batch_waits_for_it_and_finds_its_goal_met(
    arena: Arena, held: list[Pair], planned: Plan
) -> None:
    mass, one = arena.race(promote(planned), lambda w: promotion.failover(w, held[2], Wish()))

    assert arena.was_blocked
    assert mass == (COUNT, 0)
    assert isinstance(one, Turn), one
    assert epochs(arena.second, held) == [1] * COUNT


def test_a_batch_that_comes_during_a_failover_skips_that_pair_and_takes_the_others(
    arena: Arena, held: list[Pair], planned: Plan
) -> None:
    one, mass = arena.race(lambda w: promotion.failover(w, held[2], Wish()), promote(planned))

    assert arena.was_blocked
    assert isinstance(one, Turn), one
    assert mass == (COUNT - 1, 1)
    assert epochs(arena.second, held) == [1] * COUNT
    shown = telling.status(arena.second, planned.incident.id)
    assert (shown["skipped"], shown["pairs"]["away"], shown["pairs"]["otherwise"]) == (1, COUNT, 1)


def test_a_backup_whose_revocation_is_recorded_during_a_batch_is_not_promoted_onto(
    arena: Arena, held: list[Pair], planned: Plan
) -> None:
    def revoke(world: World) -> None:
        with world.store.write() as tx:
            pairs.lock(tx, [held[1].id])
            revocations.revoked(tx, pairs.state(tx, held[1].id).standby or 0, "superseded", "a test")

    _, mass = arena.race(revoke, promote(planned))

    assert mass == (COUNT - 1, 1)
    assert epochs(arena.second, held) == [1, 0, 1, 1]


def test_who_lets_refills_go_during_a_batch_waits_for_those_that_it_holds(
    arena: Arena, planned: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running._Run, "_see_all", lambda self, batch, wave: None)
    number, digest = planned.incident.id, planned.hash

    ended, cas = arena.race(
        lambda w: running.run(w, number, digest, Terms("100%", max_failures="100%")),
        lambda w: refills.release_for(w, number),
        nth=_PROMOTE,
    )

    assert arena.was_blocked
    assert (ended, cas) == (Ended(done=True, stopped=None), [PRIMARY])
    with arena.second.store.read() as tx:
        waits = tx.execute(
            select(tables.work.c.waiting_for).where(tables.work.c.kind == WorkKind.REFILL.value)
        )
        assert list(waits.scalars()) == [None] * COUNT


def test_two_processes_at_one_batch_promote_each_pair_once(
    arena: Arena, held: list[Pair], planned: Plan
) -> None:
    one, other = arena.race(promote(planned), promote(planned))

    assert (one, other) == ((COUNT, 0), (0, 0))
    assert epochs(arena.second, held) == [1] * COUNT


def test_a_step_that_comes_while_a_batch_adds_the_same_is_neither_lost_nor_in_its_way(
    arena: Arena, held: list[Pair], planned: Plan
) -> None:
    def deploy_later(world: World) -> None:
        with world.store.write() as tx:
            later = tx.now + timedelta(hours=1)
            work.schedule(tx, WorkKind.DEPLOYMENT, held[2].id, later, target="web")
            work.schedule(tx, WorkKind.REFILL, held[1].id, later, ca=PRIMARY)

    _, mass = arena.race(deploy_later, promote(planned))

    assert arena.was_blocked
    assert mass == (COUNT, 0)
    now = arena.second.clock.now()
    with arena.second.store.read() as tx:
        steps = work.of_pairs(tx, [pair.id for pair in held])
        assert len(steps) == 2 * COUNT
        assert {row.due_at for row in steps if row.kind is WorkKind.DEPLOYMENT} == {now}
        refill = work.get(tx, WorkKind.REFILL, held[1].id, ca=PRIMARY)
    assert refill is not None
    assert refill.due_at == now + timedelta(hours=1)


def renewed(world: World, pair: Pair, ca: str) -> tuple[Order, Callable[[World], Any]]:
    """An order for one of its lineages, and the step that stores the certificate which has come for it."""
    with world.store.write() as tx:
        order = ordered(tx, world, pair, ca)
        work.schedule(tx, WorkKind.ORDER, pair.id, tx.now, ca=ca)
    [[row]] = Engine(world).claim([WorkKind.ORDER], 1, [pair.id])
    arrived = IssuedCertificate(signed(order.csr, ca, world.clock.now()))
    return order, lambda w: storing.store(w, row, pair, order, arrived)


@pytest.mark.parametrize("ca", [PRIMARY, BACKUP])
def test_a_renewal_that_ends_during_a_batch_waits_for_it_and_takes_the_role_its_lineage_has_then(
    arena: Arena, held: list[Pair], planned: Plan, ca: str
) -> None:
    pair, world = held[1], arena.second
    order, arrive = renewed(world, pair, ca)

    mass, outcome = arena.race(promote(planned), arrive)

    assert arena.was_blocked
    assert mass == (COUNT, 0)
    assert outcome == Done()
    assert epochs(world, held) == [1] * COUNT
    with world.store.read() as tx:
        state = pairs.state(tx, pair.id)
        new = state.serving if ca == BACKUP else state.standby
        assert certificates.get(tx, new or 0).spki == order.spki
        assert promotion_sql.usable(tx, [pair.id]) == ({pair.id} if ca == PRIMARY else set())


@pytest.mark.parametrize("ca", [PRIMARY, BACKUP])
def test_a_batch_that_comes_while_a_renewal_ends_skips_that_pair_and_takes_the_others(
    arena: Arena, held: list[Pair], planned: Plan, ca: str
) -> None:
    pair, world = held[1], arena.second
    order, arrive = renewed(world, pair, ca)

    outcome, mass = arena.race(arrive, promote(planned))

    assert arena.was_blocked
    assert outcome == Done()
    assert mass == (COUNT - 1, 1)
    assert epochs(world, held) == [1, 0, 1, 1]
    with world.store.read() as tx:
        state = pairs.state(tx, pair.id)
        new = state.serving if ca == PRIMARY else state.standby
        assert certificates.get(tx, new or 0).spki == order.spki


def test_a_second_incident_that_names_the_backups_meanwhile_aborts_nothing(
    arena: Arena, held: list[Pair], planned: Plan
) -> None:
    world = arena.second
    with world.store.read() as tx:
        backups = [pairs.state(tx, pair.id).standby or 0 for pair in held]
    deadline = world.clock.now() + timedelta(hours=1)

    mass, other = arena.race(
        promote(planned), lambda w: open_incident(w, "another", "a test", deadline, BACKUP, backups)
    )

    assert mass == (COUNT, 0)
    assert other.members == COUNT
    with world.store.read() as tx:
        assert all(incidents.naming(tx, one) == other.id for one in backups)
        assert len(work.of_pairs(tx, [pair.id for pair in held])) == 2 * COUNT


def test_who_closes_an_incident_while_it_is_opened_waits_for_what_is_being_named_and_ends_the_rest(
    arena: Arena, held: list[Pair], clock: FakeClock
) -> None:
    with arena.second.store.read() as tx:
        serials = [certificates.get(tx, pairs.state(tx, pair.id).serving or 0).serial for pair in held]
    named = Selection("serials", [Entry(line, serial=one) for line, one in enumerate(serials)], ca=PRIMARY)
    deadline = clock.now() + timedelta(hours=1)

    opened, closed = arena.race(
        lambda w: open_incident(w, "an incident", "a test", deadline, PRIMARY, named),
        lambda w: close(w, 1),
        nth=2,
    )

    assert arena.was_blocked
    assert isinstance(closed, Incident), closed
    assert isinstance(opened, Refused), opened
    with arena.second.store.read() as tx:
        assert incidents.count_members(tx, 1) == COUNT
        assert promotion_sql.usable(tx, [pair.id for pair in held]) == {pair.id for pair in held}


@pytest.mark.parametrize("by_number", [False, True])
def test_a_backup_that_is_made_while_an_incident_names_it_is_not_counted_on(
    arena: Arena, held: list[Pair], clock: FakeClock, monkeypatch: pytest.MonkeyPatch, by_number: bool
) -> None:
    with arena.second.store.read() as tx:
        left = pairs.state(tx, held[2].id).serving or 0
    by: Any = [left] if by_number else Selection("all of it", ca=PRIMARY)
    deadline = clock.now() + timedelta(hours=1)
    # The failover goes on once the incident's opening waits for it.
    monkeypatch.setattr(clock, "sleep", lambda seconds: arena.let_go())

    turn, incident = arena.race(
        lambda w: promotion.failover(w, held[2], Wish()),
        lambda w: open_incident(w, "an incident", "a test", deadline, PRIMARY, by),
    )

    assert isinstance(turn, Turn), turn
    assert incident.members == (1 if by_number else COUNT)
    with arena.second.store.read() as tx:
        state = pairs.state(tx, held[2].id)
    assert (state.standby, state.backup_ok_until) == (left, None)

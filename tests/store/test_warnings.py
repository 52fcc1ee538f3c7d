"""Renewal information as a forerunner of a revocation: kept, told, and promoting nothing unless that is wished."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dualcert.clock import to_microseconds
from dualcert.lifecycle import incidents
from dualcert.lifecycle.watching import braked, turning
from dualcert.lifecycle.world import WatchRules, World
from dualcert.model.signal import Turning
from dualcert.model.work import WorkKind
from dualcert.store import Store, events, incident_runs, pairs, signals, work
from dualcert.testing.clock import FakeClock
from tests.store import masses
from tests.store.building import BACKUP, PRIMARY
from tests.store.renewing import (
    DAY,
    HOUR,
    Oracle,
    a_held,
    ask,
    asking_world,
    causes,
    info,
    ordering,
    step,
    window,
)
from tests.store.test_watching import a_pair_of
from tests.store.watched import a_watching_world
from tests.store.worlds import Setting, a_world, issued
from tests.tinyca import TinyCa

WHY = "https://ca.test/incident"


@pytest.fixture
def oracle() -> Oracle:
    return Oracle(None)


@pytest.fixture
def world(store: Store, clock: FakeClock, oracle: Oracle) -> World:
    return asking_world(store, clock, oracle)


def warns(oracle: Oracle, clock: FakeClock, explanation: str | None = WHY) -> None:
    past = window(clock.now() - 2 * HOUR, clock.now() - HOUR)
    oracle.says = replace(past, explanation=explanation)


def test_a_past_window_with_a_page_is_kept_with_its_url_and_renews(
    world: World, oracle: Oracle, clock: FakeClock
) -> None:
    pair, held = a_held(world, age=20 * DAY)
    warns(oracle, clock)

    ask(world)

    with world.store.read() as tx:
        (told,) = signals.against(tx, held.id)
        assert (told["kind"], told["url"]) == ("warning", WHY)
        assert work.get(tx, WorkKind.SIGNAL, pair.id) is None
        assert pairs.state(tx, pair.id).serving == held.id
    assert ordering(world, pair) == {PRIMARY}
    assert len(causes(world, pair, "warned")) == 1


@pytest.mark.parametrize("case", ["no page", "not over"])
def test_another_window_is_no_warning(world: World, oracle: Oracle, clock: FakeClock, case: str) -> None:
    _, held = a_held(world, age=20 * DAY)
    warns(oracle, clock, None)
    if case == "not over":
        open_now = window(clock.now() - HOUR, clock.now() + HOUR)
        oracle.says = replace(open_now, explanation=WHY)

    ask(world)

    with world.store.read() as tx:
        assert signals.against(tx, held.id) == []


def test_what_the_ca_issued_within_the_same_hour_is_asked_about_next(
    world: World, oracle: Oracle, clock: FakeClock
) -> None:
    _, sibling = a_held(world, age=20 * DAY, check_in=5 * HOUR)
    _, stranger = a_held(world, age=19 * DAY, check_in=5 * HOUR)
    a_held(world, age=20 * DAY)
    warns(oracle, clock)

    ask(world)

    due = {one.id: info(world, one)["check_at"] for one in (sibling, stranger)}  # type: ignore[index]
    assert due[sibling.id] == to_microseconds(clock.now())
    assert due[stranger.id] == to_microseconds(clock.now() + 5 * HOUR)
    # Each answers with a warning of its own; that one has just been asked keeps it from being asked again.
    ask(world)
    ask(world)
    assert len(oracle.asked) == 2


def test_a_warning_promotes_where_that_is_wished(store: Store, clock: FakeClock, oracle: Oracle) -> None:
    world = asking_world(store, clock, oracle)
    world = replace(world, watch=WatchRules(early=True))
    pair, _ = a_held(world, age=20 * DAY)
    with store.write() as tx:
        held = issued(tx, world, pair, BACKUP)
        assert pairs.put_certificate(
            tx, pairs.state(tx, pair.id), held.lineage_id, held.id, tx.now + timedelta(days=20)
        )
    warns(oracle, clock)

    ask(world)
    step(world, WorkKind.SIGNAL)

    with store.read() as tx:
        assert pairs.state(tx, pair.id).serving == held.id
    assert WHY in causes(world, pair, "promoted")[0]


def test_what_the_brake_holds_of_warnings_waits_for_a_person_whatever_comes_later(
    store: Store, clock: FakeClock, oracle: Oracle
) -> None:
    world = asking_world(store, clock, oracle)
    world = replace(world, watch=WatchRules(early=True, brake_then="waves"))
    for _ in range(11):
        a_held(world, age=20 * DAY)
    warns(oracle, clock)

    ask(world)
    braked.run_in_waves(world)

    with store.read() as tx:
        standing = signals.brake_incident(tx, early=True)
        assert standing is not None
        assert standing[1] == 1
        assert incident_runs.get(tx, standing[0]) is None
        assert signals.brake_incident(tx) is None


def test_a_warning_whose_decision_came_to_nothing_is_told_again(
    store: Store, clock: FakeClock, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody plans the incident at the same moment."""
    world = replace(asking_world(store, clock, oracle), watch=WatchRules(early=True))
    held = [a_held(world, age=20 * DAY) for _ in range(11)]
    warns(oracle, clock)
    digest = incidents.planning._digest

    def meanwhile(asked: World, number: int, plan: int) -> bytes:
        monkeypatch.setattr(incidents.planning, "_digest", digest)
        incidents.plan(world, number)
        return digest(asked, number, plan)

    monkeypatch.setattr(incidents.planning, "_digest", meanwhile)
    ask(world)
    with store.read() as tx:
        standing = signals.brake_incident(tx, early=True)
    assert standing is not None
    assert standing[1] == 0

    clock.advance(timedelta(minutes=2))
    warns(oracle, clock)
    ask(world)

    with store.read() as tx:
        assert signals.brake_incident(tx, early=True) == (standing[0], 3)
        assert [one.kind for one in events.page(tx)].count("braked") == 1
    clock.advance(timedelta(minutes=2))
    asked = len(oracle.asked)
    ask(world)
    assert len(oracle.asked) == asked == 2 * len(held)


def newest(world: World, number: int | None) -> str:
    assert number is not None
    with world.store.read() as tx:
        planned = incidents.newest_plan(tx, incidents.planning.existing(tx, number))
    assert planned is not None
    return planned.hash


def test_a_warning_leaves_the_plan_of_what_is_revoked_as_it_is(store: Store, clock: FakeClock) -> None:
    world = a_watching_world(store, clock, WatchRules(early=True, brake_then="waves"))
    tiny = TinyCa.make()
    made = [a_pair_of(world, tiny) for _ in range(12)]
    found = [Turning(pair.id, serving.id, number, True) for number, (pair, serving, _) in enumerate(made, 1)]
    held = turning.decide(world, found[:11])
    before = newest(world, held.incident)

    warned = turning.decide(world, found[11:], early=True)

    assert (warned.held, warned.incident == held.incident) == (1, False)
    assert newest(world, held.incident) == before
    braked.run_in_waves(world)
    with store.read() as tx:
        assert [pairs.state(tx, pair.id).epoch for pair, _, _ in made] == [*[1] * 11, 0]


def test_what_is_revoked_for_certain_does_not_wait_with_the_warnings(store: Store, clock: FakeClock) -> None:
    world = replace(a_world(store, clock, Setting()), watch=WatchRules(early=True))
    with store.write() as tx:
        masses.fill(tx, 40)
    warned = turning.decide(
        world, [Turning(number, 2 * number - 1, number, True) for number in range(1, 21)], early=True
    )
    assert warned.held == 20
    again = [Turning(number, 2 * number - 1, number, False) for number in range(1, 4)]
    assert turning.decide(world, again, early=True).held == 0

    certain = turning.decide(world, again)
    assert certain.held == 3
    assert certain.incident != warned.incident
    clock.advance(2 * HOUR)

    later = turning.decide(world, [Turning(10, 19, 100, True)])
    assert later.turning == (10,)

"""Watching in a bad hour: sources that lie or say nothing, and processes that meet or die between two steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.x509 import ocsp

from dualcert.errors import StoreUnavailable
from dualcert.lifecycle import incidents
from dualcert.lifecycle.driver import patiently
from dualcert.lifecycle.incidents import opening
from dualcert.lifecycle.watching import asking, places, telling, turning
from dualcert.lifecycle.watching.rounds import Round
from dualcert.lifecycle.world import WatchRules, World
from dualcert.model.certificate import Certificate
from dualcert.model.events import Event
from dualcert.model.work import WorkKind
from dualcert.store import Store, events, pairs, removal, signals, watching, work
from dualcert.store import incidents as incident_store
from dualcert.store.incident_tables import incident, watch_source
from dualcert.testing.clock import FakeClock
from tests.revocations import Publisher, crl
from tests.store.building import BACKUP, PRIMARY, a_pair
from tests.store.test_watching import a_pair_of, answers, turning_pairs
from tests.store.watched import a_watching_world, issue, many
from tests.tinyca import TinyCa

MINUTE, HOUR, MICROSECOND = timedelta(minutes=1), timedelta(hours=1), timedelta(microseconds=1)


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    return a_watching_world(store, clock)


# --- what a source says ----------------------------------------------------------------------------------


def test_what_stands_around_a_good_list_may_be_anything(
    world: World, publisher: Publisher, tiny: TinyCa
) -> None:
    whole = crl(tiny.intermediate, now=world.clock.now())
    with world.store.write() as tx:
        place = publisher.put("/crl", whole, ETag='"a\0b"', Last_Modified="\x1b[2J")
        issue(tx, world, tiny, a_pair(tx), crl=[place])

    assert asking.ask_due(world).failed == 0
    assert [one.state for one in telling.standings(world)] == ["good"]


def test_a_responder_that_says_nothing_stays_blind_however_often_one_looks(
    world: World, publisher: Publisher, tiny: TinyCa, clock: FakeClock
) -> None:
    """Its certificate is due a little later than itself, as chance has it: asked about nothing, it has said nothing."""
    draws = iter(range(10_000))
    world = replace(world, draw=lambda: float(next(draws) % 2))
    with world.store.write() as tx:
        issue(tx, world, tiny, a_pair(tx), ocsp=[f"{publisher.url}/nobody"])

    for _ in range(60):
        asking.ask_due(world)
        (standing,) = telling.standings(world)
        assert (standing.state, standing.age) == ("blind", None)
        clock.advance(MINUTE / 6)


# --- a process that dies between two units of work -------------------------------------------------------


def killed_in(patched: pytest.MonkeyPatch, module: object, name: str) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    patched.setattr(module, name, die)


def revoke(publisher: Publisher, tiny: TinyCa, world: World, held: list[Certificate], number: int) -> Round:
    body = crl(tiny.intermediate, [one.serial for one in held], now=world.clock.now(), number=number)
    publisher.put("/crl", body)
    return asking.ask_due(world, all_of_them=True)


def cut_off(
    world: World, monkeypatch: pytest.MonkeyPatch, where: tuple[object, str], act: Callable[[], object]
) -> None:
    """Somebody dies there; what he had leased runs out."""
    with monkeypatch.context() as patched:
        killed_in(patched, *where)
        with pytest.raises(KeyboardInterrupt):
            act()
    with world.store.write() as tx:
        tx.execute(watch_source.update().values(lease_until=None))
        tx.execute(incident.update().values(opened_at=incident.c.opened_at - 11 * MINUTE // MICROSECOND))


def told(world: World, kind: str) -> list[Event]:
    with world.store.read() as tx:
        return [one for one in events.page(tx) if one.kind == kind]


def test_a_person_is_asked_although_who_saw_it_first_died_before_asking(
    store: Store,
    clock: FakeClock,
    publisher: Publisher,
    tiny: TinyCa,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = a_watching_world(store, clock, WatchRules(promote="ask"))
    served = many(store, tiny, 3, publisher.put("/crl", b""))
    cut_off(
        world, monkeypatch, (turning, "decide"), lambda: revoke(publisher, tiny, world, served[:1], number=2)
    )

    asking.ask_due(world)
    assert [one.pair_id for one in told(world, "promotion-wanted")] == [served[0].pair_id]
    # And not twice.
    revoke(publisher, tiny, world, served[:1], number=3)
    assert len(told(world, "promotion-wanted")) == 1


def test_a_responder_tells_again_where_who_heard_it_died_before_its_decision(
    world: World, publisher: Publisher, tiny: TinyCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = publisher.put("/ocsp", b"")
    _, serving, standby = a_pair_of(world, tiny, ocsp=[place])
    answers(publisher, world, tiny, [serving, standby], status=ocsp.OCSPCertStatus.REVOKED)
    cut_off(world, monkeypatch, (turning, "decide"), lambda: asking.ask_due(world))

    assert asking.ask_due(world).decided.turning == (serving.pair_id,)
    # Then it is asked again when that is due.
    assert asking.ask_due(world).asked == 0


@pytest.mark.parametrize("cut_off_in", ["_claim", "_settle"])
def test_what_was_decided_before_the_database_went_away_is_told(
    world: World, publisher: Publisher, tiny: TinyCa, monkeypatch: pytest.MonkeyPatch, cut_off_in: str
) -> None:
    other, turned = TinyCa.make("other"), []
    for one, path in ((tiny, "/1"), (other, "/2")):
        pair, serving, _ = a_pair_of(world, one, crl=[publisher.put(path, b"")])
        publisher.put(path, crl(one.intermediate, [serving.serial], now=world.clock.now()))
        turned.append(pair.id)
    real = getattr(asking, cut_off_in)

    def gone(*arguments: object) -> object:
        if turning_pairs(world) == 1:  # the first has been decided on
            monkeypatch.setattr(asking, cut_off_in, real)
            raise StoreUnavailable("the database is away")
        return real(*arguments)

    monkeypatch.setattr(asking, "_TOGETHER", 0.0)
    monkeypatch.setattr(asking, cut_off_in, gone)
    done = Round()

    patiently(world, 60.0, lambda: asking.ask_due(world, all_of_them=True, done=done))

    assert sorted(done.decided.turning) == turned
    assert (done.asked, done.revoked) == (2, 2)
    with world.store.write() as tx:
        rows = [work.get(tx, WorkKind.SIGNAL, number) for number in turned]
    assert None not in rows


@pytest.mark.parametrize(
    "where",
    [(opening, "_add_numbers"), (incidents, "plan"), (signals, "remember_incident")],
    ids=["naming", "planning", "telling"],
)
@pytest.mark.parametrize("before", [0, 20], ids=["the first", "more"])
def test_what_the_brake_holds_is_planned_and_told_whoever_dies_on_the_way(
    world: World,
    publisher: Publisher,
    tiny: TinyCa,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    where: tuple[object, str],
    before: int,
) -> None:
    served = many(world.store, tiny, 40, publisher.put("/crl", b""))
    if before:
        revoke(publisher, tiny, world, served[:before], number=2)
    cut_off(world, monkeypatch, where, lambda: revoke(publisher, tiny, world, served[:30], number=3))

    done = asking.ask_due(world, all_of_them=True)

    assert done.decided.turning == ()
    number = done.decided.incident
    assert number is not None
    with world.store.read() as tx:
        planned = incidents.newest_plan(tx, incidents.planning.existing(tx, number))
    assert planned is not None
    assert planned.counts.serving == 30
    assert planned.hash in told(world, "braked")[-1].cause
    # It is settled by that: nobody is told again.
    clock.advance(HOUR / 2)
    asking.ask_due(world, all_of_them=True)
    assert len(told(world, "braked")) == 1 + bool(before)


def test_two_processes_that_hold_at_the_same_moment_open_one_incident(
    world: World,
    publisher: Publisher,
    tiny: TinyCa,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = TinyCa.make("other")
    for one, path in ((tiny, "/1"), (other, "/2")):
        served = many(world.store, one, 20, publisher.put(path, b""))
        publisher.put(path, crl(one.intermediate, [held.serial for held in served], now=clock.now()))
    add, seconds = opening._add_numbers, list[Round]()

    def add_late(*arguments: Any) -> None:
        with monkeypatch.context() as within:
            within.setattr(opening, "_add_numbers", add)
            if not seconds:
                seconds.append(asking.ask_due(world))  # another process, which has the other list
        add(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(opening, "_add_numbers", add_late)
        with world.store.write() as tx:  # this one has the first list alone
            source = watching.claim(tx)
        assert source is not None
        first = asking._ask(world, source, False)
        turning.decide(world, first.turnings)
        asking._settle(world, source, first)
    assert seconds[0].revoked == 20
    clock.advance(2 * MINUTE)
    assert asking.ask_due(world).decided.held == 20

    with world.store.read() as tx:
        [opened] = incident_store.page(tx)
        standing = signals.brake_incident(tx)
    assert (opened.members, standing) == (40, (opened.id, opened.plan))
    assert turning_pairs(world) == 0


# --- what is watched, and what is not any more -----------------------------------------------------------


def sources(world: World) -> list[tuple[str, int]]:
    return [(one.state, one.certificates) for one in telling.standings(world)]


def test_a_certificate_whose_list_is_configured_is_not_without_a_source(
    world: World, publisher: Publisher, tiny: TinyCa
) -> None:
    with world.store.write() as tx:
        issue(tx, world, tiny, a_pair(tx), PRIMARY)
    places.register_older(world)
    assert sources(world) == [("blind (no source)", 1)]

    place = publisher.put("/crl", crl(tiny.intermediate, now=world.clock.now()))
    configured = {**world.cas, PRIMARY: replace(world.cas[PRIMARY], crl=(place,))}
    world = replace(world, cas=configured)
    places.register_older(world)
    asking.ask_due(world)

    assert sources(world) == [("good", 1)]


def test_a_list_that_is_configured_no_more_is_left(
    world: World, clock: FakeClock, publisher: Publisher, tiny: TinyCa
) -> None:
    def with_lists(*lists: str) -> World:
        configured = {**world.cas, PRIMARY: replace(world.cas[PRIMARY], crl=lists)}
        return replace(world, cas=configured)

    def looked_at(by: World) -> list[tuple[str, int]]:
        clock.advance(timedelta(hours=1))
        while places.register_older(by):
            pass
        asking.ask_due(by)
        return sources(by)

    own = publisher.put("/own", crl(tiny.intermediate, now=world.clock.now()))
    right = publisher.put("/crl", crl(tiny.intermediate, now=world.clock.now()))
    with world.store.write() as tx:
        issue(tx, world, tiny, a_pair(tx), PRIMARY, crl=[own])
        issue(tx, world, tiny, a_pair(tx), PRIMARY)

    assert sorted(looked_at(world)) == [("blind (no source)", 1), ("good", 1)]
    assert sorted(looked_at(with_lists(right[:-1]))) == [("blind", 2), ("good", 1)]
    assert sorted(looked_at(with_lists(right))) == [("good", 1), ("good", 2)]
    assert sorted(looked_at(with_lists(right[:-1]))) == [("blind", 2), ("good", 1)]
    assert sorted(looked_at(world)) == [("blind (no source)", 1), ("good", 1)]


@pytest.mark.parametrize("life", [timedelta(days=6), timedelta(days=90)])
def test_what_a_removed_pair_had_is_not_counted_any_more(world: World, tiny: TinyCa, life: timedelta) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx)
        for ca in (PRIMARY, BACKUP):
            issue(tx, world, tiny, pair, ca, life=life)
    assert [number for _, number in sources(world)] == [2]

    with world.store.write() as tx:
        removal.end(tx, pair, pairs.state(tx, pair.id))

    assert sources(world) == []

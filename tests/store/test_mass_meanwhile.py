"""What people say while a mass promotion is under way, and what is left of it then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
from sqlalchemy import select

from dualcert.errors import Refused
from dualcert.lifecycle import closing, inventory, renewal
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.incidents import (
    add_to_incident,
    close,
    plan,
    planning,
    refills,
    running,
    telling,
    undoing,
)
from dualcert.lifecycle.incidents.running import Terms
from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.model.incident import Incident
from dualcert.model.work import HELD, WorkKind
from dualcert.policy import waves as policy
from dualcert.store import (
    Store,
    Transaction,
    events,
    incident_runs,
    pairs,
    promotion,
    revocations,
    tables,
    work,
)
from dualcert.testing.clock import FakeClock
from tests.store import masses
from tests.store.building import BACKUP, PRIMARY, an_order
from tests.store.renewing import DAY, step
from tests.store.worlds import Setting, a_world

MANY = 40
TERMS = Terms(waves="50%,100%", max_failures="100%", max_drift="100%")


class Killed(BaseException):
    pass


@pytest.fixture
def world(store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> World:
    """Whole pairs, which a run only promotes, because they have no real keys."""
    with store.write() as tx:
        masses.fill(tx, MANY)
    monkeypatch.setattr(running._Run, "_see_all", lambda self, batch, wave: None)
    monkeypatch.setattr(undoing, "_deploy", lambda world, incident_id, plan: None)
    return a_world(store, clock, Setting())


def carry_out(world: World, incident: Incident, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Run it; ``meanwhile``: once, between its two waves."""
    said: list[bool] = []

    def once(_progress: running.Progress) -> None:
        if not said:
            said.append(True)
            meanwhile()

    running.run(world, incident.id, plan(world, incident.id).hash, TERMS, once)


def refills_by(store: Store) -> dict[str | None, int]:
    """How many refills wait for what."""
    with store.read() as tx:
        query = select(tables.work.c.waiting_for).where(tables.work.c.kind == WorkKind.REFILL.value)
        found = list(tx.execute(query).scalars())
    return {word: found.count(word) for word in set(found)}


let_go_by = pytest.mark.parametrize(
    "let_go",
    [
        lambda world, incident: refills.release_for(world, incident.id),
        lambda world, incident: closing.thaw(world, PRIMARY),
    ],
    ids=["refill now", "thaw"],
)


@let_go_by
def test_refills_that_are_let_go_during_a_run_are_held_by_none_of_its_later_batches(
    world: World, store: Store, let_go: Callable[[World, Incident], object]
) -> None:
    incident = masses.an_incident(world, 1, MANY)

    carry_out(world, incident, lambda: let_go(world, incident))

    assert refills_by(store) == {None: MANY}


@let_go_by
def test_who_goes_on_with_a_run_does_not_hold_again_what_was_let_go(
    world: World, store: Store, let_go: Callable[[World, Incident], object]
) -> None:
    incident = masses.an_incident(world, 1, MANY)
    digest = plan(world, incident.id).hash

    def killed(_progress: running.Progress) -> None:
        let_go(world, incident)
        raise Killed

    with pytest.raises(Killed):
        running.run(world, incident.id, digest, TERMS, killed)
    running.run(world, incident.id, digest, TERMS)

    assert refills_by(store) == {None: MANY}
    assert telling.status(world, incident.id)["refills_held_at"] == []


def test_who_goes_on_with_a_run_leaves_held_what_nobody_let_go(world: World, store: Store) -> None:
    incident = masses.an_incident(world, 1, MANY)
    digest = plan(world, incident.id).hash

    def killed(_progress: running.Progress) -> None:
        raise Killed

    with pytest.raises(Killed):
        running.run(world, incident.id, digest, TERMS, killed)
    running.run(world, incident.id, digest, TERMS)

    assert refills_by(store) == {HELD: MANY}


def test_thaw_says_whether_it_has_let_anything_go(world: World) -> None:
    carry_out(world, masses.an_incident(world, 1, 10))
    assert closing.thaw(world, PRIMARY)
    assert not closing.thaw(world, PRIMARY)


def test_the_end_of_one_incident_lets_nothing_go_while_another_one_holds_at_its_ca(
    world: World, store: Store
) -> None:
    first, second = masses.an_incident(world, 1, 10), masses.an_incident(world, 11, 30)
    for one in (first, second):
        carry_out(world, one)
        assert telling.status(world, one.id)["refills_held_at"] == [PRIMARY]

    close(world, second.id)
    assert refills_by(store) == {HELD: 30}
    assert telling.status(world, first.id)["refills_held_at"] == [PRIMARY]

    close(world, first.id)
    assert refills_by(store) == {None: 30}


def test_refill_now_means_the_ca_whichever_incident_was_the_last_to_hold_there(
    world: World, store: Store
) -> None:
    first, second = masses.an_incident(world, 1, 10), masses.an_incident(world, 11, 30)
    carry_out(world, first)
    carry_out(world, second)

    assert refills.release_for(world, first.id) == [PRIMARY]

    assert refills_by(store) == {None: 30}
    close(world, second.id)
    close(world, first.id)


def test_a_renewal_of_what_serves_orders_nothing_at_the_ca_where_refills_are_held(
    world: World, store: Store
) -> None:
    carry_out(world, masses.an_incident(world, 1, MANY))
    with store.write() as tx:
        pairs.set_renew_at(tx, 2 * 7, tx.now)
        pairs.set_next_action(tx, 7, tx.now)

    while renewal.open_due(world):
        pass

    with store.read() as tx:
        assert [row.ca for row in work.of_pairs(tx, [7], [WorkKind.ORDER])] == [BACKUP]
        pair = pairs.by_id(tx, 8)
    assert pair is not None
    # A person may know better.
    inventory.renew(world, pair, force=False)
    with store.read() as tx:
        assert [row.ca for row in work.of_pairs(tx, [8], [WorkKind.ORDER])] == [PRIMARY]


def test_what_serves_is_renewed_although_a_refill_of_it_is_held(world: World, store: Store) -> None:
    carry_out(world, masses.an_incident(world, 1, MANY))
    with store.write() as tx:
        assert promotion.swap(tx, pairs.state(tx, 7)) is False
        revocations.revoked(tx, 2 * 7, "superseded", "a test")
        assert promotion.swap(tx, pairs.state(tx, 7), opened=True)
        pairs.set_renew_at(tx, 2 * 7 - 1, tx.now)
        pairs.set_next_action(tx, 7, tx.now)

    while renewal.open_due(world):
        pass

    with store.read() as tx:
        assert {row.ca for row in work.of_pairs(tx, [7], [WorkKind.ORDER])} == {PRIMARY, BACKUP}


def test_a_run_that_ends_when_a_newer_plan_is_carried_out_does_not_end_that_one(world: World) -> None:
    incident = masses.an_incident(world, 1, 20)
    old = plan(world, incident.id)
    newer: list[str] = []

    def kill(_progress: running.Progress) -> None:
        raise Killed

    def begin_a_newer_one(progress: running.Progress) -> None:
        if progress.turned == 20 and not newer:
            add_to_incident(world, incident.id, [2 * pair - 1 for pair in (21, 22)])
            newer.append(plan(world, incident.id).hash)
            with pytest.raises(Killed):
                running.run(world, incident.id, newer[0], TERMS, kill)

    assert running.run(world, incident.id, old.hash, TERMS, begin_a_newer_one).done
    assert telling.status(world, incident.id)["promoted"] == 21

    assert running.run(world, incident.id, newer[0], TERMS).done
    assert telling.status(world, incident.id)["promoted"] == 22


# --- more certificates -----------------------------------------------------------------------------------


def test_whoever_dies_while_he_adds_certificates_leaves_no_plan_without_them(world: World) -> None:
    incident = masses.an_incident(world, 1, 20)
    old = plan(world, incident.id)

    def numbers() -> Iterator[int]:
        yield 2 * 21 - 1
        yield from range(10**6, 10**6 + 5000)
        raise Killed

    with pytest.raises(Killed):
        add_to_incident(world, incident.id, numbers())

    assert telling.status(world, incident.id)["affected"] == 21
    with pytest.raises(Refused, match="no plan that is complete"):
        running.run(world, incident.id, old.hash, TERMS)


def test_a_plan_is_none_of_certificates_that_are_added_while_it_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    incident = masses.an_incident(world, 11, 20)
    look = planning._digest

    def add_meanwhile(*what: Any) -> bytes:
        monkeypatch.undo()
        add_to_incident(world, incident.id, [2 * 1 - 1])
        return look(*what)

    monkeypatch.setattr(planning, "_digest", add_meanwhile)

    with pytest.raises(Refused, match="has added certificates"):
        plan(world, incident.id)
    assert plan(world, incident.id).counts.usable == 11


def test_two_processes_at_one_run_count_each_row_once_more_and_not_at_each_batch(
    world: World, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    count = incident_runs.turned

    def noted(tx: Transaction, batch: incident_runs.Range) -> int:
        counted.append(count(tx, batch))
        return counted[-1]

    monkeypatch.setattr(incident_runs, "turned", noted)
    monkeypatch.setattr(running, "_BATCH", 2)
    incident = masses.an_incident(world, 1, MANY)
    made = plan(world, incident.id)
    with store.write() as tx:
        running._begin(tx, made, TERMS, None)
        # Every seventh is skipped by whoever comes to it.
        for number in range(7, MANY + 1, 7):
            assert revocations.revoked(tx, 2 * number, "superseded", "a test")
    runs = [
        running._Run(world, made, TERMS, policy.waves("100%"), (Fraction(1), Fraction(1)), None, None)
        for _ in range(2)
    ]

    def turned() -> int:
        with store.read() as tx:
            run = incident_runs.get(tx, incident.id)
        return run.up_to_pair if run is not None else 0

    while turned() < MANY:
        for one in runs:
            one._promote(0, MANY)
        assert runs[1]._tally == runs[1]._counted()
        counted.pop()
    assert sum(counted) <= 2 * MANY
    assert runs[1]._tally == policy.Tally(MANY, MANY // 7, MANY - MANY // 7)


# --- the way back ----------------------------------------------------------------------------------------


def test_what_serves_again_after_an_undo_is_not_ordered_anew(world: World, store: Store) -> None:
    incident = masses.an_incident(world, 1, 20)
    carry_out(world, incident)
    with store.write() as tx:
        assert revocations.revoked(tx, 2 * 5 - 1, "superseded", "a test")
        work.schedule(tx, WorkKind.REFILL, 3, tx.now, ca=BACKUP)
    close(world, incident.id)

    assert undoing.undo(world, incident.id)[:2] == (19, 1)

    with store.read() as tx:
        of = tables.work.c
        left = tx.execute(select(of.pair_id, of.ca).where(of.kind == WorkKind.REFILL.value))
        assert {tuple(row) for row in left} == {(5, PRIMARY), (3, BACKUP)}


def test_what_was_ordered_anew_before_the_undo_came_to_it_is_withdrawn(world: World, store: Store) -> None:
    """A daemon has begun with the refills that the end of the incident has let go."""
    incident = masses.an_incident(world, 1, 20)
    carry_out(world, incident)
    with store.write() as tx:
        for lineage, days in ((1, 30), (2, 40)):
            pairs.set_renew_at(tx, lineage, tx.now + days * DAY)
        work.schedule(tx, WorkKind.ORDER, 4, tx.now, ca=PRIMARY)
        events.record(tx, EventKind.ORDER_DUE, "two thirds of its life have passed", pair=4, ca=PRIMARY)
    close(world, incident.id)
    step(world, WorkKind.REFILL, 20)
    with store.write() as tx:
        begun, _ = pairs.by_ids(tx, [5, 6])
        an_order(tx, begun, PRIMARY)
    assert Engine(world).claim([WorkKind.ORDER], 1, [6])
    assert ordered(store) == {(number, PRIMARY) for number in range(1, 21)}

    assert undoing.undo(world, incident.id)[:2] == (20, 0)

    assert ordered(store) == {(4, PRIMARY), (5, PRIMARY), (6, PRIMARY)}
    while renewal.open_due(world):
        pass
    assert ordered(store) == {(4, PRIMARY), (5, PRIMARY), (6, PRIMARY)}
    with store.read() as tx:
        assert pairs.state(tx, 1).next_action_at == tx.now + 30 * DAY, (
            "what serves again is renewed in its time"
        )


def ordered(store: Store) -> set[tuple[int, str]]:
    with store.read() as tx:
        of = tables.work.c
        found = tx.execute(select(of.pair_id, of.ca).where(of.kind == WorkKind.ORDER.value))
        return {(row.pair_id, row.ca) for row in found}

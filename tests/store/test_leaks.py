"""Leaks of more than may turn on one word: what serves nowhere is dealt with all the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from dualcert.errors import Refused
from dualcert.lifecycle import compromise, leaked, reach
from dualcert.lifecycle.compromise import Containment
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.incidents import add_to_incident, close, plan
from dualcert.lifecycle.leaked import Leak
from dualcert.lifecycle.world import World
from dualcert.model.order import OrderStep
from dualcert.model.signal import Reason
from dualcert.model.work import WorkKind
from dualcert.store import (
    Store,
    certificates,
    deployments,
    incident_runs,
    pairs,
    promotion,
    revocations,
    tables,
    work,
)
from dualcert.store import compromise as leaks
from dualcert.store import incidents as incident_store
from dualcert.store.incident_runs import Range
from dualcert.testing.clock import FakeClock
from tests.store import masses
from tests.store.building import BACKUP, PRIMARY, a_pair, give_role
from tests.store.ordering import OrderTaker, all_orders, open_order, ordering_world, step, to_order
from tests.store.worlds import Setting, a_world, issued

MANY = 11
LEAK = Leak("target web", target="web")


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    """Pairs that have served from one target; the first one's backup lay there, too, once."""
    with store.write() as tx:
        masses.fill(tx, MANY)
        for number in range(1, MANY + 1):
            deployments.arrived(tx, number, "web", 0, 2 * number - 1)
        deployments.arrived(tx, 1, "web", 0, 2)
    return a_world(store, clock, Setting())


def blocked(world: World) -> set[int]:
    with world.store.read() as tx:
        return {
            number
            for number in range(1, 2 * MANY + 1)
            if tx.execute(
                tables.blocked_key.select().where(
                    tables.blocked_key.c.spki == certificates.get(tx, number).spki
                )
            ).first()
        }


@pytest.fixture
def served(store: Store, clock: FakeClock) -> World:
    """The same with keys that can be opened."""
    world = a_world(store, clock, Setting())
    with store.write() as tx:
        for _ in range(MANY):
            pair = a_pair(tx)
            serving = give_role(tx, pair, issued(tx, world, pair, PRIMARY))
            give_role(tx, pair, issued(tx, world, pair, BACKUP))
            deployments.arrived(tx, pair.id, "web", 0, serving.id)
    return world


def told_again(world: World) -> Leak:
    """The same command, said once more."""
    return leaked.of_target(world, "web", None, lambda now: now, again=False)


def planned(world: World, result: Containment) -> Range:
    """The incident that a leak was made into, with its plan."""
    assert result.held is not None
    assert result.incident is not None
    return Range(result.incident.id, plan(world, result.incident.id).number, 0, 10**9)


def turn_all(world: World, batch: Range) -> None:
    """What the run of a plan does, as far as the database goes; and the targets have what serves."""
    with world.store.write() as tx:
        incident_runs.promote(tx, batch)
        for number, state in pairs.states(tx, range(1, 10 * MANY)).items():
            deployments.arrived(tx, number, "web", state.epoch, state.serving or 0)


def no_proof_counts(world: World) -> None:
    """Nobody has opened a backup's key for long."""
    with world.store.write() as tx:
        tx.execute(update(tables.pair_state).values(backup_ok_until=tx.at - 1))


def turned(world: World) -> int:
    with world.store.read() as tx:
        return sum(one.epoch for one in pairs.states(tx, range(1, 10 * MANY)).values())


def test_a_backup_whose_key_nobody_has_opened_lately_is_counted_by_the_brake(served: World) -> None:
    no_proof_counts(served)
    planned(served, compromise.contain(served, LEAK))

    again = compromise.contain(served, told_again(served))

    assert again.held is not None
    assert (again.promoted, turned(served)) == (0, 0)


def test_a_plan_says_nothing_of_a_leak_that_came_later(served: World, clock: FakeClock) -> None:
    batch = planned(served, compromise.contain(served, LEAK))
    clock.advance(timedelta(minutes=1))
    turn_all(served, batch)
    assert compromise.contain(served, told_again(served)).held is None
    with served.store.write() as tx:
        for number in pairs.states(tx, range(1, 10 * MANY)):
            pair = pairs.by_id(tx, number)
            assert pair is not None
            give_role(tx, pair, issued(tx, served, pair, PRIMARY))
            for one in revocations.wanted(tx, number):
                revocations.settle(tx, one.certificate_id)
                revocations.revoked(tx, one.certificate_id, "keyCompromise", "a test")
    clock.advance(timedelta(days=20))
    no_proof_counts(served)

    again = compromise.contain(served, told_again(served))

    assert again.held is not None
    assert again.incident is not None
    assert again.incident.id != batch.incident_id
    assert (again.promoted, turned(served)) == (0, MANY)


def test_a_plan_that_is_void_lets_nothing_turn(served: World) -> None:
    number = planned(served, compromise.contain(served, LEAK)).incident_id
    with served.store.write() as tx:
        pair = a_pair(tx)
        add_to = issued(tx, served, pair, PRIMARY)
    add_to_incident(served, number, [add_to.id])
    no_proof_counts(served)

    assert compromise.contain(served, told_again(served)).held is not None
    assert turned(served) == 0


@pytest.mark.parametrize("within", [timedelta(hours=12), timedelta(hours=24), timedelta(hours=30)])
def test_the_time_until_a_leaked_key_is_revoked_begins_when_the_leak_is_told(
    world: World, clock: FakeClock, within: timedelta
) -> None:
    told = clock.now()
    planned(world, compromise.contain(world, replace(LEAK, revoke_within=within)))
    with world.store.write() as tx:
        tx.execute(update(tables.pair_state).values(backup_ok_until=None, standby=None))
    clock.advance(timedelta(hours=10))

    compromise.contain(world, replace(told_again(world), revoke_within=within))

    with world.store.read() as tx:
        by = {one.revoke_by for number in range(1, MANY + 1) for one in revocations.wanted(tx, number)}
    assert by == {told + within}


def test_without_an_incident_a_command_that_is_said_again_gives_no_more_time(
    served: World, clock: FakeClock
) -> None:
    """It was cut off before it did anything, and went on later."""
    leak = leaked.remember(served, replace(LEAK, since=clock.now()))
    told = clock.now()
    clock.advance(timedelta(hours=20))
    assert leak.before == told

    assert compromise.contain(served, leak).verdict.revoke_by == told + timedelta(hours=24)
    clock.advance(timedelta(hours=20))
    said = replace(leak, revoke_at=told + timedelta(hours=72))
    with served.store.write() as tx:
        incident_store.close(tx, 1)
    assert compromise.contain(served, said).verdict.revoke_by == told + timedelta(hours=72)


def test_what_a_closed_incident_of_a_leak_has_moved_is_blocked_and_revoked(
    served: World, clock: FakeClock
) -> None:
    batch = planned(served, compromise.contain(served, LEAK))
    clock.advance(timedelta(hours=1))
    turn_all(served, batch)

    closed = close(served, batch.incident_id)

    with served.store.read() as tx:
        everyone = pairs.states(tx, range(1, 10 * MANY))
        left = {number: state.standby or 0 for number, state in everyone.items()}
        assert promotion.usable(tx, list(left), opened=True) == set()
        assert {state.backup_ok_until for state in everyone.values()} == {None}
        keys = {certificates.get(tx, one).spki for one in left.values()}
        assert leaks.blocked(tx, keys) == keys
        asked = {
            (one.certificate_id, one.reason, one.revoke_by)
            for number in left
            for one in revocations.wanted(tx, number)
        }
        assert asked == {(one, Reason.KEY_COMPROMISE, closed.deadline) for one in left.values()}
        ordered = work.of_pairs(tx, left, [WorkKind.REVOCATION, WorkKind.REFILL])
        assert Counter(one.kind for one in ordered) == {WorkKind.REVOCATION: MANY, WorkKind.REFILL: MANY}
    with pytest.raises(Refused):
        close(served, batch.incident_id)


def test_what_serves_is_left_as_it_is_where_the_incident_of_a_leak_is_closed(served: World) -> None:
    batch = planned(served, compromise.contain(served, LEAK))

    close(served, batch.incident_id)

    with served.store.read() as tx:
        assert not any(revocations.wanted(tx, number) for number in range(1, 10 * MANY))
        assert len(promotion.usable(tx, list(range(1, 10 * MANY)))) == MANY


def test_above_the_brake_what_serves_nowhere_is_blocked_and_revoked_at_once(world: World) -> None:
    result = compromise.contain(world, LEAK)

    assert result.held is not None
    assert result.incident is not None
    assert blocked(world) == {2}
    with world.store.read() as tx:
        assert [one.certificate_id for one in revocations.wanted(tx, 1)] == [2]
        assert pairs.state(tx, 1).backup_ok_until is None
        assert {pairs.state(tx, number).epoch for number in range(1, MANY + 1)} == {0}


def test_pairs_without_a_backup_keep_a_planned_leak_from_nothing(world: World) -> None:
    held = compromise.contain(world, LEAK)
    assert held.incident is not None
    plan(world, held.incident.id)
    with world.store.write() as tx:
        tx.execute(update(tables.pair_state).values(backup_ok_until=None))

    result = compromise.contain(world, told_again(world))

    assert (result.held, result.incident, result.ordered) == (None, None, MANY)
    assert blocked(world) == {2, *range(1, 2 * MANY, 2)}
    with world.store.read() as tx:
        assert all(revocations.wanted(tx, number) for number in range(1, MANY + 1))
        assert work.of_pairs(tx, range(1, MANY + 1), [WorkKind.ORDER]) != []
    left = list(reach.unfinished(world, result.extent))
    assert len([one for one in left if "it serves until another one is there" in one]) == MANY
    assert len([one for one in left if "its backup is not there yet" in one]) == MANY


# --- orders under way ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "call"), [("ready", "new_order"), ("pending", "new_order"), ("pending", "order")]
)
def test_who_holds_an_order_that_is_given_up_meanwhile_does_not_go_on_with_it(
    store: Store, clock: FakeClock, status: str, call: str
) -> None:
    """Its CSR never leaves: that would be one more certificate for a key that leaked."""
    taker = OrderTaker(status)
    world = ordering_world(store, clock, taker)
    pair = to_order(world, "a.example.com")

    def leak() -> None:
        key = open_order(world, pair).spki
        compromise.contain(world, Leak(f"key {key.hex()}", key=key))

    taker.meanwhile[call] = [leak]
    engine = Engine(world)
    held = step(engine)
    while held is not None:
        held = step(engine, held)

    assert "finalize" not in taker.calls
    [(gone, leaked)] = all_orders(world)
    assert gone is OrderStep.ABANDONED

    while "finalize" not in taker.calls:
        held = step(engine, held)

    [before, (now, key)] = all_orders(world)
    assert before == (gone, leaked)
    assert now is OrderStep.FINALIZING
    assert key != leaked

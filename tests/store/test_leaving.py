"""A primary that cannot be renewed is promoted away from in time, and not otherwise."""

from __future__ import annotations

import pytest

from dualcert.lifecycle import promotion, renewal
from dualcert.lifecycle.world import World
from dualcert.model.events import Event
from dualcert.model.pair import Pair
from dualcert.model.work import DAY as FOR_A_DAY
from dualcert.model.work import PERSON, WorkKind, WorkRow
from dualcert.store import Store, Transaction, certificates, events, orders, pairs, revocations, work
from dualcert.store import tables as t
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_certificate, a_pair, give_role
from tests.store.renewing import DAY, HOUR, LIFE, MINUTE, clock_of, gets, step
from tests.store.worlds import Setting, a_world, issued

PROMOTION = WorkKind.PROMOTION
WHY = "alpha: the CA does not answer\n  It is tried again."


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    return a_world(store, clock, Setting())


def held(tx: Transaction, world: World, pair: Pair, ca: str) -> None:
    """A certificate of 90 days whose key opens; as old as `issued` makes it, which is a day."""
    mine = give_role(tx, pair, issued(tx, world, pair, ca))
    pairs.set_renew_at(tx, mine.lineage_id, mine.not_before + LIFE * 2 / 3)


def a_pair_in_need(world: World, clock: FakeClock) -> Pair:
    """The primary's certificate is 80 days old, its renewal is open; the backup's has just come."""
    with world.store.write() as tx:
        pair = a_pair(tx)
        held(tx, world, pair, PRIMARY)
    clock.advance(79 * DAY)
    with world.store.write() as tx:
        held(tx, world, pair, BACKUP)
        renewal.reckon(tx, pair.id)
    renewal.open_due(world)
    return pair


def fails(world: World, pair: Pair, times: int = 2, ca: str = PRIMARY) -> None:
    for _ in range(times):
        with world.store.write() as tx:
            row = work.get(tx, WorkKind.ORDER, pair.id, ca=ca)
            assert row is not None
            work.put_back(tx, row, due_at=tx.now + DAY, reason=WHY, failed=True)


def run(world: World) -> None:
    """What a scheduled run does about it."""
    while renewal.open_due(world):
        pass
    step(world, PROMOTION)
    step(world, PROMOTION)  # it comes back once to see that nothing is left to do


def serves(world: World, pair: Pair) -> str:
    with world.store.read() as tx:
        serving = pairs.state(tx, pair.id).serving
        assert serving is not None
        return certificates.get(tx, serving).ca


def promotions(world: World, pair: Pair) -> list[Event]:
    with world.store.read() as tx:
        return [one for one in events.page(tx, pairs=[pair.id]) if one.kind == "promoted"]


def row_of(world: World, pair: Pair) -> WorkRow | None:
    with world.store.read() as tx:
        return work.get(tx, PROMOTION, pair.id)


def test_it_is_left_when_its_renewal_keeps_failing_with_three_days_left_and_not_before(
    world: World, clock: FakeClock
) -> None:
    pair = a_pair_in_need(world, clock)
    fails(world, pair, 6)
    clock.advance(7 * DAY - MINUTE)
    run(world)
    assert serves(world, pair) == PRIMARY
    assert clock_of(world, pair) == clock.now() + MINUTE, "the renewal clock goes off at that time"

    clock.advance(MINUTE)
    run(world)

    assert serves(world, pair) == BACKUP
    [promoted] = promotions(world, pair)
    assert promoted.cause == (
        f"the certificate of alpha expires on {clock.now() + 3 * DAY:%Y-%m-%d %H:%M} UTC and cannot be renewed: "
        "alpha: the CA does not answer"
    )
    with world.store.read() as tx:
        kinds = {(row.kind, row.target or row.ca) for row in work.of_pairs(tx, [pair.id])}
    assert (WorkKind.DEPLOYMENT, "web") in kinds
    assert row_of(world, pair) is None


def test_it_is_left_once(world: World, clock: FakeClock) -> None:
    pair = a_pair_in_need(world, clock)
    fails(world, pair)
    clock.advance(7 * DAY)
    run(world)
    for _ in range(20):
        clock.advance(HOUR)
        run(world)
    clock.advance(5 * DAY)
    run(world)
    assert len(promotions(world, pair)) == 1
    assert serves(world, pair) == BACKUP


def test_one_failure_alone_is_not_reason_enough(world: World, clock: FakeClock) -> None:
    pair = a_pair_in_need(world, clock)
    fails(world, pair, 1)
    clock.advance(7 * DAY + HOUR)
    run(world)
    assert serves(world, pair) == PRIMARY
    assert clock_of(world, pair) == clock.now() + HOUR, "it is looked at again"
    fails(world, pair, 1)
    clock.advance(HOUR)
    run(world)
    assert serves(world, pair) == BACKUP


@pytest.mark.parametrize("waiting_for", [PERSON, FOR_A_DAY])
def test_an_order_that_waits_for_a_person_or_a_day_is_trouble(
    world: World, clock: FakeClock, waiting_for: str
) -> None:
    pair = a_pair_in_need(world, clock)
    with world.store.write() as tx:
        row = work.get(tx, WorkKind.ORDER, pair.id, ca=PRIMARY)
        assert row is not None
        at = tx.now + DAY if waiting_for == FOR_A_DAY else None
        work.put_back(tx, row, due_at=at, reason=WHY, waiting_for=waiting_for)
    clock.advance(7 * DAY)
    run(world)
    assert serves(world, pair) == BACKUP


def test_dns_that_keeps_failing_is_trouble(world: World, clock: FakeClock) -> None:
    pair = a_pair_in_need(world, clock)
    with world.store.write() as tx:
        work.schedule(tx, WorkKind.PUBLICATION, pair.id, tx.now)
        for _ in range(2):
            row = work.get(tx, WorkKind.PUBLICATION, pair.id)
            assert row is not None
            work.put_back(tx, row, due_at=tx.now + DAY, reason="the DNS server does not answer", failed=True)
    clock.advance(7 * DAY)
    run(world)
    assert serves(world, pair) == BACKUP
    assert "the DNS server does not answer" in promotions(world, pair)[0].cause


def test_a_successor_that_does_not_come_is_waited_for_until_a_day_and_a_half_are_left(
    world: World, clock: FakeClock
) -> None:
    pair = a_pair_in_need(world, clock)
    clock.advance(8.5 * DAY - MINUTE)
    run(world)
    assert serves(world, pair) == PRIMARY
    clock.advance(MINUTE)
    run(world)
    assert serves(world, pair) == BACKUP
    assert "its successor has not come" in promotions(world, pair)[0].cause


def test_a_renewal_that_comes_in_time_leaves_everything_in_place(world: World, clock: FakeClock) -> None:
    pair = a_pair_in_need(world, clock)
    fails(world, pair)
    clock.advance(6 * DAY)
    with world.store.write() as tx:
        held(tx, world, pair, PRIMARY)
        row = work.get(tx, WorkKind.ORDER, pair.id, ca=PRIMARY)
        assert row is not None
        work.finish(tx, row)
        renewal.reckon(tx, pair.id)
    clock.advance(2 * DAY)
    run(world)
    assert serves(world, pair) == PRIMARY


def test_a_renewal_that_comes_at_the_last_moment_is_not_left(world: World, clock: FakeClock) -> None:
    pair = a_pair_in_need(world, clock)
    fails(world, pair)
    clock.advance(7 * DAY)
    while renewal.open_due(world):
        pass
    assert row_of(world, pair) is not None
    with world.store.write() as tx:
        held(tx, world, pair, PRIMARY)
    step(world, PROMOTION)
    assert serves(world, pair) == PRIMARY
    assert row_of(world, pair) is None


def test_what_serves_already_is_not_left_in_place_of_what_it_replaced(world: World, clock: FakeClock) -> None:
    pair = a_pair_in_need(world, clock)
    with world.store.read() as tx:
        old = pairs.state(tx, pair.id).serving
    with world.store.write() as tx:
        held(tx, world, pair, PRIMARY)
    assert old is not None
    assert promotion.leave(world, pair, old, "decided a moment ago") is None
    assert serves(world, pair) == PRIMARY


# --- the backup ------------------------------------------------------------------------------------------


def test_it_is_not_left_for_a_backup_that_is_revoked_and_says_why_it_stays(
    world: World, clock: FakeClock
) -> None:
    pair = a_pair_in_need(world, clock)
    fails(world, pair)
    with world.store.write() as tx:
        standby = pairs.state(tx, pair.id).standby
        assert standby is not None
        revocations.revoked(tx, standby, "superseded", "a test")
    clock.advance(7 * DAY)
    run(world)
    assert serves(world, pair) == PRIMARY
    row = row_of(world, pair)
    assert row is not None
    assert row.reason is not None
    assert "the backup certificate is revoked" in row.reason
    assert [one["step"] for one in renewal.outstanding(world) if one["pair"] == pair.name].count(
        "promotion"
    ) == 1


def test_it_is_left_as_soon_as_a_good_backup_has_come(world: World, clock: FakeClock) -> None:
    pair = a_pair_in_need(world, clock)
    fails(world, pair)
    with world.store.write() as tx:
        standby = pairs.state(tx, pair.id).standby
        assert standby is not None
        revocations.revoked(tx, standby, "superseded", "a test")
    clock.advance(7 * DAY)
    run(world)
    with world.store.write() as tx:
        held(tx, world, pair, BACKUP)
        renewal.reckon(tx, pair.id)
    step(world, PROMOTION)
    assert serves(world, pair) == BACKUP


def test_it_is_not_left_for_a_backup_whose_key_does_not_open(world: World, clock: FakeClock) -> None:
    pair = a_pair_in_need(world, clock)
    fails(world, pair)
    with world.store.write() as tx:
        standby = pairs.state(tx, pair.id).standby
        assert standby is not None
        spki = certificates.get(tx, standby).spki
        tx.execute(t.wrapped_key.update().where(t.wrapped_key.c.spki == spki).values(wrapped=b"rotten"))
    clock.advance(7 * DAY)
    run(world)
    assert serves(world, pair) == PRIMARY
    row = row_of(world, pair)
    assert row is not None
    assert "cannot be opened" in (row.reason or "")


def test_a_backup_whose_proof_has_grown_old_is_opened_and_serves(world: World, clock: FakeClock) -> None:
    pair = a_pair_in_need(world, clock)
    fails(world, pair)
    clock.advance(7 * DAY)
    with world.store.write() as tx:
        assert pairs.set_backup_ok(tx, pairs.state(tx, pair.id), tx.now - DAY)
    run(world)
    assert serves(world, pair) == BACKUP


def test_it_is_not_left_for_a_backup_that_ends_first(world: World, clock: FakeClock) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx)
        held(tx, world, pair, BACKUP)
    clock.advance(MINUTE)
    with world.store.write() as tx:
        held(tx, world, pair, PRIMARY)
        renewal.reckon(tx, pair.id)
    clock.advance(79 * DAY)
    renewal.open_due(world)
    fails(world, pair)
    clock.advance(8 * DAY)
    run(world)
    assert serves(world, pair) == PRIMARY
    assert row_of(world, pair) is None


def test_a_pair_whose_serving_certificate_expired_while_nobody_looked_is_saved_at_once(
    world: World, clock: FakeClock
) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx)
        held(tx, world, pair, PRIMARY)
    clock.advance(60 * DAY)
    with world.store.write() as tx:
        held(tx, world, pair, BACKUP)
        renewal.reckon(tx, pair.id)
    clock.advance(40 * DAY)
    run(world)
    assert serves(world, pair) == BACKUP


def test_many_pairs_are_looked_at_without_one_that_cannot_be_left_keeping_the_others(
    world: World, clock: FakeClock
) -> None:
    with world.store.write() as tx:
        stuck = a_pair(tx)
        gets(tx, stuck, PRIMARY, check_in=400 * DAY)
        give_role(tx, stuck, a_certificate(tx, stuck, BACKUP, not_after=tx.now + 200 * DAY))
        renewal.reckon(tx, stuck.id)
    pair = a_pair_in_need(world, clock)
    fails(world, pair)
    fails(world, stuck)
    clock.advance(7 * DAY)
    run(world)
    assert serves(world, pair) == BACKUP
    assert serves(world, stuck) == PRIMARY, "the key of its backup does not open"


def test_leaving_a_primary_opens_no_second_order_for_it(world: World, clock: FakeClock) -> None:
    pair = a_pair_in_need(world, clock)
    with world.store.read() as tx:
        first = orders.last_issuance(tx, pair.id)
    fails(world, pair)
    clock.advance(7 * DAY)
    run(world)
    with world.store.read() as tx:
        assert orders.last_issuance(tx, pair.id) == first


def test_what_a_person_has_promoted_while_both_renewals_failed_is_left_in_time(
    world: World, clock: FakeClock
) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx)
        held(tx, world, pair, BACKUP)
    clock.advance(5 * DAY)
    with world.store.write() as tx:
        held(tx, world, pair, PRIMARY)
        renewal.reckon(tx, pair.id)
    clock.advance(70 * DAY)
    run(world)
    for ca in (PRIMARY, BACKUP):
        fails(world, pair, 6, ca)
    assert clock_of(world, pair) is None, "the backup ends first"

    promotion.failover(world, pair, promotion.Wish())
    step(world, WorkKind.REFILL)
    assert serves(world, pair) == BACKUP
    while serves(world, pair) == BACKUP:
        clock.advance(HOUR)
        run(world)
        with world.store.read() as tx:
            serving = certificates.get(tx, pairs.state(tx, pair.id).serving or 0)
        assert serving.not_after > clock.now()

    assert serves(world, pair) == PRIMARY

"""Private keys go when nothing can need them any more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select

from dualcert.errors import KeyUnreadable
from dualcert.lifecycle import daemon as daemons
from dualcert.lifecycle import destruction, keymaking
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.order import OrderStep
from dualcert.model.signal import Reason
from dualcert.policy.retention import LONGEST_LIFE
from dualcert.store import Store, Transaction, certificates, events, keys, orders, pairs, removal, revocations
from dualcert.store.tables import public_key
from dualcert.testing.clock import FakeClock
from tests.store import databaseclock
from tests.store.building import BACKUP, PRIMARY, a_certificate, a_full_pair, a_pair, an_order, give_role
from tests.store.overhearing import indexes, overheard, scans
from tests.store.worlds import Setting, a_world


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    """The database goes by the clock that a test moves."""
    databaseclock.follow(store, clock)
    return a_world(store, clock, Setting())


@pytest.fixture
def certificate(world: World) -> Certificate:
    """One that ends in a day."""
    with world.store.write() as tx:
        made = a_certificate(tx, a_pair(tx), not_after=tx.now + timedelta(days=1))
        keys.ends_at(tx, made.spki, made.not_after)
    return made


def kept(world: World, spki: bytes) -> bool:
    with world.store.read() as tx:
        return certificates.wrapped(tx, spki) is not None


def test_a_key_goes_with_its_certificate_and_leaves_its_hash_and_an_event(
    world: World, clock: FakeClock, certificate: Certificate
) -> None:
    assert destruction.destroy_ended(world) == 0
    clock.advance(timedelta(days=1))

    assert destruction.destroy_ended(world) == 1

    assert not kept(world, certificate.spki)
    with world.store.read() as tx:
        [event] = events.page(tx)
        assert (event.kind, event.pair_id, event.ca, event.certificate) == (
            "key-destroyed",
            certificate.pair_id,
            PRIMARY,
            certificate.id,
        )
        assert certificate.spki.hex()[:16] in event.cause
        assert f"{certificate.not_after:%Y-%m-%d}" in event.cause
        assert tx.execute(select(public_key)).one().spki == certificate.spki
        wrapped = certificates.wrapped(tx, certificate.spki)
    with pytest.raises(KeyUnreadable, match="not kept any more"):
        keymaking.unwrap(world, wrapped)
    assert destruction.destroy_ended(world) == 0


def test_a_revocation_under_way_keeps_the_key_until_it_is_answered(
    world: World, clock: FakeClock, certificate: Certificate
) -> None:
    with world.store.write() as tx:
        revocations.want(
            tx, certificate.id, certificate.pair_id, Reason.KEY_COMPROMISE, tx.now, unverified=False
        )
    clock.advance(timedelta(days=2))
    assert destruction.destroy_ended(world) == 0
    assert kept(world, certificate.spki)

    with world.store.write() as tx:
        revocations.settle(tx, certificate.id)
    assert destruction.destroy_ended(world) == 1


def given_up(world: World, *, placed: bool) -> bytes:
    with world.store.write() as tx:
        order = an_order(tx, a_pair(tx))
        if placed:
            orders.placed(tx, order.id, "https://ca/1", "https://ca/1/finalize", [])
        orders.set_step(tx, order.id, OrderStep.ABANDONED, "a test")
    return order.spki


def test_the_key_of_an_attempt_whose_csr_never_left_goes_at_once(world: World) -> None:
    spki = given_up(world, placed=False)
    assert destruction.destroy_ended(world) == 1
    assert not kept(world, spki)
    with world.store.read() as tx:
        assert "it has no certificate" in events.page(tx)[0].cause


def test_the_key_of_any_other_attempt_stays_as_long_as_a_certificate_for_it_could_live(
    world: World, clock: FakeClock
) -> None:
    spki = given_up(world, placed=True)
    assert destruction.destroy_ended(world) == 0
    clock.advance(LONGEST_LIFE - timedelta(seconds=1))
    assert destruction.destroy_ended(world) == 0
    assert kept(world, spki)
    clock.advance(timedelta(seconds=1))
    assert destruction.destroy_ended(world) == 1
    assert not kept(world, spki)


def test_the_key_of_an_order_under_way_stays_however_long_that_takes(world: World, clock: FakeClock) -> None:
    with world.store.write() as tx:
        spki = an_order(tx, a_pair(tx)).spki
    clock.advance(3 * LONGEST_LIFE)
    assert destruction.destroy_ended(world) == 0
    assert kept(world, spki)


def test_many_go_in_batches(world: World, clock: FakeClock) -> None:
    with world.store.write() as tx:
        for _ in range(5):
            made = a_certificate(tx, a_pair(tx), not_after=tx.now)
            keys.ends_at(tx, made.spki, made.not_after)
    assert [destruction.destroy_ended(world, limit=2) for _ in range(4)] == [2, 2, 1, 0]


# --- a clock that is wrong ---------------------------------------------------------------------------------


def ends(tx: Transaction, *certificates: Certificate) -> None:
    for one in certificates:
        keys.ends_at(tx, one.spki, one.not_after)


def test_what_a_pair_serves_or_holds_ready_keeps_its_key_until_another_takes_its_place(
    world: World, clock: FakeClock
) -> None:
    with world.store.write() as tx:
        pair, serving, standby = a_full_pair(tx)
        removed, *of_removed = a_full_pair(tx)
        ends(tx, serving, standby, *of_removed)
    clock.advance(timedelta(days=400))
    assert destruction.destroy_ended(world) == 0
    assert all(kept(world, one.spki) for one in (serving, standby))

    with world.store.write() as tx:
        give_role(tx, pair, a_certificate(tx, pair, BACKUP))
        removal.end(tx, removed, pairs.state(tx, removed.id))
    assert destruction.destroy_ended(world) == 3
    assert kept(world, serving.spki)
    assert not kept(world, standby.spki)


def test_one_machines_wrong_clock_destroys_nothing_of_a_database_that_has_its_own(
    store: Store, server: object, clock: FakeClock
) -> None:
    databases = FakeClock(clock.now())
    databaseclock.follow(store, databases)
    world = a_world(store, clock, Setting())
    with store.write() as tx:
        replaced = a_certificate(tx, a_pair(tx), not_after=tx.now + timedelta(days=1))
        ends(tx, replaced)
    clock.advance(timedelta(days=400))
    assert destruction.destroy_ended(world) == 0
    with store.write() as tx:
        gone = keys.EndedKey(replaced.spki, replaced.pair_id, PRIMARY, replaced.id, replaced.not_after)
        assert keys.destroy(tx, [gone]) == []

    databases.advance(timedelta(days=1))
    assert destruction.destroy_ended(world) == 1
    assert not kept(world, replaced.spki)


def test_a_daemon_destroys_nothing_before_the_clock_has_run_undisturbed_for_an_hour(
    world: World, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemons, "BESIDE", {})
    with world.store.write() as tx:
        pair, *in_use = a_full_pair(tx)
        first, second = (
            a_certificate(tx, pair, not_after=tx.now + timedelta(days=number)) for number in (0, 90)
        )
        ends(tx, first, second, *in_use)
    daemon = daemons.Daemon(world, "1.2.3")

    def left_after(by: timedelta) -> list[bool]:
        clock.advance(by)
        daemon._mind_the_clock()
        daemon.tick()
        return [kept(world, one.spki) for one in (first, second)]

    assert left_after(timedelta(minutes=59)) == [True, True], (
        "the machine may have started with a wrong clock"
    )
    assert left_after(timedelta(minutes=1)) == [False, True]
    right = clock.now()
    clock.set(right + timedelta(days=400))
    assert left_after(timedelta(0)) == [False, True]
    assert left_after(timedelta(minutes=50)) == [False, True]
    clock.set(right)
    assert left_after(timedelta(minutes=59)) == [False, True]
    clock.advance(timedelta(days=90))
    assert left_after(timedelta(0)) == [False, False]
    assert all(kept(world, one.spki) for one in in_use)


@pytest.mark.plans
@pytest.mark.parametrize("look", [lambda tx: keys.ended(tx, 1), lambda tx: keys.ended_attempts(tx, 1)])
def test_what_is_to_go_is_found_by_index(store: Store, look: Callable[..., object]) -> None:
    with store.write() as tx:
        with overheard(tx) as said:
            look(tx)
        assert said
        # The keys without an end are picked out first, by index, and then gone through.
        assert [line for one in said for line in scans(tx, one) if "anon_1" not in line] == []
        assert all("ix_wrapped_key_destroy_at" in indexes(tx, one, sorting=False) for one in said)

"""What is due for renewal, opened by the pairs' clocks."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dualcert.lifecycle import renewal
from dualcert.lifecycle.world import World
from dualcert.model.pair import Pair
from dualcert.model.work import WorkKind
from dualcert.store import Store, Transaction, pairs, renewal_info, revocations, work
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_pair
from tests.store.renewing import DAY, causes, clock_of, gets, lineage, ordering
from tests.store.worlds import Setting, a_world


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    return a_world(store, clock, Setting())


def a_renewable_pair(tx: Transaction, *, ages: tuple[float, float] = (0, 0)) -> Pair:
    """A pair of certificates of 90 days, so many days old."""
    pair = a_pair(tx)
    for ca, age in zip((PRIMARY, BACKUP), ages, strict=True):
        gets(tx, pair, ca, age=age * DAY, check_in=100 * DAY)
    renewal.reckon(tx, pair.id)
    return pair


def opened(world: World) -> int:
    return renewal.open_due(world)


def test_a_renewal_is_opened_when_two_thirds_of_the_life_have_passed_and_not_before(
    world: World, clock: FakeClock
) -> None:
    with world.store.write() as tx:
        pair = a_renewable_pair(tx, ages=(0, 30))
    clock.advance(30 * DAY - DAY / 24)
    assert opened(world) == 0
    assert ordering(world, pair) == set()
    clock.advance(DAY / 24)
    assert opened(world) == 1
    assert ordering(world, pair) == {BACKUP}
    assert causes(world, pair, "order-due") == ["two thirds of its life have passed"]


def test_what_was_opened_is_not_due_again_and_the_clock_shows_the_other_lineage(
    world: World, clock: FakeClock
) -> None:
    with world.store.write() as tx:
        pair = a_renewable_pair(tx, ages=(0, 30))
    clock.advance(30 * DAY)
    assert (opened(world), opened(world)) == (1, 0)
    assert clock_of(world, pair) == lineage(world, pair, PRIMARY).renew_at == clock.now() + 30 * DAY


def test_both_are_renewed_together_where_they_are_due_within_three_days(world: World) -> None:
    with world.store.write() as tx:
        joined, alone = a_renewable_pair(tx, ages=(60, 57)), a_renewable_pair(tx, ages=(60, 56.9))
    assert opened(world) == 2
    assert ordering(world, joined) == {PRIMARY, BACKUP}
    assert ordering(world, alone) == {PRIMARY}


def test_a_revoked_certificate_is_replaced_without_its_sibling(world: World) -> None:
    with world.store.write() as tx:
        pair = a_renewable_pair(tx, ages=(60, 57))
        serving = pairs.state(tx, pair.id).serving
        assert serving is not None
        revocations.revoked(tx, serving, "superseded", "a test")
    assert opened(world) == 1
    assert ordering(world, pair) == {PRIMARY}
    assert causes(world, pair, "order-due") == ["its certificate is revoked"]


def test_once_an_order_has_failed_the_other_goes_alone_when_its_time_comes(
    world: World, clock: FakeClock
) -> None:
    with world.store.write() as tx:
        pair = a_renewable_pair(tx, ages=(60, 50))
    opened(world)
    with world.store.write() as tx:
        [row] = work.of_pairs(tx, [pair.id], [WorkKind.ORDER])
        work.put_back(tx, row, due_at=tx.now + DAY, reason="the CA is away", failed=True)
    clock.advance(8 * DAY)
    assert opened(world) == 0, "what failed does not pull its sibling, two days before its time"
    assert ordering(world, pair) == {PRIMARY}
    clock.advance(2 * DAY)
    assert opened(world) == 1
    assert ordering(world, pair) == {PRIMARY, BACKUP}


def test_all_that_is_due_is_opened_in_batches(world: World) -> None:
    with world.store.write() as tx:
        made = [a_renewable_pair(tx, ages=(60, 0)) for _ in range(5)]
    assert [renewal.open_due(world, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert all(ordering(world, pair) == {PRIMARY} for pair in made)


def test_to_look_keeps_no_writer_waiting_where_nothing_is_due(world: World, database: Path) -> None:
    with world.store.write() as tx:
        a_renewable_pair(tx)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert opened(world) == 0
        other.execute("ROLLBACK")


def test_an_order_names_the_certificate_that_it_replaces_with_a_name_in_common(world: World) -> None:
    from dualcert.lifecycle import replacing
    from tests.store.building import an_order

    with world.store.write() as tx:
        pair = a_pair(tx, "example.com", "www.example.com")
        assert replacing.name_predecessor(tx, an_order(tx, pair)) is None
        _account(tx)
        held = gets(tx, pair, PRIMARY)
        order = an_order(tx, pair)
        assert replacing.name_predecessor(tx, order) == f"{PRIMARY}.{held.id}"
        again = an_order(tx, pair)
        assert replacing.name_predecessor(tx, again) == f"{PRIMARY}.{held.id}", "the order before it died"
        pairs.replace_names(tx, pair, ["other.example.com"])
        renamed = pairs.by_id(tx, pair.id)
        assert renamed is not None
        assert replacing.name_predecessor(tx, an_order(tx, renamed)) is None


def test_a_certificate_that_another_account_ordered_is_not_named(world: World, clock: FakeClock) -> None:
    from dualcert.lifecycle import replacing
    from tests.store.building import an_order

    with world.store.write() as tx:
        pair = a_pair(tx)
        gets(tx, pair, PRIMARY)
    clock.advance(DAY)
    with world.store.write() as tx:
        _account(tx)
        assert replacing.name_predecessor(tx, an_order(tx, pair)) is None
        assert renewal_info.replaceable(tx, order_lineage(tx, pair)) is None


def order_lineage(tx: Transaction, pair: Pair) -> int:
    found = pairs.lineage_at(tx, pair.id, PRIMARY)
    assert found is not None
    return found.id


def _account(tx: Transaction) -> None:
    """The account at the primary's CA is opened now."""
    from dualcert.model.certificate import WrappedKey
    from dualcert.store import accounts
    from dualcert.store.accounts import StoredAccount

    key = WrappedKey(b"account", "one", "kek", b"wrapped")
    accounts.create_or_get(tx, StoredAccount(PRIMARY, "https://ca.test/dir", key, None, frozenset()))

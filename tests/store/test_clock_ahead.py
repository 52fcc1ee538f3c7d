"""A clock that was ahead for minutes: what was done by it is done again by the right one."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import update

from dualcert.errors import CaUnreachable
from dualcert.lifecycle import renewal
from dualcert.lifecycle.watching import asking, telling
from dualcert.model.work import WorkKind
from dualcert.ports.ca import CertificateAuthority
from dualcert.store import Store, clockwork, pairs, revocations, watch_answers, watching, work
from dualcert.store import tables as t
from dualcert.store.columns import micros
from dualcert.testing.clock import FakeClock
from tests.revocations import Publisher, crl
from tests.store.building import BACKUP, PRIMARY, a_pair
from tests.store.renewing import DAY, HOUR, MINUTE, gets, step
from tests.store.watched import a_watching_world, issue
from tests.store.worlds import Setting, a_world
from tests.tinyca import TinyCa


def put_right(store: Store, clock: FakeClock, right: datetime) -> None:
    """As the daemon does it when it notices."""
    was = clock.now()
    clock.set(right)
    more = True
    while more:
        with store.write() as tx:
            clockwork.still_due(tx, was)
            more = clockwork.ask_again(tx)


def test_orders_that_failed_in_a_year_to_come_do_not_wait_for_it(store: Store, clock: FakeClock) -> None:
    def meet(ca: str) -> CertificateAuthority:
        raise CaUnreachable("the certificate of its HTTPS has expired", ca=ca)

    world = a_world(store, clock, Setting(meet=meet))
    with store.write() as tx:
        pair = a_pair(tx)
        for ca in (PRIMARY, BACKUP):
            gets(tx, pair, ca, age=10 * DAY)
        renewal.reckon(tx, pair.id)
    right = clock.now()
    clock.set(right + 365 * DAY)
    renewal.open_due(world)
    assert step(world, WorkKind.ORDER)

    put_right(store, clock, right + MINUTE)

    with store.read() as tx:
        due = [one.due_at for one in work.of_pairs(tx, [pair.id], [WorkKind.ORDER])]
    assert len(due) == 2
    assert all(at is not None and at <= clock.now() + HOUR for at in due)


@pytest.mark.parametrize("ahead", [6 * HOUR, 60 * DAY])
def test_lists_that_were_asked_meanwhile_are_asked_again(
    store: Store, clock: FakeClock, publisher: Publisher, tiny: TinyCa, ahead: timedelta
) -> None:
    world = a_watching_world(store, clock)
    place = publisher.put("/crl", crl(tiny.intermediate, now=clock.now(), number=2))
    with store.write() as tx:
        held = issue(tx, world, tiny, a_pair(tx), crl=[place])
    asking.ask_due(world)
    right = clock.now()
    clock.set(right + ahead)
    asking.ask_due(world)

    put_right(store, clock, right + MINUTE)

    publisher.put("/crl", crl(tiny.intermediate, [held.serial], now=clock.now(), number=3))
    assert asking.ask_due(world).revoked == 1
    with store.read() as tx:
        assert revocations.is_revoked(tx, held.id)
    [standing] = telling.standings(world)
    assert (standing.state, standing.age) == ("good", timedelta(0))


def test_whoever_asks_when_the_clock_is_put_right_does_not_write_down_when_by_the_wrong_one(
    store: Store, clock: FakeClock, publisher: Publisher, tiny: TinyCa
) -> None:
    world = a_watching_world(store, clock)
    place = publisher.put("/crl", crl(tiny.intermediate, now=clock.now(), number=2))
    with store.write() as tx:
        held = issue(tx, world, tiny, a_pair(tx), crl=[place])
    right = clock.now()
    clock.set(right + 60 * DAY)
    with store.write() as tx:
        asking_now = watching.claim(tx)
    assert asking_now is not None

    put_right(store, clock, right + MINUTE)

    with store.write() as tx:
        assert not watching.settle(tx, asking_now, right + 60 * DAY + HOUR)
    with store.read() as tx:
        [source] = watch_answers.watched_by(tx, held.id)
    assert source.due_at == clock.now()


def test_a_responder_and_renewal_information_are_asked_again(
    store: Store, clock: FakeClock, publisher: Publisher, tiny: TinyCa
) -> None:
    world = a_watching_world(store, clock)
    with store.write() as tx:
        pair = a_pair(tx)
        held = issue(tx, world, tiny, pair, ocsp=[publisher.put("/ocsp", b"")])
        gets(tx, pair, BACKUP, age=DAY)
        tx.execute(update(t.renewal_info).values(check_at=tx.at + micros_of(DAY), asked_at=tx.at - 1))
    right = clock.now()
    clock.set(right + 30 * DAY)
    asking.ask_due(world)  # it answers nothing, and is asked again in a while
    with store.write() as tx:
        ahead = micros(clock.now())
        tx.execute(update(t.renewal_info).values(check_at=ahead, asked_at=ahead - 1))

    put_right(store, clock, right + MINUTE)

    now = micros(clock.now())
    with store.read() as tx:
        [source] = watch_answers.watched_by(tx, held.id)
        assert watch_answers.questions(tx, source, clock.now(), 10)
        asked = [(row.check_at, row.asked_at) for row in tx.execute(t.renewal_info.select())]
        assert pairs.state(tx, pair.id).serving == held.id
    assert source.due_at == source.asked_at == clock.now()
    assert set(asked) == {(now, now)}


def micros_of(length: timedelta) -> int:
    return length // timedelta(microseconds=1)

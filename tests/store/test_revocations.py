from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from dualcert.clock import to_microseconds
from dualcert.errors import CaUnreachable
from dualcert.lifecycle import removal, revocation
from dualcert.lifecycle.engine import Engine
from dualcert.model.certificate import Certificate
from dualcert.model.deployment import How
from dualcert.model.pair import Pair
from dualcert.model.signal import Reason, RevocationRequest
from dualcert.model.work import Done, Later, Waiting, WorkKind
from dualcert.ports.ca import CertificateAuthority
from dualcert.store import Store, Transaction, deployments, events, pairs, revocations, tables, work
from dualcert.testing.clock import FakeClock
from tests.store.building import PRIMARY, a_certificate, a_full_pair, a_pair, give_role
from tests.store.ordering import OrderTaker, ordering_world
from tests.store.renewing import step
from tests.store.worlds import Setting, a_world

HOUR = timedelta(hours=1)


def test_a_wanted_revocation_says_who_when_and_why(store: Store, clock: FakeClock) -> None:
    by = clock.now() + timedelta(hours=24)
    with store.write() as tx:
        revocations.want(tx, 10, 1, Reason.KEY_COMPROMISE, by, unverified=False)
    with store.read() as tx:
        assert revocations.wanted(tx, 1) == [
            RevocationRequest(10, 1, Reason.KEY_COMPROMISE, clock.now(), by, unverified=False, actor="tester")
        ]
        assert revocations.wanted(tx, 2) == []
        assert not revocations.is_revoked(tx, 10)


def test_asked_again_the_later_words_count(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        revocations.want(tx, 10, 1, Reason.SUPERSEDED, tx.now + timedelta(hours=24), unverified=False)
    clock.advance(60)
    with store.write() as tx:
        revocations.want(tx, 10, 1, Reason.KEY_COMPROMISE, tx.now + timedelta(hours=1), unverified=True)
        [found] = revocations.wanted(tx, 1)
    assert (found.reason, found.unverified, found.requested_at) == (
        Reason.KEY_COMPROMISE,
        True,
        clock.now(),
    )
    assert found.revoke_by == clock.now() + timedelta(hours=1)


def test_a_settled_request_is_gone_and_others_stay(store: Store) -> None:
    with store.write() as tx:
        for certificate in (10, 11):
            revocations.want(tx, certificate, 1, Reason.SUPERSEDED, tx.now, unverified=False)
        revocations.settle(tx, 10)
        assert [one.certificate_id for one in revocations.wanted(tx, 1)] == [11]


def test_the_first_that_is_known_of_a_revocation_stays_and_a_second_is_no_error(
    store: Store, clock: FakeClock
) -> None:
    first = clock.now()
    with store.write() as tx:
        assert revocations.revoked(tx, 10, "superseded", "accepted by the CA")
    clock.advance(60)
    with store.write() as tx:
        assert not revocations.revoked(tx, 10, "keyCompromise", "the CA's list")
        assert revocations.is_revoked(tx, 10)
        assert not revocations.is_revoked(tx, 11)
        row = tx.execute(select(tables.revocation)).one()
    assert (row.reason, row.source, row.at) == ("superseded", "accepted by the CA", to_microseconds(first))


def test_reasons_have_the_codes_of_the_crl() -> None:
    assert {one.value: one.code for one in Reason} == {
        "unspecified": 0,
        "keyCompromise": 1,
        "affiliationChanged": 3,
        "superseded": 4,
        "cessationOfOperation": 5,
    }


def test_what_was_replaced_in_its_place_is_revoked_when_every_target_was_seen_with_the_new_one(
    store: Store, clock: FakeClock
) -> None:
    """The key has leaked, and there was no backup to turn to: the epoch is what it was when the old one was seen."""
    world = a_world(store, clock, Setting())
    with store.write() as tx:
        pair = a_pair(tx, targets=["web", "mail"])
        old = give_role(tx, pair, a_certificate(tx, pair, PRIMARY))
        for target in pair.targets:
            seen(tx, pair.id, target, old.id)
        revocations.want(
            tx, old.id, pair.id, Reason.KEY_COMPROMISE, tx.now + timedelta(hours=24), unverified=False
        )
        work.schedule(tx, WorkKind.REVOCATION, pair.id, tx.now, ca=PRIMARY)
        new = give_role(tx, pair, a_certificate(tx, pair, PRIMARY))
    [[row]] = Engine(world).claim([WorkKind.REVOCATION], 1)

    waiting = revocation.advance(world, row)
    assert isinstance(waiting, Waiting)
    assert waiting.reason.startswith("mail, web was not yet seen")
    with store.write() as tx:
        seen(tx, pair.id, "web", new.id)
    waiting = revocation.advance(world, row)
    assert isinstance(waiting, Waiting)
    assert waiting.reason.startswith("mail was not yet seen")


def test_what_was_seen_before_the_leaked_one_came_is_no_sight_of_what_replaces_it(
    store: Store, clock: FakeClock
) -> None:
    """Three in one place, in one epoch: a pair that was renewed once, without a failover."""
    world = a_world(store, clock, Setting())
    with store.write() as tx:
        pair = a_pair(tx, targets=["web"])
        first, leaked = (give_role(tx, pair, a_certificate(tx, pair, PRIMARY)) for _ in range(2))
        for one in (first, leaked):
            seen(tx, pair.id, "web", one.id)
        revocations.want(
            tx, leaked.id, pair.id, Reason.KEY_COMPROMISE, tx.now + timedelta(hours=24), unverified=False
        )
        work.schedule(tx, WorkKind.REVOCATION, pair.id, tx.now, ca=PRIMARY)
        new = give_role(tx, pair, a_certificate(tx, pair, PRIMARY))
    [[row]] = Engine(world).claim([WorkKind.REVOCATION], 1)

    waiting = revocation.advance(world, row)

    assert isinstance(waiting, Waiting)
    assert waiting.reason.startswith("web was not yet seen")
    with store.write() as tx:
        seen(tx, pair.id, "web", new.id)
        assert set(deployments.verified_in(tx, pair.id, 0, after=leaked.id)) == {"web"}


def test_a_revocation_that_must_wait_keeps_no_other_one_waiting(store: Store, clock: FakeClock) -> None:
    def away(ca: str) -> CertificateAuthority:
        raise CaUnreachable("it does not answer", ca=ca)

    world = a_world(store, clock, Setting(meet=away))
    by = clock.now() + timedelta(minutes=2)
    with store.write() as tx:
        pair = a_pair(tx)
        serving = give_role(tx, pair, a_certificate(tx, pair, PRIMARY))
        replaced = a_certificate(tx, pair, PRIMARY)
        for one in (serving, replaced):
            revocations.want(tx, one.id, pair.id, Reason.KEY_COMPROMISE, by, unverified=False)
        work.schedule(tx, WorkKind.REVOCATION, pair.id, tx.now, ca=PRIMARY)
    [[row]] = Engine(world).claim([WorkKind.REVOCATION], 1)

    tried = revocation.advance(world, replace(row, attempts=5, since=clock.now() - timedelta(hours=1)))
    assert isinstance(tried, Later)
    assert "it does not answer" in tried.reason
    assert tried.at == by, "its own time comes before the CA's trouble is looked at again"
    with store.write() as tx:
        revocations.settle(tx, replaced.id)
    assert isinstance(revocation.advance(world, row), Waiting)


def test_what_has_expired_before_its_ca_could_be_asked_is_revoked_no_more(
    store: Store, clock: FakeClock
) -> None:
    """CAs refuse it; and its key is kept for as long as it is wanted."""
    world = a_world(store, clock, Setting())
    with store.write() as tx:
        pair = a_pair(tx)
        replaced = a_certificate(tx, pair, PRIMARY)
        revocations.want(
            tx, replaced.id, pair.id, Reason.KEY_COMPROMISE, replaced.not_after, unverified=False
        )
        work.schedule(tx, WorkKind.REVOCATION, pair.id, tx.now, ca=PRIMARY)
    clock.advance(replaced.not_after - clock.now())

    assert step(world, WorkKind.REVOCATION) == [Done()]

    with store.read() as tx:
        assert revocations.wanted(tx, pair.id) == []
        assert not revocations.is_revoked(tx, replaced.id)
        last = events.page(tx)[-1]
        assert (last.certificate, "expired" in last.cause) == (replaced.id, True)


def seen(tx: Transaction, pair_id: int, target: str, certificate: int) -> None:
    epoch = pairs.state(tx, pair_id).epoch
    deployments.arrived(tx, pair_id, target, epoch, certificate)
    deployments.verified(tx, pair_id, target, epoch, certificate, How.WIRE)


def wanted(tx: Transaction, pair: Pair, subject: Certificate, reason: Reason, by: timedelta) -> None:
    revocations.want(tx, subject.id, pair.id, reason, tx.now + by, unverified=False)
    work.schedule(tx, WorkKind.REVOCATION, pair.id, tx.now, ca=subject.ca)


@pytest.mark.parametrize("reason", [Reason.SUPERSEDED, Reason.KEY_COMPROMISE])
def test_what_serves_when_its_time_has_come_is_revoked_for_a_leaked_key_alone(
    store: Store, clock: FakeClock, reason: Reason
) -> None:
    taker = OrderTaker()
    world = ordering_world(store, clock, taker)
    with store.write() as tx:
        pair = a_pair(tx)
        serving = give_role(tx, pair, a_certificate(tx, pair, PRIMARY))
        wanted(tx, pair, serving, reason, HOUR)
    clock.advance(HOUR)

    [outcome] = step(world, WorkKind.REVOCATION)

    leaked = reason is Reason.KEY_COMPROMISE
    assert isinstance(outcome, Done if leaked else Waiting)
    assert taker.calls == ["revoke"] * leaked
    with store.read() as tx:
        assert revocations.is_revoked(tx, serving.id) is leaked


@pytest.mark.parametrize(
    ("reason", "sooner", "minutes"),
    [(Reason.KEY_COMPROMISE, 2, 2), (Reason.KEY_COMPROMISE, 60, 5), (Reason.SUPERSEDED, 2, 5)],
)
def test_what_waits_is_looked_at_when_its_time_comes(
    store: Store, clock: FakeClock, reason: Reason, sooner: int, minutes: int
) -> None:
    """What serves waits for no time where its key has not leaked."""
    world = ordering_world(store, clock, OrderTaker())
    with store.write() as tx:
        pair = a_pair(tx)
        serving = give_role(tx, pair, a_certificate(tx, pair, PRIMARY))
        wanted(tx, pair, serving, reason, timedelta(minutes=sooner))

    [outcome] = step(world, WorkKind.REVOCATION)

    assert isinstance(outcome, Waiting)
    with store.read() as tx:
        row = work.get(tx, WorkKind.REVOCATION, pair.id, ca=PRIMARY)
    assert row is not None
    assert row.due_at == clock.now() + timedelta(minutes=minutes)


def test_what_a_removed_pair_had_is_revoked_at_its_time_though_the_target_never_answers(
    store: Store, clock: FakeClock
) -> None:
    world = ordering_world(store, clock, OrderTaker())
    with store.write() as tx:
        pair, serving, standby = a_full_pair(tx)
        deployments.arrived(tx, pair.id, "web", 0, serving.id)
    removal.remove(world, pair, Reason.CESSATION_OF_OPERATION)
    with store.read() as tx:
        [by] = {one.revoke_by for one in revocations.wanted(tx, pair.id)}
    assert all(isinstance(outcome, Waiting) for outcome in step(world, WorkKind.REVOCATION))

    clock.advance(by - clock.now())

    assert step(world, WorkKind.REVOCATION) == [Done(), Done()]
    with store.read() as tx:
        assert all(revocations.is_revoked(tx, one.id) for one in (serving, standby))
        assert work.of_pairs(tx, [pair.id], [WorkKind.REMOVAL]) != [], "the target has not answered yet"


def test_what_is_wanted_while_another_one_is_revoked_is_not_forgotten(store: Store, clock: FakeClock) -> None:
    taker = OrderTaker()
    world = ordering_world(store, clock, taker)
    with store.write() as tx:
        pair = a_pair(tx)
        first, second = (a_certificate(tx, pair, PRIMARY) for _ in range(2))
        wanted(tx, pair, first, Reason.SUPERSEDED, HOUR)

    def another() -> None:
        with store.write() as tx:
            revocations.want(tx, second.id, pair.id, Reason.SUPERSEDED, tx.now + HOUR, unverified=False)

    taker.meanwhile["revoke"] = [another, lambda: None]

    assert step(world, WorkKind.REVOCATION) == [Later(clock.now(), "another revocation is wanted")]
    assert step(world, WorkKind.REVOCATION) == [Done()]
    with store.read() as tx:
        assert all(revocations.is_revoked(tx, one.id) for one in (first, second))

"""Backups that nobody touches go on counting: their keys are opened again and again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import select, update

from dualcert.errors import ConfigurationError
from dualcert.lifecycle import keymaking, promotion, proving, renewal, views
from dualcert.lifecycle.incidents import open_incident, plan, telling
from dualcert.lifecycle.promotion import Wish
from dualcert.lifecycle.world import Lazy, World
from dualcert.model.certificate import WrappedKey
from dualcert.model.pair import Pair, PairState
from dualcert.model.signal import Reason
from dualcert.model.work import WorkKind
from dualcert.policy import due
from dualcert.ports.keys import KeyProtector
from dualcert.store import Store, Transaction, events, pairs, proofs, revocations, tables, work
from dualcert.testing.clock import FakeClock
from dualcert.testing.fakes_keys import FakeKeyProtector, FakeKeyProtectorOptions
from tests.store import masses
from tests.store.building import BACKUP, PRIMARY, a_pair, give_role
from tests.store.overhearing import overheard
from tests.store.renewing import DAY
from tests.store.worlds import DOMAINS, Setting, a_world, issued


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    return a_world(store, clock, Setting())


def whole(world: World) -> Pair:
    """A pair with two certificates of 90 days that have just come."""
    with world.store.write() as tx:
        pair = a_pair(tx, targets=())
        for ca in (PRIMARY, BACKUP):
            held = issued(tx, world, pair, ca)
            give_role(tx, pair, held, due.usable_until(held.not_before, held.not_after, tx.now))
        for one in pairs.lineages(tx, [pair.id]):
            pairs.set_renew_at(tx, one.id, tx.now + 60 * DAY)
        renewal.reckon(tx, pair.id)
    return pair


def spoil(tx: Transaction, pair: Pair) -> None:
    """The bytes of the backup's wrapped key are changed."""
    of_its_key = tables.wrapped_key.c.spki == standby_key(tx, pair)
    assert (
        tx.execute(update(tables.wrapped_key).where(of_its_key).values(wrapped=b"spoilt" * 9)).rowcount == 1
    )


def standby_key(tx: Transaction, pair: Pair) -> bytes:
    query = select(tables.certificate.c.spki).where(
        tables.certificate.c.id == pairs.state(tx, pair.id).standby
    )
    return bytes(tx.execute(query).scalar_one())


def turns(world: World) -> float:
    """What a daemon does at one moment; in how many seconds it would look again."""
    pause = 0.0
    while pause == 0.0:
        pause = proving.prove(world)
    return pause


def protection(world: World, pair: Pair) -> str:
    return str(views.describe(world, pair)["protection"])


def state(world: World, pair: Pair) -> PairState:
    with world.store.read() as tx:
        return pairs.state(tx, pair.id)


def causes(world: World, pair: Pair, kind: str) -> list[str]:
    with world.store.read() as tx:
        return [one.cause for one in events.page(tx, pairs=[pair.id]) if one.kind == kind]


def test_a_backup_counts_until_its_renewal_though_nobody_touches_it(world: World, clock: FakeClock) -> None:
    made = [whole(world) for _ in range(3)]
    for _ in range(59):
        clock.advance(DAY)
        turns(world)
        assert {protection(world, pair) for pair in made} == {"protected"}

    serving = [state(world, pair).serving for pair in made]
    named = [one for one in serving if one is not None]
    incident = open_incident(world, "a test", "a test", world.clock.now() + DAY, certificates=named)
    plan(world, incident.id)
    assert telling.planned(world, incident.id, groups=False)["usable"] == 3


def test_it_stays_so_where_the_daemon_was_away_for_two_weeks(world: World, clock: FakeClock) -> None:
    pair = whole(world)
    for _ in range(4):
        clock.advance(15 * DAY)
        turns(world)
        assert protection(world, pair) == "protected"


def test_a_backup_whose_proof_has_grown_too_old_counts_again(world: World, clock: FakeClock) -> None:
    pair = whole(world)
    clock.advance(40 * DAY)
    assert protection(world, pair) == "unprotected"
    turns(world)
    assert protection(world, pair) == "protected"
    assert causes(world, pair, "proof-failed") == []


def test_a_key_that_does_not_open_is_told_and_the_backup_gets_a_successor(
    world: World, clock: FakeClock
) -> None:
    pair, other = whole(world), whole(world)
    with world.store.write() as tx:
        spoil(tx, pair)
    clock.advance(8 * DAY)
    turns(world)
    assert protection(world, pair) == "unprotected"
    [why] = causes(world, pair, "proof-failed")
    assert why.startswith("the backup's private key cannot be opened: a wrapped key of domain 'two'")
    with world.store.read() as tx:
        assert work.get(tx, WorkKind.REFILL, pair.id, ca=BACKUP) is not None
    assert protection(world, other) == "protected"
    clock.advance(20 * DAY)
    turns(world)
    assert len(causes(world, pair, "proof-failed")) == 1


def with_protector(world: World, domain: str, protector: Lazy[KeyProtector]) -> World:
    return replace(world, protectors={**world.protectors, domain: protector})


def missing() -> KeyProtector:
    raise ConfigurationError("there is no KEK at keys/backup.kek")


def another() -> KeyProtector:
    return FakeKeyProtector(DOMAINS[BACKUP], FakeKeyProtectorOptions(word="another"))


@pytest.mark.parametrize("instead", [missing, another])
def test_a_kek_that_is_not_there_condemns_no_backup_and_holds_up_no_other_domain(
    world: World, clock: FakeClock, caplog: pytest.LogCaptureFixture, instead: Callable[[], KeyProtector]
) -> None:
    made = [whole(world) for _ in range(2)]
    elsewhere = whole(world)
    promotion.failover(world, elsewhere, Wish())
    before = [state(world, pair) for pair in made]
    clock.advance(8 * DAY)
    assert turns(with_protector(world, DOMAINS[BACKUP], Lazy(instead))) >= 60
    assert [state(world, pair) for pair in made] == before
    assert state(world, elsewhere).backup_ok_until == clock.now() + due.PROOF_LASTS
    told = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert len(told) == 1
    assert "domain two" in told[0]

    clock.advance(8 * DAY)
    turns(world)
    assert {state(world, pair).backup_ok_until for pair in made} == {clock.now() + due.PROOF_LASTS}


def test_what_is_held_against_a_backup_stays(world: World, clock: FakeClock) -> None:
    pair = whole(world)
    with world.store.write() as tx:
        before = pairs.state(tx, pair.id)
        assert before.standby is not None
        revocations.want(tx, before.standby, pair.id, Reason.SUPERSEDED, tx.now + DAY, unverified=False)
    clock.advance(8 * DAY)
    turns(world)
    assert state(world, pair) == before
    with world.store.write() as tx:
        assert pairs.set_backup_ok(tx, before, None)
    clock.advance(8 * DAY)
    turns(world)
    assert state(world, pair).backup_ok_until is None


def test_the_walk_is_spread_over_a_week_and_shared_by_all_daemons(
    world: World, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [whole(world) for _ in range(14)]
    turns(world)
    opened: list[WrappedKey] = []
    unwrap = keymaking.unwrap

    def noted(world: World, wrapped: WrappedKey, purpose: str = "certificate") -> bytes:
        opened.append(wrapped)
        return unwrap(world, wrapped, purpose)

    monkeypatch.setattr(keymaking, "unwrap", noted)
    for _ in range(28):
        clock.advance(DAY / 2)
        before = len(opened)
        for _ in range(3):
            turns(world)
        assert len(opened) - before <= 2
    assert len({one.spki for one in opened}) == len(made)
    assert len(opened) <= len(made) + 1


def test_a_daemon_that_is_late_does_not_move_the_walk_that_another_has_begun(
    world: World, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = whole(world)
    clock.advance(8 * DAY)
    turns(world)
    unwrap, found = keymaking.unwrap, []

    def slow(world: World, wrapped: WrappedKey, purpose: str = "certificate") -> bytes:
        monkeypatch.setattr(keymaking, "unwrap", unwrap)
        turns(world)
        found.append(walk(world))
        return unwrap(world, wrapped, purpose)

    clock.advance(8 * DAY)
    monkeypatch.setattr(keymaking, "unwrap", slow)
    proving.prove(world)
    assert found == [walk(world)]
    assert protection(world, pair) == "protected"


def walk(world: World) -> proofs.Walk:
    with world.store.read() as tx:
        return proofs.where(tx)


@pytest.mark.parametrize("size", [20, 50])
def test_it_takes_as_many_statements_for_many_as_for_few(store: Store, clock: FakeClock, size: int) -> None:
    with store.write() as tx:
        masses.fill(tx, size)
    clock.advance(8 * DAY)
    with store.write() as tx:
        found = proofs.unproved(tx, 0, size, clock.now() - 7 * DAY)
        with overheard(tx) as said:
            proofs.proved(tx, found)
    assert (len(found), len(said)) == (size, 2)
    with store.read() as tx:
        until = {one.backup_ok_until for one in pairs.states(tx, range(1, size + 1)).values()}
    assert until == {clock.now() + due.PROOF_LASTS}


def test_the_walk_reads_what_it_walks_over_and_no_more(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        masses.fill(tx, 200)
    with store.read() as tx:
        assert proofs.bound(tx, 0, 200, 50) == 50
        assert proofs.bound(tx, 180, 200, 50) == 200
        assert len(proofs.unproved(tx, 50, 100, clock.now())) == 50

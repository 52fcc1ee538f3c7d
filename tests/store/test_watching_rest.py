"""What the brake held, after it was told: what a run has left, and what is closed without one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from dualcert.lifecycle import daemon, incidents
from dualcert.lifecycle.incidents import running
from dualcert.lifecycle.incidents.running import Terms
from dualcert.lifecycle.watching import braked, job
from dualcert.lifecycle.world import WatchRules, World
from dualcert.model.certificate import Certificate
from dualcert.model.pair import Pair
from dualcert.model.work import WorkKind
from dualcert.store import Store, certificates, pairs, watching, work
from dualcert.testing.clock import FakeClock
from tests.revocations import Publisher, crl
from tests.store.building import BACKUP
from tests.store.renewing import step
from tests.store.test_watching import a_pair_of, publish, serves
from tests.store.watched import a_watching_world, issue
from tests.tinyca import TinyCa

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


Made = list[tuple[Pair, Certificate, Certificate]]
Revoke = Callable[[World, int], Made]


@pytest.fixture
def revoke(publisher: Publisher, tiny: TinyCa) -> Revoke:
    """So many pairs, of which what serves is on a list; what it says was decided on. The last one's backup is bad."""

    def act(world: World, many: int) -> Made:
        place = publisher.put("/crl", b"")
        made = [a_pair_of(world, tiny, crl=[place]) for _ in range(many)]
        with world.store.write() as tx:
            pair, _, standby = made[-1]
            certificates.block_key(tx, standby.spki, "a test")
            pairs.set_backup_ok(tx, pairs.state(tx, pair.id), None)
        assert publish(publisher, tiny, world, [one for _, one, _ in made]).decided.held == many
        return made

    return act


def gets_a_backup(world: World, tiny: TinyCa, pair: Pair) -> Certificate:
    with world.store.write() as tx:
        made = issue(tx, world, tiny, pair, BACKUP)
        work.reconsider(tx, pair.id)
    return made


def looked_at(world: World, clock: FakeClock, after: timedelta) -> None:
    """As the daemon does it, so long later."""
    clock.advance(after)
    job.watch(world)
    job.waves(world)
    step(world, WorkKind.SIGNAL)


def test_what_waves_have_left_turns_when_its_backup_has_come(
    store: Store, clock: FakeClock, tiny: TinyCa, revoke: Revoke, caplog: pytest.LogCaptureFixture
) -> None:
    world = a_watching_world(store, clock, WatchRules(brake_then="waves"))
    made = revoke(world, 12)
    pair, serving, _ = made[-1]
    assert [serves(world, one) for one, _, _ in made[:-1]] == [standby.id for _, _, standby in made[:-1]]
    assert serves(world, pair) == serving.id
    assert (
        "incident 1 is carried out, and 1 pairs serve what it names: dualcert incident status 1"
        in caplog.text
    )

    looked_at(world, clock, HOUR)
    assert serves(world, pair) == serving.id
    fresh = gets_a_backup(world, tiny, pair)
    looked_at(world, clock, 10 * MINUTE)

    assert serves(world, pair) == fresh.id


def test_a_person_who_has_planned_anew_is_left_alone(
    store: Store, clock: FakeClock, tiny: TinyCa, revoke: Revoke
) -> None:
    world = a_watching_world(store, clock, WatchRules(brake_then="waves"))
    pair, serving, _ = revoke(world, 12)[-1]
    fresh = gets_a_backup(world, tiny, pair)
    planned = incidents.plan(world, 1)

    looked_at(world, clock, HOUR)

    assert serves(world, pair) == serving.id
    running.run(world, 1, planned.hash, Terms())
    assert serves(world, pair) == fresh.id


def test_what_is_closed_without_a_run_is_decided_again(
    store: Store, clock: FakeClock, revoke: Revoke
) -> None:
    world = a_watching_world(store, clock)
    revoke(world, 12)
    first = braked.waiting(world)
    assert (first.held, first.incident) == (12, 1)

    incidents.close(world, 1)
    assert braked.waiting(world).held == 0
    looked_at(world, clock, MINUTE)

    again = braked.waiting(world)
    assert (again.held, again.incident) == (12, 2)
    assert again.command is not None
    running.run(world, 2, again.command.split()[-1], Terms())
    # Of the last one the backup is bad.
    assert braked.waiting(world).command == "dualcert incident status 2"
    looked_at(world, clock, MINUTE)
    assert braked.waiting(world).incident == 2


def test_whoever_asks_when_it_is_closed_does_not_settle_what_is_to_be_read_anew(
    store: Store, clock: FakeClock, revoke: Revoke
) -> None:
    world = a_watching_world(store, clock)
    revoke(world, 12)
    clock.advance(HOUR)
    with store.write() as tx:
        asking_now = watching.claim(tx)
    assert asking_now is not None

    incidents.close(world, 1)
    braked.mind_what_is_closed(world)

    with store.write() as tx:
        assert not watching.settle(tx, asking_now, tx.now + HOUR)
    looked_at(world, clock, MINUTE)
    assert braked.waiting(world).incident == 2


def test_watching_does_not_wait_for_the_waves(
    store: Store, clock: FakeClock, publisher: Publisher, tiny: TinyCa
) -> None:
    world = a_watching_world(store, clock, WatchRules(brake_then="waves"))
    place = publisher.put("/crl", b"")
    made = [a_pair_of(world, tiny, crl=[place]) for _ in range(11)]
    publisher.put(
        "/crl", crl(tiny.intermediate, [one.serial for _, one, _ in made], now=clock.now(), number=2)
    )

    for _ in range(2):  # what was found, and a look when nothing is due
        job.watch(world)
    assert [serves(world, pair) for pair, _, _ in made] == [serving.id for _, serving, _ in made]

    daemon.BESIDE["waves"](world)
    assert [serves(world, pair) for pair, _, _ in made] == [standby.id for _, _, standby in made]

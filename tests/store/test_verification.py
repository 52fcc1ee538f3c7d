"""That targets were seen to serve what they should, whatever happens while somebody looks."""

from __future__ import annotations

import pytest

from dualcert.lifecycle import promotion
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.promotion import Wish
from dualcert.lifecycle.world import World
from dualcert.model.work import Done, Later, WorkKind
from dualcert.ports.deploy import Placement, Version
from dualcert.store import Store, claims, deployments, pairs, work
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_pair, give_role
from tests.store.worlds import Setting, a_world, issued

AT_A_TARGET = [WorkKind.DEPLOYMENT, WorkKind.VERIFICATION]


@pytest.fixture
def setting() -> Setting:
    return Setting()


@pytest.fixture
def world(store: Store, clock: FakeClock, setting: Setting) -> World:
    return a_world(store, clock, setting)


def take_steps(world: World) -> None:
    """What is due at targets, until nothing is."""
    engine = Engine(world)
    while batches := engine.claim(AT_A_TARGET, 10):
        for rows in batches:
            assert engine.advance(rows) == [Done()]


def test_what_was_deployed_while_an_earlier_certificate_was_looked_for_is_looked_for_too(
    store: Store, world: World, setting: Setting
) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        before = issued(tx, world, pair, PRIMARY)
        give_role(tx, pair, issued(tx, world, pair, PRIMARY))
        give_role(tx, pair, issued(tx, world, pair, BACKUP))
        deployments.arrived(tx, pair.id, "web", 0, before.id)
        work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")
    target, version = setting.targets["web"], Version(0, before.id)
    replaced = Placement(pair.name, pair.names, version, "certificate", "", b"key", before.sha256)
    target.versions[pair.name] = {version: replaced}
    target.current[pair.name] = version
    with store.write() as tx:
        [deploying] = claims.claim(tx, "slow", kinds=AT_A_TARGET, limit=1)
    assert Engine(world).advance([deploying]) == [Done()]
    with store.write() as tx:
        [looking] = claims.claim(tx, "slow", kinds=AT_A_TARGET, limit=1)
    assert looking.kind is WorkKind.VERIFICATION
    overtaken: list[bool] = []

    def fail_over() -> None:
        # It was seen, and while the replaced key leaves the target another process fails the pair over.
        if not overtaken:
            overtaken.append(True)
            target.lock.release()
            promotion.failover(world, pair, Wish())
            take_steps(world)
            target.lock.acquire()

    target.before_step = fail_over
    [outcome] = Engine(world).advance([looking])
    assert overtaken
    assert isinstance(outcome, Later)

    with store.write() as tx:
        work.release(tx, [looking])
    take_steps(world)

    with store.read() as tx:
        assert pairs.state(tx, pair.id).epoch == 1
        assert set(deployments.verified_in(tx, pair.id, 1)) == {"web"}
        assert work.of_pairs(tx, [pair.id], AT_A_TARGET) == []

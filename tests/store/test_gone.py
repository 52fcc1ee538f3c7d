"""Steps and wishes that come too late: their pair was removed meanwhile."""

from __future__ import annotations

import pytest

from dualcert.errors import UsageProblem
from dualcert.lifecycle import chains, inventory, promotion, removal, revocation
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.inventory import Changes
from dualcert.lifecycle.promotion import Wish
from dualcert.lifecycle.world import World
from dualcert.model.pair import Pair, Role
from dualcert.model.signal import Reason
from dualcert.model.work import Done, WorkKind
from dualcert.store import Store, work
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_pair, give_role
from tests.store.worlds import Setting, a_world, issued


@pytest.fixture
def world(store: Store, clock: FakeClock) -> World:
    return a_world(store, clock, Setting())


def a_whole_pair(world: World) -> Pair:
    with world.store.write() as tx:
        pair = a_pair(tx)
        give_role(tx, pair, issued(tx, world, pair, PRIMARY))
        give_role(tx, pair, issued(tx, world, pair, BACKUP))
    return pair


@pytest.mark.parametrize("kind", [kind for kind in WorkKind if kind is not WorkKind.RENEWAL_INFORMATION])
def test_a_step_of_a_pair_that_is_gone_leaves_nothing(world: World, kind: WorkKind) -> None:
    pair = a_whole_pair(world)
    at_target = kind in {WorkKind.DEPLOYMENT, WorkKind.VERIFICATION, WorkKind.REMOVAL}
    at_ca = kind in {WorkKind.ORDER, WorkKind.REVOCATION, WorkKind.REFILL}
    with world.store.write() as tx:
        where = {"target": "web"} if at_target else {"ca": PRIMARY} if at_ca else {}
        work.schedule(tx, kind, pair.id, tx.now, **where)
    engine = Engine(world)
    [[row]] = engine.claim([kind], 1)
    removal.remove(world, pair, None)
    assert engine.advance([row]) == [Done()]


def test_a_wish_for_a_pair_that_is_gone_is_told(world: World) -> None:
    pair = a_whole_pair(world)
    removal.remove(world, pair, None)
    for wish in (
        lambda: promotion.failover(world, pair, Wish()),
        lambda: revocation.revoke_backup(world, pair, Reason.SUPERSEDED),
        lambda: chains.switch(world, pair, Role.PRIMARY, None),
        lambda: inventory.change(world, pair, Changes(targets=())),
    ):
        with pytest.raises(UsageProblem, match="was removed meanwhile"):
            wish()
    with world.store.read() as tx:
        assert work.of_pairs(tx, [pair.id], [WorkKind.ORDER]) == []

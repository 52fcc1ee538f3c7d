"""Leaks of more than may turn on one word: what serves nowhere is dealt with all the same."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from dualcert.lifecycle import compromise, reach
from dualcert.lifecycle.incidents import plan
from dualcert.lifecycle.leaked import Leak
from dualcert.lifecycle.world import World
from dualcert.model.work import WorkKind
from dualcert.store import Store, certificates, deployments, pairs, revocations, tables, work
from dualcert.testing.clock import FakeClock
from tests.store import masses
from tests.store.worlds import Setting, a_world

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

    result = compromise.contain(world, LEAK)

    assert (result.held, result.incident, result.ordered) == (None, None, MANY)
    assert blocked(world) == {2, *range(1, 2 * MANY, 2)}
    with world.store.read() as tx:
        assert all(revocations.wanted(tx, number) for number in range(1, MANY + 1))
        assert work.of_pairs(tx, range(1, MANY + 1), [WorkKind.ORDER]) != []
    left = list(reach.unfinished(world, result.extent))
    assert len([one for one in left if "it serves until another one is there" in one]) == MANY
    assert len([one for one in left if "its backup is not there yet" in one]) == MANY

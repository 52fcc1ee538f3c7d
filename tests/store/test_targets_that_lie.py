"""Targets that hold something else than what they were given, or still hold what they were to give up."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pytest

from dualcert.lifecycle import deployment, removal
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.world import Lazy, TargetBinding, World
from dualcert.model.deployment import How
from dualcert.model.pair import Pair
from dualcert.model.work import Done, Later, WorkKind
from dualcert.ports.deploy import Held, Version
from dualcert.store import Store, deployments, events, pairs, work
from dualcert.store import removal as ended
from dualcert.testing.clock import FakeClock
from dualcert.testing.fakes_deploy import FakeDeployer, FakeDeployerOptions
from tests.store.building import PRIMARY, a_pair, give_role
from tests.store.renewing import step
from tests.store.worlds import Setting, a_world, issued

OTHER = Held(b"another certificate's SHA-256....", Version(0, 0))


class SharedPlace(FakeDeployer):
    """Something else writes there, too: ``found`` is what is read back of some pairs, whatever was put there."""

    def __init__(self, options: FakeDeployerOptions) -> None:
        super().__init__(options)
        self.found: dict[str, Held | None] = {}

    def read_back(self, pairs: Sequence[str]) -> Mapping[str, Held | None]:
        return {**super().read_back(pairs), **{one: self.found[one] for one in pairs if one in self.found}}


@pytest.fixture
def place() -> SharedPlace:
    return SharedPlace(FakeDeployerOptions())


@pytest.fixture
def world(store: Store, clock: FakeClock, place: SharedPlace) -> World:
    target = TargetBinding("web", Lazy(lambda: place), ())
    return dataclasses.replace(a_world(store, clock, Setting()), targets={"web": target})


def to_deploy(world: World, how_many: int) -> list[Pair]:
    with world.store.write() as tx:
        made = [a_pair(tx) for _ in range(how_many)]
        for pair in made:
            give_role(tx, pair, issued(tx, world, pair, PRIMARY))
            work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")
    return made


def kinds(world: World, pair: Pair) -> list[str]:
    with world.store.read() as tx:
        return [one.kind for one in events.page(tx, pairs=[pair.id])]


def test_what_is_read_back_as_another_certificate_or_none_is_not_deployed_whatever_the_target_says(
    world: World, place: SharedPlace
) -> None:
    good, overwritten, emptied = to_deploy(world, 3)
    place.found = {overwritten.name: OTHER, emptied.name: None}
    [rows] = Engine(world).claim([WorkKind.DEPLOYMENT], 10)

    outcomes = dict(zip((row.pair_id for row in rows), Engine(world).advance(rows), strict=True))

    assert outcomes[good.id] == Done()
    for pair in (overwritten, emptied):
        failed = outcomes[pair.id]
        assert isinstance(failed, Later)
        assert failed.failed
        assert "does not hold what was just put there" in failed.reason
    assert [kinds(world, pair) for pair in (good, overwritten, emptied)] == [
        ["deployed"],
        ["failed"],
        ["failed"],
    ]


def test_that_a_target_came_to_hold_another_certificate_is_what_was_seen_last(
    world: World, place: SharedPlace
) -> None:
    [pair] = to_deploy(world, 1)
    step(world, WorkKind.DEPLOYMENT)
    assert step(world, WorkKind.VERIFICATION) == [Done()]
    with world.store.write() as tx:
        [seen] = deployments.observations(tx, [pair.id])
        work.schedule(tx, WorkKind.VERIFICATION, pair.id, tx.now, target="web")
    assert (seen.how, seen.problem) == (How.STORED, None)
    place.found = {pair.name: OTHER}
    [[row]] = Engine(world).claim([WorkKind.VERIFICATION], 1)

    looking = deployment.verify(world, row)
    outcome = deployment.verify(world, dataclasses.replace(row, looks=17))

    assert isinstance(looking, Later)
    assert not looking.failed
    assert isinstance(outcome, Later)
    assert outcome.failed
    with world.store.read() as tx:
        [seen] = deployments.observations(tx, [pair.id])
    assert seen.problem == "target web holds another certificate"
    assert kinds(world, pair) == ["deployed", "verified", "failed"]


def test_a_pair_has_not_left_a_target_that_holds_it_still(world: World, place: SharedPlace) -> None:
    [pair] = to_deploy(world, 1)
    step(world, WorkKind.DEPLOYMENT)
    place.found = {pair.name: OTHER}
    removal.remove(world, pair, None)

    [outcome] = step(world, WorkKind.REMOVAL)

    assert isinstance(outcome, Later)
    assert "target web still holds what was just removed there" in outcome.reason
    with world.store.write() as tx:
        assert ended.leaving(tx, pair.id) == ["web"]
        assert pairs.by_name(tx, pair.name) is None
        work.hurry(tx, pair.id, [WorkKind.REMOVAL])
    assert "left-target" not in kinds(world, pair)
    place.found = {}
    assert step(world, WorkKind.REMOVAL) == [Done()]
    with world.store.read() as tx:
        assert ended.leaving(tx, pair.id) == []

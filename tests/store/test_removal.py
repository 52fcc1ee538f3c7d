"""Ending a pair in the database: what goes, what stays, and that none of it goes through a whole table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from sqlalchemy import update

from dualcert.errors import UsageProblem
from dualcert.lifecycle import history, inventory, removal
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.inventory import Changes
from dualcert.lifecycle.world import Lazy, TargetBinding, World
from dualcert.model.deployment import How
from dualcert.model.events import EventKind
from dualcert.model.pair import KeyType, Pair
from dualcert.model.signal import Reason
from dualcert.model.work import Done, Later, Waiting, WorkKind
from dualcert.plugins.deploy.files import FilesDeployer, FilesOptions
from dualcert.ports.deploy import Placement, Version
from dualcert.store import (
    Store,
    Transaction,
    checks,
    claims,
    deployments,
    events,
    leases,
    orders,
    overview,
    pairs,
    revocations,
    tables,
    work,
)
from dualcert.store import removal as ended
from dualcert.testing.clock import FakeClock
from tests.store.building import BACKUP, PRIMARY, a_full_pair, a_pair, an_order, give_role
from tests.store.overhearing import overheard, scans
from tests.store.worlds import Setting, a_world, issued

ALL = tuple(WorkKind)


@pytest.fixture
def setting() -> Setting:
    return Setting()


@pytest.fixture
def world(store: Store, clock: FakeClock, setting: Setting) -> World:
    return a_world(store, clock, setting)


def a_served_pair(store: Store, world: World, setting: Setting, name: str = "example.com") -> Pair:
    """At the target `web`, as a deployment would have left it."""
    with store.write() as tx:
        pair = a_pair(tx, name)
        held = give_role(tx, pair, issued(tx, world, pair, PRIMARY))
        give_role(tx, pair, issued(tx, world, pair, BACKUP))
        deployments.arrived(tx, pair.id, "web", 0, held.id)
        deployments.observe(tx, pair.id, "web", held.sha256, How.STORED)
    place(setting, pair.name, Version(0, held.id), held.sha256)
    return pair


def place(setting: Setting, pair: str, version: Version, sha256: bytes) -> None:
    placement = Placement(pair, (pair,), version, "certificate", "", b"key", sha256)
    target = setting.targets["web"]
    target.versions.setdefault(pair, {})[version] = placement
    target.current[pair] = version


def take_steps(world: World) -> None:
    """Everything that is due, until nothing is; what only waits is left."""
    engine = Engine(world)
    while batches := engine.claim(ALL, 10):
        for rows in batches:
            for row, outcome in zip(rows, engine.advance(rows), strict=True):
                held = engine.settle(row, outcome)
                if isinstance(outcome, Waiting) and held is not None:
                    engine.release([held])
                elif not isinstance(outcome, Done):
                    raise AssertionError(outcome)


# --- ending a pair ---------------------------------------------------------------------------------------


def test_a_pair_that_is_ended_has_left_everything_but_its_history(
    store: Store, world: World, setting: Setting
) -> None:
    pair = a_served_pair(store, world, setting)

    former = removal.remove(world, pair, None)
    take_steps(world)

    assert setting.targets["web"].versions == {}
    with store.read() as tx:
        assert pairs.by_name(tx, "example.com") is None
        assert work.of_pairs(tx, [pair.id]) == []
        assert not deployments.replaced_there(tx, pair.id, "web", 9, 0)
        assert len(former.certificates) == 2
        assert pairs.names_of(tx, [pair.id]) == {pair.id: "example.com"}
    told = list(history.tell(world, history.of_name(world, "EXAMPLE.com")))
    assert [one["kind"] for one in told] == ["removed", "left-target"]


def test_the_number_of_a_pair_that_was_removed_is_not_given_again(store: Store, world: World) -> None:
    with store.write() as tx:
        pair = a_pair(tx, "example.com")
    removal.remove(world, pair, None)
    with store.write() as tx:
        assert a_pair(tx, "example.com").id > pair.id


def test_what_was_given_up_comes_to_nothing_when_it_arrives(store: Store, world: World) -> None:
    with store.write() as tx:
        pair = a_pair(tx, "example.com", targets=())
        an_order(tx, pair)
        work.schedule(tx, WorkKind.ORDER, pair.id, tx.now, ca=PRIMARY)
        work.schedule(tx, WorkKind.FALLBACK, pair.id, tx.now)
        [held, _] = sorted(
            claims.claim(tx, "another", kinds=ALL, limit=9), key=lambda row: row.kind is WorkKind.FALLBACK
        )
    removal.remove(world, pair, None)
    with store.write() as tx:
        assert work.of_pairs(tx, [pair.id]) == []
        with pytest.raises(Exception, match="held by another process"):
            work.hold(tx, held)
        assert orders.open_order(tx, pair.id, PRIMARY) is None


def test_a_deployment_that_comes_too_late_is_taken_away_again(
    store: Store, world: World, setting: Setting
) -> None:
    pair = a_served_pair(store, world, setting)
    with store.write() as tx:
        work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")
        [row] = claims.claim(tx, "slow", kinds=ALL, limit=1)
    target = setting.targets["web"]
    another, switched = a_world(store, world.clock, setting), list[bool]()

    def overtaken() -> None:
        # In the middle of the switch another process ends the pair, and takes it from the target.
        if not switched:
            switched.append(True)
            target.lock.release()
            removal.remove(another, pair, None)
            with store.write() as tx:
                tx.execute(update(tables.lease).values(until=0))
            take_steps(another)
            with store.read() as tx:
                assert work.of_pairs(tx, [pair.id]) == []
            target.lock.acquire()

    target.before_step = overtaken
    target.versions.clear()
    target.current.clear()
    assert Engine(world).advance([row]) == [Done()]
    assert target.versions != {}, "it was switched although the pair is gone"

    take_steps(world)

    assert target.versions == {}


def test_a_removal_leaves_alone_what_another_pair_of_that_name_has_put_there(
    store: Store, world: World, setting: Setting
) -> None:
    with store.write() as tx:
        gone = a_pair(tx, "example.com", targets=())
    removal.remove(world, gone, None)
    pair = a_served_pair(store, world, setting)
    with store.write() as tx:
        removal.came_late(tx, gone.id, "web")
        assert [row.kind for row in work.of_pairs(tx, [gone.id])] == [WorkKind.REMOVAL]

    take_steps(world)

    assert set(setting.targets["web"].versions) == {pair.name}


def test_nothing_is_revoked_before_the_last_target_is_left(
    store: Store, world: World, setting: Setting, clock: FakeClock
) -> None:
    pair = a_served_pair(store, world, setting)
    setting.targets["web"].activation_fails = True
    former = removal.remove(world, pair, Reason.CESSATION_OF_OPERATION)
    engine = Engine(world)
    with store.write() as tx:
        rows = claims.claim(tx, engine.owner, kinds=[WorkKind.REVOCATION], limit=2)
    assert len(rows) == 2

    outcomes = [engine.advance([row])[0] for row in rows]

    assert all(isinstance(outcome, Waiting) for outcome in outcomes)
    held = [engine.settle(row, outcome) for row, outcome in zip(rows, outcomes, strict=True)]
    engine.release([one for one in held if one is not None])
    with store.read() as tx:
        assert ended.leaving(tx, pair.id) == ["web"]
        assert {one.certificate_id for one in revocations.wanted(tx, pair.id)} == set(former.certificates)
        assert all(
            row.due_at and row.due_at > tx.now for row in work.of_pairs(tx, [pair.id], [WorkKind.REVOCATION])
        )

    setting.targets["web"].activation_fails = False
    with store.write() as tx:
        [row] = claims.claim(tx, engine.owner, kinds=[WorkKind.REMOVAL], limit=1)
    assert engine.advance([row]) == [Done()]
    with store.read() as tx:
        assert {row.due_at for row in work.of_pairs(tx, [pair.id], [WorkKind.REVOCATION])} == {tx.now}


def test_of_a_deployment_and_a_removal_of_one_process_one_has_the_target_at_a_time(
    store: Store, world: World, setting: Setting
) -> None:
    """And its lease lasts until the first of them is through."""
    gone = a_served_pair(store, world, setting, "gone.example.com")
    pair = a_served_pair(store, world, setting)
    removal.remove(world, gone, None)
    with store.write() as tx:
        work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")
    engine = Engine(world)
    [[taking_away]], [[putting]] = (
        engine.claim([kind], 1) for kind in (WorkKind.REMOVAL, WorkKind.DEPLOYMENT)
    )
    target = setting.targets["web"]
    target.versions.pop(pair.name)
    target.current.pop(pair.name)
    meanwhile: list[object] = []

    def remove() -> None:
        if not meanwhile:
            meanwhile.append(None)
            target.lock.release()
            meanwhile[:] = engine.advance([taking_away])
            with store.write() as tx:
                meanwhile.append(leases.take(tx, "target:web", "another"))
            target.lock.acquire()

    target.before_step = remove
    assert engine.advance([putting]) == [Done()]

    assert isinstance(meanwhile[0], Later)
    assert meanwhile[1] is False, "nobody else may switch it meanwhile"
    assert engine.advance([taking_away]) == [Done()]
    assert set(target.versions) == {pair.name}


def test_a_person_can_give_a_target_up(store: Store, world: World, setting: Setting) -> None:
    pair = a_served_pair(store, world, setting)
    former = removal.remove(world, pair, None)

    removal.give_up(world, former, "web")

    with store.read() as tx:
        assert work.of_pairs(tx, [pair.id]) == []
    with pytest.raises(UsageProblem):
        removal.give_up(world, former, "web")


# --- changing a pair -------------------------------------------------------------------------------------


def test_a_target_that_is_left_out_is_left_and_one_that_is_new_is_due(
    store: Store, world: World, setting: Setting
) -> None:
    pair = a_served_pair(store, world, setting)
    with store.write() as tx:
        work.schedule(tx, WorkKind.VERIFICATION, pair.id, tx.now, target="web")

    said = inventory.change(world, pair, Changes(targets=("mail",)))

    assert said == ["targets mail instead of web"]
    with store.read() as tx:
        due = {(row.kind, row.target) for row in work.of_pairs(tx, [pair.id])}
        assert due == {(WorkKind.REMOVAL, "web"), (WorkKind.DEPLOYMENT, "mail")}
        told = [(one.kind, one.target) for one in events.page(tx, pairs=[pair.id])]
        assert told == [(EventKind.GIVEN_TARGET.value, "mail"), (EventKind.CHANGED.value, None)]


def test_what_is_so_already_changes_nothing(store: Store, world: World, setting: Setting) -> None:
    pair = a_served_pair(store, world, setting)
    assert inventory.change(world, pair, Changes(targets=("web",), key_type=KeyType.EC_P256)) == []
    with store.read() as tx:
        assert work.of_pairs(tx, [pair.id]) == []
        assert events.page(tx, pairs=[pair.id]) == []


def test_a_target_given_back_is_not_left(store: Store, world: World, setting: Setting) -> None:
    pair = a_served_pair(store, world, setting)
    inventory.change(world, pair, Changes(targets=()))
    inventory.change(world, pair, Changes(targets=("web",)))
    with store.write() as tx:
        [row] = claims.claim(tx, "me", kinds=[WorkKind.REMOVAL], limit=1)

    assert removal.advance(world, row) == Done()

    assert setting.targets["web"].changes == 0
    with store.read() as tx:
        assert work.of_pairs(tx, [pair.id], [WorkKind.REMOVAL]) == []


# --- targets that serve from one place -------------------------------------------------------------------


class Overtaken(FilesDeployer):
    """``meanwhile`` happens before a removal touches anything."""

    meanwhile: ClassVar[list[Callable[[], None]]] = []

    def remove(self, pair: str) -> None:
        while self.meanwhile:
            self.meanwhile.pop()()
        super().remove(pair)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Which both targets of ``one_place`` serve from, called so in two ways."""
    (tmp_path / "live").mkdir()
    (tmp_path / "also-live").symlink_to("live")
    return tmp_path / "live"


@pytest.fixture
def one_place(world: World, folder: Path) -> World:
    def binding(name: str, directory: Path) -> TargetBinding:
        options = FilesOptions(directory=directory, reload=("true", name))
        return TargetBinding(name, Lazy(lambda: Overtaken(options)), ())

    targets = {"web": binding("web", folder), "mail": binding("mail", folder.with_name("also-live"))}
    return dataclasses.replace(world, targets=targets)


def deployed(world: World, *targets: str) -> Pair:
    with world.store.write() as tx:
        pair = a_pair(tx, "example.com", targets=targets)
        give_role(tx, pair, issued(tx, world, pair, PRIMARY))
        for target in targets:
            work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target=target)
    take_steps(world)
    return pair


def test_a_target_that_is_left_does_not_take_what_another_one_serves_from_the_same_place(
    store: Store, one_place: World, folder: Path
) -> None:
    pair = deployed(one_place, "web", "mail")

    inventory.change(one_place, pair, Changes(targets=("web",)))
    take_steps(one_place)

    assert (folder / pair.name / "privkey.pem").exists()
    with store.read() as tx:
        assert not deployments.replaced_there(tx, pair.id, "mail", 9, 0)
        assert deployments.replaced_there(tx, pair.id, "web", 9, 0)
        assert [one.target for one in deployments.observations(tx, [pair.id])] == ["web"]
        [left] = [one for one in events.page(tx, pairs=[pair.id]) if one.kind == EventKind.LEFT_TARGET]
        assert (left.target, left.cause) == ("mail", "its files stay for web: it is the same place")

    held = current(store, pair.name)
    removal.remove(one_place, held, None)
    take_steps(one_place)
    assert list(folder.rglob("*.pem")) == []


def test_a_pair_that_leaves_all_targets_of_one_place_leaves_nothing(
    store: Store, one_place: World, folder: Path
) -> None:
    pair = deployed(one_place, "web", "mail")
    inventory.change(one_place, pair, Changes(targets=()))
    take_steps(one_place)
    assert list(folder.rglob("*.pem")) == []


def test_what_another_target_was_given_in_the_same_place_meanwhile_comes_back(
    store: Store, one_place: World, folder: Path
) -> None:
    pair = deployed(one_place, "mail")
    inventory.change(one_place, pair, Changes(targets=()))

    def give() -> None:
        inventory.change(one_place, current(store, pair.name), Changes(targets=("web",)))
        engine = Engine(one_place)
        [[row]] = engine.claim([WorkKind.DEPLOYMENT], 1)
        assert engine.advance([row]) == [Done()]

    Overtaken.meanwhile.append(give)
    take_steps(one_place)

    assert Overtaken.meanwhile == []
    assert (folder / pair.name / "privkey.pem").exists()


def current(store: Store, name: str) -> Pair:
    with store.read() as tx:
        found = pairs.by_name(tx, name)
    assert found is not None
    return found


# --- how it is found -------------------------------------------------------------------------------------

Act = Callable[[Transaction, Pair], object]

ACTS: dict[str, Act] = {
    "end": lambda tx, pair: ended.end(tx, pair, pairs.state(tx, pair.id)),
    "formers": lambda tx, pair: ended.formers(tx, "example.com"),
    "former": lambda tx, pair: ended.former(tx, pair.id),
    "left": lambda tx, pair: ended.left(tx, pair.id, "web"),
    "leaving": lambda tx, pair: ended.leaving(tx, pair.id),
    "end steps": lambda tx, pair: ended.end_steps(tx, pair.id, "web", [WorkKind.DEPLOYMENT]),
    "set targets": lambda tx, pair: ended.set_targets(tx, pair.id, ["mail"]),
    "set policy": lambda tx, pair: ended.set_policy(tx, pair.id, dns="zone", key_type=KeyType.EC_P256),
    "values left": lambda tx, pair: ended.values_left(tx, pair.id),
    "names of a pair": lambda tx, pair: pairs.names_of(tx, [pair.id]),
    "page of lines": lambda tx, pair: overview.page(tx, "a", 10),
    "page of lines at a CA": lambda tx, pair: overview.page(tx, "a", 10, ca=PRIMARY, until=tx.at),
    "lines of pairs": lambda tx, pair: overview.of_pairs(tx, [pair.id, 2]),
    "pairs under": lambda tx, pair: overview.under(tx, "com.example", "a"),
    "sides": lambda tx, pair: overview.sides(tx, [pair.id]),
    "names": lambda tx, pair: overview.names(tx, [pair.id]),
    "seen": lambda tx, pair: overview.seen(tx, [pair.id]),
    "overdue": lambda tx, pair: checks.overdue(tx, tx.now - timedelta(hours=1), 5),
    "stuck": lambda tx, pair: checks.stuck(tx, 5),
    "renewals overdue": lambda tx, pair: checks.renewals_overdue(tx, tx.now, 5),
    "sample of keys": lambda tx, pair: checks.sample_keys(tx, "one", 3),
    "sample at a target": lambda tx, pair: checks.sample_at(tx, "web", 3),
}


@pytest.mark.plans
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
def test_no_statement_goes_through_a_whole_table(store: Store, act: Act) -> None:
    with store.write() as tx:
        pair, _, _ = a_full_pair(tx, "example.com", "www.example.com")
    with store.write() as tx:
        with overheard(tx) as said:
            act(tx, pair)
        assert said
        found = {statement: scans(tx, statement) for statement in said}
    assert {statement: lines for statement, lines in found.items() if lines} == {}

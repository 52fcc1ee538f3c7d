"""That targets were seen to serve what they should, whatever happens while somebody looks."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from dualcert.errors import DeployError
from dualcert.lifecycle import promotion
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.promotion import Wish
from dualcert.lifecycle.world import Lazy, TargetBinding, World
from dualcert.model.pair import Pair
from dualcert.model.work import ANOTHER_STEP, Done, Later, WorkKind
from dualcert.ports.deploy import Held, Placement, Version
from dualcert.store import Store, claims, compromise, deployments, events, pairs, work
from dualcert.testing.clock import FakeClock
from dualcert.testing.fakes_deploy import FakeDeployer, FakeDeployerOptions
from tests.store.building import BACKUP, PRIMARY, a_pair, give_role
from tests.store.renewing import step
from tests.store.worlds import Setting, a_world, issued
from tests.tlsserver import TlsServer, tls_servers

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


def failed_over_meanwhile(store: Store, world: World, setting: Setting) -> Pair:
    """A renewed certificate was seen, and while the one before it left the target, the pair was failed over."""
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
    return pair


def test_what_was_deployed_while_an_earlier_certificate_was_looked_for_is_looked_for_too(
    store: Store, world: World, setting: Setting
) -> None:
    pair = failed_over_meanwhile(store, world, setting)

    with store.read() as tx:
        assert pairs.state(tx, pair.id).epoch == 1
        assert set(deployments.verified_in(tx, pair.id, 1)) == {"web"}
        assert work.of_pairs(tx, [pair.id], AT_A_TARGET) == []


def test_a_key_that_came_while_an_earlier_certificate_was_looked_for_is_there_until_it_is_replaced(
    store: Store, world: World, setting: Setting
) -> None:
    pair = failed_over_meanwhile(store, world, setting)
    target = setting.targets["web"]

    with store.read() as tx:
        serving = pairs.state(tx, pair.id).serving
        assert serving is not None
        assert compromise.at_target(tx, "web", tx.now, None)[-1] == serving
    assert len(target.versions[pair.name]) == 1

    with store.write() as tx:
        renewed = give_role(tx, pair, issued(tx, world, pair, BACKUP))
        work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")
    take_steps(world)
    assert [one.sha256 for one in target.versions[pair.name].values()] == [renewed.sha256]


def test_what_was_seen_counts_although_the_replaced_key_cannot_leave(
    store: Store, world: World, setting: Setting, clock: FakeClock
) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        give_role(tx, pair, issued(tx, world, pair, PRIMARY))
        backup = give_role(tx, pair, issued(tx, world, pair, BACKUP))
        work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")
    take_steps(world)
    promotion.failover(world, pair, Wish(revoke=True))
    with store.write() as tx:
        [waiting] = claims.claim(tx, "a waiting one", kinds=[WorkKind.REVOCATION], limit=1)
        later = tx.now + timedelta(minutes=5)
        work.put_back(tx, waiting, due_at=later, reason="not seen yet", waiting_for=ANOTHER_STEP)
    assert step(world, WorkKind.DEPLOYMENT) == [Done()]
    target = setting.targets["web"]

    def refuse() -> None:
        raise DeployError("cannot purge .versions: permission denied", name=pair.name)

    target.before_step = refuse
    engine = Engine(world)
    for tries in (1, 2):
        [[row]] = engine.claim([WorkKind.VERIFICATION], 1)
        [failed] = engine.advance([row])
        assert isinstance(failed, Later)
        assert failed.failed
        assert "permission denied" in failed.reason
        engine.settle(row, failed)
        with store.read() as tx:
            assert set(deployments.verified_in(tx, pair.id, 1)) == {"web"}
            [seen] = deployments.observations(tx, [pair.id])
            assert (seen.sha256, seen.problem) == (backup.sha256, None)
            kinds = [one.kind for one in events.page(tx, pairs=[pair.id])]
            assert (kinds.count("verified"), kinds.count("failed")) == (2, 1)
            [revocation] = work.of_pairs(tx, [pair.id], [WorkKind.REVOCATION])
            assert revocation.due_at is not None
            assert revocation.due_at < later, f"woken after {tries} tries"
            assert deployments.replaced_there(tx, pair.id, "web", 1, backup.id)
        clock.advance(timedelta(hours=1))

    target.before_step = lambda: None
    assert step(world, WorkKind.VERIFICATION) == [Done()]
    assert [one.sha256 for one in target.versions[pair.name].values()] == [backup.sha256]
    with store.read() as tx:
        assert not deployments.replaced_there(tx, pair.id, "web", 1, backup.id)


def test_a_key_at_a_target_that_did_not_reload_is_known_to_be_there(
    store: Store, world: World, setting: Setting
) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        held = give_role(tx, pair, issued(tx, world, pair, PRIMARY))
        work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")
    target = setting.targets["web"]
    target.activation_fails = True

    [failed] = step(world, WorkKind.DEPLOYMENT)

    assert isinstance(failed, Later)
    with store.read() as tx:
        assert compromise.at_target(tx, "web", None, None) == [held.id]
        assert deployments.was_deployed(tx, pair.id, held.id)
        assert deployments.verified_in(tx, pair.id, 0) == {}
        assert [one.kind for one in events.page(tx, pairs=[pair.id])].count("deployed") == 0
    target.activation_fails = False
    with store.write() as tx:
        work.hurry(tx, pair.id, [WorkKind.DEPLOYMENT])
    take_steps(world)
    with store.read() as tx:
        assert set(deployments.verified_in(tx, pair.id, 0)) == {"web"}
        assert [one.kind for one in events.page(tx, pairs=[pair.id])].count("deployed") == 1


def test_a_certificate_that_comes_back_to_a_target_before_its_successor_was_there_is_told_of(
    store: Store, world: World, setting: Setting, clock: FakeClock
) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        first = give_role(tx, pair, issued(tx, world, pair, PRIMARY))
        give_role(tx, pair, issued(tx, world, pair, BACKUP))
        work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")
    take_steps(world)
    setting.targets["web"].fails_for.add(pair.name)
    clock.advance(timedelta(hours=1))
    promotion.failover(world, pair, Wish())
    [failed] = step(world, WorkKind.DEPLOYMENT)
    assert isinstance(failed, Later)
    setting.targets["web"].fails_for.clear()

    promotion.failover(world, pair, Wish(to=PRIMARY))
    take_steps(world)

    with store.write() as tx:
        work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")
    assert step(world, WorkKind.DEPLOYMENT) == [Done()]
    with store.read() as tx:
        told = [
            one for one in events.page(tx, pairs=[pair.id]) if one.kind in {"deployed", "verified", "failed"}
        ]
    assert [one.kind for one in told] == ["deployed", "verified", "failed", "deployed", "verified"]
    assert {one.certificate for one in told if one.kind != "failed"} == {first.id}


def test_a_key_that_came_to_a_target_too_late_is_known_to_have_been_there(
    store: Store, world: World, setting: Setting
) -> None:
    with store.write() as tx:
        pair = a_pair(tx)
        late = give_role(tx, pair, issued(tx, world, pair, PRIMARY))
        give_role(tx, pair, issued(tx, world, pair, BACKUP))
        work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")
    with store.write() as tx:
        [row] = claims.claim(tx, "slow", kinds=AT_A_TARGET, limit=1)

    def lose() -> None:
        setting.targets["web"].before_step = lambda: None
        with store.write() as tx:
            work.release(tx, [row])
        promotion.failover(world, pair, Wish())
        with store.write() as tx:
            claims.claim(tx, "fast", kinds=AT_A_TARGET, limit=1)

    setting.targets["web"].before_step = lose
    Engine(world).advance([row])

    with store.read() as tx:
        assert late.id in compromise.at_target(tx, "web", None, None)


def test_a_key_is_known_to_be_at_a_target_before_it_goes_there(
    store: Store, world: World, setting: Setting
) -> None:
    """Whoever kills the process while a server reloads must not have it forgotten."""
    with store.write() as tx:
        pair = a_pair(tx)
        held = give_role(tx, pair, issued(tx, world, pair, PRIMARY))
        work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")

    def die() -> None:
        raise KeyboardInterrupt

    setting.targets["web"].before_step = die
    with pytest.raises(KeyboardInterrupt):
        step(world, WorkKind.DEPLOYMENT)

    with store.read() as tx:
        assert compromise.at_target(tx, "web", None, None) == [held.id]
        assert deployments.was_deployed(tx, pair.id, held.id)


def test_what_cannot_be_read_back_of_one_pair_is_that_pairs_trouble_alone(
    store: Store, world: World, setting: Setting
) -> None:
    with store.write() as tx:
        made = [a_pair(tx) for _ in range(3)]
        for pair in made:
            give_role(tx, pair, issued(tx, world, pair, PRIMARY))
            work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")
    setting.targets["web"].unreadable.add(made[1].name)
    [rows] = Engine(world).claim([WorkKind.DEPLOYMENT], 10)
    by_pair = dict(zip((row.pair_id for row in rows), Engine(world).advance(rows), strict=True))

    assert [type(by_pair[pair.id]) for pair in made] == [Done, Later, Done]
    failed = by_pair[made[1].id]
    assert isinstance(failed, Later)
    assert made[1].name in failed.reason


class Mute(FakeDeployer):
    """What it holds cannot be read back of any pair. ``asked``: of how many each time."""

    def __init__(self, options: FakeDeployerOptions, hang: Callable[[], object]) -> None:
        super().__init__(options)
        self.hang = hang
        self.asked: list[int] = []

    def read_back(self, pairs: Sequence[str]) -> Mapping[str, Held | None]:
        self.asked.append(len(pairs))
        self.hang()
        raise DeployError("the program did not end and was killed", remedy="See why it hangs.")


@pytest.mark.parametrize(("seconds", "most"), [(0, 12), (60, 1)])
def test_a_target_that_answers_no_look_is_not_asked_about_each_pair(
    store: Store, world: World, setting: Setting, clock: FakeClock, seconds: float, most: int
) -> None:
    """It would be held meanwhile, a time limit for each."""
    mute = Mute(FakeDeployerOptions(target=setting.targets["web"]), lambda: clock.advance(seconds))
    world = dataclasses.replace(world, targets={"web": TargetBinding("web", Lazy(lambda: mute), ())})
    with store.write() as tx:
        for _ in range(100):
            pair = a_pair(tx)
            give_role(tx, pair, issued(tx, world, pair, PRIMARY))
            work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")
    [rows] = Engine(world).claim([WorkKind.DEPLOYMENT], 10)

    outcomes = Engine(world).advance(rows)

    assert len(rows) == len(outcomes) == 100
    assert all(isinstance(one, Later) and one.failed and "was killed" in one.reason for one in outcomes)
    assert 1 <= len(mute.asked) <= most


def test_every_address_of_an_endpoint_is_to_serve_what_it_should(
    store: Store, world: World, setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, addresses = setting.targets["web"], ("127.0.0.1", "127.0.0.2")
    with tls_servers(tmp_path, *addresses) as servers:
        port = servers[0].port
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        binding = dataclasses.replace(world.target("web"), endpoints=(("www.cluster.example", port),))
        world = dataclasses.replace(world, targets={"web": binding})
        with store.write() as tx:
            pair = a_pair(tx)
            give_role(tx, pair, issued(tx, world, pair, PRIMARY))
            give_role(tx, pair, issued(tx, world, pair, BACKUP))
            work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")

        def present(*some: TlsServer) -> None:
            placement = target.serving(pair.name)
            assert placement is not None
            for server in some:
                server.present(placement)

        step(world, WorkKind.DEPLOYMENT)
        present(*servers)
        assert step(world, WorkKind.VERIFICATION) == [Done()]
        promotion.failover(world, pair, Wish())
        step(world, WorkKind.DEPLOYMENT)
        present(servers[0])
        engine = Engine(world)
        [[row]] = engine.claim([WorkKind.VERIFICATION], 1)
        [outcome] = engine.advance([row])
        assert isinstance(outcome, Later)
        assert f"www.cluster.example:{port} (127.0.0.2) serves another certificate" in outcome.reason
        with store.read() as tx:
            assert deployments.verified_in(tx, pair.id, 1) == {}

        present(servers[1])
        assert engine.advance([row]) == [Done()]
    with store.read() as tx:
        assert set(deployments.verified_in(tx, pair.id, 1)) == {"web"}

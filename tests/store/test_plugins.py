"""Plugins that do what their port does not allow: it is their own table's trouble, and holds up nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from dualcert.errors import DeployError, Refused
from dualcert.lifecycle import promotion, removal
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.promotion import Wish
from dualcert.lifecycle.world import Lazy, TargetBinding, World
from dualcert.model.certificate import Certificate
from dualcert.model.pair import Pair
from dualcert.model.work import Done, Later, Outcome, WorkKind
from dualcert.ports.deploy import Held, Placement, Version
from dualcert.ports.keys import KeyContext
from dualcert.store import Store, deployments, work
from dualcert.testing.clock import FakeClock
from dualcert.testing.fakes_deploy import FakeDeployer, FakeDeployerOptions
from dualcert.testing.fakes_keys import FakeKeyProtector, FakeKeyProtectorOptions
from tests.store.building import BACKUP, PRIMARY, a_pair, give_role
from tests.store.worlds import Setting, a_world, issued

Odd = Callable[[Sequence[str]], Any]


@pytest.fixture
def setting() -> Setting:
    return Setting()


@pytest.fixture
def world(store: Store, clock: FakeClock, setting: Setting) -> World:
    return a_world(store, clock, setting)


class OddDeployer(FakeDeployer):
    """Asked with the names of pairs, ``odd`` may raise, or give another answer than the real one."""

    def __init__(self, setting: Setting, method: str, odd: Odd) -> None:
        super().__init__(FakeDeployerOptions(target=setting.targets["web"]))
        self._method, self._odd = method, odd
        self.calls = 0

    def _answer(self, method: str, pairs: Sequence[str], real: Callable[[], Any]) -> Any:
        self.calls += method == self._method
        odd = self._odd(pairs) if method == self._method else None
        return real() if odd is None else odd

    def deploy(self, placements: Sequence[Placement]) -> Mapping[str, DeployError | None]:
        names = [one.pair for one in placements]
        answer: Mapping[str, DeployError | None] = self._answer(
            "deploy", names, lambda: FakeDeployer.deploy(self, placements)
        )
        return answer

    def read_back(self, pairs: Sequence[str]) -> Mapping[str, Held | None]:
        answer: Mapping[str, Held | None] = self._answer(
            "read_back", pairs, lambda: FakeDeployer.read_back(self, pairs)
        )
        return answer

    def purge(self, pair: str, keep: Version) -> None:
        self._answer("purge", [pair], lambda: FakeDeployer.purge(self, pair, keep))

    def remove(self, pair: str) -> None:
        self._answer("remove", [pair], lambda: FakeDeployer.remove(self, pair))


def with_target(world: World, deployer: FakeDeployer) -> World:
    binding = TargetBinding("web", Lazy(lambda: deployer), ())
    return dataclasses.replace(world, targets={**world.targets, "web": binding})


def made_due(world: World, count: int) -> list[tuple[Pair, Certificate]]:
    made = []
    with world.store.write() as tx:
        for _ in range(count):
            pair = a_pair(tx, targets=("web",))
            made.append((pair, give_role(tx, pair, issued(tx, world, pair, PRIMARY))))
            work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")
    return made


def deployed(world: World, count: int) -> list[Outcome]:
    """What becomes of all that is due at the target, in the order of the pairs."""
    [rows] = Engine(world).claim([WorkKind.DEPLOYMENT], count)
    outcomes = Engine(world).advance(rows)
    by_pair = {row.pair_id: outcome for row, outcome in zip(rows, outcomes, strict=True)}
    return [by_pair[number] for number in sorted(by_pair)]


def demand_told(outcome: Outcome, *words: str) -> None:
    assert isinstance(outcome, Later)
    assert outcome.failed
    for word in ("the plugin of [target.web] failed unforeseen", *words):
        assert word in outcome.reason


class Strange(BaseException):
    """Of no kind that code outside of an interpreter should be of."""


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit, StopIteration, Strange])
@pytest.mark.parametrize("method", ["deploy", "read_back"])
def test_a_pair_that_a_deployer_stumbles_over_keeps_no_other_from_its_certificate(
    world: World, setting: Setting, method: str, kind: type[BaseException]
) -> None:
    made = made_due(world, 9)
    bad = made[4][0].name

    def stumble(pairs: Sequence[str]) -> None:
        if bad in pairs:
            raise kind("what is this?")

    deployer = OddDeployer(setting, method, stumble)
    outcomes = deployed(with_target(world, deployer), 9)

    demand_told(outcomes.pop(4), f"{kind.__name__}: what is this?")
    assert outcomes == [Done()] * 8
    in_service = setting.targets["web"].in_service
    for pair, serving in made:
        if pair.name != bad:
            assert in_service[pair.name] == serving.sha256


def test_a_deployer_that_does_nothing_right_is_not_asked_for_each_pair(
    world: World, setting: Setting
) -> None:
    def stumble(_pairs: Sequence[str]) -> None:
        raise RuntimeError("never")

    made_due(world, 64)
    deployer = OddDeployer(setting, "deploy", stumble)

    for outcome in deployed(with_target(world, deployer), 64):
        demand_told(outcome, "RuntimeError: never")
    assert deployer.calls < 15


def test_a_deployer_that_says_that_nothing_can_be_done_is_believed(world: World, setting: Setting) -> None:
    def refuse(_pairs: Sequence[str]) -> None:
        raise DeployError("nobody can log in there")

    made_due(world, 8)
    deployer = OddDeployer(setting, "deploy", refuse)

    for outcome in deployed(with_target(world, deployer), 8):
        assert isinstance(outcome, Later)
        assert outcome.reason == "nobody can log in there"
    assert deployer.calls == 1


class Bare(DeployError):
    def __init__(self) -> None:
        """Its base is not asked."""


class Mute(DeployError):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Bare(), "Bare"),
        (Mute("it is down"), "Mute: (Mute without a text)"),
        (DeployError("it is busy", retry_after=30), "DeployError: it is busy"),  # type: ignore[arg-type]
    ],
)
def test_an_error_of_the_right_kind_that_is_none_is_told_as_the_plugins(
    world: World, setting: Setting, error: DeployError, words: str
) -> None:
    def fail(_pairs: Sequence[str]) -> None:
        raise error

    def give(pairs: Sequence[str]) -> Mapping[str, DeployError]:
        return dict.fromkeys(pairs, error)

    for odd in (fail, give):
        made_due(world, 1)
        [outcome] = deployed(with_target(world, OddDeployer(setting, "deploy", odd)), 1)
        demand_told(outcome, words)


@pytest.mark.parametrize(
    ("method", "answer", "words"),
    [
        ("deploy", lambda _pairs: 7, "it gave back a int"),
        ("deploy", lambda pairs: dict.fromkeys(pairs, "fine"), "a result is a str"),
        ("deploy", lambda pairs: dict.fromkeys(pairs, ValueError("no")), "ValueError: no"),
        ("read_back", lambda _pairs: ["fine"], "it gave back a list"),
        ("read_back", lambda pairs: dict.fromkeys(pairs, 5), "AttributeError"),
        ("read_back", lambda pairs: dict.fromkeys(pairs, Held("ab", None)), "fingerprint is a str"),  # type: ignore[arg-type]
    ],
)
def test_an_answer_that_is_none_is_told_as_the_plugins(
    world: World, setting: Setting, method: str, answer: Odd, words: str
) -> None:
    made_due(world, 2)

    for outcome in deployed(with_target(world, OddDeployer(setting, method, answer)), 2):
        demand_told(outcome, words)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (WorkKind.VERIFICATION, "read_back"),
        (WorkKind.VERIFICATION, "purge"),
        (WorkKind.REMOVAL, "remove"),
        (WorkKind.REMOVAL, "read_back"),
    ],
)
def test_what_a_deployer_raises_later_is_told_as_the_plugins_too(
    world: World, setting: Setting, kind: WorkKind, method: str
) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx, targets=("web",))
        before = issued(tx, world, pair, PRIMARY)
        give_role(tx, pair, issued(tx, world, pair, PRIMARY))
        # A replaced key, which is to leave the target.
        deployments.arrived(tx, pair.id, "web", 0, before.id)
        work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")
    assert deployed(world, 1) == [Done()]
    if kind is WorkKind.REMOVAL:
        removal.remove(world, pair, None)

    def stumble(_pairs: Sequence[str]) -> None:
        raise RuntimeError("what is this?")

    world = with_target(world, OddDeployer(setting, method, stumble))
    [[row]] = Engine(world).claim([kind], 10)
    [outcome] = Engine(world).advance([row])

    demand_told(outcome, "RuntimeError: what is this?")


# --- protectors ------------------------------------------------------------------------------------------


class OddProtector(FakeKeyProtector):
    """Asked with the public key's hash, ``odd`` may raise, or give another answer than the real one."""

    def __init__(self, domain: str, odd: Callable[[str], Any]) -> None:
        super().__init__(domain, FakeKeyProtectorOptions())
        self._odd = odd

    def unwrap(self, wrapped: bytes, context: KeyContext) -> bytes:
        answer: bytes | None = self._odd(context.subject)
        return super().unwrap(wrapped, context) if answer is None else answer


def with_protector(world: World, domain: str, odd: Callable[[str], Any]) -> World:
    made = OddProtector(domain, odd)
    return dataclasses.replace(world, protectors={**world.protectors, domain: Lazy(lambda: made)})


def stumble_over_a_key(_subject: str) -> None:
    raise TypeError("can't concat str to bytes")


def exit_over_a_key(_subject: str) -> None:
    raise SystemExit(0)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (stumble_over_a_key, "failed unforeseen: TypeError"),
        (exit_over_a_key, "failed unforeseen: SystemExit"),
        (lambda _: "text", "opened a key into a str, not into bytes"),
        (lambda _: b"no key", "its private key opened, but is no private key"),
    ],
)
def test_a_key_that_a_protector_stumbles_over_keeps_no_other_pair_from_the_target(
    world: World, setting: Setting, odd: Callable[[str], Any], words: str
) -> None:
    made = made_due(world, 3)
    bad = made[1][1].spki.hex()
    world = with_protector(world, "one", lambda subject: odd(subject) if subject == bad else None)

    outcomes = deployed(world, 3)

    failed = outcomes.pop(1)
    assert isinstance(failed, Later)
    assert failed.failed
    assert words in failed.reason
    assert outcomes == [Done()] * 2
    assert set(setting.targets["web"].in_service) == {made[0][0].name, made[2][0].name}


@pytest.mark.parametrize("odd", [stumble_over_a_key, exit_over_a_key])
def test_a_key_that_a_protector_stumbles_over_is_no_reason_to_end_a_failover_untold(
    world: World, odd: Callable[[str], None]
) -> None:
    with world.store.write() as tx:
        pair = a_pair(tx)
        for ca in (PRIMARY, BACKUP):
            give_role(tx, pair, issued(tx, world, pair, ca))
    world = with_protector(world, "two", odd)

    with pytest.raises(Refused, match=r"the plugin of \[keys.two\] failed unforeseen: (Type|System)E"):
        promotion.failover(world, pair, Wish())

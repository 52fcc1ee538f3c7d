"""The doubles keep the promises of the real ones."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest

from dualcert.errors import DeployError, KeyProblem
from dualcert.ports.deploy import Placement
from dualcert.ports.keys import PURPOSES, KeyContext
from dualcert.store.signed_heads import SIGNING
from dualcert.testing.apart import End
from dualcert.testing.deploy import DeployerConformance
from dualcert.testing.fakes_deploy import FakeDeployer, FakeDeployerOptions, FakeTarget
from dualcert.testing.fakes_keys import FakeKeyProtector, FakeKeyProtectorOptions
from dualcert.testing.keys import KeyProtectorConformance
from dualcert.testing.steps import Steps


class Killed(BaseException):
    pass


class Beside:
    """A deployment in a thread, which steps through the target's hook."""

    def __init__(self, target: FakeTarget, placements: Sequence[Placement], kill: int, halt: int) -> None:
        self.target = target
        self.ends: list[End] = []
        self.news = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.results: Mapping[str, DeployError | None] = {}
        self.steps = Steps(kill or halt, self.die if kill else self.halt)
        self.thread = threading.Thread(target=self.run, args=(placements,))
        target.before_step = self.step
        self.thread.start()

    def step(self) -> None:
        if threading.current_thread() is self.thread:
            self.steps.take()

    def run(self, placements: Sequence[Placement]) -> None:
        try:
            self.results = FakeDeployer(FakeDeployerOptions(target=self.target)).deploy(placements)
            self.tell("done")
        except Killed:
            self.tell("killed")

    def tell(self, end: End) -> None:
        self.ends.append(end)
        self.news.release()

    def die(self) -> None:
        raise Killed

    def halt(self) -> None:
        self.tell("halted")
        self.go_on.wait()

    def wait(self) -> End:
        self.news.acquire()
        return self.ends.pop()

    def resume(self) -> None:
        self.go_on.set()


class TestFakeDeployer(DeployerConformance):
    plugin = FakeDeployer

    @pytest.fixture(autouse=True)
    def _target(self) -> None:
        self.target = FakeTarget()

    def options(self) -> FakeDeployerOptions:
        return FakeDeployerOptions(target=self.target)

    def deployer(self) -> FakeDeployer:
        return FakeDeployer(self.options())

    def start(self, placements: Sequence[Placement], *, kill_before: int = 0, halt_before: int = 0) -> Beside:
        return Beside(self.target, placements, kill_before, halt_before)

    def activations(self) -> int:
        return self.target.activations

    def in_service(self, pair: str) -> bytes | None:
        return self.target.in_service.get(pair)

    def look(self, pair: str) -> tuple[bytes, bytes] | None:
        with self.target.lock:
            serving = self.target.serving(pair)
        return None if serving is None else (serving.certificate.encode(), serving.private_key)

    def state(self) -> object:
        return self.target.changes, copy.deepcopy(self.target.versions), self.target.current.copy()

    def keys(self) -> Mapping[bytes, int]:
        return {
            one.private_key: 0o600 for versions in self.target.versions.values() for one in versions.values()
        }

    @contextmanager
    def failing(self, wanted: Placement) -> Iterator[Placement]:
        self.target.fails_for.add(wanted.pair)
        yield wanted
        self.target.fails_for.clear()

    @contextmanager
    def unreadable(self, pair: str) -> Iterator[None]:
        self.target.unreadable.add(pair)
        yield
        self.target.unreadable.clear()

    @contextmanager
    def activation_failing(self) -> Iterator[None]:
        self.target.activation_fails = True
        yield
        self.target.activation_fails = False


class KnowsCertificates(FakeDeployer):
    """Leaves alone whatever certificate it finds, under whichever version."""

    def _switch(self, wanted: Placement) -> None:
        serving = self.target.serving(wanted.pair)
        if serving is None or serving.sha256 != wanted.sha256 or serving.version > wanted.version:
            super()._switch(wanted)


class KnowsVersions(FakeDeployer):
    """Leaves alone whatever it finds under the same version."""

    def _switch(self, wanted: Placement) -> None:
        if self.target.current.get(wanted.pair) != wanted.version:
            super()._switch(wanted)


@pytest.mark.parametrize(
    ("wrong", "case"),
    [
        (KnowsCertificates, "a_certificate_that_comes_back_in_a_newer_epoch_is_newer_than_what_replaced_it"),
        (KnowsVersions, "another_chain_of_the_same_certificate_takes_the_place_of_the_old"),
    ],
)
def test_the_suite_notices(wrong: type[FakeDeployer], case: str) -> None:
    class Suite(TestFakeDeployer):
        target = FakeTarget()

        def deployer(self) -> FakeDeployer:
            return wrong(self.options())

    with pytest.raises(AssertionError):
        getattr(Suite(), f"test_{case}")()


class TestFakeKeyProtector(KeyProtectorConformance):
    plugin = FakeKeyProtector

    def protector(self, domain: str, kek: int) -> FakeKeyProtector:
        return FakeKeyProtector(domain, FakeKeyProtectorOptions(word=str(kek)))

    def kek(self, kek: int) -> None:
        return None


# --- the purposes of keys --------------------------------------------------------------------------------


class Choosy(FakeKeyProtector):
    """Takes it that there are two purposes only."""

    def wrap(self, secret: bytes, context: KeyContext) -> bytes:
        if context.purpose not in {"certificate", "account"}:
            raise KeyProblem(f"a key for {context.purpose}")
        return super().wrap(secret, context)


class Careless(FakeKeyProtector):
    """Takes what heads are signed with for a certificate's key."""

    def unwrap(self, wrapped: bytes, context: KeyContext) -> bytes:
        return super().unwrap(wrapped, replace(context, purpose="certificate"))


def suite_of(plugin: type[FakeKeyProtector]) -> KeyProtectorConformance:
    class Suite(KeyProtectorConformance):
        def protector(self, domain: str, kek: int) -> FakeKeyProtector:
            return plugin(domain, FakeKeyProtectorOptions(word=str(kek)))

        def kek(self, kek: int) -> bytes | None:
            return None

    return Suite()


def test_the_port_names_every_purpose_that_a_key_is_wrapped_for() -> None:
    assert {"certificate", "account", SIGNING} == set(PURPOSES)


def test_the_suite_finds_a_protector_that_does_not_take_every_purpose() -> None:
    suite = suite_of(Choosy)
    suite.test_a_key_of_any_purpose_opens_as_one("account")
    with pytest.raises(KeyProblem):
        suite.test_a_key_of_any_purpose_opens_as_one(SIGNING)


def test_the_suite_finds_a_protector_that_opens_one_for_another() -> None:
    with pytest.raises(pytest.fail.Exception):
        suite_of(Careless).test_a_key_of_one_purpose_does_not_open_as_one_of_another("certificate", SIGNING)

"""A target in memory, for tests of what drives deployers. It passes the conformance suite of real ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from dualcert.errors import DeployError, OlderEpoch
from dualcert.ports.deploy import Held, Placement, Version
from dualcert.ports.options import Options, option


def _no_step() -> None:
    return None


@dataclass
class FakeTarget:
    """What outlives a ``FakeDeployer``, and the switches by which a test makes it fail.

    ``before_step`` is called before each change; what it raises ends the deployment there, as a kill would.
    """

    versions: dict[str, dict[Version, Placement]] = field(default_factory=dict)
    current: dict[str, Version] = field(default_factory=dict)
    in_service: dict[str, bytes] = field(default_factory=dict)
    owed: object = None
    activations: int = 0
    changes: int = 0
    fails_for: set[str] = field(default_factory=set)
    unreadable: set[str] = field(default_factory=set)
    activation_fails: bool = False
    before_step: Callable[[], None] = _no_step
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    activation_lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def step(self) -> None:
        self.before_step()
        self.changes += 1

    def serving(self, pair: str) -> Placement | None:
        version = self.current.get(pair)
        return None if version is None else self.versions[pair][version]


@dataclass(frozen=True, kw_only=True)
class FakeDeployerOptions(Options):
    summary: ClassVar[str] = "a target in memory, for tests"

    target: FakeTarget = option(help="the target in memory", default_factory=FakeTarget)


class FakeDeployer:
    options_class: ClassVar[type[Options]] = FakeDeployerOptions

    def __init__(self, options: FakeDeployerOptions) -> None:
        self.target = options.target

    def deploy(self, placements: Sequence[Placement]) -> Mapping[str, DeployError | None]:
        target = self.target
        results: dict[str, DeployError | None] = {}
        with target.lock:
            for wanted in placements:
                try:
                    self._switch(wanted)
                    results[wanted.pair] = None
                except DeployError as error:
                    results[wanted.pair] = error
            owed = target.owed is not None
        if owed and None in results.values():
            try:
                self._activate()
            except DeployError as error:
                for pair in [pair for pair, failed in results.items() if failed is None]:
                    results[pair] = DeployError(error.reason, remedy=error.remedy, name=pair)
        return results

    def read_back(self, pairs: Sequence[str]) -> Mapping[str, Held | None]:
        self._readable(pairs)
        with self.target.lock:
            serving = {pair: self.target.serving(pair) for pair in pairs}
        return {pair: None if one is None else Held(one.sha256, one.version) for pair, one in serving.items()}

    def purge(self, pair: str, keep: Version) -> None:
        with self.target.lock:
            versions = self.target.versions.get(pair, {})
            for version in [one for one in versions if one < keep and one != self.target.current.get(pair)]:
                self.target.step()
                del versions[version]

    def remove(self, pair: str) -> None:
        with self.target.lock:
            if pair in self.target.versions:
                self.target.owed = object()
                self.target.step()
                self.target.current.pop(pair, None)
                del self.target.versions[pair]
            owed = self.target.owed is not None
        if owed:
            self._activate()

    def check(self) -> None:
        if self.target.activation_fails:
            raise DeployError("the fake activation was told to fail", remedy="tell it to succeed")

    def _readable(self, pairs: Sequence[str]) -> None:
        for pair in self.target.unreadable.intersection(pairs):
            raise DeployError("what lies there cannot be read", remedy="let it be read", name=pair)

    def _switch(self, wanted: Placement) -> None:
        target, pair = self.target, wanted.pair
        self._readable([pair])
        held = target.current.get(pair)
        if held is not None and held > wanted.version:
            raise OlderEpoch(f"the target holds {held} already", remedy="nothing to do", name=pair)
        versions = target.versions.get(pair, {})
        for leftover in [one for one in versions if one > wanted.version]:
            target.step()
            del versions[leftover]
        if target.serving(pair) == wanted:
            return
        target.step()
        if pair in target.fails_for:
            raise DeployError("the fake target was told to fail", remedy="tell it to succeed", name=pair)
        target.versions.setdefault(pair, {})[wanted.version] = wanted
        target.step()
        target.owed = object()
        target.step()
        target.current[pair] = wanted.version

    def _activate(self) -> None:
        target = self.target
        with target.activation_lock:
            with target.lock:
                owed = target.owed
            if owed is None:
                return
            target.step()
            target.activations += 1
            if target.activation_fails:
                raise DeployError("the fake activation was told to fail", remedy="tell it to succeed")
            with target.lock:
                serving = {pair: target.serving(pair) for pair in target.current}
                target.in_service = {pair: one.sha256 for pair, one in serving.items() if one is not None}
                target.step()
                if target.owed is owed:
                    target.owed = None

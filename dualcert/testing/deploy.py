"""The conformance suite of deployers (``dualcert.ports.deploy.Deployer``)."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count
from typing import Any, ClassVar

import pytest

from dualcert.errors import DeployError, OlderEpoch
from dualcert.ports.deploy import Deployer, Held, Placement, Version, check_of
from dualcert.testing.apart import Call
from dualcert.testing.asides import all_of, umask
from dualcert.testing.placements import belong_together, fingerprint, placement

_PATIENCE = 60.0  # seconds
_HEAD_START = 0.1  # seconds: long for a deployment that nobody holds up, short for a test
_SWITCHES = 40


class DeployerConformance(ABC):
    """What every deployer must do. A plugin passes it by a subclass that says how its target is looked at.

    Each test has a target of its own, empty at first, made by a fixture of the subclass. All methods below that are
    not tests must be given; no test can be replaced or left out. The target under test has an activation (a reload,
    a restart): where that is optional, test with it.
    """

    plugin: ClassVar[type[Any]]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        replaced = sorted(
            name for name in vars(cls) if name.startswith("test_") and hasattr(DeployerConformance, name)
        )
        if replaced:
            raise TypeError(f"a conformance test cannot be replaced: {', '.join(replaced)}")

    # --- what the subclass gives --------------------------------------------------------------------------

    @abstractmethod
    def deployer(self) -> Deployer:
        """A new deployer for the test's target, as after a restart of the program."""

    @abstractmethod
    def options(self) -> Any:
        """The options that ``deployer`` is built with."""

    @abstractmethod
    def start(self, placements: Sequence[Placement], *, kill_before: int = 0, halt_before: int = 0) -> Call:
        """Deploy beside the test, in another process where the target can be shared by processes.

        It is killed, or halted, before the step of that number: each change to the target is one (from 1; 0: none).
        """

    @abstractmethod
    def activations(self) -> int:
        """How many activations have begun."""

    @abstractmethod
    def in_service(self, pair: str) -> bytes | None:
        """The fingerprint that a client is shown: what stood there at the last activation that succeeded."""

    @abstractmethod
    def look(self, pair: str) -> tuple[bytes, bytes] | None:
        """Certificate and key (PEM), read at one time as a server reads them."""

    @abstractmethod
    def state(self) -> object:
        """Everything that the target holds, with times of change: equal if and only if nothing was written between."""

    @abstractmethod
    def keys(self) -> Mapping[bytes, int]:
        """Every private key (PEM) that lies at the target, with the widest permission bits of a place it lies in."""

    @abstractmethod
    def failing(self, wanted: Placement) -> AbstractContextManager[Placement]:
        """While open, this placement (or the one given instead, of the same pair) cannot be staged; others can."""

    @abstractmethod
    def unreadable(self, pair: str) -> AbstractContextManager[None]:
        """While open, what stands in the pair's place cannot be read, or understood; afterwards nothing is there."""

    @abstractmethod
    def activation_failing(self) -> AbstractContextManager[None]:
        """While open, every activation fails."""

    # --- many at once -------------------------------------------------------------------------------------

    def test_many_pairs_are_staged_and_activated_once(self) -> None:
        placements = [placement(f"p{n}.example.com") for n in range(20)]
        placements.append(placement("*.wild.example.com"))
        self._deploy(*placements)
        assert self.activations() == 1
        held = self.deployer().read_back([one.pair for one in placements])
        assert held == {one.pair: Held(one.sha256, one.version) for one in placements}
        for one in placements:
            assert self.in_service(one.pair) == one.sha256

    def test_nothing_is_held_at_first(self) -> None:
        assert self.deployer().read_back(["a.example.com"]) == {"a.example.com": None}
        assert self.deployer().read_back([]) == {}

    def test_a_call_for_nothing_does_nothing(self) -> None:
        assert self.deployer().deploy([]) == {}
        assert self.activations() == 0

    def test_the_same_again_changes_nothing_and_activates_nothing(self) -> None:
        placements = [placement("a.example.com"), placement("b.example.com")]
        self._deploy(*placements)
        before = self.state()
        self._deploy(*placements)
        assert self.state() == before
        assert self.activations() == 1

    def test_a_newer_version_takes_the_place_of_the_old(self) -> None:
        for epoch, certificate in ((0, 1), (0, 2), (1, 1), (2, 7), (10, 3)):
            newer = placement("a.example.com", epoch, certificate)
            self._deploy(newer)
            self._serves(newer)

    def test_another_chain_of_the_same_certificate_takes_the_place_of_the_old(self) -> None:
        """A chain is replaced without an order: certificate, key and version stay."""
        one = placement("a.example.com")
        self._deploy(one, placement("b.example.com"))
        before, other = self.state(), replace(one, chain=one.chain * 2)
        self._deploy(other)
        assert self.state() != before
        assert self.activations() == 2
        self._deploy(other)
        assert self.activations() == 2
        self._serves(other)

    # --- each for itself ----------------------------------------------------------------------------------

    def test_one_that_fails_keeps_what_it_had_and_leaves_the_others(self) -> None:
        old = placement("a.example.com")
        self._deploy(old, placement("b.example.com"))
        new, other = placement("a.example.com", 1, 2), placement("b.example.com", 1, 2)
        with self.failing(new) as unfit:
            results = self.deployer().deploy([unfit, other])
            assert isinstance(results["a.example.com"], DeployError)
            assert results["b.example.com"] is None
            self._serves(old)
            self._serves(other)
        self._deploy(new, other)
        self._serves(new)

    def test_a_first_deployment_that_fails_leaves_nothing(self) -> None:
        new = placement("a.example.com")
        with self.failing(new) as unfit:
            error = self.deployer().deploy([unfit])["a.example.com"]
        assert error is not None
        assert "a.example.com" in str(error)
        assert error.remedy
        assert self.deployer().read_back(["a.example.com"]) == {"a.example.com": None}
        assert not self.keys()

    def test_one_whose_place_cannot_be_read_leaves_the_others(self) -> None:
        first, spoilt, *others = placements = [placement(f"{letter}.example.com") for letter in "abcd"]
        with self.unreadable(spoilt.pair):
            results = dict(self.deployer().deploy(placements))
            error = results.pop(spoilt.pair)
            assert isinstance(error, DeployError)
            assert spoilt.pair in str(error)
            assert results == dict.fromkeys(one.pair for one in (first, *others))
            for one in (first, *others):
                self._serves(one)
        self._deploy(*placements)

    def test_a_failed_activation_fails_all_and_is_made_up_for(self) -> None:
        one, other = placement("a.example.com"), placement("b.example.com")
        with self.activation_failing():
            for _ in range(2):  # found staged the second time, and activated again all the same
                before = self.activations()
                results = self.deployer().deploy([one, other])
                assert results.keys() == {one.pair, other.pair}
                assert all(isinstance(error, DeployError) and error.remedy for error in results.values())
                assert self.activations() == before + 1
        before = self.activations()
        self._deploy(one, other)
        assert self.activations() == before + 1
        self._serves(one)
        self._serves(other)
        self._deploy(one, other)
        assert self.activations() == before + 1

    # --- never back ---------------------------------------------------------------------------------------

    @pytest.mark.parametrize("older", [Version(4, 9), Version(5, 8), Version(4, 10)])
    def test_an_older_version_is_not_written(self, older: Version) -> None:
        newest = placement("a.example.com", 5, 9)
        self._deploy(newest)
        other = placement("b.example.com")
        results = self.deployer().deploy([placement("a.example.com", *older), other])
        assert isinstance(results["a.example.com"], OlderEpoch)
        assert results["b.example.com"] is None
        self._serves(newest)
        self._serves(other)

    def test_a_certificate_that_comes_back_in_a_newer_epoch_is_newer_than_what_replaced_it(self) -> None:
        """Failed over and back: what was to be deployed in between arrives late."""
        first, between = placement("a.example.com", 1, 1), placement("a.example.com", 2, 2)
        self._deploy(first)
        again = replace(first, version=Version(3, 1))
        self._deploy(again)
        assert isinstance(self.deployer().deploy([between])["a.example.com"], OlderEpoch)
        self._serves(again)

    def test_an_older_version_that_ends_late_changes_nothing(self) -> None:
        """A deployment halts before each of its steps, a newer one begins, and the older goes on."""
        for step in count(1):
            pair = "a.example.com"
            old, new = placement(pair, 1, 1), placement(pair, 2, 2)
            slow = self.start([old], halt_before=step)
            if slow.wait() == "done":
                assert step > 3, "a deployment of a new pair has steps"
                return
            done = threading.Event()
            results: dict[str, DeployError | None] = {}
            thread = threading.Thread(target=self._deploy_and_tell, args=(new, results, done))
            thread.start()
            done.wait(_HEAD_START)  # it ends, or waits for the one that is halted
            slow.resume()
            assert slow.wait() == "done"
            thread.join(_PATIENCE)
            assert results == {pair: None}
            assert slow.results[pair] is None or isinstance(slow.results[pair], OlderEpoch)
            self._serves(new)
            self.deployer().remove(pair)

    # --- a kill -------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("replaces", [False, True], ids=["first", "replacement"])
    def test_after_a_kill_at_any_step_the_same_call_makes_the_target_whole(self, replaces: bool) -> None:
        for step in count(1):
            pairs = ["a.example.com", "b.example.com"]
            if replaces:
                self._deploy(*(placement(pair, 0, 1) for pair in pairs))
            wanted = [placement(pair, 1, 2) for pair in pairs]
            call = self.start(wanted, kill_before=step)
            if call.wait() == "done":
                assert step > 3, "a deployment of new pairs has steps"
                return
            for pair in pairs:
                seen = self.look(pair)
                assert seen is not None or not replaces, f"killed before step {step}: nothing is served"
                assert seen is None or belong_together(*seen), f"killed before step {step}: mixed"
            self._deploy(*wanted)
            for one in wanted:
                self._serves(one)
                self.deployer().purge(one.pair, one.version)
            kept = {one.private_key for one in wanted}
            assert set(self.keys()) == kept, f"killed before step {step}: a key is left behind or missing"
            for pair in pairs:
                self.deployer().remove(pair)

    # --- all or nothing -----------------------------------------------------------------------------------

    def test_a_reader_never_sees_the_certificate_of_one_with_the_key_of_another(self) -> None:
        pair = "a.example.com"
        versions = [placement(pair, epoch, epoch) for epoch in range(1, _SWITCHES + 1)]
        self._deploy(versions[0])
        over, looked = threading.Event(), threading.Event()
        seen: list[tuple[bytes, bytes] | None] = []

        def read() -> None:
            while not over.is_set():
                seen.append(self.look(pair))
                looked.set()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for version in versions:
                self._deploy(version)
                self.deployer().purge(pair, version.version)
                looked.clear()
                assert looked.wait(_PATIENCE)
        finally:
            over.set()
            reader.join()
        assert None not in seen
        mixed = [one for one in set(seen) if one is not None and not belong_together(*one)]
        assert not mixed
        assert len(set(seen)) > 1, "the reader has seen no switch"

    # --- keys ---------------------------------------------------------------------------------------------

    def test_keys_are_for_their_owner_alone(self) -> None:
        with umask(0):
            one = placement("a.example.com")
            self._deploy(one)
        assert self.keys() == {one.private_key: 0o600}

    def test_purge_forgets_older_keys_and_only_those(self) -> None:
        versions = [placement("a.example.com", epoch, epoch + 1) for epoch in range(4)]
        other = placement("b.example.com")
        self._deploy(versions[0], other)
        for version in versions[1:]:
            self._deploy(version)
        newest = versions[-1]
        self.deployer().purge("a.example.com", newest.version)
        assert set(self.keys()) == {newest.private_key, other.private_key}
        self._serves(newest)
        self._serves(other)

    def test_purge_never_takes_what_is_served(self) -> None:
        one = placement("a.example.com", 1, 1)
        self._deploy(one)
        self.deployer().purge("a.example.com", Version(9, 9))
        self._serves(one)
        assert set(self.keys()) == {one.private_key}

    def test_purge_of_what_is_absent_is_fine(self) -> None:
        self.deployer().purge("a.example.com", Version(1, 1))

    def test_a_look_beforehand_changes_nothing(self) -> None:
        """For deployers with that capability (``dualcert.ports.deploy.CheckingDeployer``)."""
        look = check_of(self.deployer())
        one = placement("a.example.com")
        self._deploy(one)
        before = self.keys(), self.look(one.pair), self.activations()
        for _ in range(2):
            if look is not None:
                look()
        self._serves(one)
        assert (self.keys(), self.look(one.pair), self.activations()) == before

    def test_remove_ends_the_pair_and_leaves_the_others(self) -> None:
        one, other = placement("a.example.com"), placement("b.example.com")
        self._deploy(one, other)
        for _ in range(2):
            self.deployer().remove(one.pair)
            assert self.deployer().read_back([one.pair]) == {one.pair: None}
            assert set(self.keys()) == {other.private_key}
            assert self.in_service(one.pair) is None
            self._serves(other)
        self._deploy(one)
        self._serves(one)

    def test_a_pair_that_was_removed_begins_anew_with_any_version(self) -> None:
        late, early = placement("a.example.com", 3, 9), placement("a.example.com", 0, 1)
        self._deploy(late)
        self.deployer().remove(late.pair)
        self._deploy(early)
        self._serves(early)

    def test_a_removal_whose_activation_failed_is_made_up_for(self) -> None:
        one, other = placement("a.example.com"), placement("b.example.com")
        self._deploy(one, other)
        with self.activation_failing(), pytest.raises(DeployError):
            self.deployer().remove(one.pair)
        assert one.private_key not in self.keys()
        self.deployer().remove(one.pair)
        assert self.in_service(one.pair) is None
        self._serves(other)

    def test_remove_of_what_was_never_there_is_fine(self) -> None:
        self.deployer().remove("a.example.com")
        assert self.activations() == 0

    def test_nothing_that_is_shown_holds_a_key(self) -> None:
        one = placement("a.example.com", 1, 1)
        deployer = self.deployer()
        shown = [repr(deployer), repr(self.options()), repr(one)]
        with self.failing(one) as unfit:
            shown.append(all_of(deployer.deploy([unfit])["a.example.com"]))
        with self.activation_failing():
            shown.append(all_of(deployer.deploy([one])["a.example.com"]))
        self._deploy(one)
        shown.append(all_of(deployer.deploy([placement("a.example.com")])["a.example.com"]))
        secret = [line for line in one.private_key.decode().splitlines() if not line.startswith("-")]
        assert not [line for line in secret for text in shown if line in text]

    # --- helpers ------------------------------------------------------------------------------------------

    def _deploy(self, *placements: Placement) -> None:
        results = self.deployer().deploy(placements)
        assert results == dict.fromkeys(one.pair for one in placements)

    def _deploy_and_tell(
        self, wanted: Placement, results: dict[str, DeployError | None], done: threading.Event
    ) -> None:
        results.update(self.deployer().deploy([wanted]))
        done.set()

    def _serves(self, wanted: Placement) -> None:
        held = self.deployer().read_back([wanted.pair])[wanted.pair]
        assert held == Held(wanted.sha256, wanted.version)
        assert self.in_service(wanted.pair) == wanted.sha256
        seen = self.look(wanted.pair)
        assert seen is not None
        assert fingerprint(seen[0]) == wanted.sha256
        assert seen[1] == wanted.private_key

"""A program of the user's own that brings a target to serve certificates (``docs/exec.md``)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from dualcert.clock import Clock, SystemClock
from dualcert.errors import DeployError, OlderEpoch
from dualcert.plugins.lock import acquire, opened, released
from dualcert.plugins.program import NOT_STARTED, Program, ProgramOptions, ProgramProblem, told
from dualcert.ports.deploy import Held, Placement, Version, folder_name
from dualcert.ports.options import Options, option
from dualcert.ports.singling import single_out

_PAIRS_PER_RUN = 200
_SHA256 = 32  # bytes
_REMEDY = "Mend what the program complains about; the next run deploys again."


@dataclass(frozen=True, kw_only=True)
class ExecOptions(ProgramOptions):
    """Options of ``deployer = "exec"``."""

    summary: ClassVar[str] = "a program of your own that puts certificates into service, asked in JSON"
    most_timeout: ClassVar[float] = 3600.0

    lock: Path = option(
        help="a file of this target's own, made where missing: locked from looking at the target until it is activated"
    )
    timeout: float = option(
        default=60.0, help="seconds after which a run of the program is killed with its children"
    )

    def __post_init__(self) -> None:
        self.check(self.timeout)


@dataclass(frozen=True)
class _Standing:
    """What the program says of a pair: what the target holds, and whether its clients are shown that."""

    held: Held
    active: bool
    chain: bytes | None

    def is_newer_than(self, wanted: Placement) -> bool:
        return self.held.version is not None and self.held.version > wanted.version

    def is_already(self, wanted: Placement) -> bool:
        return (
            self.held.sha256 == wanted.sha256
            and self.held.version in {None, wanted.version}
            and self.chain in {None, _sha256(wanted.chain)}
        )


_Results = dict[str, DeployError | None]
_T = TypeVar("_T")


class ExecDeployer:
    """Looks, decides, stages, activates; a run of the program for each (``dualcert.ports.deploy.Deployer``).

    The lock is held from the look until the activation. The program holds it with us: should we be killed while it
    runs, whoever comes next waits for its end, so that nothing older arrives after something newer.
    """

    options_class: ClassVar[type[Options]] = ExecOptions

    def __init__(self, options: ExecOptions, *, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or SystemClock()

    def __repr__(self) -> str:
        return f"ExecDeployer({str(self._options.program)!r})"

    def deploy(self, placements: Sequence[Placement]) -> Mapping[str, DeployError | None]:
        newest: dict[str, Placement] = {}
        for placement in placements:
            if placement.pair not in newest or newest[placement.pair].version < placement.version:
                newest[placement.pair] = placement
        results: _Results = {pair: _unfit(pair) for pair in newest}
        fit = [one for pair, one in newest.items() if results[pair] is None]
        if fit:
            with self._locked() as target:
                self._bring(target, fit, results)
        return results

    def _bring(self, target: _Target, wanted: Sequence[Placement], results: _Results) -> None:
        standing = target.look_at_each([one.pair for one in wanted])
        missing, waiting = [], []
        for one in wanted:
            there = standing[one.pair]
            if isinstance(there, DeployError):
                results[one.pair] = there
            elif there is None:
                missing.append(one)
            elif there.is_newer_than(one):
                results[one.pair] = _older(one, there.held.version)
            elif not there.is_already(one):
                missing.append(one)
            elif not there.active:
                waiting.append(one)
        results.update(target.stage(missing))
        staged = [one for one in missing if results[one.pair] is None]
        if staged or waiting:
            try:
                target.activate([*staged, *waiting])
            except DeployError as error:
                for one in (*staged, *waiting):
                    results[one.pair] = _own(error, one.pair)

    def read_back(self, pairs: Sequence[str]) -> Mapping[str, Held | None]:
        standing = self._target().look([pair for pair in pairs if _unfit(pair) is None])
        found = ((pair, standing.get(pair)) for pair in pairs)
        return {pair: None if there is None else there.held for pair, there in found}

    def purge(self, pair: str, keep: Version) -> None:
        _check(pair)
        with self._locked() as target:
            target.tell("purge", {**_named(pair), **_numbered(keep)}, pair)

    def remove(self, pair: str) -> None:
        _check(pair)
        with self._locked() as target:
            target.tell("remove", _named(pair), pair)
            if target.look([pair])[pair] is not None:
                raise DeployError(
                    f"the program {self._options.program} removed the pair, and finds it still there",
                    remedy="See what it left: a private key may be among it.",
                    name=pair,
                )

    def _target(self) -> _Target:
        options = self._options
        program = Program(options.program, options.arguments, options.environment, self._clock)
        return _Target(program, options.timeout)

    @contextmanager
    def _locked(self) -> Iterator[_Target]:
        path, patience = self._options.lock, 2 * self._options.timeout + 30
        try:
            descriptor = opened(path)
        except OSError as error:
            raise DeployError(
                f"cannot open the lock {path}: {error.strerror or type(error).__name__}",
                remedy="Correct `lock`, or give this user the right to write there.",
            ) from error
        try:
            if not acquire(descriptor, patience=patience, clock=self._clock):
                raise DeployError(
                    f"another process has held {path} for {patience:.0f} seconds",
                    remedy=f"Find it with `fuser {path}`, let it go on or end it, then run `dualcert renew --due`.",
                )
            with released(descriptor):
                target = self._target()
                yield _Target(target.program.keeping(descriptor), target.timeout)
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class _Target:
    """The target as the program shows it: one method for each operation of the protocol."""

    program: Program
    timeout: float

    def look(self, pairs: Sequence[str]) -> dict[str, _Standing | None]:
        """What stands there, by pair. DeployError where that cannot be learned of one."""
        found: dict[str, _Standing | None] = {}
        for pair, there in self._seen(pairs).items():
            if isinstance(there, DeployError):
                raise there
            found[pair] = there
        return found

    def look_at_each(self, pairs: Sequence[str]) -> dict[str, _Standing | DeployError | None]:
        """The same, with an error for each pair that spoils it. DeployError where nothing can be learned of any."""
        clock = self.program.clock
        until = clock.monotonic() + self.timeout

        def enough(error: DeployError) -> bool:
            return _concerns_all(error) or clock.monotonic() >= until

        found = single_out(self._seen, pairs, enough)
        failed = [there for there in found.values() if isinstance(there, DeployError)]
        if failed and len(failed) == len(pairs):
            raise failed[0]
        return {
            pair: _own(there, pair) if isinstance(there, DeployError) else there
            for pair, there in found.items()
        }

    def _seen(self, pairs: Sequence[str]) -> dict[str, _Standing | DeployError | None]:
        found: dict[str, _Standing | DeployError | None] = {}
        for part in _parts(pairs):
            answer = self.tell("read_back", {"pairs": [_named(pair) for pair in part]})
            for pair in part:
                try:
                    found[pair] = _standing(_by_pair(answer)[pair])
                except (KeyError, TypeError, ValueError):
                    what = f"nothing that can be understood about {pair}"
                    found[pair] = _failed(self.program.rubbish("read_back", what), pair)
        return found

    def stage(self, wanted: Sequence[Placement]) -> _Results:
        results: _Results = {}
        for part in _parts(wanted):
            keys = [one.private_key for one in part]
            try:
                answer = self._ask("stage", {"pairs": [_described(one) for one in part]}, keys)
            except ProgramProblem as problem:
                results |= {one.pair: _failed(problem, one.pair) for one in part}
                continue
            for one in part:
                results[one.pair] = self._staged(one, _by_pair(answer), keys)
        return results

    def _staged(
        self, one: Placement, answered: Mapping[str, Any], keys: Iterable[bytes]
    ) -> DeployError | None:
        if one.pair not in answered:
            return _failed(self.program.rubbish("stage", f"nothing about {one.pair}"), one.pair)
        error = answered[one.pair]
        if error is None:
            return None
        problem = told(error, keys=keys)
        if problem.kind == "older":
            return OlderEpoch(problem.reason, remedy="Nothing to do: what is newer stays.", name=one.pair)
        return _failed(problem, one.pair)

    def activate(self, placements: Sequence[Placement]) -> None:
        self.tell(
            "activate", {"pairs": [{**_named(one.pair), **_numbered(one.version)} for one in placements]}
        )

    def tell(self, operation: str, content: Mapping[str, Any], pair: str | None = None) -> dict[str, Any]:
        """One run without a private key; DeployError."""
        try:
            return self._ask(operation, content)
        except ProgramProblem as problem:
            raise _failed(problem, pair) from problem

    def _ask(self, operation: str, content: Mapping[str, Any], keys: Iterable[bytes] = ()) -> dict[str, Any]:
        return self.program.ask(operation, content, timeout=self.timeout, keys=keys)


# --- requests and answers --------------------------------------------------------------------------------


def _named(pair: str) -> dict[str, Any]:
    return {"pair": pair, "folder": folder_name(pair)}


def _numbered(version: Version) -> dict[str, Any]:
    return {"epoch": version.epoch, "number": version.certificate}


def _described(one: Placement) -> dict[str, Any]:
    return {
        **_named(one.pair),
        **_numbered(one.version),
        "names": one.names,
        "sha256": one.sha256.hex(),
        "certificate": one.certificate,
        "chain": one.chain,
        "chain_sha256": _sha256(one.chain).hex(),
        "private_key": one.private_key.decode("ascii"),
    }


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _by_pair(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    pairs = answer.get("pairs")
    return pairs if isinstance(pairs, dict) else {}


def _standing(said: Any) -> _Standing | None:
    """KeyError, TypeError or ValueError where it does not mean anything."""
    if said is None:
        return None
    sha256 = bytes.fromhex(said["sha256"])
    epoch, number, active = said.get("epoch"), said.get("number"), said.get("active", True)
    chain = None if said.get("chain_sha256") is None else bytes.fromhex(said["chain_sha256"])
    if len(sha256) != _SHA256 or not isinstance(active, bool):
        raise ValueError
    if epoch is None and number is None:
        return _Standing(Held(sha256, None), active, chain)
    if type(epoch) is not int or type(number) is not int:
        raise ValueError
    return _Standing(Held(sha256, Version(epoch, number)), active, chain)


# --- errors ----------------------------------------------------------------------------------------------


def _unfit(pair: str) -> DeployError | None:
    """A program may make a path of the name."""
    folder = folder_name(pair)
    if not folder or folder.startswith(".") or "/" in folder or "\0" in folder:
        return DeployError(
            "not a name that a folder can have", remedy="Give the pair another name.", name=pair
        )
    return None


def _check(pair: str) -> None:
    if (error := _unfit(pair)) is not None:
        raise error


def _older(wanted: Placement, held: Version | None) -> OlderEpoch:
    assert held is not None  # noqa: S101 - what cannot say its version is not newer
    return OlderEpoch(
        f"the target holds epoch {held.epoch}, certificate {held.certificate}, which is newer than "
        f"epoch {wanted.version.epoch}, certificate {wanted.version.certificate}",
        remedy="Nothing to do: what is newer stays.",
        name=wanted.pair,
    )


def _failed(problem: ProgramProblem, pair: str | None) -> DeployError:
    return DeployError(
        problem.reason, remedy=problem.remedy or _REMEDY, name=pair, retry_after=problem.retry_after
    )


def _concerns_all(error: DeployError) -> bool:
    """Whether it says nothing of single pairs: the program cannot run, or wants to be left alone for a while."""
    problem = error.__cause__
    not_started = isinstance(problem, ProgramProblem) and problem.kind == NOT_STARTED
    return not_started or error.retry_after is not None


def _own(error: DeployError, pair: str) -> DeployError:
    """One failure that concerns several pairs, as an error of each."""
    own = DeployError(error.reason, remedy=error.remedy, name=pair, retry_after=error.retry_after)
    own.__cause__ = error
    return own


def _parts(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), _PAIRS_PER_RUN):
        yield items[start : start + _PAIRS_PER_RUN]

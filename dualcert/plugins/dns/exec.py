"""A program of the user's own that changes TXT records (``docs/exec.md``)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from dualcert.clock import Clock, SystemClock
from dualcert.errors import (
    DnsCredentialsRejected,
    DnsError,
    DnsRefused,
    DnsThrottled,
    DnsUnreachable,
    ZoneNotFound,
)
from dualcert.plugins.lock import acquire, opened, released
from dualcert.plugins.program import TOO_SLOW, Program, ProgramOptions, ProgramProblem
from dualcert.ports.dns import TxtValue
from dualcert.ports.options import Options, option

_PATIENCE = timedelta(minutes=1)  # where a program that is throttled does not say for how long

_KINDS: dict[str, type[DnsError]] = {
    "credentials": DnsCredentialsRejected,
    "zone": ZoneNotFound,
    "throttled": DnsThrottled,
    "unreachable": DnsUnreachable,
    "refused": DnsRefused,
    TOO_SLOW: DnsUnreachable,
}

_REMEDIES = {
    "credentials": "Correct the credentials that the program uses.",
    "zone": "Check that the program's account holds the zone, and `resolver` if the zone is not the right one.",
    "throttled": "Nothing to do: it is asked again later.",
    "unreachable": "Check what the program talks to; it is asked again.",
}


@dataclass(frozen=True, kw_only=True)
class ExecOptions(ProgramOptions):
    """Options of ``provider = "exec"``."""

    summary: ClassVar[str] = "a program of your own that changes TXT records, asked in JSON"
    most_timeout: ClassVar[float] = 25.0

    timeout: float = option(
        default=20.0, help="seconds, waiting for `lock` included, after which it is killed with its children"
    )
    capacity: int | None = option(
        default=None, help="how many values one name can hold at the service; unsaid: as many as are wanted"
    )
    lock: Path | None = option(
        default=None,
        help="a file to lock while the program runs, where it cannot bear another run beside it; made where missing",
    )

    def __post_init__(self) -> None:
        self.check(self.timeout)
        if self.capacity is not None and self.capacity < 1:
            raise ValueError("capacity: at least 1; leave it out where there is no limit")


class ExecProvider:
    """One run of the program for each change (``dualcert.ports.dns.DnsProvider``)."""

    options_class: ClassVar[type[Options]] = ExecOptions

    def __init__(self, options: ExecOptions, *, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or SystemClock()

    def __repr__(self) -> str:
        return f"ExecProvider({str(self._options.program)!r})"

    @property
    def capacity(self) -> int | None:
        return self._options.capacity

    def default_resolvers(self) -> tuple[str, ...]:
        return ()

    def apply(self, zone: str, add: Set[TxtValue], remove: Set[TxtValue]) -> None:
        """A value that is in both sets is there afterwards. With nothing to change the program is not started."""
        if not add and not remove:
            return
        change = {"zone": zone, "add": _listed(add), "remove": _listed(remove - add)}
        options = self._options
        deadline = self._clock.monotonic() + options.timeout
        program = Program(options.program, options.arguments, options.environment, self._clock)
        try:
            with self._alone(zone, program) as ready:
                ready.ask("apply", change, timeout=max(deadline - self._clock.monotonic(), 0.0))
        except ProgramProblem as problem:
            raise _typed(zone, problem) from problem

    @contextmanager
    def _alone(self, zone: str, program: Program) -> Iterator[Program]:
        """Hold the lock, if there is one to hold. The program holds it too: should we be killed, until its end."""
        path = self._options.lock
        if path is None:
            yield program
            return
        try:
            descriptor = opened(path)
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise DnsRefused(
                f"cannot open the lock {path}: {why}, zone {zone}",
                remedy="Correct `lock`, or give this user the right to write there.",
                name=zone,
            ) from error
        try:
            if not acquire(descriptor, patience=self._options.timeout, clock=self._clock):
                raise DnsUnreachable(
                    f"other runs have held {path} for {self._options.timeout:g} seconds, zone {zone}",
                    remedy="Nothing to do if many changes are under way; else see what runs: fuser "
                    + str(path),
                    name=zone,
                )
            with released(descriptor):
                yield program.keeping(descriptor)
        finally:
            os.close(descriptor)


def _listed(values: Set[TxtValue]) -> list[dict[str, Any]]:
    return [{"name": value.name, "value": value.value} for value in sorted(values)]


def _typed(zone: str, problem: ProgramProblem) -> DnsError:
    """A word that is not known counts as a refusal."""
    kind = _KINDS.get(problem.kind, DnsRefused)
    wait = problem.retry_after or (_PATIENCE if kind is DnsThrottled else None)
    return kind(
        f"{problem.reason}, zone {zone}",
        remedy=problem.remedy or _REMEDIES.get(problem.kind, "The program's own messages say why."),
        name=zone,
        retry_after=wait,
    )

"""The daemon as a process of its own: started, listened to, stopped in every way there is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from dualcert.clock import SystemClock
from tests import rawdatabase
from tests.program import REPOSITORY, Program

clock = SystemClock()
PATIENCE = 60.0

_MAIN = "from tests.daemons import main; main()"
_LATER = "DUALCERT_TEST_LATER"


def main() -> None:
    """The console script, on a later day if the environment says so."""
    seconds = float(os.environ.get(_LATER, "0"))
    if seconds:
        from dualcert import bootstrap
        from tests.shifted import ShiftedClock

        bootstrap.SystemClock = lambda: ShiftedClock(timedelta(seconds=seconds))  # type: ignore[assignment, attr-defined]
    from dualcert.cli import entry

    entry()


def wait_for(what: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = clock.monotonic() + seconds
    while not what():
        assert clock.monotonic() < end
        clock.sleep(0.03)


@dataclass(frozen=True)
class Process:
    """``dualcert run`` under way; its log is a file."""

    popen: subprocess.Popen[str]
    file: Path

    @property
    def log(self) -> str:
        return self.file.read_text()

    def said(self, text: str) -> bool:
        return text in self.log

    def lines(self) -> list[dict[str, Any]]:
        """Of a log in JSON, what has been written whole."""
        return [json.loads(line) for line in self.log.splitlines(keepends=True) if line.endswith("\n")]

    def wait_until_it_says(self, text: str) -> Self:
        def heard() -> bool:
            assert self.popen.poll() is None or self.said(text), self.log
            return self.said(text)

        wait_for(heard)
        return self

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def end(self, number: int = signal.SIGTERM, within: float = PATIENCE) -> int:
        """Send a signal; the exit status."""
        self.send(number)
        return self.popen.wait(within)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(PATIENCE)


@contextmanager
def daemon(
    program: Program,
    log: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
    later: timedelta = timedelta(0),
) -> Iterator[Process]:
    """Killed at the end, should it still be there."""
    more = {**(environment or {}), _LATER: str(later.total_seconds())}
    with (
        log.open("w") as said,
        subprocess.Popen(
            [sys.executable, "-c", _MAIN, "--config", str(program.config), "run", *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            text=True,
            env={**os.environ, **more},
        ) as popen,
    ):
        try:
            yield Process(popen, log)
        finally:
            popen.kill()


def begin(program: Program, *names: str) -> None:
    """Pairs whose orders are due, and nothing done for them."""
    from dualcert.lifecycle import inventory
    from dualcert.lifecycle.inventory import PairRequest

    with closing(program.application()) as application:
        for name in names:
            inventory.ensure(application.world, PairRequest((name,)))


def rows(program: Program, query: str) -> list[tuple[Any, ...]]:
    return rawdatabase.rows(program.config, query)


def change(program: Program, statement: str) -> int:
    return rawdatabase.change(program.config, statement)


def protected(program: Program, names: Collection[str]) -> bool:
    """Whether each of them is whole, and nothing is owed to anybody."""
    if rows(program, "SELECT kind FROM work"):  # asked first, as whoever waits asks often: it costs the least
        return False
    views = {one["pair"]: one["protection"] for one in program.done("list", "--json").lines}
    return all(views.get(name) == "protected" for name in names)


def wait_until_protected(program: Program, names: Collection[str], seconds: float = PATIENCE) -> None:
    """Until each of them is whole; what is still owed then is said, as the database is gone when it is asked for."""
    try:
        wait_for(lambda: protected(program, names), seconds)
    except AssertionError as late:
        for table in ("work", "acme_order", "lease", "daemon"):
            late.add_note(f"{table}: {rawdatabase.named_rows(program.config, f'SELECT * FROM {table}')}")
        late.add_note(program.run("list").out)
        raise

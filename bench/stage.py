"""What is measured on: the lab's servers, and projects of dualcert beside them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Self, TypeVar

from dualcert import bootstrap
from dualcert.bootstrap import Application
from dualcert.lab import Lab, LabOptions, LabServers

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
ZONE = "example.test"
_ATTEMPTS = 3
OPTIONS = LabOptions(nonce_reject=0, authz_reuse=0, va_sleep=False, retry_after=None)


@dataclass(frozen=True)
class Stage:
    """The servers of a run, and a folder for what comes up."""

    servers: LabServers
    folder: Path

    @contextmanager
    def project(self, name: str) -> Iterator[LabProject]:
        """A project with an nginx and a database of its own."""
        with Lab.on(self.servers, self.folder / name) as lab:
            config = lab.config_path
            text = config.read_text()
            # Nobody else asks these CAs, and never more than four at a time: no queue is needed in front of them.
            for ca in (self.servers.alpha, self.servers.beta):
                text = text.replace(ca.directory_url, ca.direct_url)
            config.write_text(text)
            bootstrap.upgrade_database(bootstrap.load_settings(config))
            yield LabProject(config, lab)


@dataclass(frozen=True)
class Project:
    """dualcert over one configuration."""

    config: Path

    @contextmanager
    def application(self) -> Iterator[Application]:
        application = bootstrap.build(bootstrap.load_settings(self.config))
        try:
            yield application
        finally:
            application.close()

    def command(self, *arguments: str) -> list[str]:
        """The command as a person types it, a process of its own."""
        return [*dualcert(), "--config", str(self.config), *arguments]


@dataclass(frozen=True)
class LabProject(Project):
    """With an nginx of its own."""

    lab: Lab


def dualcert() -> list[str]:
    """The installed console script."""
    return [str(Path(sys.executable).with_name("dualcert"))]


@contextmanager
def set_up() -> Iterator[Stage]:
    """Start the servers in a folder beside the checkout's caches: /tmp may be memory, where no commit costs."""
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=CACHE) as name:
        folder = Path(name).resolve()
        with LabServers.start(folder / "servers", OPTIONS) as servers:
            yield Stage(servers, folder)


class Stages:
    """A context manager: the servers, for one part after another."""

    def __init__(self) -> None:
        self._undo = ExitStack()
        self._stage: Stage | None = None

    def measure(self, name: str, part: Callable[[Stage], T]) -> T:
        """A Pebble that stands still for good takes a part with it: that is measured again, on new servers."""
        for left in reversed(range(_ATTEMPTS)):
            stage = self._stage = self._stage or self._undo.enter_context(set_up())
            try:
                return part(stage)
            except Exception as error:
                ill = [ca.name for ca in (stage.servers.alpha, stage.servers.beta) if ca.hangs()]
                if not ill or not left:
                    raise
                print(
                    f"{name}: {' and '.join(ill)} stood still ({type(error).__name__}); again on new servers",
                    file=sys.stderr,
                )
                self._end()
        raise AssertionError

    def _end(self) -> None:
        self._stage = None
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()


# --- measuring -------------------------------------------------------------------------------------------


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def in_turns(rounds: int, *sides: Callable[[int], float]) -> list[float]:
    """Measure every side ``rounds`` times, by turns, so that all of them meet the same moods of the machine; medians.

    Each is told the round and gives seconds.
    """
    found: list[list[float]] = [[] for _ in sides]
    for number in range(rounds):
        for times, side in zip(found, sides, strict=True):
            times.append(side(number))
    return [median(times) for times in found]


def run(command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run to the end, the output through a pipe. CalledProcessError with its words where it fails."""
    done = subprocess.run(
        command, capture_output=True, env=environ(**environment), stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr.decode()}")
    return done


def environ(**more: str) -> dict[str, str]:
    """What children see: compiled modules are kept, as an installed program's are."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return {**kept, **more}

"""What is measured on: the lab's servers, and projects of dualcert beside them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from dualcert import bootstrap
from dualcert.bootstrap import Application
from dualcert.lab import Lab, LabOptions, LabServers

ROOT = Path(__file__).resolve().parents[1]
ZONE = "example.test"
OPTIONS = LabOptions(nonce_reject=0, authz_reuse=0, va_sleep=False, retry_after=None)


@dataclass(frozen=True)
class Stage:
    """The servers of a run, and a folder for what comes up."""

    servers: LabServers
    folder: Path

    @contextmanager
    def project(self, name: str) -> Iterator[Project]:
        """A project with an nginx and a database of its own."""
        with Lab.on(self.servers, self.folder / name) as lab:
            config = lab.config_path
            text = config.read_text()
            # Nobody else asks these CAs, and never more than four at a time: no queue is needed in front of them.
            for ca in (self.servers.alpha, self.servers.beta):
                text = text.replace(ca.directory_url, ca.direct_url)
            config.write_text(text)
            bootstrap.upgrade_database(bootstrap.load_settings(config))
            yield Project(lab)


@dataclass(frozen=True)
class Project:
    """dualcert over one configuration."""

    lab: Lab

    @property
    def config(self) -> Path:
        return self.lab.config_path

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


def dualcert() -> list[str]:
    """The installed console script."""
    return [str(Path(sys.executable).with_name("dualcert"))]


@contextmanager
def set_up() -> Iterator[Stage]:
    """Start the servers in a folder beside the checkout's caches: /tmp may be memory, where no commit costs."""
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=cache) as name:
        folder = Path(name).resolve()
        with LabServers.start(folder / "servers", OPTIONS) as servers:
            yield Stage(servers, folder)


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

"""The exec deployer with the example of its guide."""

from __future__ import annotations

import dataclasses
import fcntl
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dualcert.clock import SystemClock
from dualcert.plugins.deploy.exec import ExecDeployer, ExecOptions
from dualcert.ports.deploy import Placement, folder_name
from dualcert.testing.apart import Apart, Call
from dualcert.testing.deploy import DeployerConformance
from dualcert.testing.placements import fingerprint
from tests.conformance import exec_steps
from tests.conformance.exec_examples import example, write_program
from tests.conformance.exec_steps import SharedSteps

# A server that loads its certificates when it is reloaded: it notes the reload, then takes what stands in the folder.
RELOAD = """
echo reload >> "$1/log"
[ ! -e "$1/broken" ] || { echo "configuration test failed" >&2; exit 1; }
rm -f "$1"/loaded/*
for file in "$2"/*.pem; do [ ! -e "$file" ] || set -- "$@" "$file"; done
[ $# = 2 ] || { loaded=$1/loaded; shift 2; cp "$@" "$loaded"; }
"""
CLOCK = SystemClock()
LARGEST_FILE = 512 * 1024
END_OF_KEY = b"-----END PRIVATE KEY-----\n"


class Stepped(ExecDeployer):
    """What it does itself is to lock and to start the program."""

    def __init__(self, options: ExecOptions) -> None:
        super().__init__(options)
        _, file, number, what, *_ = options.arguments
        steps = SharedSteps(Path(file), int(number), what)
        for module, name in ((fcntl, "flock"), (subprocess, "Popen")):
            setattr(module, name, _counted(getattr(module, name), steps))


def _counted(call: Any, steps: SharedSteps) -> Any:
    def counted(*arguments: Any, **keywords: Any) -> Any:
        steps.take()
        return call(*arguments, **keywords)

    return counted


class TestExecDeployer(DeployerConformance):
    plugin = ExecDeployer

    @pytest.fixture(autouse=True)
    def _places(self, tmp_path: Path) -> Iterator[None]:
        self.folder = tmp_path
        self.live = tmp_path / "live"
        self.server = tmp_path / "server"
        (self.server / "loaded").mkdir(parents=True)
        self.program = write_program(tmp_path / "put-pem", example("put-pem"))
        self.numbers = count()
        self.apart = Apart()
        yield
        self.apart.close()

    def options(self) -> ExecOptions:
        reload = ("sh", "-c", RELOAD, "reload", str(self.server), str(self.live))
        return ExecOptions(
            program=self.program, arguments=(str(self.live), *reload), lock=self.folder / "lock"
        )

    def deployer(self) -> ExecDeployer:
        return ExecDeployer(self.options())

    def start(self, placements: Sequence[Placement], *, kill_before: int = 0, halt_before: int = 0) -> Call:
        counter = self.folder / f"steps{next(self.numbers)}"
        counter.touch()
        told = (str(counter), str(kill_before or halt_before), "kill" if kill_before else "halt")
        options = self.options()
        stepped = dataclasses.replace(
            options,
            program=Path(sys.executable),
            arguments=(exec_steps.__file__, *told, str(options.program), *options.arguments),
        )
        return self.apart.start(Stepped, stepped, placements)

    def activations(self) -> int:
        log = self.server / "log"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def in_service(self, pair: str) -> bytes | None:
        loaded = self.server / "loaded" / f"{folder_name(pair)}.pem"
        return fingerprint(loaded.read_bytes()) if loaded.exists() else None

    def look(self, pair: str) -> tuple[bytes, bytes] | None:
        CLOCK.sleep(0.005)  # who looks without a pause keeps the deployment from running
        try:
            text = (self.live / f"{folder_name(pair)}.pem").read_bytes()
        except FileNotFoundError:
            return None
        key, end, certificates = text.partition(b"\n")[2].partition(END_OF_KEY)
        return certificates, key + end

    def state(self) -> object:
        return sorted(
            (str(path), status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
            for path in (self.live, *self.live.rglob("*"))
            for status in [path.lstat()]
        )

    def keys(self) -> Mapping[bytes, int]:
        found: dict[bytes, int] = {}
        for path in self.live.rglob("*"):
            if b"PRIVATE KEY" in (text := path.read_bytes()):
                key = text[text.index(b"-----BEGIN PRIVATE") : text.index(END_OF_KEY) + len(END_OF_KEY)]
                found[key] = found.get(key, 0) | stat.S_IMODE(path.stat().st_mode)
        return found

    @contextmanager
    def failing(self, wanted: Placement) -> Iterator[Placement]:
        """The chain is larger than the files that this process and its children may write."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, hard))
        try:
            yield dataclasses.replace(wanted, chain=wanted.chain * (LARGEST_FILE // len(wanted.chain) + 1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    @contextmanager
    def unreadable(self, pair: str) -> Iterator[None]:
        self.live.mkdir(exist_ok=True)
        theirs = self.live / f"{folder_name(pair)}.pem"
        theirs.write_text("of somebody else")
        yield
        theirs.unlink()

    @contextmanager
    def activation_failing(self) -> Iterator[None]:
        (self.server / "broken").touch()
        yield
        (self.server / "broken").unlink()

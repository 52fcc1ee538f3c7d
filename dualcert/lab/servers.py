"""The part of a lab that several projects can share: two CAs behind their limiter, and DNS."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from dualcert.lab.binaries import Binaries, find_binaries
from dualcert.lab.bind import BindServer
from dualcert.lab.certificates import make_api_certificate
from dualcert.lab.errors import PortTaken
from dualcert.lab.files import write_secret
from dualcert.lab.limiter import Limiter
from dualcert.lab.options import LabOptions
from dualcert.lab.pebble import Character, Eab, PebbleServer
from dualcert.lab.process import ServerProcess

PRIVATE = "servers"
EAB_FILE = "beta-eab.key"
TSIG_FILE = "tsig.key"
_TRIES = 3


class _Startable(Protocol):
    def spawn(self) -> None: ...
    def wait_ready(self) -> None: ...
    def stop(self) -> None: ...


class LabServers:
    """Two Pebbles, HAProxy and BIND; ``directory`` holds what a project needs of them."""

    def __init__(self, directory: Path, options: LabOptions, binaries: Binaries) -> None:
        self.directory = directory
        self.options = options
        self.binaries = binaries
        self._owner = os.getpid()
        private = directory / PRIVATE
        private.mkdir(parents=True)
        with ExitStack() as undo:
            self.bind = BindServer(program=binaries.named, directory=directory, private=private)
            undo.callback(self.bind.close)
            dns = f"{self.bind.address}:{self.bind.port}"
            fronts = []
            for character in _characters(options):
                certificate = make_api_certificate(character.name, directory, private)
                pebble = PebbleServer(
                    character,
                    program=binaries.pebble,
                    directory=directory,
                    private=private,
                    certificate=certificate,
                    options=options,
                    dns=dns,
                )
                undo.callback(pebble.close)
                fronts.append((pebble, certificate))
            self.alpha, self.beta = (pebble for pebble, _ in fronts)
            self.limiter = Limiter(fronts, program=binaries.haproxy, directory=directory, private=private)
            undo.pop_all()
        write_secret(directory / TSIG_FILE, f"{self.bind.tsig_secret}\n")
        if self.beta.eab is not None:
            write_secret(directory / EAB_FILE, f"{self.beta.eab.hmac_key}\n")

    @classmethod
    def start(cls, directory: Path, options: LabOptions | None = None) -> Self:
        """Start all in ``directory``, which must be new or empty; LabError says which one would not."""
        servers = cls(directory, options or LabOptions(), find_binaries())
        try:
            start_together([servers.bind, servers.alpha, servers.beta, servers.limiter])
        except BaseException:
            servers.close()
            raise
        return servers

    @property
    def processes(self) -> Sequence[ServerProcess]:
        return (self.alpha.process, self.beta.process, self.limiter.process, self.bind.process)

    def heal(self) -> tuple[str, ...]:
        """Restart each Pebble that hangs or has ended; which ones (their accounts and roots are gone)."""
        ill = [pebble for pebble in (self.alpha, self.beta) if pebble.hangs()]
        for pebble in ill:
            pebble.restart()
        return tuple(pebble.name for pebble in ill)

    def close(self) -> None:
        """End all; harmless when done before, and in a forked child, whose servers they are not."""
        if os.getpid() != self._owner:
            return
        for process in self.processes:
            process.ask_to_stop()
        for server in (self.limiter, self.alpha, self.beta, self.bind):
            server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start_together(servers: Sequence[_Startable]) -> None:
    """Start all, then wait for each in turn; one whose port was taken meanwhile is started again."""
    for server in servers:
        server.spawn()
    for server in servers:
        for tries_left in reversed(range(_TRIES)):
            try:
                server.wait_ready()
                break
            except PortTaken:
                if not tries_left:
                    raise
                server.stop()
                server.spawn()


def _characters(options: LabOptions) -> tuple[Character, Character]:
    """Unlike in all that a client could wrongly take for granted after having seen one CA only."""
    alpha = Character("alpha", "rsa", options.alpha_profiles)
    beta = Character("beta", "ecdsa", options.beta_profiles, strict=True, eab=Eab.make("lab-beta"))
    return alpha, beta

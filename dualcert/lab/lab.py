"""A whole lab: the servers, one project folder beside them, and nginx serving it."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from dualcert.clock import Clock, SystemClock
from dualcert.lab.bind import BindServer
from dualcert.lab.errors import LabError
from dualcert.lab.interruption import held_back
from dualcert.lab.nginx import NginxServer
from dualcert.lab.options import LabOptions
from dualcert.lab.pebble import PebbleServer
from dualcert.lab.project import CONFIG_FILE, write_project
from dualcert.lab.servers import PRIVATE, LabServers, start_together

DOMAIN = "example.test"
_LOOK_SECONDS = 2.0


class Lab:
    """Two CAs, DNS, a TLS server and a configuration for them; ends with its ``with`` block or process.

    ``directory`` holds everything: ``dualcert.toml``, ``keys/``, ``live/`` (what nginx serves), ``logs/``
    (what each server said), ``servers/`` (what they run on, their own keys included).
    """

    def __init__(self, directory: Path, servers: LabServers, *, domain: str = DOMAIN) -> None:
        """A project of its own on servers that run already; ``open`` starts its nginx."""
        self.directory = directory
        self.servers = servers
        self.domain = domain
        """A name that the lab's DNS takes updates for, and everything under it."""
        self.config_path = directory / CONFIG_FILE
        self.live = directory / "live"
        self._owner = os.getpid()
        self._on_close = ExitStack()
        self.live.mkdir(parents=True, exist_ok=True)
        self.nginx = NginxServer(
            program=servers.binaries.nginx,
            live=self.live,
            private=directory / PRIVATE,
            log=directory / "logs" / "nginx.log",
        )
        self._on_close.callback(self.nginx.close)
        write_project(directory, servers, self.nginx.endpoint)

    @classmethod
    def start(cls, directory: Path | None = None, options: LabOptions | None = None) -> Self:
        """Start a lab of its own in ``directory`` (new or empty), or in a temporary folder that goes with it.

        LabError names what is missing, or which server would not start, with its last words.
        """
        with ExitStack() as undo:
            with held_back():
                lab = cls._started(directory, options or LabOptions())
                undo.callback(lab.close)
            undo.pop_all()
        return lab

    @classmethod
    def _started(cls, directory: Path | None, options: LabOptions) -> Self:
        with ExitStack() as undo:
            home = _prepare(directory)
            if not (directory is not None if options.keep is None else options.keep):
                undo.callback(shutil.rmtree, home, ignore_errors=True)
            servers = LabServers.start(home, options)
            undo.callback(servers.close)
            lab = cls(home, servers)
            undo.callback(lab._on_close.close)
            start_together([lab.nginx])
            lab._on_close = undo.pop_all()
        atexit.register(lab.close)
        return lab

    @classmethod
    @contextmanager
    def on(cls, servers: LabServers, directory: Path, *, domain: str = DOMAIN) -> Iterator[Self]:
        """A project in ``directory`` with an nginx of its own, on servers that are shared and stay."""
        lab = cls(directory, servers, domain=domain)
        try:
            start_together([lab.nginx])
            yield lab
        finally:
            lab.close()

    @property
    def alpha(self) -> PebbleServer:
        """The CA of the primary: RSA, several profiles."""
        return self.servers.alpha

    @property
    def beta(self) -> PebbleServer:
        """The CA of the backup: ECDSA, strict, wants an external account binding."""
        return self.servers.beta

    @property
    def bind(self) -> BindServer:
        return self.servers.bind

    def handshake(self, server_name: str) -> bytes:
        """The leaf (DER) that nginx serves for this name; ssl.SSLError while it has none."""
        return self.nginx.handshake(server_name)

    def heal(self) -> tuple[str, ...]:
        """Restart each Pebble that hangs or has ended; which ones (their accounts and roots are gone)."""
        return self.servers.heal()

    def serve(
        self, clock: Clock | None = None, on_restart: Callable[[str], None] = lambda _name: None
    ) -> NoReturn:
        """Stay until interrupted, restarting a Pebble that hangs; LabError when another server has ended.

        ``on_restart`` is told of which CA nothing is left but its address.
        """
        clock = clock or SystemClock()
        others = [self.bind.process, self.servers.limiter.process, self.nginx.process]
        while True:
            clock.sleep(_LOOK_SECONDS)
            for name in self.heal():
                on_restart(name)
            for process in others:
                if not process.running:
                    raise LabError(f"{process.name} has ended; it said:\n{process.tail()}")

    def close(self) -> None:
        """End all that this lab started; harmless when done before, and in a forked child."""
        atexit.unregister(self.close)
        if os.getpid() == self._owner:
            with held_back():
                self._on_close.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _prepare(directory: Path | None) -> Path:
    if directory is None:
        return Path(tempfile.mkdtemp(prefix="dualcert-lab-")).resolve()
    directory = directory.resolve()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise LabError(f"{directory} is not empty", remedy="Name a new folder, or empty it.")
    except OSError as error:
        raise LabError(
            f"{directory} cannot be used: {error.strerror}", remedy="Name another folder."
        ) from error
    return directory

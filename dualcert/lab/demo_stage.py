"""Where the demo plays: a lab, real commands as a person would type them, and looks at what they did."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shlex
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dualcert import bootstrap
from dualcert.clock import SystemClock
from dualcert.lab.errors import LabError
from dualcert.lab.https import DEFAULT_SECONDS, fetch
from dualcert.lab.lab import Lab
from dualcert.lab.pebble import PebbleServer
from dualcert.lab.process import die_with_us
from dualcert.lifecycle import accounts, history
from dualcert.model.signal import Reason

LONGEST_COMMAND = 60.0
_LOOK_EVERY = 0.03
_GRACE = 5.0

OnEvent = Callable[[float, dict[str, Any]], None]
"""Called with the seconds since the command's start and the event."""


@dataclass(frozen=True)
class Ran:
    """A command that has ended. ``data`` is what it printed with --json, None where that was nothing."""

    status: int
    data: Any
    error: str


@dataclass(frozen=True)
class Presented:
    """What a TLS server showed; the client has verified it."""

    der: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.der).hexdigest()


class Stage:
    """A running lab with its database made."""

    def __init__(self, lab: Lab, application: bootstrap.Application) -> None:
        self.lab = lab
        self.clock = SystemClock()
        self._world = application.world
        self._told = 0

    @classmethod
    @contextmanager
    def opened(cls, lab: Lab) -> Iterator[Stage]:
        settings = bootstrap.load_settings(lab.config_path)
        bootstrap.upgrade_database(settings)
        application = bootstrap.build(settings)
        try:
            yield cls(lab, application)
        finally:
            application.close()

    def run(self, *arguments: str, on_event: OnEvent) -> Ran:
        """Run ``dualcert`` with these arguments and ``--json``, telling its events while it works.

        LabError if it has not ended in a minute. However this is left, the command has ended.
        """
        began, deadline = self.clock.now(), self.clock.monotonic() + LONGEST_COMMAND
        with _started(*arguments, config=str(self.lab.config_path)) as process:
            said: tuple[str, str] | None = None
            while said is None:
                said = _said(process)
                if said is None and self.clock.monotonic() > deadline:
                    raise LabError(f"`{command_line(*arguments)}` has not ended in {LONGEST_COMMAND:.0f} s")
                for event in self._new_events():
                    on_event((event["at"] - began).total_seconds(), event)
        out, error = said
        lines = out.splitlines()
        return Ran(process.returncode, json.loads(lines[-1]) if lines else None, error.strip())

    def show(self, name: str) -> Any:
        """The pair as `dualcert show --json` tells it."""
        ran = self.run("show", name, on_event=lambda _at, _event: None)
        if ran.status != 0:
            raise LabError(f"`{command_line('show', name)}` said: {ran.error}")
        return ran.data

    def handshake(self, name: str) -> Presented:
        """Look at nginx as a browser would that trusts both CAs; LabError if it would not go on."""
        roots = "".join(ca.roots_pem.read_text() for ca in (self.lab.alpha, self.lab.beta))
        context = ssl.create_default_context(cadata=roots)
        context.options |= ssl.OP_NO_TICKET
        nginx = self.lab.nginx
        try:
            with (
                socket.create_connection((nginx.address, nginx.port), DEFAULT_SECONDS) as plain,
                context.wrap_socket(plain, server_hostname=name) as secured,
            ):
                leaf = secured.getpeercert(binary_form=True)
        except OSError as error:
            raise LabError(f"the handshake with nginx failed: {error}", name=name) from error
        if leaf is None:
            raise LabError("nginx presented no certificate", name=name)
        return Presented(leaf)

    def revoke_behind_its_back(self, ca: str, certificate: bytes) -> None:
        """Revoke a certificate (DER) at its CA as nobody but the CA would know it: nothing is recorded."""
        client = accounts.authority(self._world, self._world.ca(ca))
        client.revoke(certificate, Reason.CESSATION_OF_OPERATION.code)

    def status_at(self, ca: PebbleServer, serial: str) -> str:
        """What the CA itself says of one of its certificates: ``Valid`` or ``Revoked``."""
        url = f"{ca.management_url}/cert-status-by-serial/{serial}"
        try:
            code, body = fetch(url, ca.api_ca_pem)
        except (OSError, http.client.HTTPException) as error:
            raise LabError(f"{url} does not answer: {error}", ca=ca.name) from error
        if code != http.HTTPStatus.OK:
            raise LabError(f"{url} answered {code}", ca=ca.name)
        return str(json.loads(body)["Status"])

    def _new_events(self) -> list[dict[str, Any]]:
        found = list(history.tell(self._world, None))[self._told :]
        self._told += len(found)
        return found


def command_line(*arguments: str) -> str:
    """As a person types it."""
    return shlex.join(["dualcert", *arguments])


def _said(process: subprocess.Popen[str]) -> tuple[str, str] | None:
    """What it wrote to stdout and stderr, once it has ended; None while it works."""
    try:
        return process.communicate(timeout=_LOOK_EVERY)
    except subprocess.TimeoutExpired:
        return None


@contextmanager
def _started(*arguments: str, config: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*die_with_us(), sys.executable, "-P", "-m", "dualcert.cli", *arguments, "--json"],
        env={**os.environ, "DUALCERT_CONFIG": config},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A Ctrl-C at the terminal is the demo's; it ends the command below, once.
        process_group=0,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.communicate(timeout=_GRACE)
                except subprocess.TimeoutExpired:
                    process.kill()

"""The reload that is owed from the moment before files are switched until it has succeeded."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager

from dualcert.clock import Clock
from dualcert.errors import DeployError
from dualcert.plugins.deploy.files.command import run
from dualcert.plugins.deploy.files.durable import sync
from dualcert.plugins.deploy.files.lock import locked
from dualcert.plugins.deploy.files.options import FilesOptions
from dualcert.plugins.deploy.files.problems import explained

_MARKER = ".reload-owed"
_LOCK = ".reload.lock"


class Activation:
    """Remembers in a file that a reload is owed, so that a kill or a failure between switch and reload is made up for.

    Each batch writes a token of its own into the file. Whoever reloads takes note of the token first and removes the
    file only if it still holds that token afterwards: a batch switched while a reload ran is owed another one.
    Those who wait for a running reload find, when it is their turn, either a token, and reload once for all of them,
    or none, and know that a reload began after their own switch and succeeded.
    """

    def __init__(
        self, options: FilesOptions, clock: Clock, switch_lock: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._argv = options.reload
        self._timeout = options.reload_timeout
        self._variables = options.environment
        self._directory = options.directory
        self._marker = options.directory / _MARKER
        self._clock = clock
        self._switch_lock = switch_lock

    def owe(self) -> None:
        """Note that a reload is owed; under the switch lock, before the first switch."""
        if not self._argv:
            return
        with explained("write", self._marker):
            descriptor = os.open(
                self._marker, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            try:
                os.write(descriptor, secrets.token_bytes(8))
            finally:
                os.close(descriptor)
            sync(self._directory)  # that the file is there counts after a power cut, not what it holds

    def owed(self) -> bool:
        """Whether a reload is wanted; under the switch lock."""
        return bool(self._argv) and self._token() is not None

    def settle(self) -> None:
        """Reload unless somebody else has done it since; not under the switch lock. DeployError when it fails."""
        patience = (
            2 * self._timeout + 30
        )  # one reload that runs, one that is folded for those who came before us
        with locked(self._directory / _LOCK, patience=patience, clock=self._clock):
            with self._switch_lock():
                token = self._token()
            if token is None:
                return
            run(self._argv, timeout=self._timeout, clock=self._clock, variables=self._variables)
            with self._switch_lock():
                if self._token() == token:
                    # Not made durable: should the file come back after a power cut, the server is reloaded once more.
                    with explained("remove", self._marker):
                        self._marker.unlink()

    def check(self) -> None:
        """DeployError where there is no such command."""
        if self._argv and shutil.which(self._argv[0]) is None:
            raise DeployError(
                f"there is no reload command {self._argv[0]!r} that can be executed",
                remedy="name it with its whole path, or see that it is on PATH and executable",
            )

    def _token(self) -> bytes | None:
        with explained("read", self._marker):
            try:
                return self._marker.read_bytes()
            except FileNotFoundError:
                return None

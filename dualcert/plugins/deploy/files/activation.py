"""The reload that is owed from the moment before files are switched until it has succeeded."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from dualcert.clock import Clock
from dualcert.errors import DeployError
from dualcert.plugins.deploy.files.command import run
from dualcert.plugins.deploy.files.durable import sync
from dualcert.plugins.deploy.files.home import VERSIONS
from dualcert.plugins.deploy.files.lock import locked
from dualcert.plugins.deploy.files.options import FilesOptions
from dualcert.plugins.deploy.files.problems import explained

_LOCK = ".reload.lock"
_SWITCHED = ".switched"
_RELOADED = ".reloaded-"
_DIGITS = 16


class Activation:
    """Remembers beside the versions which batch was switched last, and up to which one each command has reloaded, so
    that a kill or a failure between switch and reload is made up for.

    Each batch leaves a token of its own. Whoever reloads takes note of it first, and writes it down afterwards: a batch
    switched while a reload ran has left another one, and is owed another reload. Those who wait for a running reload
    find, when it is their turn, either a token that is not done, and reload once for all of them, or know that a
    reload began after their own switch and succeeded. Several targets may have one folder: what is switched for one is
    there for all, and each one's server is owed a reload.

    Tokens are what symbolic links say: a link is never half written.
    """

    def __init__(
        self, options: FilesOptions, clock: Clock, switch_lock: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._argv = options.reload
        self._timeout = options.reload_timeout
        self._variables = options.environment
        self._directory = options.directory
        versions = options.directory / VERSIONS
        self._switched = versions / _SWITCHED
        self._reloaded = versions / f"{_RELOADED}{_name_of(options.reload)}"
        self._clock = clock
        self._switch_lock = switch_lock

    def owe(self) -> None:
        """Note that a reload is owed; under the switch lock, before the first switch."""
        with explained("write", self._switched):
            self._switched.parent.mkdir(exist_ok=True)
            _note(self._switched, secrets.token_hex(_DIGITS // 2))
            if self._argv:
                sync(self._switched.parent)

    def owed(self) -> bool:
        """Whether a reload is wanted; under the switch lock."""
        return self._token() is not None

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
            # Not made durable: should it be lost in a power cut, the server is reloaded once more.
            with self._switch_lock(), explained("write", self._reloaded):
                _note(self._reloaded, token)

    def check(self) -> None:
        """DeployError where there is no such command."""
        if self._argv and shutil.which(self._argv[0]) is None:
            raise DeployError(
                f"there is no reload command {self._argv[0]!r} that can be executed",
                remedy="name it with its whole path, or see that it is on PATH and executable",
            )

    def _token(self) -> str | None:
        """Of the last switch, where this command has not reloaded since."""
        if not self._argv:
            return None
        with explained("read", self._switched):
            switched = _noted(self._switched)
            return None if switched == _noted(self._reloaded) else switched


def _name_of(argv: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(argv).encode("utf-8", "surrogateescape")).hexdigest()[:_DIGITS]


def _note(place: Path, token: str) -> None:
    coming = place.with_name(f"{place.name}.next")
    coming.unlink(missing_ok=True)
    coming.symlink_to(token)
    coming.rename(place)


def _noted(place: Path) -> str | None:
    try:
        return str(place.readlink())
    except FileNotFoundError:
        return None

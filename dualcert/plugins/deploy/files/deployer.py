"""The story of a deployment to files: stage every pair, make it durable, switch, reload once."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

from dualcert.clock import Clock, SystemClock
from dualcert.errors import DeployError
from dualcert.plugins.deploy.files.activation import Activation
from dualcert.plugins.deploy.files.durable import sync, sync_file_system
from dualcert.plugins.deploy.files.home import VERSIONS, Home, Staged
from dualcert.plugins.deploy.files.lock import locked
from dualcert.plugins.deploy.files.options import FilesOptions
from dualcert.plugins.deploy.files.problems import explained
from dualcert.ports.deploy import Held, Placement, Version
from dualcert.ports.options import Options

_LOCK = ".lock"
_PATIENCE = 60.0  # seconds; a thousand pairs on a slow disk take about ten

# Up to here each file is synced by itself, 4 ms a pair on a plain SSD. One pass over the whole file system is faster
# for more, but waits for whatever others have written there: nothing for a single failover on a busy machine.
_SYNCED_ONE_BY_ONE = 4

_TRIAL = 16 * 1024  # bytes: about what a pair takes

_Results = dict[str, DeployError | None]


class FilesDeployer:
    """Serves pairs from PEM files below one folder (``dualcert.ports.deploy.Deployer``)."""

    options_class: ClassVar[type[Options]] = FilesOptions

    def __init__(self, options: FilesOptions, *, clock: Clock | None = None) -> None:
        self._directory = options.directory
        self._clock = clock or SystemClock()
        self._activation = Activation(options, self._clock, self._switch_lock)

    def __repr__(self) -> str:
        return f"FilesDeployer({str(self._directory)!r})"

    def deploy(self, placements: Sequence[Placement]) -> Mapping[str, DeployError | None]:
        newest: dict[str, Placement] = {}
        for placement in placements:
            if placement.pair not in newest or newest[placement.pair].version < placement.version:
                newest[placement.pair] = placement
        results: _Results = dict.fromkeys(newest)
        with explained("make", self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
        with self._switch_lock():
            self._switch(self._staged(newest.values(), results), results)
            owed = self._activation.owed()
        if owed and None in results.values():
            try:
                self._activation.settle()
            except DeployError as error:
                _fail(_unharmed(results), error, results)
        return results

    def read_back(self, pairs: Sequence[str]) -> Mapping[str, Held | None]:
        return {pair: Home(self._directory, pair).held() for pair in pairs}

    def purge(self, pair: str, keep: Version) -> None:
        home = Home(self._directory, pair)
        if home.stands():
            with self._switch_lock():
                home.purge(keep)

    def remove(self, pair: str) -> None:
        """Also reloads: the server forgets the key only then. Its configuration must not name the files any more."""
        home = Home(self._directory, pair)
        if not self._directory.is_dir():
            return
        with self._switch_lock():
            if home.stands():
                self._activation.owe()
                home.remove()
            owed = self._activation.owed()
        if owed:
            self._activation.settle()

    def place(self) -> str:
        return os.path.realpath(self._directory)

    def check(self) -> None:
        with explained("make", self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
        versions = self._directory / VERSIONS
        # Not beside the pairs where that can be avoided: a server may watch that folder.
        trial = (versions if versions.is_dir() else self._directory) / f".trial-{secrets.token_hex(6)}"
        with explained("write", trial):
            try:
                trial.write_bytes(b"x" * _TRIAL)
                sync(trial)
            finally:
                trial.unlink(missing_ok=True)
        self._activation.check()

    def _switch_lock(self) -> AbstractContextManager[None]:
        return locked(self._directory / _LOCK, patience=_PATIENCE, clock=self._clock)

    def _staged(self, placements: Iterable[Placement], results: _Results) -> list[Staged]:
        """Write what is not served yet, down to the disk."""
        written: list[Staged] = []
        for placement in placements:
            try:
                staged = Home(self._directory, placement.pair).stage(placement)
            except DeployError as error:
                results[placement.pair] = error
            else:
                if staged is not None:
                    written.append(staged)
        return self._durable(written, results)

    def _durable(self, written: list[Staged], results: _Results) -> list[Staged]:
        if len(written) > _SYNCED_ONE_BY_ONE:
            try:
                if sync_file_system(self._directory / VERSIONS):
                    return written
            except OSError:
                pass  # it does not tell whose data could not be written: ask file by file
        kept: list[Staged] = []
        for staged in written:
            try:
                staged.sync()
            except DeployError as error:
                staged.discard()
                results[staged.home.pair] = error
            else:
                kept.append(staged)
        return kept

    def _switch(self, staged: list[Staged], results: _Results) -> None:
        if not staged:
            return
        try:
            self._activation.owe()
        except DeployError as error:
            for one in staged:
                one.discard()
            _fail([one.home.pair for one in staged], error, results)
            return
        switched: list[str] = []
        for one in staged:
            try:
                one.switch()
            except DeployError as error:
                one.discard()
                results[one.home.pair] = error
            else:
                switched.append(one.home.pair)
        try:
            with explained("write", self._directory):
                sync(self._directory)
        except DeployError as error:
            _fail(switched, error, results)


def _unharmed(results: _Results) -> list[str]:
    return [pair for pair, error in results.items() if error is None]


def _fail(pairs: Iterable[str], error: DeployError, results: _Results) -> None:
    """One failure that concerns several pairs, as an error of each."""
    for pair in pairs:
        own = DeployError(error.reason, remedy=error.remedy, name=pair)
        own.__cause__ = error
        results[pair] = own

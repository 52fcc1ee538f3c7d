"""One pair's place in the folder: a symbolic link, and beside it the versions that it may point to.

``DIRECTORY/PAIR`` is a link to ``.versions/PAIR/EPOCH-CERTIFICATE-FINGERPRINT``, relative so that the folder can be
moved or mounted elsewhere. A version is written whole before the link is renamed over the old one. What stands among
the versions, is not served and is not older than what is about to be written was left by a run that did not end.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from dualcert.errors import DeployError, OlderEpoch
from dualcert.plugins.deploy.files import pem
from dualcert.plugins.deploy.files.durable import sync
from dualcert.plugins.deploy.files.problems import explained
from dualcert.ports.deploy import Held, Placement, Version, folder_name

VERSIONS = ".versions"
_NEXT = ".next"
_FINGERPRINT_DIGITS = 16
_VERSION = re.compile(rf"(\d+)-(\d+)-[0-9a-f]{{{_FINGERPRINT_DIGITS}}}(?:\.\d+)?")


@dataclass(frozen=True)
class Staged:
    """A version that is written and not served yet."""

    home: Home
    folder: Path
    first: bool  # the pair had no folder for its versions before

    def sync(self) -> None:
        with explained("write", self.folder, pair=self.home.pair):
            if self.first:
                sync(self.folder.parent.parent)
            sync(self.folder.parent)
            sync(self.folder)
            for name in pem.FILES:
                sync(self.folder / name)

    def switch(self) -> None:
        self.home.point_to(self.folder)

    def discard(self) -> None:
        """Take it away again; if that fails too, the pair's next deployment does it."""
        with contextlib.suppress(OSError):
            _forget(self.folder)


class Home:
    """Everything but ``held`` is called under the switch lock."""

    def __init__(self, directory: Path, pair: str) -> None:
        folder = folder_name(pair)
        if not folder or folder.startswith(".") or "/" in folder or "\0" in folder:
            raise DeployError("not a name that a folder can have", name=pair)
        self.pair = pair
        self._directory = directory
        self._link = directory / folder
        self._versions = directory / VERSIONS / folder
        self._prefix = f"{VERSIONS}/{folder}/"

    def stage(self, placement: Placement) -> Staged | None:
        """Write a version; None where it is served already, byte for byte."""
        contents = pem.contents(placement)
        served = self._served()
        if served is not None:
            held = _version(served.name)
            if held > placement.version:
                raise OlderEpoch(
                    f"the target holds epoch {held.epoch}, certificate {held.certificate}, which is newer than "
                    f"epoch {placement.version.epoch}, certificate {placement.version.certificate}",
                    remedy="nothing to do: what is newer stays",
                    name=self.pair,
                )
        with explained("clean", self._versions, pair=self.pair):
            for leftover in self._unserved(served):
                if _version(leftover.name) >= placement.version:
                    _forget(leftover)
        if served is not None and _version(served.name) == placement.version and pem.same(served, contents):
            return None
        fingerprint = pem.fingerprint(contents["cert.pem"])
        assert fingerprint is not None  # noqa: S101 - contents() has refused what is not a certificate
        epoch, certificate = placement.version
        return self._write(f"{epoch}-{certificate}-{fingerprint.hex()[:_FINGERPRINT_DIGITS]}", contents)

    def _write(self, name: str, contents: dict[str, bytes]) -> Staged:
        with explained("write", self._versions / name, pair=self.pair):
            _make(self._versions.parent)
            first = _make(self._versions)
            # The plain name is taken where the served version was damaged and is written anew.
            names = (name if n == 1 else f"{name}.{n}" for n in count(1))
            folder = next(path for path in map(self._versions.joinpath, names) if not os.path.lexists(path))
            staged = Staged(self, folder, first)
            try:
                _make(folder)
                pem.write(folder, contents)
            except OSError:
                staged.discard()
                raise
        return staged

    def point_to(self, folder: Path) -> None:
        """Serve a version from now on: one rename."""
        coming = self._versions / _NEXT
        with explained("switch", self._link, pair=self.pair):
            coming.unlink(missing_ok=True)
            coming.symlink_to(self._prefix + folder.name)
            coming.rename(self._link)

    def held(self) -> Held | None:
        """What stands there now; needs no lock."""
        while True:
            served = self._reading()
            if served is None:
                return None
            folder, ours = served
            with explained("read", folder, pair=self.pair):
                fingerprint = pem.read_fingerprint(folder, whole=ours)
            # Switched and purged between the two looks: look again. Each turn of this loop is another switch.
            if fingerprint is None and self._reading() != served:
                continue
            if fingerprint is None:
                return None
            return Held(fingerprint, _version(folder.name) if ours else None)

    def purge(self, keep: Version) -> None:
        """Remove every version that is older than ``keep`` and not served."""
        with explained("purge", self._versions, pair=self.pair):
            older = [path for path in self._unserved(self._served()) if _version(path.name) < keep]
            for path in older:
                _forget(path)
            if older:
                sync(self._versions)

    def stands(self) -> bool:
        return os.path.lexists(self._link) or self._versions.exists()

    def remove(self) -> None:
        """Take the link away, then the versions; DeployError where something that is not ours stands in its place."""
        foreign: DeployError | None = None
        with explained("remove", self._link, pair=self.pair):
            try:
                if self._served() is not None:
                    self._link.unlink()
            except DeployError as error:
                foreign = error
            sync(self._directory)
        with explained("remove", self._versions, pair=self.pair):
            if self._versions.exists():
                for path in self._unserved(None):
                    _forget(path)
                shutil.rmtree(self._versions)
                sync(self._versions.parent)
        if foreign is not None:
            raise foreign

    def _served(self) -> Path | None:
        """The version folder that the link points to; DeployError where what stands there is not our link."""
        served = self._reading()
        if served is None:
            return None
        folder, ours = served
        if not ours:
            raise DeployError(
                f"{self._link} is there and was not made by dualcert: it is left as it is",
                remedy=f"move it away (`mv {self._link} {self._link}.old`), then run `dualcert renew --due`",
                name=self.pair,
            )
        return folder

    def _reading(self) -> tuple[Path, bool] | None:
        """Where a reader of the pair's files ends up, and whether we made it."""
        with explained("look at", self._link, pair=self.pair):
            try:
                text = os.readlink(self._link)  # noqa: PTH115 - the text itself counts, a Path would normalise it
            except FileNotFoundError:
                return None
            except OSError:
                if not self._link.is_symlink():
                    return self._link, False
                raise
        name = text.removeprefix(self._prefix)
        if name == text or _VERSION.fullmatch(name) is None:
            return self._link, False
        return self._directory / text, True

    def _unserved(self, served: Path | None) -> Iterator[Path]:
        try:
            entries = list(self._versions.iterdir())
        except FileNotFoundError:
            return
        yield from (path for path in entries if path != served and _VERSION.fullmatch(path.name))


def _version(name: str) -> Version:
    match = _VERSION.fullmatch(name)
    assert match is not None  # noqa: S101 - only names that matched get here
    return Version(int(match[1]), int(match[2]))


def _make(folder: Path) -> bool:
    """A folder that others may enter, whatever the umask says (its files know who may read them); was it missing?"""
    try:
        folder.mkdir(0o755)
    except FileExistsError:
        missing = False
    else:
        missing = True
    # Looked at each time: a run may have ended between making it and this line.
    if folder.stat().st_mode & 0o755 != 0o755:
        folder.chmod(0o755)
    return missing


def _forget(folder: Path) -> None:
    """Remove a version, its keys first."""
    for name in pem.PRIVATE:
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)

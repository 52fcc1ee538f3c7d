"""The files that hold a domain's KEKs.

``path`` holds the KEK that wraps: 32 bytes in base64 on one line. An older one that still opens lies beside it, in a
file of its own with its id behind the name (``primary.kek.e57ec889962fccd3``), and one that will take its place in
``primary.kek.next``. A KEK is replaced by one rename, so at every moment there is exactly one that wraps.

Whoever wraps holds a shared lock (flock) on the file of the KEK that it uses, by whatever name, until the wrapped key
is stored; an older KEK is removed under an exclusive lock on its file.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import hmac
import os
import pwd
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dualcert.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY, ID = 32, 8
"""How many bytes a KEK and its id have."""

_LONGEST = 4096

Version = tuple[int, int, int]
"""Device, inode and time of the last change: which state of a file was read."""


@dataclass(frozen=True, repr=False)
class Kek:
    key: bytes
    id: bytes
    version: Version

    @cached_property
    def cipher(self) -> AESGCM:
        # Every command looks at the KEKs, few use them: importing this is a twentieth of what a `list` takes.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self.key)


class Hold:
    """While it lives, the KEK that it names is not removed by anybody (``dualcert.ports.keys.KekHold``)."""

    def __init__(self, kek: Kek, descriptor: int) -> None:
        self.key_id = kek.id.hex()
        self.version = kek.version
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)


def read(path: Path, domain: str) -> Kek:
    """ConfigurationError where there is no file with a KEK that its owner alone can read."""
    descriptor = _opened(path, domain)
    try:
        status = os.fstat(descriptor)
        _check(status, path, domain)
        key = _decoded(os.read(descriptor, _LONGEST), path, domain)
    finally:
        os.close(descriptor)
    digest = hmac.digest(key, b"dualcert key id", "sha256")
    return Kek(key, hashlib.sha256(digest).digest()[:ID], _version(status))


def version(path: Path, domain: str) -> Version:
    """Of the file that stands there now. ConfigurationError where there is none."""
    try:
        return _version(path.stat())
    except OSError as error:
        raise _unreadable(path, domain, error) from error


def _version(status: os.stat_result) -> Version:
    return status.st_dev, status.st_ino, status.st_mtime_ns


def hold(path: Path, domain: str, current: Callable[[], Kek]) -> Hold:
    """Keep the KEK that wraps now from being removed; ``current`` reads it where it has changed."""
    while True:
        descriptor = _opened(path, domain)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            kek = current()
            if kek.version == _version(os.fstat(descriptor)):
                found = Hold(kek, descriptor)
                descriptor = -1
                return found
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def older_path(path: Path, kek_id: bytes) -> Path:
    # Beside the file itself, not beside a link that leads to it: there the rename takes place.
    real = path.resolve()
    return real.with_name(f"{real.name}.{kek_id.hex()}")


def older(path: Path, domain: str, kek_id: bytes) -> Kek | None:
    """A KEK that wraps no more. ConfigurationError where its file holds something else."""
    place = older_path(path, kek_id)
    if not place.exists():
        return None
    found = read(place, domain)
    if found.id != kek_id:
        raise ConfigurationError(
            f"{place} holds the KEK {found.id.hex()}, which is not the one that its name says",
            remedy="give each older KEK its own name again, or bring the file back from a backup",
        )
    return found


def older_ids(path: Path) -> list[str]:
    """The ids of all KEKs that lie beside the one in ``path``."""
    real = path.resolve()
    named = re.compile(rf"{re.escape(real.name)}\.([0-9a-f]{{{2 * ID}}})")
    found = (named.fullmatch(file.name) for file in real.parent.iterdir())
    return sorted(match[1] for match in found if match)


def create(path: Path) -> None:
    """Make a KEK where there is none, for its owner alone. ConfigurationError where something stands at ``path``."""
    try:
        made = _make_folder(path.parent)
        _write_new(path)
        for folder in (path.parent, *made):
            _sync_folder(folder)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write the KEK {path}: {os.strerror(error.errno or 0)}",
            remedy="let `path` name a place where dualcert may write",
        ) from error


def following(path: Path, domain: str) -> Kek | None:
    """The KEK that was prepared. ConfigurationError where others can read it or it is none."""
    place = _next_path(path)
    return read(place, domain) if place.exists() else None


def _next_path(path: Path) -> Path:
    real = path.resolve()
    return real.with_name(f"{real.name}.next")


def prepare(path: Path, domain: str) -> Kek:
    """Make the KEK that will take the current one's place; one that is there already is kept."""
    with _changing(path):
        return _prepared(path, domain)


def replace(path: Path, domain: str) -> None:
    """Put the next KEK, a new one if none was prepared, in the place of the current, which keeps its file.

    Cut off anywhere it leaves the one or the other: a rename is all that counts. ConfigurationError where the folder
    does not allow it.
    """
    real = path.resolve()
    with _changing(path):
        current = read(path, domain)
        _prepared(path, domain)
        link = real.with_name(f"{real.name}.link")
        link.unlink(missing_ok=True)
        # The same file, not a copy: whoever holds the KEK now has locked it.
        link.hardlink_to(real)
        link.replace(older_path(path, current.id))
        link.unlink(missing_ok=True)  # a rename onto another name of the same file does nothing
        _sync_folder(real.parent)
        _next_path(path).replace(real)
        _sync_folder(real.parent)


def _prepared(path: Path, domain: str) -> Kek:
    real, place = path.resolve(), _next_path(path)
    found = following(path, domain)
    if found is not None and found.id != read(path, domain).id:
        return found
    # A copy of the current one is none; what a process left behind that was cut off has never been seen.
    fresh = real.with_name(f"{real.name}.new")
    for left in (place, fresh):
        left.unlink(missing_ok=True)
    _write_new(fresh, real.stat())
    fresh.replace(place)
    _sync_folder(real.parent)
    return read(place, domain)


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    folder = path.resolve().parent
    try:
        with _locked_folder(folder):
            yield
    except OSError as error:
        raise ConfigurationError(
            f"cannot put a new KEK in the place of {path}: {os.strerror(error.errno or 0)}",
            remedy=f"run this as the user that owns {folder}, on a file system that knows hard links",
        ) from error


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """One change at a time."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove(path: Path, kek_id: bytes, unused: Callable[[], bool]) -> bool:
    """Remove an older KEK, if ``unused`` says so while nobody can be wrapping under it. True where it is gone."""
    place = older_path(path, kek_id)
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not unused():
            return False
        place.unlink()
        _sync_folder(place.parent)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ConfigurationError(
            f"cannot remove the older KEK {place}: {os.strerror(error.errno or 0)}",
            remedy=f"run this as the user that owns {place.parent}",
        ) from error
    finally:
        os.close(descriptor)
    return True


# --- one file --------------------------------------------------------------------------------------------


def _opened(path: Path, domain: str) -> int:
    # O_NONBLOCK: a FIFO in its place must not hang us before its kind is known.
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(path, domain, error) from error


def _unreadable(path: Path, domain: str, error: OSError) -> ConfigurationError:
    if isinstance(error, FileNotFoundError):
        return ConfigurationError(
            f"the KEK of domain {domain!r} is missing: {path}",
            remedy="bring it back from a backup; only where nothing was wrapped under it yet, `dualcert init` makes it",
        )
    return ConfigurationError(
        f"cannot read the KEK of domain {domain!r}, {path}: {os.strerror(error.errno or 0)}",
        remedy=f"run dualcert as the user that owns {path}",
    )


def _check(status: os.stat_result, path: Path, domain: str) -> None:
    """Refuse what others can read or could have put there."""
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(
            f"the KEK of domain {domain!r} is not a regular file: {path}",
            remedy="let `path` name the file that `dualcert init` made",
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigurationError(
            f"the KEK of domain {domain!r} belongs to another user (uid {status.st_uid}): {path}",
            remedy=f"run dualcert as that user: runuser -u {_called(status.st_uid)} -- dualcert ...",
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigurationError(
            f"the KEK of domain {domain!r} can be read or written by others "
            f"(mode {stat.S_IMODE(status.st_mode):04o}): {path}",
            remedy=f"chmod 600 {path}",
        )


def _called(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _decoded(text: bytes, path: Path, domain: str) -> bytes:
    if not text.strip():
        # `create` was cut off before it wrote: nothing can have been wrapped under it.
        raise ConfigurationError(
            f"the KEK of domain {domain!r} is empty: {path}",
            remedy=f"rm {path}, then run `dualcert init`; if keys were wrapped under it, bring it back from a backup",
        )
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY:
        raise ConfigurationError(
            f"the KEK of domain {domain!r} is not 32 bytes in base64 on one line: {path}",
            remedy="bring it back from a backup: what was wrapped under it opens with nothing else",
        )
    return key


def _write_new(path: Path, like: os.stat_result | None = None) -> None:
    """A fresh KEK in a new file, on the disk when this returns; of the same owner as ``like``."""
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError as error:
        raise ConfigurationError(
            f"{path} exists already and is kept", remedy="choose another path for a new KEK"
        ) from error
    try:
        if like is not None and (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
            # Whoever else reads the old one must be able to read the new one.
            os.fchown(descriptor, like.st_uid, like.st_gid)
        _write_all(descriptor, base64.b64encode(secrets.token_bytes(KEY)) + b"\n")
        os.fsync(descriptor)
    except OSError:
        with suppress(FileNotFoundError):
            path.unlink()
        raise
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it, for their owner alone; the folders whose entries are new."""
    if folder.is_dir():
        return []
    changed = _make_folder(folder.parent)
    folder.mkdir(0o700)
    return [folder.parent, *changed]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

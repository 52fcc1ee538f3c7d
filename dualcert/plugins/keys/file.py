"""The ``file`` protector: the KEK of an isolation domain is a file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dualcert.errors import ConfigurationError, KeyProblem, KeyUnreadable
from dualcert.ports.keys import KeyContext
from dualcert.ports.options import Options, option

# A wrapped key: the format's number, the KEK's id, a nonce and the data key under the KEK, a nonce and the secret under
# the data key. Random nonces are safe under one KEK for 2^32 wraps (NIST SP 800-38D, section 8.3).
_FORMAT = b"\x01"
_KEY, _ID, _NONCE, _TAG = 32, 8, 12, 16
_WRAPPED_KEY = _NONCE + _KEY + _TAG
_HEAD = len(_FORMAT) + _ID
_SHORTEST = _HEAD + _WRAPPED_KEY + _NONCE + _TAG
_LONGEST_KEK_FILE = 4096


@dataclass(frozen=True, kw_only=True)
class FileKeyOptions(Options):
    summary: ClassVar[str] = "a key-encryption key in a file that its owner alone can read"

    path: Path = option(help="the file that holds the key-encryption key; `dualcert init` makes it")


@dataclass(frozen=True, repr=False)
class _Kek:
    cipher: AESGCM
    id: bytes


class FileKeyProtector:
    """Envelopes of AES-256-GCM under a KEK that is read once, when first needed (``dualcert.ports.keys.KeyProtector``).

    Each secret has a data key of its own, which the KEK wraps. Domain, subject, purpose, format and key id are bound
    to both layers as associated data. The key id does not depend on the domain: two domains that share a KEK show it.
    """

    options_class: ClassVar[type[Options]] = FileKeyOptions

    def __init__(self, domain: str, options: FileKeyOptions) -> None:
        self._domain = domain
        self._path = options.path
        self._lock = threading.Lock()
        self._loaded: _Kek | None = None

    def __repr__(self) -> str:
        return f"FileKeyProtector({self._domain!r}, {str(self._path)!r})"

    @property
    def key_id(self) -> str:
        return self._kek().id.hex()

    def wrap(self, secret: bytes, context: KeyContext) -> bytes:
        """KeyProblem for a context of another domain."""
        if context.domain != self._domain:
            raise KeyProblem(
                f"a key of domain {context.domain!r} was to be wrapped under the KEK of domain {self._domain!r}",
                remedy="this is a fault in dualcert: please report it",
            )
        kek = self._kek()
        head = _FORMAT + kek.id
        drawn = secrets.token_bytes(_KEY + 2 * _NONCE)
        key, outer, inner = drawn[:_KEY], drawn[_KEY:-_NONCE], drawn[-_NONCE:]
        wrapped_key = kek.cipher.encrypt(outer, key, _bound(b"data key", head, context))
        sealed = AESGCM(key).encrypt(inner, secret, _bound(b"secret", head, context))
        return b"".join((head, outer, wrapped_key, inner, sealed))

    def unwrap(self, wrapped: bytes, context: KeyContext) -> bytes:
        kek = self._kek()
        head, rest = wrapped[:_HEAD], wrapped[_HEAD:]
        if len(wrapped) < _SHORTEST or not wrapped.startswith(_FORMAT):
            raise self._unreadable("is not in a format that this dualcert knows", kek, None)
        stored = head[len(_FORMAT) :]
        if stored != kek.id:
            raise self._unreadable("was wrapped under another KEK", kek, stored)
        if context.domain != self._domain:
            raise self._unreadable(f"is asked for as one of domain {context.domain!r}", kek, stored)
        outer, wrapped_key, inner, sealed = (
            rest[:_NONCE],
            rest[_NONCE:_WRAPPED_KEY],
            rest[_WRAPPED_KEY : _WRAPPED_KEY + _NONCE],
            rest[_WRAPPED_KEY + _NONCE :],
        )
        try:
            key = kek.cipher.decrypt(outer, wrapped_key, _bound(b"data key", head, context))
            return AESGCM(key).decrypt(inner, sealed, _bound(b"secret", head, context))
        except InvalidTag:
            why = f"was changed, or belongs to something else than {context.purpose} {context.subject[:16]}"
            raise self._unreadable(why, kek, stored) from None

    @staticmethod
    def create(path: Path) -> None:
        """Make a new KEK file, 0600, and its folder, 0700, where that is missing.

        ConfigurationError where something stands at ``path`` already, which is never overwritten, or it cannot be
        written.
        """
        try:
            made = _make_folder(path.parent)
            descriptor = _new_file(path)
            try:
                _write_all(descriptor, base64.b64encode(secrets.token_bytes(_KEY)) + b"\n")
                os.fsync(descriptor)
            except OSError:
                path.unlink()
                raise
            finally:
                os.close(descriptor)
            for folder in (path.parent, *made):
                _sync_folder(folder)
        except OSError as error:
            raise ConfigurationError(
                f"cannot write the KEK {path}: {os.strerror(error.errno or 0)}",
                remedy="let `path` name a place where dualcert may write",
            ) from error

    def _kek(self) -> _Kek:
        if self._loaded is None:
            with self._lock:
                if self._loaded is None:
                    key = _read(self._path, self._domain)
                    digest = hmac.digest(key, b"dualcert key id", "sha256")
                    self._loaded = _Kek(AESGCM(key), hashlib.sha256(digest).digest()[:_ID])
        return self._loaded

    def _unreadable(self, why: str, kek: _Kek, stored: bytes | None) -> KeyUnreadable:
        under = f"; it names KEK {stored.hex()}" if stored is not None else ""
        return KeyUnreadable(
            f"a wrapped key of domain {self._domain!r} does not open: it {why} "
            f"(the KEK in {self._path} is {kek.id.hex()}{under})",
            remedy=f"bring back as {self._path} the KEK that it was wrapped under, or the database as it was",
        )


def _bound(layer: bytes, head: bytes, context: KeyContext) -> bytes:
    """Associated data: every part with its length before it, so that no two contexts read alike."""
    parts = (
        b"dualcert",
        layer,
        head,
        context.domain.encode(),
        context.subject.encode(),
        context.purpose.encode(),
    )
    return b"".join(len(part).to_bytes(4) + part for part in parts)


def _read(path: Path, domain: str) -> bytes:
    # O_NONBLOCK: a FIFO in its place must not hang us before its kind is known.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"the KEK of domain {domain!r} is missing: {path}",
            remedy="`dualcert init` makes it; if keys were wrapped under it before, bring it back from a backup",
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the KEK of domain {domain!r}, {path}: {os.strerror(error.errno or 0)}",
            remedy=f"run dualcert as the user that owns {path}",
        ) from error
    try:
        _check(os.fstat(descriptor), path, domain)
        text = os.read(descriptor, _LONGEST_KEK_FILE)
    finally:
        os.close(descriptor)
    return _decoded(text, path, domain)


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
            remedy=f"chown {os.geteuid()} {path}",
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigurationError(
            f"the KEK of domain {domain!r} can be read or written by others "
            f"(mode {stat.S_IMODE(status.st_mode):04o}): {path}",
            remedy=f"chmod 600 {path}",
        )


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
    if len(key) != _KEY:
        raise ConfigurationError(
            f"the KEK of domain {domain!r} is not 32 bytes in base64 on one line: {path}",
            remedy="bring it back from a backup: what was wrapped under it opens with nothing else",
        )
    return key


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it, for their owner alone; the folders whose entries are new."""
    if folder.is_dir():
        return []
    changed = _make_folder(folder.parent)
    folder.mkdir(0o700)
    return [folder.parent, *changed]


def _new_file(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError as error:
        raise ConfigurationError(
            f"{path} exists already and is kept", remedy="choose another path for a new KEK"
        ) from error


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

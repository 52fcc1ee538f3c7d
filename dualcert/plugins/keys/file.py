"""The ``file`` protector: the KEK of an isolation domain is a file."""

from __future__ import annotations

import secrets
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dualcert.errors import KeyProblem, KeyUnreadable
from dualcert.plugins.keys import kekfile
from dualcert.plugins.keys.kekfile import ID, KEY, Hold, Kek
from dualcert.ports.keys import KeyContext
from dualcert.ports.options import Options, option

# A wrapped key: the format's number, the KEK's id, a nonce and the data key under the KEK, a nonce and the secret under
# the data key. Random nonces are safe under one KEK for 2^32 wraps (NIST SP 800-38D, section 8.3).
_FORMAT = b"\x01"
_NONCE, _TAG = 12, 16
_WRAPPED_KEY = _NONCE + KEY + _TAG
_HEAD = len(_FORMAT) + ID
_SHORTEST = _HEAD + _WRAPPED_KEY + _NONCE + _TAG


@dataclass(frozen=True, kw_only=True)
class FileKeyOptions(Options):
    summary: ClassVar[str] = "a key-encryption key in a file that its owner alone can read"

    path: Path = option(help="the file that holds the key-encryption key; `dualcert init` makes it")


class FileKeyProtector:
    """Envelopes of AES-256-GCM under a KEK in a file (``dualcert.ports.keys.RotatingKeyProtector``).

    Each secret has a data key of its own, which the KEK wraps. Domain, subject, purpose, format and key id are bound
    to both layers as associated data. The key id does not depend on the domain: two domains that share a KEK show it.

    Before it wraps it looks whether the file is still the one that it has read; to open it looks again only where a
    wrapped key names a KEK that it does not know.
    """

    options_class: ClassVar[type[Options]] = FileKeyOptions

    def __init__(self, domain: str, options: FileKeyOptions) -> None:
        self._domain = domain
        self._path = options.path
        self._lock = threading.Lock()
        self._current: Kek | None = None
        self._known: dict[bytes, Kek] = {}
        # One for all who wrap at the same time, so that a thousand keys do not take a thousand open files.
        self._hold: Callable[[], Hold | None] = lambda: None

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
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        kek = self._kek()
        head = _FORMAT + kek.id
        drawn = secrets.token_bytes(KEY + 2 * _NONCE)
        key, outer, inner = drawn[:KEY], drawn[KEY:-_NONCE], drawn[-_NONCE:]
        wrapped_key = kek.cipher.encrypt(outer, key, _bound(b"data key", head, context))
        sealed = AESGCM(key).encrypt(inner, secret, _bound(b"secret", head, context))
        return b"".join((head, outer, wrapped_key, inner, sealed))

    def unwrap(self, wrapped: bytes, context: KeyContext) -> bytes:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        head, rest = wrapped[:_HEAD], wrapped[_HEAD:]
        if len(wrapped) < _SHORTEST or not wrapped.startswith(_FORMAT):
            raise self._unreadable("is not in a format that this dualcert knows", None)
        stored = head[len(_FORMAT) :]
        kek = self._kek_named(stored)
        if kek is None:
            raise self._unreadable("was wrapped under another KEK", stored)
        if context.domain != self._domain:
            raise self._unreadable(f"is asked for as one of domain {context.domain!r}", stored)
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
            raise self._unreadable(why, stored) from None

    # --- replacing the KEK -------------------------------------------------------------------------------

    def hold_kek(self) -> Hold:
        with self._lock:
            hold = self._hold()
            if hold is None or kekfile.version(self._path, self._domain) != hold.version:
                hold = kekfile.hold(self._path, self._domain, self._read_again)
                self._hold = weakref.ref(hold)
            return hold

    def older_keks(self) -> tuple[str, ...]:
        current = self._kek().id.hex()
        # A replacement that was cut off has left the current one under an older one's name as well.
        return tuple(one for one in kekfile.older_ids(self._path) if one != current)

    def next_kek(self) -> str | None:
        found = kekfile.following(self._path, self._domain)
        return None if found is None or found.id == self._kek().id else found.id.hex()

    def prepare_kek(self) -> str:
        return kekfile.prepare(self._path, self._domain).id.hex()

    def new_kek(self) -> str:
        kekfile.replace(self._path, self._domain)
        return self.key_id

    def drop_kek(self, key_id: str, unused: Callable[[], bool]) -> bool:
        if key_id == self.key_id:
            raise KeyProblem(
                f"the KEK {key_id} of domain {self._domain!r} is the one that wraps",
                remedy="this is a fault in dualcert: please report it",
            )
        kek_id = bytes.fromhex(key_id)
        gone = kekfile.remove(self._path, kek_id, unused)
        if gone:
            with self._lock:
                self._known.pop(kek_id, None)
        return gone

    @staticmethod
    def create(path: Path) -> None:
        """Make a new KEK file, 0600, and its folder, 0700, where that is missing.

        ConfigurationError where something stands at ``path`` already, which is never overwritten, or it cannot be
        written.
        """
        kekfile.create(path)

    # --- what is known of the files ----------------------------------------------------------------------

    def _kek(self) -> Kek:
        """The one that wraps now."""
        with self._lock:
            return self._read_again()

    def _read_again(self) -> Kek:
        found = self._current
        if found is None or kekfile.version(self._path, self._domain) != found.version:
            found = self._current = kekfile.read(self._path, self._domain)
            self._known[found.id] = found
        return found

    def _kek_named(self, kek_id: bytes) -> Kek | None:
        with self._lock:
            if kek_id not in self._known:
                self._read_again()
            if kek_id not in self._known:
                found = kekfile.older(self._path, self._domain, kek_id)
                found = found or kekfile.following(self._path, self._domain)
                if found is not None:
                    self._known[found.id] = found
            return self._known.get(kek_id)

    def _unreadable(self, why: str, stored: bytes | None) -> KeyUnreadable:
        under = f"; it names KEK {stored.hex()}" if stored is not None else ""
        return KeyUnreadable(
            f"a wrapped key of domain {self._domain!r} does not open: it {why} "
            f"(the KEK in {self._path} is {self._last_read().id.hex()}{under})",
            remedy=f"bring back as {self._path} the KEK that it was wrapped under, or the database as it was",
        )

    def _last_read(self) -> Kek:
        with self._lock:
            return self._current or self._read_again()


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

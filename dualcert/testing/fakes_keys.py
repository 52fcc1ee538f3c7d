"""A key protector without a file, for tests of what stores keys. It passes the conformance suite of real ones."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dualcert.errors import KeyProblem, KeyUnreadable
from dualcert.ports.keys import KeyContext
from dualcert.ports.options import Options, option

_NONCE = 12


@dataclass(frozen=True, kw_only=True)
class FakeKeyProtectorOptions(Options):
    summary: ClassVar[str] = "a key-encryption key made from a word, for tests"

    word: str = option(help="another word, another key", default="")


class FakeKeyProtector:
    """Opens what another one of the same domain and word has wrapped; nothing at all while ``broken``."""

    options_class: ClassVar[type[Options]] = FakeKeyProtectorOptions

    def __init__(self, domain: str, options: FakeKeyProtectorOptions) -> None:
        self._domain = domain
        kek = hashlib.sha256(f"{domain}\0{options.word}".encode()).digest()
        self._cipher = AESGCM(kek)
        self._key_id = hashlib.sha256(kek).hexdigest()[:16]
        self.broken = False

    def __repr__(self) -> str:
        return f"FakeKeyProtector({self._domain!r})"

    @property
    def key_id(self) -> str:
        return self._key_id

    def wrap(self, secret: bytes, context: KeyContext) -> bytes:
        if context.domain != self._domain:
            raise KeyProblem(f"a key of domain {context.domain!r} was given to {self!r}")
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, secret, repr(context).encode())

    def unwrap(self, wrapped: bytes, context: KeyContext) -> bytes:
        nonce, sealed = wrapped[:_NONCE], wrapped[_NONCE:]
        try:
            if self.broken or len(wrapped) <= _NONCE or context.domain != self._domain:
                raise InvalidTag
            return self._cipher.decrypt(nonce, sealed, repr(context).encode())
        except InvalidTag:
            raise KeyUnreadable(
                f"a wrapped key of domain {self._domain!r} does not open under KEK {self._key_id}",
                remedy="bring back the KEK that it was wrapped under",
            ) from None

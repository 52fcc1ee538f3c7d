"""The port to what wraps private keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from dualcert.ports.options import Options


@dataclass(frozen=True)
class KeyContext:
    """What a wrapped key is bound to: it opens only with the same three words.

    ``subject`` is the hex SHA-256 of the public key's SubjectPublicKeyInfo; ``purpose`` is ``certificate`` or
    ``account``.
    """

    domain: str
    subject: str
    purpose: str = "certificate"


class KeyProtector(Protocol):
    """Wraps and opens the private keys of one isolation domain. Built as ``Protector(domain, options)``.

    * Two wraps of one secret differ; a wrapped key that was changed, or is opened under another context or domain,
      raises ``KeyUnreadable``.
    * ``repr`` shows neither the KEK nor a key. Both calls may come from several threads.
    * A KEK that is missing, malformed or readable by others is a ``ConfigurationError`` when first needed.
    * Wrapping needs no more authority than wrapping: a provider that can separate the two asks for the right to
      unwrap only in ``unwrap``.
    """

    options_class: ClassVar[type[Options]]

    @property
    def key_id(self) -> str:
        """Names the KEK without telling anything about it; stored beside each wrapped key."""
        ...

    def wrap(self, secret: bytes, context: KeyContext) -> bytes: ...

    def unwrap(self, wrapped: bytes, context: KeyContext) -> bytes: ...

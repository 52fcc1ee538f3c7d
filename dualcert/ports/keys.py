"""The port to what wraps private keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

from dualcert.ports.options import Options

PURPOSES = ("certificate", "account", "signing")
"""What a key is for: a certificate, an account at a CA, or the signatures of the history's heads."""


@dataclass(frozen=True)
class KeyContext:
    """What a wrapped key is bound to: it opens only with the same three words.

    ``subject`` is the hex SHA-256 of the public key's SubjectPublicKeyInfo; ``purpose`` is one of ``PURPOSES``. A
    protector binds the word and need not know it: there may be others in a later version.
    """

    domain: str
    subject: str
    purpose: str = "certificate"


class KeyProtector(Protocol):
    """Wraps and opens the private keys of one isolation domain. Built as ``Protector(domain, options)``.

    * Two wraps of one secret differ; a wrapped key that was changed, or is opened under another context or domain,
      raises ``KeyUnreadable``.
    * ``repr`` shows neither the KEK nor a key, and no exception quotes one. Both calls may come from several threads.
    * A KEK that is missing, malformed or readable by others, or whose service does not answer, is a
      ``ConfigurationError`` when it is needed, not before: nothing is ordered anew for it, as for ``KeyUnreadable``.
    * Wrapping needs no more authority than wrapping: a provider that can separate the two asks for the right to
      unwrap only in ``unwrap``.
    """

    options_class: ClassVar[type[Options]]

    @property
    def key_id(self) -> str:
        """Names the KEK that wraps now without telling anything about it; stored beside each wrapped key.

        It depends on the KEK alone: two domains with one id are refused. Every command asks for it first.
        """
        ...

    def wrap(self, secret: bytes, context: KeyContext) -> bytes:
        """Encrypt a private key (PKCS#8 PEM). KeyProblem for a context of another domain."""
        ...

    def unwrap(self, wrapped: bytes, context: KeyContext) -> bytes:
        """What was wrapped, also under a KEK that was replaced since. KeyUnreadable where it does not open."""
        ...


class KekHold(Protocol):
    """A promise about the KEK that it names, for as long as the object lives; a process that dies lets go of it."""

    @property
    def key_id(self) -> str: ...


class RotatingKeyProtector(KeyProtector, Protocol):
    """A protector that can replace its KEK by itself: an optional capability, known by ``rotation_of``.

    One KEK wraps, older ones still open. Other processes take part without being told: from the moment that
    ``new_kek`` returns, whatever is wrapped anywhere is wrapped under the new one, and what was wrapped under a KEK
    that a process has never heard of opens there as well.

    Who stores a wrapped key holds the KEK from before wrapping until it is stored: the id to store with it is the
    hold's, if ``key_id`` is still the same after wrapping; otherwise the KEK was replaced in between, and the key is
    to be wrapped again.
    """

    def hold_kek(self) -> KekHold:
        """Keep the KEK that wraps now: no process drops it while the answer lives, even if it becomes an older one."""
        ...

    def older_keks(self) -> tuple[str, ...]:
        """The ids of those that still open and do not wrap."""
        ...

    def next_kek(self) -> str | None:
        """The id of the KEK that was prepared and does not wrap yet; None where there is none. It opens already."""
        ...

    def prepare_kek(self) -> str:
        """Make the KEK that ``new_kek`` will take, so that it can be brought to other machines before; its id.

        One that was prepared already stays. ConfigurationError where that cannot be done.
        """
        ...

    def new_kek(self) -> str:
        """Make another KEK the one that wraps, all at once; its id. What wrapped until now becomes an older one.

        It is the one that was prepared, or a new one. ConfigurationError where that cannot be done; then what wraps
        is the same as before.
        """
        ...

    def drop_kek(self, key_id: str, unused: Callable[[], bool]) -> bool:
        """Give an older KEK up for good. False where it stays because somebody holds it or ``unused`` says no.

        ``unused`` is asked at a moment when nobody holds the KEK and nobody can come to hold it. True where it is
        gone already. KeyProblem for the one that wraps.
        """
        ...


def rotation_of(protector: KeyProtector) -> RotatingKeyProtector | None:
    """The protector's capability to replace its KEK; None where it has none."""
    return cast("RotatingKeyProtector", protector) if hasattr(protector, "hold_kek") else None

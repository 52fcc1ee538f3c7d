"""The port to an ACME CA (RFC 8555), one account of ours at it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from dualcert.errors import CaRejected


@dataclass(frozen=True)
class CaFacts:
    """What a CA's directory says of itself (RFC 8555 section 7.1.1).

    ``date`` is the answer's Date header as it came (RFC 9110 section 6.6.1), ``fetched_at`` our clock at that moment.
    """

    caa_identities: tuple[str, ...]
    terms_of_service: str | None
    website: str | None
    external_account_required: bool
    profiles: tuple[str, ...]
    renewal_info: str | None
    date: str | None = None
    fetched_at: datetime | None = None


@dataclass(frozen=True)
class Account:
    """An account that exists at the CA. ``key`` is its unencrypted PKCS#8 PEM; ``repr`` hides it."""

    url: str
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class AccountSnapshot:
    """An account as the CA described it last. ``status``: valid, deactivated or revoked (RFC 8555 section 7.1.6).

    ``contact`` is empty where the CA tells none; some keep it to themselves.
    """

    url: str
    status: str
    contact: tuple[str, ...]


@dataclass(frozen=True)
class IssuedCertificate:
    """A certificate with every chain that its CA offers for it, each as PEM text, leaf first.

    ``default`` is what the CA sends by itself, ``alternates`` what it links to (RFC 8555 section 7.4.2).
    """

    default: str
    alternates: tuple[str, ...] = ()


Reconsider = Callable[[CaRejected, Account], Account | None]
"""Told that a CA has refused a request of this account: the account to ask again with, or None to let it be."""


@dataclass(frozen=True)
class OrderSnapshot:
    """An order as the CA described it last. ``status`` as in RFC 8555 section 7.1.6.

    ``retry_after`` is the CA's wish for the next look, None where it expressed none.
    """

    url: str
    status: str
    identifiers: tuple[str, ...]
    authorizations: tuple[str, ...]
    finalize: str
    certificate: str | None
    expires: datetime | None
    error: str | None
    retry_after: timedelta | None = None


@dataclass(frozen=True)
class AuthorizationSnapshot:
    """An authorization. ``identifier`` has no ``*.``; ``wildcard`` says whether it is for one.

    ``challenge`` and ``value`` belong to its dns-01 challenge: the URL to answer at and the TXT value to publish
    (already the digest, RFC 8555 section 8.4); None where the CA offers no dns-01. ``error`` is what the CA said of
    a challenge that failed.
    """

    url: str
    status: str
    identifier: str
    wildcard: bool
    challenge: str | None
    value: str | None
    challenge_status: str | None
    error: str | None
    retry_after: timedelta | None = None


@dataclass(frozen=True)
class RenewalInformation:
    """When a CA would like a certificate to be renewed (RFC 9773 section 4.2); ``end`` is after ``start``.

    ``explanation`` is the URL of a page for people. ``retry_after`` says after how long the CA wants to be asked again.
    """

    start: datetime
    end: datetime
    explanation: str | None = None
    retry_after: timedelta | None = None


class CertificateAuthority(Protocol):
    """One CA. Every call is one request and its answer where nothing else is said (a bad nonce is retried inside, up to
    10 times in 30 s).

    No call sleeps for a status to change: the caller looks again. Calls may come from several threads. A request ends
    within 30 seconds. Errors: ``CaUnreachable``, ``CaBusy`` (``retry_after``), ``CaServerError``, ``CaRejected`` and
    its kin; each names the CA.
    """

    name: str

    def facts(self) -> CaFacts:
        """The directory; fetched once per process."""
        ...

    def register(self, key: bytes) -> str:
        """Create the account of ``key`` (PKCS#8 PEM), or find it where it exists; its URL.

        Contact, agreement and external account binding come from the configuration (RFC 8555 section 7.3).
        """
        ...

    def find_account(self, key: bytes) -> str | None:
        """The URL of the account that the CA knows by this key; None where there is none (RFC 8555 section 7.3.1).

        Raises ``AccountProblem`` where there is one that may not be used any more.
        """
        ...

    def use(self, account: Account, reconsider: Reconsider | None = None) -> None:
        """All later calls speak for this account.

        A call that is refused is repeated once where ``reconsider`` then names another account or another key;
        what it raises is raised instead of the refusal.
        """
        ...

    def account(self, account: Account) -> AccountSnapshot:
        """What the CA says of an account, asked in its own name. Raises ``AccountProblem`` where it is unknown, or may
        not even ask."""
        ...

    def update_account(self, account: Account) -> AccountSnapshot:
        """Send the contact of the configuration (RFC 8555 section 7.3.2)."""
        ...

    def change_key(self, account: Account, key: bytes) -> None:
        """Let ``key`` (PKCS#8 PEM) sign for the account from now on (RFC 8555 section 7.3.5).

        Done before, it is done again without harm. Raises ``CaRejected`` where the CA has not taken the key.
        """
        ...

    def deactivate_account(self, account: Account) -> None:
        """End the account for good (RFC 8555 section 7.3.6)."""
        ...

    def new_order(self, names: Sequence[str], *, replaces: str | None = None) -> OrderSnapshot:
        """Raises ``CaRejected`` (invalidProfile), without asking, for a profile that the directory does not list."""
        ...

    def order(self, url: str) -> OrderSnapshot: ...

    def authorization(self, url: str) -> AuthorizationSnapshot: ...

    def answer(self, challenge: str) -> None:
        """Tell the CA that the challenge may be looked at."""
        ...

    def finalize(self, url: str, order: str, csr: bytes) -> OrderSnapshot:
        """``url`` is the order's finalize URL, ``order`` the order's own, ``csr`` DER."""
        ...

    def certificate(self, url: str) -> IssuedCertificate:
        """The certificate with all its chains, each at most 1 MiB. One request, and one more for each alternate chain;
        an alternate that cannot be had is left out."""
        ...

    def renewal_info(self, ari_id: str) -> RenewalInformation | None:
        """What the CA suggests for the certificate with this identifier (RFC 9773 section 4.1); asked without an
        account. None where the CA does not offer it for any."""
        ...

    def revoke(self, certificate: bytes, reason: int, *, key: bytes | None = None) -> None:
        """Revoke a certificate (DER) with an RFC 5280 reason code, signed by the account or by the certificate's
        own ``key`` (PKCS#8 PEM; RFC 8555 section 7.6). Raises ``AlreadyRevoked`` where that was so before."""
        ...

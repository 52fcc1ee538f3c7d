"""The port to an ACME CA (RFC 8555), one account of ours at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol


@dataclass(frozen=True)
class CaFacts:
    """What a CA's directory says of itself (RFC 8555 section 7.1.1)."""

    caa_identities: tuple[str, ...]
    terms_of_service: str | None
    website: str | None
    external_account_required: bool
    profiles: tuple[str, ...]
    renewal_info: str | None


@dataclass(frozen=True)
class Account:
    """An account that exists at the CA. ``key`` is its unencrypted PKCS#8 PEM; ``repr`` hides it."""

    url: str
    key: bytes = field(repr=False)


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


class CertificateAuthority(Protocol):
    """One CA. Every call is one request and its answer (a bad nonce is retried inside, up to 10 times in 30 s).

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

    def use(self, account: Account) -> None:
        """All later calls speak for this account."""
        ...

    def new_order(self, names: Sequence[str], *, replaces: str | None = None) -> OrderSnapshot: ...

    def order(self, url: str) -> OrderSnapshot: ...

    def authorization(self, url: str) -> AuthorizationSnapshot: ...

    def answer(self, challenge: str) -> None:
        """Tell the CA that the challenge may be looked at."""
        ...

    def finalize(self, url: str, order: str, csr: bytes) -> OrderSnapshot:
        """``url`` is the order's finalize URL, ``order`` the order's own, ``csr`` DER."""
        ...

    def certificate(self, url: str) -> str:
        """The certificate and its chain as PEM text, leaf first; at most 1 MiB."""
        ...

    def revoke(self, certificate: bytes, reason: int, *, key: bytes | None = None) -> None:
        """Revoke a certificate (DER) with an RFC 5280 reason code, signed by the account or by the certificate's
        own ``key`` (PKCS#8 PEM; RFC 8555 section 7.6). Raises ``AlreadyRevoked`` where that was so before."""
        ...

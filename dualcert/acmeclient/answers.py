"""What a CA's answers hold, read strictly into the snapshots of the port.

acme's own classes refuse a status or an identifier type that they do not know (``expired``, say), and the
whole answer with it, so the JSON is read here.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from dualcert.acmeclient.links import is_https
from dualcert.acmeclient.problems import plain, problem_text
from dualcert.errors import CaServerError
from dualcert.ports.ca import AccountSnapshot, AuthorizationSnapshot, CaFacts, OrderSnapshot

_PEM_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----\s*")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,}")  # 128 bits of base64url (RFC 8555 section 8.3)
_DER_SEQUENCE = 0x30


@dataclass(frozen=True)
class Directory:
    """A CA's directory (RFC 8555 section 7.1.1)."""

    new_nonce: str
    new_account: str
    new_order: str
    revoke_cert: str
    key_change: str | None
    facts: CaFacts


class Fields:
    """A JSON object of a CA; each reader raises CaServerError where a value is not what it must be."""

    def __init__(self, ca: str, what: str, document: object) -> None:
        self._ca = ca
        self._what = what
        self._document: dict[str, Any] = document if isinstance(document, dict) else {}
        if not isinstance(document, dict):
            raise self.wrong("is not a JSON object")

    def wrong(self, how: str) -> CaServerError:
        return CaServerError(
            f"the CA's {self._what} {how}", remedy="This is the CA's fault; it is tried again.", ca=self._ca
        )

    def raw(self, key: str) -> object:
        return self._document.get(key)

    def optional_text(self, key: str) -> str | None:
        value = self._document.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(f"has a strange {key}")
        return value or None

    def text(self, key: str) -> str:
        value = self.optional_text(key)
        if value is None:
            raise self.wrong(f"has no {key}")
        return value

    def optional_url(self, key: str) -> str | None:
        value = self.optional_text(key)
        if value is not None and not is_https(value):
            raise self.wrong(f"names a {key} that is not https")
        return value

    def url(self, key: str) -> str:
        value = self.optional_url(key)
        if value is None:
            raise self.wrong(f"has no {key}")
        return value

    def items(self, key: str) -> list[Any]:
        value = self._document.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(f"has a strange {key}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(item for item in self.items(key) if isinstance(item, str))

    def urls(self, key: str) -> tuple[str, ...]:
        values = self.texts(key)
        if not all(is_https(value) for value in values):
            raise self.wrong(f"names {key} that are not https")
        return values

    def instant(self, key: str) -> datetime | None:
        value = self.optional_text(key)
        if value is None:
            return None
        try:
            instant = datetime.fromisoformat(value)
            if instant.tzinfo is None:
                raise self.wrong(f"has a {key} without a time zone")
            return instant.astimezone(UTC)
        except (ValueError, OverflowError) as error:  # the year 1 or 9999, and a zone that leads out of it
            raise self.wrong(f"has a strange {key}") from error

    def inner(self, key: str) -> Fields:
        return Fields(self._ca, f"{self._what}'s {key}", self._document.get(key, {}))


def read_directory(ca: str, document: object) -> Directory:
    fields = Fields(ca, "directory", document)
    meta = fields.inner("meta")
    profiles = meta.raw("profiles")
    return Directory(
        new_nonce=fields.url("newNonce"),
        new_account=fields.url("newAccount"),
        new_order=fields.url("newOrder"),
        revoke_cert=fields.url("revokeCert"),
        key_change=fields.optional_url("keyChange"),
        facts=CaFacts(
            caa_identities=meta.texts("caaIdentities"),
            terms_of_service=meta.optional_text("termsOfService"),
            website=meta.optional_text("website"),
            external_account_required=meta.raw("externalAccountRequired") is True,
            profiles=tuple(str(name) for name in profiles) if isinstance(profiles, dict) else (),
            renewal_info=fields.optional_url("renewalInfo"),
        ),
    )


def read_account(ca: str, document: object, url: str) -> AccountSnapshot:
    """An account object (RFC 8555 section 7.1.2) that lives at ``url``."""
    fields = Fields(ca, "account", document)
    return AccountSnapshot(url, plain(fields.text("status"), 60), fields.texts("contact"))


def read_order(ca: str, document: object, url: str, retry_after: timedelta | None) -> OrderSnapshot:
    """An order object (RFC 8555 section 7.1.3) that lives at ``url``."""
    fields = Fields(ca, "order", document)
    identifiers = [item.get("value") for item in fields.items("identifiers") if isinstance(item, dict)]
    return OrderSnapshot(
        url=url,
        status=fields.text("status"),
        identifiers=tuple(value for value in identifiers if isinstance(value, str)),
        authorizations=fields.urls("authorizations"),
        finalize=fields.url("finalize"),
        certificate=fields.optional_url("certificate"),
        expires=fields.instant("expires"),
        error=problem_text(fields.raw("error")),
        retry_after=retry_after,
    )


def read_authorization(
    ca: str, document: object, url: str, retry_after: timedelta | None, dns_value: Callable[[str], str]
) -> AuthorizationSnapshot:
    """An authorization object (RFC 8555 section 7.1.4); ``dns_value`` turns a token into the TXT value."""
    fields = Fields(ca, "authorization", document)
    challenges = [item for item in fields.items("challenges") if isinstance(item, dict)]
    dns = next((item for item in challenges if item.get("type") == "dns-01"), None)
    challenge = Fields(ca, "dns-01 challenge", dns) if dns is not None else None
    identifier = fields.inner("identifier").text("value").lower()
    return AuthorizationSnapshot(
        url=url,
        status=fields.text("status"),
        identifier=identifier.removeprefix("*."),
        wildcard=fields.raw("wildcard") is True or identifier.startswith("*."),
        challenge=challenge.url("url") if challenge else None,
        value=dns_value(_token(challenge)) if challenge else None,
        challenge_status=challenge.text("status") if challenge else None,
        error=_failed_challenge(challenges),
        retry_after=retry_after,
    )


def _token(challenge: Fields) -> str:
    token = challenge.text("token")
    if not _TOKEN.fullmatch(token):
        raise challenge.wrong("has a token that is no token")
    return token


def _failed_challenge(challenges: list[dict[str, Any]]) -> str | None:
    errors = [challenge.get("error") for challenge in challenges]
    return next((problem_text(error) for error in errors if error is not None), None)


def read_chain(ca: str, body: bytes) -> str:
    """A certificate and its chain (RFC 8555 section 9.1): PEM certificates and nothing else."""
    fault = CaServerError(
        "what the CA sent as a certificate is not a chain of PEM certificates",
        remedy="This is the CA's fault; the download is tried again.",
        ca=ca,
    )
    try:
        text = body.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise fault from error
    position, blocks = 0, []
    while position < len(text):
        match = _PEM_BLOCK.match(text, position)
        if match is None or not _is_der(match[1]):
            raise fault
        blocks.append(f"-----BEGIN CERTIFICATE-----\n{_lines(match[1])}-----END CERTIFICATE-----\n")
        position = match.end()
    if not blocks:
        raise fault
    return "".join(blocks)


def _is_der(base64: str) -> bool:
    try:
        der = b64decode("".join(base64.split()), validate=True)
    except binascii.Error:
        return False
    return bool(der) and der[0] == _DER_SEQUENCE


def _lines(base64: str) -> str:
    packed = "".join(base64.split())
    return "".join(f"{packed[start : start + 64]}\n" for start in range(0, len(packed), 64))

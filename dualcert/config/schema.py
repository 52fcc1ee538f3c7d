"""The tables of ``dualcert.toml``, key by key, and what the validator's findings mean in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from pydantic_core import ErrorDetails

from dualcert.config.durations import DURATION_FORM, RATE_FORM, Rate, parse_duration, parse_rate
from dualcert.config.hosts import host_port, is_url, names_user
from dualcert.config.problems import Problem, dotted, unknown_key
from dualcert.config.secrets import SECRET_FORM, SecretSource, secret_source
from dualcert.config.section import (
    Section,
    checked,
    key,
    listed,
    made,
    number,
    optional,
    refused,
    table,
    text,
)
from dualcert.model.pair import KeyType

_MAILTO = re.compile(r"mailto:[^\s@,?]+@[^\s@,?]+")


def _https(value: str) -> str:
    if names_user(value):
        # It is not repeated: what stands there may be a password.
        raise refused("this URL names a user", "write it without: whose account it is an ACME key tells")
    if not is_url(value, "https"):
        raise refused(
            f'"{value}" is not an https URL',
            "write the URL of the CA's ACME directory; it begins with https://",
        )
    return value


def _mailto(value: str) -> str:
    if not _MAILTO.fullmatch(value):
        raise refused(
            f'"{value}" is not a mailto: address', 'write it as "mailto:ops@example.com", one address in each'
        )
    return value


def _agreed(value: bool) -> bool:
    if not value:
        raise refused(
            "the CA's terms of service are not agreed to",
            'read them (the CA\'s directory names them as "termsOfService"), then write terms_agreed = true',
        )
    return value


def _one_of(*words: str) -> Callable[[str], str]:
    def validate(value: str) -> str:
        if value not in words:
            raise refused(f'"{value}" is none of {", ".join(words)}', f"write one of {', '.join(words)}")
        return value

    return validate


def _http(value: str) -> str:
    if not is_url(value, "http"):
        raise refused(f'"{value}" is not an http URL', "a CRL is signed: it is fetched over http://")
    return value


def _key_type(value: Any) -> KeyType:
    try:
        return KeyType(value)
    except ValueError:
        raise refused(f'"{value}" is not a type of key', f"write one of {', '.join(KeyType)}") from None


def _host_port(value: str) -> str:
    try:
        return host_port(value)
    except ValueError as error:
        remedy = 'write it as "192.0.2.1:443", "www.example.com:443" or "[2001:db8::1]:443"'
        raise refused(str(error), remedy) from None


def _parsed(parse: Callable[[str], Any], form: str) -> Callable[[Any], Any]:
    def validate(value: Any) -> Any:
        if not isinstance(value, str):
            raise refused(f"must be a text in quotes, not {_found(value)}", f"write {form}")
        try:
            return parse(value)
        except ValueError as error:
            raise refused(str(error).partition(":")[0], f"write {form}") from None

    return validate


def _secret(value: Any, base: Path) -> SecretSource:
    try:
        return secret_source(value, base)
    except ValueError as error:
        raise refused(str(error), SECRET_FORM) from None


_PLACES = listed(checked({"type": "str"}, _host_port, "HOST:PORT"))
_RATE = optional(made(_parsed(parse_rate, RATE_FORM), "rate"))


class PluginSection(Section, shared=True):
    """A table that it shares with a plugin: what is left over is the plugin's."""


class KeysSection(PluginSection):
    protector: str = key(
        text(),
        help="The plugin that keeps the key-encrypting key (KEK); the other keys of the table are its own.",
        example='"file"',
    )


class DnsSection(PluginSection):
    provider: str = key(
        text(),
        help="The plugin that changes TXT records; the other keys of the table are its own.",
        example='"rfc2136"',
    )
    resolver: list[str] = key(
        _PLACES,
        default=[],
        help="Who is asked for zones, CNAMEs and name servers. Unsaid: with rfc2136 its server, else the system's.",
        example='["127.0.0.1:53"]',
    )
    nameservers: list[str] = key(
        _PLACES,
        default=[],
        help="Who must all show a value before a CA is told to look. Unsaid: the zone's NS records, port 53.",
        example='["192.0.2.1:53"]',
    )


class TargetSection(PluginSection):
    deployer: str = key(
        text(),
        help="The plugin that puts certificates there; the other keys of the table are its own.",
        example='"files"',
    )
    endpoint: list[str] = key(
        _PLACES,
        default=[],
        help="Where a TLS handshake shows what is served; all are looked at, and of a host name every address. "
        "Unsaid: what was written is read back.",
        example='["127.0.0.1:443"]',
    )


class EabSection(Section):
    kid: str = key(
        text(),
        help="The identifier of the external account's key, as the CA gave it.",
        example='"the key identifier that the CA gave you"',
    )
    hmac_key: SecretSource = key(
        made(_secret, "secret", of_base=True),
        help="That key, base64url.",
        example='{ env = "CA_HMAC_KEY" }',
    )


class CaSection(Section):
    directory: str = key(
        checked({"type": "str"}, _https, "https URL"),
        help="The CA's ACME directory. A CA's name stays bound to the one at which it first made an account.",
        example='"https://ca.example/directory"',
    )
    keys: str | None = key(
        optional(text()),
        default=None,
        help="The isolation domain that its keys belong to: the name of a `[keys.NAME]`; recorded at first use. "
        'Unsaid: `"primary"` for the default primary, `"backup"` for the default backup.',
        example='"primary"',
    )
    contact: list[str] = key(
        listed(checked({"type": "str"}, _mailto, "mailto: address")),
        default=[],
        help="Where the CA may write to. `dualcert account update` sends a new one.",
        example='["mailto:ops@example.com"]',
    )
    terms_agreed: bool = key(
        checked({"type": "bool"}, _agreed),
        default=False,
        check_default=True,
        help="That you agree to the CA's terms of service. Without it the file is refused.",
        example="true",
    )
    ca_bundle: str | None = key(
        optional(text("path")),
        default=None,
        help="A PEM file: what to trust for the CA's own HTTPS. Unsaid: the system's roots.",
        example='"ca-api.pem"',
    )
    trust_roots: str | None = key(
        optional(text("path")),
        default=None,
        help="A PEM file: the roots to which its certificates must lead. Unsaid: the public ones.",
        example='"ca-roots.pem"',
    )
    eab: EabSection | None = key(
        optional(table(EabSection)),
        default=None,
        help="The external account to bind to, where the CA demands one.",
        example='{ kid = "...", hmac_key = { env = "CA_HMAC_KEY" } }',
    )
    profile: str | None = key(
        optional(text()),
        default=None,
        help="The profile that is asked for in every order; one of those that the CA's directory lists.",
        example='"classic"',
    )
    preferred_chain: str | None = key(
        optional(text()),
        default=None,
        help="The common name of the root to which certificates are served. Unsaid: the CA's default chain.",
        example='"the common name of a root"',
    )
    operator: str | None = key(
        optional(text()),
        default=None,
        help="Who runs the CA. Two CAs of one operator make no pair.",
        example='"who runs the CA"',
    )
    max_concurrency: int = key(
        number(1, 64), default=4, help="How many orders a process works on there at once.", example="4"
    )
    crl: list[str] = key(
        listed(checked({"type": "str"}, _http, "http URL")),
        default=[],
        help="Where its CRL is, if its certificates do not say so: that of the CA certificate which signs them.",
        example='["http://pki.example/ca.crl"]',
    )
    new_orders: Rate | None = key(
        _RATE,
        default=None,
        help="How many orders it takes for sets of names that are new to it.",
        example='"300/3h"',
    )
    requests: Rate | None = key(
        _RATE, default=None, help="How many requests it takes, of any kind.", example='"200/s"'
    )
    revocations: Rate | None = key(
        _RATE, default=None, help="How many revocations it takes.", example='"8/s"'
    )
    per_domain: Rate | None = key(
        _RATE,
        default=None,
        help="How many certificates for new sets of names it issues under one registered domain.",
        example='"50/7d"',
    )
    failed_authorizations: Rate | None = key(
        _RATE, default=None, help="How many failed authorizations of one name it bears.", example='"5/h"'
    )


class DefaultsSection(Section):
    primary: str = key(text(), help="The CA whose certificate serves.", example='"the name of a [ca.NAME]"')
    backup: str = key(
        text(), help="The CA whose certificate stands ready.", example='"the name of another [ca.NAME]"'
    )
    spares: list[str] = key(
        listed(text()),
        default=[],
        help="Further CAs, in the order in which they take the place of one that is distrusted.",
        example='["a third CA"]',
    )
    dns: str = key(text(), help="The DNS that holds the zones.", example='"the name of a [dns.NAME]"')
    targets: list[str] = key(
        listed(text()),
        default=[],
        help="Where the serving certificate goes. Unsaid: nowhere; `dualcert export` writes it.",
        example='["the name of a [target.NAME]"]',
    )
    key_type: KeyType = key(
        made(_key_type, f"one of {', '.join(KeyType)}"),
        default=KeyType.EC_P256,
        help="The kind of both private keys.",
        example='"ec-p256"',
    )
    first_wait: timedelta = key(
        made(_parsed(parse_duration, DURATION_FORM), "duration"),
        default=timedelta(minutes=10),
        help="How long a first backup waits for its primary before it serves instead.",
        example='"10m"',
    )


class WatchSection(Section):
    promote: str = key(
        checked({"type": "str"}, _one_of("auto", "ask", "never"), "auto, ask or never"),
        default="auto",
        help="What happens where a certificate that serves is revoked: the pair turns to its backup by itself, a "
        "person is asked to have it do so, or it is only written down.",
        example='"auto"',
    )
    early: bool = key(
        {"type": "bool"},
        default=False,
        help="Whether a CA's early warning is enough for that. Unsaid: it renews, and turns nothing.",
        example="false",
    )
    private_networks: bool = key(
        {"type": "bool"},
        default=False,
        help="Whether CRLs and OCSP responders may be asked at loopback and private addresses.",
        example="false",
    )
    brake_then: str = key(
        checked({"type": "str"}, _one_of("wait", "waves"), "wait or waves"),
        default="wait",
        help="What happens to the incident that the brake has opened: it waits for a person, or is run in waves.",
        example='"wait"',
    )


_EXPECTED = {
    "string_type": "a text in quotes",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list in brackets",
    "dict_type": "a table",
    "model_type": "a table",
}
_FOUND: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"),
    (str, "a text"),
    ((int, float), "a number"),
    (list, "a list"),
    (dict, "a table"),
    ((datetime, date, time), "a date or time"),
)


def _found(value: object) -> str:
    return next((words for kind, words in _FOUND if isinstance(value, kind)), "something else")


def explain(
    error: ErrorDetails, model: type[Section], path: tuple[str | int, ...], line: int | None
) -> Problem:
    """One finding of the validator about the table at ``path``, as a problem that does not repeat the value."""
    inner = tuple(part for part in error["loc"] if not (isinstance(part, str) and "[" in part))
    key = dotted((*path, *inner))
    owner, name = _owner(model, inner)
    if error["type"] == "extra_forbidden":
        section = dotted((*path, *inner[:-1]))
        return unknown_key(section, str(inner[-1]), tuple(owner.fields), line)
    found = owner.fields.get(name)
    remedy = (
        f"write, for example: {name} = {found.example}" if found else "see `dualcert init` for an example"
    )
    context = error.get("ctx", {})
    if error["type"] == "dualcert":
        return Problem(key, str(context["reason"]), str(context["remedy"]), line)
    if error["type"] == "missing":
        return Problem(key, "is missing", remedy, line)
    if expected := _EXPECTED.get(error["type"]):
        return Problem(key, f"must be {expected}, not {_found(error['input'])}", remedy, line)
    if error["type"] == "string_too_short":
        return Problem(key, "must not be empty", remedy, line)
    return Problem(key, error["msg"][:1].lower() + error["msg"][1:], remedy, line)


def _owner(model: type[Section], inner: tuple[str | int, ...]) -> tuple[type[Section], str]:
    """The model that holds the key at the end of the path, and the key's name there."""
    names = [part for part in inner if isinstance(part, str)]
    for name in names[:-1]:
        found = model.fields.get(name)
        model = found.section or model if found is not None else model
    return model, names[-1] if names else ""

"""The tables of ``dualcert.toml``, key by key, and what pydantic's findings mean in words.

``examples`` of a field is what the remedy of an error offers, as it would stand in the file.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from dualcert.config.durations import DURATION_FORM, RATE_FORM, Rate, parse_duration, parse_rate
from dualcert.config.problems import Problem, dotted, unknown_key
from dualcert.config.secrets import SECRET_FORM, SecretSource, secret_source
from dualcert.model.pair import KeyType

_IPV6_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\]:(\d{1,5})")
_HOST_PORT = re.compile(r"([A-Za-z0-9._-]+):(\d{1,5})")
_MAILTO = re.compile(r"mailto:[^\s@,?]+@[^\s@,?]+")


def _problem(reason: str, remedy: str) -> PydanticCustomError:
    return PydanticCustomError("dualcert", "{reason}", {"reason": reason, "remedy": remedy})


def _https(value: str) -> str:
    url = urlsplit(value)
    if url.scheme != "https" or not url.hostname or any(c.isspace() for c in value):
        raise _problem(
            f'"{value}" is not an https URL',
            "write the URL of the CA's ACME directory; it begins with https://",
        )
    return value


def _mailto(value: str) -> str:
    if not _MAILTO.fullmatch(value):
        raise _problem(
            f'"{value}" is not a mailto: address', 'write it as "mailto:ops@example.com", one address in each'
        )
    return value


def _agreed(value: bool) -> bool:
    if not value:
        raise _problem(
            "the CA's terms of service are not agreed to",
            'read them (the CA\'s directory names them as "termsOfService"), then write terms_agreed = true',
        )
    return value


def _key_type(value: Any) -> KeyType:
    try:
        return KeyType(value)
    except ValueError:
        raise _problem(f'"{value}" is not a type of key', f"write one of {', '.join(KeyType)}") from None


def host_port(value: str) -> str:
    """``HOST:PORT``, an IPv6 address in brackets. Raises ValueError."""
    if match := _IPV6_PORT.fullmatch(value):
        ipaddress.IPv6Address(match[1])
    elif (match := _HOST_PORT.fullmatch(value)) is None:
        raise ValueError(f'"{value}" is not HOST:PORT')
    if not 1 <= int(match[2]) <= 65535:
        raise ValueError(f'"{value}" has no port between 1 and 65535')
    return value


def _host_port(value: str) -> str:
    try:
        return host_port(value)
    except ValueError as error:
        remedy = 'write it as "192.0.2.1:443", "www.example.com:443" or "[2001:db8::1]:443"'
        raise _problem(str(error), remedy) from None


def _parsed(parse: Callable[[str], Any], form: str) -> Callable[[Any], Any]:
    def validate(value: Any) -> Any:
        if not isinstance(value, str):
            raise _problem(f"must be a text in quotes, not {_found(value)}", f"write {form}")
        try:
            return parse(value)
        except ValueError as error:
            raise _problem(str(error).partition(":")[0], f"write {form}") from None

    return validate


def _secret(value: Any, info: ValidationInfo) -> SecretSource:
    base: Path = (info.context or {})["base"]
    try:
        return secret_source(value, base)
    except ValueError as error:
        raise _problem(str(error), SECRET_FORM) from None


Text = Annotated[str, Field(min_length=1)]
HostPort = Annotated[str, AfterValidator(_host_port)]
DurationText = Annotated[timedelta, PlainValidator(_parsed(parse_duration, DURATION_FORM))]
RateText = Annotated[Rate, PlainValidator(_parsed(parse_rate, RATE_FORM))]
SecretText = Annotated[SecretSource, PlainValidator(_secret)]


class Section(BaseModel):
    """A table whose keys are all dualcert's own."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, arbitrary_types_allowed=True
    )


class PluginSection(Section):
    """A table that it shares with a plugin: what is left over is the plugin's."""

    model_config = ConfigDict(extra="allow")


class KeysSection(PluginSection):
    protector: Text = Field(examples=['"file"'])


class DnsSection(PluginSection):
    provider: Text = Field(examples=['"rfc2136"'])
    resolver: list[HostPort] = Field(default=[], examples=['["127.0.0.1:53"]'])
    nameservers: list[HostPort] = Field(default=[], examples=['["192.0.2.1:53"]'])


class TargetSection(PluginSection):
    deployer: Text = Field(examples=['"files"'])
    endpoint: list[HostPort] = Field(default=[], examples=['["127.0.0.1:443"]'])


class EabSection(Section):
    kid: Text = Field(examples=['"the key identifier that the CA gave you"'])
    hmac_key: SecretText = Field(examples=['{ env = "CA_HMAC_KEY" }'])


class CaSection(Section):
    directory: Annotated[str, AfterValidator(_https)] = Field(examples=['"https://ca.example/directory"'])
    keys: Text | None = Field(default=None, examples=['"primary"'])
    contact: list[Annotated[str, AfterValidator(_mailto)]] = Field(
        default=[], examples=['["mailto:ops@example.com"]']
    )
    terms_agreed: Annotated[bool, AfterValidator(_agreed)] = Field(
        default=False, validate_default=True, examples=["true"]
    )
    ca_bundle: Text | None = Field(default=None, examples=['"ca-api.pem"'])
    trust_roots: Text | None = Field(default=None, examples=['"ca-roots.pem"'])
    eab: EabSection | None = Field(
        default=None, examples=['{ kid = "...", hmac_key = { env = "CA_HMAC_KEY" } }']
    )
    profile: Text | None = Field(default=None, examples=['"classic"'])
    preferred_chain: Text | None = Field(default=None, examples=['"the common name of a root"'])
    operator: Text | None = Field(default=None, examples=['"who runs the CA"'])
    max_concurrency: int = Field(default=4, ge=1, le=64, examples=["4"])
    new_orders: RateText | None = Field(default=None, examples=['"300/3h"'])
    requests: RateText | None = Field(default=None, examples=['"200/s"'])
    revocations: RateText | None = Field(default=None, examples=['"8/s"'])


class DefaultsSection(Section):
    primary: Text = Field(examples=['"the name of a [ca.NAME]"'])
    backup: Text = Field(examples=['"the name of another [ca.NAME]"'])
    spares: list[Text] = Field(default=[], examples=['["a third CA"]'])
    dns: Text = Field(examples=['"the name of a [dns.NAME]"'])
    targets: list[Text] = Field(default=[], examples=['["the name of a [target.NAME]"]'])
    key_type: Annotated[KeyType, PlainValidator(_key_type)] = Field(
        default=KeyType.EC_P256, examples=['"ec-p256"']
    )
    first_wait: DurationText = Field(default=timedelta(minutes=10), examples=['"10m"'])


_EXPECTED = {
    "string_type": "a text in quotes",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list in brackets",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
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
    """One finding of pydantic about the table at ``path``, as a problem that does not repeat the value."""
    inner = tuple(part for part in error["loc"] if not (isinstance(part, str) and "[" in part))
    key = dotted((*path, *inner))
    owner, name = _owner(model, inner)
    if error["type"] == "extra_forbidden":
        section = dotted((*path, *inner[:-1]))
        return unknown_key(section, str(inner[-1]), tuple(owner.model_fields), line)
    examples = owner.model_fields[name].examples if name in owner.model_fields else None
    remedy = (
        f"write, for example: {name} = {examples[0]}" if examples else "see `dualcert init` for an example"
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
        annotation = model.model_fields[name].annotation if name in model.model_fields else None
        for choice in (annotation, *get_args(annotation)):
            if isinstance(choice, type) and issubclass(choice, Section):
                model = choice
    return model, names[-1] if names else ""

"""Where a database is: its URL taken apart, as SQLAlchemy takes it apart, which would first have to be imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, quote, quote_plus, unquote

from dualcert.errors import ConfigurationError

FORMS = 'Write "sqlite:///dualcert.db" or "postgresql://user@host/name".'
BACKENDS = ("sqlite", "postgresql")

_URL = re.compile(
    r"(?P<scheme>[\w+]+)://"
    r"(?:(?P<user>[^:/]*)(?::(?P<password>[^@]*))?@)?"
    r"(?:\[(?P<bare_host>[^/?]+)\]|(?P<host>[^/:?]+))?(?::(?P<port>[^/?]*))?"
    r"(?:/(?P<database>[^?]*))?"
    r"(?:\?(?P<options>.*))?"
)
_HOST_AND_PORT = re.compile(r"([a-zA-Z0-9.-]*):(\d*)")


@dataclass(frozen=True)
class Address:
    """``options``: what stands behind the ``?``, each with all of its values. Shown, it hides the password."""

    backend: str
    user: str | None
    password: str | None
    host: str | None
    port: int | None
    database: str | None
    options: Mapping[str, tuple[str, ...]]

    def __str__(self) -> str:
        text = f"{self.backend}://"
        if self.user is not None:
            text += quote(self.user, safe=" +") + (":***@" if self.password is not None else "@")
        if self.host is not None:
            text += f"[{self.host}]" if ":" in self.host else self.host
        if self.port is not None:
            text += f":{self.port}"
        if self.database is not None:
            text += "/" + quote(self.database, safe=" +/")
        options = [(name, value) for name in sorted(self.options) for value in self.options[name]]
        return text + "?" * bool(options) + "&".join(f"{quote_plus(n)}={quote_plus(v)}" for n, v in options)

    __repr__ = __str__

    def only(self, *options: str) -> Address:
        """With no options but these."""
        return replace(self, options={name: self.options[name] for name in options if name in self.options})

    def for_libpq(self) -> dict[str, str | int]:
        """What PostgreSQL's driver is to be given."""
        said = {
            "user": self.user,
            "password": self.password,
            "host": self.host,
            "port": self.port,
            "dbname": self.database,
        }
        found: dict[str, str | int] = {name: value for name, value in said.items() if value}
        found |= {name: ",".join(values) for name, values in self.options.items()}
        hosts = [_HOST_AND_PORT.fullmatch(one) for one in self.options.get("host", ())]
        if "port" not in self.options and any(hosts):
            # Each with a port of its own.
            apart = [one.partition(":") for one in self.options["host"]]
            found |= {
                "host": ",".join(host for host, _, _ in apart),
                "port": ",".join(port for _, _, port in apart),
            }
        return found


def parse(url: str) -> Address:
    """Raises ``ConfigurationError``, whose words repeat nothing that may be part of a password."""
    found = _URL.match(url)
    port = None if found is None else found["port"] or None
    if found is None or not (port is None or port.isdecimal()):
        raise ConfigurationError("`database` is not a database URL", remedy=FORMS)
    if found["scheme"] not in BACKENDS:
        raise ConfigurationError(f"`database`: {found['scheme']} is not supported", remedy=FORMS)
    options: dict[str, tuple[str, ...]] = {}
    for name, value in parse_qsl(found["options"] or ""):
        options[name] = (*options.get(name, ()), value)
    user, password, database = (_unquoted(found[part]) for part in ("user", "password", "database"))
    return Address(
        found["scheme"],
        user,
        password,
        found["host"] or found["bare_host"],
        None if port is None else int(port),
        database,
        options,
    )


def _unquoted(part: str | None) -> str | None:
    return None if part is None else unquote(part)

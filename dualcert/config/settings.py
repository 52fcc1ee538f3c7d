"""What a configuration file says, checked: plain frozen values that every command is handed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from dualcert.config.durations import Rate
from dualcert.model.pair import KeyType
from dualcert.ports.options import Secret

Kind = Literal["keys", "dns", "target"]

# The key of each table that names its plugin, and which keys are dualcert's own; the rest is the plugin's.
PLUGIN_KEY: Final[Mapping[Kind, str]] = MappingProxyType(
    {"keys": "protector", "dns": "provider", "target": "deployer"}
)
CORE_KEYS: Final[Mapping[Kind, tuple[str, ...]]] = MappingProxyType(
    {
        "keys": ("protector",),
        "dns": ("provider", "resolver", "nameservers"),
        "target": ("deployer", "endpoint"),
    }
)


@dataclass(frozen=True)
class PluginTable:
    """A plugin's part of a table, unread: only the plugin's own options class knows what it may hold.

    ``section`` is the table's dotted name, ``line`` where it begins, ``lines`` where its keys stand; ``raw``
    may hold a secret and is not shown by ``repr``.
    """

    kind: Kind
    name: str
    section: str
    plugin: str
    raw: Mapping[str, Any] = field(repr=False)
    file: Path
    line: int | None
    lines: Mapping[str, int] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class KeysTable:
    """``[keys.NAME]``: an isolation domain."""

    name: str
    plugin: PluginTable


@dataclass(frozen=True)
class ExternalAccount:
    """An external account binding (RFC 8555 section 7.3.4)."""

    kid: str
    hmac_key: Secret


@dataclass(frozen=True)
class CaTable:
    """``[ca.NAME]``. ``keys`` is the isolation domain, even where unsaid in the file; paths are absolute."""

    name: str
    directory: str
    keys: str
    contact: tuple[str, ...] = ()
    ca_bundle: Path | None = None
    trust_roots: Path | None = None
    eab: ExternalAccount | None = None
    profile: str | None = None
    preferred_chain: str | None = None
    operator: str | None = None
    max_concurrency: int = 4
    new_orders: Rate | None = None
    requests: Rate | None = None
    revocations: Rate | None = None
    per_domain: Rate | None = None
    failed_authorizations: Rate | None = None
    crl: tuple[str, ...] = ()


@dataclass(frozen=True)
class DnsTable:
    """``[dns.NAME]``. ``resolver`` and ``nameservers`` are ``HOST:PORT``; empty where unsaid."""

    name: str
    plugin: PluginTable
    resolver: tuple[str, ...] = ()
    nameservers: tuple[str, ...] = ()


@dataclass(frozen=True)
class TargetTable:
    """``[target.NAME]``. ``endpoint`` are ``HOST:PORT``, IPv6 addresses in brackets."""

    name: str
    plugin: PluginTable
    endpoint: tuple[str, ...] = ()


@dataclass(frozen=True)
class Defaults:
    """``[defaults]``: what a new pair takes. A pair that exists keeps what it was made with."""

    primary: str
    backup: str
    dns: str
    targets: tuple[str, ...] = ()
    spares: tuple[str, ...] = ()
    key_type: KeyType = KeyType.EC_P256
    first_wait: timedelta = timedelta(minutes=10)


@dataclass(frozen=True)
class Watch:
    """``[watch]``: what is done about revocations that are seen. The whole table may be left out."""

    promote: str = "auto"
    early: bool = False
    private_networks: bool = False
    brake_then: str = "wait"


@dataclass(frozen=True)
class Settings:
    """One configuration file. ``database`` is a URL; a SQLite one names an absolute path.

    A database URL may hold a password, so ``repr`` leaves it out.
    """

    path: Path
    database: str = field(repr=False)
    keys: Mapping[str, KeysTable]
    ca: Mapping[str, CaTable]
    dns: Mapping[str, DnsTable]
    target: Mapping[str, TargetTable]
    defaults: Defaults
    watch: Watch = field(default_factory=Watch)

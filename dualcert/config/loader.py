"""From a file to Settings. All that is wrong in it is told at once, each with its line and what to write."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic_core import ValidationError

from dualcert.config import references
from dualcert.config.places import ENVIRONMENT, candidates, configuration_path, file_named
from dualcert.config.positions import Positions, scan
from dualcert.config.problems import InvalidConfiguration, Problem, unknown_key
from dualcert.config.schema import (
    CaSection,
    DefaultsSection,
    DnsSection,
    KeysSection,
    PluginSection,
    TargetSection,
    WatchSection,
    explain,
)
from dualcert.config.secrets import SECRET_FORM, DeferredSecret, resolve_secret, secret_source
from dualcert.config.section import Section
from dualcert.config.settings import (
    CORE_KEYS,
    PLUGIN_KEY,
    CaTable,
    Defaults,
    DnsTable,
    ExternalAccount,
    KeysTable,
    Kind,
    PluginTable,
    Settings,
    TargetTable,
    Watch,
)
from dualcert.errors import ConfigurationError

TOP = ("database", "keys", "ca", "dns", "target", "defaults", "watch")
_TABLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_TOML_TABLE = re.compile(r"\('[^()]*',?\)")
_TOML_PLACE = re.compile(r"\s*\(at line (\d+), column \d+\)$")
_S = TypeVar("_S", bound=Section)


def load_settings(explicit: Path | None = None) -> Settings:
    """Find, read and check the configuration.

    Raises ConfigurationError where there is none that can be read, InvalidConfiguration for what it says.
    """
    path = configuration_path(explicit)
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        looked = " and ".join(str(place) for place in candidates(explicit))
        raise ConfigurationError(
            f"no configuration: looked for {looked}",
            remedy=f"name one with --config or ${ENVIRONMENT}, or write one with `dualcert init`",
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be read: {error.strerror}", remedy="let the user that runs dualcert read it"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path}: byte {error.start} is not UTF-8", remedy="save the file as UTF-8"
        ) from None
    return _Reading(path, *_parse(path, text)).settings()


def _parse(path: Path, text: str) -> tuple[dict[str, Any], Positions]:
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of other kinds: too many digits, too many brackets
        place = _TOML_PLACE.search(str(error))
        line = int(place[1]) if place else None
        said = _TOML_TABLE.sub(_as_written, _TOML_PLACE.sub("", str(error)))
        reason = f"is not TOML: {said[:1].lower()}{said[1:]}"
        raise InvalidConfiguration(
            path, [Problem("", reason, "texts stand in quotes, lists in brackets; see https://toml.io", line)]
        ) from None
    return document, scan(text, document)


def _as_written(table: re.Match[str]) -> str:
    """A table that the parser calls by a tuple of Python's."""
    return "[" + ".".join(re.findall(r"'([^']*)'", table[0])) + "]"


@dataclass
class _Reading:
    """One pass over one file, collecting problems on the way."""

    path: Path
    document: dict[str, Any]
    positions: Positions
    problems: list[Problem] = field(default_factory=list)

    def settings(self) -> Settings:
        for key in self.document.keys() - set(TOP):
            self.problems.append(unknown_key("", key, TOP, self.positions.line((key,))))
        database = self._database()
        keys = self._sections("keys", KeysSection)
        ca = self._sections("ca", CaSection)
        dns = self._sections("dns", DnsSection)
        target = self._sections("target", TargetSection)
        defaults = self._defaults()
        watch = self._section(("watch",), self.document.get("watch", {}), WatchSection)
        domains = references.check(
            self.document, self.positions, keys=keys, ca=ca, defaults=defaults, problems=self.problems
        )
        tables = {name: self._ca(name, section, domains.get(name, "")) for name, section in ca.items()}
        if self.problems or defaults is None or watch is None:
            raise InvalidConfiguration(self.path, self.problems)
        return Settings(
            path=self.path,
            database=database,
            keys=_frozen({name: KeysTable(name, self._plugin("keys", name, s)) for name, s in keys.items()}),
            ca=_frozen(tables),
            dns=_frozen({name: self._dns(name, section) for name, section in dns.items()}),
            target=_frozen({name: self._target(name, section) for name, section in target.items()}),
            defaults=_as_defaults(defaults),
            watch=Watch(watch.promote, watch.early, watch.private_networks, watch.brake_then),
        )

    def _problem(self, path: tuple[str, ...], reason: str, remedy: str) -> None:
        self.problems.append(Problem(".".join(path), reason, remedy, self.positions.line(path)))

    # --- tables ------------------------------------------------------------------------------------------

    def _sections(self, kind: str, model: type[_S]) -> dict[str, _S]:
        tables = self.document.get(kind, {})
        if not isinstance(tables, dict):
            self._problem((kind,), "must be tables", f"write [{kind}.NAME] and its keys below it")
            return {}
        if not tables and kind != "target":
            self._problem((kind,), "is missing", f"write a table [{kind}.NAME]; `dualcert init` shows one")
        found: dict[str, _S] = {}
        for name, raw in tables.items():
            if not _TABLE_NAME.fullmatch(name):
                self._problem(
                    (kind, name), "is not a name", "use letters, digits, '-', '_' and '.', at most 63"
                )
            elif (section := self._section((kind, name), raw, model)) is not None:
                found[name] = section
        return found

    def _section(self, path: tuple[str, ...], raw: Any, model: type[_S]) -> _S | None:
        if not isinstance(raw, dict):
            self._problem(path, "must be a table", f"write [{'.'.join(path)}] and its keys below it")
            return None
        try:
            return model.read(raw, self.path.parent)
        except ValidationError as invalid:
            for error in invalid.errors(include_url=False):
                line = self.positions.line((*path, *error["loc"]))
                self.problems.append(explain(error, model, path, line))
            return None

    def _defaults(self) -> DefaultsSection | None:
        if "defaults" not in self.document:
            self._problem(
                ("defaults",),
                "is missing",
                "write a table [defaults] that names primary, backup, dns and targets",
            )
            return None
        return self._section(("defaults",), self.document["defaults"], DefaultsSection)

    def _ca(self, name: str, section: CaSection, domain: str) -> CaTable:
        eab = None
        if section.eab is not None:
            where = f"{self.path}, ca.{name}.eab.hmac_key"
            eab = ExternalAccount(section.eab.kid, DeferredSecret(section.eab.hmac_key, where))
        return CaTable(
            name=name,
            directory=section.directory,
            keys=domain,
            contact=tuple(section.contact),
            ca_bundle=self._existing(("ca", name, "ca_bundle"), section.ca_bundle),
            trust_roots=self._existing(("ca", name, "trust_roots"), section.trust_roots),
            eab=eab,
            profile=section.profile,
            preferred_chain=section.preferred_chain,
            operator=section.operator,
            max_concurrency=section.max_concurrency,
            new_orders=section.new_orders,
            requests=section.requests,
            revocations=section.revocations,
            per_domain=section.per_domain,
            failed_authorizations=section.failed_authorizations,
            crl=tuple(section.crl),
        )

    def _existing(self, path: tuple[str, ...], value: str | None) -> Path | None:
        if value is None:
            return None
        remedy = "put the CA's certificates there (PEM), or drop the key"
        try:
            file = file_named(value, self.path.parent)
        except ValueError as error:
            self._problem(path, str(error), remedy)
            return None
        if not file.is_file():
            self._problem(path, f"there is no file {file}", remedy)
        return file

    def _dns(self, name: str, section: DnsSection) -> DnsTable:
        plugin = self._plugin("dns", name, section)
        return DnsTable(name, plugin, tuple(section.resolver), tuple(section.nameservers))

    def _target(self, name: str, section: TargetSection) -> TargetTable:
        plugin = self._plugin("target", name, section)
        return TargetTable(name, plugin, tuple(section.endpoint))

    def _plugin(self, kind: Kind, name: str, section: PluginSection) -> PluginTable:
        raw = {key: value for key, value in self.document[kind][name].items() if key not in CORE_KEYS[kind]}
        lines = {key: self.positions.line((kind, name, key)) for key in raw}
        return PluginTable(
            kind=kind,
            name=name,
            section=f"{kind}.{name}",
            plugin=getattr(section, PLUGIN_KEY[kind]),
            raw=MappingProxyType(raw),
            file=self.path,
            line=self.positions.line((kind, name)),
            lines=MappingProxyType({key: line for key, line in lines.items() if line is not None}),
        )

    # --- the database ------------------------------------------------------------------------------------

    def _database(self) -> str:
        value = self.document.get("database")
        remedy = 'write database = "sqlite:///dualcert.db" or "postgresql://user@host/name"'
        if isinstance(value, dict):
            value = self._secret(("database",), value)
            if value is None:
                return ""
        if value is None:
            self._problem(("database",), "is missing", remedy)
        elif not isinstance(value, str):
            self._problem(("database",), "must be a text in quotes", remedy)
        elif "\0" in value:
            self._problem(("database",), "cannot hold a NUL character", remedy)
        elif value.startswith("postgresql://"):
            return value
        elif not value.startswith("sqlite:///"):
            # The value is not repeated: it may hold a password.
            self._problem(("database",), "is neither a sqlite:/// nor a postgresql:// URL", remedy)
        else:
            file = value.removeprefix("sqlite:///")
            if file and not file.startswith(":") and "?" not in file:
                # The folder is no part of a URL that somebody wrote.
                folder = str(self.path.parent).replace("%", "%25").replace("?", "%3F")
                return f"sqlite:///{Path(folder) / file}"
            self._problem(("database",), f'"{value}" names no file', remedy)
        return ""

    def _secret(self, path: tuple[str, ...], value: dict[str, Any]) -> str | None:
        """A text that is kept elsewhere; None where the problem was told. Raises ConfigurationError."""
        try:
            source = secret_source(value, self.path.parent)
        except ValueError as error:
            self._problem(path, str(error), SECRET_FORM)
            return None
        return resolve_secret(source, f"{self.path}, {'.'.join(path)}").reveal()


def _frozen(tables: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(tables))


def _as_defaults(section: DefaultsSection) -> Defaults:
    return Defaults(
        primary=section.primary,
        backup=section.backup,
        dns=section.dns,
        targets=tuple(section.targets),
        spares=tuple(section.spares),
        key_type=section.key_type,
        first_wait=section.first_wait,
    )

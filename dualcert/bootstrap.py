"""The one place where objects are wired: configuration, plugins, CAs and database become a ``World``."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualcert.clock import Clock, SystemClock
from dualcert.config import Settings
from dualcert.config.durations import parse_duration
from dualcert.config.loader import load_settings
from dualcert.config.places import configuration_path
from dualcert.config.plugins import make as make_plugin
from dualcert.config.plugins import options_of, plugin_class
from dualcert.config.problems import InvalidConfiguration
from dualcert.config.settings import CaTable, DnsTable, PluginTable, TargetTable
from dualcert.config.template import Edit, write_template
from dualcert.errors import ConfigurationError, DualcertError, KeyProblem
from dualcert.lifecycle.actor import actor
from dualcert.lifecycle.plugged import kek_of
from dualcert.lifecycle.world import CaBinding, DnsBinding, Lazy, NewPairs, TargetBinding, WatchRules, World

if TYPE_CHECKING:
    from dualcert.lifecycle.findings import Scene
    from dualcert.lifecycle.permits import RequestPermits
    from dualcert.policy.budget import Kind, Limit
    from dualcert.ports.ca import CertificateAuthority
    from dualcert.ports.deploy import Deployer
    from dualcert.ports.dns import DnsProvider
    from dualcert.ports.evidence import Evidence
    from dualcert.ports.keys import KeyProtector
    from dualcert.ports.weakness import KeyInspector
    from dualcert.store import Store

__all__ = [
    "Application",
    "Edit",
    "Settings",
    "build",
    "configuration_path",
    "configuration_problems",
    "create_missing_keys",
    "current_revision",
    "examine",
    "load_settings",
    "parse_duration",
    "upgrade_database",
    "write_template",
]


@dataclass(frozen=True)
class Application:
    """What a command works with. Close it when the command ends."""

    settings: Settings
    world: World

    def close(self) -> None:
        self.world.pools.close()
        self.world.leases.close()
        self.world.store.close()


def build(settings: Settings) -> Application:
    """Wire everything that the configuration names; CAs, plugins and keys are made when first used.

    Raises ``ConfigurationError``: an unknown plugin, options that it does not take, a KEK that is missing or that
    others can read, a database of another revision.
    """
    from dualcert.store import Store, migrations

    clock = SystemClock()
    protectors = {name: _protector(table.plugin) for name, table in settings.keys.items()}
    _check_keks(protectors)
    _require_database(settings)
    store = Store(settings.database, clock, actor())
    try:
        migrations.require(store)
    except ConfigurationError:
        store.close()
        raise
    return Application(settings, _world(settings, store, protectors, clock))


def _world(
    settings: Settings, store: Store, protectors: Mapping[str, Lazy[KeyProtector]], clock: Clock
) -> World:
    return World(
        clock=clock,
        store=store,
        cas={name: _ca(table, store, clock) for name, table in settings.ca.items()},
        dns={name: _dns(table, clock) for name, table in settings.dns.items()},
        targets={name: _target(table) for name, table in settings.target.items()},
        protectors=protectors,
        new_pairs=_new_pairs(settings),
        draw=random.SystemRandom().random,
        watch=WatchRules(settings.watch.promote, settings.watch.early, settings.watch.brake_then),
        evidence=_evidence(settings, clock),
        inspector=Lazy(_inspector),
    )


def _evidence(settings: Settings, clock: Clock) -> Lazy[Evidence]:
    def make() -> Evidence:
        from dualcert.evidence import EvidenceReader, Fetcher

        private = settings.watch.private_networks
        return EvidenceReader(Fetcher(clock, f"dualcert/{version('dualcert')}", private=private))

    return Lazy(make)


def _inspector() -> KeyInspector | None:
    from dualcert.evidence import weakkeys

    return weakkeys.installed()


def examine(settings: Settings, names: Sequence[str] = ()) -> Scene:
    """The same, for looking at it: nothing is required to be usable, and nothing is tried yet. Close its store."""
    from dualcert.lifecycle.findings import CaExpected, Scene
    from dualcert.store import Store, migrations

    clock = SystemClock()
    store = Store(f"sqlite:///{os.devnull}", clock, actor())  # in place of one that cannot be used
    problem: DualcertError | None = None
    try:
        _require_database(settings)
        store = Store(settings.database, clock, actor())
        migrations.require(store)
    except DualcertError as error:
        problem = error
    protectors = {name: _protector(table.plugin) for name, table in settings.keys.items()}
    return Scene(
        world=_world(settings, store, protectors, clock),
        database=problem,
        cas={
            name: CaExpected(
                partial(_check_binding, table) if table.eab else None, table.profile, table.trust_roots
            )
            for name, table in settings.ca.items()
        },
        names=names,
    )


def _check_binding(table: CaTable) -> None:
    from dualcert.acmeclient import check_binding_key

    if table.eab is not None:
        check_binding_key(table.name, table.eab.hmac_key.reveal())


def configuration_problems(error: ConfigurationError) -> list[tuple[str, str, str | None]]:
    """Each thing that an error says of the configuration: where it stands, what is wrong, what to write."""
    if isinstance(error, InvalidConfiguration):
        return [(problem.place, problem.reason, problem.remedy) for problem in error.problems]
    return [("", error.reason, error.remedy)]


def _new_pairs(settings: Settings) -> NewPairs:
    defaults = settings.defaults
    return NewPairs(
        primary=defaults.primary,
        backup=defaults.backup,
        dns=defaults.dns,
        targets=defaults.targets,
        key_type=defaults.key_type,
        first_wait=int(defaults.first_wait.total_seconds()),
        spares=defaults.spares,
    )


# --- plugins ---------------------------------------------------------------------------------------------


def _protector(table: PluginTable) -> Lazy[KeyProtector]:
    return Lazy(partial(make_plugin, table, table.name))


def _check_keks(protectors: Mapping[str, Lazy[KeyProtector]]) -> None:
    """A KEK that is missing or open to others is found before anything is ordered under it."""
    ids: dict[str, str] = {}
    for name, protector in protectors.items():
        try:
            kek = kek_of(name, protector())
        except KeyProblem as error:
            raise ConfigurationError(error.reason, remedy=error.remedy) from error
        other = ids.setdefault(kek, name)
        if other != name:
            raise ConfigurationError(
                f"[keys.{name}] and [keys.{other}] have the same KEK: one leak would open both sides",
                remedy="Give each isolation domain a KEK of its own.",
            )


def _dns(table: DnsTable, clock: Clock) -> DnsBinding:
    # Its secrets are looked up when DNS is needed: a failover does not fail for a missing TSIG key.
    provider: Lazy[DnsProvider] = Lazy(partial(make_plugin, table.plugin))

    def zones() -> Any:
        from dualcert.dcv import Zones

        return Zones(table.resolver or binding.default_resolvers(), table.nameservers, clock)

    binding = DnsBinding(table.name, provider, Lazy(zones))
    return binding


def _target(table: TargetTable) -> TargetBinding:
    deployer: Lazy[Deployer] = Lazy(partial(make_plugin, table.plugin))
    return TargetBinding(table.name, deployer, tuple(_endpoint(text) for text in table.endpoint))


def _endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _limits(table: CaTable) -> dict[Kind, Limit]:
    if not any((table.new_orders, table.per_domain, table.failed_authorizations, table.revocations)):
        return {}
    from dualcert.policy.budget import Kind, Limit

    counted = {
        Kind.NEW_ORDERS: table.new_orders,
        Kind.DOMAIN: table.per_domain,
        Kind.FAILED: table.failed_authorizations,
        Kind.REVOCATIONS: table.revocations,
    }
    return {kind: Limit(rate.count, rate.per) for kind, rate in counted.items() if rate is not None}


def _permits(table: CaTable, store: Store, clock: Clock) -> RequestPermits | None:
    rate = table.requests
    if rate is None:
        return None
    from dualcert.lifecycle.permits import RequestPermits
    from dualcert.policy.budget import Limit

    return RequestPermits(store, clock, table.name, Limit(rate.count, rate.per))


def _ca(table: CaTable, store: Store, clock: Clock) -> CaBinding:
    limits, permits = _limits(table), _permits(table, store, clock)

    def make() -> CertificateAuthority:
        from dualcert.acmeclient import AcmeCa, AcmeCaSettings

        return AcmeCa(
            AcmeCaSettings(
                name=table.name,
                directory=table.directory,
                contact=table.contact,
                terms_agreed=True,
                eab_kid=table.eab.kid if table.eab else None,
                eab_hmac_key=table.eab.hmac_key if table.eab else None,
                profile=table.profile,
                ca_bundle=table.ca_bundle,
                user_agent=f"dualcert/{version('dualcert')}",
            ),
            clock,
            permits,
        )

    return CaBinding(
        name=table.name,
        directory=table.directory,
        domain=table.keys,
        operator=table.operator,
        trust_roots=table.trust_roots,
        max_concurrency=table.max_concurrency,
        authority=Lazy(make),
        limits=limits,
        permits=permits,
        contact=table.contact,
        preferred_chain=table.preferred_chain,
        crl=table.crl,
    )


# --- what init makes -------------------------------------------------------------------------------------


def create_missing_keys(settings: Settings) -> list[Path]:
    """Make the KEK file of every isolation domain whose protector keeps one and has none; returns the new files.

    Raises ``Refused`` where keys in the database lie under one that is gone: another would open none of them.
    """
    missing = {domain: one for domain, one in _keks(settings).items() if not one[0].exists()}
    if missing and current_revision(settings)[0] is not None:
        from dualcert.lifecycle.keymaking import demand_none_under

        with _opened(settings) as store:
            demand_none_under(store, {domain: path for domain, (path, _) in missing.items()})
    for path, create in missing.values():
        create(path)
    return [path for path, _ in missing.values()]


def _keks(settings: Settings) -> dict[str, tuple[Path, Any]]:
    """Where the KEK of each isolation domain lies whose protector keeps one in a file, and what makes one."""
    found = {}
    for table in (one.plugin for one in settings.keys.values()):
        plugin = plugin_class(table)
        path = getattr(options_of(table, plugin), "path", None)
        if hasattr(plugin, "create") and isinstance(path, Path):
            found[table.name] = (path, plugin.create)
    return found


def _opened(settings: Settings) -> AbstractContextManager[Store]:
    from dualcert.store import Store

    return closing(Store(settings.database, SystemClock(), actor()))


def _require_database(settings: Settings) -> None:
    from dualcert.store import database_file

    file = database_file(settings.database)
    if file is None or file.exists():
        return
    remedy = "Run `dualcert init` (or `dualcert db upgrade`)."
    with suppress(ConfigurationError):  # of a KEK: told where it is looked at
        if any(path.exists() for path, _ in _keks(settings).values()):
            # Nobody would miss in an empty one what there was before.
            back = "Its keys are there: if it was in use, bring it back first (is its volume mounted?)."
            remedy = f"{back} For a new, empty one: {remedy}"
    raise ConfigurationError(f"the database {file} does not exist", remedy=remedy)


def upgrade_database(settings: Settings) -> str:
    """Make the database if there is none, and bring it to this program's revision."""
    from dualcert.store import database_file, migrations

    file = database_file(settings.database)
    if file is not None and not file.exists() and file.parent.is_dir():
        # It will hold wrapped keys: nobody else needs to read it.
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    with _opened(settings) as store:
        return migrations.upgrade(store)


def current_revision(settings: Settings) -> tuple[str | None, str]:
    """The revision of the database (None where there is none) and the one that this program needs."""
    from dualcert.store import database_file, migrations

    file = database_file(settings.database)
    if file is not None and not file.exists():
        return None, migrations.REVISION
    with _opened(settings) as store:
        return migrations.current(store), migrations.REVISION

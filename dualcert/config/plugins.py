"""Plugins from the names in the file: found, loaded, and made with their options.

Whatever goes wrong with one is a ``ConfigurationError`` that names its table: other code than ours runs here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, distribution, entry_points
from typing import Any

from dualcert.config.settings import PluginTable
from dualcert.errors import ConfigurationError, DualcertError, StoreError, is_strangers, told
from dualcert.ports.options import Options

_GROUPS = {"dns": "dualcert.dns_providers", "target": "dualcert.deployers", "keys": "dualcert.key_protectors"}
_NEEDED = {
    "dns": ("apply", "default_resolvers"),
    "target": ("deploy", "read_back", "purge", "remove"),
    "keys": ("wrap", "unwrap"),
}
"""What each kind is called with whatever it can do besides."""


@cache
def _built_in() -> EntryPoints:
    return distribution("dualcert").entry_points


@cache
def _others(group: str) -> EntryPoints:
    return entry_points(group=group)


def plugin_class(table: PluginTable) -> Any:
    """What the table names. Raises ``ConfigurationError`` where it is not installed, or is none."""
    point = _entry_point(table)
    with _loading(table, point, "cannot be loaded"):
        plugin = point.load()
    options = getattr(plugin, "options_class", None)
    if not isinstance(options, type) or not issubclass(options, Options):
        raise _unusable(table, point, "is no plugin: its options_class is no subclass of Options")
    return plugin


def options_of(table: PluginTable, plugin: Any) -> Any:
    """The table's keys as the options that the plugin takes."""
    from dualcert.config.binding import bind

    with _loading(table, _entry_point(table), "does not take its options"):
        return bind(plugin.options_class, table)


def make(table: PluginTable, *first: str) -> Any:
    """The plugin, built with its options; ``first`` goes before them."""
    plugin = plugin_class(table)
    options = options_of(table, plugin)
    point = _entry_point(table)
    with _loading(table, point, "cannot be made"):
        made = plugin(*first, options)
        lacking = [name for name in _NEEDED[table.kind] if not hasattr(made, name)]
    if lacking:
        raise _unusable(table, point, f"is none for [{table.section}]: it has no {' and no '.join(lacking)}")
    return made


def _entry_point(table: PluginTable) -> EntryPoint:
    group = _GROUPS[table.kind]
    # Most plugins are built in, and those of others are found by reading files of every distribution that is installed.
    found = _built_in().select(group=group, name=table.plugin) or _others(group).select(name=table.plugin)
    if found:
        return found[table.plugin]
    raise ConfigurationError(
        f"{table.file}: [{table.section}] names the plugin {table.plugin!r}, which is not installed",
        remedy=f"There is: {', '.join(sorted(_others(group).names)) or 'none'}.",
    )


@contextmanager
def _loading(table: PluginTable, point: EntryPoint, what: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        ours = isinstance(error, DualcertError) and not isinstance(error, StoreError)
        if ours or not is_strangers(error):
            raise
        raise _unusable(table, point, f"{what}: {told(error)}") from error


def _unusable(table: PluginTable, point: EntryPoint, what: str) -> ConfigurationError:
    brought = f" of {point.dist.name} {point.dist.version}" if point.dist is not None else ""
    return ConfigurationError(
        f"{table.file}: [{table.section}] names the plugin {table.plugin!r} ({point.value}), which {what}",
        remedy=f"Mend or reinstall what brings it{brought}; until then nothing that needs [{table.section}] works.",
    )

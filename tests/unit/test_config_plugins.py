"""Plugins that cannot be loaded or made: told by their table, whatever their code does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dualcert.config import plugins
from dualcert.config.settings import PluginTable
from dualcert.errors import ConfigurationError, DnsError
from tests.oddplugins import installed


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution whose plugins are odd."""
    monkeypatch.syspath_prepend(installed(tmp_path))
    plugins._others.cache_clear()
    yield
    plugins._others.cache_clear()


def table(plugin: str, **raw: object) -> PluginTable:
    return PluginTable("dns", "lab", "dns.lab", plugin, raw, Path("/etc/dualcert.toml"), 10)


@pytest.mark.parametrize(
    ("plugin", "raw", "where", "why"),
    [
        (
            "gone",
            {},
            "odd_nowhere:Dns",
            "cannot be loaded: ModuleNotFoundError: No module named 'odd_nowhere'",
        ),
        ("lacking", {}, "odd_dns:Nothing", "cannot be loaded: AttributeError"),
        ("boom", {}, "odd_boom:Dns", "cannot be loaded: RuntimeError: boom at import"),
        ("keyboom", {}, "odd_keyboom:Dns", "cannot be loaded: KeyError: 'MY_ENV'"),
        ("exitboom", {}, "odd_exitboom:Dns", "cannot be loaded: SystemExit: 0"),
        ("number", {}, "odd_dns:NUMBER", "is no plugin: its options_class is no subclass of Options"),
        ("optionless", {}, "odd_dns:Optionless", "is no plugin: its options_class is no subclass of Options"),
        ("stumbling", {}, "odd_dns:Stumbling", "cannot be made: RuntimeError: stumbled"),
        ("leaving", {}, "odd_dns:Leaving", "cannot be made: SystemExit: 0"),
        ("after", {}, "odd_dns:After", "does not take its options: TypeError: after"),
        ("old", {}, "odd_dns:Old", "is none for [dns.lab]: it has no apply and no default_resolvers"),
    ],
)
def test_a_plugin_that_cannot_be_had_is_a_configuration_error(
    plugin: str, raw: dict[str, object], where: str, why: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        plugins.make(table(plugin, **raw))
    said = caught.value.reason
    assert said.startswith(
        f"/etc/dualcert.toml: [dns.lab] names the plugin {plugin!r} ({where}), which {why}"
    )
    assert caught.value.remedy is not None
    assert "what brings it of odd 1.0" in caught.value.remedy


def test_an_option_that_nobody_can_write_is_told_with_its_key() -> None:
    with pytest.raises(
        ConfigurationError, match=r"dns.lab.server: the plugin wants dict there, which no key"
    ):
        plugins.make(table("wishing", server="x"))
    with pytest.raises(ConfigurationError, match=r"dns.lab.either: the plugin wants .* there, which no key"):
        plugins.make(table("wishing", either="x"))


def test_a_field_without_a_default_is_required_however_it_was_written() -> None:
    with pytest.raises(ConfigurationError, match=r"dns.lab.server: is missing"):
        plugins.make(table("plain"))
    plugins.make(table("plain", server="x"))


def test_what_is_known_of_a_constructor_stays_what_it_is() -> None:
    with pytest.raises(DnsError, match="nobody is there"):
        plugins.make(table("knowing"))


def test_one_that_nobody_brings_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match="'mine', which is not installed") as caught:
        plugins.make(table("mine"))
    assert caught.value.remedy is not None
    assert "boom" in caught.value.remedy
    assert "rfc2136" in caught.value.remedy

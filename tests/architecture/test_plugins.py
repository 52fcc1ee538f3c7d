"""Every registered plugin is held to the suite of its kind."""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

import pytest

from dualcert.testing.deploy import DeployerConformance
from dualcert.testing.dns import DnsProviderConformance
from dualcert.testing.keys import KeyProtectorConformance
from tests.architecture.tree import modules, named

SUITES: dict[str, type[Any]] = {
    "dualcert.dns_providers": DnsProviderConformance,
    "dualcert.deployers": DeployerConformance,
    "dualcert.key_protectors": KeyProtectorConformance,
}

REGISTERED = [
    point for group in SUITES for point in entry_points(group=group) if point.value.startswith("dualcert.")
]


def conformance_modules() -> list[ModuleType]:
    names = [named(file).removesuffix(".py").replace("/", ".") for file in modules("tests/conformance")]
    return [importlib.import_module(name) for name in names if name.rpartition(".")[2].startswith("test_")]


def subclasses_for(plugin: object, suite: type[Any], searched: list[ModuleType]) -> list[type[Any]]:
    """The classes that pytest collects, derive from `suite` and say `plugin = PLUGIN`."""
    found = {
        value
        for module in searched
        for name, value in vars(module).items()
        if name.startswith("Test") and isinstance(value, type) and issubclass(value, suite)
    }
    return [case for case in found if getattr(case, "plugin", None) is plugin]


def replaced_cases(case: type[Any], suite: type[Any]) -> list[str]:
    tests = [name for name in dir(suite) if name.startswith("test_")]
    return [name for name in tests if getattr(case, name) is not getattr(suite, name)]


@pytest.mark.parametrize("point", REGISTERED, ids=lambda point: f"{point.group}:{point.name}")
def test_a_registered_plugin_has_a_subclass_of_its_suite(point: EntryPoint) -> None:
    suite, plugin = SUITES[point.group], point.load()
    cases = subclasses_for(plugin, suite, conformance_modules())
    assert cases, (
        f"no class in tests/conformance derives from {suite.__name__} with `plugin = {plugin.__name__}`"
    )
    for case in cases:
        assert replaced_cases(case, suite) == []
        assert not getattr(case, "pytestmark", []), (
            f"{case.__name__} is marked; a suite is run whole, everywhere"
        )


def test_all_kinds_are_registered() -> None:
    assert {point.group for point in REGISTERED} == set(SUITES)


def test_every_suite_tests_something() -> None:
    assert all(any(name.startswith("test_") for name in dir(suite)) for suite in SUITES.values())


def test_another_plugins_subclass_does_not_count() -> None:
    module = ModuleType("tests.conformance.test_other")
    module.TestOther = type("TestOther", (DeployerConformance,), {"plugin": dict})  # type: ignore[attr-defined]
    assert subclasses_for(dict, DeployerConformance, [module])
    assert subclasses_for(list, DeployerConformance, [module]) == []
    assert subclasses_for(dict, KeyProtectorConformance, [module]) == []

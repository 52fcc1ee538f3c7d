"""What the tables of one file say about one another: names are defined, the two CAs are independent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dualcert.config.positions import Positions
from dualcert.config.problems import Problem, nearest
from dualcert.config.schema import CaSection, DefaultsSection, KeysSection


def check(
    document: Mapping[str, Any],
    positions: Positions,
    *,
    keys: Mapping[str, KeysSection],
    ca: Mapping[str, CaSection],
    defaults: DefaultsSection | None,
    problems: list[Problem],
) -> dict[str, str]:
    """Add what is wrong to ``problems``. The isolation domain of each CA, the unsaid ones too.

    A table that is there but has problems of its own counts as defined: it is complained about once.
    """
    checking = _Checking(document, positions, problems)
    checking.same_protection(keys)
    domains = {
        name: domain for name, section in ca.items() if (domain := checking.domain(name, section, defaults))
    }
    if defaults is not None:
        checking.defaults(defaults)
        checking.independence(defaults, ca, domains)
    return domains


@dataclass(frozen=True)
class _Checking:
    document: Mapping[str, Any]
    positions: Positions
    problems: list[Problem]

    def _add(self, path: tuple[str, ...], reason: str, remedy: str) -> None:
        self.problems.append(Problem(".".join(path), reason, remedy, self.positions.line(path)))

    def _refers(self, path: tuple[str, ...], kind: str, name: str) -> None:
        tables = self.document.get(kind)
        defined = list(tables) if isinstance(tables, Mapping) else []
        if name in defined:
            return
        near = nearest(name, defined)
        hint = f'did you mean "{near}"? ' if near else ""
        there = f"defined: {', '.join(defined)}" if defined else f"write a table [{kind}.{name}]"
        self._add(path, f"[{kind}.{name}] is not defined", f"{hint}{there}")

    def domain(self, name: str, section: CaSection, defaults: DefaultsSection | None) -> str | None:
        path = ("ca", name, "keys")
        if section.keys is not None:
            self._refers(path, "keys", section.keys)
            return section.keys
        if defaults is None:
            return None
        unsaid = {defaults.backup: "backup", defaults.primary: "primary"}.get(name)
        if unsaid is None:
            self._add(
                path,
                "is missing: only the default primary and backup have a domain of their own by default",
                'write keys = "the name of a [keys.NAME]"',
            )
        else:
            self._refers(path, "keys", unsaid)
        return unsaid

    def defaults(self, defaults: DefaultsSection) -> None:
        self._refers(("defaults", "primary"), "ca", defaults.primary)
        self._refers(("defaults", "backup"), "ca", defaults.backup)
        self._refers(("defaults", "dns"), "dns", defaults.dns)
        for target in defaults.targets:
            self._refers(("defaults", "targets"), "target", target)
        for twice in _repeated(defaults.targets):
            self._add(("defaults", "targets"), f'"{twice}" is there twice', "name each target once")
        for spare in defaults.spares:
            self._refers(("defaults", "spares"), "ca", spare)
        for twice in _repeated([*{defaults.primary, defaults.backup}, *defaults.spares]):
            self._add(
                ("defaults", "spares"),
                f'CA "{twice}" is there twice',
                "a spare is a third CA; name each once",
            )

    def independence(
        self, defaults: DefaultsSection, ca: Mapping[str, CaSection], domains: Mapping[str, str]
    ) -> None:
        """Rule: the two lineages of a pair share neither CA nor operator nor isolation domain."""
        if defaults.primary == defaults.backup:
            self._add(
                ("defaults", "backup"), "is the same CA as the primary", "name another CA: two are the point"
            )
            return
        primary, backup = ca.get(defaults.primary), ca.get(defaults.backup)
        if primary is None or backup is None:
            return
        both = f"{defaults.primary} and {defaults.backup}"
        if _same_url(primary.directory, backup.directory):
            path = ("ca", defaults.backup, "directory")
            self._add(path, f"{both} are one CA: they have one directory", "take another CA for the backup")
        if primary.operator is not None and primary.operator == backup.operator:
            path = ("ca", defaults.backup, "operator")
            self._add(path, f"{both} have one operator", "take a backup that somebody else runs")
        domain = domains.get(defaults.primary)
        if domain is not None and domain == domains.get(defaults.backup):
            self._add(
                ("ca", defaults.backup, "keys"),
                f'{both} share the isolation domain "{domain}": one leaked key would open both',
                "give each of them a [keys.NAME] of its own",
            )

    def same_protection(self, keys: Mapping[str, KeysSection]) -> None:
        seen: dict[str, str] = {}
        for name, section in keys.items():
            what = repr((section.protector, sorted(section.others.items(), key=lambda item: item[0])))
            if what in seen:
                self._add(
                    ("keys", name),
                    f"is protected by the same key as [keys.{seen[what]}]: one leak would open both",
                    "give each isolation domain a key of its own",
                )
            seen.setdefault(what, name)


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _same_url(one: str, other: str) -> bool:
    return one.rstrip("/").casefold() == other.rstrip("/").casefold()

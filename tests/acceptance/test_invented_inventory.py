"""The invented inventories of the bench against what an issuance leaves: the same columns, and the same words."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import select

from bench.databases import prepared
from bench.inventory import Made, fill
from bench.rows import COLUMNS
from dualcert.lifecycle.world import World
from dualcert.store import incident_tables, tables
from tests.daemons import change
from tests.labfixture import ProjectLab
from tests.program import Program

ONCE_FOR_ALL = {"account-registered"}
"""An event that is no pair's."""

BY_CHANCE = {"answered", "renewal-suggested"}
"""Only told where the CA does not validate at once, and where its wish comes first."""

OTHERWISE = {tables.event, incident_tables.watch_source}
"""Events are compared by their kinds; the certificates of the lab's CAs name no CRL."""

SAME = {
    tables.pair: {"key_type", "dns", "first_wait"},
    tables.pair_state: {"epoch"},
    tables.lineage: {"ca", "domain"},
    tables.issuance: {"cause"},
    tables.acme_order: {"step"},
    tables.certificate: {"key_type"},
    tables.renewal_info: {"failures"},
    tables.deployment: {"target", "epoch", "how"},
    tables.observation: {"target", "how"},
}
"""What says the same of every pair."""


def rows(world: World) -> dict[str, list[dict[str, Any]]]:
    with world.store.read() as tx:
        return {
            table.name: [dict(row) for row in tx.connection.execute(select(table)).mappings()]
            for table in COLUMNS
        }


def filled(content: Iterable[dict[str, Any]]) -> set[frozenset[str]]:
    """Which columns have a value, in whatever rows there are."""
    return {frozenset(name for name, value in row.items() if value is not None) for row in content}


def said(content: Iterable[dict[str, Any]], names: Iterable[str]) -> set[tuple[Any, ...]]:
    return {tuple(row[name] for name in sorted(names)) for row in content}


def test_an_invented_pair_is_written_down_as_an_issued_one(
    lab: ProjectLab, program: Program, tmp_path: Path
) -> None:
    program.done("issue", lab.domain, f"*.{lab.domain}")
    change(program, "UPDATE renewal_info SET check_at = 0")
    program.done("renew", "--due")
    with closing(program.application()) as issued:
        real = rows(issued.world)
    with prepared(tmp_path / "invented", "sqlite:///dualcert.db", "SQLite", 3).application() as invented:
        fill(invented, Made(3, real=1, history=True))
        made = rows(invented.world)

    for table in COLUMNS:
        if table not in OTHERWISE:
            assert filled(made[table.name]) == filled(real[table.name]), table.name
            names = SAME.get(table, set())
            assert said(made[table.name], names) == said(real[table.name], names), table.name
    invented_events, real_events = by_kind(made["event"]), by_kind(real["event"])
    for kind in ONCE_FOR_ALL | (BY_CHANCE - (invented_events.keys() & real_events.keys())):
        invented_events.pop(kind, None)
        real_events.pop(kind, None)
    assert invented_events == real_events


def by_kind(events: Iterable[dict[str, Any]]) -> dict[str, set[frozenset[str]]]:
    """Which columns have a value in events of each kind."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in events:
        found.setdefault(row["kind"], []).append(row)
    return {kind: filled(rows_of_it) for kind, rows_of_it in found.items()}

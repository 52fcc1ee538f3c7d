"""What an incident reads of the large tables, on every version of PostgreSQL that is at hand.

They differ in what comes of a plan in which something that was switched off cannot be helped.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dualcert.lifecycle.incidents import close, plan, running, undoing
from dualcert.store import Store, migrations
from dualcert.testing.clock import FakeClock
from tests import postgres
from tests.postgres import Postgres, name_in
from tests.store import masses
from tests.store.building import BACKUP, PRIMARY
from tests.store.worlds import Setting, a_world

INVENTORY, AFFECTED = 3000, 20
_LARGE = "('certificate', 'lineage', 'pair', 'pair_name', 'pair_state', 'pair_target', 'wrapped_key')"


@pytest.fixture(params=postgres.VERSIONS)
def url(request: pytest.FixtureRequest, clock: FakeClock) -> Iterator[tuple[Postgres, str]]:
    """A server of that version, and a database of whole pairs of which the planner knows how many they are."""
    with postgres.running(request.param) as server:
        found = server.url(server.create())
        store = Store(found, clock, "tester")
        migrations.upgrade(store)
        with store.write() as tx:
            masses.fill(tx, INVENTORY)
        store.close()
        server.execute("VACUUM ANALYZE", name_in(found))
        yield server, found


def reads(server: Postgres, url: str) -> dict[str, int]:
    """How many rows of each table were read by sessions that have ended."""
    query = "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables"
    return dict(server.execute(f"{query} WHERE relname IN {_LARGE}", name_in(url)))


@pytest.mark.parametrize("ca", [PRIMARY, BACKUP])
def test_it_reads_what_it_is_about_and_not_the_inventory(
    url: tuple[Postgres, str], ca: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running._Run, "_see_all", lambda self, batch, wave: None)
    monkeypatch.setattr(undoing, "_deploy", lambda world, incident_id, plan: None)
    before = reads(*url)
    store = Store(url[1], clock, "tester")
    world = a_world(store, clock, Setting())
    incident = masses.an_incident(world, 1, AFFECTED, ca)
    made = plan(world, incident.id)
    running.run(world, incident.id, made.hash, running.Terms("100%", "100%", "100%"))
    close(world, incident.id)
    undoing.undo(world, incident.id)
    store.close()
    found = {name: many - before[name] for name, many in reads(*url).items()}
    assert {name: many for name, many in found.items() if many > 20 * AFFECTED} == {}
    assert found["pair_state"] >= AFFECTED

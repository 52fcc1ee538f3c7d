"""Two lots of a mass promotion at a time, on PostgreSQL: whatever becomes of one of them, each pair turns once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from dualcert.errors import DualcertError, Refused, StoreUnavailable
from dualcert.lab.polling import wait_for
from dualcert.lifecycle.incidents import lots, open_incident, plan, running, telling
from dualcert.lifecycle.incidents.planning import Plan
from dualcert.lifecycle.incidents.running import Ended, Terms
from dualcert.lifecycle.world import World
from dualcert.model.pair import Pair
from dualcert.store import Store, Transaction, incidents, pairs
from dualcert.testing.clock import FakeClock
from tests.postgres import Postgres, name_in
from tests.store.building import BACKUP, PRIMARY, a_pair, give_role
from tests.store.racing import Arena
from tests.store.worlds import Setting, issued

COUNT = 5
PATIENCE = 20.0
ALL_AT_ONCE = Terms("100%", max_failures="100%", max_drift="100%")
_STANDING = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction' "
    "AND pid NOT IN (SELECT unnest(pg_blocking_pids(pid)) FROM pg_stat_activity)"
)
_BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0"

Write = Callable[[], AbstractContextManager[Transaction]]


@pytest.fixture
def arena(server: Postgres, on_postgres: str, clock: FakeClock, tmp_path: Path) -> Iterator[Arena]:
    made = Arena(server, on_postgres, clock, Setting(), tmp_path)
    yield made
    made.close()


@pytest.fixture
def held(arena: Arena) -> list[Pair]:
    found = []
    with arena.second.store.write() as tx:
        for _ in range(COUNT):
            pair = a_pair(tx)
            for ca in (PRIMARY, BACKUP):
                give_role(tx, pair, issued(tx, arena.second, pair, ca))
            found.append(pair)
    return found


@pytest.fixture
def planned(arena: Arena, held: list[Pair], monkeypatch: pytest.MonkeyPatch) -> Plan:
    """It is carried out in lots of one or two pairs, which are not deployed."""
    monkeypatch.setattr(lots, "_BATCH", 2)
    monkeypatch.setattr(running._Run, "_see_all", lambda self, batch, wave: None)
    world = arena.second
    with world.store.read() as tx:
        serving = [pairs.state(tx, pair.id).serving or 0 for pair in held]
    deadline = world.clock.now() + timedelta(hours=1)
    incident = open_incident(world, "a test", "a test", deadline, PRIMARY, serving)
    return plan(world, incident.id)


def run(world: World, planned: Plan) -> Ended:
    return running.run(world, planned.incident.id, planned.hash, ALL_AT_ONCE)


def beside() -> bool:
    return threading.current_thread().name.startswith("mass")


def written(store: Store, unit: Callable[[Write], AbstractContextManager[Transaction]]) -> None:
    """Have a store's units of work go through ``unit``."""
    write = store.write
    store.write = lambda: unit(write)  # type: ignore[method-assign]


def epochs(world: World, held: list[Pair]) -> list[int]:
    with world.store.read() as tx:
        return [pairs.state(tx, pair.id).epoch for pair in held]


def demand_each_turned_once(world: World, held: list[Pair], planned: Plan) -> None:
    assert epochs(world, held) == [1] * COUNT
    told = telling.status(world, planned.incident.id)
    assert (told["promoted"], told["skipped"]) == (COUNT, 0)
    with world.store.read() as tx:
        turned = tx.execute(text("SELECT pair_id FROM event WHERE kind = 'promoted'")).all()
    assert Counter(row[0] for row in turned) == {pair.id: 1 for pair in held}


def test_every_other_lot_has_a_unit_of_its_own(arena: Arena, held: list[Pair], planned: Plan) -> None:
    units: Counter[bool] = Counter()

    def hear(tx: Transaction) -> None:
        units[beside()] += bool(tx.made_due)

    arena.first.store.watchers.add(hear)

    assert run(arena.first, planned) == Ended(done=True, stopped=None)

    demand_each_turned_once(arena.second, held, planned)
    assert units[True] == 2
    assert units[False] >= 2


def test_a_lot_whose_unit_is_lost_after_the_one_beside_it_is_done_again(
    arena: Arena, held: list[Pair], planned: Plan, clock: FakeClock
) -> None:
    ended = threading.Event()

    @contextmanager
    def lost(write: Write) -> Iterator[Transaction]:
        with write() as tx:
            yield tx
            if ended.is_set() and not beside():
                raise StoreUnavailable("gone")
        if beside():
            ended.set()

    written(arena.first.store, lost)
    with pytest.raises(StoreUnavailable, match="gone"):
        run(arena.first, planned)
    assert epochs(arena.second, held) == [0, 1, 0, 0, 0]
    clock.advance(1)

    assert run(arena.second, planned) == Ended(done=True, stopped=None)
    demand_each_turned_once(arena.second, held, planned)


def test_a_lot_that_the_database_did_not_let_through_has_its_turn_again(
    arena: Arena, held: list[Pair], planned: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    refused = Counter[str]()

    @contextmanager
    def none_beside(write: Write) -> Iterator[Transaction]:
        with write() as tx:
            yield tx
            if beside():
                refused["all"] += 1
                raise StoreUnavailable("too many connections")

    written(arena.first.store, none_beside)

    assert run(arena.first, planned) == Ended(done=True, stopped=None)

    assert refused["all"] >= 2
    assert "incident 1: a batch has its turn again: too many connections" in caplog.messages
    demand_each_turned_once(arena.second, held, planned)


def test_no_lot_is_promoted_once_whoever_kept_others_away_is_gone_and_the_incident_closed(
    server: Postgres, on_postgres: str, arena: Arena, held: list[Pair], planned: Plan
) -> None:
    came: list[Any] = []
    running_it = threading.Thread(target=lambda: came.append(_came_of_it(arena.first, planned)))
    with server.connect(name_in(on_postgres)) as admin:
        with arena.second.store.write() as tx:
            pairs.lock(tx, [held[1].id])
            running_it.start()
            # The lot beside waits for its pair, the first one is through and waits for that.
            assert wait_for(lambda: admin.execute(_BLOCKED).fetchone() == (1,), PATIENCE)
            assert wait_for(lambda: len(admin.execute(_STANDING).fetchall()) == 1, PATIENCE)
            [(pid,)] = admin.execute(_STANDING).fetchall()
            admin.execute("SELECT pg_terminate_backend(%s)", [pid])
            with Store(on_postgres, arena.clock, "third").write() as third:
                assert incidents.close(third, planned.incident.id)
        running_it.join(PATIENCE)
    assert not running_it.is_alive()
    [error] = came
    assert isinstance(error, Refused), error
    assert "was closed" in error.reason
    assert epochs(arena.second, held) == [0] * COUNT


def test_others_do_not_get_between_two_lots(
    server: Postgres, on_postgres: str, arena: Arena, held: list[Pair], planned: Plan
) -> None:
    """Whoever closes the incident while the lot beside is under way waits for both."""
    ended: list[Any] = []
    running_it = threading.Thread(target=lambda: ended.append(_came_of_it(arena.first, planned)))
    closing = threading.Thread(target=lambda: ended.append(_close(on_postgres, arena, planned)))
    with server.connect(name_in(on_postgres)) as admin:
        with arena.second.store.write() as tx:
            pairs.lock(tx, [held[1].id])
            running_it.start()
            assert wait_for(lambda: admin.execute(_BLOCKED).fetchone() == (1,), PATIENCE)
            closing.start()
            assert wait_for(lambda: admin.execute(_BLOCKED).fetchone() == (2,), PATIENCE)
            assert ended == []
        closing.join(PATIENCE)
        turned = epochs(arena.second, held)
        running_it.join(PATIENCE)
    assert turned[:2] == [1, 1]
    assert len(ended) == 2


def _came_of_it(world: World, planned: Plan) -> Ended | DualcertError:
    try:
        return run(world, planned)
    except (Refused, StoreUnavailable) as error:
        return error


def _close(url: str, arena: Arena, planned: Plan) -> bool:
    with Store(url, arena.clock, "third").write() as tx:
        return incidents.close(tx, planned.incident.id)

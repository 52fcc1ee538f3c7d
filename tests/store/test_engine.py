"""What becomes of a row when its step has spoken."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from dualcert.errors import CaUnreachable, DeployError, StoreUnavailable
from dualcert.lifecycle import owner as owners
from dualcert.lifecycle.engine import Engine, Held
from dualcert.lifecycle.owner import new_owner
from dualcert.lifecycle.runner import DAEMON, Runner, Scope
from dualcert.lifecycle.world import World
from dualcert.model.pair import Pair
from dualcert.model.work import DAY, PERSON, Done, Failed, Later, Outcome, Waiting, WorkKind, WorkRow
from dualcert.policy.backoff import IN_MEMORY
from dualcert.ports.ca import CertificateAuthority
from dualcert.store import Store, Transaction, claims, leases, pairs, sqlite, tables, work
from dualcert.testing.clock import FakeClock
from tests.store.building import PRIMARY, a_pair, give_role
from tests.store.worlds import Setting, a_world, issued

ORDER = WorkKind.ORDER
MOMENT = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def setting() -> Setting:
    return Setting()


@pytest.fixture
def world(store: Store, clock: FakeClock, setting: Setting) -> World:
    return a_world(store, clock, setting)


@pytest.fixture
def engine(world: World) -> Engine:
    return Engine(world)


def held(engine: Engine, kind: WorkKind = ORDER) -> WorkRow:
    """A row of a pair of its own that the engine has just claimed."""
    with engine.world.store.write() as tx:
        pair = a_pair(tx)
        work.schedule(tx, kind, pair.id, tx.now, ca=PRIMARY)
    [[row]] = engine.claim([kind], 10, [pair.id])
    return row


def in_table(engine: Engine, row: WorkRow) -> WorkRow | None:
    with engine.world.store.read() as tx:
        return work.get(tx, row.kind, row.pair_id, ca=row.ca, target=row.target)


def fallback_is_due(engine: Engine, row: WorkRow) -> bool:
    with engine.world.store.read() as tx:
        return work.get(tx, WorkKind.FALLBACK, row.pair_id) is not None


def is_held(engine: Engine, row: WorkRow) -> bool:
    with engine.world.store.read() as tx:
        return work.held_by_another(tx, row.kind, row.pair_id)


# --- settling --------------------------------------------------------------------------------------------


def test_a_row_that_is_done_is_forgotten(engine: Engine) -> None:
    assert engine.settle(held(engine), Done()) is None


@pytest.mark.parametrize("wait", [timedelta(0), timedelta(seconds=1), IN_MEMORY - MOMENT])
def test_what_comes_back_within_two_seconds_is_waited_for_under_its_lease(
    engine: Engine, wait: timedelta
) -> None:
    row = held(engine)
    at = engine.world.clock.now() + wait
    one = engine.settle(row, Later(at, "soon"))
    assert one is not None
    assert (one.wake_at, one.reason, one.waiting) == (at, "soon", False)
    assert one.row == replace(row, continued=True)
    assert in_table(engine, row) == row
    assert is_held(engine, row)


@pytest.mark.parametrize("wait", [IN_MEMORY, MINUTE])
def test_what_comes_back_later_goes_back_to_the_table_with_its_reason(
    engine: Engine, wait: timedelta
) -> None:
    row = held(engine)
    at = engine.world.clock.now() + wait
    assert engine.settle(row, Later(at, "the CA wants a pause")) is None
    found = in_table(engine, row)
    assert found == replace(row, due_at=at, owner=None, reason="the CA wants a pause")
    assert not is_held(engine, row)


def test_looks_are_counted_until_something_goes_on(engine: Engine) -> None:
    row, now = held(engine), engine.world.clock.now()
    for looks in (1, 2, 3):
        one = engine.settle(row, Later(now, "processing", looks=row.looks + 1))
        assert one is not None
        assert one.row.looks == looks
        row = one.row
    one = engine.settle(row, Later(now, "answered"))
    assert one is not None
    assert (one.row.looks, one.row.continued) == (0, True)


def test_a_failure_is_counted_since_it_began(engine: Engine, clock: FakeClock) -> None:
    began = clock.now()
    row = held(engine)
    assert engine.settle(row, Later(began + 5 * MINUTE, "refused", failed=True)) is None
    clock.advance(5 * MINUTE)
    [[again]] = engine.claim([ORDER], 1)
    assert (again.attempts, again.since, again.reason) == (1, began, "refused")
    assert engine.settle(again, Later(clock.now() + 10 * MINUTE, "refused", failed=True)) is None
    found = in_table(engine, row)
    assert found is not None
    assert (found.attempts, found.since, found.due_at) == (2, began, clock.now() + 10 * MINUTE)


def test_a_failure_that_may_pass_is_written_down_and_waited_for_under_its_lease(
    engine: Engine, clock: FakeClock
) -> None:
    row, now = held(engine), clock.now()
    at = now + timedelta(seconds=0.5)
    first = engine.settle(row, Later(at, "no answer", failed=True))
    assert first is not None
    assert (first.wake_at, first.waiting) == (at, False)
    assert (first.row.attempts, first.row.since, first.row.continued) == (1, now, False)
    found = in_table(engine, row)
    assert found is not None
    assert (found.attempts, found.since, found.reason) == (1, now, "no answer")
    assert is_held(engine, row)
    clock.advance(0.5)
    second = engine.settle(first.row, Later(clock.now() + MINUTE, "no answer", failed=True))
    assert second is None
    found = in_table(engine, row)
    assert found is not None
    assert (found.attempts, found.since, found.owner) == (2, now, None)


def test_a_row_that_waits_for_another_is_held_and_given_back_with_a_time_to_look_again(
    engine: Engine, clock: FakeClock
) -> None:
    row = held(engine)
    one = engine.settle(row, Waiting("publication", "until the values are seen"))
    assert one is not None
    assert one.waiting
    assert in_table(engine, row) == row
    engine.release([one])
    found = in_table(engine, row)
    assert found is not None
    assert found.due_at == clock.now() + 5 * MINUTE
    assert (found.owner, found.reason, found.attempts) == (None, "until the values are seen", 0)
    with engine.world.store.write() as tx:
        work.wake(tx, ORDER, row.pair_id)
    assert len(engine.claim([ORDER], 1)) == 1


def test_what_was_under_way_is_due_at_once_when_it_is_given_back(engine: Engine, clock: FakeClock) -> None:
    row = held(engine)
    one = engine.settle(row, Later(clock.now() + timedelta(seconds=1), "processing", looks=1))
    assert one is not None
    engine.release([one])
    [[again]] = engine.claim([ORDER], 1)
    assert (again.id, again.reason, again.looks, again.continued) == (row.id, "processing", 0, False)


def test_what_needs_a_person_does_not_come_back_by_itself(engine: Engine, clock: FakeClock) -> None:
    row = held(engine)
    assert engine.settle(row, Failed("the account is deactivated")) is None
    found = in_table(engine, row)
    assert found is not None
    assert (found.due_at, found.waiting_for, found.attempts) == (None, PERSON, 1)
    assert found.reason == "the account is deactivated"
    clock.advance(timedelta(days=1000))
    assert engine.claim([ORDER], 1) == []


@pytest.mark.parametrize(
    ("kind", "outcome", "gives_way"),
    [
        (ORDER, Failed("rejected"), True),
        (ORDER, Later(FakeClock().now() + timedelta(days=1), "unfit", failed=True, waiting_for=DAY), True),
        (ORDER, Later(FakeClock().now() + 5 * MINUTE, "busy", failed=True), False),
        (ORDER, Later(FakeClock().now(), "busy", failed=True), False),
        (WorkKind.REVOCATION, Failed("rejected"), False),
    ],
)
def test_an_order_that_failed_for_good_lets_the_backup_serve_and_no_other_does(
    engine: Engine, kind: WorkKind, outcome: Outcome, gives_way: bool
) -> None:
    row = held(engine, kind)
    engine.settle(row, outcome)
    assert fallback_is_due(engine, row) is gives_way


def test_a_row_that_was_lost_meanwhile_is_not_written(engine: Engine, clock: FakeClock) -> None:
    row = held(engine)
    with engine.world.store.write() as tx:
        leases.release_owner(tx, engine.owner)
        [theirs] = claims.claim(tx, "another", kinds=[ORDER], limit=1)
    for outcome in (Failed("no"), Later(clock.now() + MINUTE, "later"), Later(clock.now(), "x", failed=True)):
        engine.settle(row, outcome)
        assert in_table(engine, row) == theirs


# --- claiming --------------------------------------------------------------------------------------------


def test_the_deployments_of_a_target_come_together_and_all_else_alone(engine: Engine) -> None:
    with engine.world.store.write() as tx:
        for _ in range(3):
            pair = a_pair(tx)
            for target in ("web", "mail"):
                work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target=target)
            work.schedule(tx, ORDER, pair.id, tx.now, ca=PRIMARY)
    batches = engine.claim(list(WorkKind), 100)
    shape = sorted((batch[0].kind.value, batch[0].target, len(batch)) for batch in batches)
    assert shape == [("deployment", "mail", 3), ("deployment", "web", 3), *[("order", "", 1)] * 3]


def test_deployments_of_pairs_that_nobody_asked_for_are_taken_along(engine: Engine) -> None:
    with engine.world.store.write() as tx:
        mine, theirs = a_pair(tx), a_pair(tx)
        for pair in (mine, theirs):
            work.schedule(tx, WorkKind.DEPLOYMENT, pair.id, tx.now, target="web")
    [batch] = engine.claim(list(WorkKind), 100, [mine.id])
    assert [row.pair_id for row in batch] == [mine.id, theirs.id]


# --- steps that go wrong ---------------------------------------------------------------------------------


def test_a_step_whose_row_was_lost_counts_as_done(engine: Engine) -> None:
    row = held(engine, WorkKind.REFILL)
    with engine.world.store.write() as tx:
        leases.release_owner(tx, engine.owner)
        claims.claim(tx, "another", kinds=[WorkKind.REFILL], limit=1)
    assert engine.advance([row]) == [Done()]
    assert in_table(engine, row) is not None


def test_an_error_with_a_name_is_a_failure_that_is_tried_again(engine: Engine, clock: FakeClock) -> None:
    row = replace(held(engine), ca="gone")
    [outcome] = engine.advance([row])
    assert isinstance(outcome, Later)
    assert outcome.failed
    assert outcome.at == clock.now() + 5 * MINUTE
    assert "[ca.gone] is not configured" in outcome.reason


@pytest.mark.parametrize("tries", [0, 1, 500])
def test_what_is_not_configured_is_tried_again_in_minutes_however_often_it_has_failed(
    engine: Engine, clock: FakeClock, tries: int
) -> None:
    row = replace(held(engine), ca="gone", attempts=tries)
    [outcome] = engine.advance([row])
    assert isinstance(outcome, Later)
    assert outcome.at == clock.now() + 5 * MINUTE


def _fails(setting: Setting, pair: Pair) -> None:
    setting.targets["web"].fails_for.add(pair.name)


def _serves_another(setting: Setting, pair: Pair) -> None:
    """Nothing, in fact: it was never put there."""


def _is_broken(setting: Setting, pair: Pair) -> None:
    def step() -> None:
        raise DeployError("broken", name=pair.name)

    setting.targets["web"].before_step = step


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        (WorkKind.DEPLOYMENT, _fails),
        (WorkKind.DEPLOYMENT, _is_broken),
        (WorkKind.VERIFICATION, _serves_another),
    ],
)
def test_a_target_that_fails_is_tried_again_within_the_hour_however_often_it_has_failed(
    engine: Engine,
    clock: FakeClock,
    setting: Setting,
    kind: WorkKind,
    how: Callable[[Setting, Pair], None],
) -> None:
    world = engine.world
    with world.store.write() as tx:
        pair = a_pair(tx, targets=("web",))
        give_role(tx, pair, issued(tx, world, pair, PRIMARY))
        work.schedule(tx, kind, pair.id, tx.now, target="web")
    how(setting, pair)
    [[row]] = engine.claim([kind], 10, [pair.id])
    for tries, minutes in ((0, 5), (4, 54), (500, 54)):  # the draw takes off a tenth of an hour
        [outcome] = engine.advance([replace(row, attempts=tries, looks=10_000)])
        assert isinstance(outcome, Later)
        assert outcome.failed
        assert outcome.at == clock.now() + minutes * MINUTE


def test_a_ca_that_nobody_reaches_is_tried_again_within_the_second(
    engine: Engine, setting: Setting, clock: FakeClock
) -> None:
    def meet(ca: str) -> CertificateAuthority:
        raise CaUnreachable("connection refused", ca=ca)

    setting.meet = meet
    [outcome] = engine.advance([held(engine)])
    assert isinstance(outcome, Later)
    assert outcome.at == clock.now() + timedelta(seconds=0.5)
    assert "connection refused" in outcome.reason


def test_a_database_that_is_away_ends_the_step_which_can_be_taken_again(
    database: Path, clock: FakeClock, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 50)
    store = Store(f"sqlite:///{database}", clock, "tester")
    engine = Engine(a_world(store, clock, setting))
    row = held(engine, WorkKind.REFILL)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            engine.advance([row])
    assert engine.advance([row]) == [Done()]
    store.close()


def test_what_nobody_foresaw_is_told_and_its_row_backs_off(
    engine: Engine, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    row = held(engine)
    assert engine.broken(row, ZeroDivisionError("division\nby zero")) is None
    with engine.world.store.read() as tx:
        left = work.get(tx, ORDER, row.pair_id, ca=PRIMARY)
    assert left is not None
    assert (left.owner, left.attempts) == (None, 1)
    assert left.due_at is not None
    assert left.due_at >= clock.now() + timedelta(minutes=5)
    assert left.reason is not None
    assert left.reason.startswith("internal error: ZeroDivisionError: division by zero\n")
    [record] = [one for one in caplog.records if one.levelname == "ERROR"]
    assert (record.ca, record.work) == (PRIMARY, row.id)  # type: ignore[attr-defined]
    assert record.exc_info is not None


# --- the dead --------------------------------------------------------------------------------------------


def test_a_dead_process_of_this_machine_loses_its_rows_at_once_and_nobody_else(engine: Engine) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    me = new_owner()
    dead = str(replace(me, pid=ended.pid, started="1"))
    elsewhere = str(replace(me, host="another-host", pid=ended.pid, started="1"))
    alive = str(new_owner())
    rows = {}
    for owner in (dead, elsewhere, alive):
        with engine.world.store.write() as tx:
            pair = a_pair(tx)
            work.schedule(tx, ORDER, pair.id, tx.now, ca=PRIMARY)
            [rows[owner]] = claims.claim(tx, owner, kinds=[ORDER], limit=1)
    mine = held(engine)
    engine.take_from_the_dead()
    assert [[row.id for row in batch] for batch in engine.claim([ORDER], 10)] == [[rows[dead].id]]
    assert in_table(engine, rows[elsewhere]) == rows[elsewhere]
    assert in_table(engine, rows[alive]) == rows[alive]
    assert in_table(engine, mine) == mine


@pytest.mark.parametrize("silent_for", [5, 15])
def test_another_machine_of_the_same_name_keeps_what_it_holds(
    engine: Engine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, silent_for: int
) -> None:
    """We have booted ten seconds ago. Whatever has prolonged its lease since then was not ended by that."""
    monkeypatch.setattr(owners, "uptime", lambda: 10.0)
    namespace = new_owner().place.partition("/")[2]
    other = str(replace(new_owner(), place=f"another-boot/{namespace}"))
    with engine.world.store.write() as tx:
        work.schedule(tx, ORDER, a_pair(tx).id, tx.now, ca=PRIMARY)
        claims.claim(tx, other, kinds=[ORDER], limit=1)
        tx.execute(update(tables.lease).values(until=tables.lease.c.until - silent_for * 1_000_000))
    clock.advance(2)
    engine.take_from_the_dead()
    # A file is this machine's alone.
    lives = silent_for < 10 and engine.world.store.dialect == "postgresql"
    assert (engine.claim([ORDER], 1) == []) is lives
    with engine.world.store.read() as tx:
        assert (other in leases.owners(tx)) is lives


def test_an_engine_of_another_machine_that_ended_without_a_word_is_forgotten(
    engine: Engine, clock: FakeClock
) -> None:
    elsewhere = str(replace(new_owner(), host="another-host"))
    with engine.world.store.write() as tx:
        pair = a_pair(tx)
        work.schedule(tx, ORDER, pair.id, tx.now, ca=PRIMARY)
        [theirs] = claims.claim(tx, elsewhere, kinds=[ORDER], limit=1)
        tx.execute(update(tables.lease).values(until=1))
    engine.take_from_the_dead()
    with engine.world.store.read() as tx:
        assert leases.owners(tx) == []
    clock.advance(2)
    assert [[row.id for row in batch] for batch in engine.claim([ORDER], 10)] == [[theirs.id]]


def test_an_engine_at_its_end_leaves_no_lease_and_one_that_held_nothing_writes_none(engine: Engine) -> None:
    engine.renew_leases()
    with engine.world.store.read() as tx:
        assert leases.owners(tx) == []
    held(engine)
    engine.renew_leases()
    with engine.world.store.read() as tx:
        assert leases.owners(tx) == [engine.owner]
    engine.end()
    engine.renew_leases()
    with engine.world.store.read() as tx:
        assert leases.owners(tx) == []


def test_however_much_is_held_it_is_given_back_a_few_hundred_at_a_time(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement on PostgreSQL has room for 65,535 parameters."""
    locked: list[int] = []
    lock = pairs.lock

    def counted(tx: Transaction, ids: Collection[int]) -> None:
        locked.append(len(ids))
        lock(tx, ids)

    monkeypatch.setattr(pairs, "lock", counted)
    one = held(engine)
    others = [replace(one, id=one.id + number, pair_id=one.pair_id + number) for number in range(1, 1201)]
    now = engine.world.clock.now()
    engine.release([Held(row, now, "") for row in (*others, one)])
    assert sum(locked) == 1201
    assert max(locked) <= 500
    left = in_table(engine, one)
    assert left is not None
    assert left.owner is None


def test_a_run_that_cannot_give_back_its_rows_leaves_no_lease(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_tx: Transaction, _rows: object) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr(work, "release", broken)
    monkeypatch.setattr(Engine, "advance", lambda _self, _rows: [Waiting("another", "for a test")])
    with engine.world.store.write() as tx:
        work.schedule(tx, ORDER, a_pair(tx).id, tx.now, ca=PRIMARY)

    def begin_and_end() -> None:
        with Runner(engine, Scope(), DAEMON, 1.0) as one:
            one.claim()
            assert one.busy

    with pytest.raises(ZeroDivisionError):
        begin_and_end()
    with engine.world.store.read() as tx:
        assert leases.owners(tx) == []


def test_right_after_the_clock_was_put_nothing_is_taken_from_anybody(
    engine: Engine, clock: FakeClock
) -> None:
    with engine.world.store.write() as tx:
        theirs, free = a_pair(tx), a_pair(tx)
        work.schedule(tx, ORDER, theirs.id, tx.now, ca=PRIMARY)
        work.schedule(tx, WorkKind.DEPLOYMENT, theirs.id, tx.now, target="web")
        claims.claim(tx, "another", kinds=list(WorkKind), limit=9)
        tx.execute(update(tables.lease).values(until=1))
        work.schedule(tx, ORDER, free.id, tx.now, ca=PRIMARY)
        work.schedule(tx, WorkKind.DEPLOYMENT, free.id, tx.now, target="web")
    clock.set(clock.now() + timedelta(hours=1))

    def taken() -> list[int]:
        return [row.pair_id for batch in engine.claim(list(WorkKind), 9) for row in batch]

    assert taken() == [free.id, free.id]
    clock.advance(1.9)
    assert taken() == []
    clock.advance(0.1)
    assert taken() == [theirs.id, theirs.id]


def test_who_begins_right_after_the_clock_was_put_takes_from_the_dead_alone(
    world: World, clock: FakeClock
) -> None:
    with subprocess.Popen(["sleep", "0"]) as process:
        dead = str(replace(new_owner(), pid=process.pid))
    with world.store.write() as tx:
        for owner in ("another", dead):
            work.schedule(tx, ORDER, a_pair(tx).id, tx.now, ca=PRIMARY)
            claims.claim(tx, owner, kinds=[ORDER], limit=9)
        tx.execute(update(tables.lease).values(until=1))

    engine = Engine(world)

    elsewhere = world.store.dialect == "postgresql"  # its leases go by another clock
    assert len(engine.claim([ORDER], 9)) == 1 + elsewhere
    clock.advance(1.9)
    assert engine.claim([ORDER], 9) == []
    clock.advance(0.1)
    assert len(engine.claim([ORDER], 9)) == 1 - elsewhere


# --- woken while held ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome",
    [
        Failed("rejected"),
        Later(FakeClock().now() + timedelta(days=1), "unfit", failed=True, waiting_for=DAY),
        Later(FakeClock().now() + timedelta(hours=1), "429", failed=True),
    ],
    ids=["a person", "a day", "back-off"],
)
def test_that_another_step_of_the_pair_has_moved_shortens_no_pause(
    engine: Engine, clock: FakeClock, outcome: Outcome
) -> None:
    row = held(engine)
    clock.advance(1)
    with engine.world.store.write() as tx:
        work.wake(tx, ORDER, row.pair_id)
    assert engine.settle(row, outcome) is None
    assert engine.claim([ORDER], 1) == []
    found = in_table(engine, row)
    assert found is not None
    if isinstance(outcome, Later):
        assert (found.due_at, found.waiting_for) == (outcome.at, outcome.waiting_for)
    else:
        assert (found.due_at, found.waiting_for) == (None, PERSON)


def test_what_waited_is_due_at_once_where_another_step_has_moved_meanwhile(
    engine: Engine, clock: FakeClock
) -> None:
    row = held(engine)
    one = engine.settle(row, Waiting("publication", "until the values are seen"))
    assert one is not None
    clock.advance(1)
    with engine.world.store.write() as tx:
        work.wake(tx, ORDER, row.pair_id)
    engine.release([one])
    [[again]] = engine.claim([ORDER], 1)
    assert again.id == row.id

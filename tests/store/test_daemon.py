"""The daemon over CAs and targets in memory. Time is the machine's, or that of a clock which a test puts wrong."""

from __future__ import annotations

import json
import logging
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from queue import SimpleQueue

import pytest
from sqlalchemy import update

from dualcert import scheduling
from dualcert.cli.logs import _Json
from dualcert.errors import CaRejected, StoreError, StoreUnavailable
from dualcert.lifecycle import daemon as daemons_module
from dualcert.lifecycle import leasekeeper, runner, telling
from dualcert.lifecycle.daemon import Daemon
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.owner import new_owner
from dualcert.lifecycle.runner import DAEMON, Runner, Scope
from dualcert.lifecycle.world import World
from dualcert.model.events import EventKind
from dualcert.model.pair import Pair
from dualcert.model.work import PERSON, Later, Waiting, WorkKind, WorkRow
from dualcert.ports.ca import CertificateAuthority
from dualcert.scheduling import serve
from dualcert.store import (
    Store,
    Transaction,
    claims,
    clockwork,
    daemons,
    events,
    leases,
    pairs,
    promotion,
    seals,
    sqlite,
    tables,
    work,
)
from tests.shifted import ShiftedClock
from tests.store import databaseclock
from tests.store.building import BACKUP, PRIMARY, a_pair
from tests.store.renewing import DAY, gets
from tests.store.test_driver import Meeting, deployable, soon
from tests.store.worlds import Setting, a_world

HOUR = timedelta(hours=1)
ORDER, DEPLOYMENT, REFILL = WorkKind.ORDER, WorkKind.DEPLOYMENT, WorkKind.REFILL


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
def setting() -> Setting:
    return Setting()


@pytest.fixture
def world(database_url: str, clock: ShiftedClock, setting: Setting) -> Iterator[World]:
    store = Store(database_url, clock, "tester")
    yield a_world(store, clock, setting)
    store.close()


@contextmanager
def running(world: World) -> Iterator[Daemon]:
    """A daemon that ticks as often as the clock would have it."""
    daemon, over = Daemon(world, "1.2.3"), threading.Event()

    def tick() -> None:
        while not over.wait(0.05):
            daemon.tick_soon()

    daemon.start()
    threading.Thread(target=tick, daemon=True).start()
    try:
        yield daemon
    finally:
        over.set()
        daemon.stop(8)


def orders_due(world: World, number: int, *cas: str) -> list[Pair]:
    with world.store.write() as tx:
        made = [a_pair(tx) for _ in range(number)]
        for pair in made:
            for ca in cas:
                work.schedule(tx, ORDER, pair.id, tx.now, ca=ca)
    return made


def row(world: World, pair: Pair, ca: str) -> WorkRow | None:
    with world.store.read() as tx:
        return work.get(tx, ORDER, pair.id, ca=ca)


def refused(world: World, pair: Pair, ca: str = PRIMARY) -> bool:
    found = row(world, pair, ca)
    return found is not None and found.waiting_for == PERSON


def orders(world: World, ca: str) -> list[WorkRow]:
    with world.store.read() as tx:
        number = tx.execute(tables.work.select()).all()
        return [one for one in work.of_pairs(tx, {each.pair_id for each in number}, [ORDER]) if one.ca == ca]


def all_refused(world: World, *cas: str) -> bool:
    return all(one.waiting_for == PERSON for ca in cas for one in orders(world, ca))


def claimable_by_another(world: World) -> bool:
    with world.store.read() as tx:
        return claims.claimable(tx, "another", kinds=[ORDER])


def no(ca: str) -> CertificateAuthority:
    raise CaRejected("no", problem="rejectedIdentifier", ca=ca)


# --- what it does ----------------------------------------------------------------------------------------


def test_it_moves_on_whatever_is_due_and_what_becomes_due(world: World, setting: Setting) -> None:
    with world.store.write() as tx:
        first, serving, _ = deployable(tx, world, "web")
    with running(world):
        soon(lambda: setting.targets["web"].in_service == {first.name: serving.sha256})
        other = Store(world.store.url, world.clock, "another process")
        with other.write() as tx:
            second, late, _ = deployable(tx, world, "mail")
        other.close()
        soon(lambda: setting.targets["mail"].in_service == {second.name: late.sha256})


def test_a_tick_opens_what_time_has_made_due_and_begins_with_it(world: World, setting: Setting) -> None:
    setting.meet = no
    with world.store.write() as tx:
        due, not_yet = a_pair(tx), a_pair(tx)
        for pair, age in ((due, 70 * DAY), (not_yet, 5 * DAY)):
            gets(tx, pair, PRIMARY, age=age, check_in=100 * DAY)
            gets(tx, pair, BACKUP, age=1 * DAY, check_in=100 * DAY)
            pairs.set_next_action(tx, pair.id, tx.now)
    with running(world):
        soon(lambda: refused(world, due))
    assert row(world, due, BACKUP) is None
    assert row(world, not_yet, PRIMARY) is None
    with world.store.read() as tx:
        assert [one.cause for one in events.page(tx) if one.kind == EventKind.ORDER_DUE] != []


def test_a_tick_waits_for_no_step(world: World, setting: Setting) -> None:
    setting.meet = meeting = Meeting(held_up=PRIMARY)
    orders_due(world, 3, PRIMARY)
    daemon = Daemon(world, "1.2.3")
    daemon.tick()
    daemon.tick()
    meeting.until(lambda: meeting.met == [PRIMARY])
    assert daemon.load == (3, 0)
    meeting.open()
    assert daemon._runner.finish(30)
    assert all_refused(world, PRIMARY)


def test_a_ca_that_hangs_holds_up_neither_another_nor_deployments_and_takes_few_rows(
    world: World, setting: Setting
) -> None:
    setting.max_concurrency = 2
    setting.meet = meeting = Meeting(held_up=PRIMARY)
    orders_due(world, 60, PRIMARY)
    orders_due(world, 60, BACKUP)
    with world.store.write() as tx:
        pair, serving, _ = deployable(tx, world, "web")
    with running(world) as daemon:
        soon(lambda: setting.targets["web"].in_service == {pair.name: serving.sha256})
        soon(lambda: all_refused(world, BACKUP))
        assert {one.waiting_for for one in orders(world, PRIMARY)} == {None}
        held = [one for one in orders(world, PRIMARY) if one.owner == daemon.owner]
        assert len(held) <= 24, "the others are left to whoever has room"
        meeting.open()
        soon(lambda: all_refused(world, PRIMARY))


def test_two_share_the_work_and_do_nothing_twice(world: World, setting: Setting) -> None:
    met: Counter[int] = Counter()
    lock = threading.Lock()

    def meet(ca: str) -> CertificateAuthority:
        with lock:
            met[threading.get_ident()] += 1
        raise CaRejected("no", problem="rejectedIdentifier", ca=ca)

    setting.meet = meet
    orders_due(world, 60, PRIMARY, BACKUP)
    other = a_world(Store(world.store.url, world.clock, "another"), world.clock, setting)
    with running(world) as one, running(other) as two:
        assert one.owner != two.owner
        soon(lambda: all_refused(world, PRIMARY, BACKUP))
    other.store.close()
    assert sum(met.values()) == 120
    assert {one.fence for one in orders(world, PRIMARY)} == {1}


# --- what goes wrong -------------------------------------------------------------------------------------


def test_what_nobody_foresaw_holds_up_nothing_else(
    world: World, setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    def meet(ca: str) -> CertificateAuthority:
        if ca == PRIMARY:
            raise ZeroDivisionError("nobody foresaw this")
        return no(ca)

    setting.meet = meet
    broken, *_ = orders_due(world, 5, PRIMARY, BACKUP)
    with running(world) as daemon:
        soon(lambda: all_refused(world, BACKUP))
        soon(lambda: daemon.load == (0, 0))
        left = row(world, broken, PRIMARY)
        daemon.check()
    assert left is not None
    assert (left.attempts, left.owner) == (1, None)
    assert left.reason is not None
    assert left.reason.startswith("internal error: ZeroDivisionError: nobody foresaw this\n")
    assert {one.levelname for one in caplog.records if "internal error" in one.getMessage()} == {"ERROR"}
    assert "ZeroDivisionError" in caplog.text


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Mute(), "Mute: (Mute without a text)"),
        (RuntimeError("sur\udc80rogate \0"), "RuntimeError: sur\ufffdrogate \ufffd"),
        (RuntimeError("x" * 5_000_000), "RuntimeError: xxx"),
    ],
)
def test_a_text_that_cannot_be_made_or_stored_costs_no_thread(
    world: World, setting: Setting, caplog: pytest.LogCaptureFixture, error: Exception, told: str
) -> None:
    def meet(ca: str) -> CertificateAuthority:
        if ca == PRIMARY:
            raise error
        return no(ca)

    # What the test's workers tell each other has no room for half a character.
    caplog.set_level(logging.CRITICAL, logger="dualcert")
    setting.meet = meet
    setting.max_concurrency = 1
    made = orders_due(world, 3, PRIMARY, BACKUP)

    def failed(pair: Pair) -> bool:
        found = row(world, pair, PRIMARY)
        return found is not None and found.attempts == 1 and found.owner is None

    with running(world) as daemon:
        soon(lambda: all(failed(pair) for pair in made) and all_refused(world, BACKUP))
        daemon.check()
    for pair in made:
        left = row(world, pair, PRIMARY)
        assert left is not None
        assert left.reason is not None
        assert left.reason.startswith(f"internal error: {told}")
        assert len(left.reason) < 2000


def test_what_cannot_even_be_written_down_stays_and_is_told(
    world: World, setting: Setting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def meet(ca: str) -> CertificateAuthority:
        if ca == PRIMARY:
            raise ZeroDivisionError("nobody foresaw this")
        return no(ca)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("nor this")

    setting.meet = meet
    setting.max_concurrency = 1
    monkeypatch.setattr(Engine, "broken", broken)
    orders_due(world, 3, PRIMARY, BACKUP)
    with running(world) as daemon:
        soon(lambda: daemon.load == (0, 3) and all_refused(world, BACKUP))
        daemon.check()
    assert caplog.text.count("order: what has gone wrong cannot be written down") == 3


def test_what_cannot_be_opened_is_told_and_holds_up_nothing_else(
    world: World, setting: Setting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def opening(_world: World) -> int:
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr(daemons_module, "_OPENINGS", {opening: 0.0})
    setting.meet = no
    with running(world) as daemon:
        soon(lambda: "could not be opened" in caplog.text)
        [pair] = orders_due(world, 1, PRIMARY)
        soon(lambda: refused(world, pair))
        daemon.check()
    assert caplog.text.count("could not be opened") == 1


def test_what_takes_its_time_beside_holds_up_nothing_due(
    world: World, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on = threading.Semaphore(0), threading.Event()

    def endless(_world: World) -> float:
        begun.release()
        assert goes_on.wait(60)
        return 0.0

    monkeypatch.setattr(daemons_module, "BESIDE", {"endless": endless})
    setting.meet = no
    with running(world) as daemon:
        assert begun.acquire(timeout=20)
        [pair] = orders_due(world, 1, PRIMARY)
        soon(lambda: refused(world, pair))
        daemon.tick_soon()
        assert not begun.acquire(timeout=0.2), "one round at a time"
        goes_on.set()

        def next_round() -> bool:
            daemon.tick_soon()
            return begun.acquire(timeout=0.1)

        soon(next_round)


def test_trouble_beside_is_told_and_ends_nothing(
    world: World, setting: Setting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_world: World) -> float:
        raise ZeroDivisionError("nobody foresaw this")

    def away(_world: World) -> float:
        raise StoreUnavailable("the database is being moved")

    def told(_world: World) -> float:
        raise StoreError("a row is no event", remedy="Look at it.")

    jobs = {"breaking": broken, "moving": away, "telling": told}
    monkeypatch.setattr(daemons_module, "BESIDE", jobs)
    setting.meet = no
    with running(world) as daemon:
        soon(lambda: "breaking has failed" in caplog.text)
        soon(lambda: "moving waits for the database: the database is being moved" in caplog.text)
        soon(lambda: "telling has failed; again in 60 s: a row is no event\n  Look at it." in caplog.text)
        assert [one.exc_info is None for one in caplog.records if "telling" in one.getMessage()] == [True]
        [pair] = orders_due(world, 1, PRIMARY)
        soon(lambda: refused(world, pair))
        daemon.check()


def test_it_opens_the_keys_of_backups_again(world: World, clock: ShiftedClock) -> None:
    with world.store.write() as tx:
        pair, *_ = deployable(tx, world, "web")
        tx.execute(update(tables.pair_state).values(backup_ok_until=tx.at))
    clock.advance(8 * DAY)
    with running(world):

        def counts() -> bool:
            with world.store.read() as tx:
                return promotion.usable(tx, [pair.id]) == {pair.id}

        soon(counts)


def test_a_database_that_is_away_costs_time_and_nothing_else(
    database: Path,
    world: World,
    setting: Setting,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 50)
    # What goes on beside meets the outage, too, and tells of it by itself.
    monkeypatch.setattr(daemons_module, "BESIDE", {})
    setting.meet = meeting = Meeting(held_up=PRIMARY)
    [pair] = orders_due(world, 1, PRIMARY)
    with running(world) as daemon:
        meeting.until(lambda: meeting.met == [PRIMARY])
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            meeting.open()
            soon(lambda: "database is locked" in caplog.text)
            daemon.check()
        soon(lambda: refused(world, pair))
        soon(lambda: "the database answers again" in caplog.text)
    assert caplog.text.count("database is locked") == 1


def test_the_end_gives_steps_a_while_and_lets_go_of_everything(world: World, setting: Setting) -> None:
    setting.max_concurrency = 1
    setting.meet = meeting = Meeting(held_up=PRIMARY)
    first, second = orders_due(world, 2, PRIMARY)
    daemon = Daemon(world, "1.2.3")
    daemon.start()
    meeting.until(lambda: meeting.met == [PRIMARY])
    ended: list[bool] = []
    ending = threading.Thread(target=lambda: ended.append(daemon.stop(30)))
    ending.start()
    soon(lambda: daemon._stopping is not None)
    meeting.open()
    ending.join(30)
    assert ended == [True]
    assert refused(world, first), "the step that was under way has ended"
    assert meeting.met in ([PRIMARY], [PRIMARY, PRIMARY])
    left = row(world, second, PRIMARY)
    assert left is not None
    assert left.owner is None


def test_a_step_that_goes_on_at_once_goes_no_further_at_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def advance(_engine: Engine, _rows: list[WorkRow]) -> list[Later]:
        begun.set()
        return [Later(world.clock.now(), "there is more to do")]

    monkeypatch.setattr(Engine, "advance", advance)
    orders_due(world, 1, PRIMARY)
    daemon = Daemon(world, "1.2.3")
    daemon.start()
    assert begun.wait(20)
    assert daemon.stop(20)
    with world.store.read() as tx:
        assert leases.owners(tx) == []


def test_a_step_that_outlasts_the_end_writes_nothing(world: World, setting: Setting) -> None:
    setting.meet = meeting = Meeting(held_up=PRIMARY)
    [pair] = orders_due(world, 1, PRIMARY)
    others = set(threading.enumerate())
    daemon = Daemon(world, "1.2.3")
    daemon.start()
    meeting.until(lambda: meeting.met == [PRIMARY])
    assert not daemon.stop(0.1)
    with world.store.read() as tx:
        assert leases.owners(tx) == []
        assert daemons.everybody(tx) == []
    before = row(world, pair, PRIMARY)
    meeting.open()
    for thread in {*threading.enumerate()} - others:
        thread.join(10)
    assert row(world, pair, PRIMARY) == before


def test_a_lease_that_is_given_back_while_it_is_renewed_does_not_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders_due(world, 1, PRIMARY)
    engine, renewing, over = Engine(world), threading.Event(), threading.Event()
    assert engine.claim([ORDER], 1)
    begin = leases.begin

    def slowly(tx: Transaction, owner: str) -> None:
        renewing.set()
        over.wait(10)
        begin(tx, owner)

    monkeypatch.setattr(leases, "begin", slowly)
    threads = [threading.Thread(target=act) for act in (engine.renew_leases, engine.end)]
    threads[0].start()
    assert renewing.wait(10)
    threads[1].start()
    threads[1].join(0.3)  # it may have to wait for the other one
    over.set()
    for thread in threads:
        thread.join(10)
    with world.store.read() as tx:
        assert leases.owners(tx) == []


def test_what_waits_for_another_goes_back_to_the_table_after_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(world)
    pair = orders_due(world, 1, PRIMARY)[0]
    patience = replace(DAEMON, waiting=0.2)
    monkeypatch.setattr(Engine, "advance", lambda _self, _rows: [runner_waits()])
    with Runner(engine, Scope(), patience, 0.05) as one:
        soon(lambda: _turned(one) and one.kept == 1)
        soon(lambda: _turned(one) and one.kept == 0)
        left = row(world, pair, PRIMARY)
        assert left is not None
        assert (left.owner, left.waiting_for) == (None, "another step")
        assert left.due_at is not None
        assert left.due_at > world.clock.now() + timedelta(minutes=4)
        with world.store.write() as tx:
            work.wake(tx, ORDER, pair.id)
        soon(lambda: _turned(one) and one.kept == 1)


def _turned(one: Runner) -> bool:
    one.turn()
    one.wait(0.02)
    return True


def runner_waits() -> Waiting:
    return Waiting("publication", "the values are not published yet")


# --- its life, from start to signal ----------------------------------------------------------------------


class Told:
    """A supervisor that writes down what it hears."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def ready(self) -> None:
        self.words.append("ready")

    def alive(self) -> None:
        self.words.append("alive")

    def status(self, text: str) -> None:
        self.words.append(text)

    def stopping(self) -> None:
        self.words.append("stopping")


def life(world: World) -> tuple[threading.Thread, SimpleQueue[int], Told, list[BaseException]]:
    """A daemon that is served until it gets a signal; and what ended it, if that was something else."""
    signals, told, errors = SimpleQueue[int](), Told(), list[BaseException]()

    def live() -> None:
        try:
            serve(Daemon(world, "1.2.3"), world.clock, signals, told)
        except ZeroDivisionError as error:
            errors.append(error)

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    return thread, signals, told, errors


def test_it_lives_until_a_signal(world: World, setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="dualcert")
    setting.meet = no
    [pair] = orders_due(world, 1, PRIMARY)
    thread, signals, told, errors = life(world)
    soon(lambda: refused(world, pair))
    soon(lambda: "alive" in told.words)
    signals.put(signal.SIGTERM)
    thread.join(20)
    assert not thread.is_alive()
    assert errors == []
    assert (told.words[0], told.words[-1]) == ("ready", "stopping")
    assert "0 steps under way, 0 held" in told.words
    assert [one.message for one in caplog.records][-2:] == [
        "SIGTERM: stopping; 0 steps under way, 0 held",
        "stopped; nothing is held",
    ]


def test_a_daemon_whose_thread_hangs_is_not_called_alive(
    world: World, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def opening(_world: World) -> int:
        hangs.set()
        goes_on.wait(30)
        return 0

    monkeypatch.setattr(daemons_module, "_OPENINGS", {opening: 0.0})
    monkeypatch.setattr(scheduling, "_LOOK", 0.02)
    monkeypatch.setattr(scheduling, "_HANGS_AFTER", 0.5)
    thread, signals, told, _ = life(world)
    assert hangs.wait(20)

    def silent() -> bool:
        number = told.words.count("alive")
        world.clock.sleep(0.2)
        return told.words.count("alive") == number

    soon(silent)
    number = told.words.count("alive")
    goes_on.set()
    soon(lambda: told.words.count("alive") > number)
    signals.put(signal.SIGTERM)
    thread.join(20)
    assert not thread.is_alive()


def test_what_ends_the_daemon_is_raised(
    world: World, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def claim(*_arguments: object, **_options: object) -> list[list[WorkRow]]:
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr(Engine, "claim", claim)
    thread, _, _, errors = life(world)
    thread.join(20)
    assert not thread.is_alive()
    assert [type(one) for one in errors] == [ZeroDivisionError]


# --- heartbeats ------------------------------------------------------------------------------------------


def test_it_says_that_it_lives_and_strikes_off_the_dead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemons_module, "_HEARTBEAT", 0.05)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = str(replace(new_owner(), pid=ended.pid, started="1"))
    elsewhere = str(replace(new_owner(), host="another-host"))
    forgotten = str(replace(new_owner(), host="a-host-of-long-ago"))
    with world.store.write() as tx:
        for owner in (dead, elsewhere, forgotten):
            daemons.seen(tx, owner, "1.0")
        long_ago = tables.daemon.c.seen_at - 25 * 3600 * 1_000_000
        tx.execute(update(tables.daemon).where(tables.daemon.c.owner == forgotten).values(seen_at=long_ago))

    def there() -> dict[str, daemons.Daemon]:
        with world.store.read() as tx:
            return {one.owner: one for one in daemons.everybody(tx)}

    with running(world) as daemon:
        soon(lambda: there().keys() == {daemon.owner, elsewhere})
        first = there()[daemon.owner]
        assert first.version == "1.2.3"
        assert first.silent_for < timedelta(seconds=30)
        soon(lambda: there()[daemon.owner].seen_at > first.seen_at)
        assert there()[daemon.owner].started_at == first.started_at
    assert there().keys() == {elsewhere}


# --- clocks that are put right ---------------------------------------------------------------------------


def test_a_clock_that_is_put_back_delays_nothing(
    world: World, clock: ShiftedClock, setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    setting.max_concurrency = 1
    setting.meet = meeting = Meeting(held_up=PRIMARY)
    orders_due(world, 40, PRIMARY)
    with running(world):
        meeting.until(lambda: meeting.met == [PRIMARY])
        clock.advance(-HOUR)
        soon(lambda: "the clock has gone back" in caplog.text)
        meeting.open()
        soon(lambda: all_refused(world, PRIMARY))
    assert len(meeting.met) == 40


def test_what_was_due_before_a_clock_is_put_back_is_due_still(
    world: World, clock: ShiftedClock, setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    """Orders have their turn by when they are needed; this is for all else, which goes by its time."""
    setting.meet = no
    with world.store.write() as tx:
        pair = a_pair(tx)
        work.schedule(tx, REFILL, pair.id, tx.now, ca=PRIMARY)
    daemon = Daemon(world, "1.2.3")
    clock.advance(-HOUR)
    daemon.start()
    soon(lambda: refused(world, pair))
    assert daemon.stop(8)
    assert "the clock has gone back" in caplog.text


def test_what_was_due_before_a_clock_is_put_back_is_due_still_though_the_database_was_away(
    world: World, clock: ShiftedClock, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.meet = no
    with world.store.write() as tx:
        pair = a_pair(tx)
        work.schedule(tx, REFILL, pair.id, tx.now, ca=PRIMARY)
    still_due, away = clockwork.still_due, [True, True]

    def tried(tx: Transaction, was: datetime) -> int:
        moved = still_due(tx, was)
        if away:
            away.pop()
            raise StoreUnavailable("the database is being moved")
        return moved

    monkeypatch.setattr(clockwork, "still_due", tried)
    daemon = Daemon(world, "1.2.3")
    clock.advance(-HOUR)
    daemon.start()
    soon(lambda: refused(world, pair))
    assert daemon.stop(8)
    assert not away
    assert daemon._put_back_from is None


def test_a_clock_that_is_put_back_hurries_nothing_that_was_not_due(
    world: World, clock: ShiftedClock, caplog: pytest.LogCaptureFixture
) -> None:
    [pair] = orders_due(world, 1, PRIMARY)
    with world.store.write() as tx:
        [one] = claims.claim(tx, "me", kinds=[ORDER], limit=1)
        work.put_back(tx, one, due_at=tx.now + timedelta(minutes=10), reason="failed", failed=True)
    before = row(world, pair, PRIMARY)
    with running(world):
        clock.advance(-HOUR)
        soon(lambda: "the clock has gone back" in caplog.text)
    assert row(world, pair, PRIMARY) == before


def test_what_is_waited_for_in_memory_goes_by_no_clock_that_can_be_put_back(
    world: World, clock: ShiftedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Semaphore(0)

    def advance(_engine: Engine, _rows: list[WorkRow]) -> list[Later]:
        begun.release()
        return [Later(world.clock.now() + timedelta(seconds=1.5), "the CA is at it", looks=1)]

    monkeypatch.setattr(Engine, "advance", advance)
    orders_due(world, 1, PRIMARY)
    with running(world) as daemon:
        assert begun.acquire(timeout=10)
        soon(lambda: daemon.load == (0, 1))
        clock.advance(-HOUR)
        assert begun.acquire(timeout=10)
        assert begun.acquire(timeout=10)


def test_a_clock_that_is_put_forward_makes_nobody_do_his_own_work_twice(
    database: Path,
    world: World,
    clock: ShiftedClock,
    setting: Setting,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On SQLite the database's clock is this machine's: all leases seem to have run out at once."""
    monkeypatch.setattr(leasekeeper, "_RENEW_EVERY", 1000)
    databaseclock.follow(world.store, clock)
    setting.meet = meeting = Meeting(held_up=PRIMARY)
    [pair] = orders_due(world, 1, PRIMARY)
    with running(world) as daemon:
        meeting.until(lambda: meeting.met == [PRIMARY])
        clock.advance(HOUR)
        soon(lambda: "the clock has gone forward" in caplog.text)
        soon(lambda: not claimable_by_another(world))
        for _ in range(3):
            daemon.tick_soon()
            soon(lambda: not daemon._tick_wanted)
        assert meeting.met == [PRIMARY]
        meeting.open()
        soon(lambda: refused(world, pair))
    assert meeting.met == [PRIMARY]


# --- memory ----------------------------------------------------------------------------------------------


def test_nothing_is_remembered_of_work_that_is_done(
    world: World, setting: Setting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(telling, "_NAMES", 20)
    caplog.set_level(logging.DEBUG, logger="dualcert")
    setting.meet = no
    orders_due(world, 60, PRIMARY)
    with running(world) as daemon:
        soon(lambda: all_refused(world, PRIMARY))
        soon(lambda: daemon.load == (0, 0))
        one = daemon._runner
        left = [one._kept, one._busy, one._waiting_since, one._switching, one._last_looks]
        assert not any(left)
        assert sum(one._running.values()) == 0
        assert len(daemon._engine.names._known) == 20


def test_no_more_is_kept_between_two_steps_than_there_is_room_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CA that validates slowly must not draw a whole inventory into memory."""
    monkeypatch.setattr(runner, "_MOST_KEPT", 10)
    monkeypatch.setattr(Engine, "advance", lambda _self, _rows: [runner_waits()])
    orders_due(world, 200, PRIMARY)
    orders_due(world, 5, BACKUP)
    engine = Engine(world)
    with Runner(engine, Scope(), DAEMON, 0.05) as one:
        soon(lambda: _turned(one) and one.kept >= 10)
        for _ in range(20):
            _turned(one)
        assert one.kept + one.busy <= 10 + 24 + 5


# --- the log ---------------------------------------------------------------------------------------------


def test_every_record_of_a_step_says_what_it_is_about(
    world: World, setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(_Json(False).format(record))

    def meet(ca: str) -> CertificateAuthority:
        logging.getLogger("dualcert.acmeclient").warning("something odd")
        return no(ca)

    setting.meet = meet
    caplog.set_level(logging.INFO, logger="dualcert")
    logger, handler = logging.getLogger("dualcert"), Lines()
    logger.addHandler(handler)
    try:
        [pair] = orders_due(world, 1, PRIMARY)
        with running(world):
            soon(lambda: refused(world, pair))
    finally:
        logger.removeHandler(handler)
    told = [json.loads(line) for line in lines]
    number = row(world, pair, PRIMARY)
    assert number is not None
    about = {"pair": pair.name, "ca": PRIMARY, "work": number.id}
    [odd] = [one for one in told if one["message"] == "something odd"]
    assert odd.items() >= about.items()
    trouble = [one for one in told if one["message"].startswith("order: ")]
    assert trouble
    assert all(one.items() >= about.items() for one in trouble)


def test_a_daemon_seals_the_history(world: World) -> None:
    orders_due(world, 1)
    with world.store.write() as tx:
        events.record(tx, EventKind.CHANGED, "a test")
        last = events.last(tx)

    def head() -> int:
        with world.store.read() as tx:
            found = seals.last(tx)
            return found.last_id if found else 0

    with running(world):
        soon(lambda: head() >= last)

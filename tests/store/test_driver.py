"""Driving due work to its end, alone and beside others. Time is the machine's here: pools and queues wait by it."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from itertools import count

import pytest
from sqlalchemy import func, insert, select

from dualcert.clock import SystemClock
from dualcert.errors import CaBusy, CaRejected, CaUnreachable, StoreNotWritable, StoreUnavailable, told
from dualcert.lifecycle import deployment, driver, leasekeeper, nextswitch, runner
from dualcert.lifecycle.driver import Scope, run_until
from dualcert.lifecycle.engine import Engine
from dualcert.lifecycle.owner import new_owner
from dualcert.lifecycle.world import World
from dualcert.model.certificate import Certificate
from dualcert.model.events import Event, EventKind
from dualcert.model.pair import Pair
from dualcert.model.work import PERSON, Outcome, WorkKind, WorkRow
from dualcert.ports.ca import CertificateAuthority
from dualcert.store import (
    Store,
    Transaction,
    claims,
    deployments,
    events,
    leases,
    pairs,
    promotion,
    tables,
    work,
)
from dualcert.testing.clock import FakeClock
from tests.postgres import Postgres
from tests.store.building import BACKUP, PRIMARY, a_pair, give_role
from tests.store.worlds import Setting, a_world, issued

ORDER, DEPLOYMENT = WorkKind.ORDER, WorkKind.DEPLOYMENT
CLOCK = SystemClock()
PATIENCE = 30.0


@pytest.fixture
def setting() -> Setting:
    return Setting()


@pytest.fixture
def world(database_url: str, setting: Setting) -> Iterator[World]:
    store = Store(database_url, CLOCK, "tester")
    yield a_world(store, CLOCK, setting)
    store.close()


def run(
    world: World,
    seconds: float = PATIENCE,
    scope: Scope | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> float:
    """Drive until nothing is due; how long that took."""
    began = CLOCK.monotonic()
    until = CLOCK.now() + timedelta(seconds=seconds)
    run_until(Engine(world), scope or Scope(), until, on_event)
    return CLOCK.monotonic() - began


def orders_due(world: World, number: int, *cas: str) -> list[Pair]:
    with world.store.write() as tx:
        made = [a_pair(tx) for _ in range(number)]
        for pair in made:
            for ca in cas:
                work.schedule(tx, ORDER, pair.id, tx.now, ca=ca)
    return made


def rows_of(world: World, pair: Pair) -> list[WorkRow]:
    with world.store.read() as tx:
        return work.of_pairs(tx, [pair.id])


def leased(world: World) -> list[str]:
    with world.store.read() as tx:
        return leases.owners(tx)


def deployable(tx: Transaction, world: World, *targets: str) -> tuple[Pair, Certificate, Certificate]:
    """A pair whose two certificates are real, to be deployed to its targets now."""
    pair = a_pair(tx, targets=targets)
    serving = give_role(tx, pair, issued(tx, world, pair, PRIMARY))
    standby = give_role(tx, pair, issued(tx, world, pair, BACKUP))
    for target in targets:
        work.schedule(tx, DEPLOYMENT, pair.id, tx.now, target=target)
    return pair, serving, standby


class Meeting:
    """Whoever speaks to a CA comes here; tells how many are here at once, and lets nobody go before `open`."""

    def __init__(self, held_up: str) -> None:
        self._held_up = held_up
        self._changed = threading.Condition()
        self._open = False
        self._here: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.met: list[str] = []

    def __call__(self, ca: str) -> CertificateAuthority:
        with self._changed:
            self._here[ca] += 1
            self.most[ca] = max(self.most[ca], self._here[ca])
            self.met.append(ca)
            self._changed.notify_all()
            if ca == self._held_up:
                assert self._changed.wait_for(lambda: self._open, PATIENCE)
            self._here[ca] -= 1
        raise CaRejected("no", problem="rejectedIdentifier", ca=ca)

    def until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE)

    def open(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()


def in_the_background(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def soon(condition: Callable[[], bool]) -> None:
    until = CLOCK.monotonic() + PATIENCE
    while not condition():
        assert CLOCK.monotonic() < until
        CLOCK.sleep(0.005)


# --- to the end ------------------------------------------------------------------------------------------


def test_with_nothing_to_do_it_ends_at_once(world: World) -> None:
    assert run(world, seconds=60) < PATIENCE
    assert leased(world) == []


def test_a_pair_is_brought_to_every_target_and_seen_there(world: World, setting: Setting) -> None:
    with world.store.write() as tx:
        pair, serving, _ = deployable(tx, world, "web", "mail")
    told: list[str] = []
    run(world, on_event=lambda event: told.append(event.kind))
    assert rows_of(world, pair) == []
    for target in setting.targets.values():
        assert target.in_service == {pair.name: serving.sha256}
    with world.store.read() as tx:
        assert set(deployments.verified_in(tx, pair.id, 0)) == {"web", "mail"}
        kinds = [event.kind for event in events.page(tx, pairs=[pair.id])]
    assert told == kinds
    assert Counter(kinds) == {"deployed": 2, "verified": 2}


def test_many_pairs_of_one_target_are_activated_once(world: World, setting: Setting) -> None:
    with world.store.write() as tx:
        made = [deployable(tx, world, "web") for _ in range(12)]
    run(world)
    web = setting.targets["web"]
    assert web.in_service == {pair.name: serving.sha256 for pair, serving, _ in made}
    assert web.activations == 1


def test_what_comes_while_a_target_is_switched_is_switched_together_afterwards(
    world: World, setting: Setting
) -> None:
    web = setting.targets["web"]
    with world.store.write() as tx:
        made = [deployable(tx, world, "web")]

    def held() -> int:
        with world.store.read() as tx:
            found = work.of_pairs(tx, [pair.id for pair, _, _ in made], [DEPLOYMENT])
            return sum(row.owner is not None for row in found)

    def more() -> None:
        web.before_step = lambda: None
        for _ in range(3):
            with world.store.write() as tx:
                made.extend(deployable(tx, world, "web") for _ in range(2))
            soon(lambda: held() == len(made))

    web.before_step = more
    run(world)
    assert web.in_service == {pair.name: serving.sha256 for pair, serving, _ in made}
    assert web.activations == 2


def test_of_what_waits_for_a_target_no_more_is_taken_than_its_next_switch_has_room_for(
    world: World, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    deploy = deployment.deploy

    def counted(world: World, rows: Sequence[WorkRow], owner: str) -> list[Outcome]:
        sizes.append(len(rows))
        return deploy(world, rows, owner)

    monkeypatch.setattr(deployment, "deploy", counted)
    begun, goes_on = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        assert goes_on.wait(PATIENCE)

    web, mail = setting.targets["web"], setting.targets["mail"]
    web.before_step = hang
    with world.store.write() as tx:
        deployable(tx, world, "web")
        gone = {"kind": DEPLOYMENT.value, "ca": "", "target": "web", "due_at": tx.at, "queue": 0}
        # Of pairs that are gone: there is nothing to switch.
        tx.connection.execute(
            insert(tables.work), [{**gone, "pair_id": 1_000_000 + number} for number in range(2999)]
        )
    thread = in_the_background(lambda: run(world))
    assert begun.wait(PATIENCE)
    with world.store.write() as tx:
        other, serving, _ = deployable(tx, world, "mail")
    soon(lambda: mail.in_service == {other.name: serving.sha256})

    def held() -> int:
        with world.store.read() as tx:
            query = select(func.count()).where(tables.work.c.owner.is_not(None))
            return int(tx.execute(query).scalar_one())

    soon(lambda: held() >= nextswitch.AT_ONCE)
    assert held() < 2 * nextswitch.AT_ONCE
    goes_on.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert sum(sizes) == 3001
    assert max(sizes) <= nextswitch.AT_ONCE
    assert len(sizes) < 20


def test_only_what_is_asked_for_is_driven(world: World, setting: Setting) -> None:
    with world.store.write() as tx:
        mine, *_ = deployable(tx, world, "web")
        theirs, *_ = deployable(tx, world, "mail")
    run(world, scope=Scope(pairs=frozenset({mine.id})))
    assert rows_of(world, mine) == []
    [left] = rows_of(world, theirs)
    assert (left.kind, left.owner, left.fence) == (DEPLOYMENT, None, 0)
    run(world, scope=Scope(kinds=(WorkKind.WITHDRAWAL,)))
    assert rows_of(world, theirs) == [left]


def test_what_comes_back_after_the_deadline_is_left_for_the_next_run(world: World, setting: Setting) -> None:
    with world.store.write() as tx:
        pair, serving, _ = deployable(tx, world, "web")
    setting.targets["web"].activation_fails = True
    assert run(world, seconds=60) < PATIENCE
    [left] = rows_of(world, pair)
    assert (left.attempts, left.owner) == (1, None)
    assert "told to fail" in (left.reason or "")
    setting.targets["web"].activation_fails = False
    with world.store.write() as tx:
        work.hurry(tx, pair.id, [DEPLOYMENT])
    run(world)
    assert rows_of(world, pair) == []
    assert setting.targets["web"].in_service == {pair.name: serving.sha256}


def test_a_deployment_that_is_overtaken_by_a_promotion_ends_with_what_serves_now(
    world: World, setting: Setting
) -> None:
    web = setting.targets["web"]
    with world.store.write() as tx:
        pair, _, standby = deployable(tx, world, "web")

    def promote() -> None:
        web.before_step = lambda: None
        with world.store.write() as tx:
            assert promotion.swap(tx, pairs.state(tx, pair.id))
            work.schedule(tx, DEPLOYMENT, pair.id, tx.now, target="web")

    web.before_step = promote
    run(world)
    assert web.in_service == {pair.name: standby.sha256}
    assert rows_of(world, pair) == []
    with world.store.read() as tx:
        assert set(deployments.verified_in(tx, pair.id, 1)) == {"web"}


# --- several at once -------------------------------------------------------------------------------------


def test_a_ca_that_hangs_has_its_own_threads_and_holds_up_nobody_else(world: World, setting: Setting) -> None:
    setting.max_concurrency = 2
    setting.meet = meeting = Meeting(held_up=PRIMARY)
    made = orders_due(world, 5, PRIMARY, BACKUP)
    running = in_the_background(lambda: run(world))
    meeting.until(lambda: meeting.met.count(BACKUP) == 5)
    soon(lambda: all(_failed(world, pair, BACKUP) for pair in made))
    assert meeting.met.count(PRIMARY) >= 1
    assert not any(_failed(world, pair, PRIMARY) for pair in made)
    meeting.open()
    running.join(PATIENCE)
    assert not running.is_alive()
    assert all(_failed(world, pair, PRIMARY) for pair in made)
    assert max(meeting.most.values()) <= 2


def test_a_step_that_hangs_beyond_the_deadline_is_waited_for_and_keeps_no_processor_busy(
    world: World, setting: Setting
) -> None:
    setting.meet = meeting = Meeting(held_up=PRIMARY)
    orders_due(world, 1, PRIMARY)
    looks = count()

    class Counting(SystemClock):
        def monotonic(self) -> float:
            next(looks)
            return super().monotonic()

    running = in_the_background(lambda: run(replace(world, clock=Counting()), seconds=0.3))
    meeting.until(lambda: meeting.met == [PRIMARY])
    running.join(2.3)
    assert running.is_alive()
    meeting.open()
    running.join(PATIENCE)

    assert not running.is_alive()
    assert next(looks) < 500, "in two seconds, of which most were waited"


def _failed(world: World, pair: Pair, ca: str) -> bool:
    with world.store.read() as tx:
        row = work.get(tx, ORDER, pair.id, ca=ca)
        return row is not None and row.waiting_for == PERSON


def test_what_another_process_does_is_followed_to_its_end(world: World) -> None:
    pair, other = orders_due(world, 1, PRIMARY)[0], str(new_owner())
    with world.store.write() as tx:
        [theirs] = claims.claim(tx, other, kinds=[ORDER], limit=1)
    told: list[str] = []
    running = in_the_background(lambda: run(world, 60, on_event=lambda event: told.append(event.cause)))

    def heard() -> bool:
        with world.store.write() as tx:
            events.record(tx, EventKind.PLACED, "by the other", pair=pair.id)
        return bool(told)

    soon(heard)
    assert running.is_alive()
    with world.store.write() as tx:
        events.record(tx, EventKind.STORED, "the last thing", pair=pair.id)
        work.finish(tx, theirs)
    running.join(PATIENCE)
    assert not running.is_alive()
    assert told[0] == "by the other"
    assert told[-1] == "the last thing"


def test_what_another_one_has_begun_to_write_is_told_before_what_came_after_it(
    world: World, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is the lower one; on SQLite nobody writes while another does."""
    pair, other = orders_due(world, 1, PRIMARY)[0], str(new_owner())
    with world.store.write() as tx:
        [theirs] = claims.claim(tx, other, kinds=[ORDER], limit=1)
    looks, read = [0], world.store.read

    def looking() -> AbstractContextManager[Transaction]:
        looks[0] += threading.current_thread() is not threading.main_thread()
        return read()

    monkeypatch.setattr(world.store, "read", looking)
    told: list[str] = []
    running = in_the_background(lambda: run(world, 60, on_event=lambda event: told.append(event.cause)))

    def heard() -> bool:
        with world.store.write() as tx:
            events.record(tx, EventKind.PLACED, "by the other", pair=pair.id)
        return bool(told)

    soon(heard)
    with world.store.write() as late:
        events.record(late, EventKind.STORED, "late", pair=pair.id)
        with world.store.write() as tx:
            events.record(tx, EventKind.STORED, "quick", pair=pair.id)
        enough = looks[0] + 10
        soon(lambda: looks[0] >= enough)
    with world.store.write() as tx:
        work.finish(tx, theirs)
    running.join(PATIENCE)
    assert not running.is_alive()
    assert told[-2:] == ["late", "quick"]


def test_what_another_process_does_not_finish_is_waited_for_until_the_deadline(world: World) -> None:
    orders_due(world, 1, PRIMARY)
    with world.store.write() as tx:
        [theirs] = claims.claim(tx, str(new_owner()), kinds=[ORDER], limit=1)
    assert 0.4 <= run(world, seconds=0.4) < PATIENCE
    with world.store.write() as tx:
        work.hold(tx, theirs)


def test_what_is_looked_at_again_after_the_deadline_is_not_looked_at_without_pause_before_it(
    world: World,
) -> None:
    """Somebody switches the target all the time: it is looked ever more slowly whether he is ready."""
    with world.store.write() as tx:
        pair, *_ = deployable(tx, world, "web")
        assert leases.take(tx, "target:web", "another|somewhere|1|1|1")
    looks = []

    class Counting(Engine):
        def advance(self, rows: Sequence[WorkRow]) -> list[Outcome]:
            looks.append(rows)
            return super().advance(rows)

    run_until(Counting(world), Scope(), CLOCK.now() + timedelta(seconds=2.5))

    assert 5 < len(looks) < 15
    [row] = rows_of(world, pair)
    assert (row.kind, row.owner, row.reason) == (DEPLOYMENT, None, "another process is switching web")


def test_what_a_dead_process_left_is_taken_up_at_once(world: World, setting: Setting) -> None:
    with world.store.write() as tx:
        pair, serving, _ = deployable(tx, world, "web")
        dead = str(new_owner()).rsplit("|", 2)[0] + "|1|1"
        claims.claim(tx, dead, kinds=[DEPLOYMENT], limit=1)
        assert leases.take(tx, "target:web", dead)
    assert run(world, seconds=60) < PATIENCE
    assert setting.targets["web"].in_service == {pair.name: serving.sha256}


def test_two_at_once_share_the_work_and_do_nothing_twice(world: World, setting: Setting) -> None:
    with world.store.write() as tx:
        made = [deployable(tx, world, "web", "mail") for _ in range(6)]
    both = [in_the_background(lambda: run(world)) for _ in range(2)]
    for one in both:
        one.join(PATIENCE)
        assert not one.is_alive()
    for target in setting.targets.values():
        assert target.in_service == {pair.name: serving.sha256 for pair, serving, _ in made}
    with world.store.read() as tx:
        kinds = Counter(event.kind for event in events.page(tx))
    assert kinds == {"deployed": 12, "verified": 12}


# --- what goes wrong -------------------------------------------------------------------------------------


def test_a_ca_that_nobody_reaches_is_tried_a_few_times_and_then_left(world: World, setting: Setting) -> None:
    met: list[str] = []

    def meet(ca: str) -> CertificateAuthority:
        met.append(ca)
        raise CaUnreachable("connection refused", ca=ca)

    setting.meet = meet
    [pair] = orders_due(world, 1, PRIMARY)
    took = run(world, seconds=60)
    assert took >= 3
    assert len(met) == 4
    [left] = rows_of(world, pair)
    assert (left.attempts, left.owner) == (4, None)
    assert left.due_at is not None
    assert left.due_at > CLOCK.now() + timedelta(minutes=4)


def test_a_wish_to_come_back_is_obeyed_under_the_deadline(world: World, setting: Setting) -> None:
    met: list[float] = []

    def meet(ca: str) -> CertificateAuthority:
        met.append(CLOCK.monotonic())
        if len(met) == 1:
            raise CaBusy("slow down", ca=ca, retry_after=timedelta(seconds=1))
        raise CaRejected("no", problem="rejectedIdentifier", ca=ca)

    setting.meet = meet
    orders_due(world, 1, PRIMARY)
    run(world)
    first, second = met
    assert second - first >= 0.9


class Odd(BaseException):
    """Of no kind that code outside of an interpreter should be of."""


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("nobody foresaw this"), SystemExit(0), Odd("nor this"), GeneratorExit()]
)
def test_what_nobody_foresaw_backs_off_and_holds_up_nothing_else(
    world: World, setting: Setting, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def meet(ca: str) -> CertificateAuthority:
        if ca == PRIMARY:
            raise error
        raise CaRejected("no", problem="rejectedIdentifier", ca=ca)

    setting.meet = meet
    made = orders_due(world, 3, PRIMARY, BACKUP)
    with caplog.at_level(logging.DEBUG, logger="dualcert"):
        run(world, seconds=60)
    assert all(_failed(world, pair, BACKUP) for pair in made)
    for pair in made:
        with world.store.read() as tx:
            left = work.get(tx, ORDER, pair.id, ca=PRIMARY)
        assert left is not None
        assert (left.attempts, left.owner) == (1, None)
        assert left.due_at is not None
        assert left.due_at > CLOCK.now() + timedelta(minutes=1)
        assert left.reason is not None
        assert left.reason.startswith(f"internal error: {told(error)}\n")
    # The traceback is there for whoever wants it; the words for everybody else are the command's.
    logged = [one for one in caplog.records if one.exc_info and one.exc_info[1] is error]
    assert [one.levelno for one in logged] == [logging.DEBUG] * 3


def test_an_interruption_ends_the_run_and_gives_everything_back(world: World, setting: Setting) -> None:
    def meet(ca: str) -> CertificateAuthority:
        raise KeyboardInterrupt

    setting.meet = meet
    made = orders_due(world, 3, PRIMARY, BACKUP)
    with pytest.raises(KeyboardInterrupt):
        run(world)
    soon(lambda: leased(world) == [])
    with world.store.read() as tx:
        rows = work.of_pairs(tx, [pair.id for pair in made])
    assert len(rows) == 6
    assert all(row.due_at is not None and row.due_at <= CLOCK.now() for row in rows)


def test_a_database_that_stays_away_ends_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    orders_due(world, 1, PRIMARY)

    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("it is away")

    monkeypatch.setattr(Engine, "claim", away)
    monkeypatch.setattr(driver, "COMMAND", replace(runner.COMMAND, outage=0.0))
    with pytest.raises(StoreUnavailable, match="it is away"):
        run(world)


def test_a_database_that_may_only_be_read_is_not_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders_due(world, 1, PRIMARY)

    def refuse(*_: object, **__: object) -> None:
        raise StoreNotWritable("the database could not be used: attempt to write a readonly database")

    monkeypatch.setattr(Engine, "claim", refuse)
    with pytest.raises(StoreNotWritable):
        run(world)
    with pytest.raises(StoreNotWritable):
        driver.patiently(world, 3600.0, refuse)


def test_leases_are_renewed_while_a_step_lasts(
    world: World, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leasekeeper, "_RENEW_EVERY", 0.02)
    setting.meet = meeting = Meeting(held_up=PRIMARY)
    orders_due(world, 1, PRIMARY)
    running = in_the_background(lambda: run(world))
    meeting.until(lambda: meeting.met == [PRIMARY])

    def until() -> int:
        with world.store.read() as tx:
            found: int = tx.execute(select(tables.lease.c.until)).scalar_one()
            return found

    first = until()
    soon(lambda: until() > first)
    meeting.open()
    running.join(PATIENCE)
    assert not running.is_alive()


def test_an_outage_is_sat_out_however_long_the_command_had_gone_on_before_it(store: Store) -> None:
    clock = FakeClock()
    world = a_world(store, clock, Setting())
    lasts = iter([3600, 0, 0, 3600, 0])

    def act() -> str:
        last = next(lasts, None)
        if last is None:
            return "done"
        clock.advance(timedelta(seconds=last))
        raise StoreUnavailable("the database does not answer", remedy="")

    assert driver.patiently(world, 60.0, act) == "done"

    def never() -> str:
        raise StoreUnavailable("the database does not answer", remedy="")

    began = clock.monotonic()
    with pytest.raises(StoreUnavailable):
        driver.patiently(world, 60.0, never)
    assert 60 <= clock.monotonic() - began < 70
    with pytest.raises(StoreUnavailable):
        driver.patiently(world, 0.0, never)

    tries = 0

    def locked() -> str:
        nonlocal tries
        tries += 1
        assert tries < 10
        clock.advance(timedelta(seconds=15))  # before it gives up by itself
        raise StoreUnavailable("the database is locked", remedy="")

    with pytest.raises(StoreUnavailable):
        driver.patiently(world, 2.0, locked)
    assert tries == 1
    tries = 0
    with pytest.raises(StoreUnavailable):
        driver.patiently(world, 40.0, locked)
    assert tries == 3

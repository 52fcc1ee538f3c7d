"""Budgets in the database: one statement each, measured by the database's clock, whoever else takes at that moment."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from dualcert.clock import SystemClock
from dualcert.lifecycle.permits import BudgetSpent, RequestPermits
from dualcert.policy.budget import MOST, Kind, Limit, Standing, Subject, debt, decide, taken
from dualcert.store import Store, Transaction, budgets, tables
from dualcert.testing.clock import FakeClock
from tests.program import REPOSITORY
from tests.store.building import PRIMARY, a_certificate, a_pair, undone
from tests.store.databaseclock import follow

CA = PRIMARY
NEW, REVOCATIONS = Subject(Kind.NEW_ORDERS), Subject(Kind.REVOCATIONS)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
LIMIT = Limit(5, 50 * SECOND)


@pytest.fixture
def moved(database_url: str, clock: FakeClock) -> Iterator[Store]:
    """A database whose clock is the test's."""
    opened = Store(database_url, clock, "tester")
    follow(opened, clock)
    yield opened
    opened.close()


def standing(tx: Transaction, subject: Subject = NEW) -> tuple[Standing | None, datetime]:
    found, now = budgets.look(tx, CA, [subject.kind], [subject.of])
    return found.get(subject), now


def take(store: Store, subject: Subject = NEW, limit: Limit = LIMIT) -> bool:
    with store.write() as tx:
        return budgets.take(tx, CA, subject, limit)


# --- taking ----------------------------------------------------------------------------------------------


def test_a_bucket_gives_what_it_holds_and_then_one_at_a_time(moved: Store, clock: FakeClock) -> None:
    assert [take(moved) for _ in range(6)] == [True] * 5 + [False]
    clock.advance(9.9)
    assert not take(moved)
    clock.advance(0.2)
    assert [take(moved), take(moved)] == [True, False]
    clock.advance(HOUR)
    assert [take(moved) for _ in range(6)] == [True] * 5 + [False]


def test_each_ca_and_each_subject_has_a_bucket_of_its_own(store: Store) -> None:
    one = Limit(1, DAY)
    with store.write() as tx:
        for ca in ("alpha", "beta"):
            for subject in (NEW, Subject(Kind.DOMAIN, "a.com"), Subject(Kind.DOMAIN, "b.com"), REVOCATIONS):
                assert budgets.take(tx, ca, subject, one)
                assert not budgets.take(tx, ca, subject, one)


def test_it_is_the_databases_clock_that_counts_and_not_the_processs(store: Store, clock: FakeClock) -> None:
    one = Limit(1, HOUR)
    assert take(store, limit=one)
    clock.advance(DAY)
    assert not take(store, limit=one)


def test_those_who_wait_leave_something_to_others(moved: Store) -> None:
    limit = Limit(20, HOUR)
    with moved.write() as tx:
        granted = [budgets.take(tx, CA, NEW, limit, leave=limit.reserve) for _ in range(20)]
        assert granted == [True] * 18 + [False] * 2
        assert [budgets.take(tx, CA, NEW, limit) for _ in range(3)] == [True, True, False]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    limit=st.builds(Limit, st.integers(1, 30), st.timedeltas(SECOND, 30 * DAY)),
    pauses=st.lists(st.timedeltas(-DAY, 10 * DAY), max_size=12),
    leave=st.booleans(),
)
def test_the_statement_and_the_policy_agree(
    moved: Store, clock: FakeClock, limit: Limit, pauses: list[timedelta], leave: bool
) -> None:
    some = limit.reserve if leave else 0
    with undone(moved) as tx:
        for pause in pauses:
            clock.set(clock.now() + pause)
            for _ in range(4):
                known, now = standing(tx)
                said = decide(NEW, limit, known, now, leave=some)
                assert budgets.take(tx, CA, NEW, limit, leave=some) == said.allowed
                if said.allowed and known is not None:
                    assert standing(tx)[0] == taken(limit, known, now)


def test_twenty_processes_never_get_more_than_there_is_and_one_that_dies_wastes_one(store: Store) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.takers", store.url, "20", "10"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    got = json.loads(done.stdout)
    # Of the two that died, one had its permit committed.
    assert sum(got) == 50 - 1
    assert len(got) == 20


# --- counting what has happened, and giving back ---------------------------------------------------------


def test_what_has_happened_is_counted_without_asking_but_no_bucket_is_emptier_than_empty(
    moved: Store, clock: FakeClock
) -> None:
    failed = Subject(Kind.FAILED, "www.example.com")
    with moved.write() as tx:
        for _ in range(9):
            budgets.charge(tx, CA, failed, LIMIT)
        known, now = standing(tx, failed)
        said = decide(failed, LIMIT, known, now)
    assert said.at == now + LIMIT.interval
    assert "failed authorizations of www.example.com" in said.reason


def test_what_is_given_back_can_be_taken_once_more(moved: Store) -> None:
    while take(moved):
        pass
    with moved.write() as tx:
        budgets.give_back(tx, CA, NEW, LIMIT)
    assert [take(moved), take(moved)] == [True, False]


def test_a_clock_put_back_costs_no_more_than_an_empty_bucket(moved: Store, clock: FakeClock) -> None:
    while take(moved):
        pass
    clock.set(clock.now() - HOUR)
    with moved.write() as tx:
        budgets.correct(tx, CA, NEW, LIMIT)
    assert not take(moved)
    clock.advance(LIMIT.interval + SECOND)
    assert [take(moved), take(moved)] == [True, False]


# --- a CA's word -----------------------------------------------------------------------------------------


def test_what_a_ca_holds_nobody_takes_and_afterwards_one_permit_is_there(
    moved: Store, clock: FakeClock
) -> None:
    with moved.write() as tx:
        budgets.hold(tx, CA, NEW, HOUR, debt(LIMIT), "too many new orders")
    assert not take(moved)
    with moved.read() as tx:
        known, now = standing(tx)
        said = decide(NEW, LIMIT, known, now)
    assert (said.at, said.reason) == (now + HOUR, "too many new orders")
    clock.advance(HOUR + SECOND)
    assert [take(moved), take(moved)] == [True, False]


def test_a_pause_is_kept_to_however_much_the_bucket_holds(moved: Store, clock: FakeClock) -> None:
    with moved.write() as tx:
        budgets.hold(tx, CA, NEW, HOUR, debt(None), "not now")
    assert not take(moved, limit=Limit(5, 5 * DAY))
    clock.advance(HOUR + SECOND)
    assert take(moved, limit=Limit(5, 5 * DAY))


def test_the_last_word_of_a_ca_counts(moved: Store) -> None:
    with moved.write() as tx:
        for wait, words in ((DAY, "a day"), (SECOND, "a second")):
            budgets.hold(tx, CA, NEW, wait, timedelta(0), words)
        known, now = standing(tx)
    assert known is not None
    assert (known.held_until, known.reason) == (now + SECOND, "a second")


# --- the queue -------------------------------------------------------------------------------------------


def test_places_in_the_queue_are_as_far_apart_as_permits_and_none_is_a_day_off(moved: Store) -> None:
    with moved.write() as tx:
        waits = [budgets.queue(tx, CA, NEW, LIMIT, 3 * SECOND) for _ in range(4)]
        for wait, seconds in zip(waits, (3, 13, 23, 33), strict=True):
            assert abs(wait - seconds * SECOND) < timedelta(milliseconds=1)
        hours = Limit(1, 5 * HOUR)
        waits = [budgets.queue(tx, CA, REVOCATIONS, hours, HOUR) for _ in range(9)]
    assert max(waits) <= MOST
    assert waits[-1] == MOST, "who comes later looks again tomorrow"


def test_a_queue_that_nobody_stands_in_any_more_is_no_hindrance(moved: Store, clock: FakeClock) -> None:
    with moved.write() as tx:
        for _ in range(20):
            budgets.queue(tx, CA, NEW, LIMIT, SECOND)
    clock.advance(HOUR)
    with moved.write() as tx:
        assert abs(budgets.queue(tx, CA, NEW, LIMIT, SECOND) - SECOND) < timedelta(milliseconds=1)


# --- rows come and go ------------------------------------------------------------------------------------


def test_buckets_that_are_full_again_lose_their_rows_when_others_of_their_kind_are_tidied(
    moved: Store, clock: FakeClock
) -> None:
    names = [Subject(Kind.FAILED, f"{letter}.example.com") for letter in "abcd"]
    with moved.write() as tx:
        for one in names:
            budgets.charge(tx, CA, one, LIMIT)
        held = Subject(Kind.FAILED, "e.example.com")
        budgets.hold(tx, CA, held, DAY, timedelta(0), "not yet")
        budgets.give_back(tx, CA, held, Limit(1, 2 * DAY))
        budgets.tidy(tx, CA, [*names, held])
        assert take_kind(tx) == {"a", "b", "c", "d", "e"}
    clock.advance(HOUR)
    with moved.write() as tx:
        budgets.charge(tx, CA, names[0], LIMIT)
        budgets.tidy(tx, CA, names[:1])
        assert take_kind(tx) == {"a", "e"}, "what is full says as much as no row; what is held stays"
    clock.advance(HOUR)
    with moved.write() as tx:
        assert budgets.take(tx, CA, last := Subject(Kind.FAILED, "Z"), LIMIT)
        budgets.tidy(tx, CA, [last])
        assert take_kind(tx) == {"Z", "e"}


def take_kind(tx: Transaction) -> set[str]:
    return {row.subject[0] for row in tx.execute(select(tables.budget.c.subject))}


# --- what a CA does not count ----------------------------------------------------------------------------


def test_a_set_is_known_to_the_ca_that_has_issued_for_exactly_it(store: Store) -> None:
    with store.write() as tx:
        pair, other = a_pair(tx, "a.example.com", "b.example.com"), a_pair(tx, "a.example.com", name="other")
        a_certificate(tx, pair, PRIMARY)
        a_day_ago = tx.now - DAY
        assert budgets.is_known_set(tx, PRIMARY, pair.names_digest, a_day_ago)
        assert not budgets.is_known_set(tx, "beta", pair.names_digest, a_day_ago)
        assert not budgets.is_known_set(tx, PRIMARY, other.names_digest, a_day_ago)
        assert not budgets.is_known_set(tx, PRIMARY, pair.names_digest, tx.now), "it was too long ago"


def test_an_order_that_replaces_is_exempt_inside_the_window_only(store: Store) -> None:
    with store.write() as tx:
        row = {"certificate_id": 1, "pair_id": 7, "ca": CA, "ari_id": "aki.serial", "life_at": tx.at}
        tx.execute(insert(tables.renewal_info), row)
        assert not budgets.is_in_window(tx, 7, CA, "aki.serial"), "no window is known"
        for begin, end, inside in ((-1, 1, True), (1, 2, False), (-2, -1, False)):
            window = {"window_start": tx.at + begin, "window_end": tx.at + end}
            tx.execute(update(tables.renewal_info).values(**window))
            assert budgets.is_in_window(tx, 7, CA, "aki.serial") == inside
            assert budgets.is_in_window(tx, 7, CA) == inside
            assert not budgets.is_in_window(tx, 7, CA, "another.serial")
            assert not budgets.is_in_window(tx, 8, CA, "aki.serial")


# --- permits for requests --------------------------------------------------------------------------------


def test_requests_are_spread_over_time_and_cost_a_write_for_several(moved: Store, clock: FakeClock) -> None:
    permits = RequestPermits(moved, clock, CA, Limit(200, SECOND))
    sent = []
    for _ in range(600):
        wait = permits()
        assert 0 <= wait <= 1
        clock.advance(wait)
        sent.append(clock.monotonic())
    # 200 a second, and a quarter of a bucket at the beginning.
    assert 2.6 < sent[-1] - sent[0] < 3.0
    for first, begin in enumerate(sent):
        assert sum(begin <= at < begin + 1 for at in sent[first:]) <= 200 + 50 + 10


def test_two_processes_share_what_there_is(moved: Store, clock: FakeClock) -> None:
    here, there = (RequestPermits(moved, clock, CA, Limit(200, SECOND)) for _ in range(2))
    began = clock.monotonic()
    for _ in range(300):
        for permits in (here, there):
            clock.advance(max(0.0, permits()))
    assert clock.monotonic() - began > 2.6


def test_permits_that_were_not_spent_are_gone_after_a_moment(moved: Store, clock: FakeClock) -> None:
    permits = RequestPermits(moved, clock, CA, Limit(200, SECOND))
    permits()
    before = full_at(moved)
    permits()
    assert full_at(moved) == before
    clock.advance(0.3)
    permits()
    assert full_at(moved) > before


def full_at(store: Store) -> int:
    with store.read() as tx:
        return int(tx.execute(select(tables.budget.c.full_at)).scalar_one())


def test_who_would_have_to_wait_for_longer_than_a_second_is_sent_away_with_a_time(
    moved: Store, clock: FakeClock
) -> None:
    permits = RequestPermits(moved, clock, CA, Limit(10, 100 * SECOND))
    assert [permits() for _ in range(2)] == [0, 0]
    for ask in (permits, permits.ready):
        with pytest.raises(BudgetSpent) as refused:
            ask()
        assert refused.value.retry_after is not None
        assert abs(refused.value.retry_after - 20 * SECOND) < timedelta(milliseconds=1), "then two are back"
        assert "requests (10/100s)" in refused.value.reason
    clock.advance(20.001)
    assert [permits() for _ in range(2)] == [0, 0]


def test_a_request_waits_for_what_its_ca_has_asked_for(moved: Store, clock: FakeClock) -> None:
    with moved.write() as tx:
        budgets.hold(tx, CA, Subject(Kind.REQUESTS), HOUR, timedelta(0), "too many requests")
    permits = RequestPermits(moved, clock, CA, Limit(200, SECOND))
    with pytest.raises(BudgetSpent, match="too many requests"):
        permits()


def test_threads_of_a_process_get_no_permit_twice(store: Store) -> None:
    """Against the real clocks: ten a second and two at the beginning, in little more than a second."""
    clock = SystemClock()
    permits, got, end = RequestPermits(store, clock, CA, Limit(10, SECOND)), [], clock.monotonic() + 1.0

    def ask() -> None:
        while clock.monotonic() < end:
            try:
                wait = permits()
            except BudgetSpent:
                continue
            clock.sleep(wait)
            got.append(clock.monotonic())

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) >= 8
    for first, begin in enumerate(sorted(got)):
        assert sum(begin <= at < begin + 0.5 for at in sorted(got)[first:]) <= 2 + 5 + 2

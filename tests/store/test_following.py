"""Following the history: nothing is told twice, and what is numbered early and comes late is not missed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

from dualcert.clock import SystemClock
from dualcert.model.events import EventKind
from dualcert.store import Store, Transaction, events, following
from dualcert.store.following import Follower
from tests.postgres import Postgres


def write(tx: Transaction, *causes: str, pair: int | None = None) -> None:
    for cause in causes:
        events.record(tx, EventKind.PLACED, cause, pair=pair)


def new(store: Store, follower: Follower, *, all_of_it: bool = False) -> list[str]:
    return [one.cause for one in follower.new(store, all_of_it=all_of_it)]


def beginning(store: Store, pairs: Collection[int] | None = None) -> Follower:
    follower = Follower(pairs)
    with store.read() as tx:
        follower.begin(tx)
    return follower


def test_each_event_is_given_once_from_the_beginning_on(store: Store) -> None:
    with store.write() as tx:
        write(tx, "before")
    follower = beginning(store)
    assert new(store, follower) == []
    with store.write() as tx:
        write(tx, "one", "two")
    assert new(store, follower) == ["one", "two"]
    assert new(store, follower) == []


def test_of_some_pairs_nothing_is_told_of_others_and_it_is_seen_that_this_is_all(store: Store) -> None:
    follower = beginning(store, [7])
    with store.write() as tx:
        write(tx, "mine", pair=7)
        write(tx, "theirs", pair=8)
    assert new(store, follower) == ["mine"]
    with store.read() as tx:
        assert follower.seen == events.last(tx)


def test_more_than_a_page_comes_page_by_page(store: Store) -> None:
    follower = beginning(store)
    with store.write() as tx:
        write(tx, *[str(number) for number in range(2 * following._PAGE + 1)])
    told = [new(store, follower) for _ in range(4)]
    assert [len(one) for one in told] == [following._PAGE, following._PAGE, 1, 0]
    assert [int(one) for page in told for one in page] == list(range(2 * following._PAGE + 1))


def test_what_is_numbered_first_and_committed_last_is_neither_missed_nor_overtaken(
    server: Postgres, on_postgres: str
) -> None:
    store = Store(on_postgres, SystemClock(), "tester")
    try:
        follower = beginning(store)
        with store.write() as late:
            write(late, "late")
            with store.write() as tx:
                write(tx, "quick")
            assert new(store, follower) == []
            # Who comes after the number that is waited for holds up nothing.
            with store.write() as another:
                write(another, "a third one")
                assert new(store, follower) == []
        assert new(store, follower) == ["late", "quick"]
        assert new(store, follower) == ["a third one"]
    finally:
        store.close()


def test_what_commits_while_a_look_has_begun_is_not_missed(server: Postgres, on_postgres: str) -> None:
    store = Store(on_postgres, SystemClock(), "tester")
    late = ExitStack()

    class Overtaken(Store):
        """Whoever is late ends as soon as a look has seen how things stand, and before it asks who is writing."""

        @contextmanager
        def read(self) -> Iterator[Transaction]:
            with super().read() as tx:
                events.last(tx)
                late.close()
                yield tx

    overtaken = Overtaken(on_postgres, SystemClock(), "tester")
    try:
        follower = beginning(store)
        write(late.enter_context(store.write()), "late")
        with store.write() as tx:
            write(tx, "quick")
        assert new(overtaken, follower) == ["late", "quick"]
    finally:
        overtaken.close()
        store.close()


def test_who_writes_all_the_time_does_not_keep_a_follower_from_going_on(
    server: Postgres, on_postgres: str
) -> None:
    """There is always a unit of work under way, each another one."""
    store = Store(on_postgres, SystemClock(), "tester")
    try:
        follower = beginning(store)
        told: list[str] = []
        for number in range(10):
            with store.write() as tx:
                write(tx, str(number))
                told += new(store, follower)
        assert len(told) >= 6
        assert told == [str(number) for number in range(len(told))]
    finally:
        store.close()


def test_for_the_end_all_that_can_be_seen_is_given(server: Postgres, on_postgres: str) -> None:
    store = Store(on_postgres, SystemClock(), "tester")
    try:
        follower = beginning(store)
        with store.write() as late:
            write(late, "late")
            with store.write() as tx:
                write(tx, "quick")
            assert new(store, follower) == []
            assert new(store, follower, all_of_it=True) == ["quick"]
    finally:
        store.close()

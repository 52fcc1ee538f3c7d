from __future__ import annotations

import pytest

from dualcert.errors import Refused
from dualcert.model.events import Event, EventKind
from dualcert.store import Store, events
from dualcert.testing.clock import FakeClock


def record_some(store: Store, *of: int) -> None:
    with store.write() as tx:
        for pair in of:
            events.record(tx, EventKind.STORED, "a test", pair=pair)


def test_an_event_keeps_who_what_why_and_when(store: Store, clock: FakeClock) -> None:
    with store.write() as tx:
        events.record(
            tx,
            EventKind.PROMOTED,
            "by hand",
            pair=1,
            ca="beta",
            target="web",
            certificate=10,
            previous=9,
        )
        events.record(tx, EventKind.ACCOUNT_REGISTERED, "first use", actor="somebody else")
    with store.read() as tx:
        assert events.page(tx) == [
            Event(1, clock.now(), "promoted", "tester", "by hand", 1, "beta", "web", 10, 9),
            Event(2, clock.now(), "account-registered", "somebody else", "first use"),
        ]


def test_an_event_is_of_its_transaction(store: Store) -> None:
    def refuse() -> None:
        with store.write() as tx:
            events.record(tx, EventKind.PROMOTED, "by hand", pair=1)
            raise Refused("no")

    with pytest.raises(Refused):
        refuse()
    with store.read() as tx:
        assert events.page(tx) == []
        assert events.last(tx) == 0


def test_pages_follow_one_another_without_gap_or_repetition(store: Store) -> None:
    record_some(store, 1, 2, 1, 3, 1, 2)
    after, seen = 0, []
    with store.read() as tx:
        while page := events.page(tx, after=after, limit=4):
            seen += [one.id for one in page]
            after = page[-1].id
        assert seen == [1, 2, 3, 4, 5, 6]
        assert events.last(tx) == 6


def test_the_events_of_some_pairs_are_in_the_order_of_their_numbers(store: Store) -> None:
    record_some(store, 1, 2, 1, 3, 1, 2)
    with store.read() as tx:
        assert [one.id for one in events.page(tx, pairs=[1])] == [1, 3, 5]
        assert [one.id for one in events.page(tx, pairs=[2, 1], after=1, limit=3)] == [2, 3, 5]
        assert events.page(tx, pairs=[]) == []


def test_the_last_promotion_of_a_pair(store: Store) -> None:
    with store.write() as tx:
        assert events.last_promotion(tx, 1) is None
        for pair in (1, 1, 2):
            events.record(tx, EventKind.PROMOTED, "by hand", pair=pair)
        events.record(tx, EventKind.STORED, "later", pair=1)
        found = events.last_promotion(tx, 1)
    assert found is not None
    assert found.id == 2

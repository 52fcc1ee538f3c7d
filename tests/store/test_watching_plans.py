"""What watching looks up is found by index, however many certificates there are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from dualcert.model.signal import Turning
from dualcert.policy.watching import SourceKind
from dualcert.store import Store, Transaction, census, signals, watch_answers, watching
from dualcert.store.watching import Place, Source
from tests.store.building import PRIMARY, a_full_pair
from tests.store.overhearing import indexes, overheard, scans

pytestmark = pytest.mark.plans

HOUR = timedelta(hours=1)
Act = Callable[[Transaction, Source], object]

ACTS: dict[str, Act] = {
    "any due": lambda tx, source: watching.any_due(tx),
    "claim": lambda tx, source: watching.claim(tx),
    "claim the next": lambda tx, source: watching.claim(tx, 0),
    "settle": lambda tx, source: watching.settle(tx, source, tx.now, problem=None),
    "match a few": lambda tx, source: watching.matching(tx, source, [b"\x01", b"\x02"]),
    "watch": lambda tx, source: watching.watch(tx, 1, [a_place("http://other/")]),
    "unwatch": lambda tx, source: watching.unwatch(tx, 1),
    "watches current": watching.watches_current,
    "under": lambda tx, source: watching.under(tx, source, 0, 100),
    "census": lambda tx, source: census.following(tx, 0, 100),
    "questions": lambda tx, source: watch_answers.questions(tx, source, tx.now, 100),
    "next due": watch_answers.next_due,
    "accusation": lambda tx, source: signals.accusation(tx, 1, early=True),
    "undecided": lambda tx, source: signals.undecided(tx, [Turning(1, 1, 1, True)]),
    "made since": lambda tx, source: signals.made_since(tx, tx.now),
    "against": lambda tx, source: signals.against(tx, 1),
}


def a_place(place: str = "http://crl/") -> Place:
    return Place(SourceKind.CRL, place, b"key", b"name", PRIMARY)


def a_source(store: Store) -> Source:
    with store.write() as tx:
        _, serving, _ = a_full_pair(tx)
        watching.watch(tx, serving.id, [a_place()])
        source = watching.claim(tx)
    assert source is not None
    return source


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
def test_no_statement_goes_through_a_whole_table(store: Store, act: Act) -> None:
    source = a_source(store)
    with store.write() as tx:
        with overheard(tx) as said:
            act(tx, source)
        assert said
        found = {statement: scans(tx, statement) for statement in said}
    assert {statement: lines for statement, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("act", "index"),
    [
        ("any due", "ix_watch_source_due_at"),
        ("claim", "ix_watch_source_due_at"),
        ("match a few", "ux_certificate_serial_issuer"),
        ("questions", "ix_watched_source_id_due_at"),
        ("next due", "ix_watched_source_id_due_at"),
        ("made since", "ix_automatic_promotion_at"),
    ],
)
def test_the_index_made_for_it_is_used(store: Store, act: str, index: str) -> None:
    source = a_source(store)
    with store.write() as tx:
        with overheard(tx) as said:
            ACTS[act](tx, source)
        assert index in set[str]().union(*(indexes(tx, statement, sorting=True) for statement in said))

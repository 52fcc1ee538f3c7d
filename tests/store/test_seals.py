from __future__ import annotations

import hashlib
import re
import threading
from typing import Any

import pytest
from sqlalchemy import delete, insert, text, update
from sqlalchemy.event import listen

from dualcert.clock import SystemClock
from dualcert.errors import StoreError, StoreUnavailable
from dualcert.lifecycle import sealing
from dualcert.lifecycle.sealing import Head
from dualcert.model.events import EventKind
from dualcert.store import Store, events, seals
from dualcert.store.incident_tables import seal
from dualcert.store.tables import event
from dualcert.testing.clock import FakeClock
from tests.postgres import Postgres
from tests.store.worlds import Setting, a_world


def record_some(store: Store, count: int) -> None:
    with store.write() as tx:
        for number in range(count):
            cause = f'number {number}: "quoted" \\ tab\t \x7f \x01 naïve ✓ 🔑'
            events.record(tx, EventKind.PROMOTED, cause, pair=number, ca="beta", certificate=2, previous=1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seals of three events, read two at a time."""
    monkeypatch.setattr(sealing, "MOST", 3)
    monkeypatch.setattr(seals, "_PAGE", 2)


def verdict(store: Store, clock: FakeClock, *kept: Head) -> sealing.Verdict:
    return sealing.verify(a_world(store, clock, Setting()), kept)


@pytest.mark.usefixtures("small")
def test_everything_is_sealed_and_verified(store: Store, clock: FakeClock) -> None:
    record_some(store, 7)
    world = a_world(store, clock, Setting())
    last = sealing.seal_everything(world)
    assert last is not None
    assert (last.no, last.first_id, last.last_id, last.count) == (3, 7, 7, 1)
    record_some(store, 2)
    assert verdict(store, clock) == sealing.Verdict(last, 2, 0, None)
    assert sealing.seal_everything(world) == sealing.seal_everything(world)
    assert verdict(store, clock, Head(3, last.digest)).compared == 1
    assert sealing.seal(world) > 0


@pytest.mark.usefixtures("small")
def test_the_daemon_seals_one_after_another_until_nothing_is_left(store: Store, clock: FakeClock) -> None:
    world = a_world(store, clock, Setting())
    assert sealing.seal(world) > 0
    record_some(store, 7)
    assert [sealing.seal(world) == 0 for _ in range(4)] == [True, True, False, False]
    assert verdict(store, clock).newer == 0


def jcs_text(value: str) -> str:
    """A string as RFC 8785, 3.2.2.2 has it, written from the page of the RFC."""
    short = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
    return (
        '"'
        + "".join(short.get(ord(one), one if ord(one) > 31 else f"\\u{ord(one):04x}") for one in value)
        + '"'
    )


def jcs(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(map(jcs, value)) + "]"
    return "null" if value is None else jcs_text(value) if isinstance(value, str) else str(value)


@pytest.mark.usefixtures("small")
def test_an_auditor_computes_the_same_from_the_two_tables_alone(store: Store, clock: FakeClock) -> None:
    record_some(store, 7)
    sealing.seal_everything(a_world(store, clock, Setting()))
    previous = bytes(32)
    with store.read() as tx:
        for one in tx.connection.execute(text("SELECT * FROM seal ORDER BY no")).all():
            rows = tx.connection.execute(
                text(
                    "SELECT id, at, kind, actor, cause, pair_id, ca, target, certificate_id, previous_id FROM event"
                    f" WHERE id BETWEEN {one.first_id} AND {one.last_id} ORDER BY id"
                )
            ).all()
            head = [one.no, one.first_id, one.last_id, one._mapping["count"], previous.hex(), one.at]
            document = jcs([head, *map(list, rows)])
            previous = hashlib.sha256(document.encode()).digest()
            assert (one._mapping["count"], one.digest) == (len(rows), previous)


def tampered(store: Store, statement: Any) -> None:
    with store.write() as tx:
        assert tx.execute(statement).rowcount == 1


A_ROW = {"at": 1, "kind": "promoted", "actor": "nobody", "cause": "slipped in"}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("what", "statement", "says"),
    [
        (
            "changed",
            update(event).where(event.c.id == 5).values(cause="another"),
            "seal 2, events 4 to 6: what",
        ),
        ("signed", update(event).where(event.c.id == 7).values(actor="x"), "seal 3, events 7 to 7: what"),
        (
            "removed",
            delete(event).where(event.c.id == 2),
            "seal 1, events 1 to 3: 3 events were sealed, and there are 2",
        ),
        (
            "added",
            insert(event).values(id=0, **A_ROW),
            "event 0 stands before the first number",
        ),
        ("added far below", insert(event).values(id=-(2**63), **A_ROW), "event -9223372036854775808 stands"),
        ("skipped", delete(seal).where(seal.c.no == 2), "seal 2 is missing"),
        (
            "moved",
            update(seal).where(seal.c.no == 2).values(first_id=5),
            "seal 2, events 5 to 6: it should begin",
        ),
        ("cut", update(seal).where(seal.c.no == 1).values(previous=b"x" * 32), "does not stand on the seal"),
        ("dated", update(seal).where(seal.c.no == 3).values(at=1), "seal 3, events 7 to 7: what"),
        (
            "of no time",
            update(seal).where(seal.c.no == 2).values(at=2**62),
            "seal after seal 1 cannot be read",
        ),
    ],
)
def test_what_was_sealed_is_not_changed_unnoticed(
    store: Store, clock: FakeClock, what: str, statement: Any, says: str
) -> None:
    record_some(store, 7)
    sealing.seal_everything(a_world(store, clock, Setting()))
    tampered(store, statement)
    broken = verdict(store, clock).broken
    assert broken is not None, what
    assert says in broken, what


@pytest.mark.usefixtures("small")
def test_a_history_that_was_sealed_anew_is_convicted_by_a_head_kept_elsewhere(
    store: Store, clock: FakeClock
) -> None:
    record_some(store, 7)
    world = a_world(store, clock, Setting())
    kept = sealing.seal_everything(world)
    assert kept is not None
    tampered(store, update(event).where(event.c.id == 5).values(cause="another"))
    with store.write() as tx:
        tx.execute(delete(seal))
    sealing.seal_everything(world)
    assert verdict(store, clock).broken is None
    broken = verdict(store, clock, Head(kept.no, kept.digest, 4)).broken
    assert broken is not None
    assert "line 4" in broken
    shorter = verdict(store, clock, Head(9, kept.digest)).broken
    assert shorter == "seal 9 was kept elsewhere, and is not in the database"
    both = verdict(store, clock, Head(1, b"a", 1), Head(1, b"b", 2)).broken
    assert both == "line 2 and line 1 differ about seal 1"


@pytest.mark.parametrize("id", [0, -(2**63)])
def test_what_is_slipped_in_before_the_first_event_is_found_before_anything_is_sealed(
    store: Store, clock: FakeClock, id: int
) -> None:
    tampered(store, insert(event).values(id=id, **A_ROW))
    assert (
        verdict(store, clock).broken == f"event {id} stands before the first number, where no seal covers it"
    )


# --- what SQLite takes in any column -------------------------------------------------------------------------


@pytest.mark.usefixtures("small", "database")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("at = at + 0.25", "`at` of seal 3 holds no whole number"),
        ("at = 4611686018427387904", "`at` of seal 3 is no time"),
        ("last_id = 'seven'", "`last_id` of seal 3 holds no whole number"),
        ("count = 1.5", "`count` of seal 3 holds no whole number"),
        ("previous = 5", "`previous` of seal 3 holds no bytes"),
        ("digest = 'digest'", "`digest` of seal 3 holds no bytes"),
        ("digest = CAST(x'ff' AS TEXT)", "`digest` of seal 3 holds no bytes"),
    ],
)
def test_a_seal_that_holds_what_no_seal_does_is_told_as_one(
    store: Store, clock: FakeClock, change: str, says: str
) -> None:
    record_some(store, 7)
    world = a_world(store, clock, Setting())
    sealing.seal_everything(world)
    tampered(store, text(f"UPDATE seal SET {change} WHERE no = 3"))
    found = verdict(store, clock)
    assert found.broken == f"the seal after seal 2 cannot be read: {says}"
    assert found.head is not None
    assert found.head.no == 2
    for act in (sealing.seal, sealing.seal_everything):
        with pytest.raises(StoreError, match=re.escape(says)) as told:
            act(world)
        assert not isinstance(told.value, StoreUnavailable)
        assert told.value.remedy


@pytest.mark.usefixtures("small", "database")
@pytest.mark.parametrize("value", ["CAST(x'ff' AS TEXT)", "CAST(x'6100c3' AS TEXT)", "x'61'"])
def test_a_text_that_is_none_is_no_outage(store: Store, clock: FakeClock, value: str) -> None:
    record_some(store, 7)
    world = a_world(store, clock, Setting())
    sealing.seal_everything(world)
    record_some(store, 3)
    for number in (5, 9):
        tampered(store, text(f"UPDATE event SET cause = {value} WHERE id = {number}"))
    broken = verdict(store, clock).broken
    assert broken is not None
    assert broken.startswith("seal 2, events 4 to 6: ")
    assert "`cause` of event 5 is neither a text nor a whole number" in broken
    for act in (sealing.seal, sealing.seal_everything):
        with pytest.raises(StoreError, match="`cause` of event 9 is neither") as told:
            act(world)
        assert not isinstance(told.value, StoreUnavailable)
        assert told.value.remedy
    # Once it is a text again it is sealed, and all others read what they did before.
    tampered(store, update(event).where(event.c.id == 9).values(cause="ü"))
    last = sealing.seal_everything(world)
    assert last is not None
    assert last.last_id == 10
    with store.read() as tx:
        assert events.page(tx, after=8, limit=1)[0].cause == "ü"


@pytest.mark.usefixtures("database")
def test_only_a_look_at_what_may_be_none_takes_texts_as_they_are(store: Store) -> None:
    with store.read() as tx:
        before = tx.link.driver.text_factory
        with seals.undecoded(tx):
            [odd] = tx.link.driver.execute("SELECT CAST(x'ff' AS TEXT)").fetchone()
            assert (type(odd), odd) == (seals.NoText, b"\xff")
        assert tx.link.driver.text_factory is before


def test_two_sealers_make_one_chain(store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "MOST", 10)
    record_some(store, 200)
    world = a_world(store, clock, Setting())
    threads = [threading.Thread(target=sealing.seal_everything, args=(world,)) for _ in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    found = verdict(store, clock)
    assert found.broken is None
    assert found.head is not None
    assert (found.head.no, found.head.last_id, found.newer) == (20, 200, 0)


def test_nothing_is_sealed_past_a_number_whose_unit_of_work_is_not_over(
    server: Postgres, on_postgres: str
) -> None:
    """Event 1 is written and not committed while event 2 is; a seal over 2 alone would make 1 a forgery."""
    clock = SystemClock()
    store = Store(on_postgres, clock, "tester")
    world = a_world(store, clock, Setting())
    try:
        with store.write() as late:
            events.record(late, EventKind.PROMOTED, "late")
            record_some(store, 1)
            assert seals.decided(store) is None
            assert sealing.seal(world) == 0
            with store.read() as tx:
                assert seals.last(tx) is None
        assert seals.decided(store) == 2
        assert sealing.seal_everything(world) is not None
        assert sealing.verify(world).broken is None
    finally:
        store.close()


def test_a_writer_is_not_held_up_by_a_sealer_that_waits(server: Postgres, on_postgres: str) -> None:
    """The lock is asked for behind a unit of work that stays open, and whoever writes comes behind the lock."""
    store = Store(on_postgres, SystemClock(), "tester")
    over, found = threading.Event(), []

    def ask() -> None:
        while not over.is_set():
            found.append(seals.decided(store))

    try:
        with store.write() as late:
            events.record(late, EventKind.PROMOTED, "late")
            sealer = threading.Thread(target=ask)
            sealer.start()
            try:
                for _ in range(50):
                    record_some(store, 1)
            finally:
                over.set()
                sealer.join()
        assert set(found) == {None}
        assert seals.decided(store) == 51
    finally:
        store.close()


def test_the_lock_is_asked_for_no_longer_than_a_writer_may_be_held_up(
    server: Postgres, on_postgres: str
) -> None:
    store = Store(on_postgres, SystemClock(), "tester")
    said: list[str] = []
    listen(store.engine, "before_cursor_execute", lambda *told: said.append(told[2]))
    try:
        assert seals.decided(store) == 0
    finally:
        store.close()
    limit, lock, *_ = [one for one in said if "LOCK" in one.upper()]
    assert lock.startswith("LOCK TABLE event")
    assert limit.startswith("SET LOCAL lock_timeout = ")
    assert 0 < int(limit.rpartition(" ")[2]) < 50

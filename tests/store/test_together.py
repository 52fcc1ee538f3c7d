"""Units of work of several threads of a process, committed together; SQLite alone needs it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dualcert.clock import SystemClock
from dualcert.errors import StoreError, StoreUnavailable
from dualcert.store import Store, Transaction, together
from dualcert.store.together import Group

_SECONDS = 20.0


class Trouble(Exception):
    """What ends a unit of work."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dualcert.db"


@pytest.fixture
def store(file: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{file}", SystemClock(), "test")
    with store.write() as tx:
        tx.connection.exec_driver_sql("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT UNIQUE)")
    yield store
    store.close()


def say(tx: Transaction, text: str) -> None:
    tx.connection.exec_driver_sql("INSERT INTO word (text) VALUES (?)", (text,))


def said(file: Path) -> set[str]:
    """What others see of it."""
    with closing(sqlite3.connect(file)) as other:
        return {text for (text,) in other.execute("SELECT text FROM word")}


class Writer(threading.Thread):
    """A unit of work that stops before its end until it may go on."""

    def __init__(self, store: Store, text: str, error: BaseException | None = None) -> None:
        super().__init__(daemon=True)
        self._store, self._text, self._error = store, text, error
        self.inside, self.may_end = threading.Event(), threading.Event()
        self.raised: BaseException | None = None

    def run(self) -> None:
        try:
            with self._store.write() as tx:
                say(tx, self._text)
                self.inside.set()
                assert self.may_end.wait(_SECONDS)
                if self._error is not None:
                    raise self._error
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.raised = error

    def end(self) -> None:
        self.may_end.set()


def ended(*writers: Writer) -> None:
    for one in writers:
        one.join(_SECONDS)
        assert not one.is_alive()


def waiting(store: Store, number: int) -> None:
    """Until so many stand in the queue."""
    clock, shared = SystemClock(), store._together
    end = clock.monotonic() + _SECONDS
    while shared is not None and shared._waiting < number:
        assert clock.monotonic() < end
        clock.sleep(0.002)


def waiting_at_most(store: Store, number: int) -> None:
    """Until the next one has had his turn."""
    clock, shared = SystemClock(), store._together
    end = clock.monotonic() + _SECONDS
    while shared is not None and shared._waiting > number:
        assert clock.monotonic() < end
        clock.sleep(0.002)


def behind_each_other(store: Store, *writers: Writer) -> None:
    """The first is inside, the others wait for their turns."""
    writers[0].start()
    assert writers[0].inside.wait(_SECONDS)
    for number, one in enumerate(writers[1:], 1):
        one.start()
        waiting(store, number)


def commits(monkeypatch: pytest.MonkeyPatch) -> list[Group]:
    """Every transaction that is committed from now on."""
    found: list[Group] = []
    end = together.Together._end

    def counted(self: together.Together, group: Group) -> None:
        found.append(group)
        end(self, group)

    monkeypatch.setattr(together.Together, "_end", counted)
    return found


def test_units_that_come_while_another_is_under_way_are_committed_with_it(
    store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = commits(monkeypatch)
    one, two, three = (Writer(store, text) for text in ("one", "two", "three"))
    behind_each_other(store, one, two, three)
    one.end()
    waiting_at_most(store, 1)
    assert said(file) == set()
    assert one.is_alive(), "nobody goes on before what he wrote is durable"
    two.end()
    three.end()
    ended(one, two, three)
    assert said(file) == {"one", "two", "three"}
    assert [group.units for group in found] == [3]


def test_one_alone_is_committed_at_once(store: Store, file: Path) -> None:
    with store.write() as tx:
        say(tx, "one")
    assert said(file) == {"one"}


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_unit_that_fails_takes_nothing_of_the_others_with_it(
    store: Store, file: Path, failing: int
) -> None:
    texts = ["one", "two", "three"]
    writers = [
        Writer(store, text, Trouble() if number == failing else None) for number, text in enumerate(texts)
    ]
    behind_each_other(store, *writers)
    for one in writers:
        one.end()
    ended(*writers)
    assert [isinstance(one.raised, Trouble) for one in writers] == [n == failing for n in range(3)]
    assert said(file) == set(texts) - {texts[failing]}
    with store.write() as tx:
        say(tx, "more")
    assert "more" in said(file)


def test_a_refused_statement_is_its_own_units_trouble(store: Store, file: Path) -> None:
    one, two, three = Writer(store, "one"), Writer(store, "one"), Writer(store, "three")
    behind_each_other(store, one, two, three)
    for writer in (one, two, three):
        writer.end()
    ended(one, two, three)
    assert one.raised is None
    assert isinstance(two.raised, StoreError)
    assert three.raised is None
    assert said(file) == {"one", "three"}


def test_a_commit_that_fails_has_failed_for_each_of_its_units(
    store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = Writer(store, "one"), Writer(store, "two")
    behind_each_other(store, one, two)

    class Full:
        """The driver's connection on a disk that has no room left."""

        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def execute(self, text: str, *arguments: Any) -> Any:
            if text == "COMMIT":
                raise sqlite3.OperationalError("database or disk is full")
            return self._real.execute(text, *arguments)

    shared = store._together
    assert shared is not None
    assert shared._group is not None
    monkeypatch.setattr(shared._group, "driver", Full(shared._group.driver))
    one.end()
    two.end()
    ended(one, two)
    assert [type(writer.raised) for writer in (one, two)] == [StoreUnavailable] * 2
    assert said(file) == set()
    with store.write() as tx:
        say(tx, "three")
    assert said(file) == {"three"}


def test_a_database_that_ends_the_transaction_ends_it_for_all(store: Store, file: Path) -> None:
    """As SQLite does by itself where a disk is full in the middle of a statement."""
    one, two = Writer(store, "one"), Writer(store, "two", sqlite3.OperationalError("disk I/O error"))
    behind_each_other(store, one, two)
    one.end()
    assert two.inside.wait(_SECONDS)
    assert store._together is not None
    assert store._together._group is not None
    store._together._group.driver.execute("ROLLBACK")
    two.end()
    ended(one, two)
    assert [type(writer.raised) for writer in (one, two)] == [StoreUnavailable] * 2
    assert said(file) == set()


def test_who_was_counted_on_and_did_not_come_strands_nobody(store: Store, file: Path) -> None:
    """An interrupt takes a thread out of the queue after the one before has left the commit to it."""
    one = Writer(store, "one")
    one.start()
    assert one.inside.wait(_SECONDS)
    assert store._together is not None
    store._together._waiting += 1
    one.end()
    assert said(file) == set()
    store._together._waiting -= 1
    ended(one)
    assert one.raised is None
    assert said(file) == {"one"}


def test_no_unit_waits_for_endless_others(store: Store, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "_MOST", 2)
    found = commits(monkeypatch)
    writers = [Writer(store, str(number)) for number in range(5)]
    behind_each_other(store, *writers)
    for one in writers:
        one.end()
    ended(*writers)
    assert [group.units for group in found] == [2, 2, 1]
    assert said(file) == {str(number) for number in range(5)}


def test_a_crowd_loses_nothing_and_keeps_nothing_that_failed(store: Store, file: Path) -> None:
    kept: list[set[str]] = [set() for _ in range(8)]

    def work(number: int) -> None:
        chance = Random(number)
        for turn in range(60):
            text = f"{number}-{turn}"
            try:
                with store.write() as tx:
                    say(tx, text)
                    if chance.random() < 0.1:
                        raise Trouble
                    if chance.random() < 0.1:
                        say(tx, text)
            except (Trouble, StoreError):
                continue
            kept[number].add(text)
            with store.read() as tx:
                assert tx.connection.exec_driver_sql("SELECT 1 FROM word WHERE text = ?", (text,)).first()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
        assert not one.is_alive()
    assert said(file) == set().union(*kept)


def test_watchers_hear_of_a_unit_when_it_is_committed(store: Store, file: Path) -> None:
    heard: list[set[str]] = []
    store.watchers.add(lambda tx: heard.append(said(file)))
    one, two = Writer(store, "one"), Writer(store, "two")

    class Due(Writer):
        def run(self) -> None:
            with self._store.write() as tx:
                say(tx, self._text)
                tx.made_due.add(1)
                self.inside.set()
                assert self.may_end.wait(_SECONDS)

    due = Due(store, "due")
    behind_each_other(store, one, due, two)
    for writer in (one, due, two):
        writer.end()
    ended(one, due, two)
    assert heard == [{"one", "due", "two"}]

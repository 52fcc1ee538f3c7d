"""SQLite under several processes, and what becomes of a unit of work when something goes wrong."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from dualcert.clock import SystemClock
from dualcert.errors import ConfigurationError, Refused, StoreError, StoreNotWritable, StoreUnavailable
from dualcert.model.events import EventKind
from dualcert.store import Store, Transaction, database_file, events, pairs, sqlite
from dualcert.testing.clock import FakeClock
from tests.program import REPOSITORY
from tests.store.building import a_pair


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> int:
    """Waits for a lock for a moment only; in milliseconds."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 200)
    return 200


def opened(file: Path) -> Store:
    return Store(f"sqlite:///{file}", FakeClock(), "another")


def start_writer(file: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.store.writer", str(file), *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def killed_at_the_end(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == word


@contextmanager
def locked(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.rollback()


# --- units of work ---------------------------------------------------------------------------------------


def test_a_unit_of_work_leaves_all_or_nothing(store: Store) -> None:
    def break_off() -> None:
        with store.write() as tx:
            a_pair(tx, "example.com")
            events.record(tx, EventKind.CREATED, "a test")
            raise Refused("half way")

    with pytest.raises(Refused):
        break_off()
    with store.read() as tx:
        assert pairs.page(tx) == []
        assert events.last(tx) == 0


def test_definitions_are_part_of_the_unit_of_work_too(store: Store) -> None:
    def break_off() -> None:
        with store.write() as tx:
            tx.execute(text("CREATE TABLE half (id INTEGER)"))
            raise Refused("half way")

    with pytest.raises(Refused):
        break_off()
    with store.write() as tx:
        tx.execute(text("CREATE TABLE half (id INTEGER)"))


def test_an_instant_is_that_of_the_beginning(store: Store, clock: FakeClock) -> None:
    begun = clock.now()
    with store.write() as tx:
        clock.advance(5)
        assert tx.now == begun


def test_a_database_is_durable_and_its_readers_do_not_wait(store: Store, database: Path) -> None:
    with store.read() as tx:
        settings = {
            name: tx.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 5000}


def test_a_reader_sees_one_state_from_beginning_to_end_and_a_write_does_not_wait_for_it(store: Store) -> None:
    with store.read() as reading:
        assert events.last(reading) == 0
        with store.write() as tx:
            events.record(tx, EventKind.CREATED, "a test")
            assert events.last(reading) == 0
        assert events.last(reading) == 0
    with store.read() as tx:
        assert events.last(tx) == 1


def test_a_glance_is_one_statement(store: Store) -> None:
    with store.write() as tx:
        events.record(tx, EventKind.CREATED, "a test")
    with store.glance() as tx:
        assert events.last(tx) == 1
        with pytest.raises(AssertionError, match="one statement"):
            events.last(tx)


def test_looking_asks_for_no_lock(database: Path, impatient: int) -> None:
    store = opened(database)
    with locked(database), store.read() as tx:
        assert events.last(tx) == 0
    store.close()


def test_a_look_cannot_write_by_mistake_while_another_writes(database: Path, impatient: int) -> None:
    store = opened(database)
    with pytest.raises(StoreUnavailable, match="locked"), locked(database), store.read() as tx:
        events.record(tx, EventKind.CREATED, "a test")
    store.close()


def test_threads_of_one_process_write_one_after_another(store: Store, database: Path) -> None:
    def write() -> None:
        for _ in range(20):
            with store.write() as tx:
                number = events.last(tx)
                events.record(tx, EventKind.CREATED, str(number))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as tx:
        assert [one.cause for one in events.page(tx)] == [str(number) for number in range(160)]


# --- several processes -----------------------------------------------------------------------------------


def test_processes_that_write_at_the_same_time_wait_for_each_other(database: Path) -> None:
    number = 40
    writers = [start_writer(database, "many", str(number)) for _ in range(3)]
    ended = [(writer.communicate(timeout=60), writer.returncode) for writer in writers]
    assert [(err, status) for (_, err), status in ended] == [("", 0)] * 3
    store = opened(database)
    with store.read() as tx:
        found = events.page(tx)
    store.close()
    assert len(found) == 3 * 2 * number
    firsts, seconds = found[::2], found[1::2]
    assert {one.cause for one in firsts} == {"the first of two"}
    assert [(one.pair_id, one.cause) for one in seconds] == [
        (one.pair_id, "the second of two") for one in firsts
    ]


def test_what_a_killed_process_had_not_committed_is_not_there_and_the_lock_is_free(database: Path) -> None:
    with killed_at_the_end(start_writer(database, "halfway")) as writer:
        wait_for(writer, "halfway")
    store = opened(database)
    with store.write() as tx:
        assert events.last(tx) == 0
        events.record(tx, EventKind.CREATED, "after it")
    with store.read() as tx:
        assert tx.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
        assert [one.cause for one in events.page(tx)] == ["after it"]
    store.close()


def test_a_process_killed_while_it_writes_leaves_whole_units(database: Path) -> None:
    with killed_at_the_end(start_writer(database, "endless")) as writer:
        wait_for(writer, "begun")
        clock = SystemClock()
        until = clock.monotonic() + 0.3
        store = opened(database)
        while clock.monotonic() < until:
            with store.read() as tx:
                assert events.last(tx) % 2 == 0
    with store.write() as tx:
        assert tx.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
        assert events.last(tx) % 2 == 0
        assert events.last(tx) > 0
    store.close()


# --- trouble ---------------------------------------------------------------------------------------------


def test_a_file_that_may_only_be_read_is_told_from_one_that_is_away(database: Path, clock: FakeClock) -> None:
    store = Store(f"sqlite:///{database}", clock, "tester")
    with store.write() as tx:
        tx.connection.exec_driver_sql("PRAGMA query_only=ON")
    with pytest.raises(StoreNotWritable, match="readonly") as caught, store.write() as tx:
        events.record(tx, EventKind.FAILED, "nothing")
    assert "-shm" in (caught.value.remedy or "")
    store.close()


def test_a_database_that_stays_locked_is_unavailable_and_the_reason_is_told(
    database: Path, impatient: int
) -> None:
    store, clock = opened(database), SystemClock()
    with locked(database):
        began = clock.monotonic()
        with pytest.raises(StoreUnavailable, match="locked") as caught, store.write():
            pytest.fail("nobody may come here")
        assert clock.monotonic() - began >= impatient / 1000
    assert str(database) in caught.value.reason
    assert caught.value.remedy is not None
    with store.write() as tx:
        events.record(tx, EventKind.CREATED, "free again")
    store.close()


def test_a_short_lock_is_waited_for(store: Store, database: Path) -> None:
    with killed_at_the_end(start_writer(database, "halfway")) as other:
        wait_for(other, "halfway")
        threading.Timer(0.2, other.kill).start()
        with store.write() as tx:
            assert events.last(tx) == 0


def test_a_database_whose_folder_is_gone_is_unavailable(database: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    store = opened(Path(shutil.copy(database, folder)))
    shutil.rmtree(folder)
    with pytest.raises(StoreUnavailable, match="unable to open"), store.write():
        pytest.fail("nobody may come here")
    store.close()


def test_a_database_without_its_tables_is_unavailable(database: Path, store: Store) -> None:
    database.write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="no such table"), store.read() as tx:
        events.last(tx)


def test_a_full_database_is_unavailable_and_keeps_what_it_has(store: Store, database: Path) -> None:
    def fill() -> None:
        with store.write() as tx:
            pages = tx.execute(text("PRAGMA page_count")).scalar_one()
            tx.execute(text(f"PRAGMA max_page_count = {pages + 2}"))
            for _ in range(1000):
                events.record(tx, EventKind.CREATED, "x" * 1000)

    with store.write() as tx:
        events.record(tx, EventKind.CREATED, "before")
    with pytest.raises(StoreUnavailable, match="full"):
        fill()
    with store.read() as tx:
        assert [one.cause for one in events.page(tx)] == ["before"]


def test_a_damaged_file_is_said_to_be_one_and_what_helps(tmp_path: Path) -> None:
    file = tmp_path / "damaged.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE one (word TEXT)")
        connection.executemany("INSERT INTO one VALUES (?)", [("word" * 100,)] * 100)
        connection.commit()
    content = bytearray(file.read_bytes())
    content[4096:] = b"\x5a" * (len(content) - 4096)
    file.write_bytes(content)
    store = opened(file)
    with pytest.raises(StoreError, match="is damaged") as caught, store.read() as tx:
        tx.execute(text("SELECT count(word) FROM one"))
    assert str(file) in caught.value.reason
    assert not isinstance(caught.value, StoreUnavailable), "waiting does not mend it"
    assert "backup" in (caught.value.remedy or "")
    store.close()


def test_a_file_that_is_no_database_is_a_matter_of_configuration(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_text("not a database, but rather longer than a header of one\n" * 50)
    store = opened(file)
    with pytest.raises(ConfigurationError, match="no SQLite database"), store.read():
        pytest.fail("nobody may come here")
    store.close()


def test_a_statement_that_the_database_refuses_is_an_error_of_the_store(store: Store) -> None:
    def twice(tx: Transaction) -> None:
        a_pair(tx, "example.com")
        a_pair(tx, "example.com")

    with pytest.raises(StoreError, match="(?i)unique") as caught, store.write() as tx:
        twice(tx)
    assert not isinstance(caught.value, StoreUnavailable)


# --- what `database` may say -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("mysql://host/name", "mysql is not supported"),
        ("dualcert.db", "not a database URL"),
        ("sqlite:////nowhere/at/all/dualcert.db", "/nowhere/at/all does not exist"),
        ("sqlite:////usr", "/usr is a folder"),
        ("sqlite+nobody:///dualcert.db", "nobody"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_a_way_on(url: str, word: str) -> None:
    with pytest.raises(ConfigurationError, match=word) as caught:
        Store(url, FakeClock(), "tester")
    assert "password" not in str(caught.value)


def test_the_file_of_a_database() -> None:
    assert database_file("sqlite:////var/lib/dualcert.db") == Path("/var/lib/dualcert.db")
    assert database_file("postgresql://host/name") is None
    assert database_file("sqlite://") is None


@pytest.mark.parametrize("code", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY])
def test_a_new_file_that_several_open_at_once_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """SQLite does not ask its busy handler where two want to change the journal's mode at once."""
    refusals = [code, code]

    class Contested(sqlite3.Connection):
        def execute(self, text: str, *arguments: Any) -> Any:
            if text == "PRAGMA journal_mode=WAL" and refusals:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = refusals.pop()
                raise error
            return super().execute(text, *arguments)

    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3,
        "connect",
        lambda *arguments, **options: connect(*arguments, **options, factory=Contested),
    )
    store = Store(f"sqlite:///{tmp_path / 'new.db'}", SystemClock(), "test")
    with store.read() as tx:
        assert tx.connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    assert refusals == []
    store.close()


def test_who_waits_in_another_process_gets_the_lock_between_two_long_units(
    store: Store, database: Path
) -> None:
    """Each holds the lock for longer than the other lets pass between two looks for it."""
    clock, units = SystemClock(), 0
    with closing(opened(database)) as other:
        waiting, written = threading.Event(), threading.Event()

        def write() -> None:
            waiting.set()
            with other.write() as tx:
                events.record(tx, EventKind.CHANGED, "a test")
            written.set()

        thread = threading.Thread(target=write)
        while not written.is_set() and units < 40:
            with store.write():
                if not units:
                    thread.start()
                    assert waiting.wait(10)
                units += 1
                clock.sleep(0.06)
            store.give_way()
        thread.join()
    assert units < 10

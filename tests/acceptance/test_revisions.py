"""A database that this program was not made for is refused, left as it is, and the way on is named."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dualcert.clock import SystemClock
from dualcert.store import migrations, sqlite
from tests.program import Program, Result

_clock = SystemClock()
COMMANDS = [
    ["issue", "example.test"],
    ["renew", "--due"],
    ["renew", "example.test"],
    ["failover", "example.test"],
    ["failover", "example.test", "--dry-run"],
    ["revoke", "example.test", "--role", "backup"],
    ["list"],
    ["show", "example.test"],
    ["events"],
    ["export", "example.test", "--to", "somewhere"],
]


@pytest.fixture
def file(program: Program) -> Path:
    return program.config.parent / "dualcert.db"


def set_revision(file: Path, revision: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        assert connection.execute("UPDATE alembic_version SET version_num = ?", (revision,)).rowcount == 1


def content(file: Path) -> str:
    """The whole database as text."""
    with closing(sqlite3.connect(file)) as connection:
        return "\n".join(connection.iterdump())


def refused(result: Result, *words: str, status: int = 2) -> None:
    assert result.status == status, result
    assert result.out == ""
    assert "Traceback" not in result.err
    assert "internal error" not in result.err
    for word in words:
        assert word in result.err


@pytest.mark.parametrize("json", [[], ["--json"]])
@pytest.mark.parametrize(
    ("revision", "words"),
    [
        ("9999", ["of revision 9999, newer than this program's", migrations.REVISION, "dualcert db current"]),
        (
            "0000",
            ["of revision 0000, older than this program's", migrations.REVISION, "`dualcert db upgrade`"],
        ),
    ],
)
def test_every_command_refuses_another_revision_and_says_what_helps(
    program: Program, file: Path, revision: str, words: list[str], json: list[str]
) -> None:
    set_revision(file, revision)
    before = content(file)

    for command in COMMANDS:
        refused(program.run(*command, *json), *words)

    assert content(file) == before


def test_a_newer_database_is_not_upgraded_backwards(program: Program, file: Path) -> None:
    set_revision(file, "9999")
    before = content(file)

    for command in (["db", "upgrade"], ["init"]):
        refused(program.run(*command), "newer than this program's")
    assert content(file) == before
    shown = program.run("db", "current")
    assert shown.status == 1
    assert "9999" in shown.out


def test_a_database_that_does_not_exist(program: Program, file: Path) -> None:
    file.unlink()

    for command in COMMANDS:
        refused(
            program.run(*command), str(file), "does not exist", "`dualcert init`", "`dualcert db upgrade`"
        )
        said = program.run(*command).err
        # Keys without the database that they were made for: it may only be away.
        assert said.index("bring it back first") < said.index("dualcert init")
    assert not file.exists(), "being asked does not make one"

    program.done("db", "upgrade")
    assert program.done("list").status == 0
    assert file.stat().st_mode & 0o777 == 0o600


def test_where_there_are_no_keys_either_nothing_is_to_be_brought_back(program: Program, file: Path) -> None:
    file.unlink()
    for kek in (program.config.parent / "keys").glob("*.kek"):
        kek.unlink()
    found = {one["subject"]: one for one in program.run("check", "--json").lines}
    assert found["database"]["remedy"] == "Run `dualcert init` (or `dualcert db upgrade`)."


def test_an_empty_database(program: Program, file: Path) -> None:
    file.write_bytes(b"")

    for command in COMMANDS:
        refused(program.run(*command), "the database", "is empty", "`dualcert db upgrade`")

    program.done("db", "upgrade")
    assert program.done("list").status == 0


def test_a_file_that_is_no_database(program: Program, file: Path) -> None:
    file.write_text("these are somebody's notes, and no pages of SQLite\n" * 200)
    before = file.read_bytes()

    for command in [*COMMANDS, ["db", "upgrade"], ["db", "current"], ["init"]]:
        refused(program.run(*command), str(file), "is no SQLite database", "`database`")
    assert file.read_bytes() == before


def test_a_folder_that_does_not_exist(program: Program) -> None:
    program.config.write_text(
        program.config.read_text().replace("sqlite:///dualcert.db", "sqlite:///away/dualcert.db")
    )

    for command in [*COMMANDS, ["db", "upgrade"]]:
        refused(program.run(*command), "away", "does not exist")


# --- locked ----------------------------------------------------------------------------------------------


@contextmanager
def locked(file: Path) -> Iterator[Callable[[], None]]:
    """Somebody else writes and does not come to an end until told to."""
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection.rollback
        if connection.in_transaction:
            connection.rollback()


@pytest.fixture(params=[300, pytest.param(None, marks=pytest.mark.long, id="as-shipped")])
def patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a locked database is waited for, in milliseconds."""
    if request.param is not None:
        monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", request.param)


@pytest.mark.usefixtures("patience")
def test_a_database_that_stays_locked_is_told_and_nothing_is_written(program: Program, file: Path) -> None:
    with locked(file):
        began = _clock.monotonic()
        result = program.run("issue", "locked.example.test", "--timeout", "1s")
        took = _clock.monotonic() - began

        refused(result, str(file), "database is locked", "Nothing of this step was written", status=1)
        assert took < 20
        assert program.done("list", "--json").out == "", "looking needs no lock"


def test_a_lock_of_a_moment_is_waited_for(program: Program, file: Path) -> None:
    with locked(file) as release:
        timer = threading.Timer(0.5, release)
        timer.start()
        result = program.run("renew", "--due")
        timer.join()

    assert result.status == 0, result

"""Migrations are a feature: what they build is what the program expects, from every revision and back."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import dualcert
from dualcert.errors import ConfigurationError, DatabaseRevisionError
from dualcert.model.events import EventKind
from dualcert.store import Store, events, migrations
from dualcert.store.tables import metadata
from dualcert.testing.clock import FakeClock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dualcert.db"


@pytest.fixture
def store(file: Path) -> Iterator[Store]:
    """An empty database."""
    opened = Store(f"sqlite:///{file}", FakeClock(), "tester")
    yield opened
    opened.close()


def definitions(file: Path) -> dict[tuple[str, str], str]:
    """Every table and index with its SQL, column for column; white space and quotes set aside."""
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute(
            "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE '%alembic%'"
        ).fetchall()
    return {(kind, name): _plain(sql or "") for kind, name, sql in rows}


def _plain(sql: str) -> str:
    return " ".join(sql.replace('"', "").split())


def run(store: Store, to: str) -> None:
    """Bring a database to a revision as Alembic does it."""
    config = Config()
    config.set_main_option("script_location", str(migrations.script_location()))
    with store.write() as tx:
        config.attributes["connection"] = tx.connection
        (command.downgrade if to == "base" else command.upgrade)(config, to)


def pretend(file: Path, revision: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


# --- what they build -------------------------------------------------------------------------------------


def test_alembic_finds_no_difference_between_the_migrations_and_the_tables(store: Store) -> None:
    migrations.upgrade(store)
    with store.read() as tx:
        context = MigrationContext.configure(tx.connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_the_migrations_build_the_tables_to_the_letter(store: Store, file: Path, tmp_path: Path) -> None:
    migrations.upgrade(store)
    direct = Store(f"sqlite:///{tmp_path / 'direct.db'}", FakeClock(), "tester")
    with direct.write() as tx:
        metadata.create_all(tx.connection)
    direct.close()
    built, expected = definitions(file), definitions(tmp_path / "direct.db")
    assert built.keys() == expected.keys()
    assert built == expected
    assert "AUTOINCREMENT" in built["table", "work"]


def test_every_index_has_a_name_of_ours() -> None:
    for table in metadata.tables.values():
        for index in table.indexes:
            assert index.name is not None
            assert str(index.name).startswith(("ix_", "ux_"))


def test_there_are_no_foreign_keys_and_no_triggers(store: Store, file: Path) -> None:
    migrations.upgrade(store)
    assert [sql for sql in definitions(file).values() if "REFERENCES" in sql or "TRIGGER" in sql] == []


def test_the_revision_in_the_program_is_alembics_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations.script_location()))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [migrations.REVISION]
    assert scripts.get_bases() == ["0001"]


def test_revisions_are_in_the_order_of_their_numbers() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations.script_location()))
    numbers = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert numbers == sorted(numbers, reverse=True)
    assert all(len(number) == 4 and number.isdigit() for number in numbers)


# --- up and down -----------------------------------------------------------------------------------------


def test_down_to_nothing_and_up_again(store: Store, file: Path) -> None:
    migrations.upgrade(store)
    first = definitions(file)
    run(store, "base")
    assert {name for kind, name in definitions(file) if kind == "table"} <= {"sqlite_sequence"}
    assert migrations.current(store) is None
    migrations.upgrade(store)
    assert definitions(file) == first


def test_an_upgrade_of_what_is_up_to_date_changes_nothing(store: Store) -> None:
    assert migrations.upgrade(store) == migrations.REVISION
    with store.write() as tx:
        events.record(tx, EventKind.CREATED, "kept")
    assert migrations.upgrade(store) == migrations.REVISION
    with store.read() as tx:
        assert events.last(tx) == 1


def test_several_that_upgrade_at_once_do_it_once(file: Path) -> None:
    results: list[str | Exception] = []
    start = threading.Barrier(4)

    def upgrade() -> None:
        opened = Store(f"sqlite:///{file}", FakeClock(), "tester")
        start.wait()
        results.append(migrations.upgrade(opened))
        opened.close()

    threads = [threading.Thread(target=upgrade) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [migrations.REVISION] * 4


def test_an_upgrade_that_breaks_off_leaves_nothing(
    store: Store, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Path(shutil.copytree(migrations.script_location(), tmp_path / "migrations"))
    first = next((broken / "versions").glob("0001_*.py"))
    first.write_text(
        first.read_text().replace("def downgrade", '    op.execute("nonsense")\n\n\ndef downgrade')
    )
    monkeypatch.setattr(migrations, "script_location", lambda: broken)
    with pytest.raises(Exception, match="nonsense"):
        migrations.upgrade(store)
    monkeypatch.undo()
    assert definitions(file) == {}
    assert migrations.current(store) is None
    assert migrations.upgrade(store) == migrations.REVISION


# --- what is refused -------------------------------------------------------------------------------------


def test_an_empty_database_is_refused_with_how_to_make_one(store: Store) -> None:
    with pytest.raises(DatabaseRevisionError, match="empty") as caught:
        migrations.require(store)
    assert "dualcert db upgrade" in str(caught.value)


@pytest.mark.parametrize(
    ("revision", "word", "remedy"),
    [
        ("0000", f"older than this program's {migrations.REVISION}", "Run `dualcert db upgrade`"),
        ("9999", "newer", "Install"),
    ],
)
def test_another_revision_is_refused_with_what_helps(
    store: Store, file: Path, revision: str, word: str, remedy: str
) -> None:
    migrations.upgrade(store)
    migrations.require(store)
    pretend(file, revision)
    assert migrations.current(store) == revision
    with pytest.raises(DatabaseRevisionError, match=word) as caught:
        migrations.require(store)
    assert caught.value.remedy is not None
    assert remedy in caught.value.remedy


def test_a_newer_database_is_not_upgraded(store: Store, file: Path) -> None:
    migrations.upgrade(store)
    before = definitions(file)
    pretend(file, "9999")
    with pytest.raises(DatabaseRevisionError, match="newer"):
        migrations.upgrade(store)
    assert definitions(file) == before


# --- where they are --------------------------------------------------------------------------------------


def test_in_a_checkout_they_are_beside_the_package() -> None:
    package = Path(dualcert.__file__).parent
    assert migrations.script_location() == package.parent / "migrations"


def installed(folder: Path) -> Path:
    """A package as a wheel lays it out, with nothing but the migrations inside."""
    package = folder / "site-packages" / "dualcert"
    shutil.copytree(migrations.script_location(), package / "migrations")
    return package


def test_in_an_installation_they_are_inside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = installed(tmp_path)
    (tmp_path / "site-packages" / "migrations").mkdir()
    monkeypatch.setattr(dualcert, "__file__", str(package / "__init__.py"))
    assert migrations.script_location() == package / "migrations"


def test_a_folder_with_a_percent_sign_is_no_trouble(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = installed(tmp_path / "100%(done)s")
    monkeypatch.setattr(dualcert, "__file__", str(package / "__init__.py"))
    assert migrations.upgrade(store) == migrations.REVISION


def test_an_installation_without_them_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dualcert, "__file__", str(tmp_path / "dualcert" / "__init__.py"))
    with pytest.raises(ConfigurationError, match="missing from this installation"):
        migrations.script_location()

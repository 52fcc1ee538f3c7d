"""Migrations are a feature: what they build is what the program expects, from every revision and back."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

import dualcert
import dualcert.store.incident_tables
from dualcert.errors import ConfigurationError, DatabaseRevisionError
from dualcert.model.events import EventKind
from dualcert.store import Store, events, migrations
from dualcert.store.tables import metadata
from dualcert.testing.clock import FakeClock
from tests.postgres import Postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database's."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'dualcert.db'}"
    return str(request.getfixturevalue("bare_postgres"))


@pytest.fixture
def another_url(url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Another empty database, of the same kind."""
    if url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path / 'another.db'}"
        return
    server: Postgres = request.getfixturevalue("server")
    name = server.create()
    yield server.url(name)
    server.drop(name)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An empty database."""
    with opened(url) as found:
        yield found


@contextmanager
def opened(url: str) -> Iterator[Store]:
    store = Store(url, FakeClock(), "tester")
    yield store
    store.close()


# Tables and indexes as they are kept: columns in their order with type, collation and default; options of storage.
_DEFINITIONS = {
    "sqlite": """
        SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE '%alembic%'
        """,
    "postgresql": """
        SELECT 'table' AS type, relname AS name, reloptions::text || string_agg(format('%s %s %s %s %s', attname,
                 format_type(atttypid, atttypmod), attcollation::regcollation, attnotnull,
                 pg_get_expr(adbin, adrelid)), ', ' ORDER BY attnum) AS sql
            FROM (SELECT oid, relname, coalesce(reloptions, '{}') AS reloptions FROM pg_class
                  WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace) AS class
            JOIN pg_attribute ON attrelid = class.oid AND attnum > 0 AND NOT attisdropped
            LEFT JOIN pg_attrdef ON adrelid = class.oid AND adnum = attnum
            WHERE relname NOT LIKE '%alembic%' GROUP BY relname, reloptions
        UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes
            WHERE schemaname = 'public' AND indexname NOT LIKE '%alembic%'
        UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace AND conname NOT LIKE '%alembic%'
        """,
}


def definitions(store: Store) -> dict[tuple[str, str], str]:
    """Every table and index as the database keeps it; white space and quotes set aside."""
    with store.read() as tx:
        rows = tx.execute(text(_DEFINITIONS[store.dialect])).all()
    return {(row.type, row.name): _plain(row.sql or "") for row in rows}


def _plain(sql: str) -> str:
    return " ".join(sql.replace('"', "").split()).replace(" ,", ",").replace(" )", ")")


def run(store: Store, to: str) -> None:
    """Bring a database to a revision as Alembic does it."""
    config = Config()
    config.set_main_option("script_location", str(migrations.script_location()))
    with store.write() as tx:
        config.attributes["connection"] = tx.connection
        (command.downgrade if to == "base" else command.upgrade)(config, to)


def pretend(store: Store, revision: str) -> None:
    with store.write() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


# --- what they build -------------------------------------------------------------------------------------


def test_alembic_finds_no_difference_between_the_migrations_and_the_tables(store: Store) -> None:
    migrations.upgrade(store)
    with store.read() as tx:
        context = MigrationContext.configure(tx.connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


# What the program's tables do not say, because saying it would import that dialect at every start.
_ON_POSTGRESQL_ALONE = """
    ALTER TABLE pair_state SET (fillfactor = 50);
    ALTER TABLE work SET (fillfactor = 30);
    ALTER TABLE plan_row SET (fillfactor = 45);
    DROP INDEX ix_work_turn;
    CREATE INDEX ix_work_turn ON work (queue, ca, needed_by, due_at) WHERE queue > 1;
    DROP INDEX ix_work_target;
    CREATE INDEX ix_work_target ON work (target, kind) WHERE target > '';
    ALTER TABLE pair ALTER name TYPE text COLLATE "C";
    ALTER TABLE pair_name ALTER reversed_name TYPE text COLLATE "C";
    DROP INDEX ux_certificate_serial_issuer;
    CREATE UNIQUE INDEX ux_certificate_serial_issuer ON certificate (serial, issuer_hash) INCLUDE (id, pair_id, ca);
"""


def test_the_migrations_build_the_tables_to_the_letter(store: Store, another_url: str) -> None:
    migrations.upgrade(store)
    with opened(another_url) as direct:
        with direct.write() as tx:
            metadata.create_all(tx.connection)
            if direct.dialect == "postgresql":
                tx.execute(text(_ON_POSTGRESQL_ALONE))
        expected = definitions(direct)
    built = definitions(store)
    assert built.keys() == expected.keys()
    assert built == expected
    if store.dialect == "sqlite":
        assert "AUTOINCREMENT" in built["table", "work"]
    else:
        assert "fillfactor=50" in built["table", "pair_state"]


def test_every_index_has_a_name_of_ours() -> None:
    for table in metadata.tables.values():
        for index in table.indexes:
            assert index.name is not None
            assert str(index.name).startswith(("ix_", "ux_"))


def test_there_are_no_foreign_keys_and_no_triggers(store: Store) -> None:
    migrations.upgrade(store)
    assert [sql for sql in definitions(store).values() if "REFERENCES" in sql or "TRIGGER" in sql] == []
    if store.dialect == "postgresql":
        with store.read() as tx:
            assert tx.execute(text("SELECT tgname FROM pg_trigger")).all() == []


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


def test_down_to_nothing_and_up_again(store: Store) -> None:
    migrations.upgrade(store)
    first = definitions(store)
    run(store, "base")
    assert {name for kind, name in definitions(store) if kind == "table"} <= {"sqlite_sequence"}
    assert migrations.current(store) is None
    migrations.upgrade(store)
    assert definitions(store) == first


def test_an_upgrade_of_what_is_up_to_date_changes_nothing(store: Store) -> None:
    assert migrations.upgrade(store) == migrations.REVISION
    with store.write() as tx:
        events.record(tx, EventKind.CREATED, "kept")
    assert migrations.upgrade(store) == migrations.REVISION
    with store.read() as tx:
        assert events.last(tx) == 1


def test_several_that_upgrade_at_once_do_it_once(url: str) -> None:
    results: list[str | Exception] = []
    start = threading.Barrier(4)

    def upgrade() -> None:
        with opened(url) as store:
            start.wait()
            results.append(migrations.upgrade(store))

    threads = [threading.Thread(target=upgrade) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [migrations.REVISION] * 4


def test_an_upgrade_that_breaks_off_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert definitions(store) == {}
    assert migrations.current(store) is None
    assert migrations.upgrade(store) == migrations.REVISION


def test_how_a_target_was_first_seen_is_taken_over_for_what_incidents_have_promoted(store: Store) -> None:
    run(store, "0006")
    with store.write() as tx:
        for pair, at, left in ((1, 70, "wire"), (2, 70, "stored"), (3, 70, "wire"), (4, None, None)):
            row = {"pair": pair, "at": at, "how": f"seen by {left}"}
            deployed = (
                "INSERT INTO deployment (pair_id, target, epoch, certificate_id, arrived_at, verified_at) "
            )
            tx.execute(text(deployed + "VALUES (:pair, 'web', 1, 9, 50, :at)"), row)
            said = "INSERT INTO event (at, kind, actor, cause, pair_id, target, certificate_id) "
            for when, cause in ((70, ":how"), (90, "'seen by stored'")):
                values = f"VALUES ({when}, 'verified', 'me', {cause}, :pair, 'web', 9)"
                tx.execute(text(said + values), row)
            if pair != 3:
                planned = "INSERT INTO plan_row (incident_id, plan, pair_id, epoch, serving, action) "
                tx.execute(text(planned + "VALUES (1, 1, :pair, 0, 8, 'promote')"), row)

    migrations.upgrade(store)

    with store.read() as tx:
        found = tx.execute(text("SELECT how FROM deployment ORDER BY pair_id")).scalars().all()
    assert found == ["wire", "stored", None, None]


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
    store: Store, revision: str, word: str, remedy: str
) -> None:
    migrations.upgrade(store)
    migrations.require(store)
    pretend(store, revision)
    assert migrations.current(store) == revision
    with pytest.raises(DatabaseRevisionError, match=word) as caught:
        migrations.require(store)
    assert caught.value.remedy is not None
    assert remedy in caught.value.remedy


def test_a_newer_database_is_not_upgraded(store: Store) -> None:
    migrations.upgrade(store)
    before = definitions(store)
    pretend(store, "9999")
    with pytest.raises(DatabaseRevisionError, match="newer"):
        migrations.upgrade(store)
    assert definitions(store) == before


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

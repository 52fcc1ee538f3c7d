"""PostgreSQL for tests: one server per test process, and in it a migrated, empty database for each test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from dualcert.store import Store, migrations
from dualcert.store.incident_tables import seal
from dualcert.testing.clock import FakeClock
from tests import postgres
from tests.postgres import Postgres

_OTHERS_OUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
metadata = seal.metadata  # with these, it holds all tables
_EMPTY = "".join(f"DELETE FROM {name};" for name in metadata.tables)
_FROM_ONE = "SELECT setval(seqrelid, 1, false) FROM pg_sequence"
_TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[Postgres]:
    with postgres.running() as server:
        yield server


@pytest.fixture
def server(shared_postgres: Postgres) -> Iterator[Postgres]:
    """The server that the tests of this process share; whoever stops it need not start it again."""
    yield shared_postgres
    shared_postgres.start()


class Databases:
    """Databases for one test after another. To empty one takes 3 ms, to make one from a template 50."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._template = server.create()
        store = Store(server.url(self._template), FakeClock(), "tests")
        migrations.upgrade(store)
        store.close()
        self._used: tuple[str, psycopg.Connection[Any]] | None = None

    def fresh(self) -> str:
        """The name of a migrated database that nothing was ever in."""
        return self._server.create(self._template)

    def take(self) -> str:
        """The name of a migrated, empty one."""
        used, self._used = self._used, None
        if used is None or not self._emptied(*used):
            name = self.fresh()
            used = name, self._server.connect(name)
        self._used = used
        return used[0]

    def _emptied(self, name: str, connection: psycopg.Connection[Any]) -> bool:
        """False where a test has changed the tables, or has stopped the server: then it is dropped."""
        try:
            connection.execute(_OTHERS_OUT)
            tables = {table for (table,) in connection.execute(_TABLES)}
            if tables == {*metadata.tables, "alembic_version"}:
                connection.execute(_EMPTY.encode())
                connection.execute(_FROM_ONE)
                return True
        except psycopg.OperationalError:
            pass
        connection.close()
        self._server.drop(name)
        return False

    def close(self) -> None:
        if self._used is not None:
            self._used[1].close()


@pytest.fixture(scope="session")
def databases(shared_postgres: Postgres) -> Iterator[Databases]:
    found = Databases(shared_postgres)
    yield found
    found.close()


@pytest.fixture
def on_postgres(server: Postgres, databases: Databases) -> str:
    """The URL of a migrated, empty database that is this test's alone."""
    return server.url(databases.take())


@pytest.fixture
def fresh_postgres(server: Postgres, databases: Databases) -> Iterator[str]:
    """The same, and nothing was ever in it: for a test that looks at what the server counts or plans, which goes by how
    many pages a table has and by what was learnt of its rows. Neither ends with the rows."""
    name = databases.fresh()
    yield server.url(name)
    server.start()
    server.drop(name)


@pytest.fixture
def bare_postgres(server: Postgres) -> Iterator[str]:
    """The URL of a database without tables."""
    name = server.create()
    yield server.url(name)
    server.start()
    server.drop(name)

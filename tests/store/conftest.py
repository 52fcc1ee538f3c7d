"""A fresh database for each test: migrated once per session, then copied; on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dualcert.store import Store
from dualcert.testing.clock import FakeClock
from tests.revocations import Publisher, publishing
from tests.tinyca import TinyCa


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What uses a database runs on both; what asks for the file of one, or for a server, is about that one alone."""
    names = metafunc.fixturenames
    if "database_url" in names:
        only = "sqlite" if "database" in names else "postgresql" if "server" in names else None
        metafunc.parametrize("database_url", [only] if only else ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def database(template: Path, tmp_path: Path) -> Path:
    """The file of this test's own database, which is a SQLite one."""
    return Path(shutil.copy(template, tmp_path / "dualcert.db"))


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """Where this test's own database is."""
    if request.param == "sqlite":
        return f"sqlite:///{request.getfixturevalue('database')}"
    planned = request.node.get_closest_marker("plans") is not None
    return str(request.getfixturevalue("fresh_postgres" if planned else "on_postgres"))


@pytest.fixture
def store(database_url: str, clock: FakeClock) -> Iterator[Store]:
    opened = Store(database_url, clock, "tester")
    yield opened
    opened.close()


# --- what CAs say of what they have revoked ----------------------------------------------------------------


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as server:
        yield server


@pytest.fixture(scope="module")
def tiny() -> TinyCa:
    return TinyCa.make()

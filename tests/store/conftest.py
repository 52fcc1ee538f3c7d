"""A fresh database for each test: migrated once per session, then copied."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dualcert.store import Store, migrations
from dualcert.testing.clock import FakeClock


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database file that nobody has open."""
    file = tmp_path_factory.mktemp("template") / "dualcert.db"
    store = Store(f"sqlite:///{file}", FakeClock(), "tests")
    migrations.upgrade(store)
    store.close()
    return file


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def database(template: Path, tmp_path: Path) -> Path:
    """The file of this test's own database."""
    return Path(shutil.copy(template, tmp_path / "dualcert.db"))


@pytest.fixture
def store(database: Path, clock: FakeClock) -> Iterator[Store]:
    opened = Store(f"sqlite:///{database}", clock, "tester")
    yield opened
    opened.close()

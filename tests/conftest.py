"""Fixtures that all tests share."""

from __future__ import annotations

import gc
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dualcert.store import Store, migrations
from dualcert.testing.clock import FakeClock
from tests.program import Program

if TYPE_CHECKING:
    from tests.labfixture import ProjectLab

# Loaded as a plugin, so that its asserts are rewritten: nothing here may import it before.
pytest_plugins = ["tests.labfixture", "tests.postgresfixture"]


def pytest_configure() -> None:
    """What a script or `nohup` starts ignores these signals, and so would the programs that the tests interrupt."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


def pytest_collection_finish() -> None:
    """What was imported stays: the collector need not go through it again for each test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database file that nobody has open."""
    file = tmp_path_factory.mktemp("template") / "dualcert.db"
    file.touch(0o600)  # as dualcert makes it
    store = Store(f"sqlite:///{file}", FakeClock(), "tests")
    migrations.upgrade(store)
    store.close()
    return file


@pytest.fixture
def program(lab: ProjectLab, template: Path, request: pytest.FixtureRequest) -> Program:
    """dualcert over the test's own project, its database made: on SQLite, or where the parameter says."""
    ready = Program(lab.config_path)
    if getattr(request, "param", "sqlite") == "postgresql":
        ready.move_to(request.getfixturevalue("on_postgres"))
    else:
        shutil.copy(template, lab.config_path.parent)  # takes a hundredth of what the migrations take
    ready.done("init")
    return ready

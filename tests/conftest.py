"""Fixtures that all tests share."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.program import Program

if TYPE_CHECKING:
    from tests.labfixture import ProjectLab

# Loaded as a plugin, so that its asserts are rewritten: nothing here may import it before.
pytest_plugins = ["tests.labfixture", "tests.postgresfixture"]


def pytest_configure() -> None:
    """What a script starts in the background ignores SIGINT, and so would the programs that the tests interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def program(lab: ProjectLab, request: pytest.FixtureRequest) -> Program:
    """dualcert over the test's own project, its database made: on SQLite, or where the parameter says."""
    ready = Program(lab.config_path)
    if getattr(request, "param", "sqlite") == "postgresql":
        ready.move_to(request.getfixturevalue("on_postgres"))
    ready.done("init")
    return ready

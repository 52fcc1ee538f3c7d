"""Fixtures that all tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.program import Program

if TYPE_CHECKING:
    from tests.labfixture import ProjectLab

# Loaded as a plugin, so that its asserts are rewritten: nothing here may import it before.
pytest_plugins = ["tests.labfixture"]


@pytest.fixture
def program(lab: ProjectLab) -> Program:
    """dualcert over the test's own project, its database made."""
    ready = Program(lab.config_path)
    ready.done("init")
    return ready

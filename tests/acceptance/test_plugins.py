"""Plugins that other distributions bring."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.program import Program, Result, finish

_MODULE = """
from dualcert.plugins.keys.file import FileKeyProtector


class Vault(FileKeyProtector):
    pass
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder in which a distribution with a protector is installed."""
    (tmp_path / "vaults.py").write_text(_MODULE)
    about = tmp_path / "vaults-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: vaults\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[dualcert.key_protectors]\nvault = vaults:Vault\n")
    return tmp_path


def listed_with(program: Program, protector: str, elsewhere: Path) -> Result:
    """What `list` comes to where the backup's keys are kept by this protector."""
    before, backup, after = program.config.read_text().partition("[keys.backup]\n")
    after = after.replace('protector = "file"', f'protector = "{protector}"', 1)
    program.config.write_text(before + backup + after)
    return finish(program.start("list", environment={"PYTHONPATH": str(elsewhere)}))


def test_a_plugin_of_another_distribution_is_used_beside_a_built_in_one(
    program: Program, elsewhere: Path
) -> None:
    assert listed_with(program, "vault", elsewhere).status == 0


def test_a_plugin_that_nobody_brings_is_refused_with_those_that_there_are(
    program: Program, elsewhere: Path
) -> None:
    refused = listed_with(program, "safe", elsewhere)
    assert refused.status == 2
    assert "'safe', which is not installed" in refused.err
    assert "There is: file, vault." in refused.err

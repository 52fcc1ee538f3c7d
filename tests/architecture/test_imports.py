"""What importing the command line may cost."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"acme", "alembic", "dns", "josepy", "pydantic", "requests", "rich", "sqlalchemy", "urllib3"}


def top_level_modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import dualcert.cli", "import dualcert"])
def test_importing_brings_in_nothing_heavy(statement: str) -> None:
    assert top_level_modules_after(statement) & HEAVY == set()


def test_the_look_at_a_fresh_interpreter_sees_a_heavy_module() -> None:
    assert top_level_modules_after("import rich") & HEAVY == {"rich"}

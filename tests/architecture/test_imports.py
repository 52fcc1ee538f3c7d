"""What importing the command line, and what a command needs, may cost."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"acme", "alembic", "dns", "josepy", "pydantic", "requests", "rich", "sqlalchemy", "urllib3"}

# What `list` works with, and what it does not: a class that is made takes as long as hundreds of lines that are listed.
LISTING = "import dualcert.bootstrap, dualcert.lifecycle.listing"
NOT_FOR_A_LIST = {
    "difflib",
    "dualcert.model.events",
    "dualcert.model.incident",
    "dualcert.model.work",
    "dualcert.policy.backoff",
    "dualcert.policy.due",
    "dualcert.store.incident_tables",
    "dualcert.store.promotion",
    "sqlalchemy",
}


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def top_level_modules_after(statement: str) -> set[str]:
    return {name.partition(".")[0] for name in modules_after(statement)}


@pytest.mark.parametrize("statement", ["import dualcert.cli", "import dualcert"])
def test_importing_brings_in_nothing_heavy(statement: str) -> None:
    assert top_level_modules_after(statement) & HEAVY == set()


def test_the_look_at_a_fresh_interpreter_sees_a_heavy_module() -> None:
    assert top_level_modules_after("import rich") & HEAVY == {"rich"}


def test_a_list_brings_in_no_classes_that_it_has_no_use_for() -> None:
    assert modules_after(LISTING) & NOT_FOR_A_LIST == set()

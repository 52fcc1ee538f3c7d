"""What importing the command line, and what a command needs, may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.tree import modules, named

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


def test_the_tables_bring_in_no_dialect_that_may_not_be_used() -> None:
    assert "sqlalchemy.dialects.postgresql" not in modules_after("import dualcert.store.tables")


# --- in several threads ----------------------------------------------------------------------------------


def imported_late(file: Path) -> Iterator[tuple[str, str]]:
    """What functions import of other packages of ours, and from which package that is."""
    mine = named(file).rpartition("/")[0].replace("/", ".")
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node not in tree.body:
            package = node.module.rpartition(".")[0]
            if package.startswith("dualcert.") and not f"{mine}.".startswith(f"{package}."):
                yield node.module, package


def test_no_function_imports_a_part_of_a_package_that_imports_that_part_itself() -> None:
    """One thread that imports the package, and one that imports its part, would wait for each other: Python notices,
    and gives one of them an error. A command line has one thread."""
    late = {
        (named(file), *found)
        for file in modules("dualcert")
        if named(file).split("/")[1] not in {"cli", "lab", "testing"}
        for found in imported_late(file)
    }
    parts = {package: modules_after(f"import {package}") for _, _, package in late}
    assert [one for one in sorted(late) if one[1] in parts[one[2]]] == []

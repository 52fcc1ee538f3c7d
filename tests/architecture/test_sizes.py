"""Modules and functions stay small; an exception is listed here with its reason."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.architecture.tree import ROOT, modules, named

LONGEST_MODULE = 400
LONGEST_FUNCTION = 50

LONG_MODULES: dict[str, str] = {
    "dualcert/store/tables.py": "one table after another, and nothing else",
}
LONG_FUNCTIONS: dict[str, str] = {}


def lengths_of_functions(file: Path) -> dict[str, int]:
    """`path::name` to lines, from `def` to the last statement."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            found[f"{named(file)}::{node.name}"] = max(length, found.get(f"{named(file)}::{node.name}", 0))
    return found


def test_no_module_is_longer_than_400_lines_without_a_reason() -> None:
    lengths = {
        named(file): len(file.read_text().splitlines()) for file in modules("dualcert", "migrations", "bench")
    }
    long = {name: lines for name, lines in lengths.items() if lines > LONGEST_MODULE}
    assert long.keys() == LONG_MODULES.keys(), long


def test_no_function_is_longer_than_50_lines_without_a_reason() -> None:
    lengths: dict[str, int] = {}
    for file in modules("dualcert", "bench"):
        lengths |= lengths_of_functions(file)
    long = {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION}
    assert long.keys() == LONG_FUNCTIONS.keys(), long


def test_the_measure_counts_lines() -> None:
    this = Path(__file__)
    assert lengths_of_functions(this)[f"{this.relative_to(ROOT).as_posix()}::lengths_of_functions"] == 8

"""The file that a run of the bench leaves: what other programs read of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.results import Goal, Result, result, table, write

FIELDS = ["name", "value", "unit", "against", "ratio", "goal", "met"]


@pytest.fixture
def some() -> list[Result]:
    return [
        result("a", 12.0, "ms", against=("b", 8.0), goal=Goal.at_most(12.0 / 8.0, 1.5, "x")),
        result("c", 0.3, "s", goal=Goal.at_most(0.3, 0.15, "s")),
        result("only told", 7, "pairs/s"),
    ]


def test_every_line_has_the_same_fields_in_the_same_order(some: list[Result], tmp_path: Path) -> None:
    write(some, tmp_path / "results.json")

    lines = json.loads((tmp_path / "results.json").read_text())
    assert [list(line) for line in lines] == [FIELDS] * 3
    assert lines[0] == {
        "name": "a",
        "value": 12.0,
        "unit": "ms",
        "against": "b: 8 ms",
        "ratio": 1.5,
        "goal": "<= 1.5 x",
        "met": True,
    }
    assert (lines[1]["against"], lines[1]["ratio"], lines[1]["met"]) == (None, None, False)
    assert (lines[2]["goal"], lines[2]["met"]) == (None, None)


def test_two_goals_are_met_together_or_not_at_all() -> None:
    both = Goal.at_most(0.4, 1, "s").and_also(Goal.at_most(0.6, 0.5, "x"))
    assert (both.text, both.met) == ("<= 1 s and <= 0.5 x", False)
    assert Goal.at_least(70.0, 70, "%").met


def test_the_table_says_what_was_missed(some: list[Result]) -> None:
    lines = table(some).splitlines()
    assert lines[1].split()[-4:] == ["<=", "1.5", "x", "yes"]
    assert lines[2].split()[-4:] == ["<=", "0.15", "s", "NO"]

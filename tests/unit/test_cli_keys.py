"""What a person at a terminal sees of a rotation."""

from __future__ import annotations

import sys

import pytest

from dualcert.cli import keys as command
from dualcert.lifecycle import rewrapping
from dualcert.lifecycle.rewrapping import Problem, Progress, Rotation, Wish
from tests.program import Program


@pytest.fixture
def watched(program: Program, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Somebody watches, and the rotation has much to do."""

    def rotate(world: object, domain: str, wish: Wish, progress: Progress) -> Rotation:
        progress(1000, 3000)
        problems = tuple(Problem(f"p{number}.example", "alpha", "ab" * 32, "why") for number in range(30))
        return Rotation(domain, "now", True, 2970, 30, problems, (), ())

    monkeypatch.setattr(rewrapping, "rotate", rotate)
    monkeypatch.setattr(command, "_watched", lambda context: not context.json)
    return program


def test_how_far_it_is_stands_on_one_line(watched: Program) -> None:
    result = watched.run("keys", "rotate", "primary")
    assert "\r  primary: 1000 of 3000 keys\n" in result.err
    assert "\r" not in result.out


def test_not_every_one_of_many_problems_is_told_to_a_person(watched: Program) -> None:
    result = watched.run("keys", "rotate", "primary")
    assert result.status == 3
    assert result.err.count(".example, CA alpha, ") == 20
    assert "30 keys could not be wrapped anew" in result.err
    in_json = watched.run("keys", "rotate", "primary", "--json")
    assert len(in_json.json["problems"]) == 30
    assert in_json.err == ""


def test_in_a_pipe_nothing_is_counted(program: Program) -> None:
    assert not sys.stderr.isatty()
    assert program.done("keys", "rotate", "primary").err == ""

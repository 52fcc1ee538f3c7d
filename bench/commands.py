"""Whole commands, from the start of their process to its end."""

from __future__ import annotations

import sys

from bench.inventory import Made, fill
from bench.issuance import fresh_name
from bench.lego import Lego
from bench.results import Goal, Result, result
from bench.stage import Stage, dualcert, in_turns, run, seconds

PAIRS = 10_000
_NOTHING = [sys.executable, "-c", "pass"]


def issue(stage: Stage, rounds: int) -> list[Result]:
    """Two certificates, deployed and seen, against one of lego's, left in a folder."""
    lego = Lego(stage, stage.folder / "lego-issue")
    with stage.project("whole") as project:
        lego.obtain(fresh_name("first"))
        run(project.command("issue", fresh_name("first")))
        mine, theirs = in_turns(
            rounds,
            lambda _: seconds(lambda: run(project.command("issue", fresh_name("whole")))),
            lambda _: seconds(lambda: lego.obtain(fresh_name("lego"))),
        )
    against = ("lego, one certificate", theirs)
    goal = Goal.at_most(mine / theirs, 0.5, "x")
    return [result("one pair, whole command", mine, "s", against=against, goal=goal)]


def small(stage: Stage, rounds: int) -> list[Result]:
    """``--help``, and a long ``list`` into a pipe, against an interpreter that does nothing."""
    with stage.project("many") as project:
        with project.application() as application:
            fill(application, Made(PAIRS))
        listed = project.command("list")
        if run(listed).stdout.count(b"\n") != PAIRS + 1:
            raise RuntimeError("the list is not whole")
        sides = [[*dualcert(), "--help"], listed, [*listed, "--json"], _NOTHING]
        helped, table, lines, nothing = in_turns(
            rounds, *(lambda _, command=command: seconds(lambda: run(command)) for command in sides)
        )
    against = ("python -c pass", nothing)
    more = {
        name: Goal(f"<= 0.6 s more than {against[0]}", took - nothing <= 0.6)
        for name, took in (("table", table), ("lines", lines))
    }
    return [
        result("--help", helped, "s", against=against, goal=Goal.at_most(helped, 0.15, "s")),
        result(f"list of {PAIRS:,} pairs into a pipe", table, "s", against=against, goal=more["table"]),
        result("  the same with --json", lines, "s", against=against),
    ]

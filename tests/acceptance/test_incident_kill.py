"""kill -9 in the middle of a mass promotion: the same command goes on, and every pair turns once."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from tests.faults import AFTER, BEFORE, Death, Nursery, Point
from tests.labfixture import ProjectLab
from tests.program import Program

COUNT = 5


@pytest.mark.parametrize("side", [BEFORE, AFTER])
@pytest.mark.parametrize(
    "point",
    [
        Point("commit main: running.run", 1),
        Point("commit main: running._promote", 1),
        Point("commit main: running._promote", 2),
        Point("commit main: running._see_all", 1),
        Point("commit main: running._see_all", 2),
        Point("target web: deploy", 1),
        Point("target web: purge", 1),
        Point("commit main: running.carry_out", 1),
    ],
    ids=str,
)
def test_a_run_that_was_killed_is_finished_by_the_same_command(
    lab: ProjectLab, program: Program, nursery: Nursery, point: Point, side: str, tmp_path: Path
) -> None:
    names = [f"k{number}.{lab.domain}" for number in range(COUNT)]
    for name in names:
        program.done("issue", name)
    wanted = {name: program.show(name)["backup"]["certificate"]["sha256"] for name in names}
    program.done("incident", "open", "--title", "a test", "--within", "24h", "--ca", "alpha")
    digest = program.done("incident", "plan", "1", "--json").json["plan"]
    command = ("incident", "run", "1", "--plan", digest, "--waves", "20%,100%", "--json")

    life = nursery.run(lab.config_path, *command, death=Death(point, side))
    assert life.killed, life

    result = program.run(*command)
    assert result.status == 0, result
    assert (result.json["promoted"], result.json["observed"], result.json["skipped"]) == (COUNT, COUNT, 0)
    assert {name: hashlib.sha256(lab.handshake(name)).hexdigest() for name in names} == wanted
    told = program.done("events", "--json").lines
    assert Counter(one["pair"] for one in told if one["kind"] == "promoted") == dict.fromkeys(names, 1)
    assert {program.show(name)["epoch"] for name in names} == {1}


@pytest.mark.parametrize("point", ["opening.close", "opening._trust_again", "refills._release"])
def test_closing_that_was_killed_is_finished_by_the_same_command(
    lab: ProjectLab, program: Program, nursery: Nursery, point: str
) -> None:
    name = f"c.{lab.domain}"
    program.done("issue", name)
    program.done("incident", "open", "--title", "a test", "--within", "24h", "--ca", "beta")
    digest = program.done("incident", "plan", "1", "--json").json["plan"]
    program.done("incident", "run", "1", "--plan", digest)
    assert program.show(name)["protection"] == "unprotected"

    life = nursery.run(
        lab.config_path, "incident", "close", "1", death=Death(Point(f"commit main: {point}", 1), AFTER)
    )
    assert life.killed, life
    program.done("incident", "close", "1")

    assert program.show(name)["protection"] == "protected"
    assert program.done("incident", "status", "1", "--json").json["refills_held_at"] == []
    assert program.done("renew", "--due").out.startswith("1 step was due")
    assert program.run("incident", "close", "1").status == 4

"""The database goes away in the middle of a wave: no pair is promoted twice, none is left out."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from tests.acceptance.test_outage import SHORT, Scene, at, on_postgresql, struck
from tests.faults import AFTER, BEFORE, UNHEARD, Death

__all__ = ["on_postgresql"]

COUNT = 4


@pytest.mark.parametrize(
    "point",
    [
        at(BEFORE, "commit main: running._promote", 1),
        at(AFTER, "commit main: running._promote", 2),
        at(AFTER, "files: rename", 2),
        at(BEFORE, "commit deploy: deployment._seen", 2),
        at(BEFORE, "commit main: running._see_all", 1),
        at(BEFORE, "commit main: running.carry_out", 1),
        at(AFTER, "commit main: running.carry_out", 1),
        at(UNHEARD, "commit main: running.run", 1),
        at(UNHEARD, "commit main: running._promote", 1),
        at(UNHEARD, "commit main: running._see_all", 1),
        at(UNHEARD, "commit main: running.carry_out", 1),
    ],
    ids=str,
)
def test_a_wave_waits_for_its_database_and_goes_on(on_postgresql: Scene, point: Death) -> None:
    scene, program = on_postgresql, on_postgresql.program
    names = [scene.new_pair() for _ in range(COUNT)]
    for name in names:
        program.done("issue", name)
    wanted = {name: program.show(name)["backup"]["certificate"]["sha256"] for name in names}
    program.done("incident", "open", "--title", "a test", "--within", "24h", "--ca", "alpha")
    digest = program.done("incident", "plan", "1", "--json").json["plan"]
    command = ("incident", "run", "1", "--plan", digest, "--waves", "50%,100%", "--json")

    life = scene.run(*command, at=point)

    assert life.status == 0, life
    assert "nothing was done" not in life.err
    assert struck(life, point)
    scene.was_told(life, point, SHORT)
    assert (life.json["promoted"], life.json["observed"], life.json["skipped"]) == (COUNT, COUNT, 0)
    assert {name: hashlib.sha256(scene.lab.handshake(name)).hexdigest() for name in names} == wanted
    assert program.run(*command).status == 0
    told = program.done("events", "--json").lines
    assert Counter(one["pair"] for one in told if one["kind"] == "promoted") == dict.fromkeys(names, 1)

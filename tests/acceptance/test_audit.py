"""The history is sealed, and what was done to it afterwards is found."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.labfixture import ProjectLab
from tests.program import Program


@pytest.fixture
def issued(lab: ProjectLab, program: Program) -> Program:
    program.done("issue", lab.domain)
    return program


def changed(lab: ProjectLab, statement: str) -> None:
    with closing(sqlite3.connect(lab.config_path.parent / "dualcert.db")) as database:
        database.execute(statement)
        database.commit()


def test_the_history_is_sealed_where_no_daemon_runs(issued: Program) -> None:
    first = issued.done("events", "--verify")
    assert first.out.startswith("nothing was sealed yet, ")
    again = issued.done("events", "--verify", "--json").json
    count = len(issued.done("events", "--json").lines)
    assert (again["ok"], again["head"]["last_id"], again["newer"], again["broken"]) == (True, count, 0, None)
    assert f"sealed to {count}, 0 newer" in issued.done("events", "--verify").out


def test_a_head_that_was_kept_convicts_whoever_sealed_anew(
    lab: ProjectLab, issued: Program, tmp_path: Path
) -> None:
    kept = tmp_path / "heads.jsonl"
    kept.write_text(issued.done("events", "--head").out)
    issued.done("failover", lab.domain)
    kept.write_text(kept.read_text() + issued.done("events", "--head").out)
    assert "2 of them were kept elsewhere" in issued.done("events", "--verify", "--against", str(kept)).out

    changed(lab, "UPDATE event SET actor = 'nobody' WHERE kind = 'promoted'")
    broken = issued.run("events", "--verify", "--json")
    assert (broken.status, broken.json["ok"]) == (1, False)
    assert broken.json["broken"].startswith("seal 2, events ")
    assert broken.json["head"]["no"] == 1

    changed(lab, "DELETE FROM seal WHERE no = 2")
    issued.done("events", "--head")
    issued.done("events", "--verify")
    found = issued.run("events", "--verify", "--against", str(kept))
    assert found.status == 1
    assert "kept elsewhere (line 2)" in found.out


def test_a_history_that_ends_too_early_is_noticed(lab: ProjectLab, issued: Program, tmp_path: Path) -> None:
    kept = tmp_path / "heads.jsonl"
    kept.write_text(issued.done("events", "--head").out)
    last = json.loads(kept.read_text())["last_id"]
    changed(lab, f"DELETE FROM event WHERE id = {last}")
    assert "were sealed, and there are" in issued.run("events", "--verify").out
    changed(lab, "DELETE FROM seal")
    issued.done("events", "--verify")
    found = issued.run("events", "--verify", "--against", str(kept))
    assert found.status == 1, found


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("events", "--verify", "--head"), "stand alone"),
        (("events", "--against", "x"), "belongs to --verify"),
        (("events", "--verify", "--against", "absent"), "cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_refused(program: Program, arguments: tuple[str, ...], says: str) -> None:
    refused = program.run(*arguments)
    assert refused.status == 2
    assert says in refused.err


def test_a_file_that_holds_no_heads_is_refused(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "heads"
    for text, says in (("", "holds no head"), ("{}\n", "line 1: this is not a head"), ("[1]\n", "line 1")):
        file.write_text(text)
        refused = program.run("events", "--verify", "--against", str(file))
        assert (refused.status, says in refused.err) == (2, True), refused


def test_an_empty_history_has_no_head(program: Program) -> None:
    empty = program.done("events", "--head")
    assert (empty.out, "nothing has happened yet" in empty.err) == ("", True)
    assert program.done("events", "--verify").out.startswith("nothing was sealed yet, 0 newer")

"""``dualcert list``: filters as they are typed."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing

import pytest

from tests.labfixture import ProjectLab
from tests.program import Program, Result
from tests.store.building import a_pair


@pytest.fixture
def name(lab: ProjectLab, program: Program) -> str:
    program.done("issue", lab.domain, f"*.{lab.domain}")
    program.run("issue", f"www.{lab.domain}", "--name", "web", "--timeout", "1")
    return lab.domain


def pairs(result: Result) -> list[str]:
    assert result.status == 0, result
    return [line["pair"] for line in result.lines]


def test_filters_are_combined(program: Program, name: str) -> None:
    assert pairs(program.run("list", "--json", "--under", name)) == sorted([name, "web"])
    assert pairs(program.run("list", "--json", "--under", f"WWW.{name}.")) == ["web"]
    assert pairs(program.run("list", "--json", "--under", "test")) == sorted([name, "web"])
    assert pairs(program.run("list", "--json", "--under", f"*.{name}", "--limit", "1", "--after", name)) == [
        "web"
    ]
    assert pairs(program.run("list", "--json", "--protection", "protected", "--under", f"www.{name}")) in (
        [],
        ["web"],
    )
    assert pairs(program.run("list", "--json", "--ca", "alpha", "--protection", "exposed")) == []
    assert name in pairs(
        program.run("list", "--json", "--expires-within", "4000d", "--protection", "protected")
    )
    assert pairs(program.run("list", "--json", "--expires-within", "1m")) == []


def test_a_line_for_people_says_the_same(program: Program, name: str) -> None:
    shown = program.done(
        "list", "--under", name, "--after", "a", "--protection", "protected"
    ).out.splitlines()
    pair = program.show(name)
    assert shown[0].split() == ["PAIR", "PROTECTION", "PRIMARY", "BACKUP", "EXPIRES"]
    [line] = [line for line in shown if line.split()[0] == name]
    assert line.split() == [
        name,
        "protected",
        "alpha:",
        "serving",
        "beta:",
        "ready",
        pair["primary"]["certificate"]["not_after"],
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ca", "nobody"], "[ca.nobody] is not configured"),
        (["--expires-within", "soon"], "--expires-within soon"),
        (["--under", "under_score.test"], "underscore"),
        (["--under", ""], "--under takes a name"),
        (["--protection", "safe"], "safe"),
    ],
)
def test_what_cannot_be_meant_is_refused(program: Program, options: list[str], said: str) -> None:
    for form in ([], ["--json"]):
        refused = program.run("list", *options, *form)
        assert refused.status == 2
        assert said in refused.err
        assert refused.out == "", "no title above nothing"


FILTERS = [
    [],
    ["--ca", "alpha"],
    ["--under", "test"],
    ["--ca", "alpha", "--under", "test"],
    ["--expires-within", "4000d"],
    ["--ca", "alpha", "--expires-within", "4000d", "--under", "test", "--protection", "protected"],
]


@pytest.mark.parametrize("program", ["sqlite", "postgresql"], indirect=True)
def test_a_list_is_there_before_sqlalchemy_would_be_imported(program: Program, name: str) -> None:
    """As a table and as JSON; with a pair that has nothing yet, of which the steps under way are told."""
    with closing(program.application()) as application, application.world.store.write() as tx:
        a_pair(tx, f"empty.{name}", cas=("alpha", "beta"))
    code = "import sys; from dualcert.cli import main; main(); print('sqlalchemy' in sys.modules, file=sys.stderr)"
    for options in FILTERS:
        for form in ([], ["--json"]):
            done = subprocess.run(
                [sys.executable, "-c", code, "--config", str(program.config), "list", *options, *form],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.stderr == "False\n"
            assert name in done.stdout
            assert (f"empty.{name}" in done.stdout) is ("--expires-within" not in options)

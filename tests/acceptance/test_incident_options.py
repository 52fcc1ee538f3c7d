"""Options of an incident that cannot be meant: they are refused whatever else is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.test_incident import a_file, open_incident, plan
from tests.program import Program


@pytest.mark.parametrize(
    "arguments",
    [
        ("--rate", "0/s"),
        ("--rate", "0"),
        ("--rate", f"{10**9}/s"),
        ("--rate", f"{'9' * 20}/s"),
        ("--rate", "fast"),
        ("--rate", "-1/s"),
        ("--waves", "10%"),
        ("--waves", "50%,10%,100%"),
        ("--waves", "all"),
        ("--max-failures", "many"),
        ("--max-drift", "101%"),
    ],
)
def test_a_plan_is_carried_out_at_no_rate_and_in_no_waves_that_are_none(
    program: Program, arguments: tuple[str, str]
) -> None:
    open_incident(program, "--issuer", "nobody of that name")
    digest = plan(program)["plan"]

    result = program.run("incident", "run", "1", "--plan", digest, *arguments)

    assert result.status == 2, result
    assert f"{arguments[0]} {arguments[1]}: " in result.err
    assert program.done("incident", "status", "1", "--json").json["run"] is None
    assert program.run("incident", "run", "1", "--plan", digest).status == 0


@pytest.mark.parametrize("option", ["--serials", "--names"])
def test_a_time_of_issuance_narrows_no_file(program: Program, tmp_path: Path, option: str) -> None:
    path = a_file(tmp_path, "deadbeef")
    between = ("--issued-between", "2026-01-01", "2026-02-01")

    result = program.run(
        *("incident", "open", "--title", "a test", "--within", "24h", option, path, "--ca", "alpha"), *between
    )

    assert result.status == 2, result
    assert f"--issued-between does not go with {option}" in result.err
    assert program.done("incident", "list", "--json").lines == []

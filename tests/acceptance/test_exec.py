"""A pair whose DNS and whose target are programs of the user's own, those of the guide."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conformance.exec_examples import example, write_program
from tests.labfixture import ProjectLab
from tests.program import Program


def with_programs(lab: ProjectLab, directory: Path) -> str:
    """The lab's configuration, with two tables replaced. Paths are relative to it."""
    programs = directory / "bin"
    programs.mkdir()
    for name in ("txt-update", "put-pem"):
        write_program(programs / name, example(name))
    key = directory / "corp.tsig"
    key.touch(mode=0o600)
    key.write_text(f"{lab.bind.tsig_name} hmac-sha256 {lab.bind.tsig_secret}\n")
    dns = f"{lab.bind.address}:{lab.bind.port}"
    tables = f"""[dns.lab]
provider = "exec"
program = "bin/txt-update"
arguments = ["{lab.bind.address}", "{lab.bind.port}", "{key}"]
resolver = ["{dns}"]
nameservers = ["{dns}"]

[target.web]
deployer = "exec"
program = "bin/put-pem"
arguments = ["{directory / "pem"}"]
lock = "web.lock"

"""
    return re.sub(
        r"\[dns\.lab\].*(?=\[defaults\])", lambda _: tables, lab.config_path.read_text(), flags=re.DOTALL
    )


@pytest.fixture
def own(lab: ProjectLab) -> Program:
    lab.config_path.write_text(with_programs(lab, lab.config_path.parent))
    program = Program(lab.config_path)
    program.done("init")
    return program


def test_a_pair_is_issued_fails_over_and_leaves_no_key_or_value_behind(lab: ProjectLab, own: Program) -> None:
    name, folder = lab.domain, lab.config_path.parent
    issued = own.done("issue", name, f"*.{name}", "--json").json
    assert issued["protection"] == "protected"
    assert issued["targets"][0]["observed_sha256"] == issued["primary"]["certificate"]["sha256"]
    first = (folder / "pem" / f"{name}.pem").read_text()
    assert lab.leftovers() == {}

    own.done("failover", name)
    after = own.show(name)
    assert after["primary"]["ca"] == "beta"
    assert after["targets"][0]["observed_sha256"] == after["primary"]["certificate"]["sha256"]
    second = (folder / "pem" / f"{name}.pem").read_text()
    assert '"epoch": 1' in second.splitlines()[0]
    assert second.count("PRIVATE KEY") == first.count("PRIVATE KEY") == 2
    assert [path.name for path in (folder / "pem").iterdir()] == [f"{name}.pem"]


def test_what_a_program_says_reaches_whoever_typed_the_command(lab: ProjectLab, own: Program) -> None:
    program = lab.config_path.parent / "bin" / "txt-update"
    program.write_text('#!/bin/sh\necho "the account is closed" >&2\nexit 7\n')

    result = own.run("issue", lab.domain, "--timeout", "1")

    assert result.status in {1, 3}
    assert "the account is closed" in result.err
    assert lab.domain in result.err
    assert "Traceback" not in result.err

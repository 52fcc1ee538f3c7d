"""The README is true: its commands are run, what it shows is compared, its tables are held against the program."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import certifi
import click
import pytest

from dualcert import bootstrap, errors
from dualcert.cli.commands import COMMANDS
from dualcert.cli.commands import dualcert as program_group
from dualcert.lab import Lab
from tests.architecture.tree import ROOT
from tests.program import Program

README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A command of a ``console`` block, and the output shown below it (none: it is not compared)."""

    command: str
    shown: tuple[str, ...]


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(README) if kind == language]


def examples() -> Iterator[Example]:
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            yield Example(command, tuple(shown))


def without_chance(line: str) -> str:
    """The line without what is another one at each run: serials, times, durations, the width of columns."""
    line = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", line)
    line = re.sub(r"\b[0-9a-f]{6,40}\b", "SERIAL", line)
    line = re.sub(r"\b\d+\.\d+ s\b", "SECONDS", line)
    return " ".join(line.split())


@pytest.fixture
def shell(tmp_path: Path) -> Path:
    """A folder to type in, with `dualcert` on PATH."""
    folder = tmp_path / "shell"
    (folder / "bin").mkdir(parents=True)
    shim = folder / "bin" / "dualcert"
    shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m dualcert.cli "$@"\n')
    shim.chmod(0o755)
    return folder


def typed(shell: Path, command: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{shell / 'bin'}:{os.environ['PATH']}"}
    environment.pop("DUALCERT_CONFIG", None)
    if config is not None:
        environment["DUALCERT_CONFIG"] = str(config)
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=shell,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_commands_of_every_day_do_what_is_shown(shell: Path, lab: Lab, program: Program) -> None:
    def ours(text: str) -> str:
        return text.replace("example.com", lab.domain)

    first = next(line for block in blocks("sh") for line in block.splitlines() if " issue " in line)
    issued = typed(shell, ours(first), program.config)
    assert issued.returncode == 0, issued

    for example in examples():
        done = typed(shell, ours(example.command), program.config)
        assert done.returncode == 0, (example, done)
        if example.shown:
            said = [without_chance(line) for line in done.stdout.splitlines()]
            assert said == [without_chance(ours(line)) for line in example.shown], done
    assert (shell / "copy" / "fullchain.pem").is_file()


def test_who_forgot_to_revoke_is_told_how_and_need_not_fail_over_again(lab: Lab, program: Program) -> None:
    program.done("issue", lab.domain)
    program.done("failover", lab.domain)

    refused = program.run("failover", lab.domain, "--revoke")

    assert refused.status == errors.EXIT_REFUSED
    told = re.search(r"dualcert (failover .* --revoke)$", refused.err, re.MULTILINE)
    assert told is not None, refused
    program.done(*told[1].split())
    shown = program.show(lab.domain)
    assert (shown["epoch"], shown["primary"]["ca"], shown["backup"]["state"]) == (1, "beta", "revoked")


def test_there_is_something_to_compare() -> None:
    commands = [example.command.split()[1] for example in examples()]
    assert {"list", "show", "events", "failover", "renew", "revoke", "export"} <= set(commands)
    assert sum(1 for example in examples() if example.shown) >= 5
    assert without_chance("alpha, serial 087308087c4b2513: seen after 0.231 s") == (
        "alpha, serial SERIAL: seen after SECONDS"
    )


def test_init_twice_with_the_lines_edited_makes_keys_and_database(shell: Path) -> None:
    first = typed(shell, "dualcert init")
    assert first.returncode == 0, first
    config = shell / "dualcert.toml"
    config.write_text(edited(config.read_text(), shell))

    second = typed(shell, "dualcert init")
    assert second.returncode == 0, second
    assert (shell / "keys" / "primary.kek").is_file()
    assert (shell / "keys" / "backup.kek").is_file()
    assert typed(shell, "dualcert list").returncode == 0


def edited(template: str, folder: Path) -> str:
    """The template as somebody leaves it who has filled in the marked lines."""
    for name in ("google.hmac", "tsig.key"):
        (folder / name).write_text("c2VjcmV0\n")
        (folder / name).chmod(0o600)
    for name in ("letsencrypt-staging-roots.pem", "google-staging-roots.pem"):
        (folder / name).write_text(Path(certifi.where()).read_text())
    return template.replace("terms_agreed = false", "terms_agreed = true").replace('kid = ""', 'kid = "mine"')


def test_the_tables_for_production_fit_into_the_file_that_init_writes(shell: Path) -> None:
    typed(shell, "dualcert init")
    [production] = [block for block in blocks("toml") if "[ca.letsencrypt]" in block]
    [target] = [block for block in blocks("toml") if "[target.web]" in block]
    template = edited((shell / "dualcert.toml").read_text(), shell)
    for directory in re.findall(r'^directory = "(.*)"$', production, re.MULTILINE):
        assert f'# production: "{directory}"' in template
    tables = re.split(r"(?=^\[)", template, flags=re.MULTILINE)
    kept = [table for table in tables if not table.startswith(("[ca.", "[target."))]
    (shell / "dualcert.toml").write_text("\n".join([*kept, production, target]))

    settings = bootstrap.load_settings(shell / "dualcert.toml")

    assert settings.ca["letsencrypt"].trust_roots is None
    assert settings.ca["google"].eab is not None
    assert settings.target["web"].endpoint == ("127.0.0.1:443",)
    assert typed(shell, "dualcert init").returncode == 0


def test_two_cas_of_one_operator_are_refused_as_it_says(shell: Path) -> None:
    typed(shell, "dualcert init")
    config = shell / "dualcert.toml"
    text = edited(config.read_text(), shell)
    for ca in ("letsencrypt", "google"):
        text = text.replace(f"[ca.{ca}]\n", f'[ca.{ca}]\noperator = "sectigo"\n')
    config.write_text(text)
    typed(shell, "dualcert init")

    refused = typed(shell, "dualcert issue example.com")

    assert refused.returncode == errors.EXIT_USAGE, refused
    assert "letsencrypt and google have one operator" in refused.stderr


# --- the tables -------------------------------------------------------------------------------------------


def table_after(heading: str) -> list[list[str]]:
    lines = README.partition(heading)[2].partition("|---")[2].partition("\n")[2].splitlines()
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def command_of(words: str) -> click.Command:
    """`db upgrade` as click knows it."""
    context = click.Context(program_group)
    command: Any = program_group
    for word in words.split():
        command = command.get_command(context, word)
        assert command is not None, words
    assert isinstance(command, click.Command)
    return command


def described() -> dict[str, str]:
    """Each command of the table (`db upgrade`) to what its row says."""
    found = {}
    for first, does in table_after("## Commands"):
        for usage in re.findall(r"`([^`]+)`", first):
            found[" ".join(re.findall(r"\b[a-z]+\b", usage))] = f"{usage} {does}"
    return found


def test_the_table_lists_the_commands_that_help_lists_in_its_order() -> None:
    expected = []
    for name in COMMANDS:
        command = command_of(name)
        expected += (
            [f"{name} {sub}" for sub in command.commands] if isinstance(command, click.Group) else [name]
        )
    assert sorted(described()) == sorted(expected)
    assert list(dict.fromkeys(words.split()[0] for words in described())) == list(COMMANDS)


def test_every_option_in_the_table_is_one_of_its_command() -> None:
    for words, said in described().items():
        known = {option for parameter in command_of(words).params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", said)) <= known, words


def test_every_option_of_a_command_is_in_the_table_but_time_limits_and_shared_ones() -> None:
    shared = {"--config", "--json", "--verbose", "--log-format", "--timeout"}
    for words, said in described().items():
        own = {
            option for parameter in command_of(words).params for option in parameter.opts if "--" in option
        }
        assert own - shared <= set(re.findall(r"--[a-z-]+", said)), words


def test_every_exit_status_is_explained() -> None:
    known = {getattr(errors, name) for name in dir(errors) if name.startswith("EXIT_")}
    assert {
        int(row[0]) for row in table_after("| exit status") or table_after("whichever comes first.")
    } == known


# --- what it points to ------------------------------------------------------------------------------------


def test_its_links_and_pictures_are_there() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert "docs/two-certificates.svg" in targets
    assert [target for target in targets if not (ROOT / target).is_file()] == []
    for picture in (ROOT / "docs").glob("*.svg"):
        assert ET.parse(picture).getroot().tag.endswith("svg")


def test_its_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    inline = re.findall(r"`([^`]+)`", BLOCK.sub("", README))
    named = set(re.findall(r"\bmake ([a-z-]+)\b", "\n".join([*blocks("sh"), *inline])))
    assert {"demo", "test", "setup"} <= named
    assert [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_it_is_what_the_package_shows_and_the_changelog_names_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["readme"] == "README.md"
    assert f"## [Unreleased]: {project['version']}" in (ROOT / "CHANGELOG.md").read_text()

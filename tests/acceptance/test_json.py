"""What ``docs/json.md`` says of ``--json`` is what commands print: every key, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.labfixture import ProjectLab
from tests.program import REPOSITORY, Program

PAGE = (REPOSITORY / "docs" / "json.md").read_text()
EXAMPLES = [
    json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
]
ROWS = dict(re.findall(r"^\| (`.*?) \| (`.*) \|$", PAGE[PAGE.index("## Everything else") :], re.MULTILINE))


def told(command: str) -> list[str]:
    """The keys that the table tells of a command, those inside of others after them."""
    [keys] = [keys for commands, keys in ROWS.items() if f"`{command}`" in commands]
    return re.findall(r"`(\w+)`", keys)


def keys(value: Any) -> Iterator[str]:
    """All keys in their order; of a list's elements those of the first."""
    if isinstance(value, list):
        yield from keys(value[0] if value else None)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys(inner)


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(one) for one in value[:1]] if isinstance(value, list) else None


@pytest.fixture
def name(lab: ProjectLab, program: Program) -> str:
    program.done("issue", lab.domain, f"*.{lab.domain}")
    return lab.domain


def test_a_pair_is_as_the_example_shows(program: Program, name: str) -> None:
    pair, _ = EXAMPLES
    for command in (
        ("show", name),
        ("issue", name, f"*.{name}"),
        ("renew", name),
        ("list", "--under", name),
        ("pair", "set", name, "--target", "web"),
        ("revoke", name, "--role", "backup"),
    ):
        [line] = program.done(*command, "--json").lines
        assert shape(line) == shape(pair), command


def test_a_failover_is_as_the_example_shows(program: Program, name: str) -> None:
    _, failover = EXAMPLES
    assert shape(program.done("failover", name, "--dry-run", "--json").json) == shape(failover)
    assert shape(program.done("failover", name, "--json").json) == shape(failover)


def test_the_table_has_every_key_and_no_other(program: Program, name: str, tmp_path: Path) -> None:
    for command in (
        ("check",),
        ("events", name),
        ("export", name, "--to", str(tmp_path / "copy")),
        ("account", "show"),
        ("account", "update", "alpha"),
        ("account", "rollover", "alpha"),
        ("account", "register", "alpha"),
        ("keys", "rotate", "primary"),
        ("db", "current"),
        ("db", "upgrade"),
        ("init",),
        ("freeze", "alpha"),
        ("thaw", "alpha"),
        ("account", "deactivate", "alpha", "--yes"),
    ):
        lines = program.run(*command, "--json").lines
        words = " ".join(word for word in command[:2] if word.isalpha() and word not in ("alpha", "primary"))
        expected = told(words)
        assert lines, command
        for line in lines:
            assert list(keys(line)) == expected, command


def test_what_holds_more_or_less_has_no_key_that_the_table_does_not_tell(
    lab: ProjectLab, program: Program, name: str
) -> None:
    opened = ("--title", "a test", "--within", "1h", "--ca", "alpha", "--names", str(lab.directory / "names"))
    (lab.directory / "names").write_text(f"{name}\nno name!\n")
    digest = ""
    for command, words in (
        (("events", "--head"), "events --head"),
        (("events", "--verify"), "events --verify"),
        (("events", "--public-key"), "events --public-key"),
        (("watch", "--once", "--keys"), "watch --once"),
        (("pair", "move", "--all", "--ca", "alpha=beta"), "pair move --all"),
        (("distrust", "beta"), "distrust"),
        (("distrust", "beta", "--lift"), "distrust"),
        (("incident", "open", *opened), "incident open"),
        (("incident", "plan", "1"), "incident plan"),
        (("incident", "run", "1", "--plan", "PLAN"), "incident run"),
        (("incident", "status", "1"), "incident status"),
        (("incident", "list"), "incident list"),
        (("incident", "close", "1"), "incident close"),
        (("incident", "undo", "1"), "incident undo"),
        (("remove", name, "--yes"), "remove"),
    ):
        typed = [digest if word == "PLAN" else word for word in command]
        [line] = program.run(*typed, "--json").lines
        digest = line.get("plan", digest)
        expected = told(words)
        assert [key for key in expected if key in line] == list(dict.fromkeys(line)), command
        grouped = {key for key in line if key.startswith("by_") and isinstance(line[key], dict)}
        assert set(keys({key: line[key] for key in line if key not in grouped})) <= set(expected), command


def test_chains_are_told_of_both_roles(program: Program, name: str) -> None:
    [line] = program.done("chain", name, "--json").lines
    pair, primary, backup, *inner = told("chain")
    assert (pair, primary, backup) == tuple(line)
    assert list(keys(line["primary"])) == list(keys(line["backup"])) == inner


def test_what_is_left_is_told_by_what_does_all_that_is_due(lab: ProjectLab, program: Program) -> None:
    program.run("issue", f"{lab.domain}.nowhere.invalid", "--timeout", "1")
    for command in (("renew", "--due"), ("run", "--once")):
        said = program.run(*command, "--timeout", "1", "--json").json
        assert said["left"], said
        expected = told(" ".join(command))
        outer = [key for key in expected if key in said]
        assert list(said) == outer
        assert list(said["left"][0]) == expected[expected.index("left") + 1 : expected.index("not_asked")]

"""The pages of docs/ are what the program says, and nothing that they show is out of date."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

from docs import build
from dualcert.cli.commands import dualcert
from dualcert.cli.context import Context
from dualcert.cli.frame import Manual
from dualcert.config import loader, settings
from tests.architecture.tree import ROOT, named

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def leaves(
    command: click.Command = dualcert, words: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its words."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from leaves(inner, (*words, name))
    else:
        yield " ".join(words), command


LEAVES = dict(leaves())


# --- the pages that are made -------------------------------------------------------------------------------


@pytest.mark.parametrize("file", build.pages(), ids=lambda file: file.name)
def test_a_reference_page_is_what_the_program_says(file: Path) -> None:
    assert file.read_text() == build.pages()[file], "out of date: make docs"


def test_the_comparison_sees_a_change_of_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.commands_page()
    parameter = next(one for one in LEAVES["renew"].params if "--force" in one.opts)
    monkeypatch.setattr(parameter, "help", "Order at once.")
    assert build.commands_page() != before


def test_the_commands_page_has_a_section_for_every_command() -> None:
    headings = re.findall(r"^#+ dualcert (.*)$", build.commands_page(), re.MULTILINE)
    assert [heading for heading in headings if heading in LEAVES] == list(LEAVES)


def test_the_configuration_page_has_every_key_that_may_stand_in_the_file() -> None:
    tables = {title.partition(".")[0] for title in build.TABLES}
    assert tables | {"database"} == set(loader.TOP)
    for kind, (key, group) in build.PLUGINS.items():
        own = {name for title in (f"{kind}.NAME",) for name in build.TABLES[title][0].fields}
        assert own == set(settings.CORE_KEYS[kind])  # type: ignore[index]
        page = build.configuration_page()
        for point in entry_points(group=group):
            section = page.partition(f'### `{key} = "{point.name}"`')[2].partition("\n#")[0]
            for option in dataclasses.fields(point.load().options_class):
                assert f"| `{option.name}` |" in section, (point.name, option.name)


def test_every_key_and_every_option_is_explained() -> None:
    keys = [one for section, _ in build.TABLES.values() for one in section.fields.values()]
    assert all(one.help.endswith(".") for one in keys)
    options = [
        option
        for kind in build.PLUGINS
        for point in build.plugins(kind)
        for option in dataclasses.fields(point.load().options_class)
    ]
    assert all(option.metadata["help"] for option in options)


# --- help --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", LEAVES)
def test_help_is_laid_out_like_a_manual(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    from dualcert.cli import main

    assert main([*words.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    titles = [line.rstrip(":") for line in shown.splitlines() if re.fullmatch(r"[A-Z][^:]*:", line)]
    order = ["Arguments", "Options", "Global options, before or after the command"]
    order += ["Exit status", "Examples", "See also"]
    assert shown.startswith(f"Usage: dualcert {words} ")
    assert titles == [title for title in order if title in titles]
    assert {"Global options, before or after the command", *order[3:]} <= set(titles)


@pytest.mark.parametrize("words", LEAVES)
def test_every_parameter_is_explained(words: str) -> None:
    hidden = [one.name for one in LEAVES[words].params if getattr(one, "hidden", False)]
    unexplained = [one.name for one in LEAVES[words].params if not getattr(one, "help", None)]
    assert unexplained == hidden


# --- commands that are shown -------------------------------------------------------------------------------


def commands_in(line: str) -> Iterator[list[str]]:
    """The arguments of each dualcert command in a line for the shell; a comment ends it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    for word in [*lexer, ";"]:
        if set(word) <= set("<>"):
            redirected = True
        elif set(word) <= set("|&;()"):
            yield from _of_dualcert(words)
            words = []
        elif redirected:
            redirected = False
        else:
            words.append(word)


def _of_dualcert(words: list[str]) -> Iterator[list[str]]:
    """What follows the program's name. It is called first, after variables, with a path (cron), or after ``--``."""
    if words[:1] == ["ln"] or any(word.startswith("_DUALCERT_COMPLETE=") for word in words):
        return
    for place, word in enumerate(words):
        first = all("=" in before for before in words[:place])
        if word.endswith("/bin/dualcert") or (word == "dualcert" and (first or words[place - 1] == "--")):
            yield words[place + 1 :]
            return


def problem_of(arguments: Sequence[str], *, whole: bool) -> str | None:
    """Why the program does not take these arguments. Not ``whole``: something may be left out, or stand for a value."""
    context: click.Context | None = None
    command: click.Command = dualcert
    rest = list(arguments)
    try:
        while True:
            context = command.make_context(
                command.name, rest, parent=context, obj=None if context else Context()
            )
            if not isinstance(command, click.Group):
                return None
            name, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            assert name is not None
            assert inner is not None
            command = inner
    except click.exceptions.Exit:  # --version, --help
        return None
    except click.exceptions.NoArgsIsHelpError:
        return "says no command" if whole else None
    except (click.MissingParameter, click.BadParameter) as error:
        return error.format_message() if whole else None
    except click.BadOptionUsage as error:
        left_out = error.format_message().endswith("requires an argument.")
        return error.format_message() if whole or not left_out else None
    except click.UsageError as error:
        return error.format_message()


def shown_in(page: Path) -> Iterator[tuple[list[str], bool]]:
    """Each command of a page, and whether it is one to type as it stands."""
    text = page.read_text()
    for kind, block in FENCE.findall(text):
        if kind in {"sh", "console", ""}:
            for line in block.replace("\\\n", " ").splitlines():
                typed = line.removeprefix("$ ")
                if (kind != "console" or typed != line) and "dualcert" in typed:
                    yield from ((found, True) for found in commands_in(typed))
    for quoted in re.findall(r"(?<!`)`(dualcert [^`]+)`(?!`)", FENCE.sub("", text)):
        yield from ((found, False) for found in commands_in(" ".join(quoted.split())))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_commands_of_a_page_are_ones_that_the_program_takes(page: Path) -> None:
    wrong = {}
    for arguments, whole in shown_in(page):
        if arguments[:1] != ["COMMAND"] and (problem := problem_of(arguments, whole=whole)):
            wrong[" ".join(arguments)] = problem
    assert wrong == {}


@pytest.mark.parametrize("words", ["", *LEAVES])
def test_the_examples_of_help_are_commands_that_the_program_takes(words: str) -> None:
    command = LEAVES.get(words, dualcert)
    assert isinstance(command, Manual)
    found = [arguments for line in command.examples for arguments in commands_in(line)]
    assert found
    assert not [problem for arguments in found if (problem := problem_of(arguments, whole=True))]
    assert all(
        " ".join(arguments).partition("--config ")[2] or words in " ".join(arguments)
        for arguments in found[:1]
    )


@pytest.mark.parametrize("words", ["", *LEAVES])
def test_what_help_points_to_is_there(words: str) -> None:
    command = LEAVES.get(words, dualcert)
    assert isinstance(command, Manual)
    assert command.see
    for see in command.see:
        if see.startswith("dualcert "):
            assert see == "dualcert COMMAND --help" or not problem_of(see.split()[1:], whole=False), see
        else:
            assert (ROOT / see).is_file(), see


def test_enough_commands_are_found_and_a_wrong_one_is_told() -> None:
    counts = {named(page): len(list(shown_in(page))) for page in PAGES}
    assert counts["README.md"] > 15
    assert counts["docs/commands.md"] > 40
    assert counts["docs/daemon.md"] > 3
    assert list(
        commands_in("X=1 dualcert list --json | grep dualcert && cd a; /usr/bin/dualcert show x # y")
    ) == [
        ["list", "--json"],
        ["show", "x"],
    ]
    assert list(commands_in("runuser -u dualcert -- dualcert show example.com")) == [["show", "example.com"]]
    assert "No such command" in (problem_of(["lst"], whole=False) or "")
    assert "No such option" in (problem_of(["list", "--jsn"], whole=False) or "")
    assert problem_of(["show"], whole=False) is None
    assert "Missing argument" in (problem_of(["show"], whole=True) or "")
    assert problem_of(["failover", "x", "--reason", "R"], whole=True)


# --- links -------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert [page.name for page in PAGES if page.name != "README.md" and f"]({page.name})" not in index] == []

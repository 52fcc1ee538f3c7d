"""The files speak of the project only, and of no machine on which they were written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT, files, modules, named

# Put together from halves, so that this file may be searched as well.
PACKAGE_REGISTRIES = ["pypi" + ".org", "python" + "hosted.org", "test." + "pypi", "pypi" + "/simple"]
WORKING_PAPERS = ["DESIGN" + ".md", "FACTS" + ".md", "STYLE" + ".md"]
MACHINE_PATH = re.compile(r"(?<![\w.*}$])/(?:root|work|home/[a-z]\w*|Users/\w+|opt/\w+)/")
TRACKER = re.compile(r"\bissues? #?\d")


def what_is_wrong(text: str) -> list[str]:
    found = [word for word in PACKAGE_REGISTRIES + WORKING_PAPERS if word in text]
    found += [match[0] for match in (*MACHINE_PATH.finditer(text), *TRACKER.finditer(text))]
    return found + [
        path for path in {str(ROOT), str(Path.home())} - {"/", "/nonexistent"} if path + "/" in text
    ]


def test_no_file_names_a_machine_a_registry_or_a_working_paper() -> None:
    wrong = {
        named(file): found
        for file in files()
        if (found := what_is_wrong(file.read_text(encoding="utf-8", errors="replace")))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    "text",
    [
        "see /ro" + "ot/.cache/x",
        "/wo" + "rk/main/a",
        "https://" + PACKAGE_REGISTRIES[0],
        "see " + WORKING_PAPERS[0],
    ],
)
def test_the_search_finds_what_it_looks_for(text: str) -> None:
    assert what_is_wrong(text)


OF_A_PAIR = re.compile(
    r"dualcert (?:renew|failover|show|remove|pair move|pair set|drill|chain|events|revoke|issue) \{(?!typed\()"
)


def test_a_command_that_is_told_names_its_pair_as_a_shell_takes_it() -> None:
    bare = {
        named(file): found
        for file in modules("dualcert")
        if (found := [match[0] for match in OF_A_PAIR.finditer(file.read_text())])
    }
    assert bare == {}
    assert OF_A_PAIR.search('f"To go back: dualcert failover {pair.name}"')


def test_locks_hold_pins_hashes_and_comments_only() -> None:
    allowed = re.compile(r"[a-z0-9_.-]+==\S+( ; .+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?|    # .*")
    locks = sorted((ROOT / "requirements").glob("*.lock"))
    assert locks
    odd = {
        named(lock): line
        for lock in locks
        for line in lock.read_text().splitlines()
        if not allowed.fullmatch(line)
    }
    assert odd == {}


def test_nobody_silences_the_ban_on_other_clocks() -> None:
    silenced = re.compile(r"noqa:[^#\n]*" + "TID" + "251")
    assert [
        named(file) for file in files("dualcert", "tests", "migrations") if silenced.search(file.read_text())
    ] == []

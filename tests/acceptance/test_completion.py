"""The Tab key, in a real bash; zsh and fish where they are there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dualcert.cli.commands import COMMANDS
from dualcert.clock import SystemClock
from dualcert.config.template import TEMPLATE
from tests.architecture.test_imports import HEAVY, top_level_modules_after
from tests.architecture.tree import ROOT
from tests.labfixture import ProjectLab
from tests.program import Program

SCRIPT = Path(sys.executable).with_name("dualcert")
clock = SystemClock()


def environment(config: Path | None) -> dict[str, str]:
    """As in a shell in which nothing was set up, with the console script on PATH."""
    found = {"PATH": f"{SCRIPT.parent}:{os.environ['PATH']}", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    return found if config is None else found | {"DUALCERT_CONFIG": str(config)}


def pressed(line: str, config: Path | None, folder: Path) -> list[str]:
    """What bash offers where Tab is pressed at the end of the line; a blank there begins a new word."""
    words = [*line.split(), *([""] if line.endswith(" ") else [])]
    script = f"""
        eval "$(_DUALCERT_COMPLETE=bash_source dualcert)"
        complete -p dualcert >/dev/null
        COMP_WORDS=({shlex.join(words)})
        COMP_CWORD={len(words) - 1}
        _dualcert_completion dualcert
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-euc", script],
        cwd=folder,
        env=environment(config),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return [word for word in done.stdout.splitlines() if word]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A configuration as `init` leaves it: much of it is wrong until somebody edits it."""
    file = tmp_path / "dualcert.toml"
    file.write_text(TEMPLATE)
    return file


def test_commands_and_options_are_completed_without_any_configuration(tmp_path: Path) -> None:
    assert pressed("dualcert ", None, tmp_path) == list(COMMANDS)
    assert pressed("dualcert fa", None, tmp_path) == ["failover"]
    assert pressed("dualcert account r", None, tmp_path) == ["register", "rollover"]
    assert pressed("dualcert failover example.com --rev", None, tmp_path) == [
        "--revoke",
        "--revoke-unverified",
        "--revoke-by",
    ]
    assert pressed("dualcert list --protection un", None, tmp_path) == ["unprotected"]
    assert pressed("dualcert --log-format ", None, tmp_path) == ["text", "json"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("dualcert failover example.com --to ", ["letsencrypt", "google"]),
        ("dualcert issue example.com --primary g", ["google"]),
        ("dualcert issue example.com --backup ", ["letsencrypt", "google"]),
        ("dualcert issue example.com --dns ", ["main"]),
        ("dualcert pair set example.com --target w", ["web"]),
        ("dualcert remove example.com --leave ", ["web"]),
        ("dualcert list --ca ", ["letsencrypt", "google"]),
        ("dualcert account rollover ", ["letsencrypt", "google"]),
        ("dualcert account show l", ["letsencrypt"]),
        ("dualcert keys rotate ", ["primary", "backup"]),
    ],
)
def test_tables_of_the_configuration_are_completed_though_it_is_not_right_yet(
    written: Path, line: str, offered: list[str]
) -> None:
    assert pressed(line, None, written.parent) == offered


@pytest.mark.parametrize("option", ["--serials", "--spki-file", "--names"])
def test_a_file_that_names_certificates_is_left_to_the_shell_to_complete(tmp_path: Path, option: str) -> None:
    line = f"dualcert incident open {option} ser"
    done = subprocess.run(
        [sys.executable, "-c", "from dualcert.cli import entry; entry()"],
        cwd=ROOT,
        env=environment(None)
        | {"_DUALCERT_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": "4"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "file,ser\n"


def test_the_configuration_is_the_one_that_the_command_would_read(written: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("[ca.other]\n")
    line = "failover example.com --to "
    assert pressed(f"dualcert {line}", other, tmp_path) == ["other"]
    assert pressed(f"dualcert --config {other} {line}", written, tmp_path) == ["other"]
    assert pressed(f"dualcert failover example.com --config {other} --to ", written, tmp_path) == ["other"]


@pytest.mark.parametrize("text", ["[ca\n", "ca = 1\n", "\ufffe"])
def test_a_configuration_that_cannot_be_read_offers_nothing_and_says_nothing(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "dualcert.toml").write_text(text, encoding="utf-16")
    assert pressed("dualcert failover example.com --to ", None, tmp_path) == []
    (tmp_path / "dualcert.toml").write_text(text)
    assert pressed("dualcert failover example.com --to ", None, tmp_path) == []
    assert pressed("dualcert failover ", None, tmp_path) == []


def test_names_of_pairs_are_completed(lab: ProjectLab, program: Program, tmp_path: Path) -> None:
    for name in ("shop", "shop-2"):
        program.run("issue", f"{name}.{lab.domain}", "--name", name, "--timeout", "1")

    assert pressed("dualcert failover ", program.config, tmp_path) == ["shop", "shop-2"]
    assert pressed("dualcert show sho", program.config, tmp_path) == ["shop", "shop-2"]
    assert pressed("dualcert renew shop shop", program.config, tmp_path) == ["shop", "shop-2"]
    assert pressed("dualcert list --after shop-", program.config, tmp_path) == ["shop-2"]
    assert pressed("dualcert show a", program.config, tmp_path) == []


def test_a_database_is_not_made_by_asking_for_names(written: Path) -> None:
    before = sorted(written.parent.iterdir())
    assert pressed("dualcert show ", written, written.parent) == []
    assert sorted(written.parent.iterdir()) == before


def test_a_database_that_does_not_answer_is_not_waited_for(
    lab: ProjectLab, program: Program, tmp_path: Path
) -> None:
    waited: list[float] = []

    def listen(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            began = clock.monotonic()
            while connection.recv(1024):
                pass
            waited.append(clock.monotonic() - began)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        listener = threading.Thread(target=listen, args=(silent,))
        listener.start()
        program.move_to(f"postgresql://somebody@127.0.0.1:{silent.getsockname()[1]}/nothing")
        assert pressed("dualcert show ", program.config, tmp_path) == []
        listener.join()
    assert waited[0] < 8  # the driver itself waits for ten seconds


def test_a_completion_that_fails_leaves_the_line_alone(tmp_path: Path) -> None:
    asked = {"_DUALCERT_COMPLETE": "bash_complete", "COMP_WORDS": "dualcert", "COMP_CWORD": "none"}
    done = subprocess.run(
        [SCRIPT], cwd=tmp_path, env=environment(None) | asked, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("line", ["dualcert fail", "dualcert failover x --to "])
def test_completing_imports_nothing_heavy(written: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(written.parent)
    monkeypatch.setenv("_DUALCERT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    code = "from dualcert.cli import main\ntry:\n    main([])\nexcept SystemExit:\n    pass"
    found = top_level_modules_after(code)
    assert {"plain,failover", "plain,google"} & found
    assert found & (HEAVY | {"pydantic_core", "cryptography"}) == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_its_script(shell: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [SCRIPT],
        cwd=tmp_path,
        env=environment(None) | {"_DUALCERT_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_DUALCERT_COMPLETE" in done.stdout
    assert done.stderr == ""
    if (program := shutil.which(shell)) is not None:
        subprocess.run([program, "-n"], input=done.stdout, text=True, check=True)


def test_the_lines_of_the_documentation_set_it_up(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "completion.md").read_text()
    lines = re.findall(r"^.*_DUALCERT_COMPLETE=(\w+)_source dualcert.*$", page, re.MULTILINE)
    assert lines == ["bash", "zsh", "fish", "bash"]
    [setup] = re.findall(r"^eval .*bash_source.*$", page, re.MULTILINE)
    done = subprocess.run(
        ["bash", "--norc", "-euc", f"{setup}\ncomplete -p dualcert"],
        env=environment(None),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "complete -o nosort -F _dualcert_completion dualcert\n"

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
from contextlib import suppress
from functools import partial
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
        COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)}
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


_SETUP = """
bind 'set enable-bracketed-paste off'
eval "$(_DUALCERT_COMPLETE=bash_source dualcert)"
PS1='ready> '
"""


def taken(line: str, config: Path | None, folder: Path) -> list[str]:
    """The words of a line as bash takes them, after somebody has typed it at a terminal and pressed Tab at its end."""
    setup = folder / "bashrc"
    setup.write_text(_SETUP)
    ours, theirs = os.openpty()
    bash = subprocess.Popen(
        ["bash", "--noprofile", "--rcfile", setup, "-i"],
        cwd=folder,
        env=environment(config) | {"TERM": "dumb"},
        preexec_fn=partial(os.login_tty, theirs),  # noqa: PLW1509
    )
    os.close(theirs)
    shown = b""
    with open(ours, "r+b", buffering=0) as terminal:  # noqa: PTH123 - a terminal has no path
        while not shown.endswith(b"ready> ") and (some := terminal.read(1000)):
            shown += some
        # Back to the beginning of the line, where a command is put before it that tells its words; then to its end.
        terminal.write(line.encode() + b"\t\x01printf '<%s>\\n' \x05; exit\n")
        # EIO: nobody holds its other end any more.
        with suppress(OSError):
            while some := terminal.read(1000):
                shown += some
    assert bash.wait() == 0
    return re.findall(r"^<(.*)>\r?$", shown.decode(), re.MULTILINE)


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


@pytest.mark.parametrize("typed", ["*.exa", "\\*.exa", "'*.exa", '"*.exa', ""])
def test_a_wildcard_is_completed_as_a_name_though_files_of_the_folder_look_like_it(
    tmp_path: Path, typed: str
) -> None:
    (tmp_path / "zzz.example.test").mkdir()
    (tmp_path / "plain,zzz.example.test").mkdir()
    config = tmp_path / "of-this-test.toml"
    config.write_text('[target."*.example.test"]\n')
    words = ["dualcert", "pair", "set", "x", "--target", "*.example.test"]
    assert taken(f"dualcert pair set x --target {typed}", config, tmp_path) == words


@pytest.mark.parametrize(
    ("typed", "becomes"),
    [
        ("failover example.com --to=g", ["failover", "example.com", "--to=google"]),
        ("--config=other.toml failover x --to o", ["--config=other.toml", "failover", "x", "--to", "other"]),
        ("failover x --config=other.toml --to=", ["failover", "x", "--config=other.toml", "--to=other"]),
        ("--config=oth", ["--config=other.toml"]),
        ("incident open --serials=other.t", ["incident", "open", "--serials=other.toml"]),
        ("incident open --deadline 2027-03-01T12:00Z --tit", [
            *("incident", "open", "--deadline", "2027-03-01T12:00Z", "--title")
        ]),
    ],
)  # fmt: skip
def test_what_stands_behind_an_equals_sign_is_completed_and_counts(
    written: Path, typed: str, becomes: list[str]
) -> None:
    """Bash takes both, and a colon, for the end of a word."""
    (written.parent / "other.toml").write_text("[ca.other]\n")
    assert taken(f"dualcert {typed}", written, written.parent) == ["dualcert", *becomes]


def test_a_script_that_was_written_before_still_completes(tmp_path: Path) -> None:
    words = {"COMP_WORDS": "dualcert\naccount\nroll", "COMP_CWORD": "2"}
    done = subprocess.run(
        [SCRIPT],
        cwd=tmp_path,
        env=environment(None) | words | {"_DUALCERT_COMPLETE": "bash_complete"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "plain,rollover\n"


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

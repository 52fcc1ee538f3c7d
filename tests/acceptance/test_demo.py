"""The lab's commands: the incident is played as it should be, and nothing outlives either of them."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dualcert import cli
from dualcert.clock import SystemClock
from dualcert.lab import binaries as lab_binaries
from dualcert.lab.demo import STEPS, play
from dualcert.lab.demo_tellers import PlainTeller, SilentTeller
from dualcert.lab.polling import wait_for

DUALCERT = [sys.executable, "-m", "dualcert.cli"]
NAMES = [name for name, _, _ in STEPS]
PATIENCE = 120.0
DEMO = ["lab", "demo", "--longest", "60s"]
"""What is seen counts here; how long it took depends on what else the machine does."""


def processes_of(folder: Path) -> dict[int, str]:
    """Running processes whose command line or environment names the folder."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            said = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(folder).encode() in said and state != "Z":
            found[int(entry.name)] = said.partition(b"\0")[0].decode()
    return found


@contextmanager
def started(folder: Path, *arguments: str, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """A dualcert whose temporary files, and so everything of its lab, go to ``folder``."""
    process = subprocess.Popen(
        [*DUALCERT, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE if stdout == subprocess.PIPE else stdout,
        text=True,
        env={**os.environ, "TMPDIR": str(folder), "COLUMNS": "80", "TERM": "xterm-256color"},
        process_group=0,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=PATIENCE)


def lines_until(process: subprocess.Popen[str], beginning: str) -> list[str]:
    assert process.stdout is not None
    found = []
    for line in process.stdout:
        found.append(line.rstrip("\n"))
        if line.startswith(beginning):
            return found
    raise AssertionError(f"ended before {beginning!r}: {found} {process.communicate()}")


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    with started(folder, *arguments) as process:
        out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def assert_nothing_is_left(folder: Path) -> None:
    assert wait_for(lambda: not processes_of(folder), 5), processes_of(folder)
    assert list(folder.iterdir()) == []


# --- the demo ---------------------------------------------------------------------------------------------


def test_the_incident_is_played_and_every_step_is_as_it_should_be(tmp_path: Path) -> None:
    status, out, err = run(tmp_path, *DEMO, "--json")

    assert (status, err) == (0, "")
    shown = json.loads(out)
    assert shown["ok"] is True
    assert [one["name"] for one in shown["steps"]] == NAMES
    assert all(one["ok"] for one in shown["steps"]), shown
    seen = {one["name"]: one["seen"] for one in shown["steps"]}
    assert re.search(r"nginx shows alpha's [0-9a-f]+", seen["handshake"])
    assert "Revoked" in seen["incident"]
    assert re.search(r"nginx shows beta's [0-9a-f]+", seen["handshake-again"])
    assert_nothing_is_left(tmp_path)


def test_on_a_terminal_it_fits_eighty_columns(tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    with started(tmp_path, *DEMO, stdout=terminal) as process:
        os.close(terminal)
        shown = read_all(screen)
        assert process.wait(PATIENCE) == 0
    os.close(screen)

    assert "\x1b[" in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    too_long = [line for line in re.split(r"[\r\n]+", plain) if len(line) > 80 and "/live" not in line]
    assert too_long == []
    assert "alpha ✗ revoked   beta ● serves   nginx → beta's   no backup yet" in plain
    assert_nothing_is_left(tmp_path)


def read_all(screen: int) -> str:
    """What a terminal was shown until nobody writes any more, or for a minute."""
    clock, said = SystemClock(), b""
    deadline = clock.monotonic() + PATIENCE
    while clock.monotonic() < deadline:
        if not select.select([screen], [], [], 1.0)[0]:
            continue
        try:
            said += os.read(screen, 65536)
        except OSError:  # Linux says EIO where the other end is closed
            break
    return said.decode()


STOPPED = [pytest.param(number, id=name) for number, name in enumerate(NAMES, start=1)]
FEW = {1, 2, 5}


def interrupt_in_step(folder: Path, number: int) -> None:
    with started(folder, *DEMO) as process:
        lines_until(process, f"{number}/{len(STEPS)}")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert err == "interrupted; the lab has ended, and nothing is left behind\n"
    assert_nothing_is_left(folder)


@pytest.mark.parametrize("number", [one for one in STOPPED if one.values[0] in FEW])
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    interrupt_in_step(tmp_path, number)


@pytest.mark.long
@pytest.mark.parametrize("number", [one for one in STOPPED if one.values[0] not in FEW])
def test_ctrl_c_in_any_other_step_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    interrupt_in_step(tmp_path, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_server_and_no_command_outlives_it(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path, *DEMO) as process:
        lines_until(process, "     $ dualcert issue")
        assert len(processes_of(tmp_path)) >= 5
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == (-number if number is signal.SIGKILL else 128 + number)
    if number is signal.SIGKILL:
        # Nobody was left to remove the folder.
        assert wait_for(lambda: not processes_of(tmp_path), 5), processes_of(tmp_path)
    else:
        assert_nothing_is_left(tmp_path)


class Saboteur(SilentTeller):
    """Told that a step begins, it ends the CA alpha."""

    def __init__(self, folder: Path, at_step: int) -> None:
        self._folder = folder
        self._at_step = at_step

    def step(self, number: int, count: int, title: str) -> None:
        if number == self._at_step:
            [alpha] = [
                pid
                for pid in processes_of(self._folder)
                if b"alpha.json" in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]
            os.kill(alpha, signal.SIGKILL)


def test_a_step_that_is_not_as_it_should_be_ends_the_play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    played = play(Saboteur(tmp_path, at_step=4), longest=60)

    assert not played.ok
    assert [one.ok for one in played.results] == [True, True, True, False]
    assert "alpha" in played.results[-1].seen
    assert played.results[-1].name == "incident"
    assert_nothing_is_left(tmp_path)


class Slow(SystemClock):
    """Every look at it is ten seconds and a half after the one before."""

    def __init__(self) -> None:
        self._looks = 0

    def monotonic(self) -> float:
        self._looks += 1
        return self._looks * 10.5


def test_plain_lines_tell_commands_and_what_was_seen_and_a_slow_step_fails_without_ending_the_play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said: list[str] = []

    played = play(PlainTeller(said.append), clock=Slow())

    assert not played.ok
    assert [one.name for one in played.results] == NAMES
    assert all(one.seen.endswith(", but after more than 10 s") for one in played.results)
    assert said[-1] == f"Not as it should be: {', '.join(NAMES)}."
    for command in ("issue example.test '*.example.test'", "failover example.test --revoke", "renew --due"):
        assert f"     $ dualcert {command}" in said
    assert any("the CA says that it was revoked before" in line for line in said)
    table = said[[line.startswith("STEP") for line in said].index(True) + 1 :]
    assert [line.split()[0] for line in table[: len(NAMES)]] == NAMES
    assert not any("\x1b" in line for line in said)


# --- the lab, until Ctrl-C --------------------------------------------------------------------------------


def commands_to_try(lines: Sequence[str]) -> list[list[str]]:
    return [shlex.split(line) for line in lines if " --config " in line]


def test_the_commands_that_it_prints_work(tmp_path: Path) -> None:
    with started(tmp_path, "lab", "up") as process:
        lines = lines_until(process, "    | openssl")
        commands = commands_to_try(lines)
        assert [command[3] for command in commands] == ["issue", "failover", "renew"]
        for command in commands:
            tried = subprocess.run(
                [*DUALCERT, *command[1:]], capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            assert tried.returncode == 0, tried
        looked = subprocess.run(
            "\n".join(lines[-2:]), shell=True, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert "issuer=CN = Pebble Intermediate CA" in looked.stdout.replace("CN=", "CN = ")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out.strip(), err) == (0, "ended; nothing is left behind", "")
    assert_nothing_is_left(tmp_path)


def test_a_folder_that_was_named_stays_with_what_was_issued(tmp_path: Path) -> None:
    home = tmp_path / "rehearsal"
    with started(tmp_path, "lab", "up", "--json", "--dir", str(home)) as process:
        assert process.stdout is not None
        shown: dict[str, Any] = json.loads(process.stdout.readline())
        assert [one["server"] for one in shown["servers"]] == ["alpha", "beta", "bind", "nginx"]
        assert shown["config"] == str(home / "dualcert.toml")
        status, out, _ = run(tmp_path, "--config", shown["config"], "issue", "example.test", "--json")
        assert (status, json.loads(out)["protection"]) == (0, "protected")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM
    assert wait_for(lambda: not processes_of(tmp_path), 5), processes_of(tmp_path)
    assert (home / "live" / "example.test" / "bundle.pem").is_file()

    status, _, err = run(tmp_path, "lab", "up", "--dir", str(home))
    assert status == 1
    assert "is not empty" in err
    shutil.rmtree(home)
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_missing_program_is_named_with_what_to_do(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lab_binaries, "_folders", lambda: iter([tmp_path]))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    assert cli.main(["lab", command, "--json"]) == 1

    said = capsys.readouterr()
    assert said.out == ""
    assert "pebble 2.10 or newer is needed; there is none" in said.err
    assert "make setup" in said.err
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("command", ["up", "demo"])
def test_without_the_extra_it_says_what_to_install(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    assert cli.main(["lab", command, "--json"]) == 1

    said = capsys.readouterr()
    assert said.out == ""
    assert "pip install 'dualcert[lab]'" in said.err
    assert_nothing_is_left(tmp_path)

"""The reload command of the `files` deployer."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dualcert.clock import SystemClock
from dualcert.errors import DeployError
from dualcert.plugins.deploy.files import FilesDeployer, FilesOptions
from dualcert.ports.deploy import Held, Placement
from dualcert.testing.placements import placement

CLOCK = SystemClock()
ONE = placement("a.example.com")
PATIENCE = 30.0


def script(text: str, *arguments: object) -> tuple[str, ...]:
    return ("sh", "-c", text, "reload", *map(str, arguments))


def deployer(live: Path, reload: tuple[str, ...], timeout: float = PATIENCE) -> FilesDeployer:
    return FilesDeployer(FilesOptions(directory=live, reload=reload, reload_timeout=timeout))


def error_of(live: Path, reload: tuple[str, ...], timeout: float = PATIENCE) -> DeployError:
    error = deployer(live, reload, timeout).deploy([ONE])[ONE.pair]
    assert error is not None
    return error


@contextmanager
def typed(text: str) -> Iterator[None]:
    """While open, this process's standard input holds a text."""
    reader, writer = os.pipe()
    os.write(writer, text.encode())
    os.close(writer)
    before = os.dup(0)
    os.dup2(reader, 0)
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(reader)


def until(condition: Callable[[], object]) -> None:
    deadline = CLOCK.monotonic() + PATIENCE
    while not condition():
        assert CLOCK.monotonic() < deadline
        CLOCK.sleep(0.01)


def test_a_reload_that_fails_says_what_and_why_and_is_made_up_for(tmp_path: Path) -> None:
    live = tmp_path / "live"
    error = error_of(live, script('echo starting; echo "bad directive" >&2; exit 7', "s3cret-argument"))
    assert error.name == ONE.pair
    assert "'sh' ended with exit status 7" in error.reason
    assert "bad directive" in error.reason
    assert "s3cret-argument" not in str(error)
    assert error.remedy is not None
    assert "mend" in error.remedy
    held = deployer(live, ()).read_back([ONE.pair])[ONE.pair]
    assert held == Held(ONE.sha256, ONE.version)
    log = tmp_path / "log"
    for _ in range(2):
        assert deployer(live, script('echo x >> "$1"', log)).deploy([ONE]) == {ONE.pair: None}
        assert log.read_text() == "x\n"


def test_a_reload_killed_by_a_signal_has_failed(tmp_path: Path) -> None:
    assert "was killed by signal 9" in error_of(tmp_path, script("kill -9 $$")).reason


@pytest.mark.parametrize("kind", ["missing", "not executable"])
def test_a_command_that_cannot_start_is_named(tmp_path: Path, kind: str) -> None:
    command = tmp_path / "reload-it"
    if kind == "not executable":
        command.write_text("#!/bin/sh\n")
    error = error_of(tmp_path / "live", (str(command), "now"))
    assert f"{str(command)!r} cannot be started" in error.reason
    assert error.remedy is not None
    assert "one word per item" in error.remedy


def test_a_reload_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    watch = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    text = 'exec 3>"$1"; echo waiting; trap "" TERM; (trap "" TERM; sleep 600; echo) & sleep 600; wait'
    try:
        started = CLOCK.monotonic()
        error = error_of(tmp_path / "live", script(text, fifo), timeout=0.5)
        assert CLOCK.monotonic() - started < PATIENCE
        assert "did not end within 0.5 seconds and was killed" in error.reason
        assert "waiting" in error.reason
        # Whoever of its family lived would keep the fifo open.
        assert select.select([watch], [], [], PATIENCE)[0]
        assert os.read(watch, 1) == b""
    finally:
        os.close(watch)


def test_a_server_that_the_command_has_started_is_neither_waited_for_nor_killed(tmp_path: Path) -> None:
    fifo, done = tmp_path / "alive", tmp_path / "done"
    os.mkfifo(fifo)
    watch = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    text = 'exec 3>"$1"; (until [ -e "$2" ]; do sleep 0.05; done; echo bye >&3) & echo started'
    try:
        started = CLOCK.monotonic()
        reload = script(text, fifo, done)
        assert deployer(tmp_path / "live", reload).deploy([ONE]) == {ONE.pair: None}
        assert CLOCK.monotonic() - started < PATIENCE / 2
        done.touch()
        assert select.select([watch], [], [], PATIENCE)[0]
        assert os.read(watch, 4) == b"bye\n"
    finally:
        done.touch()
        os.close(watch)


def test_only_the_end_of_long_output_is_shown(tmp_path: Path) -> None:
    text = "i=0; while [ $i -lt 20000 ]; do echo line-$i; i=$((i+1)); done; exit 1"
    error = error_of(tmp_path, script(text))
    assert "line-19999" in error.reason
    assert "line-10000\n" not in error.reason
    assert len(error.reason) < 4096 + 200


def test_output_that_is_no_text_is_shown_as_well_as_it_can_be(tmp_path: Path) -> None:
    assert "�" in error_of(tmp_path, script(r"printf '\377\376'; exit 1")).reason


def test_what_would_move_a_cursor_or_end_a_text_is_not_shown(tmp_path: Path) -> None:
    reason = error_of(tmp_path, script(r"printf 'a\033[2Jb\000c\rd'; exit 1")).reason
    assert reason.endswith("a�[2Jb�c�d")


def test_the_command_closes_its_output_and_goes_on(tmp_path: Path) -> None:
    done = tmp_path / "done"
    reload = script('exec >&- 2>&-; sleep 0.2; : > "$1"', done)
    assert deployer(tmp_path / "live", reload).deploy([ONE]) == {ONE.pair: None}
    assert done.exists()


def test_the_command_reads_nothing_and_no_shell_reads_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    reload = script('cat > "$1"; echo "$2" >> "$1"; echo "$(cut -d " " -f 6 /proc/$$/stat) $$" >> "$1"', log)
    with typed("typed"):
        assert deployer(tmp_path / "live", (*reload, "$(id); *")).deploy([ONE]) == {ONE.pair: None}
    said, ids = log.read_text().splitlines()
    assert said == "$(id); *"
    session, own = ids.split()
    assert session == own


def test_a_reload_wanted_while_one_runs_is_folded_into_the_next(tmp_path: Path) -> None:
    live, log, gate = tmp_path / "live", tmp_path / "log", tmp_path / "gate"
    reload = script('echo x >> "$1"; until [ -e "$2" ]; do sleep 0.02; done', log, gate)
    results: dict[str, DeployError | None] = {}

    def run(wanted: Placement) -> None:
        answer: Mapping[str, DeployError | None] = deployer(live, reload).deploy([wanted])
        results.update(answer)

    first, *later = [placement(f"{letter}.example.com") for letter in "abcd"]
    threads = [threading.Thread(target=run, args=(one,)) for one in (first, *later)]
    threads[0].start()
    until(log.exists)
    for thread in threads[1:]:
        thread.start()
    until(lambda: None not in deployer(live, ()).read_back([one.pair for one in later]).values())
    assert not results
    gate.touch()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == dict.fromkeys(one.pair for one in (first, *later))
    assert log.read_text() == "x\n" * 2


@pytest.mark.parametrize("looks_by_itself", [False, True])
def test_each_of_several_servers_that_read_one_folder_is_reloaded(
    tmp_path: Path, looks_by_itself: bool
) -> None:
    """Two targets with one folder: the files are switched once, by whichever comes first."""
    live, log = tmp_path / "live", tmp_path / "log"
    web = () if looks_by_itself else script('echo web >> "$1"', log)
    mail = script('[ ! -e "$2" ] || exit 1; echo mail >> "$1"', log, tmp_path / "broken")
    for wanted in (ONE, placement(ONE.pair, 1, 2)):
        (tmp_path / "broken").touch()
        assert deployer(live, web).deploy([wanted]) == {ONE.pair: None}
        assert isinstance(deployer(live, mail).deploy([wanted])[ONE.pair], DeployError)
        (tmp_path / "broken").unlink()
        for target in (web, mail) * 2:
            assert deployer(live, target).deploy([wanted]) == {ONE.pair: None}
        assert log.read_text().split() == (["mail"] if looks_by_itself else ["web", "mail"])
        log.unlink()


def test_without_a_command_nothing_is_owed(tmp_path: Path) -> None:
    assert deployer(tmp_path, ()).deploy([ONE]) == {ONE.pair: None}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".versions", ONE.pair]


def test_a_removal_reloads_too_and_makes_up_for_a_reload_that_failed(tmp_path: Path) -> None:
    live, log = tmp_path / "live", tmp_path / "log"
    working = script('echo x >> "$1"', log)
    deployer(live, working).deploy([ONE])
    with pytest.raises(DeployError, match="exit status 1"):
        deployer(live, ("false",)).remove(ONE.pair)
    assert deployer(live, ()).read_back([ONE.pair]) == {ONE.pair: None}
    for _ in range(2):
        deployer(live, working).remove(ONE.pair)
        assert log.read_text() == "x\n" * 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"reload": ("",)},
        {"reload": ("  ", "x")},
        {"reload": ("a\0b",)},
        {"reload_timeout": 0},
        {"reload_timeout": -1},
        {"reload_timeout": 1e9},
        {"reload_timeout": float("nan")},
    ],
)
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="reload"):
        FilesOptions(directory=Path("live"), **wrong)

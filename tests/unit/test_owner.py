"""Who is known to be dead: only a process of this machine, this boot and this process namespace can be."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dualcert.clock import uptime
from dualcert.lifecycle import owner as owners
from dualcert.lifecycle.owner import Owner, is_dead, new_owner


@pytest.fixture
def owner() -> Owner:
    return new_owner()


def started(pid: int) -> str:
    """What the system says of a process's start, as proc(5) has it."""
    with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123 - a line of the system's
        return stat.read().rpartition(")")[2].split()[19]


def test_a_process_that_lives_is_not_dead(owner: Owner) -> None:
    assert not is_dead(str(owner))


def test_two_engines_of_one_process_are_two_owners(owner: Owner) -> None:
    assert str(owner) != str(new_owner())


def test_a_process_that_has_ended_is_dead_even_while_its_parent_has_not_noticed(owner: Owner) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        theirs = str(replace(owner, pid=process.pid, started=started(process.pid)))
        assert not is_dead(theirs)

        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not waited for

        assert is_dead(theirs)
    finally:
        process.kill()
        process.communicate()
    assert is_dead(theirs)


def test_another_process_under_the_number_of_a_dead_one_does_not_bring_it_back(owner: Owner) -> None:
    assert is_dead(str(replace(owner, started="1")))


def test_whoever_is_elsewhere_is_never_known_to_be_dead(owner: Owner) -> None:
    boot, _, namespace = owner.place.partition("/")

    assert not is_dead(str(replace(owner, host="elsewhere", started="1")))
    assert not is_dead(str(replace(owner, place=f"{boot}/other-{namespace}", started="1")))
    assert not is_dead("who is this")


def test_nobody_lives_on_from_before_this_boot(owner: Owner) -> None:
    _, _, namespace = owner.place.partition("/")

    assert is_dead(str(replace(owner, place=f"another-boot/{namespace}")))


def test_another_machine_of_our_name_is_told_by_that_it_was_heard_of_since_we_booted(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, namespace = owner.place.partition("/")
    theirs = str(replace(owner, place=f"another-boot/{namespace}"))
    running = uptime()
    assert running is not None
    assert running > 0

    assert not is_dead(theirs, timedelta(seconds=running - 1))
    assert is_dead(theirs, timedelta(seconds=running + 3600))
    assert is_dead(str(replace(owner, started="1")), timedelta(0)), "a process of this boot is looked up"
    monkeypatch.setattr(owners, "uptime", lambda: None)
    assert not is_dead(theirs, timedelta(days=10_000))


def test_whoever_cannot_tell_his_boot_is_not_known_to_be_dead(owner: Owner) -> None:
    _, _, namespace = owner.place.partition("/")

    assert not is_dead(str(replace(owner, place=f"/{namespace}")))


def test_a_process_that_the_system_hides_from_us_is_not_dead(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under `ProtectProc=invisible`: another user's process has no entry, and signals to it are refused."""
    exists, hidden = Path.exists, Path(f"/proc/{2**22 + 7}/stat")
    theirs = str(replace(owner, pid=2**22 + 7, started="1"))
    monkeypatch.setattr(Path, "exists", lambda path: path != hidden and exists(path))
    assert is_dead(theirs)

    def kill(_pid: int, _number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert not is_dead(theirs)

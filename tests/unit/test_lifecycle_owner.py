"""What else the system may say of a process; whether an owner is dead is told in ``test_owner``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from dualcert.lifecycle.owner import is_dead, new_owner


def test_a_number_that_no_process_has_is_dead() -> None:
    assert is_dead(str(replace(new_owner(), pid=2**22 + 1)))


def test_an_owner_is_told_by_where_who_and_since_when() -> None:
    owner = new_owner()
    host, place, pid, started, engine = str(owner).split("|")
    assert (host, place, int(pid), started) == (owner.host, owner.place, owner.pid, owner.started)
    assert started.isdigit()
    assert int(engine) == owner.engine


@pytest.mark.parametrize(
    "ended", [ProcessLookupError(), FileNotFoundError()], ids=lambda one: type(one).__name__
)
def test_a_process_that_ends_while_it_is_looked_at_is_dead(
    monkeypatch: pytest.MonkeyPatch, ended: OSError
) -> None:
    """Between opening and reading its entry the system may say "no such process" in another way."""
    owner = replace(new_owner(), pid=123_456)
    read_text = Path.read_text

    def read(path: Path) -> str:
        if path == Path("/proc/123456/stat"):
            raise ended
        return read_text(path)

    monkeypatch.setattr(Path, "read_text", read)
    assert is_dead(str(owner))


@pytest.mark.parametrize("name", ["plain", "with ) S 1 2 3", "(two words)"])
def test_a_processs_name_may_hold_what_it_likes(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    owner = replace(new_owner(), pid=123_456, started="777")
    fields = [
        "S",
        *(str(number) for number in range(4, 22)),
        "777",
        *(str(number) for number in range(23, 53)),
    ]
    read_text = Path.read_text

    def read(path: Path) -> str:
        return f"123456 ({name}) {' '.join(fields)}\n" if path.name == "stat" else read_text(path)

    monkeypatch.setattr(Path, "read_text", read)
    assert not is_dead(str(owner))
    assert is_dead(str(replace(owner, started="778")))
    fields[0] = "Z"
    assert is_dead(str(owner))


def test_where_there_is_no_proc_the_system_is_asked_in_another_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ps = tmp_path / "ps"
    ps.write_text('#!/bin/sh\n[ "$*" = "-o lstart= -p 123456" ] && echo "Sun Mar  1 12:00:00 2026 "\n')
    ps.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    exists, read_text = Path.exists, Path.read_text

    def read(path: Path) -> str:
        if path.name == "stat":
            raise FileNotFoundError(path)
        return read_text(path)

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(Path, "exists", lambda path: path != Path("/proc/self/stat") and exists(path))
    owner = replace(new_owner(), pid=123_456, started="Sun Mar  1 12:00:00 2026")
    assert not is_dead(str(owner))
    assert is_dead(str(replace(owner, started="Sun Mar  1 12:00:01 2026")))
    assert is_dead(str(replace(owner, pid=123_457)))

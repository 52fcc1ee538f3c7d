"""Replacing a KEK in its file: cut off anywhere there is one that wraps, and what was wrapped opens."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dualcert.errors import ConfigurationError, KeyUnreadable
from dualcert.plugins.keys.file import FileKeyOptions, FileKeyProtector
from dualcert.ports.keys import KeyContext
from tests.program import REPOSITORY

CONTEXT = KeyContext("primary", "ab" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "keys" / "primary.kek"
    FileKeyProtector.create(made)
    return made


def protector(path: Path) -> FileKeyProtector:
    """As another process would make it."""
    return FileKeyProtector("primary", FileKeyOptions(path=path))


def names(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir()}


# --- what lies where --------------------------------------------------------------------------------------


def test_the_old_kek_keeps_its_file_under_another_name_and_nothing_else_is_left(path: Path) -> None:
    before, content = protector(path).key_id, path.read_bytes()
    umask = os.umask(0)
    try:
        protector(path).new_kek()
    finally:
        os.umask(umask)
    assert names(path) == {"primary.kek", f"primary.kek.{before}"}
    assert (path.parent / f"primary.kek.{before}").read_bytes() == content != path.read_bytes()
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    protector(path).drop_kek(before, lambda: True)
    assert names(path) == {"primary.kek"}


def test_two_domains_in_one_folder_do_not_meet(path: Path) -> None:
    FileKeyProtector.create(other := path.with_name("primary.kek2"))
    before = protector(other).key_id
    protector(path).new_kek()
    protector(other).new_kek()
    assert len(protector(path).older_keks()) == 1
    assert protector(other).older_keks() == (before,)


def test_a_link_to_the_kek_stays_a_link(path: Path, tmp_path: Path) -> None:
    (link := tmp_path / "link.kek").symlink_to(path)
    before, wrapped = protector(link).key_id, protector(link).wrap(b"x", CONTEXT)

    now = protector(link).new_kek()

    assert link.is_symlink()
    assert protector(path).key_id == protector(link).key_id == now
    assert names(path) == {"primary.kek", f"primary.kek.{before}"}
    assert protector(link).unwrap(wrapped, CONTEXT) == b"x"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_whoever_could_read_the_old_kek_can_read_the_new_one(path: Path) -> None:
    os.chown(path, 0, 65534)
    protector(path).new_kek()
    assert (path.stat().st_uid, path.stat().st_gid) == (0, 65534)


def test_an_older_kek_that_others_can_read_is_refused(path: Path) -> None:
    wrapped, before = protector(path).wrap(b"x", CONTEXT), protector(path).key_id
    protector(path).new_kek()
    (older := path.with_name(f"primary.kek.{before}")).chmod(0o640)
    with pytest.raises(ConfigurationError, match="0640") as caught:
        protector(path).unwrap(wrapped, CONTEXT)
    assert str(older) in caught.value.reason


def test_an_older_kek_under_another_ones_name_is_not_taken_for_it(path: Path) -> None:
    wrapped, before = protector(path).wrap(b"x", CONTEXT), protector(path).key_id
    now = protector(path).new_kek()
    shutil.copy2(path, path.with_name(f"primary.kek.{before}"))
    with pytest.raises(ConfigurationError, match=now):
        protector(path).unwrap(wrapped, CONTEXT)


def test_an_older_kek_that_was_brought_back_opens_again(path: Path, tmp_path: Path) -> None:
    wrapped, before = protector(path).wrap(b"x", CONTEXT), protector(path).key_id
    running = protector(path)
    running.new_kek()
    kept = Path(shutil.copy2(path.with_name(f"primary.kek.{before}"), tmp_path / "kept"))
    running.drop_kek(before, lambda: True)
    with pytest.raises(KeyUnreadable):
        running.unwrap(wrapped, CONTEXT)

    shutil.copy2(kept, path.with_name(f"primary.kek.{before}"))

    assert running.unwrap(wrapped, CONTEXT) == b"x"


def test_a_prepared_kek_that_was_brought_here_opens_what_another_machine_wraps_under_it(
    path: Path, tmp_path: Path
) -> None:
    there = Path(shutil.copytree(path.parent, tmp_path / "there")) / "primary.kek"
    running = protector(there)
    before = running.key_id
    coming = protector(path).prepare_kek()
    assert names(path) == {"primary.kek", "primary.kek.next"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    shutil.copy2(path.with_name("primary.kek.next"), there.with_name("primary.kek.next"))
    protector(path).new_kek()

    assert running.unwrap(protector(path).wrap(b"x", CONTEXT), CONTEXT) == b"x"

    assert running.key_id == before
    assert protector(path).unwrap(running.wrap(b"x", CONTEXT), CONTEXT) == b"x"
    assert running.new_kek() == coming == protector(path).key_id
    assert names(there) == names(path) == {"primary.kek", f"primary.kek.{before}"}


def test_a_copy_of_the_current_kek_is_not_taken_for_the_next(path: Path) -> None:
    before = protector(path).key_id
    shutil.copy2(path, path.with_name("primary.kek.next"))
    assert protector(path).next_kek() is None
    assert protector(path).new_kek() != before
    assert protector(path).older_keks() == (before,)


def test_a_prepared_kek_that_others_can_read_is_not_taken(path: Path) -> None:
    before = protector(path).key_id
    protector(path).prepare_kek()
    path.with_name("primary.kek.next").chmod(0o644)
    with pytest.raises(ConfigurationError, match="0644"):
        protector(path).new_kek()
    assert (protector(path).key_id, protector(path).older_keks()) == (before, ())


def test_a_kek_that_was_replaced_in_its_place_is_read_again_before_it_wraps(path: Path) -> None:
    """A copy from another machine, without a rename."""
    running = protector(path)
    before = running.key_id
    FileKeyProtector.create(other := path.with_name("other"))
    path.write_bytes(other.read_bytes())

    wrapped = running.wrap(b"x", CONTEXT)

    assert running.key_id == protector(path).key_id != before
    assert protector(path).unwrap(wrapped, CONTEXT) == b"x"


def test_nothing_is_wrapped_under_a_kek_that_lies_nowhere_any_more(path: Path) -> None:
    running = protector(path)
    wrapped = running.wrap(b"x", CONTEXT)
    path.unlink()
    with pytest.raises(ConfigurationError, match="missing"):
        running.wrap(b"x", CONTEXT)
    with pytest.raises(ConfigurationError, match="missing"):
        running.hold_kek()
    assert running.unwrap(wrapped, CONTEXT) == b"x"


# --- cut off anywhere -------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


STEPS = ("open", "write", "fsync", "link", "rename", "replace", "unlink", "fchown")


@pytest.fixture
def die_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Die before the nth step in the file system from here on; 0: never."""
    left = [0]

    def step(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            if left[0]:
                left[0] -= 1
                if not left[0]:
                    raise Killed
            return real(*arguments, **keywords)

        return counted

    for name in STEPS:
        monkeypatch.setattr(os, name, step(getattr(os, name)))

    def arm(number: int) -> None:
        left[0] = number

    yield arm
    left[0] = 0


def deaths(die_at: Callable[[int], None], act: Callable[[], object]) -> Iterator[int]:
    """Die once at each step of ``act``; after each one it is looked at what is there."""
    number = 0
    while True:
        number += 1
        die_at(number)
        try:
            act()
        except Killed:
            die_at(0)
            yield number
        else:
            die_at(0)
            return


def test_a_replacement_that_dies_leaves_one_that_wraps_and_what_was_wrapped_opens(
    path: Path, die_at: Callable[[int], None]
) -> None:
    before = protector(path).key_id
    wrapped = [protector(path).wrap(b"x", CONTEXT)]
    died = 0
    for _ in deaths(die_at, lambda: protector(path).new_kek()):
        died += 1
        wrapped.append(protector(path).wrap(b"x", CONTEXT))
        assert {protector(path).unwrap(one, CONTEXT) for one in wrapped} == {b"x"}
    assert died > 10
    assert protector(path).key_id != before
    assert before in protector(path).older_keks()
    assert names(path) == {"primary.kek", *(f"primary.kek.{one}" for one in protector(path).older_keks())}


def test_one_that_died_before_the_new_kek_wraps_is_begun_again_and_not_taken_for_an_older_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has its second name already, and the rename has not come about."""
    before = protector(path).key_id
    monkeypatch.setattr(Path, "replace", lambda old, new: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        protector(path).new_kek()
    monkeypatch.undo()
    os.link(path, path.with_name(f"primary.kek.{before}"))
    assert (protector(path).key_id, protector(path).older_keks()) == (before, ())

    now = protector(path).new_kek()

    assert names(path) == {"primary.kek", f"primary.kek.{before}"}
    assert (protector(path).key_id, protector(path).older_keks()) == (now, (before,))


def test_a_removal_that_dies_has_removed_it_or_not(path: Path, die_at: Callable[[int], None]) -> None:
    before, wrapped = protector(path).key_id, protector(path).wrap(b"x", CONTEXT)
    protector(path).new_kek()
    for _ in deaths(die_at, lambda: protector(path).drop_kek(before, lambda: True)):
        if protector(path).older_keks():
            assert protector(path).unwrap(wrapped, CONTEXT) == b"x"
    assert protector(path).older_keks() == ()


def test_a_full_disk_leaves_the_old_kek_and_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = protector(path).key_id

    def full(descriptor: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ConfigurationError, match="No space left on device"):
        protector(path).new_kek()
    monkeypatch.undo()
    assert protector(path).key_id == before
    assert names(path) == {"primary.kek"}


def test_one_that_is_replaced_while_its_file_is_being_locked_is_not_held_for_the_new_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, left = fcntl.flock, [1]

    def flock(descriptor: int, operation: int) -> None:
        if left:
            left.pop()
            protector(path).new_kek()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    hold = protector(path).hold_kek()

    assert hold.key_id == protector(path).key_id
    protector(path).new_kek()
    assert not protector(path).drop_kek(hold.key_id, lambda: True)


# --- beside other processes -------------------------------------------------------------------------------

_HOLDER = """
import sys
from pathlib import Path
from dualcert.plugins.keys.file import FileKeyOptions, FileKeyProtector
hold = FileKeyProtector("primary", FileKeyOptions(path=Path(sys.argv[1]))).hold_kek()
print(hold.key_id, flush=True)
sys.stdin.read()
"""


def test_a_process_that_dies_holds_nothing_any_more(path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert holder.stdout is not None
    held = holder.stdout.readline().strip()
    rotating = protector(path)
    rotating.new_kek()
    assert held == rotating.older_keks()[0]
    assert not rotating.drop_kek(held, lambda: True)

    holder.kill()
    holder.communicate()

    assert rotating.drop_kek(held, lambda: True)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_who_wraps_a_thousand_keys_at_once_holds_one_file_open(path: Path) -> None:
    running = protector(path)
    before = open_files()
    holds = [running.hold_kek() for _ in range(1000)]
    assert open_files() == before + 1
    del holds
    assert open_files() == before

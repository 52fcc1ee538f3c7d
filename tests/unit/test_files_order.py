"""In which order files come to the disk and leave it: what a power cut may take away, and what it must not."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dualcert.errors import DeployError
from dualcert.plugins.deploy.files import FilesDeployer, FilesOptions
from dualcert.plugins.keys.file import FileKeyOptions, FileKeyProtector
from dualcert.testing.placements import placement

OLD = placement("a.example.com", 1, 1)
NEW = placement("a.example.com", 2, 2)
OTHER = placement("b.example.com", 1, 3)

Noted = list[tuple[str, str]]
"""What was done, and to which file: the place of a sync, the new name of a rename."""


def place_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Noted:
    """Everything that matters to the order, from the moment in which the list is emptied."""
    found: Noted = []

    def noting(name: str, of: Callable[..., str]) -> None:
        act: Callable[..., Any] = getattr(os, name)

        def noticed(*arguments: Any, **keywords: Any) -> Any:
            found.append((name, of(*arguments)))
            return act(*arguments, **keywords)

        monkeypatch.setattr(os, name, noticed)

    noting("fsync", lambda descriptor: place_of(descriptor).name)
    for name in ("rename", "replace"):
        noting(name, lambda _, after: Path(after).name)
    noting("unlink", lambda path: Path(path).name)
    return found


# --- KEKs ------------------------------------------------------------------------------------------------


def protector(path: Path) -> FileKeyProtector:
    return FileKeyProtector("primary", FileKeyOptions(path=path))


def test_a_kek_is_on_the_disk_with_every_folder_that_was_made_for_it(tmp_path: Path, noted: Noted) -> None:
    (tmp_path / "top").mkdir()
    FileKeyProtector.create(tmp_path / "top" / "one" / "two" / "primary.kek")
    assert noted[0] == ("fsync", "primary.kek")
    assert set(noted[1:]) == {("fsync", "two"), ("fsync", "one"), ("fsync", "top")}


def test_a_kek_is_replaced_when_the_next_one_and_the_name_of_the_old_one_are_on_the_disk(
    tmp_path: Path, noted: Noted
) -> None:
    FileKeyProtector.create(path := tmp_path / "keys" / "primary.kek")
    before = protector(path).key_id
    noted.clear()

    protector(path).new_kek()

    kept = f"primary.kek.{before}"
    done = [one for one in noted if one[0] != "unlink"]
    assert done == [
        ("fsync", "primary.kek.new"),
        ("replace", "primary.kek.next"),
        ("fsync", "keys"),
        ("replace", kept),
        ("fsync", "keys"),
        ("replace", "primary.kek"),
        ("fsync", "keys"),
    ]
    noted.clear()
    protector(path).drop_kek(before, lambda: True)
    assert noted == [("unlink", kept), ("fsync", "keys")]


# --- what a target serves --------------------------------------------------------------------------------


def deployer(directory: Path) -> FilesDeployer:
    return FilesDeployer(FilesOptions(directory=directory))


def deploy(directory: Path, *wanted: Any) -> None:
    assert deployer(directory).deploy(wanted) == dict.fromkeys(one.pair for one in wanted)


def test_the_folder_of_a_pair_s_first_version_is_on_the_disk_before_it_is_served(
    tmp_path: Path, noted: Noted
) -> None:
    deploy(tmp_path / "live", OLD)

    served = noted.index(("rename", OLD.pair))
    assert {("fsync", ".versions"), ("fsync", OLD.pair)} <= set(noted[:served])
    assert noted[-1] == ("fsync", "live")


def test_replaced_keys_leave_first_and_the_folder_they_were_in_is_written(
    tmp_path: Path, noted: Noted
) -> None:
    deploy(tmp_path, OLD)
    deploy(tmp_path, NEW)
    noted.clear()

    deployer(tmp_path).purge(NEW.pair, NEW.version)

    assert noted[:2] == [("unlink", "privkey.pem"), ("unlink", "bundle.pem")]
    assert noted[-1] == ("fsync", NEW.pair)
    noted.clear()
    deployer(tmp_path).purge(NEW.pair, NEW.version)
    assert noted == []


def test_a_pair_that_is_removed_is_served_no_more_before_its_versions_go(
    tmp_path: Path, noted: Noted
) -> None:
    deploy(tmp_path / "live", OLD, OTHER)
    noted.clear()

    deployer(tmp_path / "live").remove(OLD.pair)

    gone, written = noted.index(("unlink", OLD.pair)), noted.index(("fsync", "live"))
    key, folder = noted.index(("unlink", "privkey.pem")), noted.index(("fsync", ".versions"))
    assert gone < written < key < folder


# --- what is left of what failed -------------------------------------------------------------------------


def versions(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in (directory / ".versions").glob("*/*"))


def test_a_version_that_does_not_come_to_the_disk_is_taken_away_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(tmp_path, OLD)
    before, fsync = versions(tmp_path), os.fsync

    def failing(descriptor: int) -> None:
        if f".versions/{NEW.pair}/2-2-" in str(place_of(descriptor)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    results = deployer(tmp_path).deploy([NEW, OTHER])

    assert isinstance(results[NEW.pair], DeployError)
    assert results[OTHER.pair] is None
    assert [one for one in versions(tmp_path) if OTHER.pair not in one] == before


def test_where_no_reload_can_be_noted_nothing_of_what_was_written_stays(tmp_path: Path) -> None:
    deploy(tmp_path, OLD)
    before = versions(tmp_path)
    (tmp_path / ".versions" / ".switched.next").mkdir()  # where the note is made

    results = deployer(tmp_path).deploy([NEW, OTHER])

    assert all(isinstance(one, DeployError) for one in results.values())
    assert versions(tmp_path) == before

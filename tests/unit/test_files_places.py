"""The `files` deployer where writing is not possible, and where others have been."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import resource
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dualcert.errors import DeployError
from dualcert.plugins.deploy.files import FilesDeployer, FilesOptions
from dualcert.ports.deploy import Held, Placement, Version
from dualcert.testing.clock import FakeClock
from dualcert.testing.placements import placement

OLD = placement("a.example.com", 1, 1)
NEW = placement("a.example.com", 2, 2)
OTHER = placement("b.example.com", 1, 3)
NOBODY = 65534
FILES = ["bundle.pem", "cert.pem", "chain.pem", "fullchain.pem", "privkey.pem"]


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk() -> Iterator[Path | None]:
    """A file system of 1 MB; None where this user may not mount one."""
    place = Path(tempfile.mkdtemp(prefix="dualcert-disk-"))
    mounted = os.geteuid() == 0 and mount("-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", str(place))
    try:
        yield place if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    place = Path(tempfile.mkdtemp(prefix="dualcert-live-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def deployer(directory: Path) -> FilesDeployer:
    return FilesDeployer(FilesOptions(directory=directory))


def deploy(directory: Path, *wanted: Placement) -> None:
    assert deployer(directory).deploy(wanted) == dict.fromkeys(one.pair for one in wanted)


def error_of(directory: Path, wanted: Placement) -> DeployError:
    try:
        error = deployer(directory).deploy([wanted])[wanted.pair]
    except DeployError as raised:  # nothing at all could be attempted
        error = raised
    assert error is not None
    return error


def serves(directory: Path, wanted: Placement) -> None:
    assert deployer(directory).read_back([wanted.pair]) == {wanted.pair: Held(wanted.sha256, wanted.version)}
    text = (directory / wanted.pair / "bundle.pem").read_bytes()
    assert text == wanted.private_key + wanted.certificate.encode() + wanted.chain.encode()


def versions(directory: Path, pair: str = OLD.pair) -> list[str]:
    return sorted(path.name for path in (directory / ".versions" / pair).iterdir())


@contextmanager
def nearly_full(disk: Path | None) -> Iterator[None]:
    """On a disk of its own: full. Elsewhere: this process may not write a file as long as a bundle."""
    if disk is not None:
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield
        filler.unlink()
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_what_was_served_and_nothing_half_written(
    small_disk: Path | None, tmp_path: Path
) -> None:
    live = (small_disk or tmp_path) / "live"
    deploy(live, OLD)
    before = versions(live)
    with nearly_full(small_disk):
        error = error_of(live, NEW)
        assert error.name == NEW.pair
        assert ("No space left" if small_disk else "File too large") in error.reason
        assert error.remedy is not None
        assert ("free space" if small_disk else "LimitFSIZE") in error.remedy
        serves(live, OLD)
        assert versions(live) == before
    deploy(live, NEW)
    serves(live, NEW)


def test_a_read_only_folder_leaves_what_was_served(small_disk: Path | None, public_folder: Path) -> None:
    live = small_disk or public_folder
    deploy(live, OLD)
    with read_only(live, mounted=small_disk is not None):
        deploy(live, OLD)  # nothing to write
        error = error_of(live, NEW)
        assert error.name == NEW.pair
        assert ("Read-only" if small_disk else "Permission denied") in error.reason
        assert error.remedy is not None
        assert "writ" in error.remedy
    serves(live, OLD)
    deploy(live, NEW)
    serves(live, NEW)


@contextmanager
def read_only(live: Path, *, mounted: bool) -> Iterator[None]:
    if mounted:
        assert mount("-o", "remount,ro", str(live))
        yield
        assert mount("-o", "remount,rw", str(live))
        return
    everything = [live, *live.rglob("*")]
    folders = [path for path in everything if path.is_dir() and not path.is_symlink()]
    root = os.geteuid() == 0
    for folder in folders:
        folder.chmod(0o555)
    if root:  # permission bits do not bind root
        for path in everything:
            os.chown(path, NOBODY, -1, follow_symlinks=False)
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for folder in folders:
            folder.chmod(0o755)


def test_a_user_without_the_right_is_told_so(public_folder: Path) -> None:
    live = public_folder / "live"
    if os.geteuid() == 0:  # permission bits do not bind root
        os.seteuid(NOBODY)
        try:
            error = error_of(live, NEW)
        finally:
            os.seteuid(0)
    else:
        public_folder.chmod(0o555)
        error = error_of(live, NEW)
        public_folder.chmod(0o755)
    assert "Permission denied" in error.reason
    assert error.remedy is not None
    assert "right to write" in error.remedy
    assert not live.exists()


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_an_operator_has_made_is_left_alone(tmp_path: Path, kind: str) -> None:
    place = tmp_path / OLD.pair
    if kind == "folder":
        place.mkdir()
        (place / "cert.pem").write_text(OTHER.certificate)
    elif kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to("elsewhere")
    before = place.lstat()
    results = deployer(tmp_path).deploy([NEW, OTHER])
    error = results[NEW.pair]
    assert error is not None
    assert str(place) in error.reason
    assert error.remedy is not None
    assert f"mv {place}" in error.remedy
    assert results[OTHER.pair] is None
    assert place.lstat() == before
    with pytest.raises(DeployError, match="not made by dualcert"):
        deployer(tmp_path).remove(OLD.pair)
    assert place.lstat() == before
    there = Held(OTHER.sha256, None) if kind == "folder" else None
    assert deployer(tmp_path).read_back([OLD.pair]) == {OLD.pair: there}


@pytest.mark.parametrize("pair", ["", ".", "..", "../up", "a/b", "/abs", ".lock", "nul\0byte"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, pair: str) -> None:
    live = tmp_path / "live"
    bad = placement("a.example.com")
    wrong = dataclasses.replace(bad, pair=pair)
    results = deployer(live).deploy([wrong, OTHER])
    assert isinstance(results[pair], DeployError)
    assert results[OTHER.pair] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["live"]
    for call in (
        lambda: deployer(live).remove(pair),
        lambda: deployer(live).purge(pair, Version(9, 9)),
        lambda: deployer(live).read_back([pair]),
    ):
        with pytest.raises(DeployError):
            call()
    serves(live, OTHER)


def test_the_files_and_their_modes_whatever_the_umask(tmp_path: Path) -> None:
    live = tmp_path / "live"
    before = os.umask(0o077)
    try:
        deploy(live, OLD, placement("*.example.com"))
    finally:
        os.umask(before)
    for pair in (OLD.pair, "_wildcard.example.com"):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (live / pair).iterdir()}
        private = ("bundle.pem", "privkey.pem")
        assert modes == {name: 0o600 if name in private else 0o644 for name in FILES}
        for folder in (live / ".versions", live / ".versions" / pair, live / pair):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_the_folder_can_be_moved(tmp_path: Path) -> None:
    deploy(tmp_path / "live", OLD)
    (tmp_path / "live").rename(tmp_path / "moved")
    serves(tmp_path / "moved", OLD)


def test_an_empty_chain_is_an_empty_file(tmp_path: Path) -> None:
    alone = dataclasses.replace(OLD, chain="")
    deploy(tmp_path, alone)
    serves(tmp_path, alone)
    assert (tmp_path / OLD.pair / "chain.pem").read_bytes() == b""


@pytest.mark.parametrize("certificate", ["", "no certificate"])
def test_what_is_no_certificate_is_refused(tmp_path: Path, certificate: str) -> None:
    error = error_of(tmp_path, dataclasses.replace(OLD, certificate=certificate))
    assert error.name == OLD.pair
    assert deployer(tmp_path).read_back([OLD.pair]) == {OLD.pair: None}


def test_of_two_versions_in_one_call_the_newer_is_served(tmp_path: Path) -> None:
    assert deployer(tmp_path).deploy([NEW, OLD]) == {NEW.pair: None}
    serves(tmp_path, NEW)


def damage_by_removal(folder: Path) -> None:
    (folder / "privkey.pem").unlink()


def damage_by_change(folder: Path) -> None:
    (folder / "fullchain.pem").write_text(OTHER.certificate)


def damage_by_cutting(folder: Path) -> None:
    (folder / "bundle.pem").write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_by_removal, damage_by_change, damage_by_cutting, shutil.rmtree])
def test_damage_is_seen_and_mended(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    deploy(tmp_path, OLD)
    damage((tmp_path / OLD.pair).resolve())
    assert deployer(tmp_path).read_back([OLD.pair]) == {OLD.pair: None}
    deploy(tmp_path, OLD)
    serves(tmp_path, OLD)
    deploy(tmp_path, OLD)
    assert len(versions(tmp_path)) == 1


def test_a_key_that_others_can_read_is_written_anew(tmp_path: Path) -> None:
    deploy(tmp_path, OLD)
    (tmp_path / OLD.pair / "privkey.pem").chmod(0o640)
    deploy(tmp_path, OLD)
    assert stat.S_IMODE((tmp_path / OLD.pair / "privkey.pem").stat().st_mode) == 0o600


def test_what_an_interrupted_run_has_left_is_swept(tmp_path: Path) -> None:
    deploy(tmp_path, OLD)
    half = tmp_path / ".versions" / OLD.pair / f"2-2-{NEW.sha256.hex()[:16]}"
    half.mkdir()
    (half / "privkey.pem").write_bytes(NEW.private_key[:20])
    (half.parent / ".next").symlink_to("nowhere")
    deploy(tmp_path, NEW)
    serves(tmp_path, NEW)
    deployer(tmp_path).purge(NEW.pair, NEW.version)
    assert versions(tmp_path) == [f"2-2-{NEW.sha256.hex()[:16]}"]


def test_purge_keeps_what_is_not_older(tmp_path: Path) -> None:
    for epoch in range(4):
        deploy(tmp_path, placement(OLD.pair, epoch, epoch))
    deployer(tmp_path).purge(OLD.pair, Version(2, 2))
    assert [name[:3] for name in versions(tmp_path)] == ["2-2", "3-3"]


def test_a_look_that_a_switch_and_a_purge_overtake_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(tmp_path, OLD)
    readlink = os.readlink
    overtaken: list[str] = []

    def overtake(path: Path) -> str:
        text = readlink(path)
        if not overtaken:
            overtaken.append(text)
            deploy(tmp_path, NEW)
            deployer(tmp_path).purge(NEW.pair, NEW.version)
        return text

    monkeypatch.setattr(os, "readlink", overtake)
    assert deployer(tmp_path).read_back([OLD.pair]) == {OLD.pair: Held(NEW.sha256, NEW.version)}
    assert overtaken


def test_a_lock_that_is_never_let_go_ends_the_wait(tmp_path: Path) -> None:
    deploy(tmp_path, OLD)
    clock = FakeClock()
    with (tmp_path / ".lock").open() as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(DeployError, match=r"another process has held .*/\.lock for 60 seconds") as caught:
            FilesDeployer(FilesOptions(directory=tmp_path), clock=clock).deploy([NEW])
    assert sum(clock.slept) >= 60
    assert caught.value.remedy is not None
    assert "fuser" in caught.value.remedy
    deploy(tmp_path, NEW)


def test_every_file_is_on_the_disk_before_it_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(tmp_path, OLD)
    synced: list[int] = []
    before_switch: list[int] = []
    fsync, rename = os.fsync, os.rename

    def noting_fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def noting_rename(*arguments: Any, **keywords: Any) -> None:
        before_switch.extend(synced)
        rename(*arguments, **keywords)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "rename", noting_rename)
    deploy(tmp_path, NEW)
    folder = tmp_path / NEW.pair
    wanted = {path.stat().st_ino for path in (folder, folder.resolve().parent, *folder.iterdir())}
    assert wanted <= set(before_switch)
    assert synced[-1] == tmp_path.stat().st_ino

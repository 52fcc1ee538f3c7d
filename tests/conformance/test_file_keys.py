from __future__ import annotations

import base64
import os
import resource
import stat
from pathlib import Path

import pytest

from dualcert.errors import ConfigurationError, KeyUnreadable
from dualcert.plugins.keys.file import FileKeyOptions, FileKeyProtector
from dualcert.ports.keys import KeyContext
from dualcert.testing.keys import RotatingKeyProtectorConformance


class TestFileKeyProtector(RotatingKeyProtectorConformance):
    plugin = FileKeyProtector

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def protector(self, domain: str, kek: int) -> FileKeyProtector:
        path = self.folder / f"{kek}.kek"
        if not path.exists():
            FileKeyProtector.create(path)
        return FileKeyProtector(domain, FileKeyOptions(path=path))

    def kek(self, kek: int) -> bytes:
        return base64.b64decode((self.folder / f"{kek}.kek").read_bytes())


def kek_file(folder: Path) -> Path:
    path = folder / "keys" / "primary.kek"
    FileKeyProtector.create(path)
    return path


def problem(path: Path) -> ConfigurationError:
    """What is said when the KEK is first needed, and not before."""
    protector = FileKeyProtector("primary", FileKeyOptions(path=path))
    with pytest.raises(ConfigurationError) as caught:
        _ = protector.key_id
    assert "'primary'" in caught.value.reason
    assert str(path) in caught.value.reason
    return caught.value


def test_a_new_kek_is_32_random_bytes_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = kek_file(tmp_path)
        FileKeyProtector.create(other := path.with_name("backup.kek"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    text = path.read_text()
    assert text.endswith("\n")
    assert len(base64.b64decode(text.strip(), validate=True)) == 32
    assert text != other.read_text()


def test_what_stands_is_never_overwritten(tmp_path: Path) -> None:
    path = kek_file(tmp_path)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="exists already"):
        FileKeyProtector.create(path)
    (link := tmp_path / "link.kek").symlink_to("nowhere")
    with pytest.raises(ConfigurationError, match="exists already"):
        FileKeyProtector.create(link)
    assert path.read_bytes() == before


def test_a_place_where_no_kek_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot write the KEK"):
        FileKeyProtector.create(tmp_path / "file" / "x.kek")


def test_a_full_disk_leaves_no_half_kek(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(ConfigurationError, match="cannot write"):
            FileKeyProtector.create(tmp_path / "x.kek")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "x.kek").exists()


def test_a_missing_kek_says_how_to_make_it(tmp_path: Path) -> None:
    assert "dualcert init" in (problem(tmp_path / "primary.kek").remedy or "")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644])
def test_a_kek_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = kek_file(tmp_path)
    path.chmod(mode)
    error = problem(path)
    assert f"{mode:04o}" in error.reason
    assert error.remedy == f"chmod 600 {path}"


def test_a_kek_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kek_file(tmp_path)
    if os.geteuid() == 0:
        os.chown(path, 65534, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 65533)
    error = problem(path)
    assert "another user" in error.reason
    assert "runuser -u" in (error.remedy or ""), "its owner, a daemon, has to read it on"


def test_a_kek_of_root_is_fine_for_who_may_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kek_file(tmp_path)
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "geteuid", lambda: 65533)
    assert FileKeyProtector("primary", FileKeyOptions(path=path)).key_id


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_what_is_no_file_is_no_kek(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "primary.kek"
    if kind == "folder":
        path.mkdir(0o700)
    else:
        os.mkfifo(path, 0o600)
    assert "regular file" in problem(path).reason


@pytest.mark.parametrize("text", ["", "\n", "AAAA", "A" * 43, "A" * 44 + "\n" + "A" * 44, "ä" * 44, "!" * 44])
def test_a_kek_that_is_not_32_bytes_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    path = kek_file(tmp_path)
    path.write_text(text)
    error = problem(path)
    assert error.remedy
    assert not text.strip() or text not in str(error)


def test_one_that_waits_for_a_kek_finds_it_when_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "primary.kek"
    protector = FileKeyProtector("primary", FileKeyOptions(path=path))
    with pytest.raises(ConfigurationError):
        protector.wrap(b"x", KeyContext("primary", "ab"))
    FileKeyProtector.create(path)
    assert (
        protector.unwrap(protector.wrap(b"x", KeyContext("primary", "ab")), KeyContext("primary", "ab"))
        == b"x"
    )


def test_two_domains_that_share_a_kek_show_it_and_still_do_not_open_each_other(tmp_path: Path) -> None:
    path = kek_file(tmp_path)
    one, other = (FileKeyProtector(domain, FileKeyOptions(path=path)) for domain in ("primary", "backup"))
    assert one.key_id == other.key_id
    wrapped = one.wrap(b"x", KeyContext("primary", "ab"))
    with pytest.raises(KeyUnreadable):
        other.unwrap(wrapped, KeyContext("backup", "ab"))


def test_the_kek_is_read_once(tmp_path: Path) -> None:
    path = kek_file(tmp_path)
    protector = FileKeyProtector("primary", FileKeyOptions(path=path))
    wrapped = protector.wrap(b"x", KeyContext("primary", "ab"))
    path.unlink()
    assert protector.unwrap(wrapped, KeyContext("primary", "ab")) == b"x"


def test_what_was_wrapped_under_another_kek_names_both(tmp_path: Path) -> None:
    path = kek_file(tmp_path)
    FileKeyProtector.create(tmp_path / "new.kek")
    old = FileKeyProtector("primary", FileKeyOptions(path=path))
    new = FileKeyProtector("primary", FileKeyOptions(path=tmp_path / "new.kek"))
    with pytest.raises(KeyUnreadable) as caught:
        new.unwrap(old.wrap(b"x", KeyContext("primary", "ab")), KeyContext("primary", "ab"))
    assert "another KEK" in caught.value.reason
    assert old.key_id in caught.value.reason
    assert new.key_id in caught.value.reason
    assert caught.value.remedy


def test_what_format_1_has_wrapped_opens_for_ever(tmp_path: Path) -> None:
    path = kek_file(tmp_path)
    path.write_text(base64.b64encode(bytes(range(32))).decode())
    wrapped = base64.b64decode(
        "AeV+yImWL8zTqQiqkEk8WpvL/0RudoJ8DQhwMmA5t2C59MCG9OSxZoXLVb6W+MmRBOf0lfVIJedOcniRlH2E"
        "i/Pc79zbjMlk/BnnnNdBYnuKShghlgsGG+rs8uTpTW4+b+gPzsdXHGU4"
    )
    protector = FileKeyProtector("primary", FileKeyOptions(path=path))
    assert protector.key_id == "e57ec889962fccd3"
    assert protector.unwrap(wrapped, KeyContext("primary", "ab" * 32)) == b"a secret"

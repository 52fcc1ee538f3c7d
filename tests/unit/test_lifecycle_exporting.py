"""Files that ``export`` writes: a key is for its owner alone, whatever stands in the folder already."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dualcert.errors import DeployError
from dualcert.lifecycle import exporting

KEY = "-----BEGIN PRIVATE KEY-----\n" + "k" * 4000
MOST = 1000


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_others_have_put_there_gets_no_key(tmp_path: Path) -> None:
    """The folder may be one that others write to, and the number of our process is no secret."""
    open_to_all = tmp_path / f".privkey.pem.{os.getpid()}"
    open_to_all.touch()
    open_to_all.chmod(0o666)
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / f".bundle.pem.{os.getpid()}").symlink_to(elsewhere)

    files = exporting._write(tmp_path, {"privkey.pem": KEY, "bundle.pem": KEY})

    for file in files:
        assert stat.S_IMODE(file.lstat().st_mode) == 0o600
        assert stat.S_ISREG(file.lstat().st_mode)
        assert file.read_text() == KEY
    assert not elsewhere.exists()


def test_a_key_that_has_no_room_leaves_no_piece_of_it(tmp_path: Path) -> None:
    with no_file_above(MOST), pytest.raises(DeployError, match="File too large"):
        exporting._write(tmp_path, {"cert.pem": "c" * 10, "privkey.pem": KEY})
    assert [file.name for file in tmp_path.iterdir()] == ["cert.pem"]

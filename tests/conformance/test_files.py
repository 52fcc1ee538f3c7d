from __future__ import annotations

import dataclasses
import os
import resource
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from dualcert.plugins.deploy.files import FilesDeployer, FilesOptions
from dualcert.ports.deploy import Placement, folder_name
from dualcert.testing.apart import Apart, Call
from dualcert.testing.deploy import DeployerConformance
from dualcert.testing.placements import fingerprint

# A server that loads its certificates when it is reloaded: it notes the reload, then takes what stands in the folder.
RELOAD = """
echo reload >> "$1/log"
[ ! -e "$1/broken" ] || { echo "configuration test failed" >&2; exit 1; }
rm -rf "$1/coming"; mkdir "$1/coming"
[ -z "$(ls "$2")" ] || cp -rL "$2"/* "$1/coming"
rm -rf "$1/loaded"; mv "$1/coming" "$1/loaded"
"""
LARGEST_FILE = 512 * 1024


class TestFilesDeployer(DeployerConformance):
    plugin = FilesDeployer

    @pytest.fixture(autouse=True)
    def _places(self, tmp_path: Path) -> Iterator[None]:
        self.live = tmp_path / "live"
        self.server = tmp_path / "server"
        self.server.mkdir()
        self.apart = Apart()
        yield
        self.apart.close()

    def options(self) -> FilesOptions:
        return FilesOptions(
            directory=self.live, reload=("sh", "-c", RELOAD, "reload", str(self.server), str(self.live))
        )

    def deployer(self) -> FilesDeployer:
        return FilesDeployer(self.options())

    def start(self, placements: Sequence[Placement], *, kill_before: int = 0, halt_before: int = 0) -> Call:
        return self.apart.start(
            FilesDeployer, self.options(), placements, kill_before=kill_before, halt_before=halt_before
        )

    def activations(self) -> int:
        log = self.server / "log"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def in_service(self, pair: str) -> bytes | None:
        loaded = self.server / "loaded" / folder_name(pair) / "fullchain.pem"
        return fingerprint(loaded.read_bytes()) if loaded.exists() else None

    def look(self, pair: str) -> tuple[bytes, bytes] | None:
        """By way of the folder, opened once, or of the one file that holds both, whichever turn it is."""
        self.turn = not getattr(self, "turn", False)
        folder = self.live / folder_name(pair)
        while True:
            try:
                return self._by_bundle(folder) if self.turn else self._by_folder(folder)
            except FileNotFoundError:
                if not os.path.lexists(folder):
                    return None

    def _by_bundle(self, folder: Path) -> tuple[bytes, bytes]:
        key, end, fullchain = (folder / "bundle.pem").read_bytes().partition(b"-----END PRIVATE KEY-----\n")
        return fullchain, key + end

    def _by_folder(self, folder: Path) -> tuple[bytes, bytes]:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            names = ("cert.pem", "chain.pem", "fullchain.pem", "privkey.pem")
            cert, chain, fullchain, key = (read_at(opened, name) for name in names)
        finally:
            os.close(opened)
        assert fullchain == cert + chain
        return cert, key

    def state(self) -> object:
        return sorted(
            (str(path), status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
            for path in (self.live, *self.live.rglob("*"))
            for status in [path.lstat()]
        )

    def keys(self) -> Mapping[bytes, int]:
        found: dict[bytes, int] = {}
        for path in self.live.rglob("*"):
            if path.is_file() and not path.is_symlink() and b"PRIVATE KEY" in (text := path.read_bytes()):
                key = text[: text.index(b"-----END PRIVATE KEY-----\n") + len(b"-----END PRIVATE KEY-----\n")]
                found[key] = found.get(key, 0) | stat.S_IMODE(path.stat().st_mode)
        return found

    @contextmanager
    def failing(self, wanted: Placement) -> Iterator[Placement]:
        """The chain is larger than the files that this process may write."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, hard))
        try:
            yield dataclasses.replace(wanted, chain=wanted.chain * (LARGEST_FILE // len(wanted.chain) + 1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    @contextmanager
    def unreadable(self, pair: str) -> Iterator[None]:
        theirs = self.live / folder_name(pair) / "cert.pem"
        theirs.parent.mkdir(parents=True)
        theirs.write_text("of somebody else")
        yield
        theirs.unlink()
        theirs.parent.rmdir()

    @contextmanager
    def activation_failing(self) -> Iterator[None]:
        (self.server / "broken").touch()
        yield
        (self.server / "broken").unlink()


def read_at(folder: int, name: str) -> bytes:
    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as file:
        return file.read()

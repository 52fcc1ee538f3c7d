"""A PostgreSQL to measure on: the one that the tests use, with the settings of a server that keeps what it is given."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.stage import CACHE
from tests.postgres import Postgres

_NOBODY = "nobody"
_SETTINGS = {
    "shared_buffers": "'512MB'",
    "autovacuum": "on",
    "max_wal_size": "'4GB'",
    "checkpoint_timeout": "'15min'",
}
_LARGE = {
    **_SETTINGS,
    "shared_buffers": "'4GB'",
    "effective_cache_size": "'12GB'",
    "max_wal_size": "'16GB'",
    "checkpoint_timeout": "'30min'",
}
"""For tens of gigabytes, on a machine with 16 GB of memory or more."""


@contextmanager
def running(*, large: bool = False) -> Iterator[Postgres]:
    """A server in a folder of its own that goes with it. It waits for the disk from ``keep`` on.

    It has 512 MB of shared buffers; a ``large`` one 4 GB, and writes checkpoints as seldom as for that much.
    """
    with tempfile.TemporaryDirectory(prefix="bench-pg-", dir=_place()) as name:
        folder = Path(name)
        if os.geteuid() == 0:
            shutil.chown(folder, _NOBODY)
        server = Postgres(folder)
        try:
            server.make()
            with (folder / "data" / "postgresql.conf").open("a") as file:
                file.writelines(
                    f"{name} = {value}\n" for name, value in (_LARGE if large else _SETTINGS).items()
                )
            server.start()
            yield server
        finally:
            server.stop()
            server.port.close()


def keep(server: Postgres) -> None:
    """Write out what it has, and wait for the disk at every commit from now on, as everywhere but in tests."""
    server.execute("ALTER SYSTEM SET fsync = on")
    server.execute("SELECT pg_reload_conf()")
    server.execute("CHECKPOINT")


def _place() -> Path | None:
    """Beside the checkout's caches; where the server's user may not go there, wherever temporary files are."""
    CACHE.mkdir(exist_ok=True)
    closed = any(not parent.stat().st_mode & 0o001 for parent in (CACHE, *CACHE.parents))
    return None if os.geteuid() == 0 and closed else CACHE

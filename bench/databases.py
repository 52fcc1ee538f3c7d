"""Small and large inventories on SQLite and PostgreSQL, side by side: what should cost the same must show it."""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import text

from bench import postgres
from bench.stage import CACHE, ROOT, Project, environ
from dualcert import bootstrap
from dualcert.lifecycle.world import World

SMALL = 1_000

# Nobody is asked for anything here: the CAs and the name server of this configuration do not exist.
_CONFIG = """\
database = "{database}"

[keys.primary]
protector = "file"
path = "primary.kek"

[keys.backup]
protector = "file"
path = "backup.kek"

[ca.alpha]
directory = "https://alpha.invalid/dir"
keys = "primary"
terms_agreed = true

[ca.beta]
directory = "https://beta.invalid/dir"
keys = "backup"
terms_agreed = true

[dns.lab]
provider = "rfc2136"
server = "127.0.0.1"
port = 9
tsig_name = "dualcert"
tsig_algorithm = "hmac-sha256"
tsig_secret = "bm90aGluZw=="

[target.web]
deployer = "files"
directory = "live"

[defaults]
primary = "alpha"
backup = "beta"
dns = "lab"
targets = ["web"]
"""


@dataclass(frozen=True)
class Inventory(Project):
    """A database that is full of pairs of which nothing is due, and the configuration beside it."""

    kind: str
    pairs: int

    def __str__(self) -> str:
        return f"{self.pairs:,} pairs on {self.kind}"


@dataclass(frozen=True)
class Both:
    """Two inventories of one kind of database."""

    kind: str
    small: Inventory
    large: Inventory


class Databases:
    """A context manager; made when they are first asked for. ``pairs``: in each of the large ones."""

    def __init__(self, pairs: int) -> None:
        self._pairs = pairs
        self._undo = ExitStack()

    @cached_property
    def all(self) -> Sequence[Both]:
        CACHE.mkdir(exist_ok=True)
        name = self._undo.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=CACHE))
        folder = Path(name).resolve()
        server = self._undo.enter_context(postgres.running())
        made = []
        for kind in ("SQLite", "PostgreSQL"):
            small, large = (
                prepared(
                    folder / f"{kind}-{pairs}",
                    "sqlite:///dualcert.db" if kind == "SQLite" else server.url(server.create()),
                    kind,
                    pairs,
                )
                for pairs in (SMALL, self._pairs)
            )
            made.append(Both(kind, small, large))
        _fill([one.small for one in made])
        _fill([one.large for one in made])
        postgres.keep(server)
        # Gigabytes that were written without waiting for the disk would hold up the commits that are measured.
        os.sync()
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()


@contextmanager
def giant(pairs: int) -> Iterator[Inventory]:
    """On PostgreSQL alone: an inventory so large that most of it has only what a mass promotion looks at."""
    CACHE.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=CACHE) as name,
        postgres.running(large=True) as server,
    ):
        folder = Path(name).resolve() / "giant"
        made = prepared(folder, server.url(server.create()), "PostgreSQL", pairs)
        _fill([made], "--lean")
        postgres.keep(server)
        yield made


def prepared(folder: Path, database: str, kind: str, pairs: int) -> Inventory:
    """A new folder with a configuration and the KEKs, and a database without pairs."""
    folder.mkdir()
    for domain in ("primary", "backup"):
        kek = folder / f"{domain}.kek"
        kek.touch(0o600)
        kek.write_bytes(base64.b64encode(secrets.token_bytes(32)) + b"\n")
    config = folder / "dualcert.toml"
    config.write_text(_CONFIG.format(database=database))
    bootstrap.upgrade_database(bootstrap.load_settings(config))
    return Inventory(config, kind, pairs)


def _fill(inventories: Sequence[Inventory], *options: str) -> None:
    """At the same time, each in a process of its own."""
    with ExitStack() as stack:
        started = []
        for one in inventories:
            command = [
                "-m",
                "bench.inventory",
                "--pairs",
                str(one.pairs),
                "--config",
                str(one.config),
                *options,
            ]
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environ(),
            )
            stack.callback(_end, process)
            started.append((one, process))
        for one, process in started:
            _, said = process.communicate()
            last = said.decode().strip().rpartition("\n")[2]
            if process.returncode:
                raise RuntimeError(f"{one} could not be made: {last}")
            print(f"{one.kind}: {last}", file=sys.stderr)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def change(world: World, statement: str, **values: Any) -> None:
    """In a unit of work of its own."""
    with world.store.write() as tx:
        tx.connection.execute(text(statement), values)


@contextmanager
def worlds(*inventories: Inventory) -> Iterator[list[World]]:
    with ExitStack() as stack:
        yield [stack.enter_context(one.application()).world for one in inventories]

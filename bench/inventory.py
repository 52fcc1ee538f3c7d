"""A large inventory, written straight into the tables: no CA would issue it in time.

``python -m bench.inventory --pairs 1000000 --config dualcert.toml`` fills a database that ``dualcert init`` has made
and that has no pairs yet.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Boolean, Integer, LargeBinary, Table, Text, select

from bench.copies import Copies, finish, without_indexes
from bench.copying import SCHEMA, Copy
from bench.rows import COLUMNS, SPAN, Inventory, Rows
from dualcert import bootstrap
from dualcert.bootstrap import Application
from dualcert.errors import EXIT_USAGE, DualcertError
from dualcert.lifecycle import sealing
from dualcert.lifecycle.watching import places
from dualcert.store import Store, counters, tables

_BATCH = 10_000
_REAL = 100
_FEW = 30_000
"""Up to so many pairs the indexes are kept up to date; for more they are built anew at the end."""

_COPIED = 20_000
"""So many pairs of a large inventory PostgreSQL makes all others from."""

Tell = Callable[[str], None]
Load = Callable[[Rows], None]


@dataclass(frozen=True)
class Made:
    """What is made: whole pairs, deployed at ``targets`` (None: the configured ones), as
    :class:`bench.rows.Inventory` makes them.

    ``lean``, on PostgreSQL: most of them have nothing that a mass promotion does not look at (``copies.DISPENSABLE``),
    and for a certificate there is only its row.
    """

    pairs: int
    seed: int = 0
    real: int = _REAL
    zone: str = "example.test"
    targets: Sequence[str] | None = None
    wildcards: bool = True
    history: bool = False
    lean: bool = False


def fill(application: Application, made: Made, tell: Tell = lambda _: None) -> None:
    """``tell`` hears how far it is. Raises ``ValueError`` where there are pairs already."""
    world = application.world
    with world.store.read() as tx:
        if tx.connection.execute(select(tables.pair.c.id).limit(1)).first() is not None:
            raise ValueError("there are pairs in this database; take an empty one")
    inventory = Inventory(
        world,
        made.pairs,
        seed=made.seed,
        real=made.real,
        zone=made.zone,
        targets=made.targets,
        wildcards=made.wildcards,
        history=made.history,
    )
    with _no_collection():
        if world.store.dialect == "postgresql" and made.pairs > _FEW and not made.history:
            _copied(world.store, inventory, made, tell)
        else:
            _written(world.store, inventory, made.pairs, tell)
    with world.store.write() as tx:
        # Of each certificate it is written already by what it is watched.
        counters.put(tx, places.census_name(world), 2 * made.pairs)
        counters.add(tx, counters.PAIRS, made.pairs)
    tell("the history is sealed")
    sealing.seal_everything(world)


def _written(store: Store, inventory: Inventory, pairs: int, tell: Tell) -> None:
    """Row by row."""
    began = time.perf_counter()
    with _loading(store, pairs > _FEW, tell) as load:
        for number, rows in enumerate(inventory.batches(_BATCH), 1):
            load(rows)
            done = min(number * _BATCH, pairs)
            tell(f"{done:,} of {pairs:,} pairs, {done / (time.perf_counter() - began):,.0f} a second")


@contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of rows that refer to nothing would be gone through again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def _loading(store: Store, many: bool, tell: Tell) -> Iterator[Load]:
    """One connection of its own, whose settings end with it."""
    with closing(store.engine.connect()) as connection:
        driver: Any = connection.connection.driver_connection
        way = _into_sqlite if store.dialect == "sqlite" else _into_postgresql
        with way(driver, many, tell) as load:
            yield load


# --- SQLite ----------------------------------------------------------------------------------------------


@contextmanager
def _into_sqlite(driver: Any, many: bool, tell: Tell) -> Iterator[Load]:
    """A transaction for each batch."""
    indexes = []
    if many:
        driver.execute("PRAGMA synchronous = OFF")
        driver.execute("PRAGMA cache_size = -1000000")
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        names = {table.name for table in COLUMNS}
        indexes = driver.execute(
            f"{query} AND tbl_name IN ({','.join('?' * len(names))})", [*names]
        ).fetchall()
    for name, _ in indexes:
        driver.execute(f'DROP INDEX "{name}"')

    def load(rows: Rows) -> None:
        driver.execute("BEGIN IMMEDIATE")
        for table, content in rows.items():
            places = ", ".join("?" * len(COLUMNS[table]))
            driver.executemany(f"INSERT INTO {_into(table)} VALUES ({places})", content)
        driver.execute("COMMIT")

    yield load
    for name, text in indexes:
        tell(f"index {name}")
        driver.execute(text)
    driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")


# --- PostgreSQL ------------------------------------------------------------------------------------------

_TYPES = {BigInteger: "int8", Integer: "int4", Text: "text", LargeBinary: "bytea", Boolean: "bool"}


@contextmanager
def _into_postgresql(driver: Any, many: bool, tell: Tell) -> Iterator[Load]:
    """One transaction: to tables that it has emptied itself, PostgreSQL writes without a log (wal_level minimal)."""
    names = [table.name for table in COLUMNS]
    with driver.transaction():
        driver.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        with ExitStack() as stack:
            if many:
                driver.execute("SET LOCAL maintenance_work_mem = '1GB'")
                driver.execute(f"TRUNCATE {', '.join(names)}")
                stack.enter_context(without_indexes(driver, names, tell))

            def load(rows: Rows) -> None:
                for table, content in rows.items():
                    _copy_in(driver, _into(table), table, content, "FORMAT BINARY" + ", FREEZE" * many)

            yield load
    finish(driver, list(COLUMNS))


def _copy_in(driver: Any, into: str, table: Table, rows: Iterable[tuple[Any, ...]], options: str) -> None:
    with driver.cursor() as cursor, cursor.copy(f"COPY {into} FROM STDIN ({options})") as copy:
        copy.set_types([_TYPES[type(table.c[name].type)] for name in COLUMNS[table]])
        write_row = copy.write_row
        for row in rows:
            write_row(row)


def _copied(store: Store, inventory: Inventory, made: Made, tell: Tell) -> None:
    """The first ones as everywhere, the others made from them by the server."""
    first = min(_COPIED, made.pairs)
    rows = next(inventory.batches(first))
    copy = Copy(first, made.pairs, SPAN, made.zone, made.wildcards, inventory.places, hashed=made.lean)

    def load(driver: Any, table: Table) -> None:
        _copy_in(driver, f"{SCHEMA}.{_into(table)}", table, rows[table], "FORMAT BINARY")

    def connect() -> Any:
        connection = store.engine.raw_connection()
        driver = connection.driver_connection
        connection.detach()  # it would be closed with what it is taken from
        return driver

    Copies(connect, store.url, copy, load, made.lean, tell).make()


def _into(table: Table) -> str:
    return f"{table.name} ({', '.join(COLUMNS[table])})"


# --- the command -----------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.inventory", description=__doc__)
    parser.add_argument("--pairs", type=int, required=True, metavar="N", help="how many")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="dualcert.toml")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same inventory")
    parser.add_argument(
        "--real", type=int, default=_REAL, metavar="N", help="how many pairs have keys that open"
    )
    parser.add_argument("--zone", default="example.test", help="below which all names are")
    parser.add_argument(
        "--history", action="store_true", help="with all events, which take as much room again"
    )
    parser.add_argument(
        "--lean",
        action="store_true",
        help="on PostgreSQL: of most pairs only what a mass promotion looks at, a third of the room",
    )
    chosen = parser.parse_args()
    began = time.perf_counter()
    try:
        with closing(bootstrap.build(bootstrap.load_settings(chosen.config))) as application:
            made = Made(
                chosen.pairs,
                seed=chosen.seed,
                real=chosen.real,
                zone=chosen.zone,
                history=chosen.history,
                lean=chosen.lean,
            )
            fill(application, made, _tell)
    except (DualcertError, ValueError) as error:
        print(f"\n{error}", file=sys.stderr)
        return EXIT_USAGE
    _tell(f"{chosen.pairs:,} pairs in {time.perf_counter() - began:.0f} s")
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return 0


def _tell(text: str) -> None:
    """Over the line before on a terminal, in a line of its own elsewhere."""
    beginning, end = ("\r", "\033[K") if sys.stderr.isatty() else ("", "\n")
    print(f"{beginning}{text}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

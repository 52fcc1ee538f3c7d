"""A database with a clock that a test moves: what is measured by its own time need not be waited for."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from dualcert.clock import Clock, to_microseconds
from dualcert.store import Store, Transaction

_EPOCH = 2440587.5
_DAY = 86_400_000_000

# Found before the function of the same name that PostgreSQL brings, by the sessions that look here first.
_CLOCK = """
CREATE OR REPLACE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT timestamptz 'epoch' + current_setting('tests.now')::bigint * interval '1 microsecond'
$$
"""


def follow(store: Store, clock: Clock) -> None:
    """From the next connection on, the database reads its time from ``clock``.

    On SQLite to 40 microseconds, on PostgreSQL as it is when a unit of work begins.
    """
    if store.dialect == "sqlite":
        _sqlite(store, clock)
    else:
        _postgresql(store, clock)


def _sqlite(store: Store, clock: Clock) -> None:
    connect = store.connect

    def connected() -> Any:
        connection = connect()
        connection.create_function(
            "julianday", -1, lambda *_: _EPOCH + to_microseconds(clock.now()) / _DAY, deterministic=False
        )
        return connection

    store.connect = connected  # type: ignore[method-assign]


def _postgresql(store: Store, clock: Clock) -> None:
    with store.write() as tx:
        tx.execute(text(_CLOCK))
    begun = store.begun

    def set_and_begun(mode: str) -> Transaction:
        tx = begun(mode)
        driver: Any = tx.connection.connection.driver_connection
        now = str(to_microseconds(clock.now()))
        driver.execute("SELECT set_config('search_path', 'public, pg_catalog', true)")
        driver.execute("SELECT set_config('tests.now', %s, true)", [now])
        return tx

    store.begun = set_and_begun  # type: ignore[method-assign]

"""SQLAlchemy over connections of the driver's that others make, begin transactions on, and close."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool

# On PostgreSQL an INSERT too tells whether it met a row that was there already.
_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "sqlite": ("sqlite://", {}),
    "postgresql": (
        "postgresql+psycopg://",
        {"use_native_hstore": False, "execution_options": {"preserve_rowcount": True}},
    ),
}


class Alchemy:
    """``connect`` makes a connection of the driver's, for whoever asks the engine for one of its own."""

    def __init__(self, dialect: str, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._handed = threading.local()
        url, settings = _SETTINGS[dialect]
        self.engine: Engine = create_engine(
            url,
            creator=self._create,
            poolclass=NullPool,
            # The driver commits each statement by itself unless it was told BEGIN, and of that SQLAlchemy hears
            # nothing: it must not end what it has not begun.
            skip_autocommit_rollback=True,
            **settings,
        )

    def over(self, driver: Any) -> Connection:
        """May be in a transaction, which stays as it is."""
        self._handed.driver = driver
        connection = self.engine.connect()
        # For ever: what begins and ends transactions is nothing that SQLAlchemy sees.
        connection.begin()
        return connection

    def _create(self) -> Any:
        handed = self._handed.__dict__.pop("driver", None)
        return self._connect() if handed is None else handed

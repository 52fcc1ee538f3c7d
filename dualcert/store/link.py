"""A connection of the driver's, and SQLAlchemy's over it once that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Link:
    """For one thread at a time. ``lay_over`` makes SQLAlchemy's connection of the driver's."""

    __slots__ = ("_connection", "_lay_over", "driver")

    def __init__(self, driver: Any, lay_over: Callable[[Any], Connection]) -> None:
        self.driver = driver
        self._lay_over = lay_over
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        """It sees nothing of the transactions that are begun and ended on the driver's."""
        if self._connection is None:
            self._connection = self._lay_over(self.driver)
        return self._connection

    def close(self) -> None:
        """Rolls back what was begun and not committed."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
        self.driver.close()

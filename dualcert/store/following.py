"""Following the history by its numbers, without missing what comes late.

On PostgreSQL a number is given before its unit of work commits, so one that is higher may be seen first. Here one reads
no further than it is decided which numbers there are. The sealer finds that out by a lock (``seals``); a follower looks
several times a second and must hold up nobody for it: it sees who writes events, and waits until those have ended.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

from sqlalchemy import text

from dualcert.model.events import Event
from dualcert.store import events
from dualcert.store.database import Store
from dualcert.store.transaction import Transaction

_PAGE = 1000


@cache
def _writing(table: str) -> Any:
    # Taken before the number is, and let go of after what was written can be seen.
    return text(
        f"SELECT virtualtransaction FROM pg_locks WHERE relation = '{table}'::regclass"  # noqa: S608 - our own
        " AND mode = 'RowExclusiveLock'"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )


def writers(tx: Transaction, table: str = "event") -> frozenset[str]:
    """The units of work under way that have written into a table, or are about to."""
    return frozenset(tx.execute(_writing(table)).scalars()) if tx.others_write else frozenset()


class Follower:
    """Gives each event of some pairs, or of all, once, in the order of their numbers, from where it begins."""

    def __init__(self, pairs: Collection[int] | None) -> None:
        self._pairs = pairs
        self._seen = 0
        self._undecided: tuple[int, frozenset[str]] | None = None

    def begin(self, tx: Transaction) -> None:
        """Nothing that is numbered by now is told."""
        self._seen = events.last(tx)

    def new(self, store: Store, *, all_of_it: bool = False) -> list[Event]:
        """What has come, as far as it is decided, a page at a time. ``all_of_it``: as far as it can be seen now."""
        with store.read() as tx:
            up_to = events.last(tx) if all_of_it else self._decided(tx)
        if up_to <= self._seen:
            return []
        # Anew: whoever has ended before he was looked for may not have when the first look began.
        with store.read() as tx:
            page = events.page(tx, pairs=self._pairs, after=self._seen, limit=_PAGE)
        self._seen = up_to if len(page) < _PAGE else min(up_to, page[-1].id)
        return [one for one in page if one.id <= up_to]

    @property
    def seen(self) -> int:
        """Up to which number all was given."""
        return self._seen

    def _decided(self, tx: Transaction) -> int:
        if self._undecided is None:
            last = events.last(tx)
            if last <= self._seen:
                return last
            self._undecided = last, writers(tx)
        last, writing = self._undecided
        if writing and not writing.isdisjoint(writers(tx)):
            return self._seen
        self._undecided = None
        return last

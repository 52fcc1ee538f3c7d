"""Connections and units of work, on SQLite and PostgreSQL.

A unit of work is one transaction: it commits as a whole or leaves nothing. On SQLite a writing one begins
IMMEDIATE, because a deferred transaction that turns to writing fails under contention instead of waiting.

BEGIN and COMMIT go to the driver, as do statements that were prepared; the others through SQLAlchemy, which is laid
over a connection when the first of them comes, and takes longer to import than most commands need for all the rest.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dualcert.clock import Clock, SystemClock
from dualcert.store import address, postgresql, sqlite
from dualcert.store.address import Address
from dualcert.store.link import Link
from dualcert.store.together import Together
from dualcert.store.transaction import Glance, Transaction

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from dualcert.store.alchemy import Alchemy

_clock = (
    SystemClock()
)  # for how long others are given way to, which is no matter of the instants in a database
_LOOK_MS = 20
"""Left alone for longer, SQLite looks for the lock ten times a second, and misses the moment in which it is free."""

_HELD = 0.1
_GAP = 0.012
"""Longer than SQLite lets pass between two looks for the lock in ``_LOOK_MS``."""

_POOL = 64  # idle connections that are kept; more than threads ever hold at once

_BEGIN = {
    "sqlite": {"read": "BEGIN DEFERRED"},
    # What is read has to be consistent; a unit that writes compares what it read with what it overwrites.
    "postgresql": {"write": "BEGIN", "read": "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"},
}


class Store:
    """The database. Knows no clock but the one given, for the instants that events and rows carry.

    ``watchers`` are called, in whichever thread it is, when a unit of work has committed that left something.
    """

    def __init__(self, url: str, clock: Clock, actor: str) -> None:
        self.url = url
        self._clock = clock
        self.actor = actor
        self._address = address.parse(url)
        self._dbapi = _dbapi(self._address)
        self._reached = False
        self._alchemy: Alchemy | None = None
        self._laying = threading.Lock()
        self._idle: deque[Link] = deque()
        self._closed = False
        self.watchers: set[Callable[[Transaction], None]] = set()
        # One writer at a time is SQLite's rule. Turns of our own hand over at once, where its busy handler sleeps.
        self._together = Together(self) if self.dialect == "sqlite" else None
        self._writer: Link | None = None
        self._gave_way_at = 0.0

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's, whose connections are its own, and commit each statement by itself."""
        return self._over().engine

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._address.backend

    @property
    def goes_by_our_clock(self) -> bool:
        """Whether leases are measured by this machine's clock; a server has its own."""
        return self._together is not None

    def write(self) -> AbstractContextManager[Transaction]:
        """A unit of work that may write.

        Raises ``StoreUnavailable`` where the database cannot be reached, is full, or stayed locked; nothing of the
        unit is written then.
        """
        return _Unit(self, "write") if self._together is None else _Part(self, self._together)

    def give_way(self) -> None:
        """Between long units of work that follow each other: other processes that wait for SQLite's lock get it."""
        if self._together is not None and _clock.monotonic() - self._gave_way_at > _HELD:
            _clock.sleep(_GAP)
            self._gave_way_at = _clock.monotonic()

    def read(self) -> AbstractContextManager[Transaction]:
        """A consistent look that writes nothing."""
        return _Unit(self, "read")

    def glance(self) -> AbstractContextManager[Transaction]:
        """A look of a single statement: it costs a third of ``read``."""
        return _Unit(self, "glance")

    def begun(self, mode: str) -> Transaction:
        """Over a connection that nobody else uses, until it is kept or abandoned."""
        if mode != "glance":
            return self.on(self._begin(mode))
        link, fresh = self._any_link()
        instead = None if fresh or self.dialect == "sqlite" else self._any_link
        return Glance(link, self.dialect, self._clock.now(), self.actor, instead)

    def begin_writing(self) -> Link:
        """Of SQLite, for ``Together``: there is one that writes, and it has a connection of its own."""
        link, self._writer = self._writer, None
        try:
            if link is None:
                link = self._link()
                link.driver.execute(f"PRAGMA busy_timeout={_LOOK_MS}")
            sqlite.begin_writing(link.driver)
        except BaseException:
            if link is not None:
                self.abandon(link)
            raise
        return link

    def end_writing(self, link: Link) -> None:
        """It was committed, and is for whoever writes next."""
        if self._closed:
            link.close()
        else:
            self._writer = link

    def on(self, link: Link) -> Transaction:
        """One that begins now on a connection that is in a transaction."""
        return Transaction(link, self.dialect, self._clock.now(), self.actor)

    def _begin(self, mode: str) -> Link:
        while True:
            link, fresh = self._any_link()
            try:
                link.driver.execute(_BEGIN[self.dialect][mode])
            except BaseException as error:
                self.abandon(link)
                # One that was idle may have died meanwhile: that says nothing of the database.
                if fresh or self.dialect == "sqlite" or not isinstance(error, self.driver_error):
                    raise
            else:
                return link

    def keep(self, link: Link) -> None:
        """Its transaction has ended well: it is for the next one."""
        if len(self._idle) < _POOL and not self._closed:
            self._idle.append(link)
        else:
            link.close()

    def abandon(self, link: Link) -> None:
        """Closing rolls back, and one that may be broken is not used again."""
        link.close()

    def committed(self, transaction: Transaction) -> None:
        """Tell whoever wants to hear of it."""
        if transaction.made_due or transaction.recorded:
            for watcher in list(self.watchers):
                watcher(transaction)

    def _any_link(self) -> tuple[Link, bool]:
        """And whether it is a new one."""
        try:
            return self._idle.pop(), False
        except IndexError:
            return self._link(), True

    def _link(self) -> Link:
        link = Link(self.connect(), self._laid_over)
        self._reached = True
        return link

    def connect(self) -> Any:
        """A connection of the driver's, on which each statement is committed by itself. Raises its exceptions."""
        connect = sqlite.connect if self.dialect == "sqlite" else postgresql.connect
        return connect(self._address)

    @property
    def shown(self) -> str:
        """Its address, without a password."""
        return str(self._address)

    def _laid_over(self, driver: Any) -> Connection:
        return self._over().over(driver)

    def _over(self) -> Alchemy:
        with self._laying:
            if self._alchemy is None:
                from dualcert.store.alchemy import Alchemy

                self._alchemy = Alchemy(self.dialect, self.connect)
            return self._alchemy

    @property
    def driver_error(self) -> type[Exception]:
        """What the driver raises."""
        found: type[Exception] = self._dbapi.Error
        return found

    def explained(self, error: BaseException) -> Exception | None:
        """What an exception of the driver means, or one of SQLAlchemy that came of it; None of any other."""
        said = getattr(error, "orig", error)
        if not isinstance(said, self.driver_error):
            return None
        if self.dialect == "postgresql":
            return postgresql.explained(said, self._address, self._dbapi, reached=self._reached)
        return sqlite.explained(said, self._address)

    def close(self) -> None:
        """Units of work that are under way end as they would, and their connections with them."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


class _Unit(AbstractContextManager[Transaction]):
    """A unit of work that is a transaction. A class: there are forty of them in the issue of one pair."""

    __slots__ = ("_mode", "_store", "_transaction")

    def __init__(self, store: Store, mode: str) -> None:
        self._store = store
        self._mode = mode

    def __enter__(self) -> Transaction:
        try:
            self._transaction = self._store.begun(self._mode)
        except BaseException as error:
            if (meaning := self._store.explained(error)) is not None:
                raise meaning from error
            raise
        return self._transaction

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        store = self._store
        try:
            if error is None:
                self._transaction.commit()
        except BaseException as failure:
            store.abandon(self._transaction.link)
            if (meaning := store.explained(failure)) is not None:
                raise meaning from failure
            raise
        if error is None:
            store.keep(self._transaction.link)
            store.committed(self._transaction)
            return
        store.abandon(self._transaction.link)
        if (meaning := store.explained(error)) is not None:
            raise meaning from error


class _Part(AbstractContextManager[Transaction]):
    """A unit of work in a transaction that others may have theirs in."""

    __slots__ = ("_group", "_store", "_together", "_transaction")

    def __init__(self, store: Store, together: Together) -> None:
        self._store = store
        self._together = together

    def __enter__(self) -> Transaction:
        try:
            self._group = self._together.enter()
        except BaseException as error:
            if (meaning := self._store.explained(error)) is not None:
                raise meaning from error
            raise
        self._transaction = self._store.on(self._group.link)
        return self._transaction

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        store = self._store
        if error is None:
            try:
                self._together.succeeded(self._group)
            except store.driver_error as failure:
                raise store.explained(failure) or failure from failure
            store.committed(self._transaction)
            return
        self._together.failed(self._group, error)
        if (meaning := store.explained(error)) is not None:
            raise meaning from error


def database_file(url: str) -> Path | None:
    """The file of a SQLite database; None for a database that a server keeps. Raises ``ConfigurationError``."""
    parsed = address.parse(url)
    return Path(parsed.database) if parsed.backend == "sqlite" and parsed.database else None


def _dbapi(parsed: Address) -> Any:
    """The driver. Raises ``ConfigurationError`` where it or a file's folder is not there, or a folder is named."""
    return postgresql.driver() if parsed.backend == "postgresql" else sqlite.driver(parsed)

"""Units of work of several threads in one transaction: SQLite has one writer at a time, and each commit waits for the
disk.

A unit that finds others waiting behind it leaves the transaction open for them and waits until it is committed, which
the last one does for all. Each unit after the first is a savepoint, so that one that fails takes nothing of the others
with it; when the commit fails, it has failed for each of them.
"""

from __future__ import annotations

import sqlite3
import threading
from typing import Protocol, cast

from dualcert.store.link import Link

_MOST = 32
"""How many units one transaction may hold: whoever waits for a commit waits for the units of all others."""

_STRANDED = 0.05
"""After how many seconds a unit that waits sees for itself whether anybody is there to commit."""


class Connections(Protocol):
    """Where transactions begin."""

    def begin_writing(self) -> Link:
        """A connection that nobody else uses, in a transaction that holds the database's lock."""

    def end_writing(self, link: Link) -> None:
        """Its transaction has been committed."""

    def abandon(self, link: Link) -> None:
        """Its transaction is over, or is rolled back now."""


class Group:
    """One transaction and the units in it. ``failure``: none of them has been committed.

    ``over``: set at its end; there is none before a unit waits for it.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.driver = cast("sqlite3.Connection", link.driver)
        self.units = 0
        self.over: threading.Event | None = None
        self.failure: BaseException | None = None

    def end(self) -> None:
        """Whoever waits for it goes on."""
        if self.over is not None:
            self.over.set()


class Together:
    """Whose turn it is to write. Safe to use from several threads, and no thread may nest two units."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._waiting = 0
        self._group: Group | None = None

    def enter(self) -> Group:
        """Wait for the turn and begin a unit. Raises the driver's exceptions; the turn is somebody else's then."""
        self._wait_for_turn()
        try:
            group = self._group
            if group is None:
                group = self._group = Group(self._connections.begin_writing())
            if group.units:
                group.driver.execute("SAVEPOINT unit")
        except BaseException as error:
            self._leave(error)
            raise
        return group

    def _wait_for_turn(self) -> None:
        with self._counting:
            self._waiting += 1
        try:
            self._turn.acquire()
        finally:
            with self._counting:
                self._waiting -= 1

    def succeeded(self, group: Group) -> None:
        """The unit has ended well: returns when it is committed. Raises what has kept it from that."""
        try:
            if group.units:
                group.driver.execute("RELEASE unit")
        except BaseException as error:
            self._leave(error)
            raise
        group.units += 1
        if not self._more_come(group):
            try:
                self._end(group)
            finally:
                self._turn.release()
        else:
            over = group.over = group.over or threading.Event()
            self._turn.release()
            while not over.wait(_STRANDED):
                self._end_if_stranded(group)
        if group.failure is not None:
            raise group.failure

    def failed(self, group: Group, error: BaseException) -> None:
        """The unit has raised: nothing of it is kept."""
        try:
            if group.units and group.driver.in_transaction:
                group.driver.execute("ROLLBACK TO unit")
                group.driver.execute("RELEASE unit")
        except sqlite3.Error as worse:
            error = worse
        self._leave(error)

    def _leave(self, error: BaseException) -> None:
        """Give the turn away after a unit of which nothing is left; what others have in the transaction is theirs."""
        group = self._group
        try:
            if group is None:
                return
            # A full disk, for one, ends all of a transaction.
            if not group.units or not group.driver.in_transaction:
                self._lose(group, error)
            elif not self._more_come(group):
                self._end(group)
        finally:
            self._turn.release()

    def _more_come(self, group: Group) -> bool:
        return self._waiting > 0 and group.units < _MOST

    def _end_if_stranded(self, group: Group) -> None:
        """Whoever was to come next may have been interrupted while he waited."""
        if self._turn.acquire(blocking=False):
            try:
                if self._group is group and not self._more_come(group):
                    self._end(group)
            finally:
                self._turn.release()

    def _end(self, group: Group) -> None:
        try:
            group.driver.execute("COMMIT")
        except sqlite3.Error as error:
            self._lose(group, error)  # raised by each of its units
        except BaseException:
            # For the others it is as if the answer had been lost.
            self._lose(group, sqlite3.OperationalError("the commit was interrupted"))
            raise
        else:
            self._group = None
            self._connections.end_writing(group.link)
            group.end()

    def _lose(self, group: Group, error: BaseException) -> None:
        self._group = None
        group.failure = error
        self._connections.abandon(group.link)
        group.end()

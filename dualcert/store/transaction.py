"""A unit of work: what statements are carried out on, and what it leaves for others to hear of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, overload

from dualcert.clock import to_microseconds
from dualcert.store.link import Link
from dualcert.store.statements import Prepared, Rows, Written

if TYPE_CHECKING:
    from sqlalchemy import Connection, CursorResult, Executable

    from dualcert.model.events import Event


class Transaction:
    """A unit of work. ``now`` is the process's instant at its beginning; ``actor`` signs its events.

    ``dialect``: ``sqlite`` or ``postgresql``.

    ``made_due``: the pairs of which it left work that may be due at once; of thousands just one. ``recorded``: its
    events. ``Store.watchers`` hear of both.
    """

    def __init__(self, link: Link, dialect: str, now: datetime, actor: str) -> None:
        self.link = link
        self._driver = link.driver
        self.dialect = dialect
        self.now = now
        self.at = to_microseconds(now)
        self.actor = actor
        self.made_due: set[int] = set()
        self.recorded: list[Event] = []

    def commit(self) -> None:
        """The end; ``Store`` calls it."""
        self._driver.execute("COMMIT")

    @property
    def connection(self) -> Connection:
        """SQLAlchemy's, for what is no statement of the store's."""
        return self.link.connection

    @property
    def others_write(self) -> bool:
        """Whether other units of work may write while this one does: what was read may have changed since."""
        return self.dialect != "sqlite"

    def alone(self, *names: str) -> None:
        """No other unit of work that names one of the same goes on from here before this one has ended."""
        if self.others_write:
            from dualcert.store.expressions import alone

            for name in sorted(names):  # all in one order, so that no two wait for each other
                self.execute(alone(), {"name": name}).first()

    def abreast(self, name: str) -> None:
        """No unit of work that wants to be ``alone`` by this name goes on before this one has ended; others do. Who
        wants to be alone has his turn before those that come after him: they cannot keep him waiting for ever."""
        if self.others_write:
            from dualcert.store.expressions import abreast

            self.execute(abreast(), {"name": name}).first()

    @overload
    def execute(self, statement: Prepared | Written, parameters: Mapping[str, Any] = ...) -> Rows: ...
    @overload
    def execute(
        self,
        statement: Executable,
        parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> CursorResult[Any]: ...
    def execute(
        self,
        statement: Prepared | Written | Executable,
        parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> Rows | CursorResult[Any]:
        """A prepared one whose parameters are all single values goes to the driver, any other through SQLAlchemy."""
        if isinstance(statement, Prepared | Written):
            values: Any = parameters or {}
            form = statement.form(self.dialect, values)
            if form is not None:
                return Rows(self._driver.execute(form.text, form.arguments(values)), form)
        plain: Any = statement.statement if isinstance(statement, Prepared) else statement
        result: CursorResult[Any] = self.link.connection.execute(plain, parameters)
        return result


class Glance(Transaction):
    """A single statement, which is consistent by itself: no transaction is begun for it.

    ``instead`` gives another connection, and whether that is a new one, for one that may have died while it was idle;
    there is none where nothing of the kind can be.
    """

    _looked = False

    def __init__(
        self,
        link: Link,
        dialect: str,
        now: datetime,
        actor: str,
        instead: Callable[[], tuple[Link, bool]] | None = None,
    ) -> None:
        super().__init__(link, dialect, now, actor)
        self._instead = instead

    def commit(self) -> None:
        """There is nothing to commit."""

    # The overloads say what it takes and gives.
    def execute(self, *arguments: Any) -> Any:
        if self._looked:
            raise AssertionError("a glance is one statement: what a second one saw might not go with it")
        self._looked = True
        while True:
            try:
                return super().execute(*arguments)
            except Exception:
                if self._instead is None or not self._driver.closed:
                    raise
                self._exchange(self._instead)

    def _exchange(self, instead: Callable[[], tuple[Link, bool]]) -> None:
        """That a connection died while it was idle says nothing of the database; that a new one does, says it."""
        dead = self.link
        self.link, fresh = instead()
        dead.close()
        self._driver = self.link.driver
        if fresh:
            self._instead = None

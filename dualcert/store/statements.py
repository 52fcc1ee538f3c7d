"""Statements that are carried out often: put together by SQLAlchemy once, and handed to the driver from then on.

To carry a statement out, SQLAlchemy takes several times as long as SQLite does, and a step of an order consists of
little else. What it writes is used, with the values filled in here.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, cast

from sqlalchemy import ColumnElement, Dialect, bindparam, false, or_

if TYPE_CHECKING:
    from sqlalchemy.sql.base import Executable
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.sql.elements import ClauseElement

P = ParamSpec("P")

_row_type: Any = namedtuple


class Prepared:
    """A statement whose texts, one for each database and set of parameters, are written once.

    Its parameters are single values: the list of an IN has another text for each length. Numbers, texts and bytes
    come as the driver gives them, a truth value on SQLite as 0 or 1.
    """

    def __init__(self, statement: Executable) -> None:
        self.statement = statement
        self._forms: dict[tuple[str, ...], Form] = {}

    def form(self, dialect: Dialect, names: tuple[str, ...]) -> Form:
        """For parameters with these names."""
        key = (dialect.name, *names)
        found = self._forms.get(key)
        if found is None:
            found = self._forms[key] = Form(self.statement, dialect, names)
        return found


class Form:
    """The text of a statement for one database, and how its parameters are handed over."""

    def __init__(self, statement: Executable, dialect: Dialect, names: tuple[str, ...]) -> None:
        compiled = cast(
            "SQLCompiler",
            cast("ClauseElement", statement).compile(dialect=dialect, column_keys=sorted(names)),
        )
        if compiled.post_compile_params:
            raise TypeError(f"an IN belongs to no prepared statement: {compiled}")
        self.text = str(compiled)
        self._order = compiled.positiontup
        # What stands in the statement itself; a parameter that is missing is missed when it is asked for.
        self._fixed = {
            name: bind.effective_value
            for bind, name in compiled.bind_names.items()
            if name not in names and not bind.required
        }
        self._make: Callable[[Iterable[Any]], Any] = tuple

    def arguments(self, parameters: Mapping[str, Any]) -> Any:
        """As the driver takes them: in the order of their places, or by name."""
        values = {**self._fixed, **parameters} if self._fixed else parameters
        return values if self._order is None else [values[name] for name in self._order]

    def rows(self, cursor: Any) -> Rows:
        if self._make is tuple and cursor.description is not None:
            names = [column[0] for column in cursor.description]
            # Not its own `_make`, which is written in Python: of a thousand rows, that took a third of the time more.
            self._make = partial(tuple.__new__, _row_type("Row", names, rename=True))
        return Rows(cursor, self._make)


class Rows:
    """What a statement gave; each row has its columns as attributes. For one look, like SQLAlchemy's own result."""

    __slots__ = ("_cursor", "_make")

    def __init__(self, cursor: Any, make: Callable[[Iterable[Any]], Any]) -> None:
        self._cursor = cursor
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        return iter(self.all())

    def all(self) -> list[Any]:
        return list(map(self._make, self._cursor.fetchall()))

    def first(self) -> Any:
        """The first row, or None."""
        row = self._cursor.fetchone()
        self._cursor.close()  # what was not fetched would keep SQLite's statement open
        return None if row is None else self._make(row)

    def one(self) -> Any:
        """The only row; AssertionError where there is none or another."""
        (row,) = self.all()
        return row

    def scalar(self) -> Any:
        """The first column of the first row; None where there is no row."""
        row = self._cursor.fetchone()
        self._cursor.close()
        return None if row is None else row[0]

    def scalar_one(self) -> Any:
        """The only value."""
        ((value,),) = self._cursor.fetchall()
        return value

    @property
    def rowcount(self) -> int:
        return int(self._cursor.rowcount)


def prepared(build: Callable[P, Executable]) -> Callable[P, Prepared]:
    """The statement that a function builds, built once for each of its arguments."""

    @cache
    def once(*args: P.args, **kwargs: P.kwargs) -> Prepared:
        return Prepared(build(*args, **kwargs))

    return cast("Callable[P, Prepared]", once)


# --- comparing a column with one value or with several -----------------------------------------------------


class _Build(Protocol):
    def __call__(self, *, one: bool) -> Prepared: ...


def for_ids(build: _Build, ids: Collection[Any]) -> tuple[Prepared, dict[str, Any]]:
    """A statement for some rows, and what to carry it out with; ``build`` makes either form, with ``is_among``.

    One row is by far the most frequent, and the only form whose text stays as it is.
    """
    if len(ids) == 1:
        return build(one=True), {"ids": next(iter(ids))}
    return build(one=False), {"ids": list(ids)}


def is_among(column: ColumnElement[Any], *, one: bool) -> ColumnElement[bool]:
    return column == bindparam("ids") if one else column.in_(bindparam("ids", expanding=True))


def is_one_of(column: ColumnElement[Any], values: Iterable[str]) -> ColumnElement[bool]:
    """For values that stand in the statement itself."""
    return or_(false(), *(column == value for value in values))

"""Statements that are carried out often: put together by SQLAlchemy once, and handed to the driver from then on.

To carry a statement out, SQLAlchemy takes several times as long as SQLite does, and a step of an order consists of
little else. What it writes is used, with the values filled in here; of some statements, what it has written once and
for all: see ``writing``.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, cast

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Dialect
    from sqlalchemy.sql.base import Executable
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.sql.elements import ClauseElement

P = ParamSpec("P")

_row_type: Any = namedtuple


class Form:
    """The text of a statement for one database. ``fixed``: values that are its own.

    ``places``: the names of its parameters, one for each place that has none in the text. SQLite looks through all the
    names of a text for each of its parameters: a thousand of them must have places.
    """

    def __init__(
        self, text: str, fixed: Mapping[str, Any] | None = None, places: Sequence[str] | None = None
    ) -> None:
        self.text = text
        self._fixed = fixed
        self._in_order = None if places is None else _in_order(places)
        self._make: Callable[[Iterable[Any]], Any] | None = None

    def arguments(self, parameters: Mapping[str, Any]) -> Any:
        """As the driver takes them: in the order of their places, or by name."""
        values = {**self._fixed, **parameters} if self._fixed else parameters
        return values if self._in_order is None else self._in_order(values)

    def make(self, cursor: Any) -> Callable[[Iterable[Any]], Any]:
        """What makes a row of the statement of what the driver gives."""
        if self._make is None:
            names = [column[0] for column in cursor.description]
            # Not its own `_make`, which is written in Python: of a thousand rows, that took a third of the time more.
            self._make = partial(tuple.__new__, _row_type("Row", names, rename=True))
        return self._make


def _in_order(places: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple(values[name] for name in places)


class Prepared:
    """A statement whose texts, one for each database and set of parameters, are written once.

    Its parameters are single values: the list of an IN has another text for each length. Numbers, texts and bytes
    come as the driver gives them, a truth value on SQLite as 0 or 1.
    """

    def __init__(self, statement: Executable) -> None:
        self.statement = statement
        self._forms: dict[tuple[str, ...], Form] = {}

    def form(self, dialect: str, values: Mapping[str, Any]) -> Form | None:
        """For parameters like these; None where one of them is a list."""
        if list in map(type, values.values()):
            return None
        key = (dialect, *values)
        found = self._forms.get(key)
        if found is None:
            found = self._forms[key] = _form(self.statement, dialect, [*values])
        return found


def _form(statement: Executable, dialect: str, names: list[str]) -> Form:
    compiled = cast(
        "SQLCompiler",
        cast("ClauseElement", statement).compile(dialect=dialect_of(dialect), column_keys=sorted(names)),
    )
    if compiled.post_compile_params:
        raise TypeError(f"an IN belongs to no prepared statement: {compiled}")
    # What stands in the statement itself; a parameter that is missing is missed when it is carried out.
    fixed = {
        name: bind.effective_value
        for bind, name in compiled.bind_names.items()
        if name not in names and not bind.required
    }
    return Form(str(compiled), fixed, compiled.positiontup)


@cache
def dialect_of(name: str, *, named: bool = False) -> Dialect:
    """As which SQLAlchemy writes texts for a database. ``named``: on SQLite, too, the parameters have names."""
    if name == "sqlite":
        from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

        return SQLiteDialect_pysqlite(paramstyle="named" if named else "qmark")
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

    return cast("Dialect", PGDialect_psycopg())  # type: ignore[no-untyped-call]


class Rows:
    """What a statement gave; each row has its columns as attributes. For one look, like SQLAlchemy's own result."""

    __slots__ = ("_cursor", "_form")

    def __init__(self, cursor: Any, form: Form) -> None:
        self._cursor = cursor
        self._form = form

    def __iter__(self) -> Iterator[Any]:
        return iter(self.all())

    def all(self) -> list[Any]:
        return list(map(self._form.make(self._cursor), self._cursor.fetchall()))

    def first(self) -> Any:
        """The first row, or None."""
        row = self._cursor.fetchone()
        made = None if row is None else self._form.make(self._cursor)(row)
        self._cursor.close()  # what was not fetched would keep SQLite's statement open
        return made

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


# --- texts that were written ahead -------------------------------------------------------------------------

BEGINNING = "-- statement: "
"""Of a line in such a file, before the title of the text that follows."""

MARK = "<ids>"
"""In a text, where the list of the parameter ``ids`` is to stand."""

IDS = {"sqlite": ":ids_{}", "postgresql": "%(ids_{})s::BIGINT"}
"""How SQLAlchemy writes the nth value of that list, from 1."""


class Written:
    """A statement of ``ahead``, whose texts were written by SQLAlchemy before it came here."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._forms: dict[tuple[str, int], Form] = {}

    def form(self, dialect: str, values: Mapping[str, Any]) -> Form:
        """For these values, among them as many ``ids``."""
        key = (dialect, len(values.get("ids", ())))
        found = self._forms.get(key)
        if found is None:
            found = self._forms[key] = _Listing(texts(dialect)[self._title], IDS[dialect], key[1])
        return found


class _Listing(Form):
    def __init__(self, text: str, value: str, count: int) -> None:
        places = ", ".join([value.format(number) for number in range(1, count + 1)])
        super().__init__(text.replace(MARK, places or "NULL"))

    def arguments(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        ids = enumerate(parameters.get("ids", ()), 1)
        return {**parameters, **{f"ids_{number}": one for number, one in ids}}


@cache
def written(name: str, **choices: bool) -> Written:
    """The statement that ``ahead`` builds by a function of this name, with these arguments."""
    return Written(title_of(name, choices))


def title_of(name: str, choices: Mapping[str, bool]) -> str:
    return f"{name}({', '.join(sorted(choice for choice, made in choices.items() if made))})"


def texts_of(dialect: str) -> Path:
    """The file of all that was written ahead for a database."""
    return Path(__file__).with_name(f"{dialect}.sql")


@cache
def texts(dialect: str) -> dict[str, str]:
    """By their titles."""
    _, *parts = texts_of(dialect).read_text().split(BEGINNING)
    return {title: text.strip() for title, _, text in (part.partition("\n") for part in parts)}


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
    from sqlalchemy import bindparam

    return column == bindparam("ids") if one else column.in_(bindparam("ids", expanding=True))


def is_one_of(column: ColumnElement[Any], values: Iterable[str]) -> ColumnElement[bool]:
    """For values that stand in the statement itself."""
    from sqlalchemy import false, or_

    return or_(false(), *(column == value for value in values))

"""Rows looked up one by one by their key, whatever PostgreSQL believes about their table at this moment."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from sqlalchemy import BindParameter, Column, ColumnElement, FromClause, Select, literal_column, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType

from dualcert.store.transaction import Transaction


class _Picked(FunctionElement[Any]):
    inherit_cache = True
    # Not Boolean: SQLAlchemy would write "... = 1" for SQLite, which then goes through the whole table.
    type = NullType()


@compiles(_Picked)
def _in(element: _Picked, compiler: Any, **options: Any) -> str:
    column, query = element.clauses
    return f"{compiler.process(column, **options)} IN {compiler.process(query, **options)}"


@compiles(_Picked, "postgresql")
def _any(element: _Picked, compiler: Any, **options: Any) -> str:
    column, query = element.clauses
    return f"{compiler.process(column, **options)} = ANY (ARRAY{compiler.process(query, **options)})"


def picked(column: Column[Any], query: Select[Any]) -> ColumnElement[bool]:
    """``column IN (query)``, for a few rows of a table that may be empty now and huge in a second.

    PostgreSQL makes a join of an IN. As long as it believes that the table is empty, it compares each row of it with
    each that was picked, and a backlog of a hundred thousand rows takes half a minute. An array is no join.
    """
    return _Picked(column, query.scalar_subquery())


def there_is(*conditions: ColumnElement[bool], beside: tuple[FromClause, ...]) -> ColumnElement[bool]:
    """EXISTS, asked for each row of the tables ``beside`` it.

    Of a table that it believes to be small, PostgreSQL answers an EXISTS by reading all of it once.
    """
    found: Select[Any] = select(literal_column("1")).where(*conditions).limit(1)
    return found.correlate(*beside).scalar_subquery().is_not(None)


class _Listed(FunctionElement[Any]):
    inherit_cache = True
    type = NullType()
    array = "SELECT unnest(CAST({} AS BIGINT[]))"


class _Named(_Listed):
    inherit_cache = True
    array = "SELECT json_array_elements_text(CAST({} AS JSON))"


@compiles(_Listed)
def _in_list(element: _Listed, compiler: Any, **options: Any) -> str:
    column, members = (compiler.process(one, **options) for one in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({members}))"  # noqa: S608 - two names


@compiles(_Listed, "postgresql")
def _any_of_list(element: _Listed, compiler: Any, **options: Any) -> str:
    column, members = (compiler.process(one, **options) for one in element.clauses)
    # Of an array whose length is known, the whole table may be compared with each element.
    return f"{column} = ANY (ARRAY({element.array.format(members)}))"


def listed(column: Column[Any], ids: BindParameter[str]) -> ColumnElement[bool]:
    """``column IN (ids)`` whose text is the same for any number of them; they are handed over as one value."""
    return _Listed(column, ids)


def named(column: Column[Any], names: BindParameter[str]) -> ColumnElement[bool]:
    """The same for texts, handed over as a list in JSON."""
    return _Named(column, names)


_id_of = attrgetter("id")


def ids_of(tx: Transaction, rows: Iterable[Any]) -> str:
    """The numbers of rows, as ``listed`` takes them."""
    return listing(tx, map(_id_of, rows))


def listing(tx: Transaction, ids: Iterable[int]) -> str:
    """Numbers, as ``listed`` takes them."""
    numbers = ",".join(map(str, ids))
    return f"[{numbers}]" if tx.dialect == "sqlite" else f"{{{numbers}}}"

"""The pairs of a plan by the domains that their names lie under, counted by the database itself."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Select, bindparam, case, func, literal, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from dualcert.model.incident import Action
from dualcert.store.incident_tables import plan_row
from dualcert.store.statements import prepared
from dualcert.store.tables import pair_name
from dualcert.store.transaction import Transaction


class _Place(GenericFunction[int]):
    """Where a text begins in another one, from 1 on; 0 where it does not."""

    name = "place"
    inherit_cache = True


@compiles(_Place, "sqlite")
def _in_sqlite(element: _Place, compiler: Any, **more: Any) -> str:
    return f"instr({compiler.process(element.clauses, **more)})"


@compiles(_Place, "postgresql")
def _in_postgresql(element: _Place, compiler: Any, **more: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **more)})"


def _first(labels: int) -> ColumnElement[str]:
    """So many labels of a reversed name; the whole of a shorter one."""
    whole = pair_name.c.reversed_name + "."
    end: ColumnElement[int] = _Place(whole, ".")
    for _ in range(labels - 1):
        end = end + _Place(func.substr(whole, end + 1), ".")
    return func.substr(whole, 1, end - 1)


def _number(action: Action) -> ColumnElement[int]:
    return func.count(case((plan_row.c.action == action.value, literal(1)))).label(action.value)


@prepared
def _by_domain(*, labels: int, under: bool) -> Select[Any]:
    domain = _first(labels).label("domain")
    query: Select[Any] = (
        select(domain)
        .add_columns(*(_number(action) for action in Action))
        .select_from(plan_row)
        .join(pair_name, pair_name.c.pair_id == plan_row.c.pair_id)
        .where(
            plan_row.c.incident_id == bindparam("of_incident"),
            plan_row.c.plan == bindparam("of_plan"),
            pair_name.c.position == 0,
        )
        .group_by(domain)
        .order_by(func.count().desc(), domain)
        .limit(bindparam("limit"))
    )
    above: BindParameter[Any] = bindparam("above", expanding=True)
    return query.where(_first(labels - 1).in_(above)) if under else query


def by_domain(
    tx: Transaction, incident_id: int, plan: int, labels: int, above: Collection[str] | None, limit: int
) -> list[tuple[str, dict[str, int]]]:
    """How many pairs of each action, by so many labels of their first names (``com.example``), where there are most
    first; at most ``limit`` domains. ``above``: only under these, which have one label less."""
    values: dict[str, Any] = {"of_incident": incident_id, "of_plan": plan, "limit": limit}
    under = {} if above is None else {"above": list(above)}
    rows = tx.execute(_by_domain(labels=labels, under=bool(under)), {**values, **under})
    return [
        (row.domain, {action.value: number for action in Action if (number := getattr(row, action.value))})
        for row in rows
    ]

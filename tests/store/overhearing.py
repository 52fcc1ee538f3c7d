"""The statements that a unit of work carries out, and how the database would go about each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from dualcert.store import Transaction


@contextmanager
def overheard(tx: Transaction) -> Iterator[list[str]]:
    """The statements that are run meanwhile, with their values in them."""
    said: list[str] = []
    driver: Any = tx.connection.connection.driver_connection
    if isinstance(driver, psycopg.Connection):
        before, driver.cursor_factory = driver.cursor_factory, _recording(said)
        yield said
        driver.cursor_factory = before
    else:
        driver.set_trace_callback(said.append)
        yield said
        driver.set_trace_callback(None)


def _recording(said: list[str]) -> type[psycopg.ClientCursor[Any]]:
    class Recording(psycopg.ClientCursor[Any]):
        def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
            said.append(self.mogrify(query, params))
            return super().execute(query, params, **options)

        def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
            rows = list(params_seq)
            said.extend(self.mogrify(query, params) for params in rows)
            super().executemany(query, rows, **options)

    return Recording


# --- plans of SQLite -------------------------------------------------------------------------------------

# A row for each target; what a claim is about to take; what the statement itself brings along.
_SMALL = {"SCAN lease", "SCAN due", "SCAN CONSTANT ROW", "SCAN json_each VIRTUAL TABLE INDEX 1:"}


def _lines(tx: Transaction, statement: str) -> list[str]:
    """What SQLite says that it would do, a line for each table."""
    driver: Any = tx.connection.connection.driver_connection
    return [str(row[-1]) for row in driver.execute(f"EXPLAIN QUERY PLAN {statement}")]


# --- plans of PostgreSQL ---------------------------------------------------------------------------------

_FEW = {"lease", "account"}
_WHOLE = {"Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Index Scan"}


def _nodes(tx: Transaction, statement: str, *, sorting: bool = True) -> list[dict[str, Any]]:
    """What PostgreSQL would do if a table were so large that going through it is out of the question."""
    driver: Any = tx.connection.connection.driver_connection
    for way in ("seqscan", "hashjoin", "mergejoin"):
        driver.execute(f"SET LOCAL enable_{way} = off")
    driver.execute(f"SET LOCAL enable_sort = {sorting}")
    [(plan,)] = driver.execute(f"EXPLAIN (FORMAT JSON) {statement}")
    found: list[dict[str, Any]] = []
    _walk(plan[0]["Plan"] if not isinstance(plan, str) else json.loads(plan)[0]["Plan"], found, limited=False)
    return found


def _walk(node: dict[str, Any], found: list[dict[str, Any]], *, limited: bool) -> None:
    kind = node["Node Type"]
    found.append({**node, "Limited": limited})
    # The first rows in the order of an index: as many are looked at as are wanted.
    limited = kind == "Limit" or (limited and kind in {"LockRows", "Result", "Nested Loop", "Subquery Scan"})
    for child in node.get("Plans", []):
        _walk(child, found, limited=limited and child.get("Parent Relationship") in {"Outer", "Subquery"})


# --- both ------------------------------------------------------------------------------------------------


def scans(tx: Transaction, statement: str) -> list[str]:
    """Where it would go through a table, or a whole index of it, from end to end."""
    if tx.connection.dialect.name == "sqlite":
        return [line for line in _lines(tx, statement) if line.startswith("SCAN") and line not in _SMALL]
    return [
        f"{node['Node Type']} {node.get('Relation Name') or node.get('Index Name')}"
        for node in _nodes(tx, statement)
        if node["Node Type"] in _WHOLE
        and node.get("Relation Name") not in _FEW
        and "Index Cond" not in node
        and not (node["Limited"] and node["Node Type"] != "Seq Scan")
    ]


def indexes(tx: Transaction, statement: str, *, sorting: bool = True) -> set[str]:
    """The indexes that it would use. ``sorting``: of few rows, as here, it may be quicker to put them in order."""
    if tx.connection.dialect.name == "sqlite":
        lines = _lines(tx, statement)
        return {
            line.split("INDEX ")[1].split()[0] for line in lines if "INDEX " in line and "AUTO" not in line
        }
    return {node["Index Name"] for node in _nodes(tx, statement, sorting=sorting) if "Index Name" in node}


def sorts(tx: Transaction, statement: str) -> bool:
    """Whether it would have to put rows in order that it has found."""
    if tx.connection.dialect.name == "sqlite":
        return any("TEMP B-TREE" in line for line in _lines(tx, statement))
    return any("Sort" in node["Node Type"] for node in _nodes(tx, statement, sorting=False))


def looked_up(tx: Transaction, statement: str, table: str) -> list[str]:
    """By what it would look for rows of a table, or of what a statement calls so, in the database's words."""
    if tx.connection.dialect.name == "sqlite":
        return [line for line in _lines(tx, statement) if table in line]
    return [str(node.get("Index Cond")) for node in _nodes(tx, statement) if node.get("Alias") == table]


def read_in_index(tx: Transaction, statement: str) -> set[str]:
    """The indexes of which PostgreSQL would read nothing but the index."""
    found = _nodes(tx, statement)
    return {node["Index Name"] for node in found if node["Node Type"] == "Index Only Scan"}

"""The same on SQLite: a mass promotion written by hand, which leaves the same rows.

SQLite changes one table at a time; what a batch is about stands in a temporary one meanwhile.
"""

from __future__ import annotations

import hashlib
import sqlite3
from itertools import islice
from pathlib import Path
from typing import Any

BATCH = 5_000
_OPEN = """
    INSERT INTO incident (title, cause, selector, ca, opened_at, opened_by, deadline, plan)
    VALUES ('bare', 'bare', 'serials', :ca, :at, 'bench', :at, 1)
"""
_NAME = (
    "DELETE FROM named",
    """
    INSERT INTO named SELECT c.id, c.pair_id FROM listed l CROSS JOIN certificate c ON c.serial = l.serial
    WHERE c.ca = :ca
    """,
    """
    INSERT INTO incident_member (certificate_id, incident_id, pair_id)
    SELECT certificate_id, :incident, pair_id FROM named WHERE true ORDER BY certificate_id ON CONFLICT DO NOTHING
    """,
    """
    UPDATE pair_state AS s SET backup_ok_until = NULL FROM named n
    WHERE s.pair_id = n.pair_id AND s.standby = n.certificate_id AND s.backup_ok_until IS NOT NULL
    """,
)
_BOUND = """
    SELECT max(id), count(*) FROM (
        SELECT certificate_id AS id FROM incident_member
        WHERE incident_id = :incident AND certificate_id > :after ORDER BY certificate_id LIMIT :limit)
"""
_GUARD = """
    s.backup_ok_until > :at AND b.not_after > :at
    AND (b.names_digest = p.names_digest OR EXISTS (
        SELECT 1 FROM coverage v WHERE v.certificate_id = b.id AND v.names_digest = p.names_digest))
    AND NOT EXISTS (SELECT 1 FROM revocation r WHERE r.certificate_id = b.id)
    AND NOT EXISTS (SELECT 1 FROM revocation_request r WHERE r.certificate_id = b.id)
    AND NOT EXISTS (SELECT 1 FROM blocked_key k WHERE k.spki = b.spki)
    AND NOT EXISTS (SELECT 1 FROM incident_member o JOIN incident i ON i.id = o.incident_id
                    WHERE o.certificate_id = b.id AND i.closed_at IS NULL)
    AND NOT EXISTS (SELECT 1 FROM ca_standing d WHERE d.ca = b.ca AND d.distrusted_at IS NOT NULL
                    AND (d.distrust_after IS NULL OR b.not_before > d.distrust_after))
"""
_PLAN = f"""
    INSERT INTO plan_row (incident_id, plan, pair_id, epoch, serving, standby, action)
    SELECT :incident, 1, s.pair_id, s.epoch, s.serving, s.standby,
           CASE WHEN s.serving <> m.certificate_id THEN 'refill' WHEN {_GUARD} THEN 'promote' ELSE 'order' END
    FROM incident_member m CROSS JOIN pair_state s ON s.pair_id = m.pair_id
    CROSS JOIN pair p ON p.id = s.pair_id CROSS JOIN certificate b ON b.id = s.standby
    WHERE m.incident_id = :incident AND m.certificate_id > :after AND m.certificate_id <= :up_to
      AND m.certificate_id IN (s.serving, s.standby)
    ON CONFLICT DO NOTHING
"""
_PLANNED = (
    "SELECT pair_id, epoch, serving, standby, action FROM plan_row WHERE incident_id = ? ORDER BY pair_id"
)
_ROWS = """
    SELECT max(id), count(*) FROM (
        SELECT pair_id AS id FROM plan_row
        WHERE incident_id = :incident AND plan = 1 AND pair_id > :after AND action = 'promote'
        ORDER BY pair_id LIMIT :limit)
"""
_TURN = (
    "DELETE FROM found",
    f"""
    INSERT INTO found (pair_id, serving, standby, ca)
    SELECT s.pair_id, s.serving, s.standby, b.ca FROM plan_row r CROSS JOIN pair_state s ON s.pair_id = r.pair_id
        AND s.epoch = r.epoch AND s.serving = r.serving AND s.standby = r.standby
    CROSS JOIN pair p ON p.id = s.pair_id CROSS JOIN certificate b ON b.id = s.standby
    WHERE r.incident_id = :incident AND r.plan = 1 AND r.pair_id > :after AND r.pair_id <= :up_to
      AND r.action = 'promote' AND r.state = 'planned' AND {_GUARD}
    """,
    """
    UPDATE pair_state AS s SET epoch = s.epoch + 1, serving = s.standby, standby = s.serving,
        primary_lineage = s.backup_lineage, backup_lineage = s.primary_lineage, backup_ok_until = NULL
    FROM found f WHERE s.pair_id = f.pair_id
    """,
    """
    UPDATE plan_row SET state = 'promoted', at = :at
    WHERE incident_id = :incident AND plan = 1 AND pair_id IN (SELECT pair_id FROM found)
    """,
    """
    INSERT INTO event (at, kind, actor, cause, pair_id, ca, certificate_id, previous_id)
    SELECT :at, 'promoted', 'bench', 'incident: bare', pair_id, ca, standby, serving FROM found ORDER BY pair_id
    """,
    """
    INSERT INTO work (kind, pair_id, target, due_at)
    SELECT 'deployment', f.pair_id, t.target, :at FROM found f CROSS JOIN pair_target t ON t.pair_id = f.pair_id
    WHERE true ORDER BY f.pair_id
    ON CONFLICT (pair_id, kind, ca, target) DO UPDATE SET due_at = excluded.due_at, waiting_for = NULL
    """,
    """
    INSERT INTO work (kind, pair_id, ca, reason, waiting_for)
    SELECT 'refill', pair_id, :ca, 'held for bare', 'incident' FROM found WHERE true ORDER BY pair_id
    ON CONFLICT DO NOTHING
    """,
)


class BareOnSqlite:
    """One incident on a connection of its own. Every batch is a transaction."""

    def __init__(self, driver: sqlite3.Connection, ca: str, at: int) -> None:
        self._driver = driver
        self._values: dict[str, Any] = {"ca": ca, "at": at}

    def run(self, serials: Path) -> int:
        """How many pairs were promoted."""
        known = sorted({bytes.fromhex(line) for line in serials.read_text().split()})
        self._driver.execute("CREATE TEMPORARY TABLE listed (serial BLOB)")
        self._driver.execute("CREATE TEMPORARY TABLE named (certificate_id INTEGER, pair_id INTEGER)")
        self._driver.execute(
            "CREATE TEMPORARY TABLE found (pair_id INTEGER PRIMARY KEY, serving, standby, ca)"
        )
        self._values["incident"] = self._driver.execute(_OPEN, self._values).lastrowid
        rest = iter(known)
        while some := tuple(islice(rest, BATCH)):
            self._name(some)
        self._each(_BOUND, (_PLAN,))
        total = hashlib.sha256()
        for row in self._driver.execute(_PLANNED, [self._values["incident"]]):
            total.update(repr(row).encode())
        return self._each(_ROWS, _TURN)

    def _name(self, serials: tuple[bytes, ...]) -> None:
        self._driver.execute("BEGIN IMMEDIATE")
        self._driver.execute("DELETE FROM listed")
        self._driver.executemany("INSERT INTO listed VALUES (?)", ((one,) for one in serials))
        for statement in _NAME:
            self._driver.execute(statement, self._values)
        self._driver.execute("COMMIT")

    def _each(self, bound: str, statements: tuple[str, ...]) -> int:
        """How many rows the last statement has changed."""
        after = total = 0
        while True:
            values = {**self._values, "after": after, "limit": BATCH}
            up_to, many = self._driver.execute(bound, values).fetchone()
            if not many:
                return total
            self._driver.execute("BEGIN IMMEDIATE")
            found = [self._driver.execute(one, {**values, "up_to": up_to}).rowcount for one in statements]
            self._driver.execute("COMMIT")
            total, after = total + found[-1], up_to

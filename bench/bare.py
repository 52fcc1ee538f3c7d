"""What a mass promotion costs where it is written by hand: SQL that leaves the same rows.

``python -m bench.bare --config FILE --serials FILE`` names, plans and promotes, in batches, with the same guards as the
product, on one connection, and where nobody else has written any of its rows. ``--unplanned`` (on PostgreSQL) keeps no
plan: every row is promoted as it is found. Nothing of the product's SQL is used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.bare_sqlite import BareOnSqlite
from dualcert import bootstrap
from dualcert.clock import SystemClock, to_microseconds

BATCH = 10_000
CA = "alpha"
_LOOKED_UP = (
    "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL seq_page_cost = 100"
)

_OPEN = """
    INSERT INTO incident (title, cause, selector, ca, opened_at, opened_by, deadline, plan)
    VALUES ('bare', 'bare', 'serials', %(ca)s, %(at)s, 'bench', %(at)s, 1) RETURNING id
"""
_NAME = """
    WITH named AS (
        INSERT INTO incident_member (certificate_id, incident_id, pair_id)
        SELECT c.id, %(incident)s, c.pair_id FROM listed l JOIN certificate c ON c.serial = l.serial
        WHERE l.no > %(after)s AND l.no <= %(up_to)s AND c.ca = %(ca)s ORDER BY c.id
        RETURNING certificate_id, pair_id
    )
    UPDATE pair_state s SET backup_ok_until = NULL FROM named n
    WHERE s.pair_id = n.pair_id AND s.standby = n.certificate_id AND s.backup_ok_until IS NOT NULL
"""
_BOUND = """
    SELECT max(id), count(*) FROM (
        SELECT certificate_id AS id FROM incident_member
        WHERE incident_id = %(incident)s AND certificate_id > %(after)s ORDER BY certificate_id LIMIT %(limit)s
    ) AS lot
"""
_GUARD = """
    s.backup_ok_until > %(at)s AND b.not_after > %(at)s
    AND (b.names_digest = p.names_digest OR EXISTS (
        SELECT FROM coverage v WHERE v.certificate_id = b.id AND v.names_digest = p.names_digest))
    AND NOT EXISTS (SELECT FROM revocation r WHERE r.certificate_id = b.id)
    AND NOT EXISTS (SELECT FROM revocation_request r WHERE r.certificate_id = b.id)
    AND NOT EXISTS (SELECT FROM blocked_key k WHERE k.spki = b.spki)
    AND NOT EXISTS (SELECT FROM incident_member o JOIN incident i ON i.id = o.incident_id
                    WHERE o.certificate_id = b.id AND i.closed_at IS NULL)
    AND NOT EXISTS (SELECT FROM ca_standing d WHERE d.ca = b.ca AND d.distrusted_at IS NOT NULL
                    AND (d.distrust_after IS NULL OR b.not_before > d.distrust_after))
"""
_PLAN = f"""
    INSERT INTO plan_row (incident_id, plan, pair_id, epoch, serving, standby, action)
    SELECT %(incident)s, 1, s.pair_id, s.epoch, s.serving, s.standby,
           CASE WHEN s.serving <> m.certificate_id THEN 'refill' WHEN {_GUARD} THEN 'promote' ELSE 'order' END
    FROM incident_member m JOIN pair_state s ON s.pair_id = m.pair_id
    JOIN pair p ON p.id = s.pair_id JOIN certificate b ON b.id = s.standby
    WHERE m.incident_id = %(incident)s AND m.certificate_id > %(after)s AND m.certificate_id <= %(up_to)s
      AND m.certificate_id IN (s.serving, s.standby)
"""
_PLANNED = (
    "SELECT pair_id, epoch, serving, standby, action FROM plan_row WHERE incident_id = %s ORDER BY pair_id"
)
_ROWS = """
    SELECT max(id), count(*) FROM (
        SELECT pair_id AS id FROM plan_row
        WHERE incident_id = %(incident)s AND plan = 1 AND pair_id > %(after)s AND action = 'promote'
        ORDER BY pair_id LIMIT %(limit)s
    ) AS lot
"""
_FOUND_BY_PLAN = """
    plan_row r JOIN pair_state s ON s.pair_id = r.pair_id
        AND s.epoch = r.epoch AND s.serving = r.serving AND s.standby = r.standby
    JOIN pair p ON p.id = s.pair_id JOIN certificate b ON b.id = s.standby
    WHERE r.incident_id = %(incident)s AND r.plan = 1 AND r.pair_id > %(after)s AND r.pair_id <= %(up_to)s
      AND r.action = 'promote' AND r.state = 'planned'
"""
_FOUND_BY_MEMBER = """
    incident_member m JOIN pair_state s ON s.pair_id = m.pair_id AND s.serving = m.certificate_id
    JOIN pair p ON p.id = s.pair_id JOIN certificate b ON b.id = s.standby
    WHERE m.incident_id = %(incident)s AND m.certificate_id > %(after)s AND m.certificate_id <= %(up_to)s
"""
_TURN = """
    WITH found AS MATERIALIZED (
        SELECT s.pair_id, s.serving, s.standby, b.ca{row} FROM {found} AND {guard}
        ORDER BY s.pair_id FOR UPDATE OF s
    ), turned AS (
        UPDATE pair_state s SET epoch = s.epoch + 1, serving = s.standby, standby = s.serving,
            primary_lineage = s.backup_lineage, backup_lineage = s.primary_lineage, backup_ok_until = NULL
        FROM found f WHERE s.pair_id = f.pair_id
    ), told AS (
        INSERT INTO event (at, kind, actor, cause, pair_id, ca, certificate_id, previous_id)
        SELECT %(at)s, 'promoted', 'bench', 'incident: bare', pair_id, ca, standby, serving
        FROM found ORDER BY pair_id
    ), deployed AS (
        INSERT INTO work (kind, pair_id, target, due_at)
        SELECT 'deployment', f.pair_id, t.target, %(at)s FROM found f JOIN pair_target t ON t.pair_id = f.pair_id
        ORDER BY f.pair_id
    ), refilled AS (
        INSERT INTO work (kind, pair_id, ca, reason, waiting_for)
        SELECT 'refill', pair_id, %(ca)s, 'held for bare', 'incident' FROM found ORDER BY pair_id
    ){mark}
    SELECT count(*) FROM found
"""
_MARK = """, marked AS (
        UPDATE plan_row r SET state = 'promoted', at = %(at)s FROM found f
        WHERE r.ctid = f.row
    )"""


class Bare:
    """One incident on a connection of its own. Every batch is a transaction."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._values: dict[str, Any] = {"ca": CA, "at": to_microseconds(SystemClock().now())}

    def run(self, serials: Path, *, planned: bool) -> int:
        """How many pairs were promoted."""
        self._name(serials)
        if not planned:
            return self._turn(_BOUND, _FOUND_BY_MEMBER, "")
        self._each(_BOUND, _PLAN)
        self._hash()
        return self._turn(_ROWS, _FOUND_BY_PLAN, _MARK)

    def _name(self, serials: Path) -> None:
        known = sorted({bytes.fromhex(line) for line in serials.read_text().split()})
        self._driver.execute("CREATE TEMPORARY TABLE listed (no bigint, serial bytea)")
        listed = "COPY listed FROM STDIN (FORMAT BINARY)"
        with self._driver.transaction(), self._driver.cursor() as cursor, cursor.copy(listed) as copy:
            copy.set_types(["int8", "bytea"])
            for row in enumerate(known, 1):
                copy.write_row(row)
        self._driver.execute("CREATE INDEX ON listed (no)")
        self._driver.execute("ANALYZE listed")
        self._values["incident"] = self._driver.execute(_OPEN, self._values).fetchone()[0]
        for after in range(0, len(known), BATCH):
            self._batch(_NAME, after, after + BATCH)

    def _each(self, bound: str, statement: str) -> int:
        after = total = 0
        while True:
            values = {**self._values, "after": after, "limit": BATCH}
            up_to, many = self._driver.execute(bound, values).fetchone()
            if not many:
                return total
            total += self._batch(statement, after, up_to)
            after = up_to

    def _batch(self, statement: str, after: int, up_to: int) -> int:
        with self._driver.transaction():
            self._driver.execute(_LOOKED_UP)
            cursor = self._driver.execute(statement, {**self._values, "after": after, "up_to": up_to})
            row = cursor.fetchone() if cursor.description is not None else None
        return row[0] if row else 0

    def _hash(self) -> None:
        total = hashlib.sha256()
        with self._driver.transaction(), self._driver.cursor("planned") as cursor:
            cursor.itersize = BATCH
            cursor.execute(_PLANNED, [self._values["incident"]])
            for row in cursor:
                total.update(repr(row).encode())
        self._driver.execute(
            "UPDATE incident SET plan_hash = %s WHERE id = %s", [total.digest(), self._values["incident"]]
        )

    def _turn(self, bound: str, found: str, mark: str) -> int:
        row = ", r.ctid AS row" if mark else ""
        return self._each(bound, _TURN.format(found=found, guard=_GUARD, mark=mark, row=row))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.bare", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--serials", type=Path, required=True)
    parser.add_argument("--unplanned", action="store_true")
    chosen = parser.parse_args()
    with (
        closing(bootstrap.build(bootstrap.load_settings(chosen.config))) as application,
        closing(application.world.store.engine.connect()) as connection,
    ):
        driver: Any = connection.connection.driver_connection
        began = time.perf_counter()
        if application.world.store.dialect == "sqlite":
            promoted = BareOnSqlite(driver, CA, to_microseconds(SystemClock().now())).run(chosen.serials)
        else:
            promoted = Bare(driver).run(chosen.serials, planned=not chosen.unplanned)
        took = time.perf_counter() - began
    print(json.dumps({"seconds": took, "promoted": promoted}))


if __name__ == "__main__":
    main()

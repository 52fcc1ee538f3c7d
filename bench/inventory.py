"""A large inventory, written straight into the tables: no CA would issue it in time."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Table, insert

from dualcert.bootstrap import Application
from dualcert.clock import to_microseconds
from dualcert.model import names as naming
from dualcert.store import Transaction, tables

_DAYS = 60


def fill(application: Application, pairs: int) -> None:
    """So many whole pairs: two names, two certificates, both seen at the one target."""
    world = application.world
    serial = [0]
    rows: dict[Table, list[dict[str, Any]]] = {
        table: []
        for table in (
            tables.pair,
            tables.pair_name,
            tables.pair_target,
            tables.lineage,
            tables.certificate,
            tables.pair_state,
            tables.observation,
        )
    }
    with world.store.write() as tx:
        for number in range(1, pairs + 1):
            _pair(rows, number, tx.now, serial)
        _insert(tx, rows)


def _insert(tx: Transaction, rows: dict[Table, list[dict[str, Any]]]) -> None:
    for table, content in rows.items():
        tx.execute(insert(table), content)


def _pair(rows: dict[Table, list[dict[str, Any]]], number: int, now: datetime, serial: list[int]) -> None:
    at, until = to_microseconds(now), to_microseconds(now + timedelta(days=_DAYS))
    name = f"pair-{number:06}.example.test"
    names = (name, f"*.{name}")
    digest = naming.digest(names)
    rows[tables.pair].append(
        {
            "id": number,
            "name": name,
            "names_digest": digest,
            "key_type": "ec-p256",
            "dns": "lab",
            "first_wait": 600,
            "created_at": at,
        }
    )
    rows[tables.pair_name] += [
        {"pair_id": number, "position": position, "reversed_name": naming.reversed_name(one)}
        for position, one in enumerate(names)
    ]
    rows[tables.pair_target].append({"pair_id": number, "target": "web"})
    held = []
    for side, ca in enumerate(("alpha", "beta")):
        serial[0] += 1
        lineage = 2 * number - 1 + side
        certificate = _certificate(serial[0], number, lineage, ca, digest, at, until)
        held.append(certificate)
        rows[tables.certificate].append(certificate)
        rows[tables.lineage].append(
            {
                "id": lineage,
                "pair_id": number,
                "ca": ca,
                "domain": ("primary", "backup")[side],
                "opened_at": at,
                "retired_at": None,
                "renew_at": at + (until - at) * 2 // 3,
            }
        )
    rows[tables.pair_state].append(
        {
            "pair_id": number,
            "epoch": 0,
            "serving": held[0]["id"],
            "standby": held[1]["id"],
            "primary_lineage": 2 * number - 1,
            "backup_lineage": 2 * number,
            "backup_ok_until": until,
            "next_action_at": at + (until - at) * 2 // 3,
        }
    )
    rows[tables.observation].append(
        {
            "pair_id": number,
            "target": "web",
            "sha256": held[0]["sha256"],
            "how": "wire",
            "at": at,
            "problem": None,
        }
    )


def _certificate(
    number: int, pair: int, lineage: int, ca: str, digest: bytes, at: int, until: int
) -> dict[str, Any]:
    def made_up(what: str) -> bytes:
        return hashlib.sha256(f"{what} {number}".encode()).digest()

    return {
        "id": number,
        "pair_id": pair,
        "lineage_id": lineage,
        "ca": ca,
        "serial": made_up("serial")[:16],
        "issuer": f"CN={ca}",
        "issuer_hash": hashlib.sha256(ca.encode()).digest(),
        "issuing_key": hashlib.sha256(f"key of {ca}".encode()).digest(),
        "root_key": hashlib.sha256(f"root of {ca}".encode()).digest(),
        "sha256": made_up("certificate"),
        "spki": made_up("key"),
        "names_digest": digest,
        "key_type": "ec-p256",
        "not_before": at,
        "not_after": until,
        "chain_hash": hashlib.sha256(f"chain of {ca}".encode()).digest(),
        "stored_at": at,
        "flaw": None,
    }

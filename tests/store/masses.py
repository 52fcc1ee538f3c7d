"""Whole pairs by the thousand, written straight into the tables; for statements that are about many at once."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

from sqlalchemy import Table, insert

from dualcert.lifecycle.incidents import open_incident
from dualcert.lifecycle.incidents.opening import Entry, Selection
from dualcert.lifecycle.world import World
from dualcert.model import names as naming
from dualcert.model.incident import Incident
from dualcert.store import Transaction, tables
from dualcert.store.columns import micros
from tests.store.building import BACKUP, PRIMARY

ISSUER = {ca: hashlib.sha256(ca.encode()).digest() for ca in (PRIMARY, BACKUP)}


def serial(number: int) -> bytes:
    """Of a certificate's number; the first byte is no zero."""
    return b"\x77" + hashlib.sha256(b"serial %d" % number).digest()[:15]


def fill(tx: Transaction, pairs: int, *, first: int = 1) -> None:
    """Pairs numbered from ``first`` on; pair n has the certificates 2n - 1, which serves, and 2n."""
    rows: dict[Table, list[dict[str, Any]]] = {}
    for number in range(first, first + pairs):
        for table, row in _pair(tx, number):
            rows.setdefault(table, []).append(row)
    for table, content in rows.items():
        tx.execute(insert(table), content)


def _pair(tx: Transaction, number: int) -> list[tuple[Table, dict[str, Any]]]:
    name = f"pair-{number:06}.example.test"
    primary, backup = 2 * number - 1, 2 * number
    digest = naming.digest([name])
    made = {"key_type": "ec-p256", "dns": "zone", "first_wait": 600, "created_at": tx.at}
    roles = {"serving": primary, "standby": backup, "primary_lineage": primary, "backup_lineage": backup}
    clocks = {
        "backup_ok_until": micros(tx.now + timedelta(days=20)),
        "next_action_at": micros(tx.now + timedelta(days=40)),
    }
    reversed_name = naming.reversed_name(name)
    found: list[tuple[Table, dict[str, Any]]] = [
        (tables.pair, {"id": number, "name": name, "names_digest": digest, **made}),
        (tables.pair_name, {"pair_id": number, "position": 0, "reversed_name": reversed_name}),
        (tables.pair_target, {"pair_id": number, "target": "web"}),
        (tables.pair_state, {"pair_id": number, "epoch": 0, **roles, **clocks}),
    ]
    for certificate, ca, domain in ((primary, PRIMARY, "one"), (backup, BACKUP, "two")):
        found += _side(tx, number, certificate, ca, domain, digest)
    return found


def _side(
    tx: Transaction, pair: int, number: int, ca: str, domain: str, digest: bytes
) -> list[tuple[Table, dict[str, Any]]]:
    def hashed(what: str) -> bytes:
        return hashlib.sha256(f"{what} {number}".encode()).digest()

    lineage = {"id": number, "pair_id": pair, "ca": ca, "domain": domain, "opened_at": tx.at}
    times = {
        "not_before": micros(tx.now - timedelta(days=1)),
        "not_after": micros(tx.now + timedelta(days=59)),
        "stored_at": tx.at,
    }
    certificate = {
        "id": number,
        "pair_id": pair,
        "lineage_id": number,
        "ca": ca,
        "serial": serial(number),
        "issuer": f"CN={ca}",
        "issuer_hash": ISSUER[ca],
        "issuing_key": ISSUER[ca],
        "sha256": hashed("certificate"),
        "spki": hashed("key"),
        "names_digest": digest,
        "key_type": "ec-p256",
        "chain_hash": ISSUER[ca],
        **times,
    }
    key = {
        "spki": hashed("key"),
        "domain": domain,
        "key_id": "kek",
        "wrapped": b"wrapped",
        "proved_at": tx.at,
    }
    return [(tables.lineage, lineage), (tables.certificate, certificate), (tables.wrapped_key, key)]


def an_incident(world: World, first: int, last: int, ca: str = PRIMARY) -> Incident:
    """An open one that names what one CA has issued for these pairs."""
    offset = 1 if ca == PRIMARY else 0
    entries = [Entry(n, serial=serial(2 * n - offset)) for n in range(first, last + 1)]
    deadline = world.clock.now() + timedelta(hours=24)
    return open_incident(world, "a test", "a test", deadline, ca, Selection("serials", entries, ca=ca))
